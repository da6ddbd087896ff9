//! Who may call a webhook route, and what a signature covers: contract, section 7.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;

use crate::support::{
    Database, KEY_HEADER, ROUTE_SECRET, Redis, Reply, Route, SECRET, Service, Setup, Upstream, hmac, settings_file, sign, sign_with,
    standard_signature, unix_now,
};

const PATH: &str = "/webhooks/dialog";
const BODY: &str = r#"{"dialogId":"d1"}"#;
const HEADER: &str = "X-Cognigy-Signature";

const OLD: &str = "the old secret, of at least 32 bytes";
const NEW: &str = "the new secret, of at least 32 bytes";
const ENDED: &str = "a secret past its end, of 32 bytes....";
const KEYS: &str = r#"
[[signing.keys]]
id = "old"
secret = "the old secret, of at least 32 bytes"

[[signing.keys]]
id = "new"
secret = "the new secret, of at least 32 bytes"

[[signing.keys]]
id = "ended"
secret = "a secret past its end, of 32 bytes...."
not_after = "2020-01-01T00:00:00Z"
"#;

/// The example of the Standard Webhooks specification.
const WHSEC: &str = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw";

/// A service with one route whose work an upstream does.
struct Stage {
    service: Service,
    upstream: Upstream,
    _database: Database,
}

impl Stage {
    async fn with_auth(auth: &str) -> Self {
        let upstream = Upstream::start();
        let route = Route::new(PATH).set("auth", auth).forward(&upstream);
        let database = Database::new().await;
        let service = Setup::on(&database).webhooks(&[route]).start().await;
        Self { service, upstream, _database: database }
    }

    /// The same with the signing keys above in the place of a secret of the route's own.
    async fn with_keys(auth: &str) -> Self {
        let upstream = Upstream::start();
        let route = Route::new(PATH).set("auth", auth).forward(&upstream);
        let database = Database::new().await;
        let file = format!("{}{KEYS}", settings_file(&[route]));
        let service = Setup::bare().set("DATABASE_URL", &database.url).file(&file).start().await;
        Self { service, upstream, _database: database }
    }

    async fn post(&self, headers: &[(&str, &str)]) -> Reply {
        self.service.post_to(PATH, &[headers, &[(KEY_HEADER, "k")]].concat(), BODY).await
    }

    /// The first of its key, or a replay: in either case it came through.
    async fn takes(&self, headers: &[(&str, &str)]) {
        let reply = self.post(headers).await;
        assert_eq!(reply.status, 200, "{headers:?}: {}", reply.text());
    }

    async fn refuses(&self, headers: &[(&str, &str)], code: &str) {
        let problem = self.post(headers).await.problem(401, code);
        assert_eq!(problem["retryable"], false, "{headers:?}: {problem}");
    }

    /// Nothing of what was refused reached the upstream.
    fn ran(&self, times: usize) {
        assert_eq!(self.upstream.started(), times, "{:?}", self.upstream.runs());
    }
}

#[tokio::test]
async fn a_signature_by_the_routes_own_secret_is_taken_in_either_case_and_with_its_prefix() {
    let stage = Stage::with_auth(&format!("{{ hmac = {{ secret = '{ROUTE_SECRET}' }} }}")).await;
    let tag = sign_with(ROUTE_SECRET, BODY);
    for good in [tag.clone(), tag.to_uppercase(), format!("sha256={tag}")] {
        stage.takes(&[(HEADER, &good)]).await;
    }
    stage.ran(1);
}

#[tokio::test]
async fn anything_but_the_whole_signature_of_the_route_is_invalid() {
    let stage = Stage::with_auth(&format!("{{ hmac = {{ secret = '{ROUTE_SECRET}' }} }}")).await;
    let tag = sign_with(ROUTE_SECRET, BODY);
    let base64 = BASE64.encode(hmac(ROUTE_SECRET, BODY.as_bytes()));
    let with_more = sign_with(ROUTE_SECRET, format!("{BODY} "));
    // The service's own key is good for `/data-action`, and for routes without a secret of their own.
    let by_another = [sign(BODY), sign_with(NEW, BODY)];
    for bad in ["", "x", "sha256=", &tag[2..], &format!("{tag}00"), &format!("sha512={tag}"), &base64, &with_more] {
        stage.refuses(&[(HEADER, bad)], "invalid_signature").await;
    }
    for bad in &by_another {
        stage.refuses(&[(HEADER, bad)], "invalid_signature").await;
    }
    stage.refuses(&[("X-CXone-Signature", &tag)], "missing_signature").await;
    stage.refuses(&[], "missing_signature").await;
    stage.ran(0);
}

#[tokio::test]
async fn a_twin_header_is_a_wrong_signature() {
    let stage = Stage::with_auth(&format!("{{ hmac = {{ secret = '{ROUTE_SECRET}' }} }}")).await;
    let (good, bad) = (sign_with(ROUTE_SECRET, BODY), "0".repeat(64));
    for twins in [[&good, &good], [&good, &bad], [&bad, &good]] {
        stage.refuses(&twins.map(|value| (HEADER, value.as_str())), "invalid_signature").await;
    }
    stage.ran(0);
}

#[tokio::test]
async fn header_and_encoding_are_the_routes_own() {
    let auth = format!("{{ hmac = {{ header = 'X-Hub-Signature-256', secret = '{ROUTE_SECRET}', encoding = 'base64' }} }}");
    let stage = Stage::with_auth(&auth).await;
    let tag = BASE64.encode(hmac(ROUTE_SECRET, BODY.as_bytes()));
    for good in [&tag, &format!("sha256={tag}")] {
        stage.takes(&[("X-Hub-Signature-256", good)]).await;
    }
    stage.refuses(&[("X-Hub-Signature-256", &sign_with(ROUTE_SECRET, BODY))], "invalid_signature").await;
    stage.refuses(&[(HEADER, &tag)], "missing_signature").await;
    stage.ran(1);
}

#[tokio::test]
async fn a_routes_secret_may_lie_in_a_file() {
    let secret = crate::support::scratch_file(format!("{ROUTE_SECRET}\n"));
    let stage = Stage::with_auth(&format!("{{ hmac = {{ secret_file = '{}' }} }}", secret.display())).await;
    stage.takes(&[(HEADER, &sign_with(ROUTE_SECRET, BODY))]).await;
    stage.refuses(&[(HEADER, &sign(BODY))], "invalid_signature").await;
}

#[tokio::test]
async fn the_secret_of_one_route_opens_no_other() {
    let database = Database::new().await;
    let other = Route::new("/webhooks/other").set("auth", &format!("{{ hmac = {{ secret = '{NEW}' }} }}"));
    let service = Setup::on(&database).webhooks(&[Route::new(PATH), other]).start().await;
    assert_eq!(service.webhook(PATH, "k", BODY).await.status, 200);
    service.webhook("/webhooks/other", "k", BODY).await.problem(401, "invalid_signature");
    let tag = sign_with(NEW, BODY);
    assert_eq!(service.post_to("/webhooks/other", &[(HEADER, &tag), (KEY_HEADER, "k")], BODY).await.status, 200);
    service.post_to("/data-action", &[("X-CXone-Signature", &tag)], BODY).await.problem(401, "invalid_signature");
}

#[tokio::test]
async fn without_a_secret_of_its_own_a_route_takes_the_signing_keys() {
    let stage = Stage::with_keys("{ hmac = {} }").await;
    for (secret, id) in [(OLD, "old"), (NEW, "new")] {
        let tag = sign_with(secret, BODY);
        stage.takes(&[(HEADER, &tag)]).await;
        stage.takes(&[(HEADER, &tag), ("X-CXone-Key-Id", id)]).await;
        stage.refuses(&[(HEADER, &tag), ("X-CXone-Key-Id", "nobody")], "invalid_signature").await;
        stage.refuses(&[(HEADER, &tag), ("X-CXone-Key-Id", id), ("X-CXone-Key-Id", id)], "invalid_signature").await;
    }
    stage.refuses(&[(HEADER, &sign_with(OLD, BODY)), ("X-CXone-Key-Id", "new")], "invalid_signature").await;
    stage.refuses(&[(HEADER, &sign_with(ENDED, BODY))], "invalid_signature").await;
    stage.refuses(&[(HEADER, &sign_with(ENDED, BODY)), ("X-CXone-Key-Id", "ended")], "invalid_signature").await;
    stage.ran(2);
}

#[tokio::test]
async fn a_signed_header_cannot_be_changed_removed_or_added() {
    let auth = format!("{{ hmac = {{ secret = '{ROUTE_SECRET}', signed_headers = ['X-Node', 'X-Step'] }} }}");
    let stage = Stage::with_auth(&auth).await;
    let tag = |covered: &str| sign_with(ROUTE_SECRET, format!("{covered}{BODY}"));
    stage.takes(&[(HEADER, &tag("n1.7.")), ("X-Node", "n1"), ("X-Step", "7")]).await;
    stage.takes(&[(HEADER, &tag("n1.7.")), ("x-step", "7"), ("x-node", "n1")]).await;
    stage.takes(&[(HEADER, &tag("n1..")), ("X-Node", "n1")]).await;
    stage.takes(&[(HEADER, &tag(".."))]).await;

    stage.refuses(&[(HEADER, &tag("n1.7.")), ("X-Node", "n2"), ("X-Step", "7")], "invalid_signature").await;
    stage.refuses(&[(HEADER, &tag("n1.7.")), ("X-Node", "7"), ("X-Step", "n1")], "invalid_signature").await;
    stage.refuses(&[(HEADER, &tag("n1.7.")), ("X-Node", "n1")], "invalid_signature").await;
    stage.refuses(&[(HEADER, &tag("n1.7."))], "invalid_signature").await;
    stage.refuses(&[(HEADER, &tag("n1..")), ("X-Node", "n1"), ("X-Step", "7")], "invalid_signature").await;
    stage.refuses(&[(HEADER, &tag("n1.7.")), ("X-Node", "n1"), ("X-Node", "n1"), ("X-Step", "7")], "invalid_signature").await;
    stage.refuses(&[(HEADER, &tag("")), ("X-Node", "n1"), ("X-Step", "7")], "invalid_signature").await;
    stage.ran(1);
}

#[tokio::test]
async fn no_byte_moves_from_a_signed_header_to_the_body_or_back() {
    let auth = format!("{{ hmac = {{ secret = '{ROUTE_SECRET}', signed_headers = ['{KEY_HEADER}'] }} }}");
    let stage = Stage::with_auth(&auth).await;
    let tag = sign_with(ROUTE_SECRET, "k.1.x");
    let post = async |key: &str, body: &str| stage.service.post_to(PATH, &[(HEADER, &tag), (KEY_HEADER, key)], body).await;
    assert_eq!(post("k", "1.x").await.status, 200);
    post("k.1", "x").await.problem(401, "invalid_signature");
    let dotted = sign_with(ROUTE_SECRET, "k.1..x");
    stage.service.post_to(PATH, &[(HEADER, &dotted), (KEY_HEADER, "k.1.")], "x").await.problem(401, "invalid_signature");
    stage.ran(1);
}

#[tokio::test]
async fn with_a_timestamp_header_an_old_webhook_is_stale() {
    let members = "timestamp_header = 'X-Timestamp', tolerance = '1m', signed_headers = ['X-Node']";
    let stage = Stage::with_auth(&format!("{{ hmac = {{ secret = '{ROUTE_SECRET}', {members} }} }}")).await;
    let tag = |covered: &str| sign_with(ROUTE_SECRET, format!("{covered}.{BODY}"));
    let now = unix_now();
    for fresh in [now, now - 30, now + 30].map(|time| time.to_string()) {
        stage.takes(&[(HEADER, &tag(&format!("{fresh}.n1"))), ("X-Timestamp", &fresh), ("X-Node", "n1")]).await;
    }
    for stale in [now - 120, now + 120, 0].map(|time| time.to_string()) {
        let headers = [(HEADER, &*tag(&format!("{stale}.n1"))), ("X-Timestamp", &stale), ("X-Node", "n1")];
        stage.refuses(&headers, "stale_signature").await;
    }
    let (time, later, good) = (now.to_string(), (now + 1).to_string(), tag(&format!("{now}.n1")));
    stage.refuses(&[(HEADER, &good), ("X-Timestamp", &later), ("X-Node", "n1")], "invalid_signature").await;
    stage.refuses(&[(HEADER, &tag("n1")), ("X-Timestamp", &time), ("X-Node", "n1")], "invalid_signature").await;
    stage.refuses(&[(HEADER, &good), ("X-Node", "n1")], "missing_signature").await;
    stage.ran(1);
}

#[tokio::test]
async fn an_api_key_is_the_routes_secret_itself() {
    let stage = Stage::with_auth(&format!("{{ api_key = {{ header = 'X-API-Key', secret = '{ROUTE_SECRET}' }} }}")).await;
    stage.takes(&[("X-API-Key", ROUTE_SECRET)]).await;
    let longer = format!("{ROUTE_SECRET}.");
    let (upper, tag) = (ROUTE_SECRET.to_uppercase(), sign_with(ROUTE_SECRET, BODY));
    for bad in ["", "x", &ROUTE_SECRET[1..], &ROUTE_SECRET[..ROUTE_SECRET.len() - 1], &longer, &upper, SECRET, &tag] {
        stage.refuses(&[("X-API-Key", bad)], "invalid_signature").await;
    }
    stage.refuses(&[("X-API-Key", ROUTE_SECRET), ("X-API-Key", ROUTE_SECRET)], "invalid_signature").await;
    stage.refuses(&[(HEADER, &tag)], "missing_signature").await;
    stage.refuses(&[], "missing_signature").await;
    stage.ran(1);
}

#[tokio::test]
async fn without_a_secret_of_its_own_an_api_key_is_the_secret_of_a_signing_key() {
    let stage = Stage::with_keys("{ api_key = { header = 'X-Token' } }").await;
    for good in [OLD, NEW] {
        stage.takes(&[("X-Token", good)]).await;
    }
    for bad in [ENDED, "", "old", ROUTE_SECRET] {
        stage.refuses(&[("X-Token", bad)], "invalid_signature").await;
    }
    stage.refuses(&[("X-API-Key", OLD)], "missing_signature").await;
    stage.ran(2);
}

/// The three headers of a standard webhook.
fn standard<'a>(id: &'a str, time: &'a str, signature: &'a str) -> [(&'a str, &'a str); 3] {
    [("webhook-id", id), ("webhook-timestamp", time), ("webhook-signature", signature)]
}

fn whsec() -> Vec<u8> {
    BASE64.decode(WHSEC.trim_start_matches("whsec_")).unwrap()
}

#[tokio::test]
async fn a_standard_webhook_is_taken_by_any_of_its_signatures() {
    let stage = Stage::with_auth(&format!("{{ standard_webhooks = {{ secret = '{WHSEC}' }} }}")).await;
    let time = unix_now().to_string();
    let good = standard_signature(&whsec(), "msg_1", &time, BODY);
    let bad = standard_signature(b"the secret before the last one, long ago", "msg_1", &time, BODY);
    for rotated in [good.clone(), format!("{bad} {good}"), format!("{good} {bad}"), format!("v1a,AAAA v2,{} {good}", &good[3..])] {
        stage.takes(&standard("msg_1", &time, &rotated)).await;
    }
    let asymmetric = format!("v1a,{}", &good[3..]);
    for wrong in [&*bad, &asymmetric, &format!("v2,{}", &good[3..]), &good[3..], &format!("{good}x"), "v1,", "v1", ""] {
        stage.refuses(&standard("msg_1", &time, wrong), "invalid_signature").await;
    }
    stage.ran(1);
}

#[tokio::test]
async fn a_standard_signature_covers_id_time_and_body() {
    let stage = Stage::with_auth(&format!("{{ standard_webhooks = {{ secret = '{WHSEC}' }} }}")).await;
    let (time, later) = (unix_now().to_string(), (unix_now() + 1).to_string());
    let good = standard_signature(&whsec(), "msg_1", &time, BODY);
    stage.refuses(&standard("msg_2", &time, &good), "invalid_signature").await;
    stage.refuses(&standard("msg_1", &later, &good), "invalid_signature").await;
    stage.refuses(&standard("msg_1", &time, &standard_signature(&whsec(), "msg_1", &time, "{}")), "invalid_signature").await;
    // Made with the text of the secret, where its bytes are meant.
    stage.refuses(&standard("msg_1", &time, &standard_signature(WHSEC.as_bytes(), "msg_1", &time, BODY)), "invalid_signature").await;
    for missing in 0..3 {
        let mut headers = standard("msg_1", &time, &good).to_vec();
        headers.remove(missing);
        stage.refuses(&headers, "missing_signature").await;
    }
    for twin in standard("msg_1", &time, &good) {
        stage.refuses(&[&standard("msg_1", &time, &good)[..], &[twin]].concat(), "invalid_signature").await;
    }
    stage.ran(0);
}

#[tokio::test]
async fn a_standard_webhook_of_long_ago_or_of_the_future_is_stale() {
    let stage = Stage::with_auth(&format!("{{ standard_webhooks = {{ secret = '{WHSEC}', tolerance = '1m' }} }}")).await;
    let at = async |time: u64, code: Option<&str>| {
        let time = time.to_string();
        let signature = standard_signature(&whsec(), "msg_1", &time, BODY);
        match code {
            Some(code) => stage.refuses(&standard("msg_1", &time, &signature), code).await,
            None => stage.takes(&standard("msg_1", &time, &signature)).await,
        }
    };
    let now = unix_now();
    for (time, code) in [(now - 30, None), (now + 30, None), (now - 120, Some("stale_signature")), (now + 120, Some("stale_signature"))] {
        at(time, code).await;
    }
    stage.ran(1);
}

#[tokio::test]
async fn the_specifications_own_example_is_signed_rightly_but_long_ago() {
    let stage = Stage::with_auth(&format!("{{ standard_webhooks = {{ secret = '{WHSEC}' }} }}")).await;
    let headers = |signature| [&standard("msg_p5jXN8AQM9LWM0D4loKWxJek", "1614265330", signature)[..], &[(KEY_HEADER, "k")]].concat();
    let body = r#"{"test": 2432232314}"#;
    let example = "v1,g0hM9SsE+OTPJTGt/tmIKtSyZlE3uFJELVlNIOLJ1OE=";
    stage.service.post_to(PATH, &headers(example), body).await.problem(401, "stale_signature");
    stage.service.post_to(PATH, &headers(&example.replace("g0", "g1")), body).await.problem(401, "invalid_signature");
    stage.ran(0);
}

#[tokio::test]
async fn a_standard_secret_may_be_plain_text() {
    let stage = Stage::with_auth(&format!("{{ standard_webhooks = {{ secret = '{ROUTE_SECRET}' }} }}")).await;
    let time = unix_now().to_string();
    let signature = standard_signature(ROUTE_SECRET.as_bytes(), "msg_1", &time, BODY);
    stage.takes(&standard("msg_1", &time, &signature)).await;
}

#[tokio::test]
async fn an_unsigned_body_is_not_read_not_run_and_not_kept() {
    let (database, redis, upstream) = (Database::new().await, Redis::start().await, Upstream::start());
    let auths = [
        ("hmac", format!("{{ hmac = {{ secret = '{ROUTE_SECRET}' }} }}")),
        ("api", format!("{{ api_key = {{ secret = '{ROUTE_SECRET}' }} }}")),
        ("standard", format!("{{ standard_webhooks = {{ secret = '{WHSEC}' }} }}")),
    ];
    let path = |kind: &str, store: &str| format!("/webhooks/{kind}/{store}");
    let places: Vec<_> =
        auths.iter().flat_map(|(kind, auth)| ["redis", "postgres"].map(|store| (path(kind, store), auth, store))).collect();
    let route = |(path, auth, store): &(String, &String, &str)| {
        let route = Route::new(path).set("auth", auth).set("key", "{ body = 'canonical' }");
        route.store(store).forward(&upstream)
    };
    let service = Setup::on(&database).redis(&redis).webhooks(&places.iter().map(route).collect::<Vec<_>>()).start().await;
    for (path, ..) in &places {
        for garbage in ["", "{", "\u{0}", "{}", r#"{"a":1,"a":2}"#] {
            service.post_to(path, &[], garbage).await.problem(401, "missing_signature");
            let (now, tag) = (unix_now().to_string(), "0".repeat(64));
            let wrong = [&standard("m", &now, "v1,AAAA")[..], &[(HEADER, &tag), ("X-API-Key", "wrong")]].concat();
            service.post_to(path, &wrong, garbage).await.problem(401, "invalid_signature");
        }
    }
    assert_eq!(upstream.started(), 0);
    let keys: Vec<String> = redis.run(&["KEYS", "*"]).await;
    assert!(keys.iter().all(|key| !key.ends_with(":lease") && !key.ends_with(":done")), "{keys:?}");
    assert_eq!(database.value::<i64>("SELECT count(*) FROM idempotency").await, 0);
}
