//! Every answer leaves exactly one committed row, and nothing else does: contract, section 1.

use std::collections::BTreeSet;

use chrono::{TimeDelta, Utc};
use futures_util::future::join_all;
use nix::sys::signal::Signal;
use serde_json::json;
use uuid::Uuid;

use crate::support::{Database, Redis, Setup, request, send, wait_until};

#[tokio::test]
async fn a_row_tells_who_was_told_about_whom() {
    let database = Database::new().await;
    let service = Setup::on(&database).start().await;
    let (there, absent) = (database.customers("acme42", 2).await, Uuid::new_v4());
    let mut body = request("acme42", &[there[1], absent, there[0]]);
    body["context"] = json!({ "contactId": 123_456, "skill": "sales" });
    let before = Utc::now();
    let reply = send(service.signed(body.to_string()).header("X-Request-Id", "call-7")).await;
    assert_eq!(reply.status, 200);

    let row = database.audit_row("call-7").await;
    assert_eq!((row.tenant_id.as_str(), row.action.as_str(), row.source.as_str()), ("acme42", "process_customer_batch", "database"));
    assert_eq!(row.customer_ids, [there[1], absent, there[0]]);
    assert_eq!(row.missing_ids, [absent]);
    assert_eq!((row.key_id.as_str(), row.request_id.as_str(), row.contact_id.as_deref()), ("default", "call-7", Some("123456")));
    assert_eq!(row.id.get_version_num(), 7);
    assert!(row.occurred_at >= before - TimeDelta::seconds(1) && row.occurred_at <= Utc::now() + TimeDelta::seconds(1));
}

#[tokio::test]
async fn a_row_without_a_contact_has_none() {
    let database = Database::new().await;
    let service = Setup::on(&database).start().await;
    let reply = service.lookup("acme42", &[Uuid::new_v4()]).await;
    assert_eq!(database.audit_row(&reply.request_id()).await.contact_id, None);
}

#[tokio::test]
async fn a_row_tells_where_the_answer_came_from() {
    let database = Database::new().await;
    let service = Setup::on(&database).start().await;
    let ids = database.customers("acme42", 2).await;
    for (asked, source) in [(&ids[..1], "database"), (&ids[..1], "cache"), (&ids[..], "mixed"), (&ids[..], "cache")] {
        let reply = service.lookup("acme42", asked).await;
        let row = database.audit_row(&reply.request_id()).await;
        assert_eq!((row.source.as_str(), row.customer_ids.as_slice()), (source, asked));
    }
    assert_eq!(database.audit_count().await, 4);
}

#[tokio::test]
async fn a_cached_absence_is_audited_as_missing() {
    let database = Database::new().await;
    let service = Setup::on(&database).start().await;
    let absent = Uuid::new_v4();
    service.lookup("acme42", &[absent]).await;
    let reply = service.lookup("acme42", &[absent]).await;
    let row = database.audit_row(&reply.request_id()).await;
    assert_eq!((row.source.as_str(), row.missing_ids), ("cache", vec![absent]));
}

#[tokio::test]
async fn an_answer_from_redis_is_audited_too() {
    let database = Database::new().await;
    let redis = Redis::start().await;
    let ids = database.customers("acme42", 2).await;
    let first = Setup::on(&database).redis(&redis).start().await;
    let second = Setup::on(&database).redis(&redis).start().await;
    first.lookup("acme42", &ids).await;
    redis.filled("acme42", &ids).await;
    let reply = second.lookup("acme42", &ids).await;
    assert_eq!(reply.cache(), "hit");
    assert_eq!(database.audit_row(&reply.request_id()).await.source, "cache");
}

#[tokio::test]
async fn hits_may_be_left_out_by_setting_and_nothing_else() {
    let database = Database::new().await;
    let service = Setup::on(&database).set("CXDA_AUDIT__CACHE_HITS", "false").start().await;
    let ids = database.customers("acme42", 2).await;
    service.lookup("acme42", &ids[..1]).await;
    assert_eq!(service.lookup("acme42", &ids[..1]).await.cache(), "hit");
    assert_eq!(database.audit_count().await, 1);
    let reply = service.lookup("acme42", &ids).await;
    assert_eq!(database.audit_row(&reply.request_id()).await.source, "mixed");
    assert_eq!(database.audit_count().await, 2);
}

#[tokio::test]
async fn failures_leave_no_row() {
    let database = Database::new().await;
    let service = Setup::on(&database).start().await;
    let body = request("acme42", &[Uuid::new_v4()]).to_string();
    service.post("{").await.problem(400, "invalid_json");
    service.post("{}").await.errors();
    send(service.call(reqwest::Method::POST, "/data-action").body(body.clone())).await.problem(401, "missing_signature");
    send(service.call(reqwest::Method::GET, "/data-action")).await.problem(405, "method_not_allowed");
    service.post(" ".repeat(70_000)).await.problem(413, "body_too_large");
    assert_eq!(database.audit_count().await, 0);
}

#[tokio::test]
async fn a_request_sent_twice_leaves_two_rows() {
    let database = Database::new().await;
    let service = Setup::on(&database).start().await;
    let body = request("acme42", &database.customers("acme42", 1).await).to_string();
    for _ in 0..2 {
        assert_eq!(send(service.signed(body.clone()).header("X-Request-Id", "same")).await.status, 200);
    }
    assert_eq!(database.audit_count().await, 2);
}

#[tokio::test]
async fn a_crowd_of_callers_gets_a_row_each_with_its_own_ids() {
    let database = Database::new().await;
    let redis = Redis::start().await;
    let service = Setup::on(&database).redis(&redis).patient().start().await;
    let ids = database.customers("acme42", 40).await;
    let others = database.customers("globex", 40).await;
    let call = async |nth: usize| {
        let (tenant, ids) = if nth.is_multiple_of(3) { ("globex", &others) } else { ("acme42", &ids) };
        let asked = [ids[nth % 40], ids[(nth * 7 + 1) % 40], Uuid::from_u128(nth as u128 + 1)];
        let body = request(tenant, &asked).to_string();
        let reply = send(service.signed(body).header("X-Request-Id", format!("call-{nth}"))).await;
        let output = reply.output();
        assert!(output["count"].as_u64().is_some_and(|count| count >= 1), "{output}");
        (nth, tenant, asked)
    };
    let calls = join_all((0..400).map(call)).await;
    assert_eq!(database.audit_count().await, 400);
    for (nth, tenant, asked) in calls {
        let row = database.audit_row(&format!("call-{nth}")).await;
        let mut unique = asked.to_vec();
        unique.dedup();
        assert_eq!((row.tenant_id.as_str(), row.customer_ids), (tenant, unique));
        assert_eq!(row.missing_ids, [asked[2]]);
    }
}

#[tokio::test]
async fn a_service_that_is_killed_has_told_nothing_without_a_row() {
    let database = Database::new().await;
    let service = Setup::on(&database).start().await;
    let ids = database.customers("acme42", 20).await;
    let (url, client) = (format!("{}/data-action", service.url), reqwest::Client::builder().no_proxy().build().unwrap());
    let caller = async |nth: usize| {
        let mut answered = Vec::new();
        let body = request("acme42", &ids[nth..nth + 3]).to_string();
        loop {
            let call = client.post(&url).header("X-CXone-Signature", crate::support::sign(&body)).body(body.clone());
            match call.send().await {
                Ok(response) if response.status() == 200 => {
                    answered.push(response.headers()["x-request-id"].to_str().unwrap().to_owned());
                }
                Ok(response) => panic!("answered {}", response.status()),
                Err(_) => return answered,
            }
        }
    };
    let killer = async {
        wait_until("some are answered", async || (database.audit_count().await > 200).then_some(())).await;
        service.signal(Signal::SIGKILL);
    };
    let (answered, ()) = tokio::join!(join_all((0..8).map(caller)), killer);
    let answered: BTreeSet<String> = answered.into_iter().flatten().collect();
    assert!(answered.len() > 100, "{}", answered.len());
    let rows = database.owner.query("SELECT request_id FROM audit_log", &[]).await.unwrap();
    let rows: BTreeSet<String> = rows.iter().map(|row| row.get(0)).collect();
    assert_eq!(answered.difference(&rows).collect::<Vec<_>>(), Vec::<&String>::new());
}
