//! The data action's bounds and answers, for the API's document.

use serde_json::{Value, json};
use utoipa::openapi::schema::{
    AdditionalProperties, AllOfBuilder, AnyOfBuilder, ArrayBuilder, Object, ObjectBuilder, Schema, SchemaType, Type,
};
use utoipa::openapi::{KnownFormat, Ref, RefOr, SchemaFormat};

use super::body::{MAX_CONTACT_ID, MAX_CONTEXT};
use crate::domain::TenantId;
use crate::domain::data_action::{
    ATTRIBUTES, CONTACT_ID, CUSTOMER_IDS as CUSTOMER_IDS_MEMBER, LOOKUP, LOOKUP_OUTPUT, Member, PING, PING_OUTPUT, Shape,
};

/// Components by name.
pub(in crate::http) const CUSTOMER_IDS: &str = "CustomerIds";
pub(in crate::http) const LOOKUP_ANSWER: &str = "LookupAnswer";
pub(in crate::http) const PING_ANSWER: &str = "PingAnswer";

pub(super) fn action() -> Object {
    text().enum_values(Some([LOOKUP, PING])).build()
}

pub(super) fn tenant() -> Object {
    let bounded = text().min_length(Some(1)).max_length(Some(TenantId::MAX_LEN)).pattern(Some("^[A-Za-z0-9]+$"));
    bounded.description(Some("The key must be allowed for it.")).examples(["acme42"]).build()
}

pub(super) fn ids() -> RefOr<Schema> {
    Ref::from_schema_name(CUSTOMER_IDS).into()
}

/// At most so many.
pub(in crate::http) fn customer_ids(max: usize) -> Schema {
    let id = uuid().description(Some("Any UUID but the nil one; also without hyphens, in braces, or as a URN."));
    let list = ArrayBuilder::new().items(id).min_items(Some(1)).max_items(Some(max));
    // A comma too many is what a template leaves where an input was empty.
    let id_text = "([0-9A-Fa-f]{32}|[0-9A-Fa-f]{8}(-[0-9A-Fa-f]{4}){3}-[0-9A-Fa-f]{12})";
    let pattern = format!("^[ ,]*{id_text}( *,[ ,]*{id_text})*[ ,]*$");
    let one_text = text().pattern(Some(pattern)).description(Some("The same as one string, with commas between the ids."));
    let nothing = ObjectBuilder::new().schema_type(Type::Null);
    let description = format!("1 to {max} customers, each counted once however often it is named. A {PING} may do without.");
    AnyOfBuilder::new().item(list).item(one_text).item(nothing).description(Some(description)).build().into()
}

pub(super) fn context() -> Object {
    let contact = scalar()
        .description(Some("Goes into the audit row. At most as long in bytes, and without control characters."))
        .max_length(Some(MAX_CONTACT_ID))
        .pattern(Some(r"^[^\x00-\x1f\x7f-\x9f]*$"))
        .examples(["123456"]);
    ObjectBuilder::new()
        .schema_type(SchemaType::from_iter([Type::Object, Type::Null]))
        .description(Some("What the platform tells beside the input. A number or a boolean is taken as text."))
        .property(CONTACT_ID, contact)
        .additional_properties(Some(AdditionalProperties::RefOr(scalar().into())))
        .max_properties(Some(MAX_CONTEXT))
        .build()
}

/// A request that is no ping.
pub(in crate::http) fn lookup_request() -> Schema {
    let action = text().enum_values(Some([LOOKUP]));
    let no_ping = ObjectBuilder::new().property("action", action).property("input", ObjectBuilder::new().required(CUSTOMER_IDS_MEMBER));
    AllOfBuilder::new().item(Ref::from_schema_name("DataActionRequest")).item(no_ping).build().into()
}

pub(in crate::http) fn lookup_answer() -> Schema {
    answer("The answer of a lookup.", &LOOKUP_OUTPUT)
}

pub(in crate::http) fn ping_answer() -> Schema {
    answer("The answer of a ping.", &PING_OUTPUT)
}

/// One of each action, under the action's name.
pub(in crate::http) fn answers() -> [(&'static str, Value); 2] {
    let customer = json!({
        "id": "6f1c0000-0000-4000-8000-000000000001", "name": "Ada Example", "status": "active",
        "updated_at": "2026-01-02T03:04:05.678901Z", "attributes": { "tier": "gold" }
    });
    let customers = json!({ "customers": [customer], "count": 1, "missing": [], "truncated": false, "next_ids": [] });
    let dependencies = json!({ "postgres": "up", "redis": "up" });
    let ping = json!({ "status": "ok", "tenant_id": "acme42", "key_id": "default", "dependencies": dependencies });
    [("lookup", json!({ "output": customers })), (PING, json!({ "output": ping }))]
}

fn answer(description: &str, output: &[Member]) -> Schema {
    let answer = ObjectBuilder::new().schema_type(Type::Object).description(Some(description));
    answer.property("output", object(output)).required("output").build().into()
}

fn object(members: &[Member]) -> ObjectBuilder {
    let empty = ObjectBuilder::new().schema_type(Type::Object);
    members.iter().fold(empty, |object, member| object.property(member.name, schema(member)).required(member.name))
}

fn schema(member: &Member) -> RefOr<Schema> {
    let about = Some(member.about);
    match (member.shape, member.name) {
        (Shape::Text, "id") => uuid().description(about).into(),
        (Shape::Text, "updated_at") => text().format(Some(SchemaFormat::KnownFormat(KnownFormat::DateTime))).description(about).into(),
        (Shape::Text, _) => text().description(about).into(),
        (Shape::Count, _) => ObjectBuilder::new().schema_type(Type::Integer).minimum(Some(0)).description(about).into(),
        (Shape::Flag, _) => ObjectBuilder::new().schema_type(Type::Boolean).description(about).into(),
        // Every list of texts is one of ids.
        (Shape::Texts, _) => ArrayBuilder::new().items(uuid()).description(about).into(),
        (Shape::Object(members), _) => object(members).description(about).into(),
        (Shape::Customers(members), _) => {
            let attributes = ObjectBuilder::new().schema_type(Type::Object).description(Some("Left out where there are none."));
            ArrayBuilder::new().items(object(members).property(ATTRIBUTES, attributes)).description(about).into()
        }
    }
}

fn text() -> ObjectBuilder {
    ObjectBuilder::new().schema_type(Type::String)
}

fn uuid() -> ObjectBuilder {
    text().format(Some(SchemaFormat::KnownFormat(KnownFormat::Uuid)))
}

/// What one header or one flat input can hold.
pub(in crate::http) fn scalar() -> ObjectBuilder {
    ObjectBuilder::new().schema_type(SchemaType::from_iter([Type::String, Type::Number, Type::Boolean, Type::Null]))
}
