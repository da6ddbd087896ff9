//! The console on the admin listener: what it shows, whom it answers, and what it never does.

mod page;

use reqwest::Method;
use serde_json::Value;
use uuid::Uuid;

use crate::support::{Database, Redis, Reply, Route, Service, Setup, client, request, send, sign, wait_until};

const HOOK: &str = "/webhooks/dialog";

/// The numbers, once they are as wanted.
async fn state(service: &Service, what: &str, wanted: impl Fn(&Value) -> bool) -> Value {
    wait_until(what, async || {
        let reply = service.admin(Method::GET, "/console/state.json").await;
        assert_eq!((reply.status, reply.header("content-type")), (200, Some("application/json")), "{}", reply.text());
        Some(reply.json()).filter(&wanted)
    })
    .await
}

/// A signed lookup, sent as the page sends it, but for what a test changes.
fn lookup(service: &Service, origin: Option<&str>) -> reqwest::RequestBuilder {
    let body = request("acme42", &[Uuid::from_u128(7)]).to_string();
    let call = client().post(format!("{}/console/data-action", service.admin_url)).header("X-CXone-Signature", sign(&body));
    origin.into_iter().fold(call, |call, origin| call.header("Origin", origin)).body(body)
}

#[tokio::test]
async fn the_numbers_are_those_of_the_requests_that_were_answered() {
    let database = Database::new().await;
    let redis = Redis::start().await;
    let service = Setup::on(&database).redis(&redis).webhooks(&[Route::new(HOOK), Route::new("/webhooks/quiet")]).start().await;
    let id = database.customer("acme42", "Ann Example").await;
    for _ in 0..3 {
        service.lookup("acme42", &[id]).await;
    }
    let last = service.lookup("globex7", &[id, Uuid::from_u128(7)]).await;
    service.post_to("/data-action", &[("X-CXone-Signature", "00")], "{}").await.problem(401, "invalid_signature");
    for _ in 0..4 {
        service.webhook(HOOK, "k", "{}").await;
    }

    let seen = state(&service, "all requests are counted", |state| state["metrics"]["latency"]["count"] == 9).await;
    let metrics = &seen["metrics"];
    assert_eq!(metrics["requests"], serde_json::json!({"200": 8, "401": 1}));
    let within = metrics["latency"]["within"].as_array().unwrap();
    assert_eq!((within.last().unwrap(), within.len()), (&9.into(), metrics["latency"]["bounds"].as_array().unwrap().len()));
    assert_eq!(metrics["cache"]["local"], serde_json::json!({"hit": 2, "miss": 3}));
    assert_eq!(metrics["once"][HOOK], serde_json::json!({"first": 1, "replayed": 3}));
    assert_eq!(seen["routes"], serde_json::json!([HOOK, "/webhooks/quiet"]), "a route is shown before its first request");
    assert_eq!((&metrics["breakers"]["redis"], &metrics["listener_up"]), (&"closed".into(), &true.into()));
    assert!(metrics["pool"]["idle"].as_u64().is_some_and(|idle| idle > 0), "{metrics}");
    assert_eq!((&seen["readiness"]["status"], &seen["readiness"]["checks"]["postgres"]), (&"ready".into(), &"up".into()));
    assert_eq!(seen["version"], env!("CARGO_PKG_VERSION"));

    let rows = seen["audit"].as_array().unwrap();
    assert_eq!((rows.len(), &rows[0]["request_id"]), (4, &last.request_id().into()), "the newest comes first");
    assert_eq!((&rows[0]["tenant"], &rows[0]["source"], &rows[0]["key_id"]), (&"globex7".into(), &"database".into(), &"default".into()));
    assert_eq!((&rows[0]["customers"], &rows[0]["missing"], &rows[0]["first_id"]), (&2.into(), &2.into(), &id.to_string().into()));
    assert!(!seen.to_string().contains("Example"), "ids, and no names: {seen}");
}

#[tokio::test]
async fn the_newest_rows_are_found_among_many_tenants_and_months() {
    let database = Database::new().await;
    let service = Setup::on(&database).start().await;
    let insert = "INSERT INTO audit_log (tenant_id, occurred_at, id, action, source, customer_ids, request_id) \
         SELECT 'tenant' || (n * 7919 % 300), now() - n * interval '1 minute' - (n % 5) * interval '20 days', gen_random_uuid(), 'a', 'cache', \
             ARRAY[gen_random_uuid()], n::text FROM generate_series(1, 5000) AS n";
    database.run(insert).await;
    let sql = "SELECT string_agg(request_id, ' ') FROM (SELECT request_id FROM audit_log ORDER BY occurred_at DESC LIMIT 20) AS newest";
    let newest: String = database.value(sql).await;
    let seen = state(&service, "the rows are read", |state| state["audit"].as_array().is_some_and(|rows| !rows.is_empty())).await;
    let shown: Vec<_> = seen["audit"].as_array().unwrap().iter().map(|row| row["request_id"].as_str().unwrap()).collect();
    assert_eq!(shown.join(" "), newest);
}

#[tokio::test]
async fn many_who_look_at_once_get_one_reading() {
    let database = Database::new().await;
    let service = Setup::on(&database).start().await;
    let looks = (0..50).map(|_| service.admin(Method::GET, "/console/state.json"));
    let seen: std::collections::BTreeSet<_> = futures_util::future::join_all(looks).await.iter().map(|reply| reply.body.clone()).collect();
    assert!(seen.len() <= 2, "{} readings", seen.len());
}

#[tokio::test]
async fn a_database_that_does_not_answer_leaves_the_rest_of_the_numbers() {
    let database = Database::new().await;
    let service = Setup::on(&database).start().await;
    service.lookup("acme42", &[Uuid::from_u128(7)]).await;
    state(&service, "the row is there", |state| state["audit"][0]["tenant"] == "acme42").await;
    let lock = database.lock("audit_log").await;
    let seen = state(&service, "the rows are given up", |state| state["audit"].is_null()).await;
    assert_eq!((&seen["readiness"]["status"], &seen["metrics"]["requests"]["200"]), (&"ready".into(), &1.into()));
    drop(lock);
    state(&service, "the row is there again", |state| state["audit"][0]["tenant"] == "acme42").await;
    database.configure("ALLOW_CONNECTIONS false").await;
    database
        .run("SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = current_database() AND usename = 'cxda_service'")
        .await;
    state(&service, "the database is said to be away", |state| state["readiness"]["status"] == "database_unavailable").await;
}

#[tokio::test]
async fn a_browser_is_told_to_be_strict_with_the_page() {
    let database = Database::new().await;
    let service = Setup::on(&database).start().await;
    for (path, kind) in [
        ("/", "text/html; charset=utf-8"),
        ("/console/console.js", "text/javascript; charset=utf-8"),
        ("/console/console.css", "text/css; charset=utf-8"),
        ("/console/icon.svg", "image/svg+xml"),
        ("/console/state.json", "application/json"),
    ] {
        let reply = service.admin(Method::GET, path).await;
        assert_eq!((reply.status, reply.header("content-type")), (200, Some(kind)), "{path}");
        let policy = reply.header("content-security-policy").unwrap_or_default();
        for rule in ["default-src 'none'", "script-src 'self';", "form-action 'none'", "frame-ancestors 'none'", "base-uri 'none'"] {
            assert!(policy.contains(rule) && !policy.contains("unsafe"), "{path}: {policy}");
        }
        for (name, value) in [
            ("x-frame-options", "DENY"),
            ("x-content-type-options", "nosniff"),
            ("referrer-policy", "no-referrer"),
            ("cache-control", "no-store"),
            ("cross-origin-resource-policy", "same-origin"),
        ] {
            assert_eq!(reply.header(name), Some(value), "{path}");
        }
        assert_eq!(reply.header("access-control-allow-origin"), None, "{path}");
        let post = client().post(format!("{}{path}", service.admin_url)).header("Origin", &service.admin_url);
        send(post).await.problem(405, "method_not_allowed");
    }
}

#[tokio::test]
async fn a_name_that_points_here_is_not_answered() {
    let database = Database::new().await;
    let service = Setup::on(&database).start().await;
    let ask =
        async |path: &str, host: &str| -> Reply { send(client().get(format!("{}{path}", service.admin_url)).header("Host", host)).await };
    for path in ["/", "/console/state.json", "/console/console.js"] {
        for host in ["evil.example", "evil.example:9090", "127.0.0.1.evil.example", "localhost.evil.example:80"] {
            ask(path, host).await.problem(403, "foreign_origin");
        }
        for host in ["localhost", "localhost:9090", "127.0.0.1:1", "[::1]:9090"] {
            assert_eq!(ask(path, host).await.status, 200, "{path} {host}");
        }
    }
    for path in ["/livez", "/readyz", "/metrics"] {
        assert_eq!(ask(path, "cxone-data-action:9090").await.status, 200, "probes and Prometheus come by a name: {path}");
    }
}

#[tokio::test]
async fn the_console_passes_on_lookups_of_its_own_page_and_nothing_else() {
    let database = Database::new().await;
    let service = Setup::on(&database).start().await;
    let own = service.admin_url.as_str();
    let answer = send(lookup(&service, Some(own))).await;
    assert_eq!((answer.cache(), answer.output()["missing"].as_array().unwrap().len()), ("miss", 1));
    assert_eq!(database.audit_row(&answer.request_id()).await.tenant_id, "acme42", "it is audited as any other");
    let listener_for_platforms = service.url.as_str();
    for origin in [None, Some("null"), Some("http://evil.example"), Some(listener_for_platforms)] {
        send(lookup(&service, origin)).await.problem(403, "foreign_origin");
    }
    send(lookup(&service, Some("http://evil.example")).header("Host", "evil.example")).await.problem(403, "foreign_origin");

    let to = |method: Method, path: &str| client().request(method, format!("{own}{path}")).header("Origin", own);
    send(to(Method::POST, "/console/data-action").body("{}")).await.problem(401, "missing_signature");
    send(to(Method::POST, "/console/data-action").header("X-CXone-Signature", "00").body("x".repeat(70_000)))
        .await
        .problem(413, "body_too_large");
    for path in [
        "/console/webhooks/dialog",
        "/console/data-action/",
        "/console/genesys/actions/a/execute",
        "/console/../data-action",
        "/data-action",
    ] {
        send(to(Method::POST, path).body("{}")).await.problem(404, "not_found");
    }
    send(to(Method::GET, "/console/data-action")).await.problem(405, "method_not_allowed");
}

#[tokio::test]
async fn looking_changes_nothing() {
    let database = Database::new().await;
    let service = Setup::on(&database).start().await;
    for path in ["/", "/console/state.json", "/console/console.js", "/console/data-action?action=process_customer_batch"] {
        service.admin(Method::GET, path).await;
    }
    assert_eq!(database.audit_count().await, 0);
    assert_eq!(service.metrics().await.count("http_requests_total", &[("status", "200")]), 0, "who looks is not traffic");
}
