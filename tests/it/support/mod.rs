//! What every test needs: stores of its own, the service as a process of its own, and a look at what came out.

mod browser;
mod cable;
mod cognigy;
mod document;
mod genesys;
mod metrics;
mod port;
mod postgres;
mod process;
mod proxy;
mod redis;
mod reply;
mod service;
mod signature;
mod upstream;
mod wait;
mod watchdog;
mod webhooks;

pub(crate) use browser::Browser;
pub(crate) use cable::{Cable, Stop};
pub(crate) use cognigy::{COGNIGY_PASSWORD, COGNIGY_USER, Cognigy, Push, jwt};
pub(crate) use document::{document, validator};
pub(crate) use genesys::{ACTION, EXECUTE, GENESYS_ID, GENESYS_SECRET, Genesys, Scene};
pub(crate) use metrics::Metrics;
pub(crate) use port::free_port;
pub(crate) use postgres::{Cluster, Database, binaries, connect};
pub(crate) use process::{Outcome, Process, Tool, search_path};
pub(crate) use proxy::Proxy;
pub(crate) use redis::Redis;
pub(crate) use reply::Reply;
pub(crate) use service::{Service, Setup, client, ids_of, request, send, tally};
pub(crate) use signature::{SECRET, hmac, sign, sign_with};
pub(crate) use upstream::{Answer, Runs, Upstream};
pub(crate) use wait::{PATIENCE, wait_until};
pub(crate) use watchdog::{scratch_dir, scratch_file, watch};
pub(crate) use webhooks::{KEY_HEADER, ROUTE_SECRET, Route, settings_file, standard_signature, unix_now};
