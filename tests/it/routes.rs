//! Every failure of every route is problem+json: contract, section 2.

use std::io::{Read, Write};
use std::net::{Shutdown, TcpStream};

use reqwest::Method;
use uuid::Uuid;

use crate::support::{Database, PATIENCE, Service, Setup, request, send, sign};

async fn service() -> (Database, Service) {
    let database = Database::new().await;
    let service = Setup::on(&database).start().await;
    (database, service)
}

fn body() -> String {
    request("acme42", &[Uuid::from_u128(7)]).to_string()
}

#[tokio::test]
async fn an_unknown_route_is_not_found() {
    let (_database, service) = service().await;
    for path in [
        "/",
        "/nowhere",
        "/data-action/",
        "/data-action/x",
        "/DATA-ACTION",
        "//data-action",
        "/metrics",
        "/livez",
        "/data-action%00",
        "/%2e%2e/etc/passwd",
    ] {
        for method in [Method::GET, Method::POST, Method::DELETE] {
            let reply = send(service.call(method, path)).await;
            assert_eq!(reply.problem(404, "not_found")["retryable"], false, "{path}");
        }
    }
}

#[tokio::test]
async fn another_method_is_not_allowed_and_the_right_one_named() {
    let (_database, service) = service().await;
    for method in [Method::GET, Method::PUT, Method::PATCH, Method::DELETE, Method::OPTIONS] {
        let reply = send(service.call(method, "/data-action")).await;
        reply.problem(405, "method_not_allowed");
        assert_eq!(reply.header("allow"), Some("POST"));
    }
    let head = send(service.call(Method::HEAD, "/data-action")).await;
    assert_eq!((head.status, head.header("allow")), (405, Some("POST")));
}

#[tokio::test]
async fn the_admin_listener_speaks_the_same_way() {
    let (_database, service) = service().await;
    service.admin(Method::GET, "/nowhere").await.problem(404, "not_found");
    service.admin(Method::POST, "/data-action").await.problem(404, "not_found");
    for path in ["/livez", "/readyz", "/metrics"] {
        let reply = service.admin(Method::POST, path).await;
        reply.problem(405, "method_not_allowed");
        assert!(reply.header("allow").is_some_and(|allowed| allowed.contains("GET")), "{path}");
    }
}

#[tokio::test]
async fn a_body_over_the_limit_is_too_large() {
    let database = Database::new().await;
    let service = Setup::on(&database).set("CXDA_HTTP__MAX_BODY_BYTES", "4096").start().await;
    let padded = |len: usize| format!("{}{}", body(), " ".repeat(len - body().len()));
    assert_eq!(service.post(padded(4096)).await.status, 200);
    assert_eq!(service.post(padded(4097)).await.problem(413, "body_too_large")["retryable"], false);
    send(service.call(Method::POST, "/data-action").body(padded(4097))).await.problem(413, "body_too_large");
}

#[tokio::test]
async fn the_limit_is_64_kib_by_default() {
    let (_database, service) = service().await;
    let padded = |len: usize| format!("{}{}", body(), " ".repeat(len - body().len()));
    assert_eq!(service.post(padded(65_536)).await.status, 200);
    service.post(padded(65_537)).await.problem(413, "body_too_large");
}

/// Sends bytes as they are, and reads until the service hangs up or has sent `enough`.
fn raw(service: &Service, bytes: &[u8], enough: &str) -> String {
    let mut stream = TcpStream::connect(service.url.trim_start_matches("http://")).unwrap();
    stream.set_read_timeout(Some(PATIENCE)).unwrap();
    stream.write_all(bytes).unwrap();
    let mut answer = Vec::new();
    let mut buffer = [0; 4096];
    while !String::from_utf8_lossy(&answer).contains(enough) {
        match stream.read(&mut buffer) {
            Ok(0) | Err(_) => break,
            Ok(len) => answer.extend_from_slice(&buffer[..len]),
        }
    }
    let _ = stream.shutdown(Shutdown::Both);
    String::from_utf8_lossy(&answer).into_owned()
}

#[tokio::test]
async fn a_body_in_chunks_is_measured_as_it_comes() {
    let (_database, service) = service().await;
    let mut bytes =
        format!("POST /data-action HTTP/1.1\r\nHost: x\r\nX-CXone-Signature: {}\r\nTransfer-Encoding: chunked\r\n\r\n", sign("x"))
            .into_bytes();
    for _ in 0..17 {
        bytes.extend_from_slice(format!("1000\r\n{}\r\n", "x".repeat(0x1000)).as_bytes());
    }
    let answer = raw(&service, &bytes, "body_too_large");
    assert!(answer.starts_with("HTTP/1.1 413 "), "{answer}");
    assert!(answer.contains("application/problem+json"), "{answer}");

    let chunked = format!(
        "POST /data-action HTTP/1.1\r\nHost: x\r\nX-CXone-Signature: {}\r\nTransfer-Encoding: chunked\r\n\r\n{:x}\r\n{}\r\n0\r\n\r\n",
        sign(body()),
        body().len(),
        body()
    );
    let answer = raw(&service, chunked.as_bytes(), "\"output\"");
    assert!(answer.starts_with("HTTP/1.1 200 "), "{answer}");
}

#[tokio::test]
async fn a_request_with_two_lengths_is_refused() {
    let (database, service) = service().await;
    let (body, tag) = (body(), sign(body()));
    let two = [
        format!("Content-Length: {}\r\nContent-Length: 5", body.len()),
        format!("Content-Length: {}\r\nTransfer-Encoding: chunked", body.len()),
        format!("Transfer-Encoding: chunked\r\nContent-Length: {}", body.len()),
        "Transfer-Encoding: xchunked".to_owned(),
        format!("Content-Length: +{}", body.len()),
    ];
    for lengths in two {
        let bytes =
            format!("POST /data-action HTTP/1.1\r\nHost: x\r\nX-CXone-Signature: {tag}\r\n{lengths}\r\nConnection: close\r\n\r\n{body}");
        let answer = raw(&service, bytes.as_bytes(), "never");
        assert!(answer.is_empty() || answer.starts_with("HTTP/1.1 4"), "{lengths}: {answer}");
    }
    assert_eq!(database.audit_count().await, 0);
}

#[tokio::test]
async fn a_body_that_does_not_come_is_not_waited_for_for_ever() {
    let database = Database::new().await;
    let service = Setup::on(&database).set("CXDA_HTTP__BODY_TIMEOUT", "300ms").start().await;
    let began = std::time::Instant::now();
    let head = format!(
        "POST /data-action HTTP/1.1\r\nHost: x\r\nX-CXone-Signature: {}\r\nContent-Length: {}\r\n\r\n{{",
        sign(body()),
        body().len()
    );
    let answer = raw(&service, head.as_bytes(), "\"request_id\"");
    assert!(began.elapsed() < PATIENCE / 2, "held for {:?}", began.elapsed());
    assert!(answer.is_empty() || answer.starts_with("HTTP/1.1 4"), "{answer}");
    assert!(answer.is_empty() || answer.contains("application/problem+json"), "{answer}");
    assert_eq!(service.post(body()).await.status, 200);
    assert_eq!(database.audit_count().await, 1);
}

#[tokio::test]
async fn failures_carry_no_words_of_a_library() {
    let (_database, service) = service().await;
    let replies = [
        service.post("{\"action\": tru").await,
        service.post("{\"action\": 7}").await,
        send(service.call(Method::GET, "/data-action")).await,
        send(service.call(Method::GET, "/x")).await,
    ];
    for reply in replies {
        for word in ["line 1", "column", "serde", "invalid type", "expected value", "expected struct", "actix", "Payload"] {
            assert!(!reply.text().contains(word), "{word:?} in {}", reply.text());
        }
    }
}
