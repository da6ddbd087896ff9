//! What the commands sign is taken where the path is bound.

use super::*;
use crate::support::{Tool, scratch_file};

const ROUTES: [&str; 2] = ["/hooks/x", A];

/// Settings of a service whose every route binds its path, and of the commands beside it.
fn settings(genesys: &Genesys) -> std::path::PathBuf {
    let auth = format!("{{ hmac = {{ header = '{HEADER}', signed_headers = ['X-Correlation-Id'], signed_target = true }} }}");
    let member = |name: &str, value: &str| format!("{name} = {value:?}\n");
    let api = [
        member("base_url", &genesys.url()),
        member("login_url", &format!("http://127.0.0.1:{}/oauth/token", genesys.login.port)),
        member("client_id", crate::support::GENESYS_ID),
        member("client_secret", crate::support::GENESYS_SECRET),
        member("signed_target", "require"),
        member("store", "memory"),
    ];
    let routes = settings_file(&[Route::new("/hooks/x").set("auth", &auth)]);
    scratch_file(format!("[signing]\nsecret = '{SECRET}'\nsigned_target = true\n[genesys]\nallow_http = true\n{}\n{routes}", api.concat()))
}

#[tokio::test]
async fn sign_send_and_simulate_sign_what_the_route_wants() {
    let (database, genesys) = (Database::new().await, Genesys::start());
    let file = settings(&genesys);
    let file = file.to_str().unwrap();
    let service = Setup::bare().set("DATABASE_URL", &database.url).set("CXDA_CONFIG", file).start().await;
    let tool = |args: &[&str]| Tool::new(args).set("CXDA_CONFIG", file);
    for path in ROUTES {
        let signed = tool(&["sign", "--route", path, "--header", "x-correlation-id: k"]).input(BODY).run().await;
        assert_eq!(signed.code, Some(0), "{}", signed.printed());
        let reply = service.post_to(path, &[(HEADER, &signed.stdout), ("X-Correlation-Id", "k")], BODY).await;
        assert_eq!(reply.status, 200, "{path}: {}", reply.text());
        let url = format!("{}{path}", service.url);
        let sent = tool(&["send", "--url", &url, "--header", "X-Correlation-Id: k"]).input(BODY).run().await;
        assert_eq!(sent.code, Some(0), "{path}: {}", sent.printed());
    }
    let sent = tool(&[
        "send",
        "--url",
        &format!("{}/data-action", service.url),
        "--tenant",
        "acme42",
        "--ids",
        "6f1c0000-0000-4000-8000-000000000001",
    ])
    .run()
    .await;
    assert_eq!(sent.code, Some(0), "{}", sent.printed());
    let id = database.customer("acme42", "Ann").await.to_string();
    let args = ["simulate", "cognigy", "--url", &service.url, "--tenant", "acme42", "--customer-id", &id, "--webhook-path", "/hooks/x"];
    let played = tool(&args).run().await;
    assert_eq!(played.code, Some(0), "{}", played.printed());
}

#[tokio::test]
async fn sign_refuses_a_route_that_is_not_there_and_a_dot_in_a_header() {
    let genesys = Genesys::start();
    let file = settings(&genesys);
    let tool = |args: &[&str]| Tool::new(args).set("CXDA_CONFIG", file.to_str().unwrap()).input(BODY);
    let nowhere = tool(&["sign", "--route", "/nowhere"]).run().await;
    assert!(nowhere.code == Some(1) && nowhere.stderr.contains("/nowhere"), "{}", nowhere.printed());
    let dotted = tool(&["sign", "--route", "/hooks/x", "--header", "X-Correlation-Id: a.b"]).run().await;
    assert!(dotted.code == Some(1) && dotted.stderr.contains("holds a dot"), "{}", dotted.printed());
}
