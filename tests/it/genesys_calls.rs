//! What Genesys is sent, and what a caller gets of its answer. Contract, section 8.

mod tls;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;
use futures_util::future::join_all;
use percent_encoding::percent_decode_str;
use reqwest::{Method, RequestBuilder};
use serde_json::json;

use crate::support::{
    ACTION, Answer, Database, EXECUTE, GENESYS_ID, GENESYS_SECRET, Genesys, Route, SECRET, Scene, Setup, send, sign, sign_with, wait_until,
};

/// What Genesys may be told of a caller and of this service beside the call itself.
const HARMLESS: [&str; 8] =
    ["host", "accept", "accept-encoding", "user-agent", "content-length", "traceparent", "x-request-id", "inin-correlation-id"];

fn path_of(action: &str) -> String {
    format!("/api/v2/integrations/actions/{action}/execute")
}

#[tokio::test]
async fn genesys_gets_the_input_as_it_came_with_a_token_and_nothing_else_of_the_caller() {
    let scene = Scene::new().await;
    let body = "{ \"customerId\" : \"é\\u00e9\",\r\n\"n\":1.0, \"vip\":true,\"none\":null }\n";
    let secrets = [("Authorization", "Bearer x"), ("Cookie", "s=1"), ("X-Tenant", "acme42"), ("Via", "1.1 x"), ("Accept", "text/x")];
    let call = scene.service.action(ACTION, body).header("Content-Type", "text/plain").header("X-Request-Id", "call-7");
    let reply = send(secrets.iter().fold(call, |call, (name, value)| call.header(*name, *value))).await;
    assert_eq!(reply.status, 200, "{}", reply.text());
    let seen = scene.genesys.api.request();
    assert_eq!((seen.method.as_str(), seen.path.as_str()), ("POST", path_of(ACTION).as_str()));
    assert_eq!(String::from_utf8_lossy(&seen.body), body);
    assert_eq!((seen.header("content-type"), seen.header("authorization")), (Some("application/json"), Some("Bearer token-1")));
    assert!(seen.header("x-request-id").is_none_or(|id| id == "call-7"), "{seen:?}");
    let named = |name: &&str| HARMLESS.contains(name) || ["content-type", "authorization"].contains(name);
    let more: Vec<_> = seen.headers.iter().filter(|(name, value)| !named(&name.as_str()) || value.contains("text/x")).collect();
    assert!(more.is_empty(), "{more:?}");
}

#[tokio::test]
async fn a_login_is_that_of_an_oauth_client() {
    for (id, secret) in [(GENESYS_ID, GENESYS_SECRET), ("a-b_c.d~e", "s+e/c&r=e%t:?#")] {
        let scene = Scene::with(&[("CLIENT_ID", id), ("CLIENT_SECRET", secret)]).await;
        scene.is_executed("{}").await;
        let login = scene.genesys.login.request();
        assert_eq!((login.method.as_str(), login.path.as_str()), ("POST", "/oauth/token"));
        assert_eq!(login.header("authorization"), Some(format!("Basic {}", BASE64.encode(format!("{id}:{secret}"))).as_str()));
        assert_eq!(login.header("content-type"), Some("application/x-www-form-urlencoded"));
        assert_eq!(String::from_utf8_lossy(&login.body), "grant_type=client_credentials");
    }
}

#[tokio::test]
async fn an_action_id_stays_one_segment_of_the_path_whatever_it_is_made_of() {
    let scene = Scene::new().await;
    for plain in [ACTION, "static_-_1", "a.b~c", "...", &"x".repeat(128)] {
        assert_eq!(send(scene.service.action(plain, "{}")).await.status, 200, "{plain}");
        assert_eq!(scene.genesys.api.requests().last().unwrap().path, path_of(plain));
    }
    let encoded = [
        "a%2Fb",
        "%2F",
        "a%20b",
        "a%3Fb%23c",
        "a%25b",
        "a%252Fb",
        "%252e%252e",
        "a%5Cb",
        "%C3%A9%F0%9F%98%80",
        "a%22%3C%3E%7B%7D",
        "a;b=c",
        "a+b",
        "a@b:c",
        "a%26b%3D",
        "%5B%5D%7C%5E%60",
    ];
    for id in encoded {
        let before = scene.genesys.api.started();
        let reply = scene.service.open(id, "{}").await.reply().await;
        assert_eq!((reply.status, scene.genesys.api.started()), (200, before + 1), "{id} is an action of its own: {}", reply.text());
        let path = scene.genesys.api.requests().pop().unwrap().path;
        let (before, after) = path_of("|").split_once('|').map(|(before, after)| (before.to_owned(), after.to_owned())).unwrap();
        let segment =
            path.strip_prefix(&before).and_then(|rest| rest.strip_suffix(&after)).unwrap_or_else(|| panic!("{id} came as {path}"));
        assert!(!segment.contains(['/', '?', '#', '\\']), "{id} came as {path}");
        assert_eq!(percent_decode_str(segment).collect::<Vec<_>>(), percent_decode_str(id).collect::<Vec<_>>(), "{id} came as {path}");
    }
}

#[tokio::test]
async fn an_action_id_is_the_same_however_it_is_spelled() {
    let scene = Scene::new().await;
    for spelled in ["a-b", "%61-b", "a%2Db"] {
        assert_eq!(scene.service.open(spelled, "{}").await.reply().await.status, 200);
    }
    assert_eq!(scene.genesys.api.request().path, path_of("a-b"));
}

#[tokio::test]
async fn what_is_no_action_id_is_refused() {
    let scene = Scene::new().await;
    let (long, long_once_decoded) = ("x".repeat(129), "%C3%A9".repeat(65));
    let elsewhere = ["..%2f..%2fusers", "..%2F..%2Fadmin", "%2E%2E%2Fx", "x%2F..", "..%5Cx", "x%2F.%2Fy"];
    for id in elsewhere.into_iter().chain([
        ".",
        "..",
        "%2e",
        "%2E%2E",
        ".%2e",
        "%00",
        "a%0Ab",
        "a%0D%0Ab",
        "%7F",
        "%C2%85",
        "%FF",
        "%C3",
        &long,
        &long_once_decoded,
    ]) {
        let reply = scene.service.open(id, "{}").await.reply().await;
        let seen = scene.genesys.api.requests().pop().map(|call| call.path);
        assert_eq!(seen, None, "{id} was sent");
        reply.problem(400, "invalid_input");
    }
    assert_eq!(scene.genesys.asked(), (0, 0));
}

#[tokio::test]
async fn an_input_is_one_flat_object() {
    let scene = Scene::new().await;
    for (body, wrong) in [
        (r#"{"inputs":{}}"#, &[("/inputs", "not_scalar")][..]),
        (r#"{"c":1,"b":[1],"a":{"x":{"y":1}}}"#, &[("/a", "not_scalar"), ("/b", "not_scalar")]),
        (r#"{"a/b":[],"m~n":{},"":[]}"#, &[("/", "not_scalar"), ("/a~1b", "not_scalar"), ("/m~0n", "not_scalar")]),
        ("[]", &[("", "not_an_object")]),
        (r#"[{"a":1}]"#, &[("", "not_an_object")]),
        (r#""a""#, &[("", "not_an_object")]),
        ("1", &[("", "not_an_object")]),
        ("null", &[("", "not_an_object")]),
    ] {
        let errors = scene.service.execute(body).await.errors();
        assert_eq!(errors.iter().map(|(pointer, code)| (pointer.as_str(), code.as_str())).collect::<Vec<_>>(), wrong, "{body}");
    }
    for (body, pointer) in [(r#"{"a":1,"b":2,"a":1}"#, "/a"), (r#"{"a":9007199254740993}"#, "/a"), (r#"{"a/b":1e400}"#, "/a~1b")] {
        let reply = scene.service.execute(body).await;
        assert_eq!(reply.status, 400, "{body}: {}", reply.text());
        assert_eq!(reply.pointers(), [pointer], "{body}");
    }
    let many: Vec<_> = (0..100).map(|n| format!(r#""{n}":[]"#)).collect();
    assert_eq!(scene.service.execute(format!("{{{}}}", many.join(","))).await.errors().len(), 20);
    for body in ["", "{", "a=1", r#"{"a":1}x"#, "{'a':1}", r#"{"a":NaN}"#, "\u{feff}{}"] {
        scene.service.execute(body).await.problem(400, "invalid_json");
    }
    let too_long = format!("{{\"a\":\"{}\"}}", "x".repeat(65_536));
    scene.service.execute(too_long).await.problem(413, "body_too_large");
    assert_eq!(scene.genesys.asked(), (0, 0), "nothing of that was sent");
    for body in ["{}", r#"{"s":"","n":-0.5,"b":false,"x":null}"#, " {\t\"a\" : \"[]{}\" }\r\n", r#"{"__type":"x","":1}"#] {
        scene.is_executed(body).await;
    }
}

#[tokio::test]
async fn an_answer_is_passed_on_with_its_type_its_correlation_id_and_no_other_header() {
    const PASSED_ON: [&str; 6] = ["content-type", "inin-correlation-id", "content-length", "date", "x-request-id", "connection"];
    let scene = Scene::new().await;
    let binary = b"\x00\xff\xfe {\"a\": 1 }\r\n\r\n".to_vec();
    let others = [
        ("Set-Cookie", "s=1"),
        ("Date", "Mon, 01 Jan 2001 00:00:00 GMT"),
        ("Retry-After", "7"),
        ("Server", "x"),
        ("ETag", "\"x\""),
        ("Location", "/x"),
        ("WWW-Authenticate", "Bearer"),
        ("Cache-Control", "max-age=7"),
        ("Idempotent-Replayed", "true"),
        ("Access-Control-Allow-Origin", "*"),
        ("X-Request-Id", "theirs"),
        ("X-Secret", "x"),
    ];
    for status in [200, 201, 202, 206, 299, 400, 401, 403, 404, 405, 408, 409, 410, 412, 413, 418, 422, 425, 499] {
        let answer = Answer::new(status).header("Content-Type", "application/vnd.x+json; charset=\"utf-8\"").body(binary.clone());
        let answer = answer.header("ININ-Correlation-Id", &format!("c-{status}"));
        scene.genesys.api.answer(others.iter().fold(answer, |answer, (name, value)| answer.header(name, value)));
        let reply = scene.service.execute(format!(r#"{{"n":{status}}}"#)).await;
        assert_eq!((reply.status, &reply.body), (status, &binary), "{}", reply.text());
        assert_eq!(reply.header("content-type"), Some("application/vnd.x+json; charset=\"utf-8\""));
        assert_eq!(reply.header("inin-correlation-id"), Some(format!("c-{status}").as_str()));
        let more: Vec<_> = reply.headers.keys().filter(|name| !PASSED_ON.contains(&name.as_str())).collect();
        assert!(more.is_empty(), "{status}: {more:?}");
        assert!(!reply.header("date").unwrap_or_default().contains("2001") && reply.request_id() != "theirs", "{:?}", reply.headers);
    }
}

#[tokio::test]
async fn an_answer_is_whole_however_it_comes() {
    let scene = Scene::new().await;
    let long = vec![b'x'; 1 << 20];
    for (at, answer) in [Answer::new(200).body(&long[..]), Answer::new(200).body(&long[..]).chunked()].into_iter().enumerate() {
        scene.genesys.api.answer(answer);
        assert!(scene.is_executed(&format!(r#"{{"at":{at}}}"#)).await.body == long, "a mebibyte, as it came");
    }
    scene.genesys.api.answer(Answer::new(200).header("Content-Encoding", "br").body(&b"\x0b\x02\x80{}\x03"[..]));
    for _ in 0..2 {
        let reply = scene.service.execute(r#"{"at":"encoded"}"#).await;
        assert_eq!((reply.header("content-encoding"), reply.body.as_slice()), (Some("br"), &b"\x0b\x02\x80{}\x03"[..]));
    }
    scene.genesys.api.answer(Answer::new(204));
    let reply = scene.service.execute(r#"{"at":"none"}"#).await;
    assert_eq!((reply.status, reply.body.len()), (204, 0), "{}", reply.text());
}

#[tokio::test]
async fn a_failure_of_genesys_is_a_problem_of_ours_and_nothing_of_it_is_shown() {
    let mut scene = Scene::new().await;
    let html = "<html><body>canary-9e1 at 10.1.2.3</body></html>";
    for status in [500, 501, 502, 503, 504, 505, 520, 599] {
        let answer = Answer::new(status).header("Content-Type", "text/html").header("X-Canary", "canary-9e1");
        scene.genesys.api.answer_once(answer.body(html));
        let before = scene.genesys.api.started();
        let reply = scene.service.execute(format!(r#"{{"n":{status}}}"#)).await;
        reply.is_given_up();
        assert!(!reply.text().contains("canary") && !format!("{:?}", reply.headers).contains("canary"), "{}", reply.text());
        assert_eq!(scene.genesys.api.started(), before + 1, "{status} is not tried again");
        let line = scene.service.request_line(&reply.request_id()).await;
        assert_eq!((&line["outcome"], &line["route"]), (&json!("upstream_failed"), &json!(EXECUTE)));
        scene.is_executed(&format!(r#"{{"n":{status}}}"#)).await;
    }
    assert!(!scene.service.printed().contains("canary"), "{}", scene.service.printed());
}

#[tokio::test]
async fn no_redirect_is_followed() {
    let scene = Scene::new().await;
    let elsewhere = format!("http://127.0.0.1:{}/elsewhere", scene.genesys.login.port);
    for status in [300, 301, 302, 303, 304, 307, 308] {
        for location in ["/elsewhere", &elsewhere] {
            let before = scene.genesys.api.started();
            scene.genesys.api.answer_once(Answer::new(status).header("Location", location).body(if status == 304 { "" } else { "x" }));
            scene.service.execute("{}").await.is_given_up();
            assert_eq!(scene.genesys.api.started(), before + 1, "{status} is not tried again");
        }
    }
    scene.is_executed("{}").await;
    assert!(scene.genesys.api.requests().iter().all(|request| request.path == path_of(ACTION)));
    assert!(scene.genesys.login.requests().iter().all(|request| request.path == "/oauth/token"));
}

#[tokio::test]
async fn a_login_that_points_elsewhere_tells_nobody_the_secret() {
    let scene = Scene::new().await;
    let elsewhere = format!("{}/elsewhere", scene.genesys.url());
    scene.genesys.login.answer(Answer::new(307).header("Location", &elsewhere));
    scene.service.execute("{}").await.is_failed();
    assert_eq!(scene.genesys.api.started(), 0);
}

#[tokio::test]
async fn where_an_execution_is_asked_for_is_a_setting() {
    let genesys = Genesys::start();
    for (base, template, path) in [
        ("", "/api/v2/integrations/actions/{action_id}/execute", path_of("a%2Fb")),
        ("/", "/v9/{action_id}", "/v9/a%2Fb".to_owned()),
        ("/prefix", "/x/{action_id}/run", "/prefix/x/a%2Fb/run".to_owned()),
        ("/pre/fix/", "/{action_id}", "/pre/fix/a%2Fb".to_owned()),
    ] {
        let database = Database::new().await;
        let setup = Setup::on(&database).genesys(&genesys).member("STORE", "memory").member("EXECUTE_PATH", template);
        let service = setup.member("BASE_URL", &format!("{}{base}", genesys.url())).start().await;
        assert_eq!(send(service.action("a%2Fb", "{}")).await.status, 200);
        assert_eq!(genesys.api.requests().last().unwrap().path, path);
    }
}

#[tokio::test]
async fn there_is_one_route_one_method_and_neither_without_the_setting() {
    let scene = Scene::new().await;
    for method in [Method::GET, Method::PUT, Method::PATCH, Method::DELETE] {
        let reply = send(scene.service.call(method, &EXECUTE.replace("{action_id}", ACTION))).await;
        reply.problem(405, "method_not_allowed");
        assert_eq!(reply.header("allow"), Some("POST"));
    }
    for path in ["/genesys", "/genesys/actions", "/genesys/actions/x", "/genesys/actions/x/test", "/genesys/actions/a/b/execute"] {
        send(scene.service.call(Method::POST, path)).await.problem(404, "not_found");
    }
    let without = Setup::on(&scene.database).start().await;
    without.execute("{}").await.problem(404, "not_found");
    assert_eq!(scene.genesys.asked(), (0, 0));
}

#[tokio::test]
async fn only_what_is_signed_is_executed() {
    let scene = Scene::new().await;
    let path = EXECUTE.replace("{action_id}", ACTION);
    for body in ["{}", "{", "[]"] {
        scene.service.post_to(&path, &[], body).await.problem(401, "missing_signature");
        for signature in [sign("{ }"), sign_with("another secret, at least 32 bytes long", body), "00".to_owned(), String::new()] {
            scene.service.post_to(&path, &[("X-CXone-Signature", &signature)], body).await.problem(401, "invalid_signature");
        }
        let twice = [("X-CXone-Signature", sign(body)), ("X-CXone-Signature", sign(body))];
        let twice = twice.each_ref().map(|(name, value)| (*name, value.as_str()));
        scene.service.post_to(&path, &twice, body).await.problem(401, "invalid_signature");
    }
    assert_eq!(scene.genesys.asked(), (0, 0));
}

#[tokio::test]
async fn it_is_signed_as_the_settings_say() {
    let scene = Scene::new().await;
    let setup = Setup::on(&scene.database).genesys(&scene.genesys).member("STORE", "memory").set("CXDA_SIGNING__HEADER", "X-Sig");
    let service = setup.set("CXDA_SIGNING__ENCODING", "base64").start().await;
    let tag = BASE64.encode(crate::support::hmac(SECRET, b"{}"));
    let path = EXECUTE.replace("{action_id}", ACTION);
    service.post_to(&path, &[("X-CXone-Signature", &sign("{}"))], "{}").await.problem(401, "missing_signature");
    assert_eq!(service.post_to(&path, &[("X-Sig", &tag)], "{}").await.status, 200);
}

#[tokio::test]
async fn whoever_sees_a_signed_name_go_by_cannot_change_it_and_start_up_warns_where_it_is_not_signed() {
    let scene = Scene::new().await;
    let path = EXECUTE.replace("{action_id}", ACTION);
    let setup = Setup::on(&scene.database).genesys(&scene.genesys).member("STORE", "memory");
    let service = setup.file("[genesys]\nsigned_headers = ['Idempotency-Key']\n").start().await;
    let signature = sign("order-1.{}");
    let named = |name| [("X-CXone-Signature", signature.as_str()), ("Idempotency-Key", name)];
    assert_eq!(service.post_to(&path, &named("order-1"), "{}").await.status, 200);
    for other in ["order-2", "order-1.", "1"] {
        service.post_to(&path, &named(other), "{}").await.problem(401, "invalid_signature");
    }
    service.post_to(&path, &named("order-1")[..1], "{}").await.problem(401, "invalid_signature");
    assert_eq!(scene.genesys.api.started(), 1);
    let warned = |service: &crate::support::Service| service.log().iter().any(|line| line["header"] == "Idempotency-Key");
    assert_eq!((warned(&scene.service), warned(&service)), (true, false));
}

#[tokio::test]
async fn a_key_executes_where_it_is_named_or_else_where_it_is_not_for_certain_tenants() {
    let secret = |id: &str| format!("the secret of {id}, at least 32 bytes long");
    let keys = format!(
        "[[signing.keys]]\nid = 'one'\nsecret = '{}'\n[[signing.keys]]\nid = 'two'\nsecret = '{}'\n\
         [[signing.keys]]\nid = 'acme'\nsecret = '{}'\ntenants = ['acme42']\n",
        secret("one"),
        secret("two"),
        secret("acme")
    );
    for (named, may) in [("", [true, true, false]), ("[genesys]\nkeys = ['two', 'acme']\n", [false, true, true])] {
        let (database, genesys) = (Database::new().await, Genesys::start());
        let setup = Setup::bare().set("DATABASE_URL", &database.url).genesys(&genesys).member("STORE", "memory");
        let service = setup.file(&format!("{named}{keys}")).start().await;
        for (id, may) in ["one", "two", "acme"].into_iter().zip(may) {
            let signature = sign_with(secret(id), "{}");
            let reply = service.post_to(&EXECUTE.replace("{action_id}", ACTION), &[("X-CXone-Signature", &signature)], "{}").await;
            if may {
                assert_eq!((reply.status, reply.replayed()), (200, false), "{named}{id}: {}", reply.text());
            } else {
                assert_eq!(reply.problem(403, "key_not_allowed")["retryable"], false, "{named}{id}");
            }
        }
        assert_eq!(genesys.api.started(), 2, "each key's work is its own");
    }
}

#[tokio::test]
async fn nothing_else_waits_for_a_genesys_that_hangs() {
    let (database, genesys) = (Database::new().await, Genesys::start());
    let setup = Setup::on(&database).genesys(&genesys).members(&[("STORE", "memory"), ("MAX_IN_FLIGHT", "2")]);
    let service = setup.webhooks(&[Route::new("/webhooks/echo")]).set("CXDA_HTTP__MAX_IN_FLIGHT", "20").start().await;
    let id = database.customer("acme42", "Ann").await;
    assert_eq!(service.execute("{}").await.status, 200);
    genesys.api.hold();
    let calls: Vec<_> = (0..100).map(|n| tokio::spawn(send(service.action("slow", format!(r#"{{"n":{n}}}"#))))).collect();
    genesys.api.has_started(3).await;
    // By then there are too many that wait.
    wait_until("some are sent away", async || calls.iter().any(tokio::task::JoinHandle::is_finished).then_some(())).await;
    assert_eq!(service.lookup("acme42", &[id]).await.names(), ["Ann"]);
    assert_eq!(service.webhook("/webhooks/echo", "k", "{}").await.status, 200);
    assert_eq!(service.ready().await.status, 200);
    assert!(service.execute("{}").await.replayed());
    genesys.api.release();
    for reply in join_all(calls).await.into_iter().map(Result::unwrap).filter(|reply| reply.status != 200) {
        reply.problem(503, "overloaded");
    }
}

#[tokio::test]
async fn calls_are_counted_by_what_became_of_them() {
    let mut scene = Scene::new().await;
    let one = async |scene: &Scene, n: usize| scene.service.execute(format!(r#"{{"n":{n}}}"#)).await;
    let answers = [(200, "2xx"), (302, "3xx"), (404, "4xx"), (429, "429"), (500, "5xx")];
    for (at, (status, outcome)) in answers.into_iter().enumerate() {
        scene.genesys.api.answer_once(Answer::new(status).header("Retry-After", "300"));
        one(&scene, at).await;
        assert_eq!(scene.service.outbound("genesys", outcome).await, 1, "{status} counts as {outcome}");
    }
    scene.genesys.api.answer_once(Answer::cut());
    one(&scene, 10).await.is_unknown();
    assert_eq!(scene.service.outbound("genesys", "lost").await, 1);
    scene.genesys.api.stop().await;
    one(&scene, 11).await.is_failed();
    assert!(scene.service.outbound("genesys", "not_sent").await >= 1);
    let metrics = scene.service.metrics().await;
    let named = metrics.values_of("outbound_requests_total", "outcome");
    let known = ["2xx", "3xx", "4xx", "429", "5xx", "not_sent", "lost"];
    assert!(named.iter().all(|outcome| known.contains(&outcome.as_str())), "{named:?}");
    let login = [("dependency", "genesys_login"), ("outcome", "2xx")];
    assert_eq!(metrics.count("outbound_requests_total", &login), 1);
    assert!(metrics.count("outbound_request_duration_seconds_count", &[("dependency", "genesys")]) >= 6);
    assert_eq!(metrics.count("http_requests_total", &[("route", EXECUTE), ("method", "POST")]), 7);
}

#[tokio::test]
async fn no_line_of_the_log_holds_a_secret_a_token_or_an_input() {
    let genesys = Genesys::start();
    genesys.gives("canary-token", 3600);
    let database = Database::new().await;
    let setup = Setup::on(&database).genesys(&genesys).member("STORE", "memory").set("RUST_LOG", "debug");
    let service = setup.start().await;
    genesys.api.answer_once(Answer::new(200).body(r#"{"x":"canary-answer"}"#));
    genesys.api.answer_once(Answer::new(401).body("canary-answer"));
    genesys.api.answer_once(Answer::new(500).body("canary-answer"));
    genesys.api.answer_once(Answer::cut());
    let call = |n: usize| -> RequestBuilder { service.keyed(&format!("canary-key-{n}"), format!(r#"{{"x":"canary-input","n":{n}}}"#)) };
    for n in 0..4 {
        send(call(n)).await;
        assert!([200, 502].contains(&send(call(n)).await.status));
    }
    genesys.login.answer(Answer::new(400).body("canary-answer"));
    genesys.api.answer(Answer::new(401));
    send(call(5)).await.is_failed();
    wait_until("the last request is logged", async || service.printed().contains("upstream_failed").then_some(())).await;
    let printed = service.printed();
    assert!(!printed.contains("canary") && !printed.contains(GENESYS_SECRET), "{printed}");
    let basic = BASE64.encode(format!("{GENESYS_ID}:{GENESYS_SECRET}"));
    assert!(!printed.contains(&basic), "{printed}");
}
