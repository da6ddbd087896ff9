//! `export terraform`: the data actions as resources of the provider `mypurecloud/genesyscloud`.

use std::collections::BTreeMap;

use serde_json::Value;

use super::genesys::{Action, CREDENTIAL, DataAction, Wanted};
use super::{fill, patience};
use crate::config::Config;

const MODULE: &str = include_str!("terraform/module.tf");
const ACTION: &str = include_str!("terraform/action.tf");

pub(super) fn module(config: &Config, wanted: &Wanted) -> anyhow::Result<String> {
    let resource = |label: &str, action| resource(label, &wanted.data_action(action, config), config);
    let actions = [resource("lookup", Action::Lookup)?, resource("ping", Action::Ping)?];
    Ok(fill(MODULE, &[("credential", CREDENTIAL), ("actions", &actions.join("\n"))]).trim_end().to_owned())
}

fn resource(label: &str, action: &DataAction<'_>, config: &Config) -> anyhow::Result<String> {
    let (request, response) = (&action.config.request, &action.config.response);
    let marks = [
        ("label", label.to_owned()),
        ("name", text(action.name)?),
        ("secure", action.secure.to_string()),
        ("timeout", patience(config).as_secs().to_string()),
        ("contract_input", json(action.input_schema())?),
        ("contract_output", json(action.output_schema())?),
        ("request_url_template", text(&request.request_url_template)?),
        ("request_type", text(request.request_type)?),
        ("request_template", text(&request.request_template)?),
        ("headers", map(&request.headers)?),
        ("translation_map", map(&response.translation_map)?),
        ("translation_map_defaults", map(&response.translation_map_defaults)?),
        ("success_template", text(&response.success_template)?),
    ];
    let marks: Vec<_> = marks.iter().map(|(mark, value)| (*mark, value.as_str())).collect();
    Ok(fill(ACTION, &marks))
}

/// A text as Terraform reads it: as in JSON, but that `${` and `%{` would begin an expression.
fn text(text: &str) -> serde_json::Result<String> {
    serde_json::to_string(text).map(|json| literal(&json))
}

/// A value as JSON, which is an expression of Terraform, spaced as `terraform fmt` does.
fn json(value: &Value) -> serde_json::Result<String> {
    let pretty = serde_json::to_string_pretty(value)?;
    let lines: Vec<_> = pretty.lines().map(|line| literal(line).replacen("\": ", "\" : ", 1)).collect();
    Ok(lines.join("\n  "))
}

fn map(entries: &BTreeMap<&str, String>) -> serde_json::Result<String> {
    let widest = entries.keys().map(|name| name.len()).max().unwrap_or_default() + 2;
    let line = |(name, value): (&&str, &String)| Ok(format!("      {:widest$} = {}\n", format!("\"{name}\""), text(value)?));
    entries.iter().map(line).collect()
}

fn literal(json: &str) -> String {
    json.replace("${", "$${").replace("%{", "%%{")
}
