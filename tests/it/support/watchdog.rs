//! Ends what a test run started, and removes its files, even when the run itself is killed.
//!
//! A shell reads a pipe whose other end dies with this process. It signals only processes that were named to it.

use std::fs;
use std::io::Write;
use std::os::unix::fs::PermissionsExt;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{ChildStdin, Command, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{LazyLock, Mutex};

const SCRIPT: &str = r#"
jobs= dirs=$1
while read -r verb what; do
    case $verb in
        watch) jobs="$jobs $what" ;;
        forget)
            kept=
            for job in $jobs; do [ "${job#*:}" = "$what" ] || kept="$kept $job"; done
            jobs=$kept ;;
        remove) dirs="$dirs $what" ;;
    esac
done
for job in $jobs; do
    kill -s "${job%%:*}" "${job#*:}" && kill -s CONT "${job#*:}"
done 2>/dev/null
tries=0
for job in $jobs; do
    while [ $tries -lt 50 ] && kill -s 0 "${job#*:}" 2>/dev/null; do tries=$((tries + 1)); sleep 0.1; done
done
rm -rf $dirs
"#;

struct Watchdog {
    pipe: Mutex<ChildStdin>,
    dir: PathBuf,
}

static WATCHDOG: LazyLock<Watchdog> = LazyLock::new(|| {
    // A database server that runs as another user must be able to come in.
    let open = fs::Permissions::from_mode(0o755);
    let dir = tempfile::Builder::new().prefix("cxda-it-").permissions(open).tempdir().expect("a temporary directory").keep();
    let mut shell = Command::new("sh");
    shell.args(["-c", SCRIPT, "watchdog"]).arg(&dir).stdin(Stdio::piped()).stdout(Stdio::null()).process_group(0);
    #[expect(clippy::zombie_processes, reason = "it outlives us")]
    let mut shell = shell.spawn().expect("sh runs");
    Watchdog { pipe: Mutex::new(shell.stdin.take().expect("a pipe")), dir }
});

static NEXT: AtomicU32 = AtomicU32::new(0);

fn tell(line: &str) {
    let mut pipe = WATCHDOG.pipe.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
    writeln!(pipe, "{line}").expect("the watchdog listens");
}

/// Has a process of ours ended by this signal when the run ends.
pub(crate) fn watch(pid: u32, signal: &str) {
    tell(&format!("watch {signal}:{pid}"));
}

/// The process has ended.
pub(super) fn forget(pid: u32) {
    tell(&format!("forget {pid}"));
}

/// Has a directory of ours removed when the run ends.
pub(super) fn remove(dir: &Path) {
    tell(&format!("remove {}", dir.display()));
}

/// A new directory, gone with the run.
pub(crate) fn scratch_dir() -> PathBuf {
    let dir = WATCHDOG.dir.join(NEXT.fetch_add(1, Ordering::Relaxed).to_string());
    fs::create_dir(&dir).expect("a scratch directory");
    dir
}

/// A new file with this text, gone with the run.
pub(crate) fn scratch_file(text: impl AsRef<[u8]>) -> PathBuf {
    let path = scratch_dir().join("file");
    fs::write(&path, text).expect("a scratch file");
    path
}
