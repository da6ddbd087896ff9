//! `serve` as a process of its own, on ports that the system hands out.

use std::collections::BTreeMap;
use std::sync::Once;

use nix::sys::signal::Signal;
use reqwest::{Client, Method, RequestBuilder};
use serde_json::{Value, json};
use tokio::io::AsyncWriteExt;
use tokio::net::TcpStream;
use uuid::Uuid;

use super::{Database, Metrics, Outcome, Process, Redis, Reply, SECRET, Tool, document, scratch_file, sign};

/// The body of a lookup.
pub(crate) fn request(tenant: &str, ids: &[Uuid]) -> Value {
    json!({ "action": "process_customer_batch", "input": { "customer_ids": ids, "tenant_id": tenant } })
}

/// The ids of a list of an answer: of strings, or of customers.
pub(crate) fn ids_of(list: &Value) -> Vec<Uuid> {
    let list = list.as_array().unwrap_or_else(|| panic!("not a list: {list}"));
    let text = |item: &Value| item.as_str().or_else(|| item["id"].as_str()).map(str::parse);
    list.iter().map(|item| text(item).unwrap_or_else(|| panic!("no id: {item}")).expect("a UUID")).collect()
}

/// Settings of a service that is not running yet.
#[derive(Debug, Clone)]
pub(crate) struct Setup(Tool);

impl Setup {
    /// Nothing set but free ports, and a short way down.
    pub(crate) fn bare() -> Self {
        let tool = Tool::new(&["serve"]).set("CXDA_HTTP__LISTEN", "127.0.0.1:0").set("CXDA_ADMIN__LISTEN", "127.0.0.1:0");
        Self(tool.set("CXDA_SHUTDOWN__DRAIN_DELAY", "0"))
    }

    /// With one signing key and that database.
    pub(crate) fn on(database: &Database) -> Self {
        Self::bare().set("DATABASE_URL", &database.url).set("CXDA_SIGNING__SECRET", SECRET)
    }

    pub(crate) fn set(self, name: &str, value: impl Into<String>) -> Self {
        Self(self.0.set(name, value))
    }

    pub(crate) fn arg(self, arg: &str) -> Self {
        Self(self.0.arg(arg))
    }

    /// With that Redis, and patience with it: what a slow machine delays is not what most tests are about.
    pub(crate) fn redis(self, redis: &Redis) -> Self {
        self.set("REDIS_URL", redis.url()).set("CXDA_CACHE__TIMEOUT", "900ms")
    }

    /// With time enough for any number of lookups at once.
    pub(crate) fn patient(self) -> Self {
        let waits = self.set("CXDA_DATABASE__WAIT_TIMEOUT", "15s").set("CXDA_LOOKUP__DEADLINE", "15s");
        waits.set("CXDA_DATABASE__CONNECT_TIMEOUT", "15s")
    }

    /// With a settings file.
    pub(crate) fn file(self, toml: &str) -> Self {
        let path = scratch_file(toml);
        self.set("CXDA_CONFIG", path.to_str().expect("a plain path"))
    }

    /// Runs it in the belief that it does not come up.
    pub(crate) async fn refused(self) -> Outcome {
        self.0.run().await
    }

    pub(crate) async fn start(self) -> Service {
        Service::over(self.process()).await
    }

    /// Starts it with a log that nobody takes, and without waiting for anything.
    pub(crate) fn unheard(self) -> std::process::Child {
        self.0.start_unheard()
    }

    /// Starts it without waiting for anything.
    pub(crate) fn process(self) -> Process {
        self.0.start("KILL")
    }
}

/// A running service.
#[derive(Debug)]
pub(crate) struct Service {
    process: Process,
    client: Client,
    /// Where it takes calls.
    pub(crate) url: String,
    /// Where it answers probes.
    pub(crate) admin_url: String,
}

impl Service {
    /// Waits until a process has said where it listens.
    pub(crate) async fn over(mut process: Process) -> Self {
        let mut address = async |listener: &str| {
            let listens = |line: &Value| line["message"] == "listening" && line["listener"] == listener;
            let line = process.logged(&format!("the {listener} listener is up"), listens).await;
            format!("http://{}", line["address"].as_str().expect("an address"))
        };
        let (url, admin_url) = (address("http").await, address("admin").await);
        Self { process, client: client(), url, admin_url }
    }

    /// Any request to the listener for platforms.
    pub(crate) fn call(&self, method: Method, path: &str) -> RequestBuilder {
        self.client.request(method, format!("{}{path}", self.url))
    }

    /// A signed POST that a test may add to before it is sent.
    pub(crate) fn signed(&self, body: impl Into<Vec<u8>>) -> RequestBuilder {
        let body = body.into();
        self.call(Method::POST, "/data-action").header("X-CXone-Signature", sign(&body)).body(body)
    }

    /// A signed POST.
    pub(crate) async fn post(&self, body: impl ToString) -> Reply {
        send(self.signed(body.to_string())).await
    }

    /// A lookup whose answer nobody waits for: the connection is held until it is reset.
    pub(crate) async fn lookup_to_be_reset(&self, tenant: &str, ids: &[Uuid]) -> Resettable {
        let body = request(tenant, ids).to_string();
        let mut stream = TcpStream::connect(self.url.trim_start_matches("http://")).await.expect("a connection");
        let head = format!(
            "POST /data-action HTTP/1.1\r\nHost: x\r\nX-CXone-Signature: {}\r\nContent-Length: {}\r\n\r\n",
            sign(&body),
            body.len()
        );
        stream.write_all(format!("{head}{body}").as_bytes()).await.expect("a request sent");
        Resettable(stream)
    }

    /// A lookup.
    pub(crate) async fn lookup(&self, tenant: &str, ids: &[Uuid]) -> Reply {
        self.post(request(tenant, ids)).await
    }

    /// Any request to the admin listener.
    pub(crate) async fn admin(&self, method: Method, path: &str) -> Reply {
        send(self.client.request(method, format!("{}{path}", self.admin_url))).await
    }

    pub(crate) async fn ready(&self) -> Reply {
        self.admin(Method::GET, "/readyz").await
    }

    pub(crate) async fn metrics(&self) -> Metrics {
        let reply = self.admin(Method::GET, "/metrics").await;
        assert_eq!(reply.status, 200);
        Metrics::parse(&reply.text())
    }

    /// The line that a request left in the log.
    pub(crate) async fn request_line(&mut self, request_id: &str) -> Value {
        let wanted = |line: &Value| line["message"] == "request" && line["request_id"] == request_id;
        self.process.logged("the request is logged", wanted).await
    }

    /// Everything that the service printed.
    pub(crate) fn printed(&self) -> String {
        self.process.printed()
    }

    pub(crate) fn log(&self) -> Vec<Value> {
        self.process.log()
    }

    pub(crate) fn signal(&self, signal: Signal) {
        self.process.signal(signal);
    }

    /// Asks the service to go, and waits until it has.
    pub(crate) async fn stop(self) -> Outcome {
        self.process.stop(Signal::SIGTERM).await
    }

    /// Waits until the service has gone.
    pub(crate) async fn gone(self) -> Outcome {
        self.process.ended("the service has gone").await
    }
}

/// A connection with a request on it.
pub(crate) struct Resettable(TcpStream);

impl Resettable {
    /// Ends it by a reset, on which an HTTP server drops the handler, where a mere close would let it go on. Gives the server
    /// the occasion to notice.
    pub(crate) async fn reset(self, service: &Service) {
        self.0.set_zero_linger().expect("a socket option");
        drop(self.0);
        for _ in 0..20 {
            send(service.call(Method::GET, "/data-action")).await.problem(405, "method_not_allowed");
        }
    }
}

/// Sends a request and reads its whole answer, which must be as the API's document says.
pub(crate) fn send(request: RequestBuilder) -> impl Future<Output = Reply> {
    let (client, request) = request.build_split();
    let request = request.expect("a request");
    // In a box, since tests have many of them under way.
    Box::pin(async move {
        let (method, path) = (request.method().clone(), request.url().path().to_owned());
        let reply = Reply::read(client.execute(request).await.unwrap_or_else(|e| panic!("no answer: {e:?}"))).await;
        document::hold(&method, &path, &reply);
        reply
    })
}

/// With patience, and the provider of TLS without which none can be made.
pub(crate) fn client() -> Client {
    static PROVIDER: Once = Once::new();
    PROVIDER.call_once(|| drop(rustls::crypto::ring::default_provider().install_default()));
    Client::builder().no_proxy().timeout(super::PATIENCE).build().expect("an HTTP client")
}

/// Counts how often each value comes.
pub(crate) fn tally<T: Ord>(values: impl IntoIterator<Item = T>) -> BTreeMap<T, usize> {
    let mut counts = BTreeMap::new();
    for value in values {
        *counts.entry(value).or_default() += 1;
    }
    counts
}
