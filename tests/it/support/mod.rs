//! What every test needs: stores of its own, the service as a process of its own, and a look at what came out.

mod metrics;
mod port;
mod postgres;
mod process;
mod proxy;
mod redis;
mod reply;
mod service;
mod signature;
mod wait;
mod watchdog;

pub(crate) use metrics::Metrics;
pub(crate) use port::free_port;
pub(crate) use postgres::{Cluster, Database, binaries, connect};
pub(crate) use process::{Outcome, Process, Tool, search_path};
pub(crate) use proxy::Proxy;
pub(crate) use redis::Redis;
pub(crate) use reply::Reply;
pub(crate) use service::{Service, Setup, ids_of, request, send, tally};
pub(crate) use signature::{SECRET, hmac, sign, sign_with};
pub(crate) use wait::{PATIENCE, wait_until};
pub(crate) use watchdog::{scratch_dir, scratch_file, watch};
