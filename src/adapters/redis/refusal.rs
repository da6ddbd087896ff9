//! The reasons for which Redis does not serve: classified by code, counted, logged once a minute, and kept for the readiness probe.

use std::collections::HashMap;
use std::error::Error;
use std::io;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use bb8_redis::redis::{ErrorKind, RedisError, make_extension_error};

use crate::metrics::Metrics;

/// One line a code in the log, at most so often.
const LOG_EVERY: Duration = Duration::from_mins(1);

/// A refused command stays the cause that `/readyz?verbose` names for so long. A refused connection stays it until a connection
/// is accepted.
const RECENT: Duration = Duration::from_secs(10);

/// One kind of refusal.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Refusal {
    /// The first word of Redis's error, or a word of this file: a metric label, so a closed set.
    pub(super) code: &'static str,
    reach: Reach,
    reason: &'static str,
}

/// How much of Redis a refusal puts out of reach.
#[derive(Debug, PartialEq, Eq)]
enum Reach {
    /// The server behind the connection is the wrong one, or not ready: another connection may lead to the right one.
    Server,
    /// All commands, on any connection.
    All,
    /// This command. Others are served: a full server replays what is stored.
    Command,
}

const fn refusal(code: &'static str, reach: Reach, reason: &'static str) -> Refusal {
    Refusal { code, reach, reason }
}

pub(super) static REPLICA: Refusal = refusal("REPLICA", Reach::Server, "the URL leads to a replica: name the primary");
pub(super) static CLUSTER: Refusal =
    refusal("CLUSTER", Reach::Server, "the URL leads to a node of a Redis Cluster: only a single server is supported");
pub(super) static SENTINEL: Refusal = refusal("SENTINEL", Reach::Server, "the URL leads to a Sentinel: name the primary that it watches");
static CERTIFICATE: Refusal = refusal("CERTIFICATE", Reach::All, "the server's certificate is not trusted: see redis.ca_file");
static TLS: Refusal = refusal("TLS", Reach::All, "the TLS handshake failed: is TLS on at that port?");
static OTHER: Refusal = refusal("other", Reach::Command, "the server answered with an error of another code");

/// What Redis says by itself. To add a code: one line here; the metric and `/readyz?verbose` follow.
static SAID: [Refusal; 16] = [
    refusal("READONLY", Reach::Server, "the server has become a replica"),
    refusal("LOADING", Reach::Server, "the server is loading its data"),
    refusal("MASTERDOWN", Reach::Server, "the server is a replica without its primary"),
    refusal("CLUSTERDOWN", Reach::Server, "the server's cluster is down"),
    refusal("MOVED", Reach::All, "the server is a node of a Redis Cluster"),
    refusal("ASK", Reach::All, "the server is a node of a Redis Cluster"),
    refusal("CROSSSLOT", Reach::Command, "the server is a node of a Redis Cluster"),
    refusal("NOAUTH", Reach::All, "the server wants a password"),
    refusal("WRONGPASS", Reach::All, "the server refused user and password"),
    refusal("NOPERM", Reach::All, "the user lacks a right: see README, \"The least that Redis has to allow\""),
    refusal("BUSY", Reach::All, "a script of another client does not end"),
    refusal("MISCONF", Reach::Command, "the server takes no writes, since it could not save"),
    refusal("OOM", Reach::Command, "the server is full: see maxmemory and maxmemory-policy"),
    refusal("NOREPLICAS", Reach::Command, "the server takes no writes with so few replicas: see min-replicas-to-write"),
    refusal("ERR", Reach::Command, "the server answered with an error"),
    refusal("WRONGTYPE", Reach::Command, "a key holds a value of another program"),
];

impl Refusal {
    /// Which kind an error is. `None`: the server did not refuse; there is no answer, or none that this program understands.
    pub(super) fn of(error: &RedisError) -> Option<&'static Self> {
        if error.kind() == ErrorKind::AuthenticationFailed {
            return named("WRONGPASS");
        }
        let server_errors = error.clone().into_server_errors();
        let Some((_, error)) = server_errors.as_ref().and_then(|errors| errors.first()) else { return of_tls(error) };
        let met_by_script = error.details().filter(|_| error.code() == "ERR").and_then(met_by_script);
        met_by_script.or_else(|| named(error.code())).or(Some(&OTHER))
    }

    /// Whether a connection that gave this answer, and all others to the same server, are to be replaced.
    pub(super) fn retires(&self) -> bool {
        self.reach == Reach::Server
    }

    /// Whether the server serves other commands.
    pub(super) fn is_partial(&self) -> bool {
        self.reach == Reach::Command
    }

    /// As an error that [`Refusal::of`] recognises.
    pub(super) fn error(&self) -> RedisError {
        make_extension_error(self.code.to_owned(), None)
    }
}

/// Redis before 7 reports what a script met as `ERR Error running script (…): … -READONLY …`.
fn met_by_script(details: &str) -> Option<&'static Refusal> {
    details.strip_prefix("Error running script")?.split(" -").find_map(|rest| named(rest.split(' ').next()?))
}

fn named(code: &str) -> Option<&'static Refusal> {
    let own = [&REPLICA, &CLUSTER, &SENTINEL];
    SAID.iter().chain(own).find(|refusal| refusal.code == code)
}

fn of_tls(error: &RedisError) -> Option<&'static Refusal> {
    // What is behind the `Arc` is out of reach of a plain downcast.
    let cause = error.source()?.downcast_ref::<Arc<dyn Error + Send + Sync>>()?;
    let cause = cause.downcast_ref::<io::Error>()?.get_ref()?;
    match cause.downcast_ref::<rustls::Error>()? {
        rustls::Error::InvalidCertificate(_) => Some(&CERTIFICATE),
        _ => Some(&TLS),
    }
}

/// A call that Redis refused. Nothing has changed there.
#[derive(Debug, thiserror::Error)]
#[error("Redis refused: {}", .0.code)]
pub(super) struct Refused(pub(super) &'static Refusal);

/// The refusals of one pool.
pub(super) struct Refusals {
    dependency: &'static str,
    metrics: Arc<Metrics>,
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    logged: HashMap<&'static str, Instant>,
    connection: Option<NoConnection>,
    command: Option<(&'static Refusal, Instant)>,
}

/// Why the last connection could not be made.
enum NoConnection {
    Refused(&'static Refusal),
    Failed(String),
}

impl Refusals {
    /// `dependency` is the pool's name in metrics and logs.
    pub(super) fn new(dependency: &'static str, metrics: Arc<Metrics>) -> Self {
        Self { dependency, metrics, state: Mutex::default() }
    }

    /// A command was refused.
    pub(super) fn command_refused(&self, refusal: &'static Refusal) {
        self.count(refusal);
        self.state().command = Some((refusal, Instant::now()));
    }

    /// No connection was made.
    pub(super) fn not_connected(&self, error: &RedisError) {
        let reason = match Refusal::of(error) {
            Some(refusal) => {
                self.count(refusal);
                NoConnection::Refused(refusal)
            }
            None => NoConnection::Failed(error.to_string()),
        };
        self.state().connection = Some(reason);
    }

    /// A connection was made; `to_another`: to another server than the one before.
    pub(super) fn connected(&self, to_another: bool) {
        let mut state = self.state();
        state.connection = None;
        if to_another {
            state.command = None;
        }
    }

    /// The code that keeps Redis from serving all that it is asked for, or did so a moment ago.
    pub(super) fn recent(&self) -> Option<&'static str> {
        let state = self.state();
        if let Some(NoConnection::Refused(refusal)) = state.connection {
            return Some(refusal.code);
        }
        state.command.filter(|(_, at)| at.elapsed() < RECENT).map(|(refusal, _)| refusal.code)
    }

    /// Why there is no connection to be had, as an error.
    pub(super) fn no_connection(&self) -> anyhow::Error {
        match &self.state().connection {
            Some(NoConnection::Refused(refusal)) => Refused(refusal).into(),
            Some(NoConnection::Failed(error)) => anyhow::anyhow!("{error}"),
            None => anyhow::anyhow!("no connection in time"),
        }
    }

    /// Whether it is time for a line of that kind.
    pub(super) fn may_log(&self, kind: &'static str) -> bool {
        let (now, mut state) = (Instant::now(), self.state());
        let due = state.logged.get(kind).is_none_or(|last| now.saturating_duration_since(*last) >= LOG_EVERY);
        if due {
            state.logged.insert(kind, now);
        }
        due
    }

    /// The pool's name in metrics and logs.
    pub(super) fn dependency(&self) -> &'static str {
        self.dependency
    }

    fn count(&self, refusal: &'static Refusal) {
        self.metrics.redis_refused(self.dependency, refusal.code);
        if self.may_log(refusal.code) {
            tracing::warn!(
                event = "redis_refused",
                dependency = self.dependency,
                code = refusal.code,
                reason = refusal.reason,
                "Redis refused"
            );
        }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn code(code: &str, detail: &str) -> Option<&'static str> {
        Refusal::of(&make_extension_error(code.to_owned(), Some(detail.to_owned()))).map(|refusal| refusal.code)
    }

    #[test]
    fn a_refusal_goes_by_its_first_word_and_an_unknown_one_by_other() {
        for known in SAID.iter().chain([&REPLICA, &CLUSTER, &SENTINEL]) {
            assert_eq!(code(known.code, "details"), Some(known.code));
        }
        assert_eq!(code("UNHEARDOF", "details"), Some("other"));
    }

    #[test]
    fn no_answer_is_no_refusal() {
        for kind in [io::ErrorKind::BrokenPipe, io::ErrorKind::TimedOut, io::ErrorKind::ConnectionRefused] {
            assert_eq!(Refusal::of(&io::Error::from(kind).into()), None);
        }
    }

    #[test]
    fn a_failed_handshake_says_whether_it_is_for_the_certificate() {
        let failed = |error: rustls::Error| Refusal::of(&io::Error::new(io::ErrorKind::InvalidData, error).into());
        let untrusted = rustls::Error::InvalidCertificate(rustls::CertificateError::UnknownIssuer);
        assert_eq!(failed(untrusted), Some(&CERTIFICATE));
        assert_eq!(failed(rustls::Error::DecryptError), Some(&TLS));
    }

    #[test]
    fn what_a_script_met_is_found_in_the_words_of_redis_6() {
        let words =
            "Error running script (call to f_b6): @user_script:1: @user_script: 1: -READONLY You can't write against a read only replica.";
        assert_eq!(code("ERR", words), Some("READONLY"));
        assert_eq!(code("ERR", "unknown command 'MGET', with args beginning with: -READONLY"), Some("ERR"));
    }
}
