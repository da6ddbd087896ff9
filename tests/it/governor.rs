//! No answer is longer than CXone takes, and nothing is lost by that: contract, section 1.

use std::collections::BTreeSet;

use serde_json::json;
use uuid::Uuid;

use crate::support::{Database, Service, Setup, ids_of};

const CXONE_CAP: usize = 32_768;

/// Customers whose records are some more than so many bytes long.
async fn customers(database: &Database, n: usize, bytes: usize) -> Vec<Uuid> {
    let ids = database.customers("acme42", n).await;
    database.run(&format!("UPDATE customers SET attributes = jsonb_build_object('note', repeat('é', {bytes} / 2))")).await;
    ids
}

/// Follows `next_ids` to the end. Returns each answer's length, the customers and the missing ids, in the order they came.
async fn follow(service: &Service, mut ids: Vec<Uuid>) -> (Vec<usize>, Vec<Uuid>, Vec<Uuid>) {
    let (mut lengths, mut found, mut missing) = (Vec::new(), Vec::new(), Vec::new());
    while !ids.is_empty() {
        let reply = service.lookup("acme42", &ids).await;
        let output = reply.output();
        let next = ids_of(&output["next_ids"]);
        assert_eq!(output["truncated"], !next.is_empty());
        assert!(next.len() < ids.len(), "each call gets on: {}", output["next_ids"]);
        assert_eq!(output["count"], output["customers"].as_array().unwrap().len());
        lengths.push(reply.body.len());
        found.extend(ids_of(&output["customers"]));
        missing.extend(ids_of(&output["missing"]));
        ids = next;
    }
    (lengths, found, missing)
}

#[tokio::test]
async fn following_next_ids_gets_everything_exactly_once_and_in_order() {
    let database = Database::new().await;
    let ids = customers(&database, 70, 1500).await;
    let mut asked = ids.clone();
    (0..30).for_each(|nth| asked.insert(nth * 3, Uuid::new_v4()));
    for _from in ["database", "cache"] {
        let service = Setup::on(&database).start().await;
        let (lengths, found, missing) = follow(&service, asked.clone()).await;
        assert!(lengths.len() > 3, "{lengths:?}");
        assert!(lengths.iter().all(|len| *len <= CXONE_CAP), "{lengths:?}");
        assert_eq!(found, ids);
        let absent: BTreeSet<_> = asked.iter().filter(|id| !ids.contains(id)).copied().collect();
        assert_eq!(missing.len(), absent.len(), "each missing id is told once");
        assert_eq!(BTreeSet::from_iter(missing), absent);
    }
}

#[tokio::test]
async fn an_answer_is_filled_as_far_as_it_goes() {
    let database = Database::new().await;
    let ids = customers(&database, 60, 1000).await;
    let service = Setup::on(&database).start().await;
    let (lengths, ..) = follow(&service, ids).await;
    let full = &lengths[..lengths.len() - 1];
    assert!(full.iter().all(|len| *len > CXONE_CAP - 4096), "{lengths:?}");
}

#[tokio::test]
async fn what_fits_is_not_truncated() {
    let database = Database::new().await;
    let ids = customers(&database, 20, 1000).await;
    let output = Setup::on(&database).start().await.lookup("acme42", &ids).await.output();
    assert_eq!((&output["truncated"], &output["next_ids"]), (&false.into(), &serde_json::json!([])));
    assert_eq!(output["count"], 20);
}

#[tokio::test]
async fn the_cap_is_a_setting_and_0_means_none() {
    let database = Database::new().await;
    let ids = customers(&database, 50, 1500).await;
    let service = Setup::on(&database).set("CXDA_LOOKUP__MAX_RESPONSE_BYTES", "0").start().await;
    let reply = service.lookup("acme42", &ids).await;
    assert!(reply.body.len() > CXONE_CAP);
    assert_eq!((&reply.output()["count"], &reply.output()["truncated"]), (&50.into(), &false.into()));

    let service = Setup::on(&database).set("CXDA_LOOKUP__MAX_RESPONSE_BYTES", "8000").start().await;
    let (lengths, found, _) = follow(&service, ids.clone()).await;
    assert!(lengths.iter().all(|len| *len <= 8000), "{lengths:?}");
    assert_eq!(found, ids);
}

#[tokio::test]
async fn a_hundred_missing_ids_fit() {
    let database = Database::new().await;
    let service = Setup::on(&database).start().await;
    let ids: Vec<_> = std::iter::repeat_with(Uuid::new_v4).take(100).collect();
    let reply = service.lookup("acme42", &ids).await;
    assert!(reply.body.len() <= CXONE_CAP);
    assert_eq!(ids_of(&reply.output()["missing"]), ids);
}

#[tokio::test]
async fn each_call_of_a_truncated_batch_leaves_its_row() {
    let database = Database::new().await;
    let ids = customers(&database, 60, 1500).await;
    let service = Setup::on(&database).start().await;
    let (lengths, ..) = follow(&service, ids).await;
    assert_eq!(database.audit_count().await, i64::try_from(lengths.len()).unwrap());
}

#[tokio::test]
async fn a_customer_too_big_for_any_answer_does_not_hold_up_the_others_and_is_never_left_out_in_silence() {
    let database = Database::new().await;
    let ids = customers(&database, 3, 100).await;
    database
        .run(&format!("UPDATE customers SET attributes = jsonb_build_object('note', repeat('x', 40000)) WHERE id = '{}'", ids[1]))
        .await;
    let service = Setup::on(&database).start().await;
    let others = service.lookup("acme42", &ids).await.output();
    assert_eq!(ids_of(&others["customers"]), [ids[0], ids[2]]);
    assert_eq!(ids_of(&others["next_ids"]), [ids[1]]);
    let alone = service.lookup("acme42", &[ids[1]]).await.output();
    assert_eq!((&alone["count"], &alone["truncated"], ids_of(&alone["next_ids"])), (&json!(0), &json!(true), vec![ids[1]]));
}
