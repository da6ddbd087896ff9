//! Idempotency keys on Postgres through the pooler: work once, however many processes and duplicates.

use std::time::Duration;

use futures_util::future::join_all;
use uuid::Uuid;

use super::limits::assert_nothing_left_behind;
use crate::support::{Answer, Database, PgBouncer, Route, Setup, Upstream};

const PATH: &str = "/webhooks/dialog";
const KEYS: usize = 20;

#[tokio::test]
async fn duplicates_at_two_processes_are_worked_once() {
    let database = Database::new().await;
    let pooler = PgBouncer::before(&database, 2).await;
    let upstream = Upstream::start();
    upstream.answer(Answer::new(200).after(Duration::from_millis(20)));
    let route = Route::new(PATH).store("postgres").wait("20s").forward(&upstream);
    let setup = Setup::on(&database).patient().set("DATABASE_URL", pooler.url()).set("CXDA_IDEMPOTENCY__TIMEOUT", "5s");
    let setup = setup.webhooks(&[route.lease("30s")]);
    let services = join_all((0..2).map(|_| setup.clone().start())).await;
    let keys: Vec<_> = (0..KEYS).map(|_| Uuid::new_v4().to_string()).collect();
    for _ in 0..2 {
        let calls = keys.iter().flat_map(|key| (0..6).map(move |nth| (key, nth)));
        let replies = join_all(calls.map(|(key, nth)| services[nth % 2].webhook(PATH, key, r#"{"a":1}"#))).await;
        for of_key in replies.chunks(6) {
            assert!(of_key.iter().all(|reply| reply.status == 200 && reply.text() == of_key[0].text()), "{}", of_key[0].text());
        }
    }
    assert_eq!((upstream.started(), upstream.completed()), (KEYS, KEYS));
    let done: i64 = database.value("SELECT count(*) FROM idempotency WHERE state = 'done'").await;
    assert_eq!(done, i64::try_from(KEYS).unwrap());
    services[0].webhook(PATH, &keys[0], r#"{"a":2}"#).await.problem(422, "idempotency_key_reused");
}

#[tokio::test]
async fn a_key_store_leaves_nothing_in_the_server_session() {
    let database = Database::new().await;
    let pooler = PgBouncer::before(&database, 1).await;
    let setup = Setup::on(&database).patient().set("DATABASE_URL", pooler.url()).set("CXDA_CACHE__TTL", "0");
    let service = setup.set("CXDA_IDEMPOTENCY__TIMEOUT", "5s").webhooks(&[Route::new(PATH).store("postgres")]).start().await;
    assert_eq!(service.webhook(PATH, "one", r#"{"a":1}"#).await.status, 200);
    assert!(service.webhook(PATH, "one", r#"{"a":1}"#).await.replayed());
    assert_nothing_left_behind(&pooler).await;
}
