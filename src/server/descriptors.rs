//! File descriptors: the limit of this process, and how many of them connections of clients may take.

use nix::sys::resource::{Resource, getrlimit, setrlimit};

/// Descriptors that are not for platforms' connections: of the admin listener, of Postgres and Redis, of files and calls.
const RESERVED: usize = 512;

/// Raises the soft limit to the hard one, and gives the limit that holds then.
pub(super) fn raise_limit() -> usize {
    let Ok((soft, hard)) = getrlimit(Resource::RLIMIT_NOFILE) else { return 2 * RESERVED };
    let raised = soft < hard && setrlimit(Resource::RLIMIT_NOFILE, hard, hard).is_ok();
    let limit = if raised { hard } else { soft };
    tracing::info!(soft, hard, limit, event = "descriptor_limit", "file descriptors");
    usize::try_from(limit).unwrap_or(usize::MAX)
}

/// As many of the wanted connections as the limit leaves room for.
pub(super) fn connections_within(limit: usize, wanted: usize) -> usize {
    let most = limit.saturating_sub(RESERVED).max(limit / 2);
    if wanted > most {
        tracing::warn!(wanted, most, limit, event = "too_few_descriptors", "http.max_connections is more than the descriptor limit allows");
    }
    wanted.min(most)
}
