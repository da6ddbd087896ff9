//! What all calls to other services have in common: whom they trust, how long they wait, what their errors mean.

use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::bail;
use bytes::{Bytes, BytesMut};
use reqwest::redirect::Policy;
use reqwest::{Client, RequestBuilder, Response, Url};

use super::tls;
use crate::metrics::Metrics;

/// For the connection itself, TLS included.
const CONNECT: Duration = Duration::from_secs(2);

/// How long a connection may take, out of a timeout for the whole exchange.
pub(super) fn connect_timeout(timeout: Duration) -> Duration {
    CONNECT.min(timeout / 4)
}

/// Idle connections are given up before the other side does so: Node.js closes its own after 5 s, and a request that meets
/// the closing fails.
const IDLE: Duration = Duration::from_secs(4);

/// `timeout`: for the whole exchange. Redirects are not followed: a request with secrets in it goes where the settings say, and
/// nowhere else. Nothing that was begun is sent again but by this crate.
pub fn client(ca_file: Option<&Path>, timeout: Duration) -> anyhow::Result<Client> {
    let client = Client::builder()
        .tls_backend_preconfigured(tls::client_config(ca_file, true)?)
        .redirect(Policy::none())
        .retry(reqwest::retry::never())
        .no_proxy()
        .connect_timeout(connect_timeout(timeout))
        .read_timeout(timeout)
        .timeout(timeout)
        .pool_idle_timeout(IDLE);
    Ok(client.build()?)
}

/// The whole body, at most so long.
pub async fn body(mut response: Response, most: usize) -> anyhow::Result<Bytes> {
    let mut body = BytesMut::new();
    while let Some(chunk) = response.chunk().await.map_err(reqwest::Error::without_url)? {
        if body.len() + chunk.len() > most {
            bail!("the answer is longer than {most} bytes");
        }
        body.extend_from_slice(&chunk);
    }
    Ok(body.freeze())
}

/// Why a call has no answer, by what follows from it.
#[derive(Debug, thiserror::Error)]
pub(super) enum CallError {
    /// There was no connection: nothing was sent.
    #[error("connect")]
    NotSent(#[source] anyhow::Error),
    /// It was sent, perhaps, and nobody knows what became of it.
    #[error("get the answer")]
    Lost(#[source] anyhow::Error),
}

/// Calls to one service, counted.
pub(super) struct Outbound {
    client: Client,
    dependency: &'static str,
    metrics: Arc<Metrics>,
}

impl Outbound {
    /// `dependency` is its name in metrics.
    pub(super) fn new(dependency: &'static str, ca_file: Option<&Path>, timeout: Duration, metrics: Arc<Metrics>) -> anyhow::Result<Self> {
        Ok(Self { client: client(ca_file, timeout)?, dependency, metrics })
    }

    pub(super) fn post(&self, url: Url) -> RequestBuilder {
        self.client.post(url)
    }

    /// Sends a call, once, and gives the answer as soon as its head is there.
    pub(super) async fn send(&self, call: RequestBuilder) -> Result<Response, CallError> {
        let began = Instant::now();
        // Without the URL, which says more than a log should.
        let answer = call.send().await.map_err(|error| {
            let sent = !error.is_connect() && !error.is_builder();
            let error = error.without_url().into();
            if sent { CallError::Lost(error) } else { CallError::NotSent(error) }
        });
        let outcome = match &answer {
            Ok(response) => match response.status().as_u16() {
                ..=299 => "2xx",
                300..=399 => "3xx",
                429 => "429",
                400..=499 => "4xx",
                500.. => "5xx",
            },
            Err(CallError::NotSent(_)) => "not_sent",
            Err(CallError::Lost(_)) => "lost",
        };
        self.metrics.called(self.dependency, outcome, began.elapsed());
        answer
    }
}
