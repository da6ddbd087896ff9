//! One tenant never sees another's customers, neither from Postgres nor from a cache.

use uuid::Uuid;

use crate::support::{Database, Redis, Setup, ids_of};

#[tokio::test]
async fn the_same_id_is_another_customer_for_another_tenant() {
    let database = Database::new().await;
    let redis = Redis::start().await;
    let service = Setup::on(&database).redis(&redis).start().await;
    let id = Uuid::new_v4();
    for (tenant, name) in [("acme42", "Ann"), ("globex", "Zaphod"), ("ACME42", "Capital Ann")] {
        database.customer_with_id(tenant, id, name).await;
    }
    for _from in ["database", "cache"] {
        for (tenant, name) in [("acme42", "Ann"), ("globex", "Zaphod"), ("ACME42", "Capital Ann")] {
            assert_eq!(service.lookup(tenant, &[id]).await.names(), [name]);
        }
    }
}

#[tokio::test]
async fn another_tenants_customer_is_missing() {
    let database = Database::new().await;
    let redis = Redis::start().await;
    let service = Setup::on(&database).redis(&redis).start().await;
    let theirs = database.customers("globex", 5).await;
    assert_eq!(service.lookup("globex", &theirs).await.output()["count"], 5);
    for tenant in ["acme42", "globe", "globexx", "Globex"] {
        let reply = service.lookup(tenant, &theirs).await;
        let output = reply.output();
        assert_eq!((output["count"].as_u64(), ids_of(&output["missing"])), (Some(0), theirs.clone()));
        assert_eq!(database.audit_row(&reply.request_id()).await.missing_ids, theirs);
    }
}

#[tokio::test]
async fn an_absence_for_one_tenant_is_none_for_another() {
    let database = Database::new().await;
    let redis = Redis::start().await;
    let first = Setup::on(&database).redis(&redis).start().await;
    let second = Setup::on(&database).redis(&redis).start().await;
    let id = database.customer("globex", "Zaphod").await;
    assert_eq!(ids_of(&first.lookup("acme42", &[id]).await.output()["missing"]), [id]);
    redis.filled("acme42", &[id]).await;
    for service in [&first, &second] {
        assert_eq!(service.lookup("globex", &[id]).await.names(), ["Zaphod"]);
    }
}

#[tokio::test]
async fn callers_of_many_tenants_at_once_each_get_their_own() {
    let database = Database::new().await;
    let service = Setup::on(&database).patient().start().await;
    let id = Uuid::new_v4();
    let tenants: Vec<_> = (0..50).map(|nth| format!("tenant{nth}")).collect();
    for tenant in &tenants {
        database.customer_with_id(tenant, id, &format!("customer of {tenant}")).await;
    }
    let calls = (0..500).map(async |nth| {
        let tenant = &tenants[nth % 50];
        assert_eq!(service.lookup(tenant, &[id]).await.names(), [format!("customer of {tenant}")]);
    });
    futures_util::future::join_all(calls).await;
}
