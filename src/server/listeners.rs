//! The listeners: sockets, workers, and what the HTTP server does of its own accord.

use std::io;
use std::net::{SocketAddr, TcpListener};
use std::sync::Arc;
use std::time::Duration;

use actix_http::HttpService;
use actix_service::{IntoServiceFactory, ServiceFactoryExt, fn_service, map_config};
use actix_web::App;
use actix_web::dev::{AppConfig, Server, ServerHandle};
use actix_web::web::ServiceConfig;
use futures_util::future::{Ready, ready};
use socket2::{Domain, SockRef, Socket, Type};
use tokio::net::TcpStream;
use tokio::task::JoinHandle;
use tokio::time::timeout;

use crate::http::{ConnectionLimits, Connections, Stream};
use crate::metrics::Metrics;

/// How long a connection is kept without a request: longer than the 60 s after which proxies give theirs up, so that the service
/// never closes one that a proxy is about to use.
const KEEP_ALIVE: Duration = Duration::from_secs(75);

/// How long an unproven connection may be without a complete request: a little longer than [`HEAD_TIMEOUT`], which is answered.
const UNPROVEN_IDLE: Duration = Duration::from_millis(5_500);

/// The most unproven connections, and the share of all connections that they have at most.
const MAX_UNPROVEN: usize = 1024;
const UNPROVEN_SHARE: usize = 4;

/// Connections of the admin listener, where no request is authenticated.
const ADMIN_CONNECTIONS: usize = 128;

/// How long the head of a connection's first request may take.
const HEAD_TIMEOUT: Duration = Duration::from_secs(5);

/// How long a client may go on sending what is not read, after an answer that came before the end of its body.
const LINGER: Duration = Duration::from_millis(500);

/// How long a server may take to end that has been told to.
const CLOSE_TIMEOUT: Duration = Duration::from_millis(100);

/// Connections that the operating system holds until they are accepted.
const BACKLOG: i32 = 2048;

/// The most bytes of answers that the operating system holds for a client. It would grow to some megabytes for one that takes none.
const SEND_BUFFER: usize = 64 << 10;

/// The bounds of the platforms' listener, of so many connections in all.
pub(super) fn limits(connections: usize) -> ConnectionLimits {
    let unproven = (connections / UNPROVEN_SHARE).clamp(1, MAX_UNPROVEN);
    let proven = connections.saturating_sub(unproven).max(1);
    ConnectionLimits { unproven, proven, unproven_idle: UNPROVEN_IDLE, proven_idle: KEEP_ALIVE }
}

/// The bounds of the admin listener.
pub(super) fn admin_limits() -> ConnectionLimits {
    let most = ADMIN_CONNECTIONS;
    ConnectionLimits { unproven: most, proven: most, unproven_idle: KEEP_ALIVE, proven_idle: KEEP_ALIVE }
}

/// A bound socket that serves nothing yet.
pub(super) fn bind(address: SocketAddr) -> io::Result<TcpListener> {
    let socket = Socket::new(Domain::for_address(address), Type::STREAM, None)?;
    socket.set_reuse_address(true)?;
    socket.set_nonblocking(true)?;
    socket.bind(&address.into())?;
    socket.listen(BACKLOG)?;
    Ok(socket.into())
}

/// A listener that takes requests.
pub(super) struct Listener {
    pub(super) address: SocketAddr,
    handle: ServerHandle,
    server: JoinHandle<io::Result<()>>,
    check: JoinHandle<()>,
}

/// How a listener serves.
#[derive(Clone, Copy)]
pub(super) struct Serving {
    /// Its name in metrics and logs.
    pub(super) name: &'static str,
    pub(super) workers: usize,
    pub(super) limits: ConnectionLimits,
    /// How long a graceful stop waits for connections.
    pub(super) shutdown_timeout: Duration,
}

impl Listener {
    /// Serves routes on a socket.
    pub(super) fn start(
        socket: TcpListener,
        serving: Serving,
        metrics: &Arc<Metrics>,
        routes: impl Fn(&mut ServiceConfig) + Send + Clone + 'static,
    ) -> io::Result<Self> {
        let address = socket.local_addr()?;
        let connections = Connections::new(serving.name, serving.limits, Arc::clone(metrics));
        let check = tokio::spawn(Arc::clone(&connections).check());
        let server = serve(socket, serving, &connections, routes)?;
        let handle = server.handle();
        tracing::info!(listener = serving.name, %address, "listening");
        Ok(Self { address, handle, server: tokio::spawn(server), check })
    }

    /// Takes no more connections, and waits until those that there are have ended.
    pub(super) async fn drain(&self) {
        self.handle.stop(true).await;
    }

    /// Ends it, with the connections that are left. A server that is draining looks for their end once a second only, and is not
    /// waited for.
    pub(super) async fn close(self) -> anyhow::Result<()> {
        self.check.abort();
        let ended = async {
            self.handle.stop(false).await;
            self.server.await
        };
        match timeout(CLOSE_TIMEOUT, ended).await {
            Ok(ended) => Ok(ended??),
            Err(_) => Ok(()),
        }
    }
}

fn serve(
    listener: TcpListener,
    serving: Serving,
    connections: &Arc<Connections>,
    routes: impl Fn(&mut ServiceConfig) + Send + Clone + 'static,
) -> io::Result<Server> {
    let connections = Arc::clone(connections);
    let server = actix_server::Server::build();
    let shutdown = server.graceful_shutdown_signal();
    let server = server.workers(serving.workers).shutdown_timeout(serving.shutdown_timeout.as_secs() + 1).disable_signals();
    // Connections are bounded where they are accepted. The server's own bound would leave new ones waiting, also those of proven callers.
    let server = server.max_concurrent_connections(usize::MAX >> 1);
    let server = server.listen(serving.name, listener, move || {
        let (connections, shutdown) = (Arc::clone(&connections), shutdown.clone());
        let app = App::new().configure(&routes).into_factory().map_err(|error: actix_web::Error| error.error_response());
        let http = HttpService::build()
            .graceful_shutdown_signal(move || {
                let signal = shutdown.clone();
                async move { signal.notified().await }
            })
            .keep_alive(KEEP_ALIVE)
            .client_request_timeout(HEAD_TIMEOUT)
            .client_disconnect_timeout(LINGER)
            .on_connect_ext(|stream: &Stream, data| drop(data.insert(Arc::clone(stream.connection()))))
            .h1(map_config(app, |()| AppConfig::default()));
        fn_service(move |tcp: TcpStream| accept(tcp, &connections)).and_then(http)
    })?;
    Ok(server.run())
}

fn accept<E>(tcp: TcpStream, connections: &Arc<Connections>) -> Ready<Result<(Stream, Option<SocketAddr>), E>> {
    // A socket that is closed already tells so when it is read.
    let _set = SockRef::from(&tcp).set_send_buffer_size(SEND_BUFFER);
    let address = tcp.peer_addr().ok();
    ready(Ok((Stream::new(tcp, connections.accept()), address)))
}
