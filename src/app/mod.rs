//! Use cases: what the service does, without HTTP, SQL or Redis.

mod admission;
pub mod cache;
pub mod execute;
pub mod lookup;
pub mod once;
pub mod ports;
pub mod reach;
