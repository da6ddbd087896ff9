//! A port to listen on.

use std::net::TcpListener;

/// One that the system hands out. Another process may snatch it before it is used: then try another one.
pub(crate) fn free_port() -> u16 {
    TcpListener::bind("127.0.0.1:0").and_then(|free| free.local_addr()).expect("a free port").port()
}
