//! A cable to Redis that can be cut: then connections are still made, but no cache read or write gets an answer.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU16, AtomicUsize, Ordering};

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::tcp::{OwnedReadHalf, OwnedWriteHalf};
use tokio::net::{TcpListener, TcpStream};

/// Listens on a port of its own until its runtime ends.
#[derive(Debug)]
pub(crate) struct Proxy {
    pub(crate) port: u16,
    state: Arc<State>,
}

#[derive(Debug, Default)]
struct State {
    server: AtomicU16,
    hung: AtomicBool,
    reads: AtomicUsize,
}

impl Proxy {
    /// In front of a Redis server on this port.
    pub(crate) async fn before(server: u16) -> Self {
        let listener = TcpListener::bind(("127.0.0.1", 0)).await.expect("a free port");
        let port = listener.local_addr().expect("an address").port();
        let state = Arc::new(State { server: AtomicU16::new(server), ..State::default() });
        tokio::spawn(accept(listener, Arc::clone(&state)));
        Self { port, state }
    }

    /// Leads new connections to another server, as a name does that has moved. Those that are there stay where they are.
    pub(crate) fn redirect(&self, server: u16) {
        self.state.server.store(server, Ordering::SeqCst);
    }

    pub(crate) fn url(&self) -> String {
        format!("redis://127.0.0.1:{}", self.port)
    }

    /// Swallows cache commands from now on, or forwards them again.
    pub(crate) fn hang(&self, hung: bool) {
        self.state.hung.store(hung, Ordering::SeqCst);
    }

    /// How many cache reads came by since the last time this was asked.
    pub(crate) fn reads_since(&self) -> usize {
        self.state.reads.swap(0, Ordering::SeqCst)
    }
}

async fn accept(listener: TcpListener, state: Arc<State>) {
    while let Ok((client, _)) = listener.accept().await {
        let server = state.server.load(Ordering::SeqCst);
        let Ok(upstream) = TcpStream::connect(("127.0.0.1", server)).await else { continue };
        let (from_client, to_client) = client.into_split();
        let (from_server, to_server) = upstream.into_split();
        tokio::spawn(pump(from_client, to_server, Arc::clone(&state)));
        tokio::spawn(pump(from_server, to_client, Arc::clone(&state)));
    }
}

async fn pump(mut from: OwnedReadHalf, mut to: OwnedWriteHalf, state: Arc<State>) {
    let mut buffer = vec![0; 64 * 1024];
    while let Ok(len @ 1..) = from.read(&mut buffer).await {
        let has = |command: &[u8]| buffer[..len].windows(command.len()).filter(|word| word.eq_ignore_ascii_case(command)).count();
        state.reads.fetch_add(has(b"MGET"), Ordering::SeqCst);
        let swallowed = has(b"cxda:") > 0 && state.hung.load(Ordering::SeqCst);
        if !swallowed && to.write_all(&buffer[..len]).await.is_err() {
            break;
        }
    }
}
