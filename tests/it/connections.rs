//! Connections: what one may hold that proves nothing, and what becomes of one that takes nothing.

use std::time::{Duration, Instant};

use nix::sys::signal::Signal;
use serde_json::{Value, json};
use socket2::{Domain, Socket, Type};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::time::timeout;
use uuid::Uuid;

use crate::support::{Database, PATIENCE, Service, Setup, request, sign, wait_until};

/// A request that no route takes.
const STRANGER: &[u8] = b"GET /x HTTP/1.1\r\nHost: x\r\n\r\n";

async fn connect(service: &Service) -> TcpStream {
    TcpStream::connect(service.url.trim_start_matches("http://")).await.unwrap()
}

/// The bytes of a signed lookup.
fn lookup(ids: &[Uuid]) -> Vec<u8> {
    let body = request("acme42", ids).to_string();
    let signature = sign(&body);
    format!("POST /data-action HTTP/1.1\r\nHost: x\r\nX-CXone-Signature: {signature}\r\nContent-Length: {}\r\n\r\n{body}", body.len())
        .into_bytes()
}

/// Everything that comes until the service closes the connection.
async fn rest(stream: &mut TcpStream) -> String {
    let mut bytes = Vec::new();
    // A reset ends it, too.
    let _end = timeout(PATIENCE, stream.read_to_end(&mut bytes)).await.expect("the connection is closed");
    String::from_utf8(bytes).unwrap()
}

/// The next answer, as far as it comes in one piece.
async fn answer(stream: &mut TcpStream) -> String {
    let mut bytes = vec![0; 65_536];
    let length = timeout(PATIENCE, stream.read(&mut bytes)).await.expect("an answer in time").unwrap();
    String::from_utf8(bytes[..length].to_vec()).unwrap()
}

/// Whether the service has closed the connection, in silence.
async fn is_closed(stream: &mut TcpStream) -> Option<()> {
    let read = timeout(Duration::from_millis(10), stream.read(&mut [0; 1])).await;
    matches!(read, Ok(Ok(0) | Err(_))).then_some(())
}

/// A problem document that ends its connection.
fn problem(answer: &str, status: u16, code: &str) {
    let (head, body) = answer.split_once("\r\n\r\n").unwrap_or_else(|| panic!("no head: {answer:?}"));
    assert!(head.starts_with(&format!("HTTP/1.1 {status} ")), "{head}");
    let problem: Value = serde_json::from_str(body).unwrap_or_else(|error| panic!("{error}: {body}"));
    assert_eq!((&problem["code"], &problem["status"]), (&json!(code), &json!(status)));
    for header in ["content-type: application/problem+json", "connection: close", "x-request-id: "] {
        assert!(head.to_lowercase().contains(header), "{head} lacks {header}");
    }
    assert!(head.contains(problem["request_id"].as_str().unwrap()), "{answer}");
}

#[tokio::test]
async fn what_the_server_refuses_by_itself_is_a_problem_document_too() {
    let database = Database::new().await;
    let service = Setup::on(&database).start().await;
    for (sent, status, code) in [
        (b"NONSENSE\r\n\r\n".to_vec(), 400, "malformed_request"),
        (b"POST /data-action HTTP/1.1\r\nHost: x\r\nContent-Length: 1\r\nContent-Length: 2\r\n\r\n".to_vec(), 400, "malformed_request"),
        ([b"GET / HTTP/1.1\r\nX: ".as_slice(), &vec![b'x'; 200_000]].concat(), 431, "head_too_large"),
        (b"GET /livez HT".to_vec(), 408, "request_timeout"),
        (Vec::new(), 408, "request_timeout"),
    ] {
        let mut stream = connect(&service).await;
        // The service may have refused it before it has all.
        let _sent = stream.write_all(&sent).await;
        problem(&rest(&mut stream).await, status, code);
    }
    let mut stream = connect(&service).await;
    stream.write_all(b"OPTIONS * HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n").await.unwrap();
    problem(&rest(&mut stream).await, 404, "not_found");
}

#[tokio::test]
async fn a_connection_that_proves_nothing_ends_soon_and_one_that_did_stays() {
    let database = Database::new().await;
    let service = Setup::on(&database).start().await;
    let mut proven = connect(&service).await;
    proven.write_all(&lookup(&[Uuid::from_u128(7)])).await.unwrap();
    assert!(answer(&mut proven).await.starts_with("HTTP/1.1 200 "));
    let mut stranger = connect(&service).await;
    stranger.write_all(STRANGER).await.unwrap();
    assert!(rest(&mut stranger).await.starts_with("HTTP/1.1 404 "), "answered, then closed");
    proven.write_all(&lookup(&[Uuid::from_u128(7)])).await.unwrap();
    assert!(answer(&mut proven).await.starts_with("HTTP/1.1 200 "), "as idle as the other one, and still there");
    let metrics = service.metrics().await;
    assert_eq!(metrics.count("http_connections_closed_total", &[("listener", "http"), ("reason", "idle")]), 1);
}

#[tokio::test]
async fn where_places_are_taken_the_oldest_connection_that_proved_nothing_makes_room() {
    let database = Database::new().await;
    // Two of them for connections that have proven nothing.
    let service = Setup::on(&database).set("CXDA_HTTP__MAX_CONNECTIONS", "8").start().await;
    let mut proven = connect(&service).await;
    proven.write_all(&lookup(&[Uuid::from_u128(7)])).await.unwrap();
    assert!(answer(&mut proven).await.starts_with("HTTP/1.1 200 "));
    // One after the other: two threads accept.
    let mut silent: Vec<TcpStream> = Vec::new();
    for nth in 0..50 {
        silent.push(connect(&service).await);
        wait_until("it is accepted", async || {
            let metrics = service.metrics().await;
            let closed = metrics.count("http_connections_closed_total", &[("listener", "http"), ("reason", "room")]);
            (closed + metrics.count("http_connections", &[("listener", "http"), ("state", "unproven")]) == nth + 1).then_some(())
        })
        .await;
    }
    let mut newest = silent.split_off(48);
    for stream in &mut silent {
        wait_until("an old one is closed", async || is_closed(stream).await).await;
    }
    for stream in newest.iter_mut().chain([&mut proven]) {
        stream.write_all(&lookup(&[Uuid::from_u128(7)])).await.unwrap();
        assert!(answer(stream).await.starts_with("HTTP/1.1 200 "));
    }
    let metrics = service.metrics().await;
    assert_eq!(metrics.count("http_connections_closed_total", &[("listener", "http"), ("reason", "room")]), 48);
}

#[tokio::test]
async fn proven_connections_have_a_bound_too_and_the_one_idle_for_longest_makes_room() {
    let database = Database::new().await;
    let service = Setup::on(&database).set("CXDA_HTTP__MAX_CONNECTIONS", "8").start().await;
    let mut proven = Vec::new();
    for _ in 0..7 {
        let mut stream = connect(&service).await;
        stream.write_all(&lookup(&[Uuid::from_u128(7)])).await.unwrap();
        assert!(answer(&mut stream).await.starts_with("HTTP/1.1 200 "));
        proven.push(stream);
    }
    wait_until("the first one is closed", async || is_closed(&mut proven[0]).await).await;
    for stream in &mut proven[1..] {
        stream.write_all(&lookup(&[Uuid::from_u128(7)])).await.unwrap();
        assert!(answer(stream).await.starts_with("HTTP/1.1 200 "));
    }
}

/// A connection with little room for answers.
fn connect_narrowly(service: &Service) -> TcpStream {
    let socket = Socket::new(Domain::IPV4, Type::STREAM, None).unwrap();
    socket.set_recv_buffer_size(4096).unwrap();
    let address: std::net::SocketAddr = service.url.trim_start_matches("http://").parse().unwrap();
    socket.connect(&address.into()).unwrap();
    socket.set_nonblocking(true).unwrap();
    TcpStream::from_std(socket.into()).unwrap()
}

#[tokio::test]
async fn a_client_that_takes_no_answers_gets_few_made_and_is_closed() {
    const SENT: usize = 200;
    let database = Database::new().await;
    let service = Setup::on(&database).start().await;
    let attributes = json!({ "text": "x".repeat(20_000) }).to_string();
    let id = database.customer("acme42", "Ann").await;
    database.run(&format!("UPDATE customers SET attributes = '{attributes}'")).await;
    let mut stream = connect_narrowly(&service);
    let all = lookup(&[id]).repeat(SENT);
    // All of them, or as many as the service takes before it closes the connection.
    let (mut reader, mut writer) = stream.split();
    let _sent = timeout(PATIENCE, writer.write_all(&all)).await;
    wait_until("it is closed", async || {
        let metrics = service.metrics().await;
        (metrics.count("http_connections_closed_total", &[("listener", "http"), ("reason", "stalled")]) == 1).then_some(())
    })
    .await;
    let answered = database.audit_count().await;
    assert!(answered < 50, "{answered} of {SENT} were answered");
    drop(reader.read(&mut [0; 1]).await);
}

#[tokio::test]
async fn requests_are_not_read_ahead_of_answers_that_are_not_taken() {
    let database = Database::new().await;
    let service = Setup::on(&database).start().await;
    let resident = async || service.metrics().await.sum("process_resident_memory_bytes", &[]);
    let before = resident().await;
    let mut streams = Vec::new();
    let requests = STRANGER.repeat(50_000);
    for _ in 0..20 {
        let mut stream = connect(&service).await;
        let _sent = timeout(Duration::from_millis(100), stream.write_all(&requests)).await;
        streams.push(stream);
    }
    let taken = (resident().await - before) / 20.0;
    assert!(taken < 500_000.0, "{taken} bytes for a connection");
}

#[tokio::test]
async fn a_client_that_pipelines_and_takes_its_answers_gets_all_of_them_in_order() {
    let database = Database::new().await;
    let service = Setup::on(&database).start().await;
    let ids = database.customers("acme42", 60).await;
    let mut stream = connect(&service).await;
    let mut all: Vec<u8> = ids.iter().flat_map(|id| lookup(&[*id])).collect();
    all.extend(b"GET /x HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n");
    let (mut reader, mut writer) = stream.split();
    let mut answers = Vec::new();
    let (sent, read) = tokio::join!(writer.write_all(&all), timeout(PATIENCE, reader.read_to_end(&mut answers)));
    sent.unwrap();
    read.expect("the connection is closed").unwrap();
    let answers = String::from_utf8(answers).unwrap();
    let places: Vec<_> = ids.iter().map(|id| answers.find(&id.to_string()).expect("an answer for each")).collect();
    assert!(places.is_sorted());
    assert_eq!(answers.matches("HTTP/1.1 200 ").count(), 60);
}

#[tokio::test]
async fn a_shutdown_ends_within_its_grace_whatever_clients_do() {
    let database = Database::new().await;
    let service = Setup::on(&database).set("CXDA_SHUTDOWN__GRACE", "4s").start().await;
    let attributes = json!({ "text": "x".repeat(20_000) }).to_string();
    let id = database.customer("acme42", "Ann").await;
    database.run(&format!("UPDATE customers SET attributes = '{attributes}'")).await;
    let mut streams = Vec::new();
    for _ in 0..20 {
        let mut stream = connect_narrowly(&service);
        let _sent = timeout(Duration::from_millis(50), stream.write_all(&lookup(&[id]).repeat(50))).await;
        streams.push(stream);
    }
    let mut slow = connect(&service).await;
    slow.write_all(&lookup(&[id])[..200]).await.unwrap();
    let began = Instant::now();
    service.signal(Signal::SIGTERM);
    assert_eq!(service.gone().await.code, Some(0));
    assert!(began.elapsed() < Duration::from_millis(4_950), "{:?}", began.elapsed());
}

#[tokio::test]
async fn an_upgrade_that_is_not_served_changes_nothing() {
    let database = Database::new().await;
    let service = Setup::on(&database).set("CXDA_HTTP__BODY_TIMEOUT", "1h").start().await;
    for protocol in ["websocket", "h2c"] {
        let upgrade = format!("Host: x\r\nConnection: Upgrade\r\nUpgrade: {protocol}\r\n");
        let sent = String::from_utf8(lookup(&[Uuid::from_u128(7)])).unwrap().replace("Host: x\r\n", &upgrade);
        let mut stream = connect(&service).await;
        stream.write_all(sent.as_bytes()).await.unwrap();
        assert!(answer(&mut stream).await.starts_with("HTTP/1.1 200 "), "{protocol}");
    }
    let mut stream = connect(&service).await;
    stream.write_all(b"POST /data-action HTTP/1.1\r\nHost: x\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\n").await.unwrap();
    assert!(answer(&mut stream).await.starts_with("HTTP/1.1 401 "));
}

#[tokio::test]
async fn the_descriptor_limit_is_raised_and_said() {
    let database = Database::new().await;
    let service = Setup::on(&database).start().await;
    let log = service.log();
    let line = log.iter().find(|line| line["event"] == "descriptor_limit").expect("the limit is said");
    assert_eq!(line["limit"], line["hard"]);
}
