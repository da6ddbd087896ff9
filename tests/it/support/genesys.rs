//! Genesys Cloud and its login, the service that calls them, and what a platform sends to that service.

use nix::sys::signal::Signal;
use reqwest::header::{HeaderMap, HeaderName, HeaderValue};
use reqwest::{Method, RequestBuilder};
use serde_json::{Value, json};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use super::{Answer, Database, Reply, Service, Setup, Upstream, send, sign, wait_until};

pub(crate) const GENESYS_ID: &str = "the-client";
pub(crate) const GENESYS_SECRET: &str = "genesys' secret, seen nowhere";

/// The action of every execution that a test does not give another one.
pub(crate) const ACTION: &str = "custom_-_7d0f3c2e-0b1a-4d57-9c3e-5f1a2b3c4d5e";

/// The route, as metrics and logs name it.
pub(crate) const EXECUTE: &str = "/genesys/actions/{action_id}/execute";

/// Both listen until they are dropped.
#[derive(Debug)]
pub(crate) struct Genesys {
    /// To be told what to answer to executions, to be held and to be stopped.
    pub(crate) api: Upstream,
    /// The same of the login.
    pub(crate) login: Upstream,
}

impl Genesys {
    /// Answers each execution with a 200, and gives `token-1` for an hour to whoever logs in.
    pub(crate) fn start() -> Self {
        let genesys = Self { api: Upstream::start(), login: Upstream::start() };
        genesys.gives("token-1", 3600);
        genesys
    }

    /// A login's answer.
    pub(crate) fn token(token: &str, seconds: u64) -> Answer {
        Answer::new(200).body(json!({ "access_token": token, "token_type": "bearer", "expires_in": seconds }).to_string())
    }

    /// Gives this token from now on.
    pub(crate) fn gives(&self, token: &str, seconds: u64) {
        self.login.answer(Self::token(token, seconds));
    }

    /// The tokens of all executions so far.
    pub(crate) fn tokens(&self) -> Vec<String> {
        let token = |authorization: Option<&str>| authorization.and_then(|value| value.strip_prefix("Bearer ")).map(str::to_owned);
        self.api.requests().iter().map(|call| token(call.header("authorization")).expect("a bearer token")).collect()
    }

    /// How many executions and how many logins there were.
    pub(crate) fn asked(&self) -> (usize, usize) {
        (self.api.started(), self.login.started())
    }

    /// Where executions are asked for.
    pub(crate) fn url(&self) -> String {
        format!("http://127.0.0.1:{}", self.api.port)
    }
}

/// A service with its keys in memory, and the Genesys that it calls.
pub(crate) struct Scene {
    pub(crate) service: Service,
    pub(crate) genesys: Genesys,
    pub(crate) database: Database,
}

impl Scene {
    pub(crate) async fn new() -> Self {
        Self::with(&[]).await
    }

    /// With these settings of `[genesys]`.
    pub(crate) async fn with(members: &[(&str, &str)]) -> Self {
        Self::of(Genesys::start(), members).await
    }

    pub(crate) async fn of(genesys: Genesys, members: &[(&str, &str)]) -> Self {
        let database = Database::new().await;
        let service = Setup::on(&database).genesys(&genesys).member("STORE", "memory").members(members).start().await;
        Self { service, genesys, database }
    }

    /// One that has executed once, so that it has a token.
    pub(crate) async fn logged_in(members: &[(&str, &str)]) -> Self {
        let scene = Self::with(members).await;
        scene.is_executed(r#"{"first":true}"#).await;
        scene
    }

    /// An execution by its input that is called for once and answered 200, whatever became of earlier ones.
    pub(crate) async fn is_executed(&self, body: &str) -> Reply {
        let before = self.genesys.api.started();
        let reply = self.service.execute(body).await;
        assert_eq!((reply.status, reply.replayed()), (200, false), "{body}: {}", reply.text());
        assert_eq!(self.genesys.api.started(), before + 1, "{body}");
        reply
    }
}

impl Setup {
    /// With that Genesys, over plain HTTP.
    pub(crate) fn genesys(self, genesys: &Genesys) -> Self {
        let login = format!("http://127.0.0.1:{}/oauth/token", genesys.login.port);
        let setup = self.member("BASE_URL", &genesys.url()).member("LOGIN_URL", &login).member("ALLOW_HTTP", "true");
        setup.member("CLIENT_ID", GENESYS_ID).member("CLIENT_SECRET", GENESYS_SECRET)
    }

    /// With a setting of `[genesys]`.
    pub(crate) fn member(self, name: &str, value: &str) -> Self {
        self.set(&format!("CXDA_GENESYS__{name}"), value)
    }

    pub(crate) fn members(self, members: &[(&str, &str)]) -> Self {
        members.iter().fold(self, |setup, (name, value)| setup.member(name, value))
    }
}

impl Service {
    /// A signed execution that a test may add to before it is sent. `id` as it stands in the path.
    pub(crate) fn action(&self, id: &str, body: impl Into<Vec<u8>>) -> RequestBuilder {
        let body = body.into();
        self.call(Method::POST, &path(id)).header("X-CXone-Signature", sign(&body)).body(body)
    }

    /// The same with a key of the caller's own.
    pub(crate) fn keyed(&self, key: &str, body: impl Into<Vec<u8>>) -> RequestBuilder {
        self.action(ACTION, body).header("Idempotency-Key", key)
    }

    /// An execution that is told by its input.
    pub(crate) async fn execute(&self, body: impl Into<Vec<u8>>) -> Reply {
        send(self.action(ACTION, body)).await
    }

    /// An execution that is told by its key.
    pub(crate) async fn execute_as(&self, key: &str, body: impl Into<Vec<u8>>) -> Reply {
        send(self.keyed(key, body)).await
    }

    /// An execution on a connection of its own, whose path no client has tidied up.
    pub(crate) async fn open(&self, id: &str, body: &str) -> Line {
        let mut stream = TcpStream::connect(self.url.trim_start_matches("http://")).await.expect("a connection");
        let head = format!(
            "POST {} HTTP/1.1\r\nHost: x\r\nConnection: close\r\nX-CXone-Signature: {}\r\nContent-Length: {}\r\n\r\n",
            path(id),
            sign(body),
            body.len()
        );
        stream.write_all(format!("{head}{body}").as_bytes()).await.expect("a request sent");
        Line(stream)
    }

    /// How many calls of a dependency ended like this.
    pub(crate) async fn outbound(&self, dependency: &str, outcome: &str) -> u64 {
        self.metrics().await.count("outbound_requests_total", &[("dependency", dependency), ("outcome", outcome)])
    }

    /// Waits until so many calls of a dependency have ended like this.
    pub(crate) async fn has_noticed(&self, dependency: &str, outcome: &str, n: u64) {
        let what = format!("{n} calls of {dependency} have ended with {outcome}");
        wait_until(&what, async || (self.outbound(dependency, outcome).await >= n).then_some(())).await;
    }

    /// The state that a breaker is in.
    pub(crate) async fn circuit(&self, dependency: &str) -> &'static str {
        let metrics = self.metrics().await;
        let is = |state: &&str| metrics.count("cxone_dataaction_circuit_state", &[("dependency", dependency), ("state", state)]) == 1;
        ["closed", "open", "half_open"].into_iter().find(is).unwrap_or_else(|| panic!("{dependency} has no breaker"))
    }

    /// Told to go, and no longer open to new connections.
    pub(crate) async fn is_told_to_go(&self) {
        self.signal(Signal::SIGTERM);
        let address = self.url.trim_start_matches("http://");
        wait_until("no more connections are taken", async || TcpStream::connect(address).await.is_err().then_some(())).await;
    }
}

/// A connection with one execution on it.
pub(crate) struct Line(TcpStream);

impl Line {
    /// Reads to the end.
    pub(crate) async fn reply(mut self) -> Reply {
        let mut bytes = Vec::new();
        self.0.read_to_end(&mut bytes).await.expect("an answer");
        let end = bytes.windows(4).position(|end| end == b"\r\n\r\n").expect("a head");
        let head = std::str::from_utf8(&bytes[..end]).expect("a head of text");
        let pair =
            |line: &str| line.split_once(": ").map(|(name, value)| (header_name(name), HeaderValue::from_str(value).expect("a value")));
        let status = head.split(' ').nth(1).and_then(|status| status.parse().ok()).expect("a status");
        Reply { status, headers: head.lines().skip(1).filter_map(pair).collect::<HeaderMap>(), body: bytes[end + 4..].to_vec() }
    }

    /// Ends it by a reset, and gives the service the occasion to notice.
    pub(crate) async fn reset(self, service: &Service) {
        self.0.set_zero_linger().expect("a socket option");
        drop(self.0);
        for _ in 0..20 {
            send(service.call(Method::GET, &path(ACTION))).await.problem(405, "method_not_allowed");
        }
    }
}

fn path(id: &str) -> String {
    EXECUTE.replace("{action_id}", id)
}

fn header_name(name: &str) -> HeaderName {
    name.parse().expect("a header's name")
}

impl Reply {
    /// Says that nobody knows whether the action was executed, and that asking again is no use.
    pub(crate) fn is_unknown(&self) -> Value {
        let problem = self.problem(502, "unknown_outcome");
        assert_eq!((&problem["retryable"], self.replayed()), (&json!(false), false), "{problem}");
        problem
    }

    /// Says that it was not executed.
    pub(crate) fn is_failed(&self) -> Value {
        let problem = self.problem(502, "upstream_failed");
        assert_eq!(problem["retryable"], true, "{problem}");
        problem
    }

    /// Says that Genesys failed at it, and not that asking again does no harm.
    pub(crate) fn is_given_up(&self) -> Value {
        let problem = self.problem(502, "upstream_failed");
        assert_eq!(problem["retryable"], false, "{problem}");
        problem
    }
}
