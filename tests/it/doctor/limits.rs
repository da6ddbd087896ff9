//! Wrong signatures in numbers get no more work done than it takes to refuse them.

use serde_json::Value;
use uuid::Uuid;

use super::{Stage, WRONG};
use crate::support::{Service, send, sign_with, wait_until};

async fn refused(service: &Service, body: &str) -> String {
    let call = service.call(reqwest::Method::POST, "/data-action").header("X-CXone-Signature", sign_with(WRONG, body));
    let reply = send(call.body(body.to_owned())).await;
    reply.problem(401, "invalid_signature");
    reply.request_id()
}

#[tokio::test]
async fn some_are_looked_into_until_the_time_for_that_is_used_up_and_the_rest_say_so() {
    const SENT: usize = 300;
    let stage = Stage::new(&[]).await;
    // As long as may be looked into, and in need of every try.
    let body = format!("{}{}{}", "[".repeat(100), vec!["1.5"; 4000].join(","), "]".repeat(100));
    for _ in 0..SENT {
        refused(&stage.service, &body).await;
    }
    let reasons = wait_until("all are logged", async || {
        let log = stage.service.log();
        let reasons: Vec<_> = log.iter().filter_map(|line| line["reason"].as_str().map(str::to_owned)).collect();
        (reasons.len() == SENT).then_some(reasons)
    })
    .await;
    let examined = reasons.iter().filter(|reason| *reason == "wrong_secret").count();
    assert!((1..SENT / 2).contains(&examined), "{examined} of {SENT}");
    assert_eq!(reasons.iter().filter(|reason| *reason == "not_examined").count(), SENT - examined);
    // What it costs to be refused does not keep others from being answered.
    assert_eq!(stage.service.lookup("acme42", &[Uuid::from_u128(7)]).await.status, 200);
}

#[tokio::test]
async fn a_long_body_is_not_looked_into() {
    let mut stage = Stage::new(&[]).await;
    for (length, reason) in [(16 << 10, "wrong_secret"), ((16 << 10) + 1, "not_examined")] {
        let id = refused(&stage.service, &"x".repeat(length)).await;
        assert_eq!(stage.service.request_line(&id).await["reason"], Value::from(reason));
    }
}
