//! How a signature was spelled.

use base64::Engine as _;
use base64::engine::general_purpose::{STANDARD, STANDARD_NO_PAD, URL_SAFE};

use super::{API_KEY, BODY, HEX, Stage, sent};
use crate::support::{SECRET, hmac, sign};

fn tag() -> [u8; 32] {
    hmac(SECRET, BODY.as_bytes())
}

#[tokio::test]
async fn spelled_otherwise_than_in_hex() {
    let mut stage = Stage::new(&[]).await;
    let hex = sign(BODY);
    let cases = [
        ("base64_for_hex", STANDARD.encode(tag())),
        ("base64_for_hex", format!("sha256={}", STANDARD.encode(tag()))),
        ("base64url", STANDARD_NO_PAD.encode(tag())),
        ("base64url", URL_SAFE.encode([0xff; 32])),
        ("encoded_twice", STANDARD.encode(&hex)),
        ("truncated", hex[..63].to_owned()),
        ("truncated", hex[..62].to_owned()),
        ("truncated", hex[..40].to_owned()),
        ("truncated", hex[..32].to_owned()),
        ("truncated", "abcd".to_owned()),
        ("other_hash", "0".repeat(40)),
        ("other_hash", format!("sha1={}", "0".repeat(40))),
        ("other_hash", "0".repeat(128)),
        ("prefix", format!("sha1={hex}")),
        ("prefix", format!("SHA256={hex}")),
        ("prefix", format!("v1={hex}")),
        ("prefix", format!("v1,{}", STANDARD.encode(tag()))),
        ("prefix", format!("hmac {hex}")),
        ("prefix", format!("HMAC-SHA256:{hex}")),
        ("prefix", format!("t=1700000000,v1={hex}")),
        ("prefix", format!("0x{hex}")),
        ("quotes", format!("\"{hex}\"")),
        ("quotes", format!("'{hex}'")),
        ("secret_as_signature", SECRET.to_owned()),
        ("secret_as_signature", HEX.to_owned()),
        ("secret_as_signature", API_KEY.to_owned()),
        ("malformed", String::new()),
        ("malformed", "no signature at all!".to_owned()),
        ("malformed", format!("{hex}00")),
    ];
    for (code, signature) in cases {
        stage.both_say(code, &[], sent(signature, BODY)).await;
    }
}

#[tokio::test]
async fn blanks_reach_verify_alone() {
    let stage = Stage::new(&[]).await;
    for signature in [format!("{}\n", sign(BODY)), format!(" {}", sign(BODY))] {
        let printed = stage.verified(&[], &sent(signature, BODY)).await;
        assert!(printed.contains("(reason: blanks)"), "{printed}");
    }
    let printed = stage.verified(&[], &sent("äöü", BODY)).await;
    assert!(printed.contains("(reason: malformed)"), "{printed}");
}

#[tokio::test]
async fn spelled_otherwise_than_in_base64() {
    let mut stage = Stage::new(&[("CXDA_SIGNING__ENCODING", "base64")]).await;
    let url_safe = URL_SAFE.encode([0xff; 32]);
    let cases = [
        ("hex_for_base64", sign(BODY)),
        ("hex_for_base64", format!("sha256={}", sign(BODY))),
        ("base64url", STANDARD_NO_PAD.encode(tag())),
        ("base64url", url_safe),
        ("prefix", format!("v1,{}", STANDARD.encode(tag()))),
        ("truncated", STANDARD.encode(&tag()[..20])),
        ("wrong_secret", STANDARD.encode([7; 32])),
    ];
    for (code, signature) in cases {
        stage.both_say(code, &[], sent(signature, BODY)).await;
    }
}
