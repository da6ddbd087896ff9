//! Nothing of a body is read before its signature is right: contract, sections 1 to 3.

use std::time::{SystemTime, UNIX_EPOCH};

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;
use reqwest::Method;
use serde_json::Value;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use uuid::Uuid;

use crate::support::{Database, Reply, SECRET, Service, Setup, hmac, request, send, sign, sign_with};

async fn service() -> (Database, Service) {
    let database = Database::new().await;
    let service = Setup::on(&database).start().await;
    (database, service)
}

fn body() -> String {
    request("acme42", &[Uuid::from_u128(7)]).to_string()
}

async fn post_with(service: &Service, headers: &[(&str, &str)], body: &str) -> Reply {
    let call = service.call(Method::POST, "/data-action").body(body.to_owned());
    send(headers.iter().fold(call, |call, (name, value)| call.header(*name, *value))).await
}

#[tokio::test]
async fn no_signature_is_a_missing_signature() {
    let (_database, service) = service().await;
    let reply = post_with(&service, &[], &body()).await;
    assert_eq!(reply.problem(401, "missing_signature")["retryable"], false);
}

#[tokio::test]
async fn a_signature_is_taken_in_either_case_and_with_its_prefix() {
    let (_database, service) = service().await;
    let tag = sign(body());
    for good in [tag.clone(), tag.to_uppercase(), format!("sha256={tag}"), format!("sha256={}", tag.to_uppercase())] {
        assert_eq!(post_with(&service, &[("x-cxone-signature", &good)], &body()).await.status, 200, "{good}");
    }
}

#[tokio::test]
async fn anything_but_the_whole_signature_is_invalid() {
    let (_database, service) = service().await;
    let tag = sign(body());
    let base64 = BASE64.encode(hmac(SECRET, body().as_bytes()));
    let flipped: String = tag.chars().enumerate().map(|(at, c)| if at == 63 { if c == '0' { '1' } else { '0' } } else { c }).collect();
    let cases = [
        "",
        "0",
        "sha256=",
        "x",
        &flipped,
        &tag[..62],
        &tag[2..],
        &tag[..2],
        &format!("{tag}00"),
        &format!("sha256=sha256={tag}"),
        &format!("sha512={tag}"),
        &format!("SHA256={tag}"),
        &format!("{tag},{tag}"),
        &format!("{tag} {tag}"),
        &format!("0x{tag}"),
        &base64,
        &"0".repeat(64),
        &sign_with("another secret of at least 32 bytes....", body()),
        &sign(""),
        &sign(format!("{}\n", body())),
        &sign_with("", body()),
    ];
    for bad in cases {
        let reply = post_with(&service, &[("X-CXone-Signature", bad)], &body()).await;
        let problem = reply.problem(401, "invalid_signature");
        assert_eq!(problem["retryable"], false);
        assert!(bad.len() < 8 || !reply.text().contains(bad), "{}", reply.text());
    }
}

#[tokio::test]
async fn a_twin_header_is_a_wrong_signature() {
    let (_database, service) = service().await;
    let (good, bad) = (sign(body()), "0".repeat(64));
    for twins in [[&good, &good], [&good, &bad], [&bad, &good]] {
        let reply = post_with(&service, &twins.map(|value| ("X-CXone-Signature", value.as_str())), &body()).await;
        reply.problem(401, "invalid_signature");
    }
}

#[tokio::test]
async fn a_header_that_is_not_even_text_is_a_wrong_signature() {
    let (_database, service) = service().await;
    let value = reqwest::header::HeaderValue::from_bytes(b"\xff\xfe").unwrap();
    let call = service.call(Method::POST, "/data-action").header("X-CXone-Signature", value).body(body());
    send(call).await.problem(401, "invalid_signature");
}

#[tokio::test]
async fn the_bytes_that_were_sent_are_what_is_signed() {
    let (_database, service) = service().await;
    let compact = body();
    let spaced = serde_json::to_string_pretty(&serde_json::from_str::<Value>(&compact).unwrap()).unwrap();
    assert_eq!(service.post(&spaced).await.status, 200);
    post_with(&service, &[("X-CXone-Signature", &sign(&compact))], &spaced).await.problem(401, "invalid_signature");
}

#[tokio::test]
async fn nothing_is_said_about_a_body_that_is_not_signed() {
    let (_database, service) = service().await;
    for garbage in ["{", "", "{}", r#"{"action":"x"}"#, &format!("{} x", body())] {
        post_with(&service, &[], garbage).await.problem(401, "missing_signature");
        post_with(&service, &[("X-CXone-Signature", &sign("another body"))], garbage).await.problem(401, "invalid_signature");
    }
}

#[tokio::test]
async fn a_compressed_body_is_never_unpacked_behind_the_signature() {
    let (_database, service) = service().await;
    for encoding in ["gzip", "deflate", "br", "zstd", "identity, gzip", "identity;q=1"] {
        let reply = send(service.signed(body()).header("Content-Encoding", encoding)).await;
        reply.problem(415, "unsupported_encoding");
        assert_eq!(reply.header("accept-encoding"), Some("identity"), "{encoding}");
    }
    // {} in gzip: were it unpacked, it would be JSON of another shape.
    let gzipped: &[u8] = &[31, 139, 8, 0, 0, 0, 0, 0, 0, 3, 171, 174, 5, 0, 67, 191, 166, 163, 2, 0, 0, 0];
    let reply = send(service.signed(gzipped).header("Content-Encoding", "gzip")).await;
    reply.problem(415, "unsupported_encoding");
    let twice = service.signed(body()).header("Content-Encoding", "identity").header("Content-Encoding", "gzip");
    send(twice).await.problem(415, "unsupported_encoding");
}

#[tokio::test]
async fn an_encoded_body_is_refused_before_the_signature_and_without_the_body() {
    let (_database, service) = service().await;
    for headers in [&[("Content-Encoding", "gzip")][..], &[("Content-Encoding", "gzip"), ("X-CXone-Signature", "x")]] {
        post_with(&service, headers, "x").await.problem(415, "unsupported_encoding");
    }
    let mut stream = tokio::net::TcpStream::connect(service.url.trim_start_matches("http://")).await.unwrap();
    let head = "POST /data-action HTTP/1.1\r\nHost: x\r\nContent-Encoding: gzip\r\nContent-Length: 100\r\n\r\n";
    stream.write_all(head.as_bytes()).await.unwrap();
    let mut answer = Vec::new();
    stream.read_buf(&mut answer).await.unwrap();
    assert!(answer.starts_with(b"HTTP/1.1 415 "), "{}", String::from_utf8_lossy(&answer));
}

#[tokio::test]
async fn a_body_that_says_it_is_not_encoded_is_taken() {
    let (_database, service) = service().await;
    for encoding in ["identity", "Identity", "identity, identity", ""] {
        let reply = send(service.signed(body()).header("Content-Encoding", encoding)).await;
        assert_eq!(reply.status, 200, "{encoding}: {}", reply.text());
    }
}

#[tokio::test]
async fn header_name_and_encoding_can_be_set() {
    let database = Database::new().await;
    let service =
        Setup::on(&database).set("CXDA_SIGNING__HEADER", "X-Hub-Signature-256").set("CXDA_SIGNING__ENCODING", "base64").start().await;
    let tag = BASE64.encode(hmac(SECRET, body().as_bytes()));
    for good in [&tag, &format!("sha256={tag}")] {
        assert_eq!(post_with(&service, &[("X-Hub-Signature-256", good)], &body()).await.status, 200);
    }
    post_with(&service, &[("X-Hub-Signature-256", &sign(body()))], &body()).await.problem(401, "invalid_signature");
    post_with(&service, &[("X-CXone-Signature", &tag)], &body()).await.problem(401, "missing_signature");
}

#[tokio::test]
async fn with_a_timestamp_header_an_old_request_is_stale() {
    let database = Database::new().await;
    let service =
        Setup::on(&database).set("CXDA_SIGNING__TIMESTAMP_HEADER", "X-Timestamp").set("CXDA_SIGNING__TOLERANCE", "1m").start().await;
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_secs();
    let post_at = async |time: String| {
        let tag = sign(format!("{time}.{}", body()));
        post_with(&service, &[("X-CXone-Signature", &tag), ("X-Timestamp", &time)], &body()).await
    };
    for fresh in [now, now - 30, now + 30] {
        assert_eq!(post_at(fresh.to_string()).await.status, 200);
    }
    for stale in [now - 120, now + 120, 0] {
        post_at(stale.to_string()).await.problem(401, "stale_signature");
    }
    for nonsense in ["", "yesterday", "-1", "1e9", "99999999999999999999999"] {
        let reply = post_at(nonsense.to_owned()).await;
        assert!(
            ["stale_signature", "invalid_signature", "missing_signature"].contains(&reply.json()["code"].as_str().unwrap()),
            "{nonsense:?}: {}",
            reply.text()
        );
        assert_eq!(reply.status, 401);
    }
}

#[tokio::test]
async fn with_a_timestamp_header_the_body_alone_is_not_enough() {
    let database = Database::new().await;
    let service = Setup::on(&database).set("CXDA_SIGNING__TIMESTAMP_HEADER", "X-Timestamp").start().await;
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_secs();
    let (tag, time, later) = (sign(format!("{now}.{}", body())), now.to_string(), (now + 1).to_string());
    assert_eq!(post_with(&service, &[("X-CXone-Signature", &tag)], &body()).await.status, 401);
    post_with(&service, &[("X-CXone-Signature", &sign(body())), ("X-Timestamp", &time)], &body()).await.problem(401, "invalid_signature");
    post_with(&service, &[("X-CXone-Signature", &tag), ("X-Timestamp", &later)], &body()).await.problem(401, "invalid_signature");
    let twins = [("X-CXone-Signature", tag.as_str()), ("X-Timestamp", &time), ("X-Timestamp", &later)];
    assert_eq!(post_with(&service, &twins, &body()).await.status, 401);
}

#[tokio::test]
async fn what_is_not_signed_leaves_no_trace_in_the_stores() {
    let database = Database::new().await;
    let redis = crate::support::Redis::start().await;
    let service = Setup::on(&database).redis(&redis).start().await;
    for _ in 0..20 {
        post_with(&service, &[("X-CXone-Signature", &sign("x"))], &body()).await.problem(401, "invalid_signature");
    }
    assert_eq!(database.audit_count().await, 0);
    assert_eq!(redis.run::<usize>(&["DBSIZE"]).await, 0);
    assert_eq!(service.metrics().await.count("cxone_dataaction_query_duration_seconds_count", &[]), 0);
}
