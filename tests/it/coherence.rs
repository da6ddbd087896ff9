//! A cached customer is never answered as it was for longer than a notification takes.

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use tokio_postgres::types::ToSql;
use uuid::Uuid;

use crate::support::{Database, Redis, Service, Setup, wait_until};

const LISTENER: &str = "application_name = 'cxone-data-action listener' AND datname = current_database()";

/// Three instances that share a Redis; one of them has no tier of its own.
async fn instances(database: &Database, redis: &Redis) -> [Service; 3] {
    let setup = || Setup::on(database).redis(redis);
    [setup().start().await, setup().start().await, setup().set("CXDA_CACHE__LOCAL_CAPACITY", "0").start().await]
}

/// The one name found, or none.
async fn name(service: &Service, tenant: &str, id: Uuid) -> Option<String> {
    service.lookup(tenant, &[id]).await.names().pop()
}

/// Asks until it is known from the cache.
async fn cached(service: &Service, tenant: &str, id: Uuid) {
    wait_until("it is cached", async || (service.lookup(tenant, &[id]).await.cache() == "hit").then_some(())).await;
}

/// All instances come to answer this.
async fn all_see(services: &[Service], tenant: &str, id: Uuid, expected: Option<&str>) {
    for (nth, service) in services.iter().enumerate() {
        let seen = async || (name(service, tenant, id).await.as_deref() == expected).then_some(());
        wait_until(&format!("instance {nth} sees {expected:?}"), seen).await;
    }
}

async fn rename(database: &Database, id: Uuid, name: &str) {
    let parameters: [&(dyn ToSql + Sync); 2] = [&name, &id];
    database.owner.execute("UPDATE customers SET name = $1 WHERE id = $2", &parameters).await.expect("an update");
}

#[tokio::test]
async fn every_instance_sees_a_change_an_insert_a_delete_and_a_customer_that_comes_back() {
    let (database, redis) = (Database::new().await, Redis::start().await);
    let services = instances(&database, &redis).await;
    let id = Uuid::new_v4();
    let cached_everywhere = async || {
        for service in &services {
            cached(service, "acme42", id).await;
        }
    };
    cached_everywhere().await;
    database.customer_with_id("acme42", id, "Ann").await;
    all_see(&services, "acme42", id, Some("Ann")).await;
    cached_everywhere().await;
    rename(&database, id, "Beth").await;
    all_see(&services, "acme42", id, Some("Beth")).await;
    cached_everywhere().await;
    database.run("DELETE FROM customers").await;
    all_see(&services, "acme42", id, None).await;
    database.customer_with_id("acme42", id, "Cleo").await;
    all_see(&services, "acme42", id, Some("Cleo")).await;
    rename(&database, id, "Dora").await;
    all_see(&services, "acme42", id, Some("Dora")).await;
}

#[tokio::test]
async fn a_customer_that_is_given_to_another_tenant_is_gone_from_the_first() {
    let (database, redis) = (Database::new().await, Redis::start().await);
    let services = instances(&database, &redis).await;
    let id = database.customer("acme42", "Ann").await;
    for service in &services {
        cached(service, "acme42", id).await;
        cached(service, "globex", id).await;
    }
    database.run("UPDATE customers SET tenant_id = 'globex'").await;
    all_see(&services, "acme42", id, None).await;
    all_see(&services, "globex", id, Some("Ann")).await;
}

#[tokio::test]
async fn a_change_that_is_rolled_back_drops_nothing() {
    let database = Database::new().await;
    let service = Setup::on(&database).start().await;
    let id = database.customer("acme42", "Ann").await;
    cached(&service, "acme42", id).await;
    let told = service.metrics().await.count("cxone_dataaction_cache_invalidations_total", &[]);
    database.run("BEGIN; UPDATE customers SET name = 'Beth'; ROLLBACK").await;
    // A later one is heard of after whatever came before.
    database.customer("acme42", "Cleo").await;
    wait_until("the later one is heard of", async || {
        (service.metrics().await.count("cxone_dataaction_cache_invalidations_total", &[]) > told).then_some(())
    })
    .await;
    assert_eq!(service.lookup("acme42", &[id]).await.cache(), "hit");
    assert_eq!(service.metrics().await.count("cxone_dataaction_cache_invalidations_total", &[]), told + 1);
}

#[tokio::test]
async fn a_change_of_very_many_customers_empties_their_tenants_cache_and_no_other() {
    let (database, redis) = (Database::new().await, Redis::start().await);
    let services = instances(&database, &redis).await;
    let (changed, other) = (database.customers("acme42", 300).await, database.customer("globex", "Zaphod").await);
    for service in &services {
        cached(service, "acme42", changed[0]).await;
        cached(service, "globex", other).await;
    }
    database.run("UPDATE customers SET name = 'Beth' WHERE tenant_id = 'acme42'").await;
    all_see(&services, "acme42", changed[0], Some("Beth")).await;
    for service in &services {
        assert_eq!(service.lookup("globex", &[other]).await.cache(), "hit");
        cached(service, "acme42", changed[0]).await;
        assert_eq!(name(service, "acme42", changed[0]).await.as_deref(), Some("Beth"));
        assert_eq!(
            service.metrics().await.count("cxone_dataaction_cache_invalidations_total", &[("scope", "tenant")]),
            2,
            "the inserts, too"
        );
    }
    database.run("TRUNCATE customers").await;
    all_see(&services, "globex", other, None).await;
}

#[tokio::test]
async fn what_was_read_before_a_change_is_not_kept_after_it() {
    let (database, redis) = (Database::new().await, Redis::start().await);
    let service = Setup::on(&database).redis(&redis).patient().set("CXDA_DATABASE__STATEMENT_TIMEOUT", "30s").start().await;
    let id = database.customer("acme42", "Ann").await;
    let told = async || service.metrics().await.count("cxone_dataaction_cache_invalidations_total", &[]);
    wait_until("the insert is heard of", async || (told().await == 1).then_some(())).await;
    // Between its read and its audit row, the lookup is held up.
    let lock = database.lock("audit_log").await;
    let late = async {
        assert_eq!(name(&service, "acme42", id).await.as_deref(), Some("Ann"), "as it was when it was asked for");
    };
    let change = async {
        database.waiting_sessions(1).await;
        rename(&database, id, "Beth").await;
        wait_until("the change is heard of", async || (told().await == 2).then_some(())).await;
        lock.batch_execute("ROLLBACK").await.expect("unlocked");
    };
    tokio::join!(late, change);
    for _ in 0..10 {
        assert_eq!(name(&service, "acme42", id).await.as_deref(), Some("Beth"));
    }
    redis.filled("acme42", &[id]).await;
    assert_eq!(redis.cached("acme42", id).await.expect("kept")["name"], "Beth");
}

#[tokio::test]
async fn while_nobody_listens_the_cache_is_passed_by_and_afterwards_what_changed_meanwhile_is_seen() {
    let (database, redis) = (Database::new().await, Redis::start().await);
    let services = instances(&database, &redis).await;
    let id = database.customer("acme42", "Ann").await;
    for service in &services {
        cached(service, "acme42", id).await;
    }
    database.configure("ALLOW_CONNECTIONS false").await;
    database.run(&format!("SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE {LISTENER}")).await;
    rename(&database, id, "Beth").await;
    let listening = async |service: &Service| service.metrics().await.count("cxone_dataaction_cache_listener_up", &[]) == 1;
    for service in &services {
        wait_until("it is noticed", async || (!listening(service).await).then_some(())).await;
        let reply = service.lookup("acme42", &[id]).await;
        assert_eq!((reply.cache(), reply.names()), ("bypass", vec!["Beth".to_owned()]));
    }
    rename(&database, id, "Cleo").await;
    database.configure("ALLOW_CONNECTIONS true").await;
    for service in &services {
        wait_until("it listens again", async || listening(service).await.then_some(())).await;
        assert_eq!(name(service, "acme42", id).await.as_deref(), Some("Cleo"));
        cached(service, "acme42", id).await;
        assert_eq!(name(service, "acme42", id).await.as_deref(), Some("Cleo"));
    }
}

#[tokio::test]
async fn a_listener_that_has_gone_silent_is_noticed_and_nothing_cached_is_believed() {
    let database = Database::new().await;
    let service = Setup::on(&database).start().await;
    let id = database.customer("acme42", "Ann").await;
    cached(&service, "acme42", id).await;
    let pid = database.value::<i32>(&format!("SELECT pid FROM pg_stat_activity WHERE {LISTENER}")).await;
    let signal = |signal| kill(Pid::from_raw(pid), signal).expect("a session of our own server");
    signal(Signal::SIGSTOP);
    rename(&database, id, "Beth").await;
    wait_until("the new name is seen", async || (name(&service, "acme42", id).await.as_deref() == Some("Beth")).then_some(())).await;
    signal(Signal::SIGCONT);
    cached(&service, "acme42", id).await;
    assert_eq!(name(&service, "acme42", id).await.as_deref(), Some("Beth"));
}

#[tokio::test]
async fn what_was_kept_in_redis_before_an_unheard_change_is_not_believed() {
    let (database, redis) = (Database::new().await, Redis::start().await);
    let id = database.customer("acme42", "Ann").await;
    let before = Setup::on(&database).redis(&redis).start().await;
    name(&before, "acme42", id).await;
    redis.filled("acme42", &[id]).await;
    before.stop().await;
    rename(&database, id, "Beth").await;
    let after = Setup::on(&database).redis(&redis).start().await;
    assert_eq!(name(&after, "acme42", id).await.as_deref(), Some("Beth"));
}

#[tokio::test]
async fn a_redis_that_comes_back_with_old_values_is_not_believed() {
    let (database, mut redis) = (Database::new().await, Redis::start().await);
    let setup = || Setup::on(&database).redis(&redis).set("CXDA_CACHE__LOCAL_CAPACITY", "0").set("CXDA_CACHE__BREAKER_OPEN", "900ms");
    let services = [setup().start().await, setup().start().await];
    let id = database.customer("acme42", "Ann").await;
    cached(&services[0], "acme42", id).await;
    let key = format!("cxda:v1:{{acme42}}:{id}");
    let old: Vec<u8> = redis.run(&["DUMP", &key]).await;
    redis.kill();
    rename(&database, id, "Beth").await;
    redis.start_again().await;
    // As out of a snapshot.
    let mut restore = redis::cmd("RESTORE");
    restore.arg(&key).arg(0).arg(old);
    restore.query_async::<()>(&mut redis.connection().await).await.expect("restored");
    // Past the breaker's pause and the next beats, until it is cached again.
    for service in &services {
        let asked = async || {
            let reply = service.lookup("acme42", &[id]).await;
            assert_eq!(reply.names(), ["Beth"]);
            (reply.cache() == "hit").then_some(())
        };
        wait_until("it is cached again", asked).await;
    }
    assert_eq!(name(&services[1], "acme42", id).await.as_deref(), Some("Beth"));
}

/// What is notified of by one statement.
async fn told(database: &Database, statement: &str) -> Vec<String> {
    let (client, mut connection) =
        database.owner_url.parse::<tokio_postgres::Config>().expect("a URL").connect(tokio_postgres::NoTls).await.expect("a connection");
    let (tell, mut hear) = tokio::sync::mpsc::unbounded_channel();
    tokio::spawn(async move {
        while let Some(Ok(message)) = std::future::poll_fn(|context| connection.poll_message(context)).await {
            if let tokio_postgres::AsyncMessage::Notification(notification) = message {
                drop(tell.send(notification.payload().to_owned()));
            }
        }
    });
    client.batch_execute("LISTEN cxda_customers").await.expect("listening");
    database.run(statement).await;
    // Notifications come in the order of the commits.
    database.run("SELECT pg_notify('cxda_customers', 'end')").await;
    let mut payloads = Vec::new();
    while let Some(payload) = hear.recv().await.filter(|payload| payload != "end") {
        payloads.push(payload);
    }
    payloads
}

#[tokio::test]
async fn a_statement_tells_of_its_changes_once() {
    let database = Database::new().await;
    let tell = async |statement: &str| {
        let payloads = told(&database, statement).await;
        assert!(payloads.len() <= 1 && payloads.iter().all(|payload| payload.len() < 8000), "{statement}: {payloads:?}");
        payloads.first().map(|payload| serde_json::from_str::<serde_json::Value>(payload).expect("JSON"))
    };
    let insert = |tenant: &str, n: usize| {
        format!(
            "INSERT INTO customers (tenant_id, id, name, status) SELECT {tenant}, gen_random_uuid(), 'Ann', 'active' FROM generate_series(1, {n}) n"
        )
    };
    let count = |value: &Option<serde_json::Value>, what: &str| value.as_ref().and_then(|value| value[what].as_array()).map(Vec::len);
    let one = "'00000000-0000-4000-8000-000000000001'";
    let customer = |version: u64| serde_json::json!({"customers": [["acme42", one.trim_matches('\''), version]]});
    let values = format!("('acme42', {one}, 'Ann', 'active')");
    assert_eq!(tell(&format!("INSERT INTO customers (tenant_id, id, name, status) VALUES {values}")).await, Some(customer(1)));
    assert_eq!(tell("UPDATE customers SET name = 'Beth'").await, Some(customer(2)));
    let upsert = format!(
        "INSERT INTO customers (tenant_id, id, name, status) VALUES {values} ON CONFLICT (tenant_id, id) DO UPDATE SET name = 'Cleo'"
    );
    assert_eq!(tell(&upsert).await, Some(customer(3)));
    assert_eq!(tell("DELETE FROM customers").await, Some(customer(4)));
    assert_eq!(tell("DELETE FROM customers").await, None);
    assert_eq!(tell("UPDATE customers SET name = 'nobody'").await, None);
    assert_eq!(count(&tell(&insert("'acme42'", 100)).await, "customers"), Some(100));
    assert_eq!(tell("UPDATE customers SET name = 'all'").await.map(|value| value["customers"].as_array().map(Vec::len)), Some(Some(100)));
    let long = "t".repeat(64);
    assert_eq!(tell(&insert(&format!("'{long}'"), 100)).await, Some(serde_json::json!({"tenants": [long]})), "too long a list");
    assert_eq!(tell(&insert("'globex'", 10_000)).await, Some(serde_json::json!({"tenants": ["globex"]})));
    assert_eq!(count(&tell("UPDATE customers SET name = 'all'").await, "tenants"), Some(3));
    assert_eq!(tell(&insert("'t' || n", 5_000)).await, Some(serde_json::json!({"all": true})));
    assert_eq!(tell("TRUNCATE customers").await, Some(serde_json::json!({"all": true})));
}
