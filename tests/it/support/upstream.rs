//! The backend behind a webhook route: an HTTP/1.1 server of the test's own, which counts how often each piece of work was
//! begun and finished, and answers what the test tells it to.

use std::collections::{BTreeMap, VecDeque};
use std::io;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpSocket, TcpStream};
use tokio::sync::{oneshot, watch};
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

use super::wait_until;

/// Listens until it is dropped, on a thread of its own, so that a busy test does not hold it up.
#[derive(Debug)]
pub(crate) struct Upstream {
    pub(crate) port: u16,
    state: Arc<State>,
    server: Option<Server>,
    /// Keeps the port while nobody listens on it, so that connections are refused and nobody else takes them.
    kept: Option<TcpSocket>,
}

/// A request as it came in.
#[derive(Debug, Clone)]
pub(crate) struct Received {
    /// When all of it was there.
    pub(crate) at: Instant,
    pub(crate) method: String,
    pub(crate) path: String,
    /// By name in lower case, in the order sent.
    pub(crate) headers: Vec<(String, String)>,
    pub(crate) body: Vec<u8>,
}

/// How often the work of one `Idempotency-Key` was begun, and how often its answer was written to a caller still there.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct Runs {
    pub(crate) started: usize,
    pub(crate) completed: usize,
}

/// What a request gets. Without a body of its own each answer is `{"run":N}`, and no two answers have the same number.
#[derive(Debug, Clone)]
pub(crate) struct Answer {
    status: u16,
    headers: Vec<(String, String)>,
    body: Option<Vec<u8>>,
    delay: Duration,
    form: Form,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Form {
    /// With its length told in advance.
    Whole,
    /// In chunks, so that its length is known at its end alone.
    Chunked,
    /// The connection ends in the middle of the body.
    Torn,
    /// Nothing more comes from the middle of the body on.
    Stalled,
    /// The connection ends before anything is said.
    Cut,
}

#[derive(Debug)]
struct State {
    record: Mutex<Record>,
    /// Whether answers leave.
    gate: watch::Sender<bool>,
}

#[derive(Debug, Default)]
struct Record {
    requests: Vec<Received>,
    runs: BTreeMap<String, Runs>,
    always: Answer,
    once: VecDeque<Answer>,
}

#[derive(Debug)]
struct Server {
    /// With how long callers may take to hang up as well.
    stop: oneshot::Sender<Duration>,
    thread: JoinHandle<()>,
}

/// Whoever has not noticed by then sleeps.
const PARTING: Duration = Duration::from_secs(2);

/// Over all upstreams of the process, so that no two runs ever look alike.
static RUN: AtomicU64 = AtomicU64::new(1);

impl Upstream {
    /// On a port that the system hands out, answering 200 at once.
    pub(crate) fn start() -> Self {
        let socket = bound(0).expect("a free port");
        let port = socket.local_addr().expect("an address").port();
        let state = State { record: Mutex::default(), gate: watch::Sender::new(true) };
        let mut upstream = Self { port, state: Arc::new(state), server: None, kept: Some(socket) };
        upstream.start_again();
        upstream
    }

    /// Hangs up on everybody, waits until they have noticed, and refuses connections from now on.
    pub(crate) async fn stop(&mut self) {
        self.end(PARTING);
        self.kept = Some(wait_until("the port is ours again", async || bound(self.port).ok()).await);
    }

    /// Listens again on the same port.
    pub(crate) fn start_again(&mut self) {
        let socket = self.kept.take().expect("the upstream was stopped");
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
        let listener = {
            let _inside = runtime.enter();
            socket.listen(4096).expect("a port to listen on")
        };
        let (stop, stopped) = oneshot::channel();
        let state = Arc::clone(&self.state);
        let thread = thread::spawn(move || runtime.block_on(serve(listener, state, stopped)));
        self.server = Some(Server { stop, thread });
    }

    fn end(&mut self, parting: Duration) {
        if let Some(server) = self.server.take() {
            let _ = server.stop.send(parting);
            server.thread.join().expect("the upstream does not panic");
        }
    }

    /// Where it takes webhooks.
    pub(crate) fn url(&self) -> String {
        format!("http://127.0.0.1:{}/hook", self.port)
    }

    /// What every request gets from now on.
    pub(crate) fn answer(&self, answer: Answer) {
        self.state.record().always = answer;
    }

    /// What the next request gets that has nothing of this kind before it.
    pub(crate) fn answer_once(&self, answer: Answer) {
        self.state.record().once.push_back(answer);
    }

    /// Lets no answer leave until [`Self::release`].
    pub(crate) fn hold(&self) {
        self.state.gate.send_replace(false);
    }

    /// Lets all answers leave.
    pub(crate) fn release(&self) {
        self.state.gate.send_replace(true);
    }

    /// Every request so far.
    pub(crate) fn requests(&self) -> Vec<Received> {
        self.state.record().requests.clone()
    }

    /// The only request so far.
    pub(crate) fn request(&self) -> Received {
        let mut requests = self.requests();
        assert_eq!(requests.len(), 1, "one request reached the upstream: {requests:?}");
        requests.remove(0)
    }

    /// By `Idempotency-Key`.
    pub(crate) fn runs(&self) -> BTreeMap<String, Runs> {
        self.state.record().runs.clone()
    }

    /// Runs begun, of all keys.
    pub(crate) fn started(&self) -> usize {
        self.state.record().requests.len()
    }

    /// Runs whose answer was written, of all keys.
    pub(crate) fn completed(&self) -> usize {
        self.state.record().runs.values().map(|runs| runs.completed).sum()
    }

    /// Waits until so many runs were begun.
    pub(crate) async fn has_started(&self, n: usize) {
        wait_until(&format!("{n} runs are begun"), async || (self.started() >= n).then_some(())).await;
    }
}

impl Drop for Upstream {
    fn drop(&mut self) {
        self.end(Duration::ZERO);
    }
}

impl Received {
    pub(crate) fn header(&self, name: &str) -> Option<&str> {
        self.headers.iter().find(|(known, _)| known == name).map(|(_, value)| value.as_str())
    }

    /// Its `Idempotency-Key`, empty where it has none.
    pub(crate) fn key(&self) -> &str {
        self.header("idempotency-key").unwrap_or_default()
    }
}

impl Default for Answer {
    fn default() -> Self {
        Self::new(200)
    }
}

impl Answer {
    pub(crate) fn new(status: u16) -> Self {
        Self { status, headers: Vec::new(), body: None, delay: Duration::ZERO, form: Form::Whole }
    }

    /// No answer: the connection ends.
    pub(crate) fn cut() -> Self {
        Self { form: Form::Cut, ..Self::new(200) }
    }

    /// A header; `application/json` is the content type where there is none.
    pub(crate) fn header(mut self, name: &str, value: &str) -> Self {
        self.headers.push((name.to_owned(), value.to_owned()));
        self
    }

    /// The same body for every run.
    pub(crate) fn body(mut self, body: impl Into<Vec<u8>>) -> Self {
        self.body = Some(body.into());
        self
    }

    /// So long after the request came.
    pub(crate) fn after(mut self, delay: Duration) -> Self {
        self.delay = delay;
        self
    }

    /// In chunks, its length not told in advance.
    pub(crate) fn chunked(mut self) -> Self {
        self.form = Form::Chunked;
        self
    }

    /// Torn off in the middle of its body.
    pub(crate) fn torn(mut self) -> Self {
        self.form = Form::Torn;
        self
    }

    /// Never gets beyond the middle of its body.
    pub(crate) fn stalled(mut self) -> Self {
        self.form = Form::Stalled;
        self
    }

    fn bytes(&self) -> Vec<u8> {
        let run = RUN.fetch_add(1, Ordering::Relaxed);
        let body = self.body.clone().unwrap_or_else(|| format!(r#"{{"run":{run}}}"#).into_bytes());
        let typed = self.headers.iter().any(|(name, _)| name.eq_ignore_ascii_case("content-type"));
        let json = (!typed).then(|| ("Content-Type".to_owned(), "application/json".to_owned()));
        let lines = self.headers.iter().chain(&json).map(|(name, value)| format!("{name}: {value}\r\n"));
        let head = format!("HTTP/1.1 {} \r\n{}", self.status, lines.collect::<String>());
        let (frame, body) = match self.form {
            _ if self.status == 204 => (String::new(), Vec::new()),
            Form::Chunked => {
                let chunks = body.chunks(16 * 1024).map(|chunk| [format!("{:x}\r\n", chunk.len()).as_bytes(), chunk, b"\r\n"].concat());
                ("Transfer-Encoding: chunked\r\n".to_owned(), [chunks.collect::<Vec<_>>().concat(), b"0\r\n\r\n".to_vec()].concat())
            }
            Form::Torn | Form::Stalled => (format!("Content-Length: {}\r\n", body.len()), body[..body.len() / 2].to_vec()),
            Form::Whole | Form::Cut => (format!("Content-Length: {}\r\n", body.len()), body),
        };
        [head.as_bytes(), frame.as_bytes(), b"\r\n", &body].concat()
    }
}

impl State {
    fn record(&self) -> MutexGuard<'_, Record> {
        self.record.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn begin(&self, request: Received) -> Answer {
        let mut record = self.record();
        record.runs.entry(request.key().to_owned()).or_default().started += 1;
        record.requests.push(request);
        record.once.pop_front().unwrap_or_else(|| record.always.clone())
    }

    fn complete(&self, key: &str) {
        self.record().runs.entry(key.to_owned()).or_default().completed += 1;
    }

    fn was_not_completed(&self, key: &str) {
        self.record().runs.entry(key.to_owned()).or_default().completed -= 1;
    }

    /// Takes as long as the work of that answer.
    async fn work(&self, answer: &Answer) {
        if !answer.delay.is_zero() {
            tokio::time::sleep(answer.delay).await;
        }
        // The sender is part of `self`, so it cannot be gone.
        let _ = self.gate.subscribe().wait_for(|open| *open).await;
    }
}

/// A port of this machine, not yet listened on.
fn bound(port: u16) -> io::Result<TcpSocket> {
    let socket = TcpSocket::new_v4()?;
    socket.set_reuseaddr(true)?;
    socket.bind(([127, 0, 0, 1], port).into())?;
    Ok(socket)
}

async fn serve(listener: TcpListener, state: Arc<State>, stopped: oneshot::Receiver<Duration>) {
    let (mut callers, closing) = (JoinSet::new(), CancellationToken::new());
    let accept = async {
        while let Ok((stream, _)) = listener.accept().await {
            callers.spawn(attend(stream, Arc::clone(&state), closing.clone()));
        }
    };
    let parting = tokio::select! {
        () = accept => Duration::ZERO,
        parting = stopped => parting.unwrap_or_default(),
    };
    drop(listener);
    closing.cancel();
    let _ = tokio::time::timeout(parting, callers.join_all()).await;
}

/// Serves a connection until either side ends it.
async fn attend(mut stream: TcpStream, state: Arc<State>, closing: CancellationToken) {
    tokio::select! {
        _ = converse(&mut stream, &state) => {}
        () = closing.cancelled() => {
            let _ = stream.shutdown().await;
            hung_up(&mut stream, &mut Vec::new()).await;
        }
    }
}

/// Answers one request after the other until either side ends the connection.
async fn converse(stream: &mut TcpStream, state: &State) -> io::Result<()> {
    stream.set_nodelay(true)?;
    let mut unread = Vec::new();
    while let Some(request) = next_request(stream, &mut unread).await? {
        let key = request.key().to_owned();
        let answer = state.begin(request);
        tokio::select! {
            biased;
            () = hung_up(stream, &mut unread) => return Ok(()),
            () = state.work(&answer) => {}
        }
        if answer.form == Form::Cut {
            return Ok(());
        }
        let bytes = answer.bytes();
        if let Form::Torn | Form::Stalled = answer.form {
            stream.write_all(&bytes).await?;
            if answer.form == Form::Stalled {
                hung_up(stream, &mut unread).await;
            }
            return Ok(());
        }
        // Counted first: whoever has the answer finds it counted.
        state.complete(&key);
        if let Err(error) = stream.write_all(&bytes).await {
            state.was_not_completed(&key);
            return Err(error);
        }
    }
    Ok(())
}

/// Returns once the caller has ended the connection; what it sends before is kept.
async fn hung_up(stream: &mut TcpStream, unread: &mut Vec<u8>) {
    while let Ok(1..) = stream.read_buf(unread).await {}
}

/// The next whole request; `None` where the connection ends before it.
async fn next_request(stream: &mut TcpStream, unread: &mut Vec<u8>) -> io::Result<Option<Received>> {
    loop {
        if let Some((request, len)) = parsed(unread) {
            unread.drain(..len);
            return Ok(Some(request));
        }
        if stream.read_buf(unread).await? == 0 {
            return Ok(None);
        }
    }
}

/// A request at the beginning of these bytes, with its length, once it is there as a whole. The service always tells the length.
fn parsed(bytes: &[u8]) -> Option<(Received, usize)> {
    let body_at = bytes.windows(4).position(|end| end == b"\r\n\r\n")? + 4;
    let head = String::from_utf8_lossy(&bytes[..body_at]);
    let mut lines = head.trim_end().split("\r\n");
    let mut words = lines.next()?.split(' ').map(str::to_owned);
    let (method, path) = (words.next()?, words.next()?);
    let pairs = lines.filter_map(|line| line.split_once(':'));
    let headers: Vec<_> = pairs.map(|(name, value)| (name.to_lowercase(), value.trim().to_owned())).collect();
    let received = Received { at: Instant::now(), method, path, headers, body: Vec::new() };
    let end = body_at + received.header("content-length").map_or(0, |len| len.parse().expect("a length"));
    let body = bytes.get(body_at..end)?.to_vec();
    Some((Received { body, ..received }, end))
}
