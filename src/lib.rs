//! A service between contact-centre platforms and a company's own data.
//!
//! Reading order: [`domain`] (values), [`app`] (use cases and their ports), [`adapters`] (Postgres, Redis, memory, Genesys,
//! Cognigy), [`http`] (all that knows a status code), [`server`] (puts them together), [`cli`] (commands). [`config`],
//! [`metrics`] and [`telemetry`] serve them all.
//!
//! What always holds:
//! - Nothing of a body is read before its signature is right; a handler that names `Signed<T>` cannot be mounted unsigned.
//! - No lookup is answered before its audit row is committed, and none that fails before its commit leaves one.
//! - A customer is found by tenant and id together, in every store and in every cache.
//! - Redis is never needed for an answer to a lookup, and every wait has a bound.
//! - Work behind a webhook begins only once its key is claimed, and no kept answer is ever changed.
//! - A call that cannot be taken back leaves only once it is on record, and is not made again where its outcome is unknown.
//! - No caller and no log line gets a library's message that could quote data or secrets.

pub mod adapters;
pub mod app;
pub mod cli;
pub mod config;
pub mod domain;
pub mod http;
pub mod metrics;
pub mod server;
pub mod telemetry;
