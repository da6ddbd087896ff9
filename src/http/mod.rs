//! Everything that knows a status code: the route table, who may enter, what is answered.

mod background;
mod challenge;
mod connections;
mod console;
mod data_action;
mod diagnosis_budget;
mod docs;
mod error;
mod execute;
mod host;
mod limits;
mod long_bodies;
mod once;
pub mod openapi;
mod ops;
mod proof;
mod request;
mod signed;
mod webhook;
mod without_target;

use std::sync::Arc;
use std::time::Duration;

use actix_web::middleware::from_fn;
use actix_web::web::{self, Data, ServiceConfig};
use tracing_actix_web::TracingLogger;

use crate::app::lookup::Lookup;
use crate::app::ports::MetricSink;
use crate::config::{Config, SigningScheme};
use crate::domain::Keyring;
use crate::domain::data_action::PATH;
use crate::metrics::Metrics;
pub use background::Background;
pub use connections::{Connection, ConnectionLimits, Connections, Stream};
pub use console::Console;
#[doc(hidden)]
pub use data_action::pieces;
pub use diagnosis_budget::DiagnosisBudget;
pub use execute::{DataActions, KEY_HEADER, ROUTE as EXECUTE_ROUTE};
pub use long_bodies::LongBodies;
pub use ops::{Health, Ops};
pub use request::RequestSpan;
pub use webhook::{Action, Webhook};
pub use without_target::Warned;

/// What the routes need.
#[derive(Clone)]
pub struct Services {
    /// The batch lookup.
    pub lookup: Arc<Lookup>,
    /// The keys that may sign.
    pub keys: Keyring,
    /// How requests are signed.
    pub scheme: SigningScheme,
    /// The routes of the settings.
    pub webhooks: Vec<Arc<Webhook>>,
    /// Data actions of Genesys, where they are executed.
    pub data_actions: Option<Arc<DataActions>>,
    /// Who is told of webhook requests, if anybody is.
    pub sink: Option<Arc<dyn MetricSink>>,
    /// The bounds of a request.
    pub bounds: Bounds,
    /// Which routes were warned of, whose requests are signed without their target.
    pub warned: Arc<Warned>,
    /// Counters and histograms.
    pub metrics: Arc<Metrics>,
    /// Time to explain refused signatures.
    pub diagnoses: Arc<DiagnosisBudget>,
    /// Reads bodies.
    pub long_bodies: Arc<LongBodies>,
}

/// The bounds of a request and its answer.
#[derive(Clone, Copy, Debug)]
pub struct Bounds {
    /// The longest body, in bytes.
    pub max_body_bytes: usize,
    /// How long a body may take to arrive.
    pub body_timeout: Duration,
    /// The most customers in one call.
    pub max_batch: usize,
    /// The longest answer of a lookup, in bytes; 0 for no cap.
    pub max_response_bytes: usize,
}

impl Bounds {
    /// Those of the settings.
    pub fn of(Config { http, lookup, .. }: &Config) -> Self {
        Self {
            max_body_bytes: http.max_body_bytes,
            body_timeout: http.body_timeout,
            max_batch: lookup.max_batch,
            max_response_bytes: lookup.max_response_bytes,
        }
    }
}

/// Mounts the routes that platforms call. To add one: a module with its handler, whose arguments prove who calls, and a
/// line here.
pub fn routes(config: &mut ServiceConfig, services: &Services) {
    let Services { webhooks, data_actions, sink, long_bodies, .. } = services.clone();
    lookup_data(config, services);
    config.app_data(Data::from(long_bodies));
    if let Some(sink) = sink {
        config.app_data(Data::from(sink));
    }
    let post_only = |path: &str| web::resource(path.to_owned()).default_service(error::method_not_allowed("POST"));
    let own = web::scope("").service(post_only(PATH).route(web::post().to(data_action::post)));
    let own = data_actions.into_iter().fold(own, |scope, actions| {
        let own_scheme = Data::new(actions.scheme.clone());
        let resource = post_only(execute::ROUTE).app_data(own_scheme).app_data(Data::from(actions));
        scope.service(resource.route(web::post().to(execute::post)))
    });
    let all = webhooks.into_iter().fold(own, |scope, webhook| {
        scope.service(post_only(webhook.path()).app_data(Data::from(webhook)).route(web::post().to(webhook::post)))
    });
    config.default_service(web::to(error::unroutable));
    config.service(all.default_service(web::to(error::not_found)).wrap(from_fn(request::finish)).wrap(TracingLogger::<RequestSpan>::new()));
}

/// What signed lookups need, wherever they are mounted.
fn lookup_data(config: &mut ServiceConfig, services: &Services) {
    let Services { lookup, keys, scheme, bounds, warned, metrics, diagnoses, .. } = services.clone();
    config
        .app_data(Data::from(lookup))
        .app_data(Data::new(keys))
        .app_data(Data::new(scheme))
        .app_data(Data::new(bounds))
        .app_data(Data::from(diagnoses))
        .app_data(Data::from(warned))
        .app_data(Data::from(metrics));
}

/// Mounts the routes for probes, for Prometheus and for a person who looks.
pub fn admin_routes(config: &mut ServiceConfig, ops: &Ops, services: &Services) {
    lookup_data(config, services);
    let get_only = |path: &str| web::resource(path).default_service(error::method_not_allowed("GET, HEAD"));
    config.app_data(Data::new(ops.clone()));
    config.default_service(web::to(error::unroutable));
    config.service(
        web::scope("")
            .wrap(from_fn(host::guard))
            .wrap(from_fn(request::finish))
            .service(get_only("/livez").route(web::get().to(ops::live)).route(web::head().to(ops::live)))
            .service(get_only("/readyz").route(web::get().to(ops::ready)).route(web::head().to(ops::ready)))
            .service(get_only("/metrics").route(web::get().to(ops::metrics)).route(web::head().to(ops::metrics)))
            .service(get_only("/openapi.json").route(web::get().to(docs::document)).route(web::head().to(docs::document)))
            .service(web::redirect("/docs", "docs/"))
            .service(get_only("/docs/{file:.*}").route(web::get().to(docs::file)).route(web::head().to(docs::file)))
            .configure(console::mount)
            .default_service(web::to(error::not_found)),
    );
}
