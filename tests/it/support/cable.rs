//! A cable between the service and its idempotency store that stops at a step of the service's, so that the service can be
//! stopped there too, and that can be cut.
//!
//! Every step is one message that names one key: in Redis a script on keys `cxda:idem:v1:{…}`, in Postgres a `Bind` of a
//! statement on `idempotency`. The first step of a key claims it, the second, where no renewal comes between, completes it.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;

use super::store::Store;
use super::{Database, Redis, wait_until};

/// Listens on a port of its own until its runtime ends.
#[derive(Debug)]
pub(crate) struct Cable {
    /// The store, as the service is to call it.
    pub(crate) url: String,
    line: Arc<Line>,
}

/// Where a connection stops; all that comes later on it stops there too.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Stop {
    /// The nth step of a key is kept from the store.
    Before(usize),
    /// The nth step of a key reaches the store, whose answer is kept from the service.
    After(usize),
}

#[derive(Debug)]
struct Line {
    state: Mutex<State>,
    /// Turns with every cut.
    cuts: watch::Sender<usize>,
}

#[derive(Debug, Default)]
struct State {
    stop: Option<Stop>,
    /// By key.
    steps: BTreeMap<Vec<u8>, usize>,
    reached: usize,
}

impl Cable {
    pub(crate) async fn to_redis(redis: &Redis) -> Self {
        Self::to(Store::redis(redis)).await
    }

    pub(crate) async fn to_postgres(database: &Database) -> Self {
        Self::to(Store::postgres(database)).await
    }

    async fn to(store: Store) -> Self {
        let (listener, url) = store.listener().await;
        let line = Arc::new(Line { state: Mutex::default(), cuts: watch::Sender::new(0) });
        tokio::spawn(accept(listener, Arc::new(store), Arc::clone(&line)));
        Self { url, line }
    }

    /// Stops there from now on, on each connection that gets there.
    pub(crate) fn stop(&self, stop: Stop) {
        let mut state = self.line.state();
        (state.stop, state.reached) = (Some(stop), 0);
    }

    /// Waits until so many keys have been stopped.
    pub(crate) async fn reached(&self, keys: usize) {
        let what = format!("{keys} keys are where the cable stops");
        wait_until(&what, async || (self.line.state().reached >= keys).then_some(())).await;
    }

    /// Ends all connections, with what was kept back on them. New ones do not stop.
    pub(crate) fn cut(&self) {
        self.line.state().stop = None;
        self.line.cuts.send_modify(|cuts| *cuts += 1);
    }
}

impl Line {
    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Where this step of that key stops.
    fn step(&self, key: Vec<u8>) -> Option<Stop> {
        let mut state = self.state();
        let nth = state.steps.entry(key).or_default();
        *nth += 1;
        let nth = *nth;
        let stop = state.stop.filter(|(Stop::Before(n) | Stop::After(n))| *n == nth)?;
        state.reached += 1;
        Some(stop)
    }
}

async fn accept(listener: TcpListener, store: Arc<Store>, line: Arc<Line>) {
    while let Ok((service, _)) = listener.accept().await {
        let (store, line) = (Arc::clone(&store), Arc::clone(&line));
        tokio::spawn(async move {
            // Commands of a few bytes must not wait for one another.
            let _ = service.set_nodelay(true);
            let Ok(server) = store.connect().await else { return };
            match *store {
                Store::Redis { .. } => connect(service, server, &line, redis_message()).await,
                Store::Postgres { .. } => connect(service, server, &line, postgres_message()).await,
            }
        });
    }
}

/// The first message in these bytes: its length, and the key where it is a step. `None` where it is not there as a whole.
type Message = Option<(usize, Option<Vec<u8>>)>;

async fn connect<S: AsyncRead + AsyncWrite>(service: TcpStream, server: S, line: &Line, mut message: impl FnMut(&[u8]) -> Message) {
    let mut cuts = line.cuts.subscribe();
    let (mut from_service, mut to_service) = service.into_split();
    let (mut from_server, mut to_server) = tokio::io::split(server);
    let answers_stop = AtomicBool::new(false);
    let requests = async {
        let (mut unread, mut stopped) = (Vec::new(), false);
        while let Ok(1..) = from_service.read_buf(&mut unread).await {
            while let Some((len, key)) = message(&unread) {
                match key.and_then(|key| line.step(key)) {
                    Some(Stop::Before(_)) => stopped = true,
                    Some(Stop::After(_)) => answers_stop.store(true, Ordering::SeqCst),
                    None => {}
                }
                let sent: Vec<_> = unread.drain(..len).collect();
                if !stopped && to_server.write_all(&sent).await.is_err() {
                    return;
                }
            }
        }
    };
    let answers = async {
        let mut buffer = vec![0; 64 * 1024];
        while let Ok(len @ 1..) = from_server.read(&mut buffer).await {
            if !answers_stop.load(Ordering::SeqCst) && to_service.write_all(&buffer[..len]).await.is_err() {
                return;
            }
        }
    };
    tokio::select! {
        () = requests => {}
        () = answers => {}
        _ = cuts.changed() => {}
    }
}

/// A command is an array of strings: `*2\r\n$3\r\nGET\r\n$1\r\nx\r\n`.
fn redis_message() -> impl FnMut(&[u8]) -> Message {
    |bytes| {
        let mut at = 0;
        let words = (0..number(bytes, &mut at, b'*')?).map(|_| {
            let len = number(bytes, &mut at, b'$')?;
            let word = bytes.get(at..at + len + 2)?;
            at += len + 2;
            Some(&word[..len])
        });
        let words: Vec<_> = words.collect::<Option<_>>()?;
        let script = words.first().is_some_and(|verb| verb.to_ascii_uppercase().starts_with(b"EVAL"));
        let key = words.iter().filter(|_| script).find_map(|word| {
            let name = word.strip_prefix(b"cxda:idem:v1:{")?;
            Some(name.split(|byte| *byte == b'}').next()?.to_vec())
        });
        Some((at, key))
    }
}

/// `*12\r\n`, behind which `at` then stands.
fn number(bytes: &[u8], at: &mut usize, sign: u8) -> Option<usize> {
    let rest = &bytes[*at..];
    let end = rest.windows(2).position(|end| end == b"\r\n")?;
    assert_eq!(rest[0], sign, "not a command: {}", String::from_utf8_lossy(rest));
    *at += end + 2;
    std::str::from_utf8(&rest[1..end]).ok()?.parse().ok()
}

/// A type and a length, but for the first messages of a connection, which have no type.
fn postgres_message() -> impl FnMut(&[u8]) -> Message {
    const PROTOCOL_3: &[u8] = &[0, 3];
    let (mut started, mut statements) = (false, BTreeMap::new());
    move |bytes| {
        let typed = usize::from(started);
        let length = bytes.get(typed..typed + 4)?;
        let end = typed + u32::from_be_bytes(length.try_into().ok()?) as usize;
        let message = bytes.get(typed + 4..end)?;
        let mut key = None;
        match (started, bytes[0]) {
            (false, _) => started = message.starts_with(PROTOCOL_3),
            (true, b'P') => {
                let mut texts = message.split(|byte| *byte == 0);
                let (name, sql) = (texts.next()?.to_vec(), String::from_utf8_lossy(texts.next()?));
                statements.insert(name, sql.contains("idempotency"));
            }
            (true, b'B') => {
                let mut texts = message.splitn(3, |byte| *byte == 0);
                let (name, rest) = (texts.nth(1)?, texts.next()?);
                key = parameters(rest).into_iter().filter(|_| statements.get(name) == Some(&true)).find(|value| value.len() == 32);
            }
            _ => {}
        }
        Some((end, key))
    }
}

/// The values of a `Bind`, from its formats on.
fn parameters(mut rest: &[u8]) -> Vec<Vec<u8>> {
    let mut take = |len: usize| {
        let (taken, left) = rest.split_at_checked(len)?;
        rest = left;
        Some(taken)
    };
    let short = |bytes: &[u8]| usize::from(u16::from_be_bytes([bytes[0], bytes[1]]));
    let formats = take(2).map_or(0, short);
    take(2 * formats);
    let count = take(2).map_or(0, short);
    let values = (0..count).map_while(|_| {
        let len = i32::from_be_bytes(take(4)?.try_into().ok()?);
        Some(usize::try_from(len).ok().and_then(&mut take).unwrap_or_default().to_vec())
    });
    values.collect()
}
