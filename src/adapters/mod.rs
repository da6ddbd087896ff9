//! The ports in terms of real things: Postgres, Redis, this process's memory.

pub mod forward;
pub mod guard;
pub mod memory;
pub mod postgres;
pub mod redis;
mod tls;
