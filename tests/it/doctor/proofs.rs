//! Which key it was, and whether anything was shown at all.

use super::{API_KEY, BODY, ENDED, ENDED_API_KEY, NEXT, SECRET, Stage, WRONG, sent};
use crate::support::{sign, sign_with};

const KEY_ID: &str = "X-CXone-Key-Id";

#[tokio::test]
async fn a_key_that_has_ended_or_is_not_the_one_named() {
    let mut stage = Stage::new(&[]).await;
    stage.both_say("expired_key", &[], sent(sign_with(ENDED, BODY), BODY)).await;
    stage.both_say("other_key", &["--key-id", "main"], sent(sign_with(NEXT, BODY), BODY).with(KEY_ID, "main")).await;
    stage.both_say("other_key", &["--key-id", "nobody"], sent(sign_with(NEXT, BODY), BODY).with(KEY_ID, "nobody")).await;
    stage.both_say("unknown_key_id", &["--key-id", "nobody"], sent(sign_with(WRONG, BODY), BODY).with(KEY_ID, "nobody")).await;
    let printed = stage.verified(&[], &sent(sign_with(NEXT, format!("{BODY}\n")), BODY)).await;
    assert!(printed.contains("\"next\""), "it names the key: {printed}");
}

#[tokio::test]
async fn nothing_shown_or_too_much() {
    let mut stage = Stage::new(&[]).await;
    let twice = sent(sign(BODY), BODY).with("X-CXone-Signature", sign(BODY));
    let cases = [
        ("no_signature", "", sent("", BODY)),
        ("header_twice", "X-CXone-Signature", twice),
        ("header_twice", "X-API-Key", sent(API_KEY, BODY).with("Authorization", format!("Bearer {API_KEY}"))),
        ("header_twice", "X-CXone-Signature", sent(sign(BODY), BODY).with(KEY_ID, "main").with(KEY_ID, "main")),
        ("wrong_api_key", "X-API-Key", sent(API_KEY.to_uppercase(), BODY)),
        ("wrong_api_key", "Authorization", sent("Bearer wrong", BODY)),
        ("quotes", "X-API-Key", sent(format!("\"{API_KEY}\""), BODY)),
        ("secret_as_api_key", "X-API-Key", sent(SECRET, BODY)),
        ("secret_as_api_key", "Authorization", sent(format!("Bearer {NEXT}"), BODY)),
        ("expired_key", "X-API-Key", sent(ENDED_API_KEY, BODY)),
        ("other_key", "X-API-Key", sent(API_KEY, BODY).with(KEY_ID, "next")),
        ("unknown_key_id", "X-API-Key", sent("wrong", BODY).with(KEY_ID, "nobody")),
    ];
    for (code, header, request) in cases {
        assert_eq!(stage.logged("/data-action", header, &request).await, code, "{header}");
    }
}

#[tokio::test]
async fn an_api_key_where_none_is_set() {
    let file = crate::support::scratch_file("");
    let mut stage = Stage::with_file(file, &[("CXDA_SIGNING__SECRET", SECRET)]).await;
    for (header, value) in [("X-API-Key", API_KEY), ("Authorization", "Bearer x")] {
        assert_eq!(stage.logged("/data-action", header, &sent(value, BODY)).await, "api_keys_off");
    }
}
