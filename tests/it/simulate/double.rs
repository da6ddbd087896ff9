//! A service with a defect: it stands before a right one, and spoils what goes through.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use actix_web::dev::ServerHandle;
use actix_web::web::{self, Data, Payload};
use actix_web::{App, HttpRequest, HttpResponse, HttpServer};
use futures_util::StreamExt;
use reqwest::header::{CONTENT_LENGTH, HeaderMap, HeaderName, HeaderValue, TRANSFER_ENCODING};
use reqwest::{Client, Method};
use serde_json::Value;

use crate::support::{Reply, client, send, sign};

/// A request on its way.
pub(super) struct Call {
    pub(super) path: String,
    pub(super) headers: HeaderMap,
    pub(super) body: Vec<u8>,
    /// In how many pieces the body came.
    pub(super) pieces: usize,
    /// Whether it came to its end.
    pub(super) whole: bool,
}

impl Call {
    pub(super) fn has(&self, text: &str) -> bool {
        String::from_utf8_lossy(&self.body).contains(text)
    }

    pub(super) fn header(&self, name: &str) -> Option<&str> {
        self.headers.get(name).map(|value| value.to_str().expect("text"))
    }

    pub(super) fn set(&mut self, name: &'static str, value: &str) {
        self.headers.insert(HeaderName::from_static(name), value.parse().expect("a value"));
    }

    /// Replaces text of a lookup, and signs what comes of it.
    pub(super) fn replace(&mut self, text: &str, by: &str) {
        self.body = String::from_utf8_lossy(&self.body).replace(text, by).into_bytes();
        self.sign();
    }

    pub(super) fn sign(&mut self) {
        let signature = sign(&self.body);
        self.set("x-cxone-signature", &signature);
    }
}

type Before = Box<dyn Fn(&mut Call) -> Option<Reply> + Send + Sync>;
type After = Box<dyn Fn(&mut Reply) + Send + Sync>;

/// What is wrong.
pub(super) struct Defect {
    /// Changes the request, or answers it at once.
    before: Before,
    after: After,
    delay: Duration,
}

impl Defect {
    pub(super) fn none() -> Self {
        Self::after(|_| {})
    }

    pub(super) fn before(change: impl Fn(&mut Call) -> Option<Reply> + Send + Sync + 'static) -> Self {
        Self { before: Box::new(change), ..Self::none() }
    }

    /// In the request alone.
    pub(super) fn request(change: impl Fn(&mut Call) + Send + Sync + 'static) -> Self {
        Self::before(move |call| {
            change(call);
            None
        })
    }

    /// This answer where the request is such.
    pub(super) fn answer(
        wanted: impl Fn(&Call) -> bool + Send + Sync + 'static,
        reply: impl Fn() -> Reply + Send + Sync + 'static,
    ) -> Self {
        Self::before(move |call| wanted(call).then(&reply))
    }

    pub(super) fn every_other_time(reply: impl Fn() -> Reply + Send + Sync + 'static) -> Self {
        let count = AtomicUsize::new(0);
        Self::answer(move |_| count.fetch_add(1, Ordering::Relaxed) % 2 == 1, reply)
    }

    pub(super) fn after(change: impl Fn(&mut Reply) + Send + Sync + 'static) -> Self {
        Self { before: Box::new(|_| None), after: Box::new(change), delay: Duration::ZERO }
    }

    /// In answers with that status.
    pub(super) fn status(status: u16, change: impl Fn(&mut Reply) + Send + Sync + 'static) -> Self {
        Self::after(move |reply| {
            if reply.status == status {
                change(reply);
            }
        })
    }

    /// In the JSON of answers with that status.
    pub(super) fn json(status: u16, change: impl Fn(&mut Value) + Send + Sync + 'static) -> Self {
        Self::status(status, move |reply| {
            let mut json = reply.json();
            change(&mut json);
            reply.body = json.to_string().into_bytes();
        })
    }

    /// In the output of lookups that have found two customers at least.
    pub(super) fn output(change: impl Fn(&mut Value) + Send + Sync + 'static) -> Self {
        Self::json(200, move |json| {
            if json["output"]["customers"].as_array().is_some_and(|customers| customers.len() >= 2) {
                change(&mut json["output"]);
            }
        })
    }

    pub(super) fn slow(delay: Duration) -> Self {
        Self { delay, ..Self::none() }
    }
}

/// Listens until it is dropped.
pub(super) struct Double {
    pub(super) url: String,
    defect: Arc<Mutex<Arc<Defect>>>,
    handle: ServerHandle,
}

struct Behind {
    url: String,
    client: Client,
    defect: Arc<Mutex<Arc<Defect>>>,
}

impl Double {
    /// Without a defect, before the service at that URL.
    pub(super) fn before(url: &str) -> Self {
        let defect = Arc::new(Mutex::new(Arc::new(Defect::none())));
        let behind = Data::new(Behind { url: url.to_owned(), client: client(), defect: Arc::clone(&defect) });
        let server = HttpServer::new(move || App::new().app_data(behind.clone()).default_service(web::to(pass)));
        let server = server.workers(1).disable_signals().bind(("127.0.0.1", 0)).expect("a free port");
        let url = format!("http://{}", server.addrs()[0]);
        let running = server.run();
        let handle = running.handle();
        tokio::spawn(running);
        Self { url, defect, handle }
    }

    /// Has this defect from now on.
    pub(super) fn spoil(&self, defect: Defect) {
        *self.defect.lock().expect("nobody panicked") = Arc::new(defect);
    }
}

impl Drop for Double {
    fn drop(&mut self) {
        drop(self.handle.stop(false));
    }
}

async fn pass(request: HttpRequest, mut payload: Payload, behind: Data<Behind>) -> HttpResponse {
    let defect = Arc::clone(&behind.defect.lock().expect("nobody panicked"));
    let headers =
        request.headers().iter().map(|(name, value)| (translated(name.as_str()), HeaderValue::from_bytes(value.as_bytes()).unwrap()));
    let mut call = Call { path: request.path().to_owned(), headers: headers.collect(), body: Vec::new(), pieces: 0, whole: true };
    while let Some(piece) = payload.next().await {
        match piece {
            Ok(piece) => call.body.extend_from_slice(&piece),
            Err(_) => call.whole = false,
        }
        call.pieces += 1;
    }
    let answered = (defect.before)(&mut call);
    tokio::time::sleep(defect.delay).await;
    let mut reply = match answered {
        Some(reply) => reply,
        None => forward(&behind, call).await,
    };
    (defect.after)(&mut reply);
    let mut response = HttpResponse::build(reply.status.try_into().expect("a status"));
    for (name, value) in &reply.headers {
        response.insert_header((name.as_str(), value.to_str().expect("text")));
    }
    response.body(reply.body)
}

async fn forward(behind: &Behind, mut call: Call) -> Reply {
    call.headers.remove(CONTENT_LENGTH);
    let url = format!("{}{}", behind.url, call.path);
    let mut reply = send(behind.client.request(Method::POST, url).headers(call.headers).body(call.body)).await;
    reply.headers.remove(CONTENT_LENGTH);
    reply.headers.remove(TRANSFER_ENCODING);
    reply
}

fn translated(name: &str) -> HeaderName {
    name.parse().expect("a header's name")
}
