//! How far it has come, on standard error: a bar on a terminal, elsewhere a line now and then.

use std::time::{Duration, Instant};

use indicatif::{ProgressBar, ProgressStyle};

use super::source::Extent;

const LINE_EVERY: Duration = Duration::from_secs(10);
const REFRESH: Duration = Duration::from_millis(200);

const READING: &str = "{bar:30} {percent}%  {msg}, {eta} left to read";
const OF_UNKNOWN_LENGTH: &str = "{spinner} {msg}";
const IN_THE_DATABASE: &str = "{spinner} {msg}, {elapsed}";

/// Shared by whoever has something to tell.
#[derive(Clone)]
pub(super) struct Progress {
    bar: ProgressBar,
    extent: Extent,
    began: Instant,
    told: Instant,
}

impl Progress {
    pub(super) fn new(extent: Extent) -> Self {
        let bar = extent.length.map_or_else(ProgressBar::no_length, ProgressBar::new);
        bar.set_style(style(if extent.length.is_some() { READING } else { OF_UNKNOWN_LENGTH }));
        let now = Instant::now();
        Self { bar, extent, began: now, told: now }
    }

    /// So many rows are read.
    pub(super) fn read(&mut self, rows: u64) {
        let message = || format!("{rows} rows read, {:.0} rows/s", rate(rows, self.began.elapsed()));
        if !self.bar.is_hidden() {
            self.bar.set_position(self.extent.done());
            self.bar.set_message(message());
        } else if self.told.elapsed() >= LINE_EVERY {
            let done = self.extent.done();
            let share = self.extent.length.map_or_else(|| format!("{done} bytes"), |length| format!("{} %", done * 100 / length.max(1)));
            eprintln!("{}, {share} of the file", message());
            self.told = Instant::now();
        }
    }

    /// What the database is doing now.
    pub(super) fn stage(&self, what: &str) {
        if self.bar.is_hidden() {
            if self.began.elapsed() >= LINE_EVERY {
                eprintln!("{what}");
            }
            return;
        }
        self.bar.reset_elapsed();
        self.bar.set_style(style(IN_THE_DATABASE));
        self.bar.set_message(what.to_owned());
        self.bar.enable_steady_tick(REFRESH);
    }

    /// A line that stays.
    pub(super) fn tell(&self, line: &str) {
        self.bar.suspend(|| eprintln!("{line}"));
    }

    /// Gives the terminal back.
    pub(super) fn end(&self) -> Duration {
        self.bar.finish_and_clear();
        self.began.elapsed()
    }
}

/// Rows a second.
#[expect(clippy::cast_precision_loss, reason = "nobody looks that closely")]
pub(super) fn rate(rows: u64, time: Duration) -> f64 {
    rows as f64 / time.as_secs_f64().max(f64::EPSILON)
}

fn style(template: &str) -> ProgressStyle {
    ProgressStyle::with_template(template).unwrap_or_else(|_| ProgressStyle::default_bar())
}
