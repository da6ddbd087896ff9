//! Log lines: on standard output for services, in JSON for machines or pretty for people; on standard error for commands,
//! whose output is their answer.

mod json;

use std::io::{self, BufWriter, Stdout, Write};
use std::thread;
use std::time::Duration;

use tracing::Subscriber;
use tracing_appender::non_blocking::{ErrorCounter, NonBlockingBuilder, WorkerGuard};
use tracing_subscriber::filter::Targets;
use tracing_subscriber::layer::SubscriberExt;
use tracing_subscriber::registry::LookupSpan;
use tracing_subscriber::{EnvFilter, Layer, fmt, registry};

/// Lines that come within this time are written together, instead of by a system call each, under a lock for which the threads that
/// speak HTTP would wait for one another.
const TOGETHER: Duration = Duration::from_millis(2);

/// Lines that wait to be written, at most. More are dropped and counted: no caller waits for a log that nobody takes.
const WAITING: usize = 16_384;

/// What is written at once.
const CHUNK: usize = 64 << 10;

/// A log that is written in the background, to its end when this is dropped.
#[must_use]
pub struct Log {
    dropped: ErrorCounter,
    _writer: WorkerGuard,
}

impl Log {
    /// Lines that were dropped so far, to be asked at any time.
    pub fn dropped(&self) -> impl Fn() -> usize + Send + Sync + 'static {
        let dropped = self.dropped.clone();
        move || dropped.dropped_lines()
    }
}

/// Starts a service's log, unless something in this process logs already. `filter` is spelled as in `RUST_LOG`.
pub fn start(json: bool, filter: &str) -> Log {
    let output = Together(BufWriter::with_capacity(CHUNK, io::stdout()));
    let (lines, writer) = NonBlockingBuilder::default().buffered_lines_limit(WAITING).thread_name("log").finish(output);
    let dropped = lines.error_counter();
    let filtered = registry().with(filtering(filter));
    let _started = if json {
        let lines = fmt::layer().event_format(json::Lines).fmt_fields(json::Members).with_writer(lines);
        tracing::subscriber::set_global_default(filtered.with(lines))
    } else {
        let lines = fmt::layer().compact().with_target(false).with_writer(lines);
        tracing::subscriber::set_global_default(filtered.with(lines))
    };
    Log { dropped, _writer: writer }
}

/// Starts a command's log, unless something in this process logs already.
pub fn start_on_stderr(filter: &str) {
    let lines = fmt::layer().compact().with_target(false).with_writer(io::stderr);
    let _started = tracing::subscriber::set_global_default(registry().with(filtering(filter)).with(lines));
}

/// Targets and levels by themselves need no look at each span, as `EnvFilter` takes one.
fn filtering<S: Subscriber + for<'a> LookupSpan<'a>>(filter: &str) -> Box<dyn Layer<S> + Send + Sync> {
    match filter.parse::<Targets>() {
        Ok(targets) => targets.boxed(),
        Err(_) => EnvFilter::new(filter).boxed(),
    }
}

/// Standard output, behind a thread that says `flush` whenever it has nothing more to write.
struct Together(BufWriter<Stdout>);

impl Write for Together {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0.write(bytes)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.0.flush()?;
        #[expect(clippy::disallowed_methods, reason = "on the log's own thread, for which nobody waits")]
        thread::sleep(TOGETHER);
        Ok(())
    }
}
