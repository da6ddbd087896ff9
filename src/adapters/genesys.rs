//! Data actions of Genesys Cloud: `POST …/actions/{id}/execute` with an OAuth client's token.

use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::time::{Duration, Instant};

use anyhow::{Context, anyhow};
use async_trait::async_trait;
use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, utf8_percent_encode};
use reqwest::header::{ACCEPT, AUTHORIZATION, CONTENT_TYPE, HeaderMap};
use reqwest::{Response, StatusCode, Url};
use secrecy::ExposeSecret;
use serde::Deserialize;
use tokio::sync::Semaphore;
use tokio::time::timeout_at;

use super::guard::{Guard, GuardError, GuardSettings};
use super::outbound::{CallError, Outbound, body, connect_timeout};
use super::retry::{Passing, Retries, retry_after};
use super::token::{Grant, Login, LoginError, Tokens, answer};
use super::window::Window;
use crate::app::ports::{DataActionApi, DataActionCall, ExecuteError, Intent};
use crate::config::{self, ACTION_ID, ClientCredentials, below};
use crate::domain::{ActionId, StoredReply};
use crate::metrics::Metrics;

/// The longest answer that is passed on; Genesys itself keeps to 732 KB.
const MAX_ANSWER: usize = 1024 * 1024;

/// What is passed on of an answer's headers. All else belongs to that one exchange.
const HEADERS: [&str; 3] = ["content-type", "content-encoding", "inin-correlation-id"];

/// What an action's id keeps as it is in a path (RFC 3986 section 2.3).
const SEGMENT: &AsciiSet = &NON_ALPHANUMERIC.remove(b'-').remove(b'.').remove(b'_').remove(b'~');

/// Failed connections in a row after which none is tried for a moment. Only those count: an action that is slow or breaks off
/// says nothing about the others. One of those that succeeds meanwhile ends the pause, which does no harm.
const FAILURES: u32 = 10;
const PAUSE: Duration = Duration::from_secs(1);
/// Calls at a time that try it then: more than one, since an action may take long to show that there is a connection.
const PROBES: usize = 8;

/// Executions under way for each call that may be: a Genesys that hangs must not take the places of all other work.
const SEATS: usize = 4;

/// A login's answer.
const LOGIN_TIMEOUT: Duration = Duration::from_secs(5);
/// For a token of which nothing is said (RFC 6749 section 5.1 only recommends `expires_in`).
const UNTOLD_LIFE: Duration = Duration::from_mins(5);

/// The API.
pub struct Genesys {
    outbound: Outbound,
    base_url: Url,
    execute_path: String,
    tokens: Tokens,
    guard: Guard,
    retries: Retries,
    window: Window,
    /// For executions, calls and waits together.
    seats: Semaphore,
    /// For calls.
    places: Semaphore,
    /// No call is begun with less time than this. So one that finds no connection is never taken for one that was sent.
    least: Duration,
}

impl Genesys {
    /// Must be called on the main runtime.
    pub fn new(settings: &config::Genesys, metrics: &Arc<Metrics>) -> anyhow::Result<Self> {
        let ca_file = settings.ca_file.as_deref();
        let login = ClientLogin {
            outbound: Outbound::new("genesys_login", ca_file, LOGIN_TIMEOUT, Arc::clone(metrics))?,
            client: settings.login.clone(),
        };
        // Calls have deadlines of their own, all of them earlier.
        let patience = settings.deadline + Duration::from_secs(1);
        let guard = GuardSettings { deadline: patience, failures: FAILURES, open: PAUSE, probes: PROBES };
        Ok(Self {
            outbound: Outbound::new("genesys", ca_file, settings.deadline, Arc::clone(metrics))?,
            base_url: settings.base_url.clone(),
            execute_path: settings.execute_path.clone(),
            tokens: Tokens::new("genesys_login", Box::new(login), Arc::clone(metrics)),
            guard: Guard::new("genesys", guard, Arc::clone(metrics)),
            retries: Retries::new("genesys", Arc::clone(metrics)),
            window: Window::new(settings.rate_per_minute),
            seats: Semaphore::new(settings.max_in_flight * SEATS),
            places: Semaphore::new(settings.max_in_flight),
            least: connect_timeout(settings.deadline).mul_f64(1.1),
        })
    }

    fn url(&self, action: &ActionId) -> Result<Url, Trouble> {
        let id = utf8_percent_encode(action.as_str(), SEGMENT).to_string();
        let url = below(&self.base_url, &self.execute_path.replace(ACTION_ID, &id)).context("make the URL of the action");
        url.map_err(|error| ExecuteError::Failed(error).into())
    }

    /// One try: a token, a turn, a place, and then the call. A token that is refused is replaced once.
    async fn attempt(&self, call: &DataActionCall, try_: Try<'_>) -> Result<StoredReply, Trouble> {
        let Try { deadline, latest, intent, renewed } = try_;
        let url = self.url(&call.action)?;
        loop {
            let token = timeout_at(latest.into(), self.tokens.current()).await.map_err(|_| ExecuteError::Late)?;
            let token = token.map_err(ExecuteError::NoToken)?;
            self.window.room(latest.into()).await.map_err(ExecuteError::RateLimited)?;
            let Ok(Ok(_place)) = timeout_at(latest.into(), self.places.acquire()).await else { return Err(ExecuteError::Busy.into()) };
            self.window.enter(latest.into()).await.map_err(ExecuteError::RateLimited)?;
            if !intent.record().await.map_err(ExecuteError::NotRecorded)? {
                return Err(ExecuteError::KeyLost.into());
            }
            let now = Instant::now();
            if now >= latest {
                return Err(ExecuteError::Late.into());
            }
            let post = self
                .outbound
                .post(url.clone())
                .timeout(deadline - now)
                .header(AUTHORIZATION, token.bearer.clone())
                .header(CONTENT_TYPE, "application/json")
                .header(ACCEPT, "application/json")
                .header("X-Request-Id", call.request_id.as_str())
                .body(call.input.clone());
            let response = self.guarded(self.outbound.send(post)).await?;
            if self.tokens.call_again(&token, response.status(), renewed) {
                intent.refused();
                continue;
            }
            return understand(response).await;
        }
    }

    /// The breaker knows of failed connections alone.
    async fn guarded(&self, sending: impl Future<Output = Result<Response, CallError>>) -> Result<Response, Trouble> {
        let call = async {
            match sending.await {
                Err(CallError::NotSent(error)) => Err(error),
                sent => Ok(sent),
            }
        };
        match self.guard.call(call).await {
            Ok(Ok(response)) => Ok(response),
            Ok(Err(error)) => Err(Trouble::Final(ExecuteError::Unknown(error.into()))),
            Err(GuardError::Failed(error)) => Err(Trouble::NotSent(error)),
            Err(error @ GuardError::Open) => Err(Trouble::Final(ExecuteError::Failed(error.into()))),
            Err(error @ GuardError::Timeout) => Err(Trouble::Final(ExecuteError::Unknown(error.into()))),
        }
    }
}

/// What belongs to one execution, and to every try of it.
#[derive(Clone, Copy)]
struct Try<'e> {
    deadline: Instant,
    /// No call is begun later than this.
    latest: Instant,
    intent: &'e dyn Intent,
    /// Whether a token was replaced.
    renewed: &'e AtomicBool,
}

/// What an answer means.
async fn understand(response: Response) -> Result<StoredReply, Trouble> {
    let status = response.status();
    match (status.as_u16(), retry_after(response.headers())) {
        (429, pause) => return Err(Trouble::Throttled(pause.unwrap_or_default())),
        // Without a time, it may as well come from somebody in between who lost the connection to whoever was at it.
        (503, Some(pause)) => return Err(Trouble::Unavailable(pause)),
        (200..=299 | 400..=499, _) => {}
        _ => return Err(answered(status)),
    }
    let headers = kept(response.headers());
    match body(response, MAX_ANSWER).await {
        Ok(body) => StoredReply { status: status.as_u16(), headers, body }.sendable().ok_or_else(|| answered(status)),
        Err(error) if status.is_success() => Err(ExecuteError::Unknown(error.context("it was executed")).into()),
        Err(error) => Err(ExecuteError::Failed(error).into()),
    }
}

fn answered(status: StatusCode) -> Trouble {
    ExecuteError::Answered(anyhow!("it answers {status}")).into()
}

fn kept(headers: &HeaderMap) -> Vec<(String, String)> {
    let value = |name: &str| Some((name.to_owned(), headers.get(name)?.to_str().ok()?.to_owned()));
    HEADERS.iter().filter_map(|name| value(name)).collect()
}

/// What went wrong with one try.
enum Trouble {
    /// There was no connection.
    NotSent(anyhow::Error),
    /// 429: it wants no call before this has passed.
    Throttled(Duration),
    /// 503: the same.
    Unavailable(Duration),
    /// There is no point in another try, or no right to one.
    Final(ExecuteError),
}

impl Passing for Trouble {
    fn passes(&self) -> Option<Duration> {
        match self {
            Self::NotSent(_) => Some(Duration::ZERO),
            Self::Throttled(pause) | Self::Unavailable(pause) => Some(*pause),
            Self::Final(_) => None,
        }
    }
}

impl From<ExecuteError> for Trouble {
    fn from(error: ExecuteError) -> Self {
        Self::Final(error)
    }
}

#[async_trait]
impl DataActionApi for Genesys {
    async fn execute(&self, call: &DataActionCall, deadline: Instant, intent: &dyn Intent) -> Result<StoredReply, ExecuteError> {
        let _seat = self.seats.try_acquire().map_err(|_| ExecuteError::Busy)?;
        let latest = deadline.checked_sub(self.least).unwrap_or(deadline);
        let renewed = AtomicBool::new(false);
        let try_ = Try { deadline, latest, intent, renewed: &renewed };
        let attempt = async || {
            let outcome = self.attempt(call, try_).await;
            outcome.inspect_err(|trouble| {
                if trouble.passes().is_some() {
                    intent.refused();
                }
            })
        };
        self.retries.run(latest, attempt).await.map_err(|trouble| match trouble {
            Trouble::NotSent(error) => ExecuteError::Failed(error),
            Trouble::Throttled(pause) => ExecuteError::Throttled(pause),
            Trouble::Unavailable(_) => ExecuteError::Failed(anyhow!("it answers {}", StatusCode::SERVICE_UNAVAILABLE)),
            Trouble::Final(error) => error,
        })
    }
}

/// Client credentials (RFC 6749 section 4.4), the client named by Basic authentication as Genesys wants it.
struct ClientLogin {
    outbound: Outbound,
    client: ClientCredentials,
}

#[derive(Deserialize)]
struct TokenAnswer {
    access_token: String,
    expires_in: Option<f64>,
}

#[async_trait]
impl Login for ClientLogin {
    async fn log_in(&self) -> Result<Grant, LoginError> {
        let post = self
            .outbound
            .post(self.client.url.clone())
            .basic_auth(&self.client.id, Some(self.client.secret.expose_secret()))
            .header(CONTENT_TYPE, "application/x-www-form-urlencoded")
            .header(ACCEPT, "application/json")
            .body("grant_type=client_credentials");
        let text = answer(self.outbound.send(post).await?).await?;
        // serde's message could quote the token.
        let found = serde_json::from_slice::<TokenAnswer>(&text).ok().filter(|answer| !answer.access_token.is_empty());
        let found = found.context("its answer holds no token").map_err(LoginError::Refused)?;
        let told = found.expires_in.and_then(|seconds| Duration::try_from_secs_f64(seconds).ok());
        Ok(Grant { token: found.access_token, lasts: told.unwrap_or(UNTOLD_LIFE) })
    }
}
