//! What is said about the checks: a table as they go, or one document at the end.

use std::time::Duration;

use serde::Serialize;

use super::super::say;
use super::checks::Check;
use super::target::{Target, millis};
use super::verdict::{NotPassed, Verdict};

/// As wide as the longest name of a check.
const NAME_WIDTH: usize = 18;

/// Everything, for machines. Names are stable.
#[derive(Serialize)]
pub(super) struct Report {
    platform: &'static str,
    url: String,
    tenant: String,
    within_ms: f64,
    max_answer_bytes: usize,
    notes: Vec<&'static str>,
    passed: usize,
    failed: usize,
    skipped: usize,
    checks: Vec<Row>,
    #[serde(skip)]
    form: Form,
}

/// How it is told.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Form {
    Table,
    Json,
}

#[derive(Serialize)]
struct Row {
    name: &'static str,
    promise: &'static str,
    took_ms: f64,
    #[serde(flatten)]
    result: Outcome,
}

#[derive(Serialize)]
#[serde(tag = "result", rename_all = "lowercase")]
enum Outcome {
    Passed { remark: String },
    Failed { expected: String, came: String },
    Skipped { reason: String },
}

impl Report {
    pub(super) fn new(target: &Target, notes: Vec<&'static str>, form: Form) -> Self {
        let report = Self {
            platform: target.profile.name,
            url: target.url.to_string(),
            tenant: target.tenant.to_string(),
            within_ms: target.within.as_secs_f64() * 1e3,
            max_answer_bytes: target.profile.max_answer,
            notes,
            passed: 0,
            failed: 0,
            skipped: 0,
            checks: Vec::new(),
            form,
        };
        if form == Form::Table {
            report.head(target);
        }
        report
    }

    fn head(&self, target: &Target) {
        let within = humantime::format_duration(target.within);
        say(format_args!("{} against {}, tenant {}", self.platform, self.url, self.tenant));
        say(format_args!("answers within {within}, of at most {} bytes", self.max_answer_bytes));
        for note in &self.notes {
            say(format_args!("note: {note}"));
        }
        say(format_args!("\nresult  {:NAME_WIDTH$} {:>11}  what must hold", "check", "time"));
    }

    pub(super) fn add(&mut self, check: &Check, took: Duration, verdict: Verdict) {
        let (count, result) = match verdict {
            Ok(remark) => (&mut self.passed, Outcome::Passed { remark }),
            Err(NotPassed::Failed { expected, came }) => (&mut self.failed, Outcome::Failed { expected, came }),
            Err(NotPassed::Skipped { reason }) => (&mut self.skipped, Outcome::Skipped { reason }),
        };
        *count += 1;
        let row = Row { name: check.name, promise: check.promise, took_ms: took.as_secs_f64() * 1e3, result };
        if self.form == Form::Table {
            row.say(took);
        }
        self.checks.push(row);
    }

    /// How many checks have failed.
    pub(super) fn end(self) -> anyhow::Result<usize> {
        match self.form {
            Form::Table => say(format_args!("\npassed: {}, failed: {}, skipped: {}", self.passed, self.failed, self.skipped)),
            Form::Json => say(serde_json::to_string_pretty(&self)?),
        }
        Ok(self.failed)
    }
}

impl Row {
    fn say(&self, took: Duration) {
        let (word, time, remarks) = match &self.result {
            Outcome::Passed { remark } if remark.is_empty() => ("pass", millis(took), vec![]),
            Outcome::Passed { remark } => ("pass", millis(took), vec![("", remark)]),
            Outcome::Failed { expected, came } => ("FAIL", millis(took), vec![("expected: ", expected), ("came:     ", came)]),
            Outcome::Skipped { reason } => ("skip", "-".to_owned(), vec![("", reason)]),
        };
        say(format_args!("{word:6}  {:NAME_WIDTH$} {time:>11}  {}", self.name, self.promise));
        for (what, text) in remarks {
            say(format_args!("{:41}{what}{text}", ""));
        }
    }
}
