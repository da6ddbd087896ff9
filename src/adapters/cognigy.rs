//! Metrics for Cognigy: a bounded queue, and one sender behind everybody's back.

use std::collections::VecDeque;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use anyhow::{Context, anyhow};
use async_trait::async_trait;
use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD as BASE64_URL;
use futures_util::StreamExt;
use futures_util::stream::FuturesUnordered;
use reqwest::header::{AUTHORIZATION, CONTENT_TYPE};
use reqwest::{StatusCode, Url};
use secrecy::{ExposeSecret, SecretString};
use serde::{Deserialize, Serialize};
use tokio::sync::Notify;
use tokio::task::AbortHandle;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use super::guard::{Guard, GuardSettings};
use super::outbound::{Outbound, body};
use super::retry::{pauses, retry_after};
use super::token::{Grant, Login, LoginError, Tokens, answer};
use crate::app::ports::{Datum, MetricSink};
use crate::config::CognigyMetrics;
use crate::metrics::{Fate, Metrics};

/// Calls at a time: at 50 ms each, 160 data a second.
const MAX_IN_FLIGHT: usize = 8;

/// Failures in a row after which nothing is sent for a moment.
const FAILURES: u32 = 10;
const PAUSE: Duration = Duration::from_secs(1);

/// The longest answer that is read, though nobody looks at it.
const MAX_ANSWER: usize = 64 * 1024;

/// For a token of which nothing is said.
const UNTOLD_LIFE: Duration = Duration::from_hours(1);

/// Where data are put, and the task that sends them.
pub struct Cognigy {
    queue: Arc<Queue>,
    closing: CancellationToken,
    /// The sender has sent everything.
    done: CancellationToken,
    sender: AbortHandle,
}

/// What waits to be sent, the oldest first.
struct Queue {
    data: Mutex<VecDeque<Datum>>,
    /// Those, and those that are being sent.
    unsettled: AtomicUsize,
    most: usize,
    filled: Notify,
    metrics: Arc<Metrics>,
}

impl Queue {
    fn data(&self) -> MutexGuard<'_, VecDeque<Datum>> {
        self.data.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Puts a datum at the end, in the place of the oldest where there is no other.
    fn push(&self, datum: Datum) {
        self.unsettled.fetch_add(1, Ordering::Relaxed);
        let mut data = self.data();
        if data.len() >= self.most {
            data.pop_front();
            self.settle(Fate::Dropped);
        }
        data.push_back(datum);
        self.metrics.waiting(data.len());
        drop(data);
        self.filled.notify_one();
    }

    /// Puts one back that was not sent. It is the oldest.
    fn put_back(&self, datum: Datum) {
        let mut data = self.data();
        if data.len() >= self.most {
            self.settle(Fate::Dropped);
        } else {
            data.push_front(datum);
        }
        self.metrics.waiting(data.len());
    }

    /// One more of which nothing is left to do.
    fn settle(&self, fate: Fate) {
        self.unsettled.fetch_sub(1, Ordering::Relaxed);
        self.metrics.told(fate, 1);
    }

    fn take(&self) -> Option<Datum> {
        let mut data = self.data();
        let datum = data.pop_front();
        self.metrics.waiting(data.len());
        datum
    }
}

impl MetricSink for Cognigy {
    fn push(&self, datum: Datum) {
        self.queue.push(datum);
    }
}

impl Cognigy {
    /// Must be called on the main runtime: the sender runs there.
    pub fn new(settings: &CognigyMetrics, metrics: &Arc<Metrics>) -> anyhow::Result<Self> {
        let (ca_file, timeout) = (settings.ca_file.as_deref(), settings.timeout);
        let login = PasswordLogin {
            outbound: Outbound::new("cognigy_login", ca_file, timeout, Arc::clone(metrics))?,
            url: settings.login_url.clone(),
            username: settings.username.clone(),
            password: settings.password.clone(),
        };
        let guard = GuardSettings { deadline: timeout * 2 + Duration::from_secs(1), failures: FAILURES, open: PAUSE, probes: 1 };
        let queue = Arc::new(Queue {
            data: Mutex::default(),
            unsettled: AtomicUsize::new(0),
            most: settings.queue,
            filled: Notify::new(),
            metrics: Arc::clone(metrics),
        });
        let sender = Sender {
            outbound: Outbound::new("cognigy", ca_file, timeout, Arc::clone(metrics))?,
            url: settings.metrics_url.clone(),
            tokens: Tokens::new("cognigy_login", Box::new(login), Arc::clone(metrics)),
            guard: Guard::new("cognigy", guard, Arc::clone(metrics)),
            queue: Arc::clone(&queue),
        };
        let (closing, done) = (CancellationToken::new(), CancellationToken::new());
        let ended = done.clone().drop_guard();
        let sending = sender.run(closing.clone());
        let task = tokio::spawn(async move {
            let _ended = ended;
            sending.await;
        });
        Ok(Self { queue, closing, done, sender: task.abort_handle() })
    }

    /// Waits until everything is sent. Nobody must put in more.
    pub async fn flush(&self) {
        self.closing.cancel();
        self.done.cancelled().await;
    }

    /// Gives up what is not sent yet.
    pub fn close(&self) {
        self.sender.abort();
        let left = self.queue.unsettled.swap(0, Ordering::Relaxed);
        if left > 0 {
            self.queue.metrics.told(Fate::Dropped, left);
            tracing::warn!(left, "data for Cognigy were not sent in time");
        }
    }
}

/// The one who sends.
struct Sender {
    outbound: Outbound,
    url: Url,
    tokens: Tokens,
    guard: Guard,
    queue: Arc<Queue>,
}

/// What became of one call.
enum Sent {
    /// It was taken, or refused for good.
    Settled(Fate),
    /// It may be taken later, not before this has passed.
    Later(Datum, Duration),
}

impl Sender {
    async fn run(self, closing: CancellationToken) {
        let mut under_way = FuturesUnordered::new();
        let mut resume = Instant::now();
        let mut drawn = pauses();
        loop {
            let paused = Instant::now() < resume;
            if !paused && under_way.len() < MAX_IN_FLIGHT {
                if let Some(datum) = self.queue.take() {
                    under_way.push(self.send(datum));
                    continue;
                }
                if under_way.is_empty() && closing.is_cancelled() {
                    return;
                }
            }
            tokio::select! {
                Some(sent) = under_way.next() => match sent {
                    Sent::Settled(fate) => {
                        self.queue.settle(fate);
                        drawn = pauses();
                    }
                    Sent::Later(datum, pause) => {
                        self.queue.put_back(datum);
                        resume = resume.max(Instant::now() + pause.max(drawn.next().unwrap_or_default()));
                    }
                },
                () = tokio::time::sleep_until(resume), if paused => {}
                () = self.queue.filled.notified(), if !paused => {}
                () = closing.cancelled(), if !closing.is_cancelled() => {}
            }
        }
    }

    async fn send(&self, datum: Datum) -> Sent {
        match self.guard.call(self.call(&datum)).await {
            Ok(Ok(fate)) => Sent::Settled(fate),
            Ok(Err(pause)) => Sent::Later(datum, pause),
            Err(error) => {
                tracing::debug!(error = format!("{:#}", anyhow::Error::new(error)), "a datum was not sent");
                Sent::Later(datum, Duration::ZERO)
            }
        }
    }

    /// One call; with a new token once more, where the one at hand was refused. Gives a pause where that is asked for.
    async fn call(&self, datum: &Datum) -> anyhow::Result<Result<Fate, Duration>> {
        let renewed = AtomicBool::new(false);
        loop {
            let token = self.tokens.current().await.context("log in")?;
            let post = self.outbound.post(self.url.clone());
            let post = post.header(AUTHORIZATION, token.bearer.clone()).header(CONTENT_TYPE, "application/json").body(json(datum)?);
            let response = self.outbound.send(post).await?;
            let (status, pause) = (response.status(), retry_after(response.headers()).unwrap_or_default());
            // Read to its end, so that the connection can be used again.
            let _unread = body(response, MAX_ANSWER).await;
            if self.tokens.call_again(&token, status, &renewed) {
                continue;
            }
            return match status {
                StatusCode::TOO_MANY_REQUESTS | StatusCode::SERVICE_UNAVAILABLE => Ok(Err(pause)),
                _ if status.is_success() => Ok(Ok(Fate::Sent)),
                _ if status.is_server_error() => Err(anyhow!("it answers {status}")),
                _ => {
                    tracing::warn!(%status, "Cognigy refuses a datum");
                    Ok(Ok(Fate::Refused))
                }
            };
        }
    }
}

fn json(datum: &Datum) -> serde_json::Result<Vec<u8>> {
    #[derive(Serialize)]
    struct Metric {
        #[serde(rename = "metricName")]
        name: &'static str,
        /// Milliseconds.
        value: f64,
        tags: Tags,
    }
    #[derive(Serialize)]
    struct Tags {
        status: &'static str,
        cache_hit: &'static str,
    }
    let tags = Tags { status: if datum.success { "success" } else { "error" }, cache_hit: if datum.replayed { "true" } else { "false" } };
    // Whole microseconds: what a double adds to them says nothing.
    let value = (datum.latency.as_secs_f64() * 1e6).round() / 1e3;
    serde_json::to_vec(&Metric { name: "webhook_latency_ms", value, tags })
}

/// A user's name and password.
struct PasswordLogin {
    outbound: Outbound,
    url: Url,
    username: String,
    password: SecretString,
}

#[derive(Deserialize)]
struct TokenAnswer {
    token: String,
    #[serde(rename = "expires_in", alias = "expiresIn")]
    expires_in: Option<f64>,
}

#[async_trait]
impl Login for PasswordLogin {
    async fn log_in(&self) -> Result<Grant, LoginError> {
        #[derive(Serialize)]
        struct Credentials<'c> {
            username: &'c str,
            password: &'c str,
        }
        let credentials = Credentials { username: &self.username, password: self.password.expose_secret() };
        let credentials = serde_json::to_vec(&credentials).map_err(|error| LoginError::Refused(error.into()))?;
        let post = self.outbound.post(self.url.clone()).header(CONTENT_TYPE, "application/json").body(credentials);
        let text = answer(self.outbound.send(post).await?).await?;
        let found = serde_json::from_slice::<TokenAnswer>(&text).ok().filter(|answer| !answer.token.is_empty());
        let found = found.context("its answer holds no token").map_err(LoginError::Refused)?;
        let told = found.expires_in.and_then(|seconds| Duration::try_from_secs_f64(seconds).ok());
        let lasts = told.or_else(|| left_of(&found.token)).unwrap_or(UNTOLD_LIFE);
        Ok(Grant { token: found.token, lasts })
    }
}

/// What is left of a token's life, where it says so itself: the `exp` of a JWT (RFC 7519 section 4.1.4). Its signature is
/// nothing to us.
fn left_of(token: &str) -> Option<Duration> {
    #[derive(Deserialize)]
    struct Claims {
        exp: f64,
    }
    let claims = BASE64_URL.decode(token.split('.').nth(1)?.trim_end_matches('=')).ok()?;
    let end = Duration::try_from_secs_f64(serde_json::from_slice::<Claims>(&claims).ok()?.exp).ok()?;
    Some(end.saturating_sub(SystemTime::now().duration_since(UNIX_EPOCH).ok()?))
}
