//! Log lines on standard output: JSON for machines, or pretty for people.

use tracing_subscriber::EnvFilter;
use tracing_subscriber::fmt::Subscriber;

/// Starts logging. `filter` is spelled as in `RUST_LOG`; false where something in this process logs already.
pub fn start(json: bool, filter: &str) -> bool {
    let filter = EnvFilter::new(filter);
    if json {
        let lines = Subscriber::builder().json().flatten_event(true).with_span_list(false).with_target(false);
        tracing::subscriber::set_global_default(lines.with_env_filter(filter).finish()).is_ok()
    } else {
        let lines = Subscriber::builder().compact().with_target(false);
        tracing::subscriber::set_global_default(lines.with_env_filter(filter).finish()).is_ok()
    }
}
