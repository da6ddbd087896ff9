//! The API's document as it is committed, and what every answer must be by it.

use std::collections::BTreeMap;
use std::sync::LazyLock;

use jsonschema::Validator;
use reqwest::Method;
use serde_json::{Value, json};

use super::Reply;

static DOCUMENT: LazyLock<Value> =
    LazyLock::new(|| serde_json::from_str(include_str!("../../../docs/registration/openapi.json")).expect("JSON"));

/// By path, status and content type.
static BODIES: LazyLock<BTreeMap<(String, String, String), Validator>> = LazyLock::new(|| {
    let mut bodies = BTreeMap::new();
    for (path, operation) in operations() {
        for (status, response) in members(&operation["responses"]) {
            for (content_type, content) in members(&response["content"]) {
                bodies.insert((path.clone(), status.clone(), content_type.clone()), validator(&content["schema"]));
            }
        }
    }
    bodies
});

/// Headers that are on an answer only where the document says so.
const OWN_HEADERS: [&str; 7] =
    ["Accept-Encoding", "Allow", "Idempotent-Replayed", "Retry-After", "WWW-Authenticate", "X-Cache", "X-Request-Id"];

/// The committed document.
pub(crate) fn document() -> &'static Value {
    &DOCUMENT
}

/// Holds an answer of a route that the document tells of to what it tells.
pub(crate) fn hold(method: &Method, path: &str, reply: &Reply) {
    let Some((template, operation)) = operations().find(|(template, _)| matches(template, path)) else { return };
    let is_elsewhere = reply.status == 404 && !path.starts_with("/genesys/");
    if is_elsewhere {
        return; // on the other listener
    }
    let what = format!("{method} {path}: {} {}", reply.status, reply.text());
    let responses = &operation["responses"];
    let status = reply.status.to_string();
    let status = if responses[&status].is_null() { "default".to_owned() } else { status };
    let response = &responses[&status];
    assert!(response.is_object(), "an answer that is not told of: {what}");
    let is_own = reply.header("content-type") == Some("application/problem+json");
    let needed = if is_own { &["Accept-Encoding", "Allow", "WWW-Authenticate", "X-Request-Id"][..] } else { &["X-Request-Id"] };
    for name in OWN_HEADERS {
        match (reply.header(name), &response["headers"][name]) {
            (Some(value), told) => assert!(header(told).is_valid(&typed(told, value)), "{name} {value} is not told of: {what}"),
            (None, told) => assert!(told.is_null() || !needed.contains(&name), "no {name}: {what}"),
        }
    }
    if *method != Method::HEAD && !reply.body.is_empty() {
        let content_type = reply.header("content-type").unwrap_or_default().split(';').next().unwrap_or_default();
        let of = |content_type: &str| BODIES.get(&(template.clone(), status.clone(), content_type.to_owned()));
        let body = of(content_type).or_else(|| of("*/*")).unwrap_or_else(|| panic!("a content type that is not told of: {what}"));
        let value =
            if content_type.ends_with("json") { serde_json::from_slice(&reply.body).unwrap_or_default() } else { json!(reply.text()) };
        if let Err(error) = body.validate(&value) {
            panic!("{error} at {}: {what}", error.instance_path());
        }
    }
}

fn operations() -> impl Iterator<Item = (String, &'static Value)> {
    members(&DOCUMENT["paths"]).map(|(path, item)| (path.clone(), if item["post"].is_null() { &item["get"] } else { &item["post"] }))
}

fn members(value: &'static Value) -> impl Iterator<Item = (&'static String, &'static Value)> {
    value.as_object().into_iter().flatten()
}

fn matches(template: &str, path: &str) -> bool {
    let (template, path): (Vec<_>, Vec<_>) = (template.split('/').collect(), path.split('/').collect());
    template.len() == path.len() && template.iter().zip(path).all(|(told, name)| told.starts_with('{') || *told == name)
}

/// With the components that it may refer to, and nothing in an answer of ours that is not told of.
pub(crate) fn validator(schema: &Value) -> Validator {
    let mut components = DOCUMENT["components"]["schemas"].clone();
    for name in ["LookupAnswer", "PingAnswer", "Liveness", "Readiness", "Checks"] {
        close(&mut components[name]);
    }
    let whole = json!({ "allOf": [schema], "components": { "schemas": components } });
    jsonschema::options().should_validate_formats(true).build(&whole).expect("a schema")
}

fn close(schema: &mut Value) {
    if schema["properties"].is_object() {
        schema["additionalProperties"] = false.into();
    }
    for below in schema.as_object_mut().into_iter().flatten().map(|(_, below)| below).filter(|below| below.is_object()) {
        close(below);
    }
}

fn header(told: &Value) -> Validator {
    let reference = told["$ref"].as_str().map(|reference| reference.trim_start_matches('#'));
    let told = reference.map_or(told, |reference| DOCUMENT.pointer(reference).expect("a component"));
    validator(if told.is_null() { &Value::Bool(false) } else { &told["schema"] })
}

/// A header's value in the type that is told of.
fn typed(told: &Value, value: &str) -> Value {
    let number = value.parse::<u64>().ok().filter(|_| told["schema"]["type"] == "integer");
    number.map_or_else(|| json!(value), |number| json!(number))
}
