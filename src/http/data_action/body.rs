//! The body of a lookup or of its dry run: from raw bytes, whose signature is right, to values that cannot be wrong.

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::fmt;

use serde::de::{self, Deserializer, MapAccess, SeqAccess, Visitor};
use serde::{Deserialize, Serialize};
use serde_path_to_error::Segment;
use utoipa::ToSchema;
use validator::{Validate, ValidationError, ValidationErrors, ValidationErrorsKind};

use super::schema;
use crate::domain::canonical::pointer;
use crate::domain::data_action::{CONTACT_ID, LOOKUP, PING};
use crate::domain::{CustomerBatch, CustomerId, InvalidBatch, RequestId, TenantId};
use crate::http::Bounds;
use crate::http::error::{ApiError, FieldError, MAX_FIELD_ERRORS};
use crate::http::signed::SignedBody;

/// The most members of `context`.
pub(super) const MAX_CONTEXT: usize = 32;

/// How long the contact id may be, in bytes.
pub(super) const MAX_CONTACT_ID: usize = RequestId::MAX_LEN;

/// A lookup as asked for.
#[derive(Debug)]
pub(in crate::http) struct Body {
    pub(in crate::http) tenant: TenantId,
    pub(in crate::http) batch: CustomerBatch,
    pub(in crate::http) contact_id: Option<String>,
}

/// What the route is asked for.
pub(in crate::http) enum Call {
    Lookup(Body),
    /// Whether a lookup of this tenant's customers would be answered.
    Ping(TenantId),
}

/// The body as it is spelled. Members that are not there are found by `validator`, together with whatever else is wrong.
#[derive(Deserialize, Validate, ToSchema)]
#[schema(as = DataActionRequest, description = "Members beside these three are ignored.")]
pub(super) struct Spelled<'a> {
    #[serde(borrow)]
    #[validate(required)]
    #[schema(required, schema_with = schema::action)]
    action: Option<Cow<'a, str>>,
    #[serde(borrow, default, deserialize_with = "object")]
    #[validate(required, nested)]
    #[schema(required, nullable = false)]
    input: Option<Input<'a>>,
    #[serde(default)]
    #[validate(custom(function = "context_fits"))]
    #[schema(required = false, schema_with = schema::context)]
    context: Option<Context>,
}

#[derive(Deserialize, Serialize, Validate, ToSchema)]
#[serde(deny_unknown_fields)]
#[schema(as = DataActionInput, description = "Other members are refused.")]
struct Input<'a> {
    #[validate(required, nested)]
    #[schema(required = false, schema_with = schema::ids)]
    customer_ids: Option<Ids>,
    #[serde(borrow)]
    #[validate(required, custom(function = "tenant_is_one"))]
    #[schema(required, schema_with = schema::tenant)]
    tenant_id: Option<Cow<'a, str>>,
}

impl SignedBody for Call {
    fn parse(body: &[u8], bounds: &Bounds) -> Result<Self, ApiError> {
        let text = std::str::from_utf8(body).map_err(|_| ApiError::InvalidJson)?;
        let mut spelled = spelled(text)?;
        let is_ping = spelled.action.as_ref().is_some_and(|action| action == PING);
        if spelled.action.as_ref().is_some_and(|action| action != LOOKUP) && !is_ping {
            return Err(ApiError::UnknownAction);
        }
        // So that one template serves both actions, a ping may name customers, and they are checked like a lookup's.
        let names_nobody = is_ping && spelled.input.as_ref().is_some_and(|input| input.customer_ids.is_none());
        if let Some(input) = spelled.input.as_mut().filter(|_| names_nobody) {
            input.customer_ids = Some(Ids::default());
        }
        spelled.validate().map_err(|errors| ApiError::invalid_input(flatten(&errors)))?;
        let input = spelled.input.ok_or(ApiError::Internal(None))?;
        let tenant = input.tenant_id.unwrap_or_default().parse().map_err(|error| one("/input/tenant_id", "invalid_tenant", error))?;
        if names_nobody {
            return Ok(Self::Ping(tenant));
        }
        let ids = input.customer_ids.unwrap_or_default().0;
        let batch = CustomerBatch::new(ids.into_iter().flatten(), bounds.max_batch).map_err(|error| match error {
            InvalidBatch::Empty => one("/input/customer_ids", "too_few", error),
            InvalidBatch::TooMany { .. } => one("/input/customer_ids", "too_many", error),
        })?;
        if is_ping {
            return Ok(Self::Ping(tenant));
        }
        let contact_id = spelled.context.and_then(|mut context| context.0.remove(CONTACT_ID).flatten());
        Ok(Self::Lookup(Body { tenant, batch, contact_id }))
    }

    fn tenant(&self) -> &TenantId {
        match self {
            Self::Lookup(body) => &body.tenant,
            Self::Ping(tenant) => tenant,
        }
    }
}

impl SignedBody for Body {
    /// A lookup. A dry run is none: its answer would be kept.
    fn parse(body: &[u8], bounds: &Bounds) -> Result<Self, ApiError> {
        match Call::parse(body, bounds)? {
            Call::Lookup(body) => Ok(body),
            Call::Ping(_) => Err(ApiError::UnknownAction),
        }
    }

    fn tenant(&self) -> &TenantId {
        &self.tenant
    }
}

fn one(pointer: &str, code: &'static str, detail: impl fmt::Display) -> ApiError {
    ApiError::invalid_input(vec![FieldError { pointer: pointer.to_owned(), code, detail: detail.to_string() }])
}

/// Reads the types. Where that fails, it is read again to tell why: to keep track of the place costs as much as to read.
fn spelled(text: &str) -> Result<Spelled<'_>, ApiError> {
    let mut json = serde_json::Deserializer::from_str(text);
    match object(&mut json).and_then(|spelled| json.end().map(|()| spelled)) {
        Ok(Some(spelled)) => Ok(spelled),
        Ok(None) | Err(_) => Err(misspelled(text)),
    }
}

/// Whether it is no JSON at all, or where a type is not as expected.
fn misspelled(text: &str) -> ApiError {
    // To the last byte: the types stop at the first thing they do not expect.
    if serde_json::from_str::<de::IgnoredAny>(text).is_err() {
        return ApiError::InvalidJson;
    }
    let mut json = serde_json::Deserializer::from_str(text);
    let mut track = serde_path_to_error::Track::new();
    let tracked = serde_path_to_error::Deserializer::new(&mut json, &mut track);
    let _known_to_fail = object::<Spelled<'_>, _>(tracked);
    let name = |segment: &Segment| match segment {
        Segment::Seq { index } => Some(index.to_string()),
        Segment::Map { key } => Some(key.clone()),
        Segment::Enum { .. } | Segment::Unknown => None,
    };
    let names: Vec<_> = track.path().iter().filter_map(name).collect();
    one(&pointer(names.iter().map(String::as_str)), "unexpected", "is of another type than expected, named twice, or not known here")
}

/// An object, or null. serde's derived types take an array for an object, member by member.
fn object<'de, T: Deserialize<'de>, D: Deserializer<'de>>(deserializer: D) -> Result<Option<T>, D::Error> {
    struct Object<T>(std::marker::PhantomData<T>);
    impl<'de, T: Deserialize<'de>> Visitor<'de> for Object<T> {
        type Value = Option<T>;

        fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
            f.write_str("an object")
        }

        fn visit_map<A: MapAccess<'de>>(self, map: A) -> Result<Self::Value, A::Error> {
            T::deserialize(de::value::MapAccessDeserializer::new(map)).map(Some)
        }

        fn visit_unit<E: de::Error>(self) -> Result<Self::Value, E> {
            Ok(None)
        }

        fn visit_str<E: de::Error>(self, _: &str) -> Result<Self::Value, E> {
            Err(unexpected_string())
        }
    }
    deserializer.deserialize_any(Object(std::marker::PhantomData))
}

/// In place of serde's own error, which holds the whole string with every letter looked at.
fn unexpected_string<E: de::Error>() -> E {
    E::custom("a string where none is expected")
}

/// The ids, `None` for one that names nobody: of a list, or of one string with commas, since an input of Genesys cannot be a list.
#[derive(Default, Serialize)]
struct Ids(Vec<Option<CustomerId>>);

impl<'de> Deserialize<'de> for Ids {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct List;
        impl<'de> Visitor<'de> for List {
            type Value = Ids;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a list of ids, or a string of ids with commas")
            }

            fn visit_seq<A: SeqAccess<'de>>(self, mut items: A) -> Result<Ids, A::Error> {
                let mut ids = Vec::with_capacity(16);
                while let Some(Spelling(id)) = items.next_element()? {
                    ids.push(id);
                }
                Ok(Ids(ids))
            }

            fn visit_str<E: de::Error>(self, text: &str) -> Result<Ids, E> {
                // A comma too many is what a template leaves where an input was empty.
                Ok(Ids(text.split(',').map(str::trim).filter(|id| !id.is_empty()).map(CustomerId::parse).collect()))
            }
        }
        deserializer.deserialize_any(List)
    }
}

/// One id, read where it stands: serde makes a `Cow` of a list's member by copying it.
struct Spelling(Option<CustomerId>);

impl<'de> Deserialize<'de> for Spelling {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Text;
        impl Visitor<'_> for Text {
            type Value = Spelling;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a string")
            }

            fn visit_str<E: de::Error>(self, text: &str) -> Result<Spelling, E> {
                Ok(Spelling(CustomerId::parse(text)))
            }
        }
        deserializer.deserialize_str(Text)
    }
}

impl Validate for Ids {
    /// An error for each id that is none, by its index; for as many as an answer names.
    fn validate(&self) -> Result<(), ValidationErrors> {
        let complaint = || {
            let mut errors = ValidationErrors::new();
            errors.add("", ValidationError::new("invalid_uuid").with_message("is not a UUID, or the nil UUID".into()));
            Box::new(errors)
        };
        let invalid = self.0.iter().enumerate().filter(|(_, id)| id.is_none()).take(MAX_FIELD_ERRORS);
        let complaints: BTreeMap<_, _> = invalid.map(|(at, _)| (at, complaint())).collect();
        if complaints.is_empty() {
            return Ok(());
        }
        let mut errors = ValidationErrors::new();
        errors.errors_mut().insert(Cow::Borrowed(""), ValidationErrorsKind::List(complaints));
        Err(errors)
    }
}

/// What the platform tells beside the input: texts by name, other scalars taken as text, null as nothing. A map of more than
/// [`MAX_CONTEXT`] members is refused, so no more than one above that are kept.
#[derive(Serialize)]
struct Context(BTreeMap<String, Option<String>>);

impl<'de> Deserialize<'de> for Context {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Members;
        impl<'de> Visitor<'de> for Members {
            type Value = Context;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("an object of scalars")
            }

            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Context, A::Error> {
                let mut members = BTreeMap::new();
                while members.len() <= MAX_CONTEXT {
                    let Some((name, Scalar(text))) = map.next_entry()? else { return Ok(Context(members)) };
                    if members.insert(name, text).is_some() {
                        return Err(de::Error::custom("a member is named twice"));
                    }
                }
                while map.next_entry::<de::IgnoredAny, de::IgnoredAny>()?.is_some() {}
                Ok(Context(members))
            }

            fn visit_str<E: de::Error>(self, _: &str) -> Result<Context, E> {
                Err(unexpected_string())
            }
        }
        deserializer.deserialize_any(Members)
    }
}

/// A member of `context` as text.
struct Scalar(Option<String>);

impl<'de> Deserialize<'de> for Scalar {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Any;
        impl Visitor<'_> for Any {
            type Value = Scalar;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a scalar")
            }

            fn visit_str<E: de::Error>(self, text: &str) -> Result<Scalar, E> {
                Ok(Scalar(Some(text.to_owned())))
            }

            fn visit_bool<E: de::Error>(self, value: bool) -> Result<Scalar, E> {
                Ok(Scalar(Some(value.to_string())))
            }

            fn visit_u64<E: de::Error>(self, number: u64) -> Result<Scalar, E> {
                Ok(Scalar(Some(number.to_string())))
            }

            fn visit_i64<E: de::Error>(self, number: i64) -> Result<Scalar, E> {
                Ok(Scalar(Some(number.to_string())))
            }

            fn visit_f64<E: de::Error>(self, number: f64) -> Result<Scalar, E> {
                Ok(Scalar(serde_json::Number::from_f64(number).map(|number| number.to_string())))
            }

            fn visit_unit<E: de::Error>(self) -> Result<Scalar, E> {
                Ok(Scalar(None))
            }
        }
        deserializer.deserialize_any(Any)
    }
}

fn context_fits(context: &Context) -> Result<(), ValidationError> {
    let fault = |code, message: String| Err(ValidationError::new(code).with_message(message.into()));
    if context.0.len() > MAX_CONTEXT {
        return fault("too_many", format!("has more than {MAX_CONTEXT} members"));
    }
    match context.0.get(CONTACT_ID).and_then(Option::as_ref) {
        Some(contact) if contact.len() > MAX_CONTACT_ID => fault("too_long", format!("{CONTACT_ID} is longer than {MAX_CONTACT_ID} bytes")),
        // Postgres keeps no NUL in a text, and no other control character belongs into an id.
        Some(contact) if contact.chars().any(char::is_control) => {
            fault("control_character", format!("{CONTACT_ID} holds a control character"))
        }
        _ => Ok(()),
    }
}

fn tenant_is_one(tenant: &str) -> Result<(), ValidationError> {
    tenant.parse::<TenantId>().map(drop).map_err(|error| ValidationError::new("invalid_tenant").with_message(error.to_string().into()))
}

/// validator's tree as a list with JSON pointers, without the values that it carries along.
fn flatten(errors: &ValidationErrors) -> Vec<FieldError> {
    fn walk(at: &str, errors: &ValidationErrors, list: &mut Vec<FieldError>) {
        for (name, kind) in errors.errors() {
            let here = if name.is_empty() { at.to_owned() } else { format!("{at}/{name}") };
            match kind {
                ValidationErrorsKind::Struct(inner) => walk(&here, inner, list),
                ValidationErrorsKind::List(items) => items.iter().for_each(|(index, inner)| walk(&format!("{here}/{index}"), inner, list)),
                ValidationErrorsKind::Field(faults) => list.extend(faults.iter().map(|fault| field_error(here.clone(), fault))),
            }
        }
    }
    let mut list = Vec::new();
    walk("", errors, &mut list);
    list
}

fn field_error(pointer: String, fault: &ValidationError) -> FieldError {
    let code = ["invalid_uuid", "invalid_tenant", "too_many", "too_long", "control_character"].into_iter().find(|code| *code == fault.code);
    let detail = fault.message.as_deref().unwrap_or("is required").to_owned();
    FieldError { pointer, code: code.unwrap_or("required"), detail }
}
