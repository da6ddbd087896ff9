//! The ports in terms of real things: Postgres, Redis, this process's memory, other services over HTTP.

pub mod cognigy;
pub mod forward;
pub mod genesys;
pub mod guard;
pub mod memory;
pub mod outbound;
pub mod postgres;
pub mod redis;
mod retry;
mod tls;
mod token;
mod window;
