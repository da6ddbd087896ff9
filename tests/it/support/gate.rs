//! A gate between the service and Redis or Postgres. While it is shut, what is to be kept waits at it in the order it came, and
//! goes on once it opens: late, and even where whoever sent it has gone. Or it is lost there.

use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt, split};
use tokio::sync::watch;

use super::store::Store;
use super::{Database, Redis, wait_until};

/// What waits at the gate.
#[derive(Clone, Debug)]
pub(crate) enum Kept {
    Nothing,
    /// Whatever the service sends that holds this, and what it sends behind it on the same connection.
    Sent(Vec<u8>),
    /// Whatever the server says.
    Answers,
}

/// What holds for all connections.
#[derive(Clone, Debug)]
struct Orders {
    kept: Kept,
    /// How often connections were cut at which something waited.
    cuts: usize,
}

/// Listens on a port of its own until its runtime ends.
pub(crate) struct Gate {
    /// The server, as the service is to call it.
    pub(crate) url: String,
    line: Line,
}

impl Gate {
    pub(crate) async fn before_redis(redis: &Redis) -> Self {
        Self::before(Store::redis(redis)).await
    }

    pub(crate) async fn before_postgres(database: &Database) -> Self {
        Self::before(Store::postgres(database)).await
    }

    async fn before(store: Store) -> Self {
        let (listener, url) = store.listener().await;
        let line = Line { orders: watch::Sender::new(Orders { kept: Kept::Nothing, cuts: 0 }), waiting: watch::Sender::new(0) };
        let gate = Self { url, line: line.clone() };
        tokio::spawn(async move {
            while let Ok((service, _)) = listener.accept().await {
                // Commands of a few bytes must not wait for one another.
                let _ = service.set_nodelay(true);
                let Ok(server) = store.connect().await else { continue };
                let ((from_service, to_service), (from_server, to_server)) = (service.into_split(), split(server));
                tokio::spawn(line.clone().pass(from_service, to_server, true));
                tokio::spawn(line.clone().pass(from_server, to_service, false));
            }
        });
        gate
    }

    /// From now on, on all connections.
    pub(crate) fn keep(&self, kept: Kept) {
        self.line.orders.send_modify(|orders| orders.kept = kept);
    }

    /// Whether something waits at the gate.
    pub(crate) fn holds(&self) -> bool {
        *self.line.waiting.borrow() > 0
    }

    pub(crate) async fn waited_at(&self) {
        wait_until("something waits at the gate", async || self.holds().then_some(())).await;
    }

    /// Lets go on what waits.
    pub(crate) fn open(&self) {
        self.keep(Kept::Nothing);
    }

    /// Opens, but what waits is lost, and its connections end.
    pub(crate) fn cut(&self) {
        self.line.orders.send_modify(|orders| *orders = Orders { kept: Kept::Nothing, cuts: orders.cuts + 1 });
    }
}

#[derive(Clone)]
struct Line {
    orders: watch::Sender<Orders>,
    waiting: watch::Sender<usize>,
}

impl Line {
    async fn pass(self, mut from: impl AsyncRead + Unpin, mut to: impl AsyncWrite + Unpin, is_sent: bool) {
        let mut buffer = vec![0; 64 * 1024];
        while let Ok(len @ 1..) = from.read(&mut buffer).await {
            let is_kept = |orders: &Orders| match &orders.kept {
                Kept::Nothing => false,
                Kept::Sent(what) => is_sent && buffer[..len].windows(what.len()).any(|word| word == what),
                Kept::Answers => !is_sent,
            };
            let mut orders = self.orders.subscribe();
            let cuts = orders.borrow().cuts;
            if is_kept(&orders.borrow_and_update()) {
                self.waiting.send_modify(|waiting| *waiting += 1);
                // The sender is part of `self`, so it cannot be gone.
                let _ = orders.wait_for(|orders| !is_kept(orders) || orders.cuts > cuts).await;
                self.waiting.send_modify(|waiting| *waiting -= 1);
                if orders.borrow().cuts > cuts {
                    break;
                }
            }
            if to.write_all(&buffer[..len]).await.is_err() {
                break;
            }
        }
        // The other side may have gone already.
        let _ = to.shutdown().await;
    }
}
