//! The routes of the settings.

use utoipa::openapi::path::{Operation, OperationBuilder, Parameter};
use utoipa::openapi::request_body::RequestBodyBuilder;
use utoipa::openapi::response::ResponseBuilder;
use utoipa::openapi::{Content, Required};

use super::failures;
use super::parts::{self, ANYTHING, Answers};
use crate::config::{Action, Auth, SigningScheme, WEBHOOK_SIGNATURE_HEADER, Webhook};
use crate::domain::canonical::pointer;
use crate::domain::{Encoding, KeySource, Keyring, SignedTarget};
use crate::http::data_action::{self, LOOKUP_ANSWER};
use crate::http::error::ApiError;
use crate::http::once::REPLAYED_HEADER;

/// One of them.
pub(super) struct Route<'c> {
    pub(super) path: &'c str,
    pub(super) auth: &'c Auth,
    key: &'c KeySource,
    /// Whether some key that the route takes may not call it.
    is_limited: bool,
    work: Work,
}

/// What its answer is made by.
#[derive(Clone, Copy)]
enum Work {
    Forward,
    Lookup,
    Genesys,
    Echo,
}

impl<'c> Route<'c> {
    pub(super) fn of(webhook: &'c Webhook) -> Self {
        let work = match webhook.action {
            Action::Forward { .. } => Work::Forward,
            Action::Lookup { .. } => Work::Lookup,
            Action::Genesys { .. } => Work::Genesys,
            Action::Echo => Work::Echo,
        };
        Self { path: &webhook.path, auth: &webhook.auth, key: &webhook.key, is_limited: webhook.allowed.is_limited(), work }
    }

    /// One that is forwarded.
    pub(super) fn example(auth: &'c Auth, key: &'c KeySource) -> Self {
        Self { path: "/webhooks/dialog", auth, key, is_limited: true, work: Work::Forward }
    }

    pub(super) fn operation(&self) -> Operation {
        let body = match self.work {
            Work::Forward | Work::Echo => parts::anything(),
            Work::Lookup => Content::new(Some(data_action::lookup_request())),
            Work::Genesys => Content::new(Some(parts::to(parts::ACTION_INPUT))),
        };
        let mut body = RequestBodyBuilder::new().content("application/json", body).required(Some(Required::True));
        if matches!(self.work, Work::Forward) {
            body = body.content(ANYTHING, parts::anything());
        }
        let (summary, told_apart) = (self.summary(), self.told_apart());
        let mut operation = OperationBuilder::new()
            .operation_id(Some(self.path.trim_matches('/').replace('/', "_")))
            .tag("Webhooks")
            .summary(Some(summary))
            .description(Some(format!("A route of the settings. {told_apart} A repetition gets the first answer, byte for byte.")))
            .request_body(Some(body.build()))
            .build();
        match self.work {
            Work::Forward | Work::Genesys => parts::pass_on(&mut operation),
            Work::Lookup => answer(&mut operation, LOOKUP_ANSWER, "The customers."),
            Work::Echo => answer(&mut operation, "Echo", "The body."),
        }
        if matches!(self.work, Work::Lookup) {
            parts::add_headers(&mut operation, "200", [("X-Cache", parts::cache_header())]);
        }
        operation.parameters = self.key_parameter().map(|parameter| vec![parameter.into()]);
        operation
    }

    fn summary(&self) -> &'static str {
        match self.work {
            Work::Forward => "Have another service do its work once",
            Work::Lookup => "Look customers up once",
            Work::Genesys => "Execute one data action of Genesys Cloud once",
            Work::Echo => "Get the body back, to try with",
        }
    }

    fn told_apart(&self) -> String {
        match self.key {
            KeySource::RawBody => "Requests with the same body are the same.".to_owned(),
            KeySource::CanonicalBody => "Requests whose JSON means the same are the same (RFC 8785).".to_owned(),
            KeySource::Header(name) => format!("Requests with the same `{name}` are the same."),
            KeySource::Fields(fields) => {
                let pointers: Vec<_> = fields.iter().map(|names| format!("`{}`", pointer(names.iter().map(String::as_str)))).collect();
                format!("Requests with the same values at {} are the same.", pointers.join(", "))
            }
        }
    }

    /// The header that holds the key.
    fn key_parameter(&self) -> Option<Parameter> {
        let name = self.key.header()?;
        let is_signed = match self.auth {
            Auth::Hmac { scheme, .. } => scheme.signed_headers.iter().any(|signed| signed.eq_ignore_ascii_case(name)),
            Auth::ApiKey { .. } => false,
            Auth::StandardWebhooks { .. } => true,
        };
        let (why, key) = if is_signed {
            ("Names the request: the same for all repetitions. Signed with the body.", parts::undotted_key())
        } else {
            ("Names the request: the same for all repetitions.", parts::key())
        };
        Some(parts::header_parameter(name, Required::True, why, key))
    }

    pub(super) fn failures(&self) -> Vec<ApiError> {
        let keyed = match self.key {
            KeySource::Header(_) | KeySource::Fields(_) => vec![ApiError::MissingIdempotencyKey],
            KeySource::RawBody | KeySource::CanonicalBody => Vec::new(),
        };
        let limited = self.is_limited.then_some(ApiError::KeyNotAllowed);
        let worked = match self.work {
            Work::Forward => failures::forwarded(),
            Work::Lookup => failures::looked_up(),
            Work::Genesys => failures::executed(),
            Work::Echo => Vec::new(),
        };
        [failures::posted(), limited.into_iter().collect(), keyed, failures::once(), worked].into_iter().flatten().collect()
    }

    pub(super) fn answers(&self) -> Answers {
        match self.work {
            Work::Forward => Answers::PassedOn,
            Work::Genesys => Answers::PassedOn4xx,
            Work::Lookup | Work::Echo => Answers::Own,
        }
    }
}

fn answer(operation: &mut Operation, schema: &str, description: &str) {
    let response = ResponseBuilder::new().description(description).content("application/json", Content::new(Some(parts::to(schema))));
    let response = response.header(REPLAYED_HEADER, parts::replayed_header()).build();
    operation.responses.responses.insert("200".to_owned(), response.into());
}

/// How the example is signed, and by what its requests are told apart.
pub(super) fn example() -> (Auth, KeySource) {
    let id = "X-Correlation-Id".to_owned();
    let scheme = SigningScheme {
        header: WEBHOOK_SIGNATURE_HEADER.to_owned(),
        encoding: Encoding::Hex,
        signed_headers: vec![id.clone()],
        timestamp_header: None,
        tolerance: std::time::Duration::ZERO,
        signed_target: SignedTarget::Off,
        api_key_header: None,
    };
    (Auth::Hmac { scheme, keys: Keyring::unnamed(None) }, KeySource::Header(id))
}
