//! The way down: unready first, then nothing new, then what is in flight to its end, exit 0.

use std::time::{Duration, Instant};

use nix::sys::signal::Signal;
use uuid::Uuid;

use crate::support::{Database, Service, Setup, request, send, wait_until};

async fn refuses_connections(service: &Service) {
    let address = service.url.trim_start_matches("http://").to_owned();
    wait_until("no more connections are taken", async || tokio::net::TcpStream::connect(&address).await.is_err().then_some(())).await;
}

#[tokio::test]
async fn an_idle_service_goes_at_once_with_0() {
    for signal in [Signal::SIGTERM, Signal::SIGINT] {
        let database = Database::new().await;
        let service = Setup::on(&database).start().await;
        service.lookup("acme42", &[Uuid::from_u128(7)]).await;
        let began = Instant::now();
        service.signal(signal);
        let outcome = service.gone().await;
        assert_eq!(outcome.code, Some(0), "{}", outcome.printed());
        assert!(began.elapsed() < Duration::from_secs(5), "{:?}", began.elapsed());
    }
}

#[tokio::test]
async fn during_the_drain_delay_it_is_unready_and_still_answers() {
    let database = Database::new().await;
    let service = Setup::on(&database).set("CXDA_SHUTDOWN__DRAIN_DELAY", "2s").start().await;
    service.signal(Signal::SIGTERM);
    let began = Instant::now();
    let unready = wait_until("it is unready", async || Some(service.ready().await).filter(|reply| reply.status == 503)).await;
    unready.problem(503, "shutting_down");
    assert_eq!(service.admin(reqwest::Method::GET, "/livez").await.status, 200);
    assert_eq!(service.lookup("acme42", &[Uuid::from_u128(7)]).await.status, 200);
    let outcome = service.gone().await;
    assert_eq!(outcome.code, Some(0), "{}", outcome.printed());
    assert!(began.elapsed() > Duration::from_millis(1500), "the delay was kept: {:?}", began.elapsed());
}

#[tokio::test]
async fn what_is_in_flight_is_finished() {
    let database = Database::new().await;
    let service = Setup::on(&database).set("CXDA_DATABASE__STATEMENT_TIMEOUT", "10s").set("CXDA_LOOKUP__DEADLINE", "10s").start().await;
    let id = database.customer("acme42", "Ann").await;
    let lock = database.lock_customers().await;
    let call = tokio::spawn(send(service.signed(request("acme42", &[id]).to_string())));
    database.waiting_sessions(1).await;
    service.signal(Signal::SIGTERM);
    refuses_connections(&service).await;
    lock.batch_execute("ROLLBACK").await.unwrap();
    let reply = call.await.unwrap();
    assert_eq!(reply.names(), ["Ann"]);
    assert_eq!(database.audit_count().await, 1);
    let outcome = service.gone().await;
    assert_eq!(outcome.code, Some(0), "{}", outcome.printed());
}

#[tokio::test]
async fn what_a_caller_no_longer_waits_for_is_finished_too() {
    let database = Database::new().await;
    let service = Setup::on(&database).set("CXDA_DATABASE__STATEMENT_TIMEOUT", "10s").set("CXDA_LOOKUP__DEADLINE", "10s").start().await;
    let id = database.customer("acme42", "Ann").await;
    let lock = database.lock_customers().await;
    let call = service.lookup_to_be_reset("acme42", &[id]).await;
    database.waiting_sessions(1).await;
    call.reset(&service).await;
    service.signal(Signal::SIGTERM);
    refuses_connections(&service).await;
    lock.batch_execute("ROLLBACK").await.unwrap();
    assert_eq!(service.gone().await.code, Some(0));
    database.no_open_transaction().await;
    assert_eq!(database.audit_count().await, 1);
}

#[tokio::test]
async fn the_grace_period_has_an_end() {
    let database = Database::new().await;
    let setup = Setup::on(&database).set("CXDA_DATABASE__STATEMENT_TIMEOUT", "60s").set("CXDA_LOOKUP__DEADLINE", "60s");
    let service = setup.set("CXDA_SHUTDOWN__GRACE", "1s").start().await;
    let _lock = database.lock_customers().await;
    let call = tokio::spawn(service.signed(request("acme42", &[Uuid::from_u128(7)]).to_string()).send());
    database.waiting_sessions(1).await;
    let began = Instant::now();
    service.signal(Signal::SIGTERM);
    service.gone().await;
    assert!(began.elapsed() < Duration::from_secs(8), "{:?}", began.elapsed());
    call.abort();
}

#[tokio::test]
async fn a_client_that_keeps_its_connection_does_not_hold_it_up() {
    let database = Database::new().await;
    let service = Setup::on(&database).start().await;
    let mut idle = std::net::TcpStream::connect(service.url.trim_start_matches("http://")).unwrap();
    std::io::Write::write_all(&mut idle, b"GET /data-action HTTP/1.1\r\nHost: x\r\n\r\n").unwrap();
    service.lookup("acme42", &[Uuid::from_u128(7)]).await;
    let began = Instant::now();
    assert_eq!(service.stop().await.code, Some(0));
    assert!(began.elapsed() < Duration::from_secs(5), "{:?}", began.elapsed());
}

#[tokio::test]
async fn a_signal_during_start_up_ends_it() {
    let url = "postgresql://nobody@127.0.0.1:1/none";
    let setup = Setup::bare().set("DATABASE_URL", url).set("CXDA_SIGNING__SECRET", crate::support::SECRET);
    let mut process = setup.set("CXDA_DATABASE__STARTUP_WAIT", "1h").process();
    process.logged("it waits for its database", |line| line["level"] == "WARN").await;
    let outcome = process.stop(Signal::SIGTERM).await;
    assert!(outcome.code.is_some(), "{}", outcome.printed());
}
