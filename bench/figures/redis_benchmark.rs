//! What Redis does by itself, by `redis-benchmark`: one MGET of ten keys.

use std::process::Command;

use crate::client::BATCH;
use crate::support::Redis;

/// What came out.
pub(crate) struct Outcome {
    /// MGETs a second.
    pub(crate) rate: f64,
    pub(crate) p50: f64,
    pub(crate) p99: f64,
}

/// Keys of their own, each with so long a value.
pub(crate) async fn fill(redis: &Redis, keys: i32, value: &str) {
    let script = "for n = 0, ARGV[1] - 1 do redis.call('SET', string.format('bench:%012d', n), ARGV[2]) end";
    redis.run::<()>(&["EVAL", script, "0", &keys.to_string(), value]).await;
}

pub(crate) fn run(redis: &Redis, keys: i32, connections: usize, requests: usize) -> Outcome {
    let output = Command::new("redis-benchmark")
        .args(["-p", &redis.port.to_string(), "-c", &connections.to_string(), "-n", &requests.to_string(), "-r", &keys.to_string()])
        .args(["--csv", "MGET"])
        .args(["bench:__rand_int__"; BATCH])
        .output()
        .expect("redis-benchmark stands beside redis-server: apt-get install redis-tools");
    let text = String::from_utf8_lossy(&output.stdout);
    // After the head and the command: rps, avg, min, p50, p95, p99, max.
    let numbers: Vec<f64> = text
        .lines()
        .last()
        .into_iter()
        .flat_map(|line| line.rsplit(',').take(7))
        .filter_map(|cell| cell.trim_matches('"').parse().ok())
        .collect();
    let [_max, p99, _p95, p50, _min, _average, rate] = numbers[..] else {
        panic!("redis-benchmark: {text}{}", String::from_utf8_lossy(&output.stderr))
    };
    Outcome { rate, p50, p99 }
}
