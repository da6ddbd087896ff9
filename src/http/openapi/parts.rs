//! What several routes are described by.

use utoipa::openapi::content::Content;
use utoipa::openapi::header::HeaderBuilder;
use utoipa::openapi::path::{Operation, Parameter, ParameterBuilder, ParameterIn};
use utoipa::openapi::response::ResponseBuilder;
use utoipa::openapi::schema::{AdditionalProperties, ObjectBuilder, Schema, SchemaType, Type};
use utoipa::openapi::{Header, Ref, RefOr, Required};

use crate::app::lookup::CacheUse;
use crate::domain::RequestId;
use crate::http::data_action::scalar;
use crate::http::execute::KEY_HEADER;
use crate::http::once::{MAX_KEY, REPLAYED_HEADER};

/// Components by name.
pub(super) const ACTION_INPUT: &str = "ActionInput";
pub(super) const REQUEST_ID: &str = "RequestId";

/// The header that holds it, here and there.
pub(super) const NAME_HEADER: &str = "X-Request-Id";

/// Any content type.
pub(super) const ANYTHING: &str = "*/*";

/// Whose answers a route gives.
#[derive(Clone, Copy)]
pub(super) enum Answers {
    /// Its own.
    Own,
    /// Also those of the service behind it below 500.
    PassedOn4xx,
    /// Also any of the service behind it.
    PassedOn,
}

impl Answers {
    pub(super) fn may_pass_on(self, status: u16) -> bool {
        match self {
            Self::Own => false,
            Self::PassedOn4xx => status < 500,
            Self::PassedOn => true,
        }
    }
}

pub(super) fn to(component: &str) -> RefOr<Schema> {
    Ref::from_schema_name(component).into()
}

/// A text of 1 to so many characters.
fn text(max: usize, pattern: &str) -> ObjectBuilder {
    ObjectBuilder::new().schema_type(Type::String).min_length(Some(1)).max_length(Some(max)).pattern(Some(pattern))
}

pub(super) fn request_id() -> RefOr<Schema> {
    text(RequestId::MAX_LEN, "^[A-Za-z0-9._:-]+$").into()
}

/// An object of scalars.
pub(super) fn action_input() -> RefOr<Schema> {
    let scalar = AdditionalProperties::RefOr(scalar().into());
    let object = ObjectBuilder::new().schema_type(Type::Object).additional_properties(Some(scalar));
    let description = "The action's flat input. No member twice, and no number that a double cannot hold exactly.";
    object.description(Some(description)).examples([serde_json::json!({ "customerId": "4711", "vip": true })]).into()
}

pub(super) fn header_parameter(name: &str, required: Required, description: &str, schema: ObjectBuilder) -> Parameter {
    let parameter = ParameterBuilder::new().name(name).parameter_in(ParameterIn::Header).required(required);
    parameter.description(Some(description)).schema(Some(schema)).build()
}

pub(super) fn any_text() -> ObjectBuilder {
    ObjectBuilder::new().schema_type(Type::String)
}

/// A key that a header holds.
pub(super) fn key() -> ObjectBuilder {
    text(MAX_KEY, "^[!-~]+$")
}

/// The same where it is signed: without a dot.
pub(super) fn undotted_key() -> ObjectBuilder {
    text(MAX_KEY, r"^[!-\-/-~]+$")
}

pub(super) fn idempotency_key() -> Parameter {
    let description = "Names the execution. Without it, the same input to the same action is the same execution.";
    header_parameter(KEY_HEADER, Required::False, description, key())
}

pub(super) fn cache_header() -> Header {
    let text = ObjectBuilder::new().schema_type(Type::String).enum_values(Some(CacheUse::ALL.map(CacheUse::as_str)));
    HeaderBuilder::new().schema(Some(text)).description(Some("How much of the answer came from the cache.")).build()
}

pub(super) fn replayed_header() -> Header {
    let text = ObjectBuilder::new().schema_type(Type::String).enum_values(Some(["true"]));
    HeaderBuilder::new().schema(Some(text)).description(Some("On an answer that was given before.")).build()
}

/// Adds a body to one of the responses.
pub(super) fn add_content(operation: &mut Operation, status: &str, content: Content) {
    if let Some(RefOr::T(response)) = operation.responses.responses.get_mut(status) {
        response.content.insert("application/json".to_owned(), content.into());
    }
}

/// Adds headers to one of the responses.
pub(super) fn add_headers(operation: &mut Operation, status: &str, headers: impl IntoIterator<Item = (&'static str, Header)>) {
    if let Some(RefOr::T(response)) = operation.responses.responses.get_mut(status) {
        response.headers.extend(headers.into_iter().map(|(name, header)| (name.to_owned(), header.into())));
    }
}

pub(super) fn any_value() -> ObjectBuilder {
    ObjectBuilder::new().schema_type(SchemaType::AnyValue)
}

pub(super) fn anything() -> Content {
    Content::new(Some(any_value()))
}

/// The answers of the service behind a route.
pub(super) fn pass_on(operation: &mut Operation) {
    let answer = |description: &str| ResponseBuilder::new().description(description).header(REPLAYED_HEADER, replayed_header());
    let done = answer("The answer of the service behind this route, as it came.");
    let other = answer("Any other answer of that service, with its status, content type and body.");
    let done = done.content("application/json", anything()).content(ANYTHING, anything());
    let nothing = answer("Nothing, as that service answered.");
    let responses = [("200", done), ("204", nothing), ("default", other.content(ANYTHING, anything()))];
    operation.responses.responses.extend(responses.map(|(status, response)| (status.to_owned(), response.into())));
}

pub(super) fn name_header() -> Header {
    HeaderBuilder::new().schema(Some(to(REQUEST_ID))).description(Some("The request's name.")).build()
}

/// The request's name, which every answer carries.
pub(super) fn name_request(operation: &mut Operation) {
    let description = "Your name for the request. One that is longer than 128 characters, or made of others than A-Z a-z 0-9 . _ : -, is \
        replaced.";
    operation.parameters.get_or_insert_default().push(header_parameter(NAME_HEADER, Required::False, description, any_text()).into());
    for response in operation.responses.responses.values_mut() {
        if let RefOr::T(response) = response {
            let header = Ref::new(format!("#/components/headers/{NAME_HEADER}"));
            response.headers.insert(NAME_HEADER.to_owned(), RefOr::Ref(header));
        }
    }
}
