//! Bearer tokens: one login for all who wait, renewed early, dropped where they are refused.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use anyhow::Context;
use async_trait::async_trait;
use futures_util::FutureExt;
use futures_util::future::{BoxFuture, Shared};
use reqwest::header::HeaderValue;
use reqwest::{Response, StatusCode};
use tokio::runtime::Handle;

use super::guard::{Guard, GuardSettings};
use super::outbound::{CallError, body};
use super::retry::{Passing, Retries, retry_after};
use crate::metrics::Metrics;

/// For one login, its retries included.
const PATIENCE: Duration = Duration::from_secs(10);

/// After a login that failed there is none for so long: a wrong secret must not lock the account, nor a login that is down be
/// kept down.
const PAUSE: Duration = Duration::from_secs(5);

/// A token is not used any more so long before its end, and renewed from twice that: a tenth of its life, and no more than
/// this.
const LONGEST_MARGIN: Duration = Duration::from_mins(1);

/// The shortest and the longest that a token is believed to last: what is over at once, by its own account or by another clock,
/// is still tried.
const LIFE: (Duration, Duration) = (Duration::from_secs(1), Duration::from_hours(30 * 24));

/// The longest answer of a login that is read.
const MAX_ANSWER: usize = 64 * 1024;

/// How a token is got.
#[async_trait]
pub(super) trait Login: Send + Sync {
    /// Logs in, once.
    async fn log_in(&self) -> Result<Grant, LoginError>;
}

/// What a login gives.
pub(super) struct Grant {
    /// The token.
    pub(super) token: String,
    /// How long it is good for.
    pub(super) lasts: Duration,
}

/// Why there is no token.
#[derive(Debug, thiserror::Error)]
pub(super) enum LoginError {
    /// It may be there after so long.
    #[error("it cannot be reached")]
    Passing(Duration, #[source] anyhow::Error),
    /// It was refused.
    #[error("it is refused")]
    Refused(#[source] anyhow::Error),
}

impl Passing for LoginError {
    fn passes(&self) -> Option<Duration> {
        if let Self::Passing(pause, _) = self { Some(*pause) } else { None }
    }
}

impl From<CallError> for LoginError {
    /// A login may be asked for twice.
    fn from(error: CallError) -> Self {
        Self::Passing(Duration::ZERO, error.into())
    }
}

/// The body of a login's answer, where it is one that holds a token.
pub(super) async fn answer(response: Response) -> Result<Vec<u8>, LoginError> {
    let status = response.status();
    let again = retry_after(response.headers()).unwrap_or_default();
    if status.is_server_error() || status == StatusCode::TOO_MANY_REQUESTS {
        return Err(LoginError::Passing(again, anyhow::anyhow!("it answers {status}")));
    }
    if !status.is_success() {
        return Err(LoginError::Refused(anyhow::anyhow!("it answers {status}")));
    }
    body(response, MAX_ANSWER).await.map(Into::into).map_err(|error| LoginError::Passing(Duration::ZERO, error))
}

/// A token in use.
pub(super) struct Token {
    /// The value of `Authorization`.
    pub(super) bearer: HeaderValue,
    worked: AtomicBool,
}

/// How a login ends for all who wait for it: with a token, or with the words that say why not.
type Flight = Shared<BoxFuture<'static, Result<Arc<Token>, String>>>;

/// The token of one account.
pub(super) struct Tokens(Arc<Shelf>);

struct Shelf {
    login: Box<dyn Login>,
    guard: Guard,
    retries: Retries,
    runtime: Handle,
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    held: Option<Held>,
    /// A login that is under way.
    flight: Option<Flight>,
    /// When a token was refused that had never worked.
    refused: Option<Instant>,
}

struct Held {
    token: Arc<Token>,
    renew: Instant,
    end: Instant,
}

impl Tokens {
    /// Must be called on the main runtime: logins run there. `dependency` is the login's name in metrics.
    pub(super) fn new(dependency: &'static str, login: Box<dyn Login>, metrics: Arc<Metrics>) -> Self {
        let settings = GuardSettings { deadline: PATIENCE + Duration::from_secs(1), failures: 1, open: PAUSE, probes: 1 };
        let guard = Guard::new(dependency, settings, Arc::clone(&metrics));
        let retries = Retries::new(dependency, metrics);
        Self(Arc::new(Shelf { login, guard, retries, runtime: Handle::current(), state: Mutex::default() }))
    }

    /// The token, from a login where there is none. Whoever goes away does not end a login that others wait for.
    pub(super) async fn current(&self) -> anyhow::Result<Arc<Token>> {
        let flight = {
            let mut state = self.0.state();
            let now = Instant::now();
            if let Some(held) = state.held.as_ref().filter(|held| now < held.end) {
                let token = Arc::clone(&held.token);
                if now >= held.renew && state.flight.is_none() {
                    state.flight = Some(self.0.take_off());
                }
                return Ok(token);
            }
            state.flight.get_or_insert_with(|| self.0.take_off()).clone()
        };
        flight.await.map_err(anyhow::Error::msg)
    }

    /// Whether a call is to be made again, with another token, for this one was refused; once at most, which `renewed` tells.
    pub(super) fn call_again(&self, token: &Arc<Token>, status: StatusCode, renewed: &AtomicBool) -> bool {
        if status != StatusCode::UNAUTHORIZED {
            token.worked.store(true, Ordering::Relaxed);
            return false;
        }
        !renewed.swap(true, Ordering::Relaxed) && self.drop_token(token)
    }

    /// Uses this token no more: it was refused. Somebody else may have dropped it already, and have a new one. False: one new
    /// token after the other is refused, and another one would not help.
    fn drop_token(&self, refused: &Arc<Token>) -> bool {
        let mut state = self.0.state();
        if !state.held.as_ref().is_some_and(|held| Arc::ptr_eq(&held.token, refused)) {
            return true;
        }
        if !refused.worked.load(Ordering::Relaxed) {
            let now = Instant::now();
            if state.refused.is_some_and(|before| now < before + PAUSE) {
                return false;
            }
            state.refused = Some(now);
        }
        state.held = None;
        true
    }
}

impl Shelf {
    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A login in a task of its own.
    fn take_off(self: &Arc<Self>) -> Flight {
        let this = Arc::clone(self);
        let flight = async move { this.log_in().await.map_err(|error| format!("{error:#}")) }.boxed().shared();
        self.runtime.spawn(flight.clone());
        flight
    }

    async fn log_in(&self) -> anyhow::Result<Arc<Token>> {
        let log_in = async {
            let Grant { token, lasts } = self.retries.run(Instant::now() + PATIENCE, || self.login.log_in()).await?;
            let mut bearer = HeaderValue::from_str(&format!("Bearer {token}")).context("the token is not one that can be sent")?;
            bearer.set_sensitive(true);
            Ok((Arc::new(Token { bearer, worked: AtomicBool::new(false) }), lasts.clamp(LIFE.0, LIFE.1)))
        };
        let outcome = self.guard.call(log_in).await;
        let mut state = self.state();
        state.flight = None;
        let (token, lasts) = outcome?;
        let (now, margin) = (Instant::now(), (lasts / 10).min(LONGEST_MARGIN));
        let end = now + lasts.saturating_sub(margin);
        state.held = Some(Held { token: Arc::clone(&token), renew: now + lasts.saturating_sub(2 * margin), end });
        Ok(token)
    }
}
