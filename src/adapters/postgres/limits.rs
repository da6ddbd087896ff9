//! The settings that bound the server's work for one connection: set once for a session of its own, or again in each transaction
//! where a pooler hands server sessions from client to client.

use std::fmt::{Display, Write};
use std::sync::Arc;

use crate::config;

/// Settings of Postgres, as SQL.
#[derive(Clone, Debug, Default)]
pub(super) struct Limits(Vec<(&'static str, String)>);

impl Limits {
    /// Those of lookups, audit entries and idempotency keys.
    pub(super) fn of_lookups(settings: &config::Database) -> Self {
        let statement = settings.statement_timeout.as_millis();
        let this = Self::default()
            .with("statement_timeout", &statement)
            .with("lock_timeout", &(statement / 2))
            .with("idle_in_transaction_session_timeout", &(statement * 2))
            // Durable commits, also where the server's default is another: a crash must take no audit row back.
            .with("synchronous_commit", &"on")
            // No new plan for each number of ids.
            .with("plan_cache_mode", &"force_generic_plan");
        // A plan is kept for as long as its connection, and a table may grow meanwhile. Without these, Postgres reads a small table as a
        // whole, and goes on with that plan when the table is large.
        ["enable_seqscan", "enable_hashjoin", "enable_mergejoin"].into_iter().fold(this, |this, name| this.with(name, &"off"))
    }

    /// The same with one more.
    pub(super) fn with(mut self, name: &'static str, value: &impl Display) -> Self {
        self.0.push((name, format!("{value}")));
        self
    }

    pub(super) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Sets them for the rest of a session.
    pub(super) fn session(&self) -> String {
        self.statements("", "SET")
    }

    /// Begins a transaction in which they hold. Nothing of them is left in the server session afterwards.
    pub(super) fn transaction(&self) -> Arc<str> {
        self.statements("BEGIN;", "SET LOCAL").into()
    }

    fn statements(&self, first: &str, verb: &str) -> String {
        let mut sql = first.to_owned();
        for (name, value) in &self.0 {
            let _infallible = write!(sql, "{verb} {name} = {value};");
        }
        sql
    }
}
