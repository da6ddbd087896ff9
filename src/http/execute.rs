//! `POST /genesys/actions/{action_id}/execute`: a data action of Genesys Cloud, executed once.

use std::sync::Arc;

use actix_web::web::{Bytes, Data};
use actix_web::{HttpRequest, HttpResponse};
use percent_encoding::percent_decode_str;

use super::error::{ApiError, FieldError};
use super::long_bodies::LongBodies;
use super::once::{hasher, key_header, respond};
use super::request::request_id;
use super::signed::{self, Proven};
use crate::app::execute::Execute;
use crate::app::once::Once;
use crate::app::ports::DataActionCall;
use crate::config::SigningScheme;
use crate::domain::canonical::{Unclear, canonical, pointer};
use crate::domain::{ActionId, AllowedKeys, FlatInput, Hasher, IdempotencyKey, NotFlat};

/// The header by which a caller names an execution (draft-ietf-httpapi-idempotency-key-header).
pub const KEY_HEADER: &str = "Idempotency-Key";

/// The route, which is its scope too.
pub const ROUTE: &str = "/genesys/actions/{action_id}/execute";

/// What the route needs.
pub struct DataActions {
    /// Its name among the keys.
    pub scope: Arc<str>,
    /// The use case.
    pub execute: Execute,
    /// The engine.
    pub once: Arc<Once>,
    /// How executions are signed.
    pub scheme: SigningScheme,
    /// Part of each key.
    pub environment: String,
    /// What keys are hashed with; drawn from the caller's key where there is none.
    pub hasher: Option<Hasher>,
    /// The keys that may execute.
    pub allowed: AllowedKeys,
}

/// Executes, or gives the answer of the execution that has been.
#[utoipa::path(
    post, path = ROUTE, operation_id = "executeDataAction", tag = "Genesys",
    summary = "Execute a data action of Genesys Cloud once",
    description = "A repetition gets the first answer, byte for byte. A call whose outcome is unknown is not made again.",
    params(
        ("action_id" = String, Path, description = "Opaque; at most as long in bytes.", min_length = 1, max_length = 128,
            example = "custom_-_7d0f3c2e-0b1a-4d57-9c3e-5f1a2b3c4d5e"),
    ),
    request_body(content = ref("#/components/schemas/ActionInput"), description = "Sent under any content type.", content_type = "application/json"),
    responses((status = 200, description = "The action's own answer.", content_type = "application/json"))
)]
pub(super) async fn post(
    request: HttpRequest,
    proven: Proven,
    actions: Data<DataActions>,
    long_bodies: Data<LongBodies>,
) -> Result<HttpResponse, ApiError> {
    let Proven { key: caller, body } = proven;
    signed::allow(&actions.allowed, &caller)?;
    let action = action(&request)?;
    let header = key_header(request.headers(), KEY_HEADER)?;
    if header == Some("") {
        return Err(ApiError::MissingIdempotencyKey);
    }
    let work = {
        let (actions, caller, action, header) = (actions.clone(), caller.clone(), action.clone(), header.map(str::to_owned));
        move |body: Bytes| {
            let hasher = hasher(actions.hasher.as_ref(), &caller)?;
            let canonical = canonical(&body);
            let input = flat_input(body, canonical)?;
            let DataActions { scope, environment, .. } = &**actions;
            let key = IdempotencyKey::of_action(&hasher, scope, caller.id(), environment, &action, header.as_deref(), &input);
            Ok::<_, ApiError>((input, key))
        }
    };
    let (input, key) = long_bodies.read(&caller, &body, work).await??;
    let call = DataActionCall { action, input: input.into_bytes(), request_id: request_id(&request) };
    let answer = actions.execute.run(&actions.once, key, call).await?;
    respond(&request, answer)
}

fn action(request: &HttpRequest) -> Result<ActionId, ApiError> {
    // As it was sent: the router has put something else in the place of what is no UTF-8.
    let spelled = request.uri().path().split('/').nth(3).unwrap_or_default();
    let action = percent_decode_str(spelled).decode_utf8().ok().and_then(|text| ActionId::parse(&text));
    action.ok_or_else(|| {
        let detail = "the path must name a data action, in at most 128 bytes".to_owned();
        ApiError::invalid_input(vec![FieldError { pointer: String::new(), code: "invalid_action_id", detail }])
    })
}

/// The input that a body holds, whose canonical form is known.
pub(super) fn flat_input(body: Bytes, canonical: Result<String, Unclear>) -> Result<FlatInput, ApiError> {
    let wrong = |name: Option<&str>, code, detail: &str| FieldError { pointer: pointer(name.into_iter()), code, detail: detail.to_owned() };
    FlatInput::parse(body, canonical).map_err(|error| match error {
        NotFlat::Unclear(unclear) => unclear.into(),
        NotFlat::NotAnObject => ApiError::invalid_input(vec![wrong(None, "not_an_object", "must be an object")]),
        NotFlat::Nested(names) => {
            let nested = |name: &String| wrong(Some(name), "not_scalar", "must be a string, a number, a boolean or null");
            ApiError::invalid_input(names.iter().map(nested).collect())
        }
    })
}
