//! The API's document tells what an instance mounts and what it answers, to whoever asks, without a network. That answers are
//! as it says is seen to at each request of all tests: `support::document`.

use std::collections::BTreeSet;

use reqwest::Method;
use serde_json::Value;

use crate::support::{Database, ROUTE_SECRET, Route, SECRET, Service, Setup, Tool, document, scratch_file, send, validator};

fn names(value: &Value) -> Vec<&str> {
    value.as_object().map(|members| members.keys().map(String::as_str).collect()).unwrap_or_default()
}

async fn served(service: &Service) -> Value {
    let reply = service.admin(Method::GET, "/openapi.json").await;
    assert_eq!((reply.status, reply.header("content-type")), (200, Some("application/json")));
    reply.json()
}

#[tokio::test]
async fn an_instance_tells_of_what_it_mounts_and_of_nothing_else() {
    let database = Database::new().await;
    let settings = Setup::on(&database).set("CXDA_LOOKUP__MAX_BATCH", "7").set("CXDA_SIGNING__HEADER", "X-Signed");
    let standard = Route::new("/hooks/standard").set("auth", "{ standard_webhooks = {} }").without("key");
    let fields = Route::new("/hooks/fields").set("key", r#"{ fields = ["/a/b", "/c"] }"#);
    let service = settings.webhooks(&[standard, fields]).start().await;
    let document = served(&service).await;
    let operations = ["/data-action", "/hooks/fields", "/hooks/standard", "/livez", "/metrics", "/readyz"];
    assert_eq!(names(&document["paths"]), operations);
    assert_eq!(names(&document["components"]["securitySchemes"]), ["X-Cognigy-Signature", "X-Signed", "webhook-signature"]);
    assert_eq!(document["components"]["schemas"]["CustomerIds"]["anyOf"][0]["maxItems"], 7);
    let parameters = |path: &str| {
        let parameters = document["paths"][path]["post"]["parameters"].as_array().cloned().unwrap_or_default();
        let required = parameters.into_iter().filter(|parameter| parameter["required"] == true);
        required.map(|parameter| parameter["name"].as_str().unwrap().to_owned()).collect::<Vec<_>>()
    };
    assert_eq!(parameters("/hooks/standard"), ["webhook-id", "webhook-timestamp"]);
    assert!(parameters("/hooks/fields").is_empty());
    assert!(document["paths"]["/hooks/fields"]["post"]["description"].as_str().unwrap().contains("`/a/b`, `/c`"));
}

#[tokio::test]
async fn two_ways_to_make_one_header_are_told_apart() {
    let database = Database::new().await;
    let signed = Route::new("/hooks/signed").set("auth", r#"{ hmac = { signed_headers = ["X-Correlation-Id"] } }"#);
    let routes = [Route::new("/hooks/a"), Route::new("/hooks/b"), signed];
    let document = served(&Setup::on(&database).webhooks(&routes).start().await).await;
    let text = |path: &str| {
        let name = names(&document["paths"][path]["post"]["security"][0])[0];
        document["components"]["securitySchemes"][name]["description"].as_str().unwrap().to_owned()
    };
    assert_eq!(text("/hooks/a"), text("/hooks/b"));
    assert!(text("/hooks/a").contains("`{body}`") && text("/hooks/signed").contains("`{X-Correlation-Id}.{body}`"));
}

#[tokio::test]
async fn a_key_that_can_be_sent_is_told_of_where_there_is_one() {
    let database = Database::new().await;
    let service = Setup::on(&database).set("CXDA_SIGNING__API_KEY", "an-api-key-of-the-tests-at-least-32-bytes-long").start().await;
    assert_eq!(names(&served(&service).await["components"]["securitySchemes"]), ["Bearer", "X-API-Key", "X-CXone-Signature"]);
}

#[tokio::test]
async fn the_document_holds_no_secret_and_says_nothing_of_what_is_behind() {
    let database = Database::new().await;
    let route = Route::new("/hooks/forward").forward_to("http://user:hidden@inside.example:81/path", "1s");
    let service = Setup::on(&database).webhooks(&[route]).start().await;
    let text = served(&service).await.to_string();
    for inside in [ROUTE_SECRET, SECRET, "hidden", "inside.example", &database.url] {
        assert!(!text.contains(inside), "{inside}");
    }
}

#[tokio::test]
async fn what_a_settings_file_mounts_is_exported_and_not_the_examples() {
    let file = scratch_file(Route::new("/hooks/mine").toml());
    let tool = Tool::new(&["export", "openapi", "--url", "https://x.example/base", "--config", file.to_str().unwrap()]);
    let exported: Value = serde_json::from_str(&tool.run().await.stdout).unwrap();
    let webhooks: Vec<_> = names(&exported["paths"]).into_iter().filter(|path| path.contains("hooks")).collect();
    assert_eq!(webhooks, ["/hooks/mine"]);
    assert_eq!(exported["servers"][0]["url"], "https://x.example/base");
}

#[tokio::test]
async fn the_page_is_whole_without_a_network() {
    let database = Database::new().await;
    let service = Setup::on(&database).start().await;
    let page = service.admin(Method::GET, "/docs/").await;
    assert_eq!((page.status, page.header("content-type")), (200, Some("text/html; charset=utf-8")));
    let page = page.text();
    let parts: Vec<_> = ["src=\"", "href=\""].iter().flat_map(|before| page.split(before).skip(1)).collect();
    assert!(parts.len() > 4, "{page}");
    for part in parts {
        let part = part.split('"').next().unwrap();
        let reply = service.admin(Method::GET, &format!("/docs/{part}")).await;
        assert!(reply.status == 200 && reply.body.len() > 100, "{part}: {}", reply.status);
    }
    let settings = service.admin(Method::GET, "/docs/swagger-initializer.js").await.text();
    for text in [page, settings] {
        assert!(!text.contains("://") && !text.contains("\"//"), "{text}");
    }
}

#[tokio::test]
async fn a_browser_is_told_to_fetch_nothing_from_elsewhere() {
    let database = Database::new().await;
    let service = Setup::on(&database).start().await;
    for path in ["/docs/", "/docs/swagger-ui-bundle.js"] {
        let reply = service.admin(Method::GET, path).await;
        let policy = reply.header("content-security-policy").unwrap_or_default();
        assert!(policy.starts_with("default-src 'none'; script-src 'self';"), "{path}: {policy}");
        assert!(!policy.contains("http") && !policy.contains('*'), "{path}: {policy}");
    }
}

#[tokio::test]
async fn the_page_is_found_by_its_bare_name_and_nothing_beside_it() {
    let database = Database::new().await;
    let service = Setup::on(&database).start().await;
    assert!(service.admin(Method::GET, "/docs").await.text().contains("openapi.json"), "led on to the page");
    for path in ["/docs/nothing.js", "/docs/../Cargo.toml", "/docs/%2e%2e/%2e%2e/etc/passwd"] {
        service.admin(Method::GET, path).await.problem(404, "not_found");
    }
    let posted = service.admin(Method::POST, "/docs/").await;
    posted.problem(405, "method_not_allowed");
    for path in ["/docs/", "/openapi.json"] {
        send(service.call(Method::GET, path)).await.problem(404, "not_found");
    }
}

#[test]
fn every_example_is_what_it_is_an_example_of() {
    for (path, item) in document()["paths"].as_object().unwrap() {
        for (status, response) in item["post"]["responses"].as_object().into_iter().flatten() {
            let content = &response["content"]["application/json"];
            for example in content["examples"].as_object().into_iter().flatten().map(|(_, example)| &example["value"]) {
                assert!(validator(&content["schema"]).is_valid(example), "{path} {status}: {example}");
            }
        }
    }
    for (code, example) in document()["components"]["examples"].as_object().unwrap() {
        let problem = document()["components"]["schemas"]["Problem"].clone();
        assert!(validator(&problem).is_valid(&example["value"]) && example["value"]["code"] == **code, "{example}");
    }
}

#[test]
fn the_codes_are_those_of_the_readme() {
    let readme = include_str!("../../README.md");
    let rows = readme.lines().skip_while(|line| *line != "| status | code | |").skip(2).take_while(|line| line.starts_with('|'));
    let codes = rows.flat_map(|row| row.split('|').nth(2).unwrap_or_default().split('`').skip(1).step_by(2));
    let told = document()["components"]["schemas"]["Problem"]["properties"]["code"]["enum"].as_array().unwrap();
    assert_eq!(told.iter().filter_map(Value::as_str).collect::<BTreeSet<_>>(), codes.collect());
}
