//! One scheme of settings, and complaints about all of them at once: contract, section 3.

use crate::support::{Database, Outcome, SECRET, Setup, Tool, scratch_file};

const URL: &str = "postgresql://service:hunter2hunter2@db.example:5432/crm";

/// `config check` with two settings that are good and whatever a test adds.
fn check() -> Tool {
    Tool::new(&["config", "check"]).set("DATABASE_URL", URL).set("CXDA_SIGNING__SECRET", SECRET)
}

/// The value that `config print` shows.
async fn effective(tool: Tool, name: &str) -> String {
    let outcome = tool.run().await;
    assert_eq!(outcome.code, Some(0), "{}", outcome.printed());
    let value = |line: &str| line.strip_prefix(name)?.trim().strip_prefix('=').map(|value| value.trim().trim_matches('"').to_owned());
    outcome.stdout.lines().find_map(value).unwrap_or_else(|| panic!("no {name} in {}", outcome.stdout))
}

fn print() -> Tool {
    Tool::new(&["config", "print"]).set("DATABASE_URL", URL).set("CXDA_SIGNING__SECRET", SECRET)
}

/// Bad settings, each named.
fn assert_bad(outcome: &Outcome, names: &[&str]) {
    assert_eq!(outcome.code, Some(78), "{}", outcome.printed());
    for name in names {
        assert!(outcome.printed().contains(name), "{name} is not named in {}", outcome.printed());
    }
    assert!(!outcome.printed().contains(SECRET) && !outcome.printed().contains("hunter2"), "{}", outcome.printed());
}

#[tokio::test]
async fn good_settings_are_good() {
    let outcome = check().run().await;
    assert_eq!(outcome.code, Some(0), "{}", outcome.printed());
}

#[tokio::test]
async fn every_bad_setting_is_reported_at_once() {
    let bad = [
        ("CXDA_HTTP__LISTEN", "nowhere"),
        ("CXDA_ADMIN__LISTEN", "127.0.0.1:99999"),
        ("CXDA_SIGNING__ENCODING", "rot13"),
        ("CXDA_SIGNING__HEADER", "no header"),
        ("CXDA_LOOKUP__MAX_BATCH", "many"),
        ("CXDA_LOOKUP__DEADLINE", "2"),
        ("CXDA_CACHE__TTL", "-1s"),
        ("CXDA_AUDIT__CACHE_HITS", "perhaps"),
        ("CXDA_DATABASE__MAX_CONNECTIONS", "0"),
        ("CXDA_LOG__FORMAT", "xml"),
        ("REDIS_URL", "http://redis"),
        ("DATABASE_URL", "mysql://db"),
    ];
    let names: Vec<_> = bad.iter().map(|(name, _)| *name).collect();
    let tool = bad.iter().fold(check(), |tool, (name, value)| tool.set(name, *value));
    assert_bad(&tool.run().await, &names);
    let setup = bad.iter().fold(Setup::bare(), |setup, (name, value)| setup.set(name, *value));
    assert_bad(&setup.refused().await, &names);
}

#[tokio::test]
async fn serve_needs_a_database_and_a_secret_and_says_both() {
    assert_bad(&Setup::bare().refused().await, &["DATABASE_URL", "CXDA_SIGNING__SECRET"]);
}

#[tokio::test]
async fn a_secret_has_32_bytes_at_least() {
    for (secret, code) in [("x".repeat(31), 78), ("x".repeat(32), 0)] {
        let outcome = check().set("CXDA_SIGNING__SECRET", &secret).run().await;
        assert_eq!(outcome.code, Some(code), "{}", outcome.printed());
        assert!(!outcome.printed().contains(&secret));
    }
    let file = format!("[[signing.keys]]\nid = \"a\"\nsecret = \"{}\"\n", "x".repeat(31));
    let path = scratch_file(file);
    let outcome = Tool::new(&["config", "check"]).set("DATABASE_URL", URL).set("CXDA_CONFIG", path.to_str().unwrap()).run().await;
    assert_bad(&outcome, &["signing.keys[0]"]);
}

#[tokio::test]
async fn an_empty_secret_is_no_secret() {
    for empty in ["", " "] {
        assert_bad(&check().set("CXDA_SIGNING__SECRET", empty).run().await, &["CXDA_SIGNING__SECRET"]);
    }
}

#[tokio::test]
async fn a_setting_that_does_not_exist_is_an_error() {
    for typo in ["CXDA_HTTP__LISTENN", "CXDA_HTPP__LISTEN", "CXDA_LOOKUP_MAX_BATCH", "CXDA_CACHE__TTL__X", "CXDA_SIGNING__SECRETS"] {
        let outcome = check().set(typo, "1").run().await;
        assert_eq!(outcome.code, Some(78), "{typo}: {}", outcome.printed());
        let told = outcome.printed().to_lowercase();
        let words: Vec<_> =
            typo.trim_start_matches("CXDA_").to_lowercase().split('_').filter(|w| !w.is_empty()).map(str::to_owned).collect();
        assert!(words.iter().all(|word| told.contains(word.as_str())), "{typo} is not named in {}", outcome.printed());
    }
    let path = scratch_file("[lookup]\nmax_bach = 5\n");
    assert_bad(&check().set("CXDA_CONFIG", path.to_str().unwrap()).run().await, &["max_bach"]);
}

#[tokio::test]
async fn durations_carry_units() {
    for bad in ["2", "2000", "1.5", "two seconds", "2 parsecs", "s"] {
        assert_bad(&check().set("CXDA_LOOKUP__DEADLINE", bad).run().await, &["CXDA_LOOKUP__DEADLINE"]);
    }
    for good in ["250ms", "30s", "2m", "1m 30s", "1h"] {
        let outcome = check().set("CXDA_LOOKUP__DEADLINE", good).run().await;
        assert_eq!(outcome.code, Some(0), "{good}: {}", outcome.printed());
    }
}

#[tokio::test]
async fn the_defaults_are_those_of_the_contract() {
    let expected = [
        ("http.listen", "0.0.0.0:8080"),
        ("admin.listen", "127.0.0.1:9090"),
        ("http.max_body_bytes", "65536"),
        ("signing.header", "X-CXone-Signature"),
        ("signing.encoding", "hex"),
        ("signing.tolerance", "5m"),
        ("lookup.max_batch", "100"),
        ("lookup.max_response_bytes", "32768"),
        ("lookup.deadline", "2s"),
        ("cache.ttl", "1m"),
        ("cache.absent_ttl", "5s"),
        ("cache.local_capacity", "100000"),
        ("audit.cache_hits", "true"),
        ("metrics.max_tenants", "100"),
    ];
    for (name, value) in expected {
        assert_eq!(effective(print(), name).await, value, "{name}");
    }
}

#[tokio::test]
async fn the_environment_beats_the_file_and_flags_beat_both() {
    let path = scratch_file("[lookup]\nmax_batch = 11\ndeadline = \"11s\"\n[cache]\nlocal_capacity = 11\n");
    let tool = print().set("CXDA_CONFIG", path.to_str().unwrap()).set("CXDA_LOOKUP__MAX_BATCH", "22").set("CXDA_LOOKUP__DEADLINE", "22s");
    let tool = tool.args(&["--set", "lookup.max_batch=33"]);
    for (name, value) in [("cache.local_capacity", "11"), ("lookup.deadline", "22s"), ("lookup.max_batch", "33")] {
        assert_eq!(effective(tool.clone(), name).await, value);
    }
}

#[tokio::test]
async fn the_file_may_be_named_by_flag() {
    let (named, other) = (scratch_file("[lookup]\nmax_batch = 11\n"), scratch_file("[lookup]\nmax_batch = 22\n"));
    let tool = print().set("CXDA_CONFIG", other.to_str().unwrap()).args(&["--config", named.to_str().unwrap()]);
    assert_eq!(effective(tool, "lookup.max_batch").await, "11");
}

#[tokio::test]
async fn a_file_that_is_not_there_or_not_toml_is_an_error() {
    assert_bad(&check().set("CXDA_CONFIG", "/nowhere/settings.toml").run().await, &["/nowhere/settings.toml"]);
    let path = scratch_file("[lookup\nmax_batch = ");
    assert_bad(&check().set("CXDA_CONFIG", path.to_str().unwrap()).run().await, &[path.to_str().unwrap()]);
}

#[tokio::test]
async fn secrets_and_urls_may_lie_in_files() {
    let database = Database::new().await;
    let redis = crate::support::Redis::start().await;
    let [url, redis_url, secret] = [&database.url, &redis.url(), SECRET].map(|text| scratch_file(format!("{text}\n")));
    let setup = Setup::bare()
        .set("DATABASE_URL_FILE", url.to_str().unwrap())
        .set("REDIS_URL_FILE", redis_url.to_str().unwrap())
        .set("CXDA_SIGNING__SECRET_FILE", secret.to_str().unwrap());
    let service = setup.start().await;
    assert_eq!(service.lookup("acme42", &[uuid::Uuid::from_u128(7)]).await.status, 200);
}

#[tokio::test]
async fn a_secret_and_its_file_at_once_are_an_error() {
    let path = scratch_file(SECRET);
    for name in ["CXDA_SIGNING__SECRET", "DATABASE_URL"] {
        assert_bad(&check().set(&format!("{name}_FILE"), path.to_str().unwrap()).run().await, &[name]);
    }
    let tool = check().set("REDIS_URL", "redis://localhost").set("REDIS_URL_FILE", path.to_str().unwrap());
    assert_bad(&tool.run().await, &["REDIS_URL"]);
}

#[tokio::test]
async fn a_secret_file_that_is_missing_or_empty_is_an_error() {
    let tool = Tool::new(&["config", "check"]).set("DATABASE_URL", URL);
    let empty = scratch_file("\n");
    for path in ["/nowhere/secret", empty.to_str().unwrap()] {
        assert_bad(&tool.clone().set("CXDA_SIGNING__SECRET_FILE", path).run().await, &["CXDA_SIGNING__SECRET_FILE"]);
    }
}

#[tokio::test]
async fn printed_settings_hold_no_secret() {
    let path = scratch_file(format!("[[signing.keys]]\nid = \"next\"\nsecret = \"another {SECRET}\"\n"));
    let outcome = print().set("REDIS_URL", "redis://:hunter2@cache.example").set("CXDA_CONFIG", path.to_str().unwrap()).run().await;
    assert_eq!(outcome.code, Some(0), "{}", outcome.printed());
    for secret in [SECRET, "hunter2", "another"] {
        assert!(!outcome.printed().contains(secret), "{}", outcome.printed());
    }
    for name in ["database.url", "redis.url", "signing.secret", "signing.keys[0].secret"] {
        assert!(outcome.stdout.contains(name), "{name} is not shown: {}", outcome.stdout);
    }
}

#[tokio::test]
async fn twin_keys_are_an_error() {
    let key = |id: &str, secret: &str| format!("[[signing.keys]]\nid = \"{id}\"\nsecret = \"{secret}{}\"\n", "x".repeat(32));
    for file in [key("a", "1") + &key("a", "2"), key("a", "1") + &key("b", "1")] {
        let path = scratch_file(file);
        let outcome = Tool::new(&["config", "check"]).set("DATABASE_URL", URL).set("CXDA_CONFIG", path.to_str().unwrap()).run().await;
        assert_bad(&outcome, &["signing.keys[1]"]);
    }
}

#[tokio::test]
async fn a_key_with_an_empty_list_of_tenants_is_an_error_and_not_a_key_to_everything() {
    let path = scratch_file(format!("[[signing.keys]]\nid = \"a\"\nsecret = \"{SECRET}\"\ntenants = []\n"));
    let outcome = Tool::new(&["config", "check"]).set("DATABASE_URL", URL).set("CXDA_CONFIG", path.to_str().unwrap()).run().await;
    assert_bad(&outcome, &["signing.keys[0].tenants"]);
}

#[tokio::test]
async fn a_bad_tenant_or_date_of_a_key_is_an_error() {
    for member in ["tenants = [\"no tenant\"]", "not_after = \"tomorrow\"", "not_after = \"2026-13-01T00:00:00Z\"", "tenant = \"acme42\""] {
        let path = scratch_file(format!("[[signing.keys]]\nid = \"a\"\nsecret = \"{SECRET}\"\n{member}\n"));
        let outcome = Tool::new(&["config", "check"]).set("DATABASE_URL", URL).set("CXDA_CONFIG", path.to_str().unwrap()).run().await;
        assert_bad(&outcome, &["signing.keys[0]"]);
    }
}

#[tokio::test]
async fn a_taken_port_is_told_by_its_name() {
    let database = Database::new().await;
    let taken = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let address = taken.local_addr().unwrap().to_string();
    let outcome = Setup::on(&database).set("CXDA_HTTP__LISTEN", &address).refused().await;
    assert_eq!(outcome.code, Some(1), "{}", outcome.printed());
    assert!(outcome.printed().contains(&address), "{}", outcome.printed());
}

#[tokio::test]
async fn a_line_that_is_no_toml_is_told_without_what_stands_in_it() {
    let file = scratch_file(format!("[signing]\nheader = \"X\"\nsecret = \"{SECRET}\n"));
    let outcome = check().set("CXDA_CONFIG", file.to_str().unwrap()).run().await;
    assert_bad(&outcome, &[file.to_str().unwrap(), "line 3"]);
}

#[tokio::test]
async fn a_wait_without_sense_is_an_error() {
    let outcome = check().set("CXDA_DATABASE__STATEMENT_TIMEOUT", "900us").set("CXDA_LOOKUP__DEADLINE", "100years").run().await;
    assert_bad(&outcome, &["CXDA_DATABASE__STATEMENT_TIMEOUT", "CXDA_LOOKUP__DEADLINE"]);
    let outcome = check().set("CXDA_CACHE__TIMEOUT", "2s").set("CXDA_CACHE__BREAKER_OPEN", "1s").run().await;
    assert_bad(&outcome, &["CXDA_CACHE__BREAKER_OPEN"]);
}

#[tokio::test]
async fn a_url_that_its_client_does_not_understand_is_an_error_and_every_sslmode_of_libpq_is_none() {
    let outcome =
        check().set("DATABASE_URL", "postgres://app:hunter2@db/x?no_such=option").set("REDIS_URL", "memcached://hunter2@cache").run().await;
    assert_bad(&outcome, &["DATABASE_URL", "REDIS_URL"]);
    for mode in ["disable", "prefer", "require", "verify-ca", "verify-full"] {
        let outcome = check().set("DATABASE_URL", format!("{URL}?sslmode={mode}")).run().await;
        assert_eq!(outcome.code, Some(0), "{mode}: {}", outcome.printed());
    }
}

#[tokio::test]
async fn a_bad_log_filter_is_an_error() {
    assert_bad(&check().set("RUST_LOG", "info,=x=y=").run().await, &["RUST_LOG"]);
}

#[tokio::test]
async fn prepared_statements_are_auto_named_or_unnamed() {
    const SETTING: &str = "CXDA_DATABASE__PREPARED_STATEMENTS";
    assert_eq!(effective(print(), "database.prepared_statements").await, "auto");
    for value in ["auto", "named", "unnamed"] {
        assert_eq!(effective(print().set(SETTING, value), "database.prepared_statements").await, value);
    }
    assert_bad(&check().set(SETTING, "sometimes").run().await, &[SETTING]);
}
