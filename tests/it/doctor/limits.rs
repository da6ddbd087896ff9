//! Wrong signatures in numbers get no more work done than it takes to refuse them.

use std::time::Instant;

use serde_json::Value;
use uuid::Uuid;

use super::{BODY, Stage, WRONG};
use crate::support::{Service, send, sign_with, wait_until};

async fn refused(service: &Service, body: &str) -> String {
    let call = service.call(reqwest::Method::POST, "/data-action").header("X-CXone-Signature", sign_with(WRONG, body));
    let reply = send(call.body(body.to_owned())).await;
    reply.problem(401, "invalid_signature");
    reply.request_id()
}

#[tokio::test]
async fn no_more_than_ten_in_a_second_are_looked_into_and_the_rest_say_so() {
    let stage = Stage::new(&[("CXDA_HTTP__WORKERS", "1")]).await;
    let began = Instant::now();
    for _ in 0..100 {
        refused(&stage.service, BODY).await;
    }
    let most = 10 * (usize::try_from(began.elapsed().as_secs()).unwrap() + 2);
    let reasons = wait_until("all are logged", async || {
        let log = stage.service.log();
        let reasons: Vec<_> = log.iter().filter_map(|line| line["reason"].as_str().map(str::to_owned)).collect();
        (reasons.len() == 100).then_some(reasons)
    })
    .await;
    let examined = reasons.iter().filter(|reason| *reason == "wrong_secret").count();
    assert!((10..=most).contains(&examined), "{examined} of 100 in {:?}", began.elapsed());
    assert_eq!(reasons.iter().filter(|reason| *reason == "not_examined").count(), 100 - examined);
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
