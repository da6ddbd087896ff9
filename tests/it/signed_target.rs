//! A signature that covers method and path is good for one route alone: contract, section 7.

mod commands;
mod defaults;
mod reasons;
mod settings;

use crate::support::{ACTION, Database, Genesys, ROUTE_SECRET, Reply, Route, SECRET, Service, Setup, settings_file, sign, sign_with};

const A: &str = "/genesys/actions/a/execute";
const B: &str = "/genesys/actions/b/execute";
const BODY: &str = r#"{"amount":1}"#;
const HEADER: &str = "X-CXone-Signature";

/// A service that executes, with one signing key.
struct Stage {
    service: Service,
    genesys: Genesys,
    _database: Database,
}

impl Stage {
    async fn new(routes: &[Route], members: &[(&str, &str)]) -> Self {
        let (database, genesys) = (Database::new().await, Genesys::start());
        let setup = Setup::on(&database).webhooks(routes).genesys(&genesys).member("STORE", "memory");
        let service = members.iter().fold(setup, |setup, (name, value)| setup.set(name, *value)).start().await;
        Self { service, genesys, _database: database }
    }

    async fn post(&self, path: &str, signature: &str) -> Reply {
        self.service.post_to(path, &[(HEADER, signature), ("X-Correlation-Id", "k")], BODY).await
    }

    async fn takes(&self, path: &str, signature: &str) {
        let reply = self.post(path, signature).await;
        assert_eq!(reply.status, 200, "{path}: {}", reply.text());
    }

    async fn refuses(&self, path: &str, signature: &str) {
        self.post(path, signature).await.problem(401, "invalid_signature");
    }

    /// How many signatures without a target a route has taken.
    async fn counted(&self, route: &str) -> u64 {
        self.service.metrics().await.count("cxone_dataaction_signatures_without_target_total", &[("route", route)])
    }
}

/// The signature of the body for a path.
fn bound(path: &str) -> String {
    sign(format!("POST {path}.{BODY}"))
}

fn hook(path: &str, signed_target: &str) -> Route {
    Route::new(path).set("auth", &format!("{{ hmac = {{ header = '{HEADER}', signed_target = {signed_target} }} }}"))
}

const REQUIRED: (&str, &str) = ("CXDA_GENESYS__SIGNED_TARGET", "require");

#[tokio::test]
async fn a_captured_signature_is_good_for_no_other_action_and_no_other_route() {
    let stage = Stage::new(&[hook("/hooks/x", "'require'"), hook("/hooks/y", "true"), hook("/hooks/z", "'off'")], &[REQUIRED]).await;
    let paths = [A, B, "/hooks/x", "/hooks/y", "/hooks/z", "/data-action"];
    for captured in paths {
        for path in paths.into_iter().filter(|path| *path != captured) {
            stage.refuses(path, &bound(captured)).await;
        }
    }
    assert_eq!(stage.genesys.asked(), (0, 0));
    for path in [A, B, "/hooks/x", "/hooks/y"] {
        stage.refuses(path, &sign(BODY)).await;
        stage.takes(path, &bound(path)).await;
    }
    stage.refuses("/hooks/z", &bound("/hooks/z")).await;
    stage.takes("/hooks/z", &sign(BODY)).await;
    assert_eq!(stage.counted(crate::support::EXECUTE).await, 0);
}

#[tokio::test]
async fn the_path_is_signed_as_it_is_sent_and_the_query_is_not() {
    let stage = Stage::new(&[], &[REQUIRED]).await;
    let encoded = "/genesys/actions/%61/execute";
    stage.takes(encoded, &bound(encoded)).await;
    stage.refuses(encoded, &bound(A)).await;
    stage.refuses(A, &bound(encoded)).await;
    stage.takes(&format!("{A}?x=1.2"), &bound(A)).await;
    stage.refuses(&format!("{A}?x=1"), &bound(&format!("{A}?x=1"))).await;
    for text in [format!("post {A}.{BODY}"), format!("POST {A}{BODY}"), format!("POST{A}.{BODY}"), format!("{A}.{BODY}")] {
        stage.refuses(A, &sign(text)).await;
    }
}

#[tokio::test]
async fn the_target_stands_before_the_time_and_the_signed_headers() {
    let file = "[genesys]\nsigned_headers = ['X-Correlation-Id']\nsigned_target = 'require'";
    let (database, genesys) = (Database::new().await, Genesys::start());
    let setup = Setup::on(&database).file(file).genesys(&genesys).member("STORE", "memory");
    let service = setup.set("CXDA_SIGNING__TIMESTAMP_HEADER", "X-Timestamp").start().await;
    let time = crate::support::unix_now().to_string();
    let post = async |text: &str| {
        let signature = sign(text);
        service.post_to(A, &[(HEADER, &signature), ("X-Timestamp", &time), ("X-Correlation-Id", "k")], BODY).await
    };
    assert_eq!(post(&format!("POST {A}.{time}.k.{BODY}")).await.status, 200);
    for wrong in [format!("{time}.POST {A}.k.{BODY}"), format!("{time}.k.{BODY}"), format!("POST {A}.k.{time}.{BODY}")] {
        post(&wrong).await.problem(401, "invalid_signature");
    }
}

#[tokio::test]
async fn an_accepted_signature_without_a_target_is_counted_and_warned_of_once_a_minute() {
    let stage = Stage::new(&[hook("/hooks/x", "'accept'")], &[]).await;
    for path in [A, B, "/hooks/x"] {
        for _ in 0..3 {
            stage.takes(path, &bound(path)).await;
        }
    }
    assert_eq!((stage.counted(crate::support::EXECUTE).await, stage.counted("/hooks/x").await), (0, 0));
    for path in [A, B, "/hooks/x"] {
        for _ in 0..3 {
            stage.takes(path, &sign(BODY)).await;
        }
        stage.refuses(path, &bound("/other")).await;
    }
    assert_eq!((stage.counted(crate::support::EXECUTE).await, stage.counted("/hooks/x").await), (6, 3));
    let is_warning =
        |line: &&serde_json::Value| line["message"].as_str().is_some_and(|text| text.contains("without method and path accepted"));
    let warned = crate::support::wait_until("both routes are warned of", async || {
        let log = stage.service.log();
        let routes: Vec<_> = log.iter().filter(is_warning).map(|line| line["route"].as_str().unwrap().to_owned()).collect();
        (routes.len() >= 2).then_some(routes)
    });
    assert_eq!(warned.await, [crate::support::EXECUTE, "/hooks/x"]);
}

#[tokio::test]
async fn the_lookup_binds_its_path_where_it_is_told_to() {
    let database = Database::new().await;
    let service = Setup::on(&database).set("CXDA_SIGNING__SIGNED_TARGET", "true").start().await;
    let ping = r#"{"action":"ping","input":{"tenant_id":"acme42"}}"#;
    let post = async |text: String| service.post_to("/data-action", &[(HEADER, &sign(text))], ping).await;
    assert_eq!(post(format!("POST /data-action.{ping}")).await.status, 200);
    post(ping.to_owned()).await.problem(401, "invalid_signature");
    post(format!("POST /data-action?.{ping}")).await.problem(401, "invalid_signature");
}

/// Without this, a signature of `POST /genesys/actions/a/execute.{…}` would be one of a header and a body elsewhere.
#[tokio::test]
async fn a_bound_signature_does_not_pass_for_a_signed_header_or_a_body_of_a_route_that_binds_nothing() {
    let auth = |signed: &str| format!("{{ hmac = {{ header = '{HEADER}', secret = '{SECRET}', signed_headers = [{signed}] }} }}");
    let upstream = crate::support::Upstream::start();
    let routes = [
        Route::new("/hooks/header").set("auth", &auth("'X-Node'")).forward(&upstream),
        Route::new("/hooks/body").set("auth", &auth("")).forward(&upstream),
    ];
    let database = Database::new().await;
    let service = Setup::on(&database).webhooks(&routes).start().await;
    let (captured, target) = (bound(A), format!("POST {A}"));
    let headers = [(HEADER, &*captured), ("X-Node", &*target), ("X-Correlation-Id", "k")];
    service.post_to("/hooks/header", &headers, BODY).await.problem(401, "invalid_signature");
    let headers = [(HEADER, &*captured), ("X-Correlation-Id", "k")];
    service.post_to("/hooks/body", &headers, format!("{target}.{BODY}")).await.problem(401, "invalid_signature");
    assert_eq!(upstream.started(), 0);
    let signature = sign(format!("POST.{BODY}"));
    let headers = [(HEADER, &*signature), ("X-Node", "POST"), ("X-Correlation-Id", "k")];
    assert_eq!(service.post_to("/hooks/header", &headers, BODY).await.status, 200);
}
