//! A service between contact-centre platforms and a company's own data.
//!
//! Reading order: [`domain`] (values), [`app`] (use cases and their ports), [`adapters`] (Postgres, Redis, memory), [`http`]
//! (all that knows a status code), [`server`] (puts them together), [`cli`] (commands). [`config`], [`metrics`] and
//! [`telemetry`] serve them all.

pub mod adapters;
pub mod app;
pub mod cli;
pub mod config;
pub mod domain;
pub mod http;
pub mod metrics;
pub mod server;
pub mod telemetry;
