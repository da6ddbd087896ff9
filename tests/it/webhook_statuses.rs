//! Which statuses of an upstream a webhook's caller gets, and with what body (RFC 9110 section 15).

use reqwest::Method;

use crate::support::{Answer, Database, Route, Scene, Service, Setup, Upstream};

const HOOK: &str = "/webhooks/dialog";

async fn service(database: &Database, upstream: &Upstream) -> Service {
    Setup::on(database).webhooks(&[Route::new(HOOK).store("postgres").forward(upstream)]).start().await
}

#[tokio::test]
async fn a_status_that_is_no_final_response_becomes_502() {
    let (database, upstream) = (Database::new().await, Upstream::start());
    let service = service(&database, &upstream).await;
    for status in [101, 600, 799, 999] {
        upstream.answer(Answer::new(status));
        for _ in 0..2 {
            service.webhook(HOOK, &status.to_string(), "{}").await.problem(502, "upstream_failed");
        }
    }
    assert_eq!(upstream.started(), 8, "none is stored");
    upstream.answer(Answer::new(200));
    assert_eq!(service.webhook(HOOK, "101", "{}").await.status, 200, "the key is free");
}

#[tokio::test]
async fn a_response_without_content_has_no_body() {
    let (database, upstream) = (Database::new().await, Upstream::start());
    let service = service(&database, &upstream).await;
    let cases = [(204, true, None, Some("application/json")), (205, true, Some("0"), None), (304, false, None, None)];
    for (status, is_stored, length, content_type) in cases {
        let answer = Answer::new(status);
        // A body behind a 304 would be taken for the next response on the connection.
        upstream.answer(if status == 304 { answer.body("") } else { answer });
        for repetition in [false, true] {
            let reply = service.webhook(HOOK, &status.to_string(), "{}").await;
            assert_eq!((reply.status, reply.replayed(), reply.text().as_str()), (status, repetition && is_stored, ""));
            assert_eq!((reply.header("content-length"), reply.header("content-type")), (length, content_type), "{status}");
        }
    }
}

#[tokio::test]
async fn a_stored_response_is_held_to_http_too() {
    let (database, upstream) = (Database::new().await, Upstream::start());
    let service = service(&database, &upstream).await;
    assert_eq!(service.webhook(HOOK, "k", "{}").await.status, 200);
    for status in [101, 600] {
        database.run(&format!("UPDATE idempotency SET status = {status}")).await;
        service.webhook(HOOK, "k", "{}").await.problem(502, "upstream_failed");
    }
    database.run("UPDATE idempotency SET status = 205").await;
    let reply = service.webhook(HOOK, "k", "{}").await;
    assert_eq!((reply.status, reply.replayed(), reply.text().as_str()), (205, true, ""));
    assert_eq!(reply.header("content-type"), None);
    assert_eq!(upstream.started(), 1);
}

#[tokio::test]
async fn a_data_action_s_status_is_held_to_http_too() {
    let scene = Scene::new().await;
    for status in [101, 600] {
        scene.genesys.api.answer(Answer::new(status));
        scene.service.execute(format!(r#"{{"status":{status}}}"#)).await.problem(502, "upstream_failed");
    }
    scene.genesys.api.answer(Answer::new(205));
    let reply = scene.service.execute("{}").await;
    assert_eq!((reply.status, reply.text().as_str(), reply.header("content-type")), (205, "", None));
    assert_eq!(scene.service.admin(Method::GET, "/readyz").await.status, 200);
}
