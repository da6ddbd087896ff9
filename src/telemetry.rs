//! Log lines: on standard output for services, in JSON for machines or pretty for people; on standard error for commands,
//! whose output is their answer.

mod json;

use tracing_subscriber::EnvFilter;
use tracing_subscriber::fmt::Subscriber;

/// Starts logging. `filter` is spelled as in `RUST_LOG`; false where something in this process logs already.
pub fn start(json: bool, filter: &str) -> bool {
    let filter = EnvFilter::new(filter);
    if json {
        let lines = Subscriber::builder().event_format(json::Lines).fmt_fields(json::Members);
        tracing::subscriber::set_global_default(lines.with_env_filter(filter).finish()).is_ok()
    } else {
        let lines = Subscriber::builder().compact().with_target(false);
        tracing::subscriber::set_global_default(lines.with_env_filter(filter).finish()).is_ok()
    }
}

/// Starts logging for a command.
pub fn start_on_stderr(filter: &str) -> bool {
    let lines = Subscriber::builder().compact().with_target(false).with_writer(std::io::stderr);
    tracing::subscriber::set_global_default(lines.with_env_filter(EnvFilter::new(filter)).finish()).is_ok()
}
