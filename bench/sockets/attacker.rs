//! Sockets that ask for nothing, too slowly, or for more than they take.

use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpSocket, TcpStream};
use tokio::task::JoinSet;
use tokio::time::{sleep, timeout};

use crate::attacks::route::lookup;
use crate::attacks::target::Target;
use crate::client::BATCH;
use crate::support::wait_until;

/// A socket that is not connected by then does not count.
const CONNECT_PATIENCE: Duration = Duration::from_secs(5);
/// Sockets opened before a short rest, so that the service's queue of new connections does not overflow by our haste alone.
const AT_ONCE: usize = 100;
/// Of the sockets that take no answers: the kernel shall not take them instead.
const BUFFER: u32 = 4 << 10;
const GET: &[u8] = b"GET /x HTTP/1.1\r\nHost: bench\r\n\r\n";

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    /// Sends nothing.
    Silent,
    /// A head, one byte a second.
    SlowHead,
    /// A body, one byte each half second.
    SlowBody,
    /// Requests as long as the socket takes them, whose answers are not read.
    Stalled,
    /// The same with signed lookups.
    StalledLookups,
    /// One request, answered; then nothing.
    Kept,
}

impl Kind {
    pub(super) const ALL: [Self; 6] = [Self::Silent, Self::SlowHead, Self::SlowBody, Self::Stalled, Self::StalledLookups, Self::Kept];

    pub(super) fn name(self) -> &'static str {
        match self {
            Self::Silent => "silent",
            Self::SlowHead => "slow-head",
            Self::SlowBody => "slow-body",
            Self::Stalled => "stalled",
            Self::StalledLookups => "stalled-lookups",
            Self::Kept => "kept",
        }
    }
}

/// Open sockets of one kind; dropped, they are closed.
pub(super) struct Sockets {
    _tasks: JoinSet<()>,
    connected: usize,
    /// Bytes written by all of them.
    written: Arc<AtomicUsize>,
}

impl Sockets {
    /// Opens so many, and returns once each is connected or given up.
    pub(super) async fn open(kind: Kind, service: &Target, n: usize) -> Self {
        let address: std::net::SocketAddr = service.url.trim_start_matches("http://").parse().expect("an address");
        let request = Arc::new(request(kind));
        let (done, connected, written) = (Arc::new(AtomicUsize::new(0)), Arc::new(AtomicUsize::new(0)), Arc::default());
        let mut tasks = JoinSet::new();
        for nth in 0..n {
            let (request, done, connected, written) =
                (Arc::clone(&request), Arc::clone(&done), Arc::clone(&connected), Arc::clone(&written));
            tasks.spawn(async move {
                let stream = timeout(CONNECT_PATIENCE, connect(kind, address)).await;
                done.fetch_add(1, Ordering::Relaxed);
                if let Ok(Ok(mut stream)) = stream {
                    connected.fetch_add(1, Ordering::Relaxed);
                    // The service may end it at any time.
                    let _ended = hold(kind, &mut stream, &request, &written).await;
                }
            });
            if nth % AT_ONCE == AT_ONCE - 1 {
                sleep(Duration::from_millis(5)).await;
            }
        }
        while done.load(Ordering::Relaxed) < n {
            sleep(Duration::from_millis(20)).await;
        }
        Self { _tasks: tasks, connected: connected.load(Ordering::Relaxed), written }
    }

    pub(super) fn connected(&self) -> usize {
        self.connected
    }

    /// Waits until no socket takes any more.
    pub(super) async fn stalled(&self) {
        let mut before = 0;
        wait_until("no socket takes more requests", async || {
            sleep(Duration::from_millis(500)).await;
            let now = self.written.load(Ordering::Relaxed);
            let stalled = now > 0 && now == before;
            before = now;
            stalled.then_some(())
        })
        .await;
    }
}

fn request(kind: Kind) -> Vec<u8> {
    match kind {
        Kind::Silent => Vec::new(),
        Kind::Kept => GET.to_vec(),
        Kind::Stalled => GET.repeat(32),
        Kind::StalledLookups => lookup("acme42", 1..=i32::try_from(BATCH).unwrap_or(1)),
        Kind::SlowHead => {
            let mut head = b"GET /x HTTP/1.1\r\nHost: bench\r\nX-Slow: ".to_vec();
            head.resize(1 << 10, b'a');
            head
        }
        Kind::SlowBody => {
            let mut request = lookup("acme42", 1..=50);
            // What is left comes byte by byte for longer than any round.
            let head = request.windows(4).position(|window| window == b"\r\n\r\n").expect("a head") + 4;
            request.rotate_left(head);
            request
        }
    }
}

async fn connect(kind: Kind, address: std::net::SocketAddr) -> io::Result<TcpStream> {
    let socket = TcpSocket::new_v4()?;
    if matches!(kind, Kind::Stalled | Kind::StalledLookups) {
        socket.set_recv_buffer_size(BUFFER)?;
        socket.set_send_buffer_size(BUFFER)?;
    }
    let stream = socket.connect(address).await?;
    stream.set_nodelay(true)?;
    Ok(stream)
}

/// Returns once the service has ended the connection.
async fn hold(kind: Kind, stream: &mut TcpStream, request: &[u8], written: &AtomicUsize) -> io::Result<()> {
    match kind {
        Kind::Silent => drained(stream).await,
        Kind::SlowHead => slowly(stream, request, Duration::from_secs(1)).await,
        Kind::SlowBody => {
            let head = request.windows(5).position(|window| window == b"POST ").unwrap_or(0);
            stream.write_all(&request[head..]).await?;
            slowly(stream, &request[..head], Duration::from_millis(500)).await
        }
        Kind::Stalled | Kind::StalledLookups => {
            let mut at = 0;
            loop {
                let sent = stream.write(&request[at..]).await?;
                written.fetch_add(sent, Ordering::Relaxed);
                at = (at + sent) % request.len();
            }
        }
        Kind::Kept => {
            stream.write_all(request).await?;
            drained(stream).await
        }
    }
}

/// Reads until the end.
async fn drained(stream: &mut TcpStream) -> io::Result<()> {
    let mut buffer = [0; 1 << 10];
    while stream.read(&mut buffer).await? > 0 {}
    Ok(())
}

/// Byte by byte, until the service ends it.
async fn slowly(stream: &mut TcpStream, bytes: &[u8], pause: Duration) -> io::Result<()> {
    let (mut reader, mut writer) = stream.split();
    let mut buffer = [0; 1 << 10];
    let mut bytes = bytes.iter();
    loop {
        tokio::select! {
            read = reader.read(&mut buffer) => if read? == 0 { return Ok(()) },
            () = sleep(pause) => if let Some(byte) = bytes.next() { writer.write_all(&[*byte]).await? },
        }
    }
}
