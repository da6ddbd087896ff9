//! `dev`: one command, nothing installed or set, and a customer comes back.

use std::path::{Path, PathBuf};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde_json::Value;
use tokio::process::Command;

use crate::support::{Cluster, Process, Redis, SECRET, Service, Tool, scratch_dir, search_path, wait_until, watch};

/// `dev` on free ports, in a directory of its own.
fn dev(dir: &Path) -> Tool {
    Tool::new(&["dev", "--dir"])
        .arg(dir.to_str().expect("a plain path"))
        .set("PATH", search_path().into_string().expect("a plain PATH"))
        .set("CXDA_HTTP__LISTEN", "127.0.0.1:0")
        .set("CXDA_ADMIN__LISTEN", "127.0.0.1:0")
}

/// Waits for the `curl` line that `dev` prints, whole.
async fn printed_curl(process: &mut Process) -> String {
    wait_until("a curl line is printed", async || {
        assert!(process.exit_status().is_none(), "ended: {}", process.printed());
        let lines = process.lines();
        let mut from_curl = lines.iter().skip_while(|line| !line.trim_start().starts_with("curl ")).peekable();
        let mut command = String::new();
        while let Some(line) = from_curl.next() {
            match line.trim().strip_suffix('\\') {
                Some(start) => command.push_str(start),
                None if from_curl.peek().is_some() => return Some(command + line.trim()),
                None => return None,
            }
        }
        None
    })
    .await
}

/// Pastes the line into a shell, as a reader would, and returns the answer.
async fn pasted(curl: &str) -> Value {
    let outcome = Command::new("sh").args(["-c", curl]).kill_on_drop(true).output().await.expect("sh runs");
    assert!(outcome.status.success(), "these tests need curl: {}", String::from_utf8_lossy(&outcome.stderr));
    serde_json::from_slice(&outcome.stdout).unwrap_or_else(|e| panic!("{e}: {}", String::from_utf8_lossy(&outcome.stdout)))
}

fn assert_customers(answer: &Value) {
    let customers = answer["output"]["customers"].as_array().unwrap_or_else(|| panic!("no customers: {answer}"));
    assert!(!customers.is_empty() && customers[0]["name"].is_string(), "{answer}");
}

/// Where the private Postgres has its files, and its process.
fn private_postgres(dir: &Path) -> Option<(PathBuf, i32)> {
    let data_dir = dir.join("postgres");
    let said = std::fs::read_to_string(data_dir.join("postmaster.pid")).ok()?;
    Some((data_dir, said.lines().next()?.trim().parse().ok()?))
}

fn runs(pid: i32) -> bool {
    // A zombie that nobody has fetched yet is dead all the same.
    let state = std::fs::read_to_string(format!("/proc/{pid}/stat")).ok().and_then(|stat| stat.rsplit(')').next().map(str::to_owned));
    match state {
        Some(state) => !state.trim_start().starts_with('Z'),
        None => !Path::new("/proc/self").exists() && kill(Pid::from_raw(pid), None).is_ok(),
    }
}

#[tokio::test]
async fn the_printed_curl_is_answered_with_customers_and_ctrl_c_ends_everything() {
    let dir = scratch_dir().join(".dev");
    let mut process = dev(&dir).start("INT");
    assert_customers(&pasted(&printed_curl(&mut process).await).await);
    let (data_dir, pid) = private_postgres(&dir).expect("a private Postgres runs");
    let socket_dir = std::fs::read_to_string(data_dir.join("postmaster.pid")).unwrap().lines().nth(4).unwrap().to_owned();
    assert!(socket_dir.len() < 60, "unix sockets take short paths only: {socket_dir}");

    let outcome = process.stop(Signal::SIGINT).await;
    assert_eq!(outcome.code, Some(0), "{}", outcome.printed());
    assert!(!runs(pid), "Postgres still runs");
    assert!(!Path::new(&socket_dir).exists(), "{socket_dir} is left behind");
}

#[tokio::test]
async fn its_own_database_is_listened_to_as_well() {
    let dir = scratch_dir().join(".dev");
    let mut process = dev(&dir).set("CXDA_LOG__FORMAT", "json").start("INT");
    printed_curl(&mut process).await;
    let service = Service::over(process).await;
    assert_eq!(service.metrics().await.count("cxone_dataaction_cache_listener_up", &[]), 1);
    assert_eq!(service.stop().await.code, Some(0));
}

#[tokio::test]
async fn the_data_is_there_the_next_time_and_the_secret_too() {
    let dir = scratch_dir().join(".dev");
    let mut first = dev(&dir).start("INT");
    let curl = printed_curl(&mut first).await;
    pasted(&curl).await;
    assert_eq!(first.stop(Signal::SIGTERM).await.code, Some(0));

    let mut second = dev(&dir).start("INT");
    let again = printed_curl(&mut second).await;
    let signature = |curl: &str| curl.split(|c: char| !c.is_ascii_hexdigit()).find(|word| word.len() == 64).map(str::to_owned);
    assert_eq!(signature(&curl), signature(&again), "the secret is kept");
    assert!(signature(&curl).is_some());
    assert_customers(&pasted(&again).await);
    assert_eq!(second.stop(Signal::SIGINT).await.code, Some(0));
}

#[tokio::test]
async fn an_orphan_of_a_killed_run_is_not_left_behind() {
    let dir = scratch_dir().join(".dev");
    let mut killed = dev(&dir).start("INT");
    printed_curl(&mut killed).await;
    let (_, orphan) = private_postgres(&dir).expect("a private Postgres runs");
    watch(u32::try_from(orphan).unwrap(), "INT");
    killed.stop(Signal::SIGKILL).await;
    assert!(runs(orphan), "a SIGKILL reaches dev alone");

    let mut next = dev(&dir).start("INT");
    assert_customers(&pasted(&printed_curl(&mut next).await).await);
    let (_, pid) = private_postgres(&dir).expect("a private Postgres runs");
    assert!(pid == orphan || !runs(orphan), "two servers");
    assert_eq!(next.stop(Signal::SIGINT).await.code, Some(0));
    assert!(!runs(orphan) && !runs(pid));
}

#[tokio::test]
async fn two_at_once_in_one_directory_do_not_share_a_database_unawares() {
    let dir = scratch_dir().join(".dev");
    let mut first = dev(&dir).start("INT");
    printed_curl(&mut first).await;
    let (_, pid) = private_postgres(&dir).expect("a private Postgres runs");
    let second = dev(&dir).run().await;
    assert_eq!(second.code, Some(1), "{}", second.printed());
    assert!(second.printed().contains("in use"), "{}", second.printed());
    assert!(runs(pid), "the first one's Postgres was ended by the second");
    assert_customers(&pasted(&printed_curl(&mut first).await).await);
    assert_eq!(first.stop(Signal::SIGINT).await.code, Some(0));
}

#[tokio::test]
async fn without_postgres_it_serves_from_memory_and_says_so() {
    let dir = scratch_dir();
    let nothing = scratch_dir();
    for flags in [&["--memory"][..], &["--pg-bindir", nothing.to_str().unwrap()]] {
        let mut process = dev(&dir.join(".dev")).args(flags).start("INT");
        assert_customers(&pasted(&printed_curl(&mut process).await).await);
        assert!(process.printed().contains("NOTICE") && process.printed().contains("memory"), "{}", process.printed());
        assert!(private_postgres(&dir.join(".dev")).is_none());
        assert_eq!(process.stop(Signal::SIGINT).await.code, Some(0));
    }
}

#[tokio::test]
async fn the_printed_send_command_works_too() {
    let dir = scratch_dir().join(".dev");
    let mut process = dev(&dir).args(&["--memory"]).start("INT");
    printed_curl(&mut process).await;
    let line = process.lines().into_iter().find(|line| line.contains(" send --sample ")).expect("a send command");
    let outcome = Command::new("sh").args(["-c", &line]).kill_on_drop(true).output().await.expect("sh runs");
    assert!(outcome.status.success(), "{line}: {}", String::from_utf8_lossy(&outcome.stderr));
    assert!(String::from_utf8_lossy(&outcome.stdout).contains("\"customers\""));
}

#[tokio::test]
async fn demo_customers_are_of_two_tenants() {
    let dir = scratch_dir().join(".dev");
    let mut process = dev(&dir).start("INT");
    printed_curl(&mut process).await;
    let said = std::fs::read_to_string(dir.join("postgres/postmaster.pid")).unwrap();
    let [port, socket_dir] = [3, 4].map(|line| said.lines().nth(line).unwrap().trim());
    let url = format!("postgresql://app@{}:{port}/postgres", socket_dir.replace('/', "%2F"));
    let client = crate::support::connect(&url).await.expect("the private Postgres is there");
    let tenants: i64 = client.query_one("SELECT count(DISTINCT tenant_id) FROM customers", &[]).await.unwrap().get(0);
    assert_eq!(tenants, 2);
    drop(client);
    assert_eq!(process.stop(Signal::SIGINT).await.code, Some(0));
}

#[tokio::test]
async fn stores_that_are_set_are_used() {
    let database = Cluster::shared().await.empty_database().await;
    let redis = Redis::start().await;
    let dir = scratch_dir().join(".dev");
    let tool = dev(&dir).set("DATABASE_URL", &database.owner_url).set("REDIS_URL", redis.url()).set("CXDA_SIGNING__SECRET", SECRET);
    let mut process = tool.set("CXDA_LOG__FORMAT", "json").start("INT");
    assert_customers(&pasted(&printed_curl(&mut process).await).await);
    assert!(private_postgres(&dir).is_none());
    assert_eq!(database.audit_count().await, 1);
    wait_until("Redis is filled", async || (redis.run::<usize>(&["DBSIZE"]).await > 0).then_some(())).await;
    let service = Service::over(process).await;
    assert_eq!(service.lookup("acme42", &[uuid::Uuid::from_u128(7)]).await.status, 200, "signed by the secret that was set");
    assert_eq!(service.stop().await.code, Some(0));
}

#[tokio::test]
async fn it_listens_on_this_machine_alone_unless_told_otherwise() {
    let outcome = Tool::new(&["config", "print"]).run().await;
    assert_eq!(outcome.code, Some(0), "{}", outcome.printed());
    // On port 8080, which may be taken here: then it says so, and names the address.
    let dir = scratch_dir().join(".dev");
    let mut process = Tool::new(&["dev", "--memory", "--dir", dir.to_str().unwrap()]).set("CXDA_ADMIN__LISTEN", "127.0.0.1:0").start("INT");
    wait_until("it says where it listens", async || {
        let told = process.printed().contains("127.0.0.1:8080");
        assert!(told || process.exit_status().is_none(), "{}", process.printed());
        told.then_some(())
    })
    .await;
    assert!(!process.printed().contains("0.0.0.0"), "{}", process.printed());
}

#[tokio::test]
async fn the_secret_is_for_its_owner_alone() {
    use std::os::unix::fs::PermissionsExt;
    let dir = scratch_dir().join(".dev");
    let mut process = dev(&dir).args(&["--memory"]).start("INT");
    printed_curl(&mut process).await;
    let secret = std::fs::metadata(dir.join("signing-secret")).expect("a secret of its own");
    assert_eq!(secret.permissions().mode() & 0o077, 0);
}
