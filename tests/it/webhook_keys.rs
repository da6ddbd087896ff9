//! What makes two webhooks one: the four kinds of keys, and whom a key belongs to. Contract, section 7.

use std::collections::BTreeSet;

use reqwest::header::HeaderValue;

use crate::support::{
    Answer, Database, KEY_HEADER, ROUTE_SECRET, Redis, Reply, Route, Service, Setup, Upstream, send, sign_with, standard_signature,
    unix_now,
};

const PATH: &str = "/webhooks/dialog";
const CANARY: &str = "canary-8c1f";
const FIELDS: &str = "{ fields = ['/dialogId', '/nodeId'] }";

/// A service with one route whose work an upstream does.
struct Stage {
    service: Service,
    upstream: Upstream,
    _database: Database,
}

impl Stage {
    async fn keyed(key: &str) -> Self {
        let (database, upstream) = (Database::new().await, Upstream::start());
        let route = Route::new(PATH).set("key", key).forward(&upstream);
        let service = Setup::on(&database).webhooks(&[route]).start().await;
        Self { service, upstream, _database: database }
    }

    /// A signed webhook with no header but the signature's.
    async fn post(&self, body: &str) -> Reply {
        self.service.post_to(PATH, &[("X-Cognigy-Signature", &sign_with(ROUTE_SECRET, body))], body).await
    }

    /// Webhooks of one key: the first one is run, the others get its answer.
    async fn one(&self, bodies: &[&str]) {
        let before = self.upstream.started();
        let first = self.post(bodies[0]).await;
        assert_eq!((first.status, first.replayed()), (200, false), "{}: {}", bodies[0], first.text());
        for body in &bodies[1..] {
            let reply = self.post(body).await;
            assert_eq!((reply.status, reply.replayed()), (200, true), "{body} after {}: {}", bodies[0], reply.text());
            assert_eq!(reply.body, first.body, "{body} after {}", bodies[0]);
        }
        assert_eq!(self.upstream.started(), before + 1, "{bodies:?}");
    }

    /// Webhooks of a key each.
    async fn each(&self, bodies: &[&str]) {
        for body in bodies {
            let reply = self.post(body).await;
            assert_eq!((reply.status, reply.replayed()), (200, false), "{body} among {bodies:?}: {}", reply.text());
        }
        let keys: BTreeSet<_> = self.upstream.requests().iter().map(|request| request.key().to_owned()).collect();
        assert_eq!(keys.len(), self.upstream.started(), "no two runs have the same Idempotency-Key");
    }
}

#[tokio::test]
async fn one_header_value_is_one_run() {
    let stage = Stage::keyed(&format!("{{ header = '{KEY_HEADER}' }}")).await;
    let longest = "x".repeat(255);
    for key in ["k1", "k2", "K1", "0", "!~{}:\"", &longest] {
        let replies = [stage.service.webhook(PATH, key, "{}").await, stage.service.webhook(PATH, key, "{}").await];
        assert_eq!(replies.each_ref().map(|reply| (reply.status, reply.replayed())), [(200, false), (200, true)], "{key}");
        assert_eq!(replies[0].body, replies[1].body);
    }
    assert_eq!(stage.upstream.started(), 6);
}

#[tokio::test]
async fn a_key_that_is_missing_or_empty_is_asked_for() {
    let stage = Stage::keyed("{ header = 'X-Event-Id' }").await;
    let tag = sign_with(ROUTE_SECRET, "{}");
    for headers in [&[][..], &[("X-Event-Id", "")], &[("X-Event-Id", "  ")], &[(KEY_HEADER, "k")]] {
        let reply = stage.service.post_to(PATH, &[&[("X-Cognigy-Signature", &*tag)], headers].concat(), "{}").await;
        assert_eq!(reply.problem(400, "missing_idempotency_key")["retryable"], false);
    }
    assert_eq!(stage.upstream.started(), 0);
}

#[tokio::test]
async fn a_key_that_is_two_or_too_long_or_no_visible_text_is_refused() {
    let stage = Stage::keyed(&format!("{{ header = '{KEY_HEADER}' }}")).await;
    let hook = |value: &[u8]| {
        let call = stage.service.call(reqwest::Method::POST, PATH).header("X-Cognigy-Signature", sign_with(ROUTE_SECRET, "{}"));
        call.header(KEY_HEADER, HeaderValue::from_bytes(value).unwrap()).body("{}")
    };
    for twin in ["k", "other"] {
        send(hook(b"k").header(KEY_HEADER, twin)).await.problem(400, "invalid_input");
    }
    for bad in [format!("{CANARY}{}", "x".repeat(255)).as_bytes(), b"canary 8c1f", b"canary\t8c1f", "canary-é".as_bytes(), b"\xff"] {
        let reply = send(hook(bad)).await;
        reply.problem(400, "invalid_input");
        assert!(!reply.text().contains("canary"), "the input is not repeated: {}", reply.text());
    }
    assert_eq!(stage.upstream.started(), 0);
}

#[tokio::test]
async fn a_raw_key_is_the_bytes_of_the_body() {
    let stage = Stage::keyed("{ body = 'raw' }").await;
    stage.one(&[r#"{"a":1}"#, r#"{"a":1}"#]).await;
    stage.one(&["a=1&b=2", "a=1&b=2"]).await;
    stage.each(&[r#"{"a":1} "#, r#"{"a": 1}"#, r#"{"a":1.0}"#, r#"{"a":1,"a":1}"#, "[9007199254740993]", "<xml/>"]).await;
}

#[tokio::test]
async fn a_canonical_key_is_what_the_json_means() {
    let stage = Stage::keyed("{ body = 'canonical' }").await;
    stage.one(&[r#"{"a":1,"b":2}"#, r#"{"b":2,"a":1}"#, "\t{ \"b\" : 2.0,\r\n\"a\":1e0 } "]).await;
    stage.one(&["[100]", "[1e2]", "[100.0]", "[1.0E+2]", "[1000e-1]"]).await;
    stage.one(&["[0]", "[-0]", "[0.0]", "[0e9]", "[-0.0]"]).await;
    stage.one(&[r#"["A/é😀"]"#, r#"["\u0041\/\u00e9\uD83D\uDE00"]"#, r#"["\u0041/\u00E9\ud83d\ude00"]"#]).await;
    stage.one(&[r#"{"n":{"y":[1,{"d":1,"c":2}],"x":null}}"#, r#"{"n":{"x":null,"y":[1,{"c":2,"d":1}]}}"#]).await;
    stage.one(&["true", " true"]).await;
}

#[tokio::test]
async fn a_canonical_key_tells_apart_what_means_something_else() {
    let stage = Stage::keyed("{ body = 'canonical' }").await;
    let accents = [r#"["\u00e9"]"#, r#"["e\u0301"]"#];
    stage.each(&["{}", "[]", "null", r#""""#, "0", "false", "[1,2]", "[2,1]", "[12]", r#"["1",2]"#, r#"["1,2"]"#, "[[1],2]"]).await;
    stage.each(&[r#"{"a":null}"#, r#"{"a":{}}"#, r#"{"A":null}"#, r#"{"a ":null}"#, accents[0], accents[1]]).await;
    stage.each(&["[9007199254740992]", "[9007199254740991]", "[0.1]", "[0.10000000000000002]", "[5e-324]", "[1e-323]"]).await;
}

#[tokio::test]
async fn a_canonical_key_is_that_of_rfc_8785() {
    let stage = Stage::keyed("{ body = 'canonical' }").await;
    // Section 3.2.2, but for the one number of its example that no double prints as.
    let spelled = r#"{
      "numbers": [333333333.3333333, 1E30, 4.50, 2e-3, 0.000000000000000000000000001],
      "string": "\u20ac$\u000F\u000aA'\u0042\u0022\u005c\\\"\/",
      "literals": [null, true, false]
    }"#;
    let canonical = concat!(
        r#"{"literals":[null,true,false],"numbers":[333333333.3333333,1e+30,4.5,0.002,1e-27],"#,
        r#""string":"€$\u000f\nA'B\"\\\\\"/"}"#
    );
    stage.one(&[spelled, canonical]).await;
    // Section 3.2.3: members out of every plane, in another order.
    let names = ["\\r", "1", "\\u0080", "\u{f6}", "\u{20ac}", "\\ud83d\\ude00", "\\ufb33"];
    let other_spellings = ["\\u000D", "\\u0031", "\u{80}", "\\u00f6", "\\u20AC", "\u{1f600}", "\u{fb33}"];
    let member = |(value, name): (usize, &&str)| format!("\"{name}\":{value}");
    let sorted: Vec<_> = names.iter().enumerate().map(member).collect();
    let shuffled: Vec<_> = other_spellings.iter().enumerate().map(member).rev().collect();
    stage.one(&[&format!("{{{}}}", sorted.join(",")), &format!("{{{}}}", shuffled.join(","))]).await;
    // Appendix B: the edges of the spellings of numbers.
    for spellings in [
        ["[1e21]", "[1000000000000000000000]"],
        ["[1e-7]", "[0.0000001]"],
        ["[1e-6]", "[0.000001]"],
        ["[-9007199254740992]", "[-9007199254740992.0]"],
        ["[1.7976931348623157e+308]", "[17976931348623157E292]"],
        ["[295147905179352830000]", "[2.9514790517935283e20]"],
    ] {
        stage.one(&spellings).await;
    }
}

#[tokio::test]
async fn a_number_that_a_double_cannot_hold_is_pointed_at() {
    let stage = Stage::keyed("{ body = 'canonical' }").await;
    let inexact = ["9007199254740993", "-9007199254740993.0", "0.1000000000000000055", "333333333.33333329", "1e400", "-1e400", "1e-400"];
    for number in inexact {
        assert_eq!(stage.post(&format!(r#"{{"a":[1,{number}],"z":1}}"#)).await.pointers(), ["/a/1"], "{number}");
        assert_eq!(stage.post(&format!(r#"{{"b/c":{{"~":{number}}}}}"#)).await.pointers(), ["/b~1c/~0"], "{number}");
        let reply = stage.post(number).await;
        assert_eq!(reply.pointers(), [""], "{number}");
        assert!(!reply.text().contains(number), "the input is not repeated: {}", reply.text());
    }
    assert_eq!(stage.upstream.started(), 0);
}

#[tokio::test]
async fn a_member_named_twice_is_pointed_at_however_it_is_spelled() {
    let stage = Stage::keyed("{ body = 'canonical' }").await;
    for (body, pointer) in [
        (r#"{"a":1,"a":1}"#, "/a"),
        (r#"{"a":1,"b":2,"a":2}"#, "/a"),
        (r#"{"a":1,"\u0061":1}"#, "/a"),
        (r#"{"x":[0,{"b":1,"b":1}]}"#, "/x/1/b"),
        (r#"{"\ud83d\ude00":1,"😀":1}"#, "/😀"),
        (r#"{"a/b":1,"a\/b":2}"#, "/a~1b"),
        (r#"{"":1,"":2}"#, "/"),
    ] {
        assert_eq!(stage.post(body).await.pointers(), [pointer], "{body}");
    }
    assert_eq!(stage.upstream.started(), 0);
}

#[tokio::test]
async fn what_is_not_json_has_no_canonical_key_and_no_fields() {
    for key in ["{ body = 'canonical' }", FIELDS] {
        let stage = Stage::keyed(key).await;
        for body in ["", "{", "a=1", r#"{"a":1} x"#, r#"{"dialogId":"d","nodeId":"n"}}"#, "[01]", "[NaN]"] {
            stage.post(body).await.problem(400, "invalid_json");
        }
        assert_eq!(stage.upstream.started(), 0);
    }
}

#[tokio::test]
async fn two_numbers_that_differ_are_never_taken_for_one() {
    let stage = Stage::keyed("{ body = 'canonical' }").await;
    for numbers in [
        ["1234567890123456.7", "1234567890123456.8"],
        ["0.30000000000000001", "0.3"],
        ["9007199254740993", "9007199254740992"],
        ["1e400", "2e400"],
        ["1e-400", "0"],
    ] {
        let replies = [stage.post(&format!("[{}]", numbers[0])).await, stage.post(&format!("[{}]", numbers[1])).await];
        assert!(replies.iter().all(|reply| [200, 400].contains(&reply.status) && !reply.replayed()), "{numbers:?}: {replies:?}");
    }
}

#[tokio::test]
async fn a_text_that_is_no_unicode_is_pointed_at() {
    let stage = Stage::keyed("{ body = 'canonical' }").await;
    assert_eq!(stage.post(r#"{"a":["x","\ud800"]}"#).await.pointers(), ["/a/1"]);
    stage.post(r#"{"\udc00":1}"#).await.problem(400, "invalid_input");
    assert_eq!(stage.upstream.started(), 0);
}

#[tokio::test]
async fn a_bottomless_body_does_no_harm() {
    for key in ["{ body = 'canonical' }", "{ fields = ['/id'] }", "{ body = 'raw' }"] {
        let stage = Stage::keyed(key).await;
        for (open, close) in [("[", "]"), ("{\"a\":", "}")] {
            let deep = format!("{}1{}", open.repeat(10_000), close.repeat(10_000));
            for body in [format!(r#"{{"id":{},"x":{deep}}}"#, open.len()), deep] {
                let reply = stage.post(&body).await;
                assert!([200, 400].contains(&reply.status), "{key} {open}: {}", reply.text());
            }
        }
        assert_eq!(stage.post(r#"{"id":8}"#).await.status, 200, "{key}");
    }
}

#[tokio::test]
async fn no_separator_forges_a_key_out_of_other_fields() {
    let stage = Stage::keyed(FIELDS).await;
    let body = |dialog: &str, node: &str| format!(r#"{{"dialogId":"{dialog}","nodeId":"{node}"}}"#);
    let pairs = [("a:b", "c"), ("a", "b:c"), ("ab", "c"), ("a", "bc"), ("a|b", "c"), ("a", "b|c"), ("c", "a:b"), (r"a\u0000", "b")];
    let pairs = [&pairs[..], &[("a", r"\u0000b"), ("1:a", "b"), ("1", "a1:b"), (r#"a\",\"b"#, "c"), ("a", r#"b\",\"c"#)]].concat();
    let bodies: Vec<_> = pairs.iter().map(|(dialog, node)| body(dialog, node)).collect();
    stage.each(&bodies.iter().map(String::as_str).collect::<Vec<_>>()).await;
}

#[tokio::test]
async fn fields_are_found_wherever_they_stand_in_the_body() {
    let stage = Stage::keyed(FIELDS).await;
    stage.one(&[r#"{"dialogId":"d","nodeId":"n","x":1}"#, r#"{ "x":1.0, "nodeId":"\u006e", "dialogId":"d" }"#]).await;
    let nested = Stage::keyed("{ fields = ['/steps/1/id', '/a~1b/~0'] }").await;
    nested.one(&[r#"{"steps":[0,{"id":"s"}],"a/b":{"~":true}}"#, r#"{"a/b":{"~":true},"steps":[0,{"id":"s"}]}"#]).await;
    nested.each(&[r#"{"steps":[0,{"id":"s"}],"a/b":{"~":false}}"#, r#"{"steps":[0,{"id":"t"}],"a/b":{"~":true}}"#]).await;
}

#[tokio::test]
async fn a_number_and_its_digits_are_two_fields_and_two_spellings_of_a_number_are_one() {
    let stage = Stage::keyed("{ fields = ['/id'] }").await;
    stage.each(&[r#"{"id":"1"}"#, r#"{"id":"1.0"}"#, r#"{"id":true}"#, r#"{"id":"true"}"#, r#"{"id":false}"#, r#"{"id":2}"#]).await;
    stage.one(&[r#"{"id":1}"#, r#"{"id":1.0}"#, r#"{"id":10e-1}"#]).await;
}

#[tokio::test]
async fn a_field_that_is_missing_or_null_is_asked_for() {
    let stage = Stage::keyed(FIELDS).await;
    let bodies = ["{}", "[]", "null", "7", r#"{"dialogId":"d"}"#, r#"{"nodeId":"n"}"#, r#"{"dialogId":"d","nodeId":null}"#];
    for body in [&bodies[..], &[r#"{"DialogId":"d","nodeId":"n"}"#, r#"{"x":{"dialogId":"d","nodeId":"n"}}"#]].concat() {
        let reply = stage.post(body).await;
        assert_eq!(reply.problem(400, "missing_idempotency_key")["retryable"], false, "{body}");
    }
    assert_eq!(stage.upstream.started(), 0);
}

#[tokio::test]
async fn a_field_that_is_there_twice_is_refused_and_other_twins_do_no_harm() {
    let stage = Stage::keyed(FIELDS).await;
    for body in [r#"{"dialogId":"a","dialogId":"b","nodeId":"n"}"#, r#"{"dialogId":"a","nodeId":"n","\u006eodeId":"n"}"#] {
        stage.post(body).await.problem(400, "invalid_input");
    }
    let nested = Stage::keyed("{ fields = ['/a/id'] }").await;
    nested.post(r#"{"a":{"id":1},"a":{"id":2}}"#).await.problem(400, "invalid_input");
    assert_eq!(stage.upstream.started() + nested.upstream.started(), 0);
    nested.one(&[r#"{"a":{"id":1},"x":1,"x":2}"#, r#"{"a":{"id":1},"x":1,"x":2}"#]).await;
}

#[tokio::test]
async fn members_outside_the_fields_are_payload() {
    let stage = Stage::keyed(FIELDS).await;
    stage.one(&[r#"{"dialogId":"d","nodeId":"n","text":"yes"}"#, r#"{"text":"yes","dialogId":"d","nodeId":"n"}"#]).await;
    for other in [r#"{"dialogId":"d","nodeId":"n","text":"no"}"#, r#"{"dialogId":"d","nodeId":"n"}"#] {
        stage.post(other).await.problem(422, "idempotency_key_reused");
    }
    assert_eq!(stage.upstream.started(), 1);
}

#[tokio::test]
async fn a_standard_webhook_needs_no_key_but_its_id() {
    let (database, upstream) = (Database::new().await, Upstream::start());
    let auth = format!("{{ standard_webhooks = {{ secret = '{ROUTE_SECRET}' }} }}");
    let route = Route::new(PATH).set("auth", &auth).without("key").forward(&upstream);
    let service = Setup::on(&database).webhooks(&[route]).start().await;
    let post = async |id: &str, time: u64| {
        let time = time.to_string();
        let signature = standard_signature(ROUTE_SECRET.as_bytes(), id, &time, "{}");
        let headers = [("webhook-id", id), ("webhook-timestamp", &time), ("webhook-signature", &signature)];
        let reply = service.post_to(PATH, &headers, "{}").await;
        (reply.status, reply.replayed())
    };
    let now = unix_now();
    assert_eq!([post("m1", now - 9).await, post("m1", now).await, post("m2", now).await], [(200, false), (200, true), (200, false)]);
    assert_eq!(upstream.started(), 2);
}

#[tokio::test]
async fn two_routes_share_no_key() {
    let (database, redis, upstream) = (Database::new().await, Redis::start().await, Upstream::start());
    for store in ["memory", "redis", "postgres"] {
        let before = upstream.started();
        let routes = ["/webhooks/a", "/webhooks/b"].map(|path| Route::new(path).store(store).forward(&upstream));
        let service = Setup::on(&database).redis(&redis).webhooks(&routes).start().await;
        for replayed in [false, true] {
            for path in ["/webhooks/a", "/webhooks/b"] {
                let reply = service.webhook(path, "k", "{}").await;
                assert_eq!((reply.status, reply.replayed()), (200, replayed), "{store} {path}");
            }
        }
        let keys: BTreeSet<_> = upstream.requests()[before..].iter().map(|request| request.key().to_owned()).collect();
        assert_eq!(keys.len(), 2, "{store}");
    }
}

#[tokio::test]
async fn two_callers_share_no_key() {
    const CALLERS: [&str; 2] = ["the secret of one caller, of 32 bytes", "the secret of another one, of 32 bytes"];
    let keys = CALLERS.iter().enumerate().map(|(id, secret)| format!("[[signing.keys]]\nid = \"caller{id}\"\nsecret = \"{secret}\"\n"));
    let keys: String = keys.collect();
    let (database, upstream) = (Database::new().await, Upstream::start());
    let route = Route::new(PATH).set("auth", "{ hmac = {} }").store("postgres").forward(&upstream);
    for hashed_with in [None, Some("the secret of the key hash, 32 bytes")] {
        let setup = Setup::bare().set("DATABASE_URL", &database.url).file(&format!("{}{keys}", route.toml()));
        let setup = hashed_with.into_iter().fold(setup, |setup, secret| setup.set("CXDA_IDEMPOTENCY__SECRET", secret));
        let service = setup.start().await;
        for (replayed, body) in [(false, "{}"), (true, "{}")] {
            for secret in CALLERS {
                let headers = [("X-Cognigy-Signature", &*sign_with(secret, body)), (KEY_HEADER, "k")];
                let reply = service.post_to(PATH, &headers, body).await;
                assert_eq!((reply.status, reply.replayed()), (200, replayed), "{hashed_with:?} {secret}: {}", reply.text());
            }
        }
    }
    assert_eq!(upstream.runs().len(), 4, "a key each, and others with another secret of the hash");
}

/// Everything that Redis holds, as text.
async fn redis_dump(redis: &Redis) -> String {
    let mut dump = Vec::new();
    for key in redis.run::<Vec<String>>(&["KEYS", "*"]).await {
        let values: Vec<Vec<u8>> = match redis.run::<String>(&["TYPE", &key]).await.as_str() {
            "string" => vec![redis.run(&["GET", &key]).await],
            "zset" => redis.run(&["ZRANGE", &key, "0", "-1"]).await,
            "hash" => redis.run(&["HGETALL", &key]).await,
            other => panic!("{key} is a {other}"),
        };
        dump.extend([key.into_bytes(), values.concat()]);
    }
    String::from_utf8_lossy(&dump.join(&b'\n')).into_owned()
}

#[tokio::test]
async fn no_store_and_no_log_shows_a_key_or_a_payload() {
    let (database, redis, upstream) = (Database::new().await, Redis::start().await, Upstream::start());
    upstream.answer(Answer::new(200).body("done"));
    upstream.hold();
    let kinds = ["{ header = 'X-Event-Id' }", "{ body = 'raw' }", "{ body = 'canonical' }", "{ fields = ['/id'] }"];
    let places: Vec<_> = kinds.into_iter().flat_map(|key| ["redis", "postgres"].map(|store| (key, store))).collect();
    let path = |at: usize| format!("/webhooks/{at}");
    let routes = places.iter().enumerate().map(|(at, (key, store))| Route::new(&path(at)).set("key", key).store(store).forward(&upstream));
    let service = Setup::on(&database).redis(&redis).webhooks(&routes.collect::<Vec<_>>()).start().await;
    let body = format!(r#"{{"id":"{CANARY}"}}"#);
    let hook = |at: usize| service.hook(&path(at), "plain", body.clone()).header("X-Event-Id", CANARY);
    let under_way: Vec<_> = (0..places.len()).map(|at| tokio::spawn(send(hook(at)))).collect();
    upstream.has_started(places.len()).await;
    let rows = "SELECT coalesce(string_agg(i::text, ' '), '') FROM idempotency AS i";
    let dumps = async || format!("{}{}", redis_dump(&redis).await, database.value::<String>(rows).await);
    let leased = dumps().await;
    upstream.release();
    for call in under_way {
        assert_eq!(call.await.unwrap().text(), "done");
    }
    for dump in [leased, dumps().await, service.printed()] {
        let hidden = [CANARY.to_owned(), hex::encode(CANARY), ROUTE_SECRET.to_owned(), hex::encode(ROUTE_SECRET)];
        assert!(!dump.is_empty() && hidden.iter().all(|hidden| !dump.contains(hidden)), "{dump}");
    }
}

#[tokio::test]
async fn a_long_body_is_keyed_as_a_short_one_is() {
    let numbers = |number: &str| vec![number; 5_000].join(",");
    for (key, is_canonical) in [("{ body = 'canonical' }", true), (FIELDS, true), ("{ body = 'raw' }", false)] {
        let stage = Stage::keyed(key).await;
        let body = |number: &str| format!(r#"{{"dialogId":"d","nodeId":"n","numbers":[{}]}}"#, numbers(number));
        if is_canonical {
            stage.one(&[&body("1.5e3"), &body("1500"), &body("1500.0")]).await;
            let reply = stage.post(&body("1500").replacen("1500", "9007199254740993", 1)).await;
            let code = reply.json()["errors"][0]["code"].clone();
            let is_refused = (reply.status, code.as_str()) == (400, Some("inexact_number"));
            assert!(is_refused || (key == FIELDS && reply.status == 422), "{}", reply.text());
        } else {
            stage.one(&[&body("1500"), &body("1500")]).await;
            stage.each(&[&body("1500.0")]).await;
        }
        // All at once, as many as a key's turns make wait for each other.
        let bodies: Vec<_> = (0..16).map(|n| body(&format!("{n}.5"))).collect();
        let replies = futures_util::future::join_all(bodies.iter().map(|body| stage.post(body))).await;
        let expected = if key == FIELDS { 422 } else { 200 };
        assert!(
            replies.iter().all(|reply| reply.status == expected),
            "{key}: {:?}",
            replies.iter().map(|reply| reply.status).collect::<Vec<_>>()
        );
    }
}
