//! `export genesys`: a data action of Genesys Cloud, as its import takes it.
//!
//! What Genesys makes of it: the request is a Velocity template over the inputs, which are scalars; each entry of the translation
//! map is JSON that was found by a path in the answer, and the success template puts these together.

use std::collections::BTreeMap;
use std::str::FromStr;

use anyhow::{bail, ensure};
use clap::{Args, ValueEnum};
use serde::Serialize;
use serde_json::{Map, Value, json};

use super::{Target, body, context};
use crate::config::Config;
use crate::domain::data_action::{ATTRIBUTES, CUSTOMER_IDS, LOOKUP, LOOKUP_OUTPUT, Member, PING, PING_OUTPUT, Shape, TENANT_ID};

/// The field of the integration's credential that holds the API key.
pub(super) const CREDENTIAL: &str = "apiKey";

/// The input that names the contact.
const CONTACT: &str = "contact_id";

/// What Genesys validates contracts with.
const SCHEMA: &str = "http://json-schema.org/draft-04/schema#";

#[derive(Args)]
pub(in super::super) struct Options {
    /// Which one.
    #[arg(long, value_enum, default_value_t = Action::Lookup)]
    action: Action,
    #[command(flatten)]
    wanted: Wanted,
}

#[derive(Clone, Copy, ValueEnum)]
pub(super) enum Action {
    /// Looks customers up.
    Lookup,
    /// Proves that a lookup would be answered.
    Ping,
}

/// What a data action is made for.
#[derive(Args)]
pub(in super::super) struct Wanted {
    #[command(flatten)]
    target: Target,
    /// An attribute of customers that flows are to see, as text or as `NAME:integer`, `number` or `boolean`; may be repeated.
    #[arg(long = "attribute", value_name = "NAME[:TYPE]")]
    attributes: Vec<Attribute>,
}

/// An attribute and its type, which each customer that has it must keep to.
#[derive(Clone)]
struct Attribute {
    name: String,
    kind: String,
}

impl FromStr for Attribute {
    type Err = anyhow::Error;

    fn from_str(text: &str) -> anyhow::Result<Self> {
        let (name, kind) = text.split_once(':').unwrap_or((text, "string"));
        let legal = |c: char| c.is_ascii_alphanumeric() || c == '_' || c == '-';
        ensure!(name.starts_with(|c: char| c.is_ascii_alphabetic()) && name.chars().all(legal), "no flow can name it");
        if !["string", "integer", "number", "boolean"].contains(&kind) {
            bail!("its type must be string, integer, number or boolean");
        }
        Ok(Self { name: name.to_owned(), kind: kind.to_owned() })
    }
}

/// One data action, as it is imported.
#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct DataAction<'c> {
    pub(super) name: &'static str,
    integration_type: &'static str,
    /// Without it, the import is refused.
    action_type: &'static str,
    pub(super) config: Configuration<'c>,
    contract: Contract,
    pub(super) secure: bool,
}

#[derive(Serialize)]
pub(super) struct Configuration<'c> {
    pub(super) request: Call<'c>,
    pub(super) response: Response,
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Call<'c> {
    pub(super) request_url_template: String,
    pub(super) request_type: &'static str,
    pub(super) headers: BTreeMap<&'c str, String>,
    pub(super) request_template: String,
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Response {
    pub(super) translation_map: BTreeMap<&'static str, String>,
    pub(super) translation_map_defaults: BTreeMap<&'static str, String>,
    pub(super) success_template: String,
}

#[derive(Serialize)]
struct Contract {
    input: Input,
    output: Output,
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Input {
    input_schema: Value,
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Output {
    success_schema: Value,
}

/// What sets one data action apart from the other.
struct Asked {
    name: &'static str,
    inputs: Vec<Given>,
    body: String,
    output: &'static [Member],
}

/// An input: a text, as Genesys has no lists there.
struct Given {
    name: &'static str,
    about: String,
    always: bool,
}

impl Given {
    fn always(name: &'static str, about: String) -> Self {
        Self { name, about, always: true }
    }

    fn perhaps(name: &'static str, about: &str) -> Self {
        Self { name, about: about.to_owned(), always: false }
    }
}

impl Options {
    pub(super) fn data_action<'c>(&self, config: &'c Config) -> DataAction<'c> {
        self.wanted.data_action(self.action, config)
    }
}

impl Wanted {
    pub(super) fn data_action<'c>(&self, action: Action, config: &'c Config) -> DataAction<'c> {
        let Asked { name, inputs, body, output } = match action {
            Action::Lookup => self.lookup(config),
            Action::Ping => self.ping(),
        };
        let request = Call {
            request_url_template: self.target.data_action(),
            request_type: "POST",
            headers: BTreeMap::from([
                ("Content-Type", "application/json".to_owned()),
                (config.signing.api_key_header.as_str(), format!("${{credentials.{CREDENTIAL}}}")),
            ]),
            request_template: body,
        };
        let contract = Contract {
            input: Input { input_schema: input_schema(name, &inputs) },
            output: Output { success_schema: headed(name, self.object(output)) },
        };
        let config = Configuration { request, response: response(output) };
        DataAction { name, integration_type: "custom-rest-actions", action_type: "custom", config, contract, secure: false }
    }

    fn lookup(&self, config: &Config) -> Asked {
        let ids = format!("1 to {} customer ids, with commas between them.", config.lookup.max_batch);
        let contact = "Goes into the audit log, such as the conversation's id. May be left out.";
        let given = [Some(Given::always(CUSTOMER_IDS, ids)), self.tenant_input(), Some(Given::perhaps(CONTACT, contact))];
        let spelled = [(CUSTOMER_IDS, escaped(CUSTOMER_IDS)), (TENANT_ID, self.tenant())];
        Asked {
            name: "Look customers up",
            inputs: given.into_iter().flatten().collect(),
            body: body(LOOKUP, &spelled, &if_given(CONTACT, &context(&escaped(CONTACT)))),
            output: &LOOKUP_OUTPUT,
        }
    }

    fn ping(&self) -> Asked {
        Asked {
            name: "Ping the lookup service",
            inputs: self.tenant_input().into_iter().collect(),
            body: body(PING, &[(TENANT_ID, self.tenant())], ""),
            output: &PING_OUTPUT,
        }
    }

    /// The tenant as the template spells it.
    fn tenant(&self) -> String {
        self.target.tenant.map_or_else(|| escaped(TENANT_ID), |tenant| tenant.to_string())
    }

    fn tenant_input(&self) -> Option<Given> {
        let about = "Whose customers are asked for.".to_owned();
        self.target.tenant.is_none().then(|| Given::always(TENANT_ID, about))
    }

    /// An object of these members, all of which are always there.
    fn object(&self, members: &[Member]) -> Value {
        let properties: Map<_, _> = members.iter().map(|member| (member.name.to_owned(), self.property(member))).collect();
        let required: Vec<_> = members.iter().map(|member| member.name).collect();
        json!({"type": "object", "properties": properties, "required": required, "additionalProperties": true})
    }

    fn property(&self, member: &Member) -> Value {
        let mut schema = match member.shape {
            Shape::Text => json!({"type": "string"}),
            Shape::Count => json!({"type": "integer"}),
            Shape::Flag => json!({"type": "boolean"}),
            Shape::Texts => json!({"type": "array", "items": {"type": "string"}}),
            Shape::Object(members) => self.object(members),
            Shape::Customers(members) => json!({"type": "array", "items": self.customer(members)}),
        };
        schema["description"] = member.about.into();
        schema
    }

    fn customer(&self, members: &[Member]) -> Value {
        let mut schema = self.object(members);
        if !self.attributes.is_empty() {
            let own = self.attributes.iter().map(|attribute| (attribute.name.clone(), json!({"type": attribute.kind})));
            let own: Map<_, _> = own.collect();
            schema["properties"][ATTRIBUTES] = json!({"type": "object", "properties": own, "additionalProperties": true});
        }
        schema
    }
}

impl DataAction<'_> {
    pub(super) fn to_json(&self) -> serde_json::Result<String> {
        serde_json::to_string_pretty(self)
    }

    pub(super) fn input_schema(&self) -> &Value {
        &self.contract.input.input_schema
    }

    pub(super) fn output_schema(&self) -> &Value {
        &self.contract.output.success_schema
    }
}

/// An input inside a JSON text. Silent where it is missing: else its name would be sent in its place.
fn escaped(input: &str) -> String {
    format!("$!esc.jsonString($!{{input.{input}}})")
}

fn if_given(input: &str, text: &str) -> String {
    format!(r#"#if("$!{{input.{input}}}" != ""){text}#end"#)
}

fn input_schema(title: &str, inputs: &[Given]) -> Value {
    let property = |input: &Given| (input.name.to_owned(), json!({"type": "string", "description": input.about}));
    let properties: Map<_, _> = inputs.iter().map(property).collect();
    let required: Vec<_> = inputs.iter().filter(|input| input.always).map(|input| input.name).collect();
    let mut schema = json!({"type": "object", "properties": properties, "additionalProperties": true});
    // In draft-04, an empty list is not allowed there.
    if !required.is_empty() {
        schema["required"] = json!(required);
    }
    headed(title, schema)
}

fn headed(title: &str, mut schema: Value) -> Value {
    schema["$schema"] = SCHEMA.into();
    schema["title"] = title.into();
    schema
}

fn response(members: &[Member]) -> Response {
    let spelled: Vec<_> = members.iter().map(|Member { name, .. }| format!(r#""{name}":${{{name}}}"#)).collect();
    Response {
        translation_map: members.iter().map(|member| (member.name, format!("$.output.{}", member.name))).collect(),
        translation_map_defaults: members.iter().map(|member| (member.name, nothing(member.shape).to_string())).collect(),
        success_template: format!("{{{}}}", spelled.join(",")),
    }
}

/// What stands for a member that an answer does not have.
fn nothing(shape: Shape) -> Value {
    match shape {
        Shape::Text => json!(""),
        Shape::Count => json!(0),
        Shape::Flag => json!(false),
        Shape::Texts | Shape::Customers(_) => json!([]),
        Shape::Object(members) => members.iter().map(|member| (member.name.to_owned(), nothing(member.shape))).collect(),
    }
}
