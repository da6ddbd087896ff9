//! What was done to a body, or to a secret, on the signer's side.

use base64::Engine as _;
use serde_json::Value;

use super::{BASE64, BODY, HEX, NEXT, Stage, WRONG, sent};
use crate::support::{SECRET, sign, sign_with};

fn value() -> Value {
    serde_json::from_str(BODY).unwrap()
}

/// Indented, with the members in their order.
fn indented(blanks: &str) -> String {
    let lines = [
        "{",
        "\t\"input\": {",
        "\t\t\"tenant_id\": \"acme42\",",
        "\t\t\"customer_ids\": [",
        "\t\t\t\"6f1c0000-0000-4000-8000-000000000001\"",
        "\t\t]",
        "\t},",
        "\t\"action\": \"process_customer_batch\",",
        "\t\"context\": {",
        "\t\t\"contactId\": \"Zoë & Jürgen\"",
        "\t}",
        "}",
    ];
    let indented = lines.join("\n").replace('\t', blanks);
    assert_eq!(serde_json::from_str::<Value>(&indented).unwrap(), value());
    indented
}

fn latin1(text: &str) -> Vec<u8> {
    text.chars().map(|letter| u8::try_from(letter).unwrap()).collect()
}

#[tokio::test]
async fn newlines_and_line_ends_that_come_or_go() {
    let mut stage = Stage::new(&[]).await;
    stage.both_say("trailing_newline", &[], sent(sign(BODY), format!("{BODY}\n"))).await;
    stage.both_say("trailing_newline", &[], sent(sign(BODY), format!("{BODY}\r\n"))).await;
    stage.both_say("newline_lost", &[], sent(sign(format!("{BODY}\n")), BODY)).await;
    stage.both_say("newline_lost", &[], sent(sign(format!("{BODY}\r\n")), BODY)).await;
    let (unix, windows) = (indented("  "), indented("  ").replace('\n', "\r\n"));
    stage.both_say("line_ends", &[], sent(sign(&windows), unix.as_str())).await;
    stage.both_say("line_ends", &[], sent(sign(&unix), windows)).await;
}

#[tokio::test]
async fn a_body_that_was_serialised_again() {
    let mut stage = Stage::new(&[]).await;
    let spaced = BODY.replace("\":", "\": ").replace("\",\"", "\", \"").replace("},\"", "}, \"");
    assert_eq!(serde_json::from_str::<Value>(&spaced).unwrap(), value());
    let escape = |text: &str| text.replace('ë', "\\u00eb").replace('ü', "\\u00fc");
    let sorted = r#"{"action":"process_customer_batch","context":{"contactId":"Zoë & Jürgen"},"input":{"customer_ids":["6f1c0000-0000-4000-8000-000000000001"],"tenant_id":"acme42"}}"#;
    let signed = [indented("  "), indented("    "), indented("\t"), spaced.clone(), escape(&spaced), escape(BODY), sorted.to_owned()];
    for signed in &signed {
        stage.both_say("reserialized", &[], sent(sign(signed), BODY)).await;
    }
    for changed in &signed[..6] {
        stage.both_say("reserialized", &[], sent(sign(BODY), changed.as_str())).await;
    }
}

#[tokio::test]
async fn a_body_in_another_character_set_and_none_at_all() {
    let mut stage = Stage::new(&[]).await;
    let utf16 = |bytes: fn(u16) -> [u8; 2]| BODY.encode_utf16().flat_map(bytes).collect::<Vec<_>>();
    stage.both_say("utf16", &[], sent(sign(utf16(u16::to_le_bytes)), BODY)).await;
    stage.both_say("utf16", &[], sent(sign(utf16(u16::to_be_bytes)), BODY)).await;
    stage.both_say("latin1", &[], sent(sign(latin1(BODY)), BODY)).await;
    stage.both_say("latin1", &[], sent(sign(BODY), latin1(BODY))).await;
    stage.both_say("byte_order_mark", &[], sent(sign(format!("\u{feff}{BODY}")), BODY)).await;
    stage.both_say("byte_order_mark", &[], sent(sign(BODY), format!("\u{feff}{BODY}"))).await;
    stage.both_say("empty_body", &[], sent(sign(""), BODY)).await;
}

#[tokio::test]
async fn a_body_that_was_form_encoded_on_its_way() {
    let mut stage = Stage::new(&[]).await;
    let escaped: String =
        BODY.bytes().map(|byte| if byte.is_ascii_alphanumeric() { char::from(byte).to_string() } else { format!("%{byte:02X}") }).collect();
    for sent_as in [
        escaped.clone(),
        format!("payload={escaped}"),
        format!("payload={}", escaped.replace("%20", "+")),
        format!("payload={BODY}"),
        format!("{escaped}="),
    ] {
        stage.both_say("form_encoded", &[], sent(sign(BODY), sent_as)).await;
    }
}

#[tokio::test]
async fn a_secret_that_was_read_otherwise() {
    let mut stage = Stage::new(&[]).await;
    let bytes = base64::engine::general_purpose::STANDARD.decode(BASE64).unwrap();
    let cases = [
        ("secret_newline", sign_with(format!("{SECRET}\n"), BODY)),
        ("secret_newline", sign_with(format!("{NEXT}\r\n"), BODY)),
        ("secret_blanks", sign_with(format!(" {SECRET}"), BODY)),
        ("secret_blanks", sign_with(format!("{SECRET} "), BODY)),
        ("secret_blanks", sign_with(format!("\"{SECRET}\""), BODY)),
        ("secret_hex", sign_with(hex::decode(HEX).unwrap(), BODY)),
        ("secret_base64", sign_with(bytes, BODY)),
        ("wrong_secret", sign_with(WRONG, BODY)),
        ("wrong_secret", sign("quite another body")),
    ];
    for (code, signature) in cases {
        stage.both_say(code, &[], sent(signature, BODY)).await;
    }
}

#[tokio::test]
async fn a_body_that_is_no_json_and_a_hostile_one_are_only_a_wrong_secret() {
    let mut stage = Stage::new(&[]).await;
    let nested = "[".repeat(8000) + &"]".repeat(8000);
    let wide = "[".repeat(120) + &vec!["0"; 3000].join(",") + &"]".repeat(120);
    for body in ["", "not json", "%", "=", "%zz=%", "\u{0}", nested.as_str(), wide.as_str()] {
        stage.both_say("wrong_secret", &[], sent(sign_with(WRONG, body), body)).await;
    }
    stage.both_say("wrong_secret", &[], sent(sign_with(WRONG, [0xff, 0xfe]), [0xff, 0xfe])).await;
}
