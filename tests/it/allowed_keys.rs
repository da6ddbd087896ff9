//! Which signing keys may call a route: `webhooks[].keys`, and `genesys.keys` wherever a data action is executed.

use crate::support::{ACTION, Database, Genesys, Reply, Route, Service, Setup, settings_file, sign_with};

const OPEN: &str = "the secret of the open key, 32 bytes or more";
const OTHER: &str = "the secret of the other key, 32 bytes or more";
const BOUND: &str = "the secret of the key of one tenant, 32 bytes";
const OWN: &str = "the secret of one route alone, 32 bytes or more";
const ROUTE: &str = "/hooks/it";
const DIRECT: &str = "/genesys/actions/a/execute";

const KEYS: &str = r#"
[[signing.keys]]
id = "open"
secret = "the secret of the open key, 32 bytes or more"

[[signing.keys]]
id = "other"
secret = "the secret of the other key, 32 bytes or more"

[[signing.keys]]
id = "bound"
secret = "the secret of the key of one tenant, 32 bytes"
tenants = ["acme42"]
"#;

fn route() -> Route {
    Route::new(ROUTE).set("auth", "{ hmac = { header = 'X-CXone-Signature' } }")
}

fn executing() -> Route {
    route().set("action", &format!("{{ genesys = {{ action_id = '{ACTION}' }} }}"))
}

struct Stage {
    service: Service,
    genesys: Genesys,
    _database: Database,
}

impl Stage {
    async fn new(routes: &[Route], more: &str) -> Self {
        let (database, genesys) = (Database::new().await, Genesys::start());
        let setup = Setup::bare().set("DATABASE_URL", &database.url).genesys(&genesys).member("STORE", "memory");
        let service = setup.file(&format!("{more}\n{}{KEYS}", settings_file(routes))).start().await;
        Self { service, genesys, _database: database }
    }

    /// The answer to a flat body that is signed with that secret.
    async fn post(&self, path: &str, secret: &str) -> Reply {
        let body = "{}";
        let key = ("X-Correlation-Id", secret.split(' ').nth(4).unwrap());
        self.service.post_to(path, &[("X-CXone-Signature", &sign_with(secret, body)), key], body).await
    }

    async fn takes(&self, path: &str, secret: &str) {
        let reply = self.post(path, secret).await;
        assert_eq!(reply.status, 200, "{path} {secret}: {}", reply.text());
    }

    async fn refuses(&self, path: &str, secret: &str) {
        self.post(path, secret).await.problem(403, "key_not_allowed");
    }
}

#[tokio::test]
async fn only_the_keys_that_a_webhook_names_may_call_it() {
    let stage = Stage::new(&[route().set("keys", "['other', 'bound']"), Route::new("/hooks/all").set("auth", "{ hmac = {} }")], "").await;
    stage.takes(ROUTE, OTHER).await;
    stage.takes(ROUTE, BOUND).await;
    stage.refuses(ROUTE, OPEN).await;
    for secret in [OPEN, OTHER, BOUND] {
        let signature = sign_with(secret, "{}");
        let headers = [("X-Cognigy-Signature", &*signature), ("X-Correlation-Id", "k")];
        assert_eq!(stage.service.post_to("/hooks/all", &headers, "{}").await.status, 200, "{secret}");
    }
}

#[tokio::test]
async fn a_key_sent_as_it_is_is_held_to_the_list_too() {
    let stage = Stage::new(&[route().set("auth", "{ api_key = {} }").set("keys", "['open']")], "").await;
    let post = async |secret: &str| stage.service.post_to(ROUTE, &[("X-API-Key", secret), ("X-Correlation-Id", "k")], "{}").await;
    assert_eq!(post(OPEN).await.status, 200);
    post(OTHER).await.problem(403, "key_not_allowed");
    post(OWN).await.problem(401, "invalid_signature");
}

#[tokio::test]
async fn a_webhook_that_executes_is_held_to_the_keys_that_may_execute() {
    let stage = Stage::new(&[executing()], "[genesys]\nkeys = ['open']").await;
    for path in [DIRECT, ROUTE] {
        stage.refuses(path, OTHER).await;
        stage.refuses(path, BOUND).await;
        assert_eq!(stage.genesys.asked(), (usize::from(path == ROUTE), usize::from(path == ROUTE)), "{path}");
        stage.takes(path, OPEN).await;
    }
}

#[tokio::test]
async fn without_a_list_a_key_of_certain_tenants_executes_on_neither_route() {
    let stage = Stage::new(&[executing()], "").await;
    for path in [DIRECT, ROUTE] {
        stage.refuses(path, BOUND).await;
        stage.takes(path, OPEN).await;
        stage.takes(path, OTHER).await;
    }
}

#[tokio::test]
async fn the_list_of_a_webhook_does_not_widen_that_of_genesys() {
    let stage = Stage::new(&[executing().set("keys", "['other', 'open']")], "[genesys]\nkeys = ['open', 'bound']").await;
    stage.refuses(ROUTE, OTHER).await;
    stage.refuses(ROUTE, BOUND).await;
    stage.takes(ROUTE, OPEN).await;
    stage.takes(DIRECT, BOUND).await;
}

#[tokio::test]
async fn a_webhook_with_a_secret_of_its_own_executes_whatever_the_list_says() {
    let auth = format!("{{ hmac = {{ header = 'X-CXone-Signature', secret = '{OWN}' }} }}");
    let stage = Stage::new(&[executing().set("auth", &auth)], "[genesys]\nkeys = ['open']").await;
    stage.takes(ROUTE, OWN).await;
    stage.post(ROUTE, OPEN).await.problem(401, "invalid_signature");
}

async fn complaint(routes: &[Route]) -> String {
    let setup = Setup::bare().set("DATABASE_URL", "postgres://localhost/x").file(&format!("{}{KEYS}", settings_file(routes)));
    let outcome = setup.refused().await;
    assert_eq!(outcome.code, Some(78), "{}", outcome.printed());
    outcome.stderr
}

#[tokio::test]
async fn a_list_that_means_nothing_is_a_bad_setting() {
    let unknown = complaint(&[route().set("keys", "['open', 'nobody']")]).await;
    assert!(unknown.contains("webhooks[0].keys of /hooks/it: there is no signing key of the id nobody"), "{unknown}");
    let own = complaint(&[route().set("auth", &format!("{{ hmac = {{ secret = '{OWN}' }} }}")).set("keys", "['open']")]).await;
    assert!(own.contains("webhooks[0].keys of /hooks/it: is for the signing keys, and the route has a secret of its own"), "{own}");
    let empty = complaint(&[route().set("keys", "[]")]).await;
    assert!(empty.contains("webhooks[0].keys of /hooks/it: must be a list of at least one"), "{empty}");
}
