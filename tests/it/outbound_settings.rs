//! Settings of what the service calls itself, `[genesys]` and `[cognigy.metrics]`: contract, sections 3 and 8.

use std::collections::BTreeMap;

use crate::support::{Outcome, Route, SECRET, Setup, Tool, scratch_file, settings_file};

const DATABASE: &str = "postgresql://service:hunter2hunter2@db.example:5432/crm";
const PATH: &str = "/webhooks/dialog";
/// Stands in every secret of these tests.
const CANARY: &str = "canary-5d20";
const GENESYS: [&str; 4] = ["base_url", "login_url", "client_id", "client_secret"];
const COGNIGY: [&str; 3] = ["base_url", "username", "password"];

/// A table of the settings file, its members as TOML.
#[derive(Clone)]
struct Section {
    name: &'static str,
    members: BTreeMap<String, String>,
}

impl Section {
    fn empty(name: &'static str) -> Self {
        Self { name, members: BTreeMap::new() }
    }

    fn genesys() -> Self {
        let section =
            Self::empty("genesys").set("base_url", "'https://api.example'").set("login_url", "'https://login.example/oauth/token'");
        section.set("client_id", "'the client'").set("client_secret", &format!("'{CANARY}'"))
    }

    fn cognigy() -> Self {
        let section = Self::empty("cognigy.metrics").set("base_url", "'https://cognigy.example'").set("username", "'the user'");
        section.set("password", &format!("'{CANARY}'"))
    }

    fn set(mut self, member: &str, toml: &str) -> Self {
        self.members.insert(member.to_owned(), toml.to_owned());
        self
    }

    fn without(mut self, member: &str) -> Self {
        self.members.remove(member);
        self
    }

    fn toml(&self) -> String {
        let members = self.members.iter().map(|(name, value)| format!("{name} = {value}\n"));
        format!("[{}]\n{}\n", self.name, members.collect::<String>())
    }

    async fn check(&self) -> Outcome {
        check(&self.toml()).await
    }

    /// Each of these values of a member is bad, and named.
    async fn each_is_bad(&self, member: &str, values: &[&str]) {
        for value in values {
            let outcome = self.clone().set(member, value).check().await;
            assert_eq!(outcome.code, Some(78), "{}.{member} = {value}: {}", self.name, outcome.printed());
            assert_bad(&outcome, &[&format!("{}.{member}", self.name)]);
        }
    }

    /// Each of these values of a member is good.
    async fn each_is_good(&self, member: &str, values: &[&str]) {
        for value in values {
            let outcome = self.clone().set(member, value).check().await;
            assert_eq!(outcome.code, Some(0), "{}.{member} = {value}: {}", self.name, outcome.printed());
        }
    }
}

/// A command about settings with that file.
fn tool(command: &str, file: &str) -> Tool {
    let path = scratch_file(file);
    let tool = Tool::new(&["config", command]).set("DATABASE_URL", DATABASE).set("CXDA_SIGNING__SECRET", SECRET);
    tool.set("CXDA_CONFIG", path.to_str().unwrap())
}

async fn check(file: &str) -> Outcome {
    tool("check", file).run().await
}

/// Refused, with a line that begins with each of these names, and without a secret.
fn assert_bad(outcome: &Outcome, names: &[&str]) {
    let printed = outcome.printed();
    assert_eq!(outcome.code, Some(78), "{names:?}: {printed}");
    for name in names {
        assert!(outcome.stderr.lines().any(|line| line.starts_with(name)), "{name} is not named in {printed}");
    }
    assert_no_secret(&printed);
}

fn assert_no_secret(printed: &str) {
    for secret in [SECRET, CANARY, "hunter2"] {
        assert!(!printed.contains(secret), "{printed}");
    }
}

/// What `config print` shows.
async fn printed(tool: Tool) -> BTreeMap<String, String> {
    let outcome = tool.run().await;
    assert_eq!(outcome.code, Some(0), "{}", outcome.printed());
    assert_no_secret(&outcome.printed());
    let pairs = outcome.stdout.lines().filter_map(|line| line.split_once(" = "));
    pairs.map(|(name, value)| (name.to_owned(), value.trim_matches(['"', '\'']).to_owned())).collect()
}

/// A route that executes a data action.
fn executes(action: &str) -> Route {
    Route::new(PATH).set("action", &format!("{{ genesys = {action} }}"))
}

#[tokio::test]
async fn the_settings_of_the_contract_are_good() {
    let file = format!(
        r#"
[genesys]
base_url = "https://api.mypurecloud.com"
login_url = "https://login.mypurecloud.com/oauth/token"
client_id = "00000000-0000-0000-0000-000000000001"
client_secret = "{CANARY}"
execute_path = "/api/v2/integrations/actions/{{action_id}}/execute"
environment = "prod"
deadline = "20s"
lease = "30s"
keep = "24h"
wait = "0s"
store = "redis"
rate_per_minute = 250
max_in_flight = 64
keys = ["default", "next"]
allow_http = false

[cognigy.metrics]
base_url = "https://cognigy.example"
login_path = "/api/v2/auth/login"
metrics_path = "/api/v2/metrics"
username = "metrics"
password = "{CANARY}"
queue = 10000
timeout = "5s"

[[signing.keys]]
id = "next"
secret = "another {SECRET}"
tenants = ["acme42"]

[[webhooks]]
path = "/webhooks/action"
auth = {{ api_key = {{}} }}
key = {{ body = "canonical" }}
action = {{ genesys = {{ action_id = "custom_-_00000000-0000-0000-0000-000000000002" }} }}
"#
    );
    let outcome = tool("check", &file).set("REDIS_URL", "redis://localhost").run().await;
    assert_eq!(outcome.code, Some(0), "{}", outcome.printed());
    for section in [Section::genesys(), Section::cognigy()] {
        let outcome = section.check().await;
        assert_eq!(outcome.code, Some(0), "the least of {}: {}", section.name, outcome.printed());
    }
}

#[tokio::test]
async fn neither_is_needed_and_both_have_defaults() {
    let without = printed(tool("print", "")).await;
    assert!(GENESYS.iter().all(|member| !without.contains_key(&format!("genesys.{member}"))), "{without:?}");
    let file = Section::genesys().toml() + &Section::cognigy().toml();
    let shown = printed(tool("print", &file)).await;
    for (name, value) in [
        ("genesys.base_url", "https://api.example"),
        ("genesys.login_url", "https://login.example/oauth/token"),
        ("genesys.client_id", "the client"),
        ("genesys.client_secret", "********"),
        ("genesys.execute_path", "/api/v2/integrations/actions/{action_id}/execute"),
        ("genesys.environment", "prod"),
        ("genesys.deadline", "20s"),
        ("genesys.lease", "30s"),
        ("genesys.keep", "1day"),
        ("genesys.wait", "0s"),
        ("genesys.store", "postgres"),
        ("genesys.rate_per_minute", "250"),
        ("genesys.max_in_flight", "64"),
        ("genesys.allow_http", "false"),
        ("cognigy.metrics.base_url", "https://cognigy.example"),
        ("cognigy.metrics.login_path", "/api/v2/auth/login"),
        ("cognigy.metrics.metrics_path", "/api/v2/metrics"),
        ("cognigy.metrics.username", "the user"),
        ("cognigy.metrics.password", "********"),
        ("cognigy.metrics.queue", "10000"),
        ("cognigy.metrics.timeout", "5s"),
        ("cognigy.metrics.allow_http", "false"),
    ] {
        assert_eq!(shown.get(name).map(String::as_str), Some(value), "{name} in {shown:?}");
    }
    let with_redis = printed(tool("print", &file).set("REDIS_URL", "redis://:hunter2@cache")).await;
    assert_eq!(with_redis["genesys.store"], "redis");
}

#[tokio::test]
async fn whatever_is_missing_is_told_by_name_and_at_once() {
    for (section, members) in [(Section::genesys(), &GENESYS[..]), (Section::cognigy(), &COGNIGY)] {
        let names: Vec<_> = members.iter().map(|member| format!("{}.{member}", section.name)).collect();
        for (member, missing) in members.iter().zip(&names) {
            let outcome = section.clone().without(member).check().await;
            assert_bad(&outcome, &[missing]);
            assert_eq!(outcome.stderr.lines().count(), 1, "nothing else is wrong: {}", outcome.stderr);
        }
        let names: Vec<_> = names.iter().map(String::as_str).collect();
        assert_bad(&Section::empty(section.name).set("allow_http", "true").check().await, &names);
    }
    // Any member will do to have it wanted.
    for (member, value) in [("environment", "'test'"), ("rate_per_minute", "7"), ("deadline", "'1s'"), ("keys", "['default']")] {
        assert_bad(
            &Section::empty("genesys").set(member, value).check().await,
            &GENESYS.map(|member| format!("genesys.{member}")).each_ref().map(String::as_str),
        );
    }
    for (member, value) in [("queue", "7"), ("timeout", "'1s'"), ("login_path", "'/login'")] {
        assert_bad(
            &Section::empty("cognigy.metrics").set(member, value).check().await,
            &COGNIGY.map(|member| format!("cognigy.metrics.{member}")).each_ref().map(String::as_str),
        );
    }
}

#[tokio::test]
async fn every_fault_is_told_at_once_by_check_and_by_serve() {
    let genesys = Section::genesys().without("client_id").set("base_url", "'http://api.example'").set("execute_path", "'/execute'");
    let genesys = genesys.set("rate_per_minute", "0").set("keep", "'forever'").set("store", "'disk'").set("kyes", "['a']");
    let cognigy = Section::cognigy().without("username").set("queue", "'long'").set("timeout", "5");
    let file = genesys.toml() + &cognigy.toml() + &settings_file(&[executes("{}"), Route::new("/genesys/hook")]);
    let names = [
        "genesys.client_id",
        "genesys.base_url",
        "genesys.execute_path",
        "genesys.rate_per_minute",
        "genesys.keep",
        "genesys.store",
        "genesys.kyes",
        "cognigy.metrics.username",
        "cognigy.metrics.queue",
        "cognigy.metrics.timeout",
        "webhooks[0].action.genesys.action_id",
        "webhooks[1].path",
        "lookup.max_batch",
    ];
    assert_bad(&tool("check", &file).set("CXDA_LOOKUP__MAX_BATCH", "many").run().await, &names);
    let setup = Setup::bare().set("DATABASE_URL", DATABASE).set("CXDA_SIGNING__SECRET", SECRET).file(&file);
    assert_bad(&setup.set("CXDA_LOOKUP__MAX_BATCH", "many").refused().await, &names);
}

#[tokio::test]
async fn plain_http_has_to_be_allowed() {
    for (section, member) in [(Section::genesys(), "base_url"), (Section::genesys(), "login_url"), (Section::cognigy(), "base_url")] {
        let plain = ["'http://127.0.0.1:9000'", "'HTTP://127.0.0.1:9000/'"];
        section.each_is_bad(member, &plain).await;
        section.clone().set("allow_http", "false").each_is_bad(member, &plain).await;
        section.clone().set("allow_http", "true").each_is_good(member, &plain).await;
        section.each_is_bad("allow_http", &["'perhaps'", "1"]).await;
    }
}

#[tokio::test]
async fn a_url_is_of_a_host_and_perhaps_a_path_and_holds_no_secret() {
    for (section, member) in [(Section::genesys(), "base_url"), (Section::genesys(), "login_url"), (Section::cognigy(), "base_url")] {
        let section = section.set("allow_http", "true");
        let good = ["'https://x'", "'https://x.example:8443/prefix'", "'https://x/a/b/'", "'https://[::1]:9000'"];
        section.each_is_good(member, &good).await;
        let bad = [
            "'https://user:hunter2@x'",
            "'https://hunter2@x/a'",
            "'https://x/?hunter2=1'",
            "'https://x/a?token=hunter2'",
            "'https://x/#hunter2'",
            "'ftp://x/hunter2'",
            "'x/hunter2'",
            "'//x/hunter2'",
            "'/hunter2'",
            "'https://'",
            "'https:// hunter2'",
        ];
        section.each_is_bad(member, &bad).await;
    }
}

#[tokio::test]
async fn a_path_begins_with_a_slash_and_names_the_action_once() {
    let good = ["'/{action_id}'", "'/v3/actions/{action_id}'", "'/actions/{action_id}/run'"];
    Section::genesys().each_is_good("execute_path", &good).await;
    let bad = ["'/execute'", "''", "'{action_id}'", "'actions/{action_id}'", "'/{action_id}/{action_id}'", "'/{action}'"];
    Section::genesys().each_is_bad("execute_path", &bad).await;
    Section::genesys().each_is_bad("execute_path", &["'/x?id={action_id}'", "'/x#{action_id}'"]).await;
    for member in ["login_path", "metrics_path"] {
        Section::cognigy().each_is_good(member, &["'/x'", "'/api/v3/x'"]).await;
        Section::cognigy().each_is_bad(member, &["'x'", "''", "'https://elsewhere.example/x'"]).await;
    }
}

#[tokio::test]
async fn numbers_and_durations_have_bounds_and_units() {
    let (genesys, cognigy) = (Section::genesys(), Section::cognigy());
    for member in ["rate_per_minute", "max_in_flight"] {
        genesys.each_is_bad(member, &["0", "-1", "1.5", "'many'", "''"]).await;
        genesys.each_is_good(member, &["1", "1000"]).await;
    }
    cognigy.each_is_bad("queue", &["0", "-1", "'long'"]).await;
    cognigy.each_is_good("queue", &["1", "100000"]).await;
    genesys.each_is_bad("deadline", &["20", "'20'", "'0s'", "'soon'"]).await;
    genesys.each_is_good("deadline", &["'250ms'", "'1m'"]).await;
    cognigy.each_is_bad("timeout", &["5", "'0s'", "'soon'"]).await;
    // As of webhooks.
    genesys.each_is_bad("lease", &["'99ms'", "'61m'", "30"]).await;
    genesys.each_is_bad("keep", &["'999ms'", "'8d'", "24"]).await;
    genesys.each_is_bad("wait", &["'61s'", "5"]).await;
    genesys.each_is_good("wait", &["'0s'", "'60s'"]).await;
}

#[tokio::test]
async fn a_store_is_one_that_there_is() {
    let genesys = Section::genesys();
    genesys.each_is_bad("store", &["'disk'", "'Redis'", "''", "'redis'"]).await;
    genesys.each_is_good("store", &["'postgres'", "'memory'"]).await;
    for name in ["REDIS_URL", "CXDA_IDEMPOTENCY__REDIS_URL"] {
        let outcome = tool("check", &genesys.clone().set("store", "'redis'").toml()).set(name, "redis://localhost").run().await;
        assert_eq!(outcome.code, Some(0), "{name}: {}", outcome.printed());
    }
}

#[tokio::test]
async fn keys_that_may_execute_are_keys_that_there_are() {
    let genesys = Section::genesys();
    genesys.each_is_good("keys", &["['default']"]).await;
    // A list emptied by mistake must not be read as one that was never given.
    genesys.each_is_bad("keys", &["[]", "'default'", "['nobody']", "['default', 'nobody']"]).await;
}

#[tokio::test]
async fn an_authority_is_a_file_with_a_certificate() {
    let empty = scratch_file("\n");
    let empty = format!("'{}'", empty.display());
    for section in [Section::genesys(), Section::cognigy()] {
        section.each_is_bad("ca_file", &["'/nowhere/ca.pem'", &empty]).await;
    }
}

#[tokio::test]
async fn secrets_may_lie_in_files() {
    let [good, empty] = [format!("{CANARY}\n"), "\n".to_owned()].map(|text| format!("'{}'", scratch_file(text).display()));
    for (section, member) in [(Section::genesys(), "client_secret"), (Section::cognigy(), "password")] {
        let file = format!("{member}_file");
        let name = format!("{}.{member}", section.name);
        let without = section.clone().without(member);
        without.each_is_good(&file, &[&good]).await;
        without.each_is_bad(&file, &["'/nowhere/secret'", &empty]).await;
        assert_bad(&section.clone().set(&file, &good).check().await, &[&name]);
        let shown = printed(tool("print", &without.set(&file, &good).toml())).await;
        assert_eq!(shown[&name], "********");
    }
}

#[tokio::test]
async fn a_route_that_executes_an_action_names_it_and_needs_genesys() {
    let with = async |action: &str| check(&(Section::genesys().toml() + &settings_file(&[executes(action)]))).await;
    let longest = "x".repeat(128);
    for good in ["custom_-_1", "a/b", "ä", &longest] {
        let outcome = with(&format!("{{ action_id = '{good}' }}")).await;
        assert_eq!(outcome.code, Some(0), "{good}: {}", outcome.printed());
    }
    for bad in ["", ".", "..", "\\u0000", "a\\nb", &format!("{longest}x"), &format!("{}ä", &longest[1..])] {
        assert_bad(&with(&format!(r#"{{ action_id = "{bad}" }}"#)).await, &["webhooks[0].action.genesys.action_id of /webhooks/dialog"]);
    }
    for (bad, name) in
        [("{}", "action.genesys.action_id"), ("{ action_id = 'x', retries = 3 }", "action.genesys.retries"), ("'x'", "action")]
    {
        assert_bad(&with(bad).await, &[&format!("webhooks[0].{name}")]);
    }
    let outcome = check(&settings_file(&[executes("{ action_id = 'x' }")])).await;
    assert_bad(&outcome, &["webhooks[0].action"]);
    assert!(outcome.stderr.contains("genesys.base_url"), "what is missing is named: {}", outcome.stderr);
    // One complaint is enough where [genesys] is there and bad.
    let bad = Section::genesys().without("client_id").toml() + &settings_file(&[executes("{ action_id = 'x' }")]);
    let outcome = check(&bad).await;
    assert_bad(&outcome, &["genesys.client_id"]);
    assert!(!outcome.stderr.contains("webhooks["), "{}", outcome.stderr);
}

#[tokio::test]
async fn paths_under_genesys_are_not_for_webhooks() {
    for taken in ["/genesys/hook", "/genesys/actions/x/execute", "/genesys/"] {
        assert_bad(&check(&settings_file(&[Route::new(taken)])).await, &["webhooks[0].path"]);
    }
    for free in ["/genesysx", "/hooks/genesys/x", "/Genesys/x"] {
        let outcome = check(&settings_file(&[Route::new(free)])).await;
        assert_eq!(outcome.code, Some(0), "{free}: {}", outcome.printed());
    }
}

#[tokio::test]
async fn the_environment_spells_them_too() {
    let genesys = [
        ("CXDA_GENESYS__BASE_URL", "http://127.0.0.1:9000"),
        ("CXDA_GENESYS__LOGIN_URL", "http://127.0.0.1:9001/oauth/token"),
        ("CXDA_GENESYS__CLIENT_ID", "the client"),
        ("CXDA_GENESYS__CLIENT_SECRET", CANARY),
        ("CXDA_GENESYS__ALLOW_HTTP", "true"),
        ("CXDA_GENESYS__RATE_PER_MINUTE", "7"),
    ];
    let cognigy = [
        ("CXDA_COGNIGY__METRICS__BASE_URL", "https://cognigy.example"),
        ("CXDA_COGNIGY__METRICS__USERNAME", "the user"),
        ("CXDA_COGNIGY__METRICS__PASSWORD", CANARY),
        ("CXDA_COGNIGY__METRICS__QUEUE", "8"),
    ];
    let all = genesys.iter().chain(&cognigy);
    let shown = printed(all.clone().fold(tool("print", ""), |tool, (name, value)| tool.set(name, *value))).await;
    for (name, value) in all {
        let dotted = name.trim_start_matches("CXDA_").replace("__", ".").to_lowercase();
        assert_eq!(shown[&dotted], if *value == CANARY { "********" } else { *value }, "{name}");
    }
    let secret = scratch_file(CANARY);
    let tool = tool("check", "").set("CXDA_GENESYS__BASE_URL", "http://x").set("CXDA_GENESYS__CLIENT_SECRET", CANARY);
    let tool = tool.set("CXDA_GENESYS__CLIENT_SECRET_FILE", secret.to_str().unwrap()).set("CXDA_COGNIGY__METRICS__QUEUE", "0");
    let outcome = tool.run().await;
    assert_bad(&outcome, &["genesys.base_url", "genesys.login_url", "genesys.client_id", "genesys.client_secret", "cognigy.metrics.queue"]);
    for name in ["GENESYS__BASE_URL", "GENESYS__CLIENT_SECRET", "COGNIGY__METRICS__QUEUE", "COGNIGY__METRICS__PASSWORD"] {
        assert!(outcome.stderr.contains(&format!("(CXDA_{name})")), "{name} is not named as it was given: {}", outcome.stderr);
    }
}
