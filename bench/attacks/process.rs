//! What `/proc` says of the service: CPU time to the nanosecond, memory, and connections that are still open.

use std::fs;
use std::time::Duration;

/// CPU time of all threads of a process so far, in nanoseconds.
pub(crate) fn cpu(pid: u32) -> u64 {
    let tasks = fs::read_dir(format!("/proc/{pid}/task")).into_iter().flatten().flatten();
    // A thread may have ended since it was listed.
    let times = tasks.filter_map(|task| fs::read_to_string(task.path().join("schedstat")).ok());
    times.filter_map(|text| text.split(' ').next()?.parse::<u64>().ok()).sum()
}

/// Whether a thread of the process runs, or would if a CPU were free.
fn is_runnable(pid: u32) -> bool {
    let tasks = fs::read_dir(format!("/proc/{pid}/task")).into_iter().flatten().flatten();
    let mut stats = tasks.filter_map(|task| fs::read_to_string(task.path().join("stat")).ok());
    // The state stands after the name, which is in parentheses.
    stats.any(|stat| stat.rsplit_once(") ").is_some_and(|(_, rest)| rest.starts_with('R')))
}

/// The same once the process is at rest: an answer is read before its worker has finished with it.
pub(crate) fn settled_cpu(pid: u32) -> u64 {
    const PAUSE: Duration = Duration::from_micros(150);
    const TRIES: usize = 400;
    let mut before = cpu(pid);
    for _ in 0..TRIES {
        #[expect(clippy::disallowed_methods, reason = "no other task of this process may use the CPU meanwhile")]
        std::thread::sleep(PAUSE);
        let now = cpu(pid);
        if now == before && !is_runnable(pid) {
            break;
        }
        before = now;
    }
    before
}

/// Resident memory, in MiB.
pub(crate) fn resident(pid: u32) -> f64 {
    let status = fs::read_to_string(format!("/proc/{pid}/status")).unwrap_or_default();
    let kib = status.lines().find_map(|line| line.strip_prefix("VmRSS:")?.trim().strip_suffix(" kB")?.parse::<f64>().ok());
    kib.map_or(f64::NAN, |kib| kib / 1024.0)
}

/// Connections to a local port that its server has not closed: those that wait to be accepted are among them.
pub(crate) fn open_connections(port: u16) -> usize {
    /// `TCP_ESTABLISHED` and `TCP_CLOSE_WAIT`, see `include/net/tcp_states.h` of Linux.
    const OPEN: [&str; 2] = ["01", "08"];
    let local = format!(":{port:04X}");
    let table = fs::read_to_string("/proc/net/tcp").unwrap_or_default();
    let is_open = |line: &&str| {
        let mut fields = line.split_ascii_whitespace().skip(1);
        let (address, state) = (fields.next(), fields.nth(1));
        address.is_some_and(|address| address.ends_with(&local)) && state.is_some_and(|state| OPEN.contains(&state))
    };
    table.lines().filter(is_open).count()
}
