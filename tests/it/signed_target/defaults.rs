//! Where nothing is set: what executes accepts both, and everything else binds nothing.

use super::*;

fn executing(path: &str, auth: &str) -> Route {
    Route::new(path).set("auth", auth).set("action", &format!("{{ genesys = {{ action_id = '{ACTION}' }} }}"))
}

#[tokio::test]
async fn what_executes_accepts_both_and_the_rest_binds_nothing() {
    let signed = format!("{{ hmac = {{ header = '{HEADER}' }} }}");
    let own = format!("{{ hmac = {{ header = '{HEADER}', secret = '{ROUTE_SECRET}' }} }}");
    let routes = [executing("/hooks/execute", &signed), executing("/hooks/own", &own), Route::new("/hooks/echo").set("auth", &signed)];
    let stage = Stage::new(&routes, &[]).await;
    for path in [A, "/hooks/execute"] {
        stage.takes(path, &bound(path)).await;
        stage.takes(path, &sign(BODY)).await;
        stage.refuses(path, &bound(B)).await;
    }
    stage.takes("/hooks/own", &sign_with(ROUTE_SECRET, format!("POST /hooks/own.{BODY}"))).await;
    stage.takes("/hooks/own", &sign_with(ROUTE_SECRET, BODY)).await;
    stage.takes("/hooks/echo", &sign(BODY)).await;
    stage.refuses("/hooks/echo", &bound("/hooks/echo")).await;
    stage.refuses("/data-action", &bound("/data-action")).await;
}

#[tokio::test]
async fn the_document_tells_what_is_signed() {
    let stage = Stage::new(&[hook("/hooks/x", "'require'"), hook("/hooks/y", "'off'")], &[]).await;
    let document = stage.service.admin(reqwest::Method::GET, "/openapi.json").await.json();
    let told = |path: &str| {
        let required = document["paths"][path]["post"]["security"][0].as_object().unwrap();
        let scheme = required.keys().next().unwrap();
        document["components"]["securitySchemes"][scheme]["description"].as_str().unwrap().to_owned()
    };
    let (execute, x, y) = (told(crate::support::EXECUTE), told("/hooks/x"), told("/hooks/y"));
    assert!(execute.contains("`POST {path}.{body}`") && execute.contains("Without `POST {path}.`"), "{execute}");
    assert!(x.contains("`POST {path}.{body}`") && !x.contains("Without"), "{x}");
    assert!(y.contains("of `{body}`"), "{y}");
}
