//! Threads for work that takes milliseconds of CPU time, so that HTTP workers never stand still for it.

use std::num::NonZero;
use std::thread::available_parallelism;

use tokio::runtime::{Builder, Runtime};

/// What is added to the threads' nice value: the system runs HTTP workers first, as soon as they have work.
#[cfg(target_os = "linux")]
const NICE: i32 = 10;

/// Threads of low priority, half as many as there are processors. Work waits in line for them.
pub struct Background {
    /// Empty after the drop.
    runtime: Option<Runtime>,
}

impl Background {
    /// The threads start with the first work.
    ///
    /// # Errors
    /// The runtime cannot be made.
    pub fn new() -> std::io::Result<Self> {
        let processors = available_parallelism().map_or(1, NonZero::get);
        let mut runtime = Builder::new_current_thread();
        runtime.thread_name("cxda-background").max_blocking_threads((processors / 2).max(1)).on_thread_start(lower_priority);
        Ok(Self { runtime: Some(runtime.build()?) })
    }

    /// Runs work on one of the threads. `None`: it panicked. It goes on where the caller stops waiting.
    pub(super) async fn run<T: Send + 'static>(&self, work: impl FnOnce() -> T + Send + 'static) -> Option<T> {
        self.runtime.as_ref()?.spawn_blocking(work).await.ok()
    }
}

impl Drop for Background {
    fn drop(&mut self) {
        if let Some(runtime) = self.runtime.take() {
            // A wait for the threads is not allowed on a runtime's own thread.
            runtime.shutdown_background();
        }
    }
}

fn lower_priority() {
    // Elsewhere, the nice value is that of the whole process.
    #[cfg(target_os = "linux")]
    if let Err(error) = rustix::process::nice(NICE) {
        tracing::debug!(%error, "background threads keep their priority");
    }
}
