//! The admin listener: contract, section 5.

use reqwest::Method;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use uuid::Uuid;

use crate::support::{Database, Redis, Setup, client, send, wait_until};

#[tokio::test]
async fn a_service_with_all_it_needs_is_alive_and_ready() {
    let database = Database::new().await;
    let redis = Redis::start().await;
    let service = Setup::on(&database).redis(&redis).start().await;
    assert_eq!(service.admin(Method::GET, "/livez").await.status, 200);
    assert_eq!(service.ready().await.status, 200);
    let verbose = service.admin(Method::GET, "/readyz?verbose").await;
    assert_eq!((verbose.status, &verbose.json()["status"]), (200, &"ready".into()), "{}", verbose.text());
    for dependency in ["postgres", "redis"] {
        assert!(verbose.text().contains(dependency), "{}", verbose.text());
    }
}

#[tokio::test]
async fn without_redis_a_service_is_ready_but_degraded() {
    let database = Database::new().await;
    let mut redis = Redis::start().await;
    let service = Setup::on(&database).redis(&redis).start().await;
    let status = async || {
        let reply = service.admin(Method::GET, "/readyz?verbose").await;
        assert_eq!(reply.status, 200, "{}", reply.text());
        reply.json()["status"].as_str().unwrap().to_owned()
    };
    assert_eq!(status().await, "ready");
    redis.kill();
    wait_until("it is degraded", async || (status().await == "degraded").then_some(())).await;
    redis.start_again().await;
    wait_until("it is ready again", async || (status().await == "ready").then_some(())).await;
    redis.freeze();
    wait_until("it is degraded", async || (status().await == "degraded").then_some(())).await;
    redis.thaw();
}

#[tokio::test]
async fn probes_and_metrics_are_not_on_the_platforms_listener() {
    let database = Database::new().await;
    let service = Setup::on(&database).start().await;
    for path in ["/livez", "/readyz", "/metrics"] {
        send(service.call(Method::GET, path)).await.problem(404, "not_found");
    }
}

#[tokio::test]
async fn metrics_have_the_names_and_labels_that_are_promised() {
    let database = Database::new().await;
    let redis = Redis::start().await;
    let service = Setup::on(&database).redis(&redis).set("CXDA_CACHE__LOCAL_CAPACITY", "0").start().await;
    let id = database.customer("acme42", "Ann").await;
    service.lookup("acme42", &[id]).await;
    database.run("ALTER TABLE audit_log ADD CONSTRAINT nothing CHECK (action = '') NOT VALID").await;
    service.lookup("acme42", &[Uuid::from_u128(7)]).await;
    let metrics = service.metrics().await;
    let promised: [(&str, &str, &[&str]); 6] = [
        ("cxone_dataaction_query_duration_seconds", "histogram", &["status", "tenant_id"]),
        ("cxone_dataaction_rollback_total", "counter", &["reason", "tenant_id"]),
        ("cxone_dataaction_cache_lookups_total", "counter", &["result", "tier"]),
        ("cxone_dataaction_circuit_state", "gauge", &["dependency", "state"]),
        ("http_requests_total", "counter", &["method", "route", "status"]),
        ("http_request_duration_seconds", "histogram", &["method", "route", "status"]),
    ];
    for (name, kind, labels) in promised {
        assert_eq!(metrics.kind(name), Some(kind), "{name}");
        let series = if kind == "histogram" { format!("{name}_count") } else { name.to_owned() };
        assert_eq!(metrics.labels_of(&series), labels, "{name}");
    }
    let content_type = service.admin(Method::GET, "/metrics").await;
    assert!(content_type.header("content-type").is_some_and(|kind| kind.starts_with("text/plain")));
}

#[tokio::test]
async fn requests_are_counted_by_matched_route_and_never_by_path() {
    let database = Database::new().await;
    let service = Setup::on(&database).start().await;
    service.lookup("acme42", &[Uuid::from_u128(7)]).await;
    service.post("{").await;
    for nth in 0..20 {
        send(service.call(Method::GET, &format!("/nowhere-{nth}"))).await;
        send(service.call(Method::from_bytes(format!("VERB{nth}").as_bytes()).unwrap(), "/data-action")).await;
    }
    let metrics = service.metrics().await;
    let count = |labels: &[(&str, &str)]| metrics.count("http_requests_total", labels);
    assert_eq!(count(&[("route", "/data-action"), ("method", "POST"), ("status", "200")]), 1);
    assert_eq!(count(&[("route", "/data-action"), ("method", "POST"), ("status", "400")]), 1);
    assert_eq!(count(&[("status", "404")]), 20);
    assert_eq!(count(&[("status", "405")]), 20);
    let routes = metrics.values_of("http_requests_total", "route");
    assert!(routes.len() <= 3 && !routes.iter().any(|route| route.contains("nowhere")), "{routes:?}");
    let methods = metrics.values_of("http_requests_total", "method");
    assert!(methods.len() <= 4 && !methods.iter().any(|method| method.contains("VERB")), "{methods:?}");
    assert_eq!(metrics.count("http_request_duration_seconds_count", &[("status", "200"), ("route", "/data-action")]), 1);
}

#[tokio::test]
async fn lookups_are_timed_by_tenant_and_outcome() {
    let database = Database::new().await;
    let service = Setup::on(&database).set("CXDA_CACHE__TTL", "0").start().await;
    for tenant in ["acme42", "acme42", "globex"] {
        service.lookup(tenant, &[Uuid::from_u128(7)]).await;
    }
    let metrics = service.metrics().await;
    let timed = |tenant| metrics.count("cxone_dataaction_query_duration_seconds_count", &[("tenant_id", tenant), ("status", "ok")]);
    assert_eq!((timed("acme42"), timed("globex")), (2, 1));
    assert!(metrics.sum("cxone_dataaction_query_duration_seconds_sum", &[("tenant_id", "acme42")]) > 0.0);
}

#[tokio::test]
async fn only_so_many_tenants_keep_a_series_of_their_own() {
    let database = Database::new().await;
    let service = Setup::on(&database).set("CXDA_METRICS__MAX_TENANTS", "3").start().await;
    for nth in 0..10 {
        service.lookup(&format!("tenant{nth}"), &[Uuid::from_u128(7)]).await;
    }
    let metrics = service.metrics().await;
    let series = "cxone_dataaction_query_duration_seconds_count";
    assert_eq!(Vec::from_iter(metrics.values_of(series, "tenant_id")), ["other", "tenant0", "tenant1", "tenant2"]);
    assert_eq!(metrics.count(series, &[("tenant_id", "other")]), 7);
}

#[tokio::test]
async fn a_tenant_that_proves_nothing_gets_no_series() {
    let database = Database::new().await;
    let service = Setup::on(&database).start().await;
    let body = crate::support::request("stranger", &[Uuid::from_u128(7)]).to_string();
    let call = service.call(Method::POST, "/data-action").header("X-CXone-Signature", "00".repeat(32)).body(body);
    send(call).await.problem(401, "invalid_signature");
    assert!(!service.admin(Method::GET, "/metrics").await.text().contains("stranger"));
}

#[tokio::test]
async fn a_probe_that_asks_twice_for_more_is_answered() {
    let database = Database::new().await;
    let service = Setup::on(&database).start().await;
    let reply = service.admin(Method::GET, "/readyz?verbose&verbose=1").await;
    assert_eq!((reply.status, reply.json()["checks"]["postgres"].as_str()), (200, Some("up")), "{}", reply.text());
}

#[tokio::test]
async fn a_foreign_host_is_refused_on_every_admin_route() {
    let database = Database::new().await;
    let service = Setup::on(&database).set("CXDA_ADMIN__HOSTS", "lookup.monitoring.svc, Other.example").start().await;
    let ask = async |path: &str, host: &str| send(client().get(format!("{}{path}", service.admin_url)).header("Host", host)).await;
    let paths = ["/livez", "/readyz", "/metrics", "/openapi.json", "/docs/", "/", "/console/state.json", "/console/console.js", "/nowhere"];
    for path in paths {
        for host in ["evil.example", "evil.example:9090", "[::1].evil", "[::1].evil:9090", "127.0.0.1.evil.example", "app.", ""] {
            let reply = ask(path, host).await;
            reply.problem(403, "foreign_origin");
            assert!(!reply.text().contains("evil"), "{}", reply.text());
        }
        let expected = if path == "/nowhere" { 404 } else { 200 };
        let own = ["127.0.0.1:9090", "[::1]", "[::1]:9090", "localhost", "app:9090", "lookup.monitoring.svc:9090", "other.EXAMPLE"];
        for host in own {
            assert_eq!(ask(path, host).await.status, expected, "{path} {host}");
        }
    }
}

#[tokio::test]
async fn a_probe_without_a_host_is_answered_and_the_console_is_not() {
    let database = Database::new().await;
    let service = Setup::on(&database).start().await;
    for (path, status) in [("/livez", "200"), ("/readyz", "200"), ("/metrics", "200"), ("/", "403"), ("/console/state.json", "403")] {
        let mut stream = TcpStream::connect(service.admin_url.trim_start_matches("http://")).await.unwrap();
        stream.write_all(format!("GET {path} HTTP/1.0\r\n\r\n").as_bytes()).await.unwrap();
        let mut answer = String::new();
        stream.read_to_string(&mut answer).await.unwrap();
        assert_eq!(answer.split(' ').nth(1), Some(status), "{path}: {answer}");
    }
}

#[tokio::test]
async fn admin_hosts_are_names_without_ports() {
    for hosts in ["a.example:9090", "http://a.example", "*", "a..example", "a b"] {
        let outcome = Setup::bare().set("CXDA_ADMIN__HOSTS", hosts).refused().await;
        assert_eq!(outcome.code, Some(78), "{hosts}");
        assert!(outcome.printed().contains("CXDA_ADMIN__HOSTS"), "{}", outcome.printed());
    }
}
