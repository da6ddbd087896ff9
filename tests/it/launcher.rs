//! The private Postgres of `dev` and of these tests.

use cxone_data_action::cli::dev::postgres::{PrivatePostgres, find_binaries, usable_by_server};
use nix::sys::signal::{Signal, kill};
use nix::unistd::{Pid, getpgid};

use crate::support::{binaries, connect, scratch_dir, search_path, wait_until, watch};

async fn start(dir: &std::path::Path, options: &[(&str, &str)]) -> anyhow::Result<PrivatePostgres> {
    let server = PrivatePostgres::start(&binaries(), dir, options).await?;
    watch(u32::try_from(server.pid())?, "INT");
    Ok(server)
}

async fn shown(server: &PrivatePostgres, setting: &str) -> String {
    let client = connect(&server.url("postgres")).await.expect("the superuser gets in");
    client.query_one(&format!("SHOW {setting}"), &[]).await.expect("a setting").get(0)
}

#[test]
fn a_named_directory_is_the_only_one_searched() {
    let nothing = scratch_dir();
    assert_eq!(find_binaries(Some(&nothing), Some(&search_path())), None);
    assert!(find_binaries(None, Some(&search_path())).is_some());
}

#[test]
fn a_directory_on_the_path_needs_both_programs() {
    let half = scratch_dir();
    std::fs::write(half.join("postgres"), "").unwrap();
    let path = format!("{}:relative:", half.display());
    assert_eq!(find_binaries(None, Some(path.as_ref())), find_binaries(None, None));
    std::fs::write(half.join("initdb"), "").unwrap();
    assert_ne!(find_binaries(None, Some(path.as_ref())), find_binaries(None, None));
}

#[tokio::test]
async fn it_starts_stops_and_keeps_its_data() {
    let dir = scratch_dir().join("a/deep/place/for/data");
    let server = start(&dir, &[("work_mem", "7MB"), ("fsync", "off")]).await.unwrap();
    assert!(!server.adopted());
    assert_eq!(shown(&server, "work_mem").await, "7MB");
    assert_eq!(shown(&server, "listen_addresses").await, "");
    assert_eq!(shown(&server, "server_encoding").await, "UTF8");
    connect(&server.url("postgres")).await.unwrap().batch_execute("CREATE TABLE kept (x int)").await.unwrap();
    let pid = Pid::from_raw(server.pid());
    server.stop().await.unwrap();
    assert!(kill(pid, None).is_err(), "it still runs");

    let server = start(&dir, &[]).await.unwrap();
    connect(&server.url("postgres")).await.unwrap().batch_execute("SELECT * FROM kept").await.unwrap();
    server.stop().await.unwrap();
}

#[tokio::test]
async fn a_directory_has_one_owner_at_a_time() {
    let dir = scratch_dir().join("data");
    let first = start(&dir, &[("fsync", "off")]).await.unwrap();
    let second = start(&dir, &[]).await;
    assert!(second.is_err_and(|error| format!("{error:#}").contains("in use")));
    assert_eq!(shown(&first, "fsync").await, "off", "the first one is unharmed");
    first.stop().await.unwrap();
}

#[tokio::test]
async fn after_a_crash_it_comes_back_at_the_same_address() {
    let dir = scratch_dir().join("data");
    let server = start(&dir, &[]).await.unwrap();
    let url = server.url("postgres");
    let client = connect(&url).await.unwrap();
    client.batch_execute("CREATE TABLE kept (x int)").await.unwrap();
    kill(Pid::from_raw(server.pid()), Signal::SIGKILL).unwrap();
    server.stop().await.unwrap();
    let server = start(&dir, &[]).await.unwrap();
    assert_eq!(server.url("postgres"), url);
    connect(&url).await.unwrap().batch_execute("SELECT * FROM kept").await.unwrap();
    server.stop().await.unwrap();
}

#[tokio::test]
async fn a_crashed_servers_pid_may_be_another_processs_by_now() {
    use std::os::unix::fs::MetadataExt;
    use std::os::unix::process::CommandExt;
    let dir = scratch_dir().join("data");
    let server = start(&dir, &[]).await.unwrap();
    kill(Pid::from_raw(server.pid()), Signal::SIGKILL).unwrap();
    server.stop().await.unwrap();
    let said = std::fs::read_to_string(dir.join("postmaster.pid")).unwrap();
    let owner = std::fs::metadata(&dir).unwrap().uid();
    let mut other = std::process::Command::new("sleep").arg("60").uid(owner).spawn().unwrap();
    watch(other.id(), "KILL");
    let (_, rest) = said.split_once('\n').unwrap();
    std::fs::write(dir.join("postmaster.pid"), format!("{}\n{rest}", other.id())).unwrap();

    let server = start(&dir, &[]).await.unwrap();
    assert!(!server.adopted());
    server.stop().await.unwrap();
    assert!(other.try_wait().unwrap().is_none(), "the other process was left alone");
    other.kill().unwrap();
    other.wait().unwrap();
}

#[tokio::test]
async fn a_ctrl_c_at_the_terminal_does_not_reach_it() {
    let server = start(&scratch_dir().join("data"), &[("fsync", "off")]).await.unwrap();
    let group = |pid: Option<i32>| getpgid(pid.map(Pid::from_raw)).unwrap();
    assert_ne!(group(Some(server.pid())), group(None), "a terminal signals a whole process group");
    server.stop().await.unwrap();
}

#[tokio::test]
async fn dropped_it_is_asked_to_stop() {
    let dir = scratch_dir().join("data");
    let server = start(&dir, &[("fsync", "off")]).await.unwrap();
    drop(server);
    wait_until("it has stopped", async || (!dir.join("postmaster.pid").exists()).then_some(())).await;
}

#[tokio::test]
async fn what_keeps_it_from_starting_is_told() {
    let dir = scratch_dir().join("data");
    start(&dir, &[]).await.unwrap().stop().await.unwrap();
    let error = start(&dir, &[("max_connections", "many")]).await.unwrap_err();
    assert!(format!("{error:#}").contains("max_connections"), "{error:#}");
}

#[tokio::test]
async fn somebody_elses_directory_is_left_alone() {
    let dir = scratch_dir();
    std::fs::write(dir.join("thesis.txt"), "years of work").unwrap();
    assert!(start(&dir, &[]).await.is_err());
    assert_eq!(std::fs::read_to_string(dir.join("thesis.txt")).unwrap(), "years of work");
}

#[test]
fn a_directory_that_the_server_cannot_enter_is_found_out_beforehand() {
    use std::os::unix::fs::PermissionsExt;
    let closed = scratch_dir();
    assert!(usable_by_server(&closed.join("data")));
    std::fs::set_permissions(&closed, std::fs::Permissions::from_mode(0o700)).unwrap();
    assert_eq!(usable_by_server(&closed.join("data")), !nix::unistd::geteuid().is_root());
    assert_eq!(usable_by_server(&closed.join("not/there/yet")), !nix::unistd::geteuid().is_root());
}
