//! A service with customers and a webhook route, what can spoil it, and the simulator before them.

use serde_json::Value;
use uuid::Uuid;

use super::double::Double;
use crate::support::{Database, Outcome, Route, Service, Setup, Tool, Upstream, scratch_file, settings_file};

pub(super) const PLATFORMS: [&str; 3] = ["cxone", "genesys", "cognigy"];

const HOOK: &str = "/hooks/dialog";

pub(super) struct Stage {
    pub(super) service: Service,
    pub(super) database: Database,
    pub(super) double: Double,
    /// Behind the webhook route.
    pub(super) upstream: Upstream,
    ids: Vec<Uuid>,
}

impl Stage {
    pub(super) async fn new() -> Self {
        let database = Database::new().await;
        let upstream = Upstream::start();
        let ids = vec![
            database.customer("acme42", "Ann Lee").await,
            database.customer("acme42", "Ann Lee of old").await,
            database.customer("acme42", "not Ann Lee").await,
        ];
        let service = Setup::on(&database).webhooks(&[route(&upstream)]).start().await;
        let double = Double::before(&service.url);
        Self { service, database, double, upstream, ids }
    }

    /// Another service on the same database.
    pub(super) async fn service_with(&self, settings: &[(&str, &str)]) -> Service {
        let setup = Setup::on(&self.database).webhooks(&[route(&self.upstream)]);
        settings.iter().fold(setup, |setup, (name, value)| setup.set(name, *value)).start().await
    }

    /// A run that knows the customers, and the route where that is the platform's.
    pub(super) fn simulate(&self, url: &str, platform: &str) -> Tool {
        let tool = super::tool(platform, url);
        let tool = self.ids.iter().fold(tool, |tool, id| tool.arg("--customer-id").arg(id.to_string()));
        if platform != "cognigy" {
            return tool;
        }
        let settings = scratch_file(settings_file(&[route(&self.upstream)]));
        tool.args(&["--webhook-path", HOOK]).set("CXDA_CONFIG", settings.to_str().expect("a plain path"))
    }
}

fn route(upstream: &Upstream) -> Route {
    Route::new(HOOK).forward(upstream)
}

/// What a run told machines. It must have ended well.
pub(super) fn report(outcome: &Outcome) -> Value {
    assert_eq!(outcome.code, Some(0), "{}", outcome.printed());
    serde_json::from_str(&outcome.stdout).unwrap_or_else(|error| panic!("{error}: {}", outcome.printed()))
}

/// What it told of one check.
pub(super) fn check<'r>(report: &'r Value, name: &str) -> &'r Value {
    let checks = report["checks"].as_array().expect("a list");
    checks.iter().find(|check| check["name"] == name).unwrap_or_else(|| panic!("no {name} in {report}"))
}
