//! Webhook routes come from the settings file, and what is wrong with them is told before any of them is served: contract,
//! sections 3 and 7.

use reqwest::Method;

use crate::support::{
    Database, KEY_HEADER, Outcome, ROUTE_SECRET, Redis, Route, SECRET, Service, Setup, Tool, free_port, scratch_file, send, settings_file,
    wait_until,
};

const DATABASE: &str = "postgresql://service:hunter2hunter2@db.example:5432/crm";
const PATH: &str = "/webhooks/dialog";

/// A command about settings with a file of these routes.
fn tool(command: &str, file: &str) -> Tool {
    let path = scratch_file(file);
    let tool = Tool::new(&["config", command]).set("DATABASE_URL", DATABASE).set("CXDA_SIGNING__SECRET", SECRET);
    tool.set("CXDA_CONFIG", path.to_str().unwrap())
}

async fn check(routes: &[Route]) -> Outcome {
    tool("check", &settings_file(routes)).run().await
}

/// Refused, with a line that names the setting and the route it is of, and without a secret.
fn assert_bad(outcome: &Outcome, names: &[&str], path: &str) {
    let printed = outcome.printed();
    assert_eq!(outcome.code, Some(78), "{names:?}: {printed}");
    for name in names {
        let told = printed.lines().any(|line| line.contains(name) && line.contains(path));
        assert!(told, "{name} of {path} is not named in {printed}");
    }
    assert!(!printed.contains(SECRET) && !printed.contains(ROUTE_SECRET) && !printed.contains("hunter2"), "{printed}");
}

fn route() -> Route {
    Route::new(PATH)
}

/// Each of these values of a member is bad, and named.
async fn each_is_bad(member: &str, values: &[&str]) {
    for value in values {
        let outcome = check(&[route().set(member, value)]).await;
        assert_eq!(outcome.code, Some(78), "{member} = {value}: {}", outcome.printed());
        assert_bad(&outcome, &[&format!("webhooks[0].{member}")], PATH);
    }
}

/// Each of these values of a member is good.
async fn each_is_good(member: &str, values: &[&str]) {
    for value in values {
        let outcome = check(&[route().set(member, value)]).await;
        assert_eq!(outcome.code, Some(0), "{member} = {value}: {}", outcome.printed());
    }
}

#[tokio::test]
async fn the_routes_of_the_contract_are_good() {
    let file = format!(
        r#"
[[webhooks]]
path   = "/webhooks/dialog"
auth   = {{ hmac = {{ header = "X-Cognigy-Signature", secret = "{ROUTE_SECRET}" }} }}
key    = {{ header = "X-Correlation-Id" }}
lease  = "30s"
keep   = "24h"
store  = "redis"
action = {{ forward = {{ url = "http://127.0.0.1:9000/hook", timeout = "8s" }} }}

[[webhooks]]
path   = "/webhooks/hash"
auth   = {{ api_key = {{ header = "X-API-Key" }} }}
key    = {{ body = "raw" }}
keep   = "5m"
store  = "postgres"
action = {{ lookup = {{}} }}

[[webhooks]]
path   = "/webhooks/fields"
auth   = {{ hmac = {{ secret = "{ROUTE_SECRET}", signed_headers = ["X-Correlation-Id"], timestamp_header = "X-Time", tolerance = "5m" }} }}
key    = {{ fields = ["/dialogId", "/nodeId", "/sequence"] }}
wait   = "5s"
store  = "memory"
action = {{ echo = {{}} }}

[[webhooks]]
path   = "/webhooks/standard"
auth   = {{ standard_webhooks = {{ secret = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw" }} }}
action = {{ lookup = {{ tenants = ["acme42", "globex"] }} }}
"#
    );
    let outcome = tool("check", &file).set("REDIS_URL", "redis://localhost").run().await;
    assert_eq!(outcome.code, Some(0), "{}", outcome.printed());
}

#[tokio::test]
async fn every_fault_of_every_route_is_told_at_once() {
    let faulty = Route::new("/webhooks/b").lease("1").keep("forever").wait("2h").store("disk").set("action", "{ fly = {} }");
    let faulty = [Route::new("/webhooks/a").without("key"), faulty.set("auth", "{}").set("key", "{ body = 'sorted' }")];
    let members = ["auth", "key", "lease", "keep", "wait", "store", "action"].map(|member| format!("webhooks[1].{member}"));
    let members: Vec<_> = members.iter().map(String::as_str).collect();
    let outcome = tool("check", &settings_file(&faulty)).set("CXDA_LOOKUP__MAX_BATCH", "many").run().await;
    assert_bad(&outcome, &["webhooks[0].key"], "/webhooks/a");
    assert_bad(&outcome, &members, "/webhooks/b");
    assert_bad(&outcome, &["CXDA_LOOKUP__MAX_BATCH"], "");

    let served = Setup::bare().set("DATABASE_URL", DATABASE).set("CXDA_SIGNING__SECRET", SECRET).webhooks(&faulty).refused().await;
    assert_bad(&served, &["webhooks[0].key"], "/webhooks/a");
    assert_bad(&served, &members, "/webhooks/b");
}

#[tokio::test]
async fn durations_of_a_route_have_units_and_bounds() {
    each_is_bad("lease", &["'99ms'", "'61m'", "'30'", "30", "'soon'", "''"]).await;
    each_is_good("lease", &["'100ms'", "'1h'"]).await;
    each_is_bad("keep", &["'999ms'", "'8d'", "'24'", "'-1s'"]).await;
    each_is_good("keep", &["'1s'", "'7d'"]).await;
    each_is_bad("wait", &["'61s'", "'5'", "true"]).await;
    each_is_good("wait", &["'0s'", "'60s'"]).await;
}

#[tokio::test]
async fn a_path_is_plain_and_the_routes_own() {
    for bad in ["webhooks/dialog", "/webhooks/{id}", "/webhooks/{tail}*", "", "/webhooks/a b", "/webhooks/a?b=c", "/webhooks/a#b"] {
        let outcome = check(&[route().text("path", bad)]).await;
        assert_bad(&outcome, &["webhooks[0].path"], "");
    }
    assert_bad(&check(&[route().without("path")]).await, &["webhooks[0].path"], "");
    assert_bad(&check(&[route().text("path", "/data-action")]).await, &["webhooks[0].path"], "/data-action");
    assert_bad(&check(&[route(), Route::new("/webhooks/other"), route()]).await, &["webhooks[2].path"], PATH);
}

#[tokio::test]
async fn a_route_authenticates_its_callers_in_exactly_one_way() {
    assert_bad(&check(&[route().without("auth")]).await, &["webhooks[0].auth"], PATH);
    let both = format!("{{ hmac = {{ secret = '{ROUTE_SECRET}' }}, api_key = {{ secret = '{ROUTE_SECRET}' }} }}");
    each_is_bad("auth", &["{}", "{ none = {} }", "'hmac'", "{ basic = { secret = 'hunter2' } }", &both]).await;
    each_is_good("auth", &["{ hmac = {} }", "{ api_key = {} }"]).await;
}

#[tokio::test]
async fn the_members_of_an_authentication_are_checked() {
    let hmac = |members: &str| format!("{{ hmac = {{ secret = '{ROUTE_SECRET}', {members} }} }}");
    let empty = scratch_file("\n");
    for (auth, name) in [
        (hmac("header = 'no header'"), "hmac.header"),
        (hmac("encoding = 'rot13'"), "hmac.encoding"),
        (hmac("signed_headers = ['X-A', 'no header']"), "hmac.signed_headers"),
        (hmac("signed_headers = 'X-A'"), "hmac.signed_headers"),
        (hmac("timestamp_header = 'no header'"), "hmac.timestamp_header"),
        (hmac("timestamp_header = 'X-Time', tolerance = '5'"), "hmac.tolerance"),
        (hmac("secrets = 'hunter2'"), "hmac.secrets"),
        (hmac("secret_file = '/dev/null'"), "hmac.secret"),
        (format!("{{ hmac = {{ secret = '{}' }} }}", &ROUTE_SECRET[..31]), "hmac.secret"),
        ("{ hmac = { secret = '' } }".to_owned(), "hmac.secret"),
        ("{ hmac = { secret_file = '/nowhere/secret' } }".to_owned(), "hmac.secret_file"),
        (format!("{{ hmac = {{ secret_file = '{}' }} }}", empty.display()), "hmac.secret_file"),
        (format!("{{ api_key = {{ secret = '{}' }} }}", &ROUTE_SECRET[..31]), "api_key.secret"),
        (format!("{{ api_key = {{ header = 'no header', secret = '{ROUTE_SECRET}' }} }}"), "api_key.header"),
        ("{ standard_webhooks = { secret = 'whsec_c2hvcnQ=' } }".to_owned(), "standard_webhooks.secret"),
        ("{ standard_webhooks = { secret = 'whsec_hunter2hunter2!hunter2hunter2' } }".to_owned(), "standard_webhooks.secret"),
        (format!("{{ standard_webhooks = {{ secret = '{ROUTE_SECRET}', tolerance = '0' }} }}"), "standard_webhooks.tolerance"),
    ] {
        let outcome = check(&[route().set("auth", &auth)]).await;
        assert_bad(&outcome, &[&format!("webhooks[0].auth.{name}")], "");
        assert!(!outcome.printed().contains(&ROUTE_SECRET[..31]), "{}", outcome.printed());
    }
}

#[tokio::test]
async fn a_route_has_exactly_one_kind_of_key() {
    assert_bad(&check(&[route().without("key")]).await, &["webhooks[0].key"], PATH);
    let bad = ["{}", "'X-Correlation-Id'", "{ cookie = 'id' }", "{ header = 'X-A', body = 'raw' }", "{ header = 'no header' }"];
    each_is_bad("key", &bad).await;
    each_is_bad("key", &["{ body = 'sorted' }", "{ body = '' }", "{ fields = [] }", "{ fields = ['dialogId'] }"]).await;
    each_is_bad("key", &["{ fields = ['/a~2'] }", "{ fields = ['/a', '/b~'] }", "{ fields = '/dialogId' }"]).await;
    each_is_good("key", &["{ fields = ['/a~0b~1c', '/steps/0/id', '/'] }", "{ body = 'canonical' }"]).await;
}

#[tokio::test]
async fn a_route_does_exactly_one_thing() {
    assert_bad(&check(&[route().without("action")]).await, &["webhooks[0].action"], PATH);
    let lookups = [
        "{ lookup = { tenants = [] } }",
        "{ lookup = { tenants = ['no tenant'] } }",
        "{ lookup = { tenants = 'acme42' } }",
        "{ lookup = { tenant = 'acme42' } }",
    ];
    each_is_bad("action", &lookups).await;
    each_is_bad("action", &["{}", "'echo'", "{ fly = {} }", "{ echo = {}, lookup = {} }", "{ echo = { loud = true } }"]).await;
    each_is_bad("action", &["{ forward = {} }", "{ forward = { timeout = '8s' } }", "{ forward = { url = '' } }"]).await;
    let url = |url: &str| format!("{{ forward = {{ url = '{url}' }} }}");
    for bad in ["ftp://127.0.0.1/hook", "file:///etc/passwd", "127.0.0.1:9000/hook", "/hook", "http://", "http:// x/", "redis://x"] {
        each_is_bad("action", &[&url(bad)]).await;
    }
    for good in ["http://127.0.0.1:9000/hook", "https://example.com", "HTTP://EXAMPLE.COM/a?b=c", "http://[::1]:9000/"] {
        each_is_good("action", &[&url(good)]).await;
    }
    for timeout in ["'8'", "'0'", "8", "'100d'"] {
        each_is_bad("action", &[&format!("{{ forward = {{ url = 'http://x/', timeout = {timeout} }} }}")]).await;
    }
}

#[tokio::test]
async fn a_member_that_a_route_does_not_have_is_an_error() {
    for member in ["retries", "leese", "genesys", "Path"] {
        let outcome = check(&[route().text(member, "1s")]).await;
        assert_bad(&outcome, &[&format!("webhooks[0].{member}")], "");
    }
    for file in ["[webhooks]\npath = '/a'\n", "webhooks = 3\n", "webhooks = ['/a']\n", "[[webhook]]\npath = '/a'\n"] {
        assert_bad(&tool("check", file).run().await, &["webhook"], "");
    }
}

#[tokio::test]
async fn a_route_in_redis_needs_a_redis() {
    let routes = settings_file(&[route().store("redis")]);
    assert_bad(&tool("check", &routes).run().await, &["webhooks[0].store"], PATH);
    for name in ["REDIS_URL", "CXDA_IDEMPOTENCY__REDIS_URL"] {
        let outcome = tool("check", &routes).set(name, "redis://localhost").run().await;
        assert_eq!(outcome.code, Some(0), "{name}: {}", outcome.printed());
    }
    each_is_bad("store", &["'disk'", "'Redis'", "''", "{}"]).await;
}

#[tokio::test]
async fn settings_of_the_stores_are_checked_too() {
    for (name, bad) in [
        ("CXDA_IDEMPOTENCY__REDIS_URL", "memcached://:hunter2@cache"),
        ("CXDA_IDEMPOTENCY__TIMEOUT", "1"),
        ("CXDA_IDEMPOTENCY__CONNECTIONS", "0"),
        ("CXDA_IDEMPOTENCY__SECRET", "hunter2, and too short"),
        ("CXDA_IDEMPOTENCY__SECRET_FILE", "/nowhere/secret"),
    ] {
        assert_bad(&tool("check", &settings_file(&[route()])).set(name, bad).run().await, &[name], "");
    }
}

#[tokio::test]
async fn printed_settings_show_routes_and_defaults_and_no_secret() {
    let whsec = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw";
    let standard = Route::new("/webhooks/standard").set("auth", &format!("{{ standard_webhooks = {{ secret = '{whsec}' }} }}"));
    let api_key = Route::new("/webhooks/key").set("auth", &format!("{{ api_key = {{ secret = '{ROUTE_SECRET}!' }} }}"));
    let tool = tool("print", &settings_file(&[route(), standard.without("key").without("store"), api_key]));
    let tool = tool.set("CXDA_IDEMPOTENCY__REDIS_URL", "redis://:hunter2@cache").set("CXDA_IDEMPOTENCY__SECRET", SECRET);
    let outcome = tool.run().await;
    assert_eq!(outcome.code, Some(0), "{}", outcome.printed());
    for secret in [SECRET, ROUTE_SECRET, whsec, &whsec[6..], "hunter2"] {
        assert!(!outcome.printed().contains(secret), "{}", outcome.printed());
    }
    let value = |name: &str| {
        let value = |line: &str| line.strip_prefix(name)?.trim().strip_prefix('=').map(|value| value.trim().trim_matches('"').to_owned());
        outcome.stdout.lines().find_map(value).unwrap_or_else(|| panic!("no {name} in {}", outcome.stdout))
    };
    for (name, expected) in [
        ("webhooks[0].path", PATH),
        ("webhooks[0].key.header", KEY_HEADER),
        ("webhooks[0].auth.hmac.header", "X-Cognigy-Signature"),
        ("webhooks[0].auth.hmac.secret", "********"),
        ("webhooks[0].lease", "30s"),
        ("webhooks[0].keep", "1day"),
        ("webhooks[0].wait", "0s"),
        ("webhooks[0].store", "memory"),
        ("webhooks[1].store", "redis"),
        ("webhooks[1].auth.standard_webhooks.tolerance", "5m"),
        ("webhooks[1].auth.standard_webhooks.secret", "********"),
        ("webhooks[2].auth.api_key.header", "X-API-Key"),
        ("idempotency.timeout", "1s"),
        ("idempotency.connections", "4"),
        ("idempotency.secret", "********"),
    ] {
        assert_eq!(value(name), expected, "{name}");
    }
}

#[tokio::test]
async fn what_may_have_work_done_twice_is_warned_of_and_nothing_else() {
    let (database, redis) = (Database::new().await, Redis::start().await);
    let auth = format!(r#"{{ hmac = {{ secret = "{ROUTE_SECRET}", signed_headers = ["{}"] }} }}"#, KEY_HEADER.to_lowercase());
    let bound = Route::new("/bound").set("auth", &auth).store("redis");
    let setup = |routes: &[Route]| Setup::on(&database).redis(&redis).webhooks(routes);
    let good = setup(std::slice::from_ref(&bound)).start().await;
    wait_until("its store was asked", async || (!good.metrics().await.values_of("idempotency_records", "route").is_empty()).then_some(()))
        .await;

    () = redis.run(&["CONFIG", "SET", "maxmemory-policy", "allkeys-lru"]).await;
    let service = setup(&[bound, route()]).start().await;
    let warned = |service: &Service, member: &str, value: &str| {
        service.log().into_iter().find(|line| line["level"] == "WARN" && line[member] == value).map(|line| line["route"].clone())
    };
    wait_until("it warns of the policy", async || warned(&service, "policy", "allkeys-lru")).await;
    assert_eq!(warned(&service, "header", KEY_HEADER), Some(PATH.into()));
    assert!(good.log().iter().all(|line| line["level"] == "INFO"), "{}", good.printed());
}

#[tokio::test]
async fn records_are_kept_in_redis_where_there_is_one_and_else_in_postgres() {
    let (database, redis) = (Database::new().await, Redis::start().await);
    let routes = [route().without("store")];
    let rows = async || database.value::<i64>("SELECT count(*) FROM idempotency").await;
    let keys = async |redis: &Redis| {
        let keys: Vec<String> = redis.run(&["KEYS", "cxda:idem:v1:*"]).await;
        keys.iter().filter(|key| key.ends_with(":done")).count()
    };
    let service = Setup::on(&database).redis(&redis).webhooks(&routes).start().await;
    assert_eq!(service.webhook(PATH, "k", "{}").await.status, 200);
    assert_eq!((rows().await, keys(&redis).await > 0), (0, true));

    let service = Setup::on(&database).webhooks(&routes).start().await;
    assert!(!service.webhook(PATH, "k", "{}").await.replayed());
    assert_eq!(rows().await, 1);

    let own = Redis::start().await;
    let setup = Setup::on(&database).set("REDIS_URL", format!("redis://127.0.0.1:{}", free_port()));
    let service = setup.set("CXDA_IDEMPOTENCY__REDIS_URL", own.url()).webhooks(&routes).start().await;
    assert!(!service.webhook(PATH, "k", "{}").await.replayed());
    assert_eq!((rows().await, keys(&own).await > 0), (1, true));
}

#[tokio::test]
async fn a_webhook_route_fails_in_the_words_of_all_routes() {
    let database = Database::new().await;
    let setup = Setup::on(&database).set("CXDA_HTTP__MAX_BODY_BYTES", "4096");
    let service = setup.webhooks(&[Route::new("/webhooks/echo")]).start().await;
    for method in [Method::GET, Method::PUT, Method::DELETE] {
        let reply = send(service.call(method, "/webhooks/echo")).await;
        reply.problem(405, "method_not_allowed");
        assert_eq!(reply.header("allow"), Some("POST"));
    }
    for path in ["/webhooks", "/webhooks/", "/webhooks/echo/", "/webhooks/echo/x", "/webhooks/ECHO", "/webhooks/other"] {
        service.webhook(path, "k", "{}").await.problem(404, "not_found");
    }
    let body = |len: usize| format!("\"{}\"", "x".repeat(len - 2));
    assert_eq!(service.webhook("/webhooks/echo", "k", body(4096)).await.status, 200);
    service.webhook("/webhooks/echo", "k", body(4097)).await.problem(413, "body_too_large");
    service.post_to("/webhooks/echo", &[], body(4097)).await.problem(413, "body_too_large");
    let routes = service.metrics().await.values_of("http_requests_total", "route");
    assert_eq!(routes, ["/webhooks/echo", "unmatched"].map(str::to_owned).into());
}
