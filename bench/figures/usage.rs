//! What processes have used of the machine, as `/proc` tells it.

use std::fs;

/// CPU time is told in these, whatever the kernel's own clock.
const TICKS_A_SECOND: f64 = 100.0;

/// CPU seconds.
#[derive(Clone, Copy, Default)]
pub(crate) struct Cpu {
    /// Of the process that is measured.
    pub(crate) service: f64,
    /// Of Postgres and Redis.
    pub(crate) stores: f64,
    /// Of ourselves, and of the programs that we have run to their end.
    pub(crate) client: f64,
}

impl Cpu {
    pub(crate) fn now(service: Option<u32>, postgres: u32, redis: u32) -> Self {
        let client = Stat::of("self").map_or(0.0, |stat| stat.own + stat.ended);
        let service = service.map_or(f64::NAN, |pid| Stat::of(&pid.to_string()).map_or(f64::NAN, |stat| stat.own));
        Self { service, stores: family(postgres) + family(redis), client }
    }

    pub(crate) fn since(self, before: Self) -> Self {
        Self { service: self.service - before.service, stores: self.stores - before.stores, client: self.client - before.client }
    }

    pub(crate) fn map(self, change: impl Fn(f64) -> f64) -> Self {
        Self { service: change(self.service), stores: change(self.stores), client: change(self.client) }
    }
}

/// The most memory that a process has had so far, in MiB.
pub(crate) fn peak_memory(pid: u32) -> f64 {
    let status = fs::read_to_string(format!("/proc/{pid}/status")).unwrap_or_default();
    let kib = status.lines().find_map(|line| line.strip_prefix("VmHWM:")?.trim().strip_suffix(" kB")?.parse::<f64>().ok());
    kib.map_or(f64::NAN, |kib| kib / 1024.0)
}

/// A process with its children, those included that have ended.
fn family(pid: u32) -> f64 {
    let head = || Stat::of(&pid.to_string()).unwrap_or_default();
    loop {
        let before = head();
        let processes = fs::read_dir("/proc").into_iter().flatten().flatten();
        let pids =
            processes.filter_map(|entry| entry.file_name().into_string().ok()).filter(|name| name.bytes().all(|b| b.is_ascii_digit()));
        let children: f64 = pids.filter_map(|pid| Stat::of(&pid)).filter(|stat| stat.parent == pid).map(|stat| stat.own).sum();
        let after = head();
        // Otherwise one has ended meanwhile, and would be missing or counted twice.
        if before.ended.total_cmp(&after.ended).is_eq() {
            return children + after.own + after.ended;
        }
    }
}

/// `/proc/PID/stat`, see proc(5).
#[derive(Default)]
struct Stat {
    parent: u32,
    own: f64,
    /// Of its children that have ended and been waited for.
    ended: f64,
}

impl Stat {
    fn of(pid: &str) -> Option<Self> {
        let text = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
        // The name stands in parentheses, and may hold anything.
        let fields: Vec<_> = text.rsplit_once(") ")?.1.split(' ').collect();
        let seconds = |user: usize, system: usize| {
            let ticks = |nth: usize| fields.get(nth)?.parse::<f64>().ok();
            Some((ticks(user)? + ticks(system)?) / TICKS_A_SECOND)
        };
        Some(Self { parent: fields.get(1)?.parse().ok()?, own: seconds(11, 12)?, ended: seconds(13, 14)? })
    }
}
