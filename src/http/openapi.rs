//! The OpenAPI 3.1 document of the API. Types and handlers describe themselves where they stand; here they are put together
//! with what settings decide: who may call, the routes of the settings, the bounds.
//!
//! To add a route: `#[utoipa::path]` at its handler, its line among the `paths`, its failures in [`failures`].

mod access;
mod failures;
mod parts;
mod webhooks;

use std::collections::{BTreeMap, BTreeSet};

use utoipa::OpenApi;
use utoipa::openapi::example::ExampleBuilder;
use utoipa::openapi::{Components, ContentBuilder, HttpMethod, OneOfBuilder, OpenApi as Document, PathItem, RefOr, Schema, Server};
use utoipa::openapi::{ServerBuilder, ServerVariableBuilder};

use super::data_action::{self, CUSTOMER_IDS, LOOKUP_ANSWER, PING_ANSWER};
use super::{error, execute, ops, webhook};
use crate::config::{Config, SigningScheme};
use crate::domain::SignedTarget;
use crate::domain::data_action::PATH;
use access::{Access, Schemes};
use parts::Answers;
use webhooks::Route;

/// What is said of their listener.
const PLATFORMS: &str = "Where platforms call.";

#[derive(OpenApi)]
#[openapi(
    info(title = "cxone-data-action", description = include_str!("openapi/about.md")),
    paths(data_action::post, execute::post, ops::live, ops::ready, ops::metrics),
    components(schemas(error::Problem, webhook::Echo)),
    tags(
        (name = "Lookup", description = "Customers of a tenant, in a batch."),
        (name = "Genesys", description = "Data actions of Genesys Cloud, executed once."),
        (name = "Webhooks", description = "Routes of the settings, whose work is done once."),
        (name = "Operations", description = "Probes and metrics. On the admin listener, which callers do not reach.")
    )
)]
struct Described;

/// Of what an instance with these settings mounts.
pub fn of_instance(config: &Config) -> Document {
    let genesys = config.genesys.as_ref().map(|genesys| &genesys.scheme);
    let webhooks: Vec<_> = config.webhooks.iter().map(Route::of).collect();
    let mut document = document(config, &config.signing.scheme, genesys, &webhooks);
    // Nobody has told it where it is reached.
    document.servers = Some(vec![server("https://{host}", "lookup.example.com", PLATFORMS)]);
    document
}

/// The same of one that is reached at this URL, with API keys, and with an example of each kind of route that the settings do not have.
pub fn with_examples(config: &Config, url: &str) -> Document {
    let api_key_header = Some(config.signing.api_key_header.clone());
    let signing = SigningScheme { api_key_header, ..config.signing.scheme.clone() };
    let execution = SigningScheme { signed_target: SignedTarget::Accept, ..signing.clone() };
    let genesys = config.genesys.as_ref().map_or(&execution, |genesys| &genesys.scheme);
    let (auth, key) = webhooks::example();
    let webhooks = match &config.webhooks[..] {
        [] => vec![Route::example(&auth, &key)],
        webhooks => webhooks.iter().map(Route::of).collect(),
    };
    let mut document = document(config, &signing, Some(genesys), &webhooks);
    document.servers = Some(vec![ServerBuilder::new().url(url).description(Some(PLATFORMS)).build()]);
    document
}

fn document(config: &Config, signing: &SigningScheme, genesys: Option<&SigningScheme>, webhooks: &[Route<'_>]) -> Document {
    let mut document = Described::openapi();
    if let Some(license) = &mut document.info.license {
        // Readers take an identifier for the name of a page, and there is none of two licences.
        license.identifier = None;
    }
    let paths = &mut document.paths.paths;
    let mut schemes = Schemes::new();
    lookup_route(paths, signing, &mut schemes);
    match genesys {
        Some(scheme) => execution_route(paths, scheme, &mut schemes),
        None => drop(paths.remove(execute::ROUTE)),
    }
    for route in webhooks {
        let mut operation = route.operation();
        Access::of_auth(route.auth).require(&mut operation, &mut schemes);
        failures::tell(&mut operation, route.failures(), route.answers());
        paths.insert(route.path.to_owned(), PathItem::new(HttpMethod::Post, operation));
    }
    admin_routes(paths, &config.admin.listen.to_string());
    let operations = paths.values_mut().flat_map(|item| [&mut item.get, &mut item.post]);
    let operations: Vec<_> = operations.flatten().collect();
    let tags: BTreeSet<_> = operations.iter().flat_map(|operation| operation.tags.iter().flatten().cloned()).collect();
    document.tags.get_or_insert_default().retain(|tag| tags.contains(&tag.name));
    operations.into_iter().for_each(parts::name_request);
    let components = document.components.get_or_insert_default();
    components.security_schemes = schemes;
    complete(components, config.lookup.max_batch);
    document
}

type Items = BTreeMap<String, PathItem>;

fn lookup_route(paths: &mut Items, scheme: &SigningScheme, schemes: &mut Schemes) {
    if let Some(operation) = paths.get_mut(PATH).and_then(|item| item.post.as_mut()) {
        let either = OneOfBuilder::new().item(parts::to(LOOKUP_ANSWER)).item(parts::to(PING_ANSWER));
        let examples = data_action::answers().map(|(name, answer)| (name, ExampleBuilder::new().value(Some(answer))));
        let content = ContentBuilder::new().schema(Some(either)).examples_from_iter(examples);
        parts::add_content(operation, "200", content.build());
        parts::add_headers(operation, "200", [("X-Cache", parts::cache_header())]);
        Access::of_scheme(scheme).require(operation, schemes);
        failures::tell(operation, failures::of_lookup(), Answers::Own);
    }
}

fn execution_route(paths: &mut Items, scheme: &SigningScheme, schemes: &mut Schemes) {
    if let Some(operation) = paths.get_mut(execute::ROUTE).and_then(|item| item.post.as_mut()) {
        operation.parameters.get_or_insert_default().push(parts::idempotency_key().into());
        Access::of_scheme(scheme).require(operation, schemes);
        parts::pass_on(operation);
        failures::tell(operation, failures::of_execution_route(), Answers::PassedOn4xx);
    }
}

fn admin_routes(paths: &mut Items, listen: &str) {
    for (path, failures) in [("/livez", failures::of_probe()), ("/readyz", failures::of_readiness()), ("/metrics", failures::of_metrics())]
    {
        let Some(item) = paths.get_mut(path) else { continue };
        item.servers = Some(vec![server("http://{admin}", listen, "The admin listener.")]);
        if let Some(operation) = &mut item.get {
            failures::tell(operation, failures, Answers::Own);
        }
    }
}

/// Adds what is referred to, and is not made of a type.
fn complete(components: &mut Components, max_batch: usize) {
    let schemas = [
        (CUSTOMER_IDS, data_action::customer_ids(max_batch).into()),
        (LOOKUP_ANSWER, data_action::lookup_answer().into()),
        (PING_ANSWER, data_action::ping_answer().into()),
        (parts::ACTION_INPUT, parts::action_input()),
        (parts::REQUEST_ID, parts::request_id()),
    ];
    components.schemas.extend(schemas.map(|(name, schema)| (name.to_owned(), schema)));
    if let Some(RefOr::T(Schema::Object(problem))) = components.schemas.get_mut(failures::PROBLEM) {
        problem.properties.insert("code".to_owned(), failures::codes());
        problem.properties.insert("request_id".to_owned(), parts::to(parts::REQUEST_ID));
    }
    components.headers.insert(parts::NAME_HEADER.to_owned(), parts::name_header().into());
    components.examples.extend(failures::examples());
}

/// A URL with one variable in it.
fn server(url: &str, default: &str, description: &str) -> Server {
    let variable = url.split(['{', '}']).nth(1).unwrap_or_default();
    let value = ServerVariableBuilder::new().default_value(default);
    ServerBuilder::new().url(url).description(Some(description)).parameter(variable, value).build()
}
