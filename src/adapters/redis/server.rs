//! The server at the other end of a pool's connections: recognised when a connection is made, so that a pool is never over two.

use std::io;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, PoisonError};

use bb8_redis::redis::aio::MultiplexedConnection;
use bb8_redis::redis::{Pipeline, RedisError, RedisResult};

use super::refusal::{CLUSTER, REPLICA, Refusal, SENTINEL};

/// The server that the newest connection leads to, numbered by generation.
#[derive(Default)]
pub(super) struct Server {
    known: Mutex<Known>,
    generation: AtomicU64,
    attempts: AtomicU64,
}

/// Where an attempt to connect stands among the others: the later one has resolved the name later.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Attempt(u64);

#[derive(Default)]
struct Known {
    identity: Option<Identity>,
    /// The latest attempt that led there.
    attempt: Attempt,
}

/// A process, and a history of its data. A restart changes the first; a promotion, after which the data may be another server's,
/// the second.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Identity {
    run_id: String,
    replication_id: String,
}

/// What a server says of itself.
pub(super) struct Introduction {
    identity: Option<Identity>,
    refusal: Option<RedisError>,
}

/// The server that a connection leads to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Met {
    /// The same as before.
    Same(u64),
    /// Another one: older generations are void.
    Other(u64),
    /// A server that does not name itself, so that it may always be another one.
    Nameless,
}

impl Introduction {
    /// Asks a server to introduce itself, in one round trip.
    pub(super) async fn of(socket: &mut MultiplexedConnection) -> RedisResult<Self> {
        let mut questions = Pipeline::new();
        questions.cmd("PING");
        // One section each: before Redis 7, INFO takes no more than one.
        for section in ["server", "replication", "cluster"] {
            questions.cmd("INFO").arg(section);
        }
        let answers: Vec<RedisResult<String>> = questions.ignore_errors().query_async(socket).await?;
        Ok(Self::read(answers))
    }

    fn read(answers: Vec<RedisResult<String>>) -> Self {
        let (mut text, mut refusal) = (String::new(), None);
        for answer in answers {
            match answer {
                Ok(answer) => text.extend([&answer, "\n"]),
                Err(error) => refusal = refusal.or_else(|| keeps_from_serving(error)),
            }
        }
        let field = |name: &str| text.lines().find_map(|line| Some(line.strip_prefix(name)?.strip_prefix(':')?.trim()));
        // Valkey says `server_mode` for Redis's `redis_mode`.
        let mode = field("redis_mode").or_else(|| field("server_mode"));
        let role = match (mode, field("cluster_enabled"), field("role")) {
            (Some("sentinel"), ..) => Some(&SENTINEL),
            // Also one that has all slots: scripts that mark customers of several tenants are refused there (CROSSSLOT).
            (Some("cluster"), ..) | (_, Some("1"), _) => Some(&CLUSTER),
            (.., Some("slave" | "replica")) => Some(&REPLICA),
            _ => None,
        };
        let identity = field("run_id")
            .map(|run_id| Identity { run_id: run_id.to_owned(), replication_id: field("master_replid").unwrap_or_default().to_owned() });
        Self { identity, refusal: refusal.or_else(|| role.map(Refusal::error)) }
    }
}

/// A server that may not be asked for its name, or that takes no writes for now, can still serve.
fn keeps_from_serving(error: RedisError) -> Option<RedisError> {
    Refusal::of(&error).filter(|refusal| !refusal.is_partial() && refusal.code != "NOPERM").map(|_| error)
}

impl Server {
    /// Where an attempt stands that is begun now.
    pub(super) fn attempt(&self) -> Attempt {
        Attempt(self.attempts.fetch_add(1, Ordering::Relaxed) + 1)
    }

    /// Another number whenever a connection led to another server than the one before, or to another history of its data.
    pub(super) fn generation(&self) -> u64 {
        self.generation.load(Ordering::Acquire)
    }

    /// Whether connections of that generation are to be used no more.
    pub(super) fn is_void(&self, generation: Option<u64>) -> bool {
        generation.is_some_and(|generation| generation != self.generation())
    }

    /// A connection of that attempt leads to this server.
    pub(super) fn met(&self, attempt: Attempt, introduction: Introduction) -> RedisResult<Met> {
        let Introduction { identity, refusal } = introduction;
        let mut known = self.known.lock().unwrap_or_else(PoisonError::into_inner);
        let same_process = identity.as_ref().zip(known.identity.as_ref()).is_some_and(|(new, old)| new.run_id == old.run_id);
        if let Some(refusal) = refusal {
            // The very server in use has been demoted. Another one that cannot be used, a replica beside it, changes nothing.
            if same_process {
                self.void(&mut known);
            }
            return Err(refusal);
        }
        let Some(identity) = identity else { return Ok(Met::Nameless) };
        if known.identity.as_ref() == Some(&identity) {
            known.attempt = known.attempt.max(attempt);
            return Ok(Met::Same(self.generation()));
        }
        // Begun before a connection that led elsewhere: the name has moved in between.
        if attempt < known.attempt && !same_process {
            return Err(io::Error::new(io::ErrorKind::ConnectionAborted, "the name has moved to another server meanwhile").into());
        }
        known.attempt = known.attempt.max(attempt);
        known.identity = Some(identity);
        Ok(Met::Other(self.next()))
    }

    /// A connection was made to a server that does not name itself.
    pub(super) fn met_nameless(&self) {
        self.next();
    }

    /// A connection of that generation was told that its server does not serve any more.
    pub(super) fn retire(&self, generation: Option<u64>) {
        let mut known = self.known.lock().unwrap_or_else(PoisonError::into_inner);
        if generation == Some(self.generation()) {
            self.void(&mut known);
        }
    }

    fn void(&self, known: &mut Known) {
        known.identity = None;
        self.next();
    }

    fn next(&self) -> u64 {
        self.generation.fetch_add(1, Ordering::AcqRel) + 1
    }
}

#[cfg(test)]
mod tests {
    use bb8_redis::redis::make_extension_error;

    use super::*;

    fn said(run_id: &str, replication_id: &str, role: &str) -> Introduction {
        let said = [
            "PONG",
            &format!("redis_mode:standalone\r\nrun_id:{run_id}\r\n"),
            &format!("role:{role}\r\nmaster_replid:{replication_id}\r\n"),
        ];
        Introduction::read(said.into_iter().map(|answer| Ok(answer.to_owned())).collect())
    }

    fn refused(met: RedisResult<Met>) -> Option<&'static str> {
        Some(Refusal::of(&met.err()?)?.code)
    }

    #[test]
    fn another_server_voids_all_generations_before() {
        let server = Server::default();
        assert_eq!(server.met(server.attempt(), said("a", "1", "master")), Ok(Met::Other(1)));
        assert_eq!(server.met(server.attempt(), said("a", "1", "master")), Ok(Met::Same(1)));
        assert!(!server.is_void(Some(1)));
        assert_eq!(server.met(server.attempt(), said("b", "1", "master")), Ok(Met::Other(2)));
        assert!(server.is_void(Some(1)) && !server.is_void(None));
    }

    #[test]
    fn a_promoted_server_is_another_one_even_where_its_demotion_went_unseen() {
        let server = Server::default();
        let (first, second) = (server.attempt(), server.attempt());
        assert_eq!(server.met(second, said("a", "1", "master")), Ok(Met::Other(1)));
        assert_eq!(server.met(first, said("a", "2", "master")), Ok(Met::Other(2)));
    }

    #[test]
    fn a_slow_connection_to_the_server_before_does_not_bring_it_back() {
        let server = Server::default();
        let (slow, quick) = (server.attempt(), server.attempt());
        assert_eq!(server.met(quick, said("b", "1", "master")), Ok(Met::Other(1)));
        let slow = server.met(slow, said("a", "1", "master"));
        assert!(slow.is_err_and(|error| error.is_connection_dropped()));
        assert_eq!(server.generation(), 1);
    }

    #[test]
    fn a_demotion_voids_the_generation_and_a_replica_beside_it_does_not() {
        let server = Server::default();
        assert_eq!(server.met(server.attempt(), said("a", "1", "master")), Ok(Met::Other(1)));
        assert_eq!(refused(server.met(server.attempt(), said("b", "1", "slave"))), Some("REPLICA"));
        assert!(!server.is_void(Some(1)));
        assert_eq!(refused(server.met(server.attempt(), said("a", "1", "slave"))), Some("REPLICA"));
        assert!(server.is_void(Some(1)));
        // Even where it is promoted with the same history.
        assert_eq!(server.met(server.attempt(), said("a", "1", "master")), Ok(Met::Other(3)));
    }

    #[test]
    fn a_refusal_on_an_older_connection_retires_nothing_newer() {
        let server = Server::default();
        assert_eq!(server.met(server.attempt(), said("a", "1", "master")), Ok(Met::Other(1)));
        server.retire(Some(1));
        assert_eq!(server.met(server.attempt(), said("b", "1", "master")), Ok(Met::Other(3)));
        server.retire(Some(1));
        server.retire(None);
        assert!(!server.is_void(Some(3)));
    }

    #[test]
    fn sentinels_and_nodes_of_a_cluster_are_recognised_by_redis_and_valkey() {
        for (said, code) in [
            ("redis_mode:sentinel", "SENTINEL"),
            ("server_mode:sentinel", "SENTINEL"),
            ("redis_mode:cluster", "CLUSTER"),
            ("server_mode:cluster", "CLUSTER"),
            ("cluster_enabled:1", "CLUSTER"),
            ("role:slave", "REPLICA"),
        ] {
            let server = Server::default();
            assert_eq!(refused(server.met(server.attempt(), Introduction::read(vec![Ok(said.to_owned())]))), Some(code), "{said}");
        }
    }

    #[test]
    fn a_server_that_does_not_name_itself_is_used_and_never_retired_for_it() {
        let server = Server::default();
        let refusals = ["NOPERM", "ERR"].map(|code| Err(make_extension_error(code.to_owned(), None)));
        assert_eq!(server.met(server.attempt(), Introduction::read(refusals.into())), Ok(Met::Nameless));
        let loading = vec![Err(make_extension_error("LOADING".to_owned(), None))];
        assert_eq!(refused(server.met(server.attempt(), Introduction::read(loading))), Some("LOADING"));
    }
}
