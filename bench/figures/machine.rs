//! Where and how the figures came about, for whoever reads them later.

use std::fs;
use std::thread::available_parallelism;

use chrono::Utc;

use super::rig::Rig;

/// What this machine has, in MiB.
pub(crate) fn memory_mib() -> u64 {
    let memory = fs::read_to_string("/proc/meminfo").unwrap_or_default();
    let kib = value(&memory, "MemTotal").and_then(|total| total.trim_end_matches(" kB").parse::<u64>().ok());
    kib.expect("MemTotal in /proc/meminfo") / 1024
}

/// The value of the first `name…: value`.
fn value<'t>(text: &'t str, name: &str) -> Option<&'t str> {
    let line = text.lines().find_map(|line| line.strip_prefix(name)?.split_once(':'));
    line.map(|(_, value)| value.trim())
}

pub(crate) async fn describe(rig: &Rig<'_>) {
    let read = |path: &str| fs::read_to_string(path).unwrap_or_default();
    let cpus = read("/proc/cpuinfo");
    let redis: redis::InfoDict = rig.redis.run(&["INFO", "server"]).await;
    println!(
        "\nMachine: {} cores of {}, {} GiB, Linux {}; service, stores and callers share it",
        available_parallelism().map_or(0, usize::from),
        value(&cpus, "model name").unwrap_or("unknown"),
        memory_mib().div_ceil(1024),
        read("/proc/sys/kernel/osrelease").trim()
    );
    println!(
        "Postgres {} (fsync {}, shared_buffers {}), Redis {}",
        rig.main.database.value::<String>("SHOW server_version").await,
        rig.main.database.value::<String>("SHOW fsync").await,
        rig.main.database.value::<String>("SHOW shared_buffers").await,
        redis.get::<String>("redis_version").unwrap_or_default()
    );
    println!("Date: {}", Utc::now().format("%Y-%m-%d"));
    let args: Vec<_> = std::env::args().skip(1).filter(|arg| arg != "--bench").collect();
    println!("Command: cargo bench --bench load -- {}", args.join(" "));
}
