//! Where and how the figures came about, for whoever reads them later.

use std::fs;
use std::thread::available_parallelism;

use chrono::Utc;

use super::rig::Rig;

pub(crate) async fn describe(rig: &Rig<'_>) {
    let read = |path: &str| fs::read_to_string(path).unwrap_or_default();
    let (cpus, memory) = (read("/proc/cpuinfo"), read("/proc/meminfo"));
    let value = |text: &str, name: &str| {
        let line = text.lines().find_map(|line| line.strip_prefix(name)?.split_once(':'));
        line.map_or("unknown".to_owned(), |(_, value)| value.trim().to_owned())
    };
    let gib = value(&memory, "MemTotal").trim_end_matches(" kB").parse::<f64>().unwrap_or(f64::NAN) / f64::from(1 << 20);
    let redis: redis::InfoDict = rig.redis.run(&["INFO", "server"]).await;
    println!(
        "\nMachine: {} cores of {}, {gib:.0} GiB, Linux {}; service, stores and callers share it",
        available_parallelism().map_or(0, usize::from),
        value(&cpus, "model name"),
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
