//! What a signature covers beside the body: a time, headers, an id.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;

use super::{BODY, Stage, keys_file, sent};
use crate::support::{ROUTE_SECRET, Route, SECRET, hmac, settings_file, sign, sign_with, standard_signature, unix_now};

const STAMP: &str = "X-Timestamp";

#[tokio::test]
async fn a_time_that_is_off_or_in_another_unit() {
    let mut stage = Stage::new(&[("CXDA_SIGNING__TIMESTAMP_HEADER", STAMP)]).await;
    let now = unix_now();
    let (seconds, millis) = (now.to_string(), format!("{now}000"));
    let cases = [
        ("clock", (now - 3600).to_string(), (now - 3600).to_string()),
        ("clock", "0".to_owned(), "0".to_owned()),
        ("milliseconds", millis.clone(), millis.clone()),
        ("milliseconds", millis.clone(), seconds.clone()),
        ("milliseconds", seconds.clone(), millis),
        ("timestamp_malformed", "yesterday".to_owned(), "yesterday".to_owned()),
    ];
    for (code, header, signed) in cases {
        let request = sent(sign(format!("{signed}.{BODY}")), BODY).with(STAMP, &header);
        stage.both_say(code, &["--timestamp", &header], request).await;
    }
    let texts = [
        ("body_alone", BODY.to_owned()),
        ("joined_otherwise", format!("{seconds}{BODY}")),
        ("joined_otherwise", format!("{seconds}:{BODY}")),
        ("joined_otherwise", format!("{seconds}\n{BODY}")),
        ("joined_otherwise", format!("{BODY}.{seconds}")),
        ("trailing_newline", format!("{seconds}.{}", &BODY[..BODY.len() - 1])),
    ];
    for (code, signed) in texts {
        let body = if code == "trailing_newline" { format!("{}\n", &BODY[..BODY.len() - 1]) } else { BODY.to_owned() };
        stage.both_say(code, &["--timestamp", &seconds], sent(sign(signed), body).with(STAMP, &seconds)).await;
    }
    let unstamped = sent(sign(BODY), BODY);
    assert_eq!(stage.logged("/data-action", "X-CXone-Signature", &unstamped).await, "no_timestamp");
    let printed = stage.verified(&[], &unstamped).await;
    assert!(printed.contains("--timestamp"), "{printed}");
}

#[tokio::test]
async fn headers_that_a_route_wants_signed() {
    let auth = format!("{{ hmac = {{ secret = '{ROUTE_SECRET}', signed_headers = ['X-Correlation-Id'] }} }}");
    let file = keys_file(&settings_file(&[Route::new("/webhooks/dialog").set("auth", &auth)]));
    let mut stage = Stage::with_file(file, &[]).await;
    let args = ["--route", "/webhooks/dialog", "--header", "X-Correlation-Id: 42"];
    let cases = [
        ("body_alone", sign_with(ROUTE_SECRET, BODY)),
        ("joined_otherwise", sign_with(ROUTE_SECRET, format!("42:{BODY}"))),
        ("secret_newline", sign_with(format!("{ROUTE_SECRET}\n"), format!("42.{BODY}"))),
        ("newline_lost", sign_with(ROUTE_SECRET, format!("42.{BODY}\n"))),
        ("wrong_secret", sign_with(SECRET, format!("42.{BODY}"))),
    ];
    for (code, signature) in cases {
        let request = sent(signature, BODY).with("X-Correlation-Id", "42");
        assert_eq!(stage.logged("/webhooks/dialog", "X-Cognigy-Signature", &request).await, code);
        let printed = stage.verified(&args, &request).await;
        assert!(printed.contains(&format!("(reason: {code})")), "{code}: {printed}");
    }
    let dotted = sent(sign_with(ROUTE_SECRET, format!("4.2.{BODY}")), BODY).with("X-Correlation-Id", "4.2");
    assert_eq!(stage.logged("/webhooks/dialog", "X-Cognigy-Signature", &dotted).await, "dot_in_header");
    let printed = stage.verified(&["--route", "/nowhere"], &sent(sign(BODY), BODY)).await;
    assert!(printed.contains("/nowhere"), "{printed}");
}

#[tokio::test]
async fn a_standard_webhook() {
    const SPELLED: &str = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw";
    let auth = format!("{{ standard_webhooks = {{ secret = '{SPELLED}' }} }}");
    let file = keys_file(&settings_file(&[Route::new("/webhooks/standard").set("auth", &auth)]));
    let mut stage = Stage::with_file(file, &[]).await;
    let (now, bytes) = (unix_now().to_string(), STANDARD.decode(&SPELLED[6..]).unwrap());
    let long_ago = "1614265330".to_owned();
    let untagged = STANDARD.encode(hmac(&bytes, format!("msg_1.{now}.{BODY}").as_bytes()));
    let cases = [
        ("secret_not_decoded", &now, standard_signature(SPELLED.as_bytes(), "msg_1", &now, BODY)),
        ("secret_not_decoded", &now, standard_signature(&SPELLED.as_bytes()[6..], "msg_1", &now, BODY)),
        ("clock", &long_ago, standard_signature(&bytes, "msg_1", &long_ago, BODY)),
        ("wrong_secret", &now, standard_signature(b"another", "msg_1", &now, BODY)),
        ("prefix", &now, format!("v1={untagged}")),
    ];
    for (code, stamp, signature) in cases {
        let request = sent(signature, BODY).with("webhook-id", "msg_1").with("webhook-timestamp", stamp);
        assert_eq!(stage.logged("/webhooks/standard", "webhook-signature", &request).await, code);
        let args = ["--route", "/webhooks/standard", "--header", "webhook-id: msg_1", "--timestamp", stamp];
        let printed = stage.verified(&args, &request).await;
        assert!(printed.contains(&format!("(reason: {code})")), "{code}: {printed}");
    }
}
