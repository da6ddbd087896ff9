//! Terraform reads the same data actions out of the module as Genesys Cloud imports.

use hcl::Value as Hcl;
use hcl::eval::{Context, Evaluate, FuncArgs, FuncDef, ParamType};
use hcl::{Block, Body};
use serde_json::{Value, json};

use super::export;
use super::genesys::DataAction;

#[expect(clippy::needless_pass_by_value, reason = "as its caller wants it")]
fn jsonencode(args: FuncArgs) -> Result<Hcl, String> {
    serde_json::to_string(&args[0]).map(Hcl::from).map_err(|error| error.to_string())
}

/// A block's attributes and blocks, as Terraform evaluates them.
fn evaluated(body: &Body) -> Value {
    let mut context = Context::new();
    context.declare_func("jsonencode", FuncDef::builder().param(ParamType::Any).build(jsonencode));
    context.declare_var("genesyscloud_integration", hcl::value!({ "lookup_service" = { "id" = "the integration" } }));
    let attributes = body.attributes().map(|attribute| {
        let value = attribute.expr().evaluate(&context).unwrap_or_else(|e| panic!("{attribute:?}: {e}"));
        (attribute.key().to_owned(), serde_json::to_value(value).expect("JSON"))
    });
    let blocks = body.blocks().map(|block| (block.identifier().to_owned(), evaluated(block.body())));
    attributes.chain(blocks).collect::<serde_json::Map<_, _>>().into()
}

/// What Genesys Cloud makes of a resource.
fn data_action(resource: &Value) -> Value {
    let contract = |name: &str| serde_json::from_str::<Value>(resource[name].as_str().expect("a text")).expect("JSON");
    let (request, response) = (&resource["config_request"], &resource["config_response"]);
    json!({
        "name": resource["name"],
        "integrationType": "custom-rest-actions",
        "actionType": "custom",
        "secure": resource["secure"],
        "config": {
            "request": {
                "requestUrlTemplate": request["request_url_template"],
                "requestType": request["request_type"],
                "headers": request["headers"],
                "requestTemplate": request["request_template"],
            },
            "response": {
                "translationMap": response["translation_map"],
                "translationMapDefaults": response["translation_map_defaults"],
                "successTemplate": response["success_template"],
            },
        },
        "contract": { "input": { "inputSchema": contract("contract_input") }, "output": { "successSchema": contract("contract_output") } },
    })
}

#[tokio::test]
async fn terraform_makes_the_data_actions_that_genesys_imports() {
    for args in [&[][..], &["--tenant", "acme42", "--attribute", "tier", "--url", "http://localhost:8080"]] {
        let module = hcl::parse(&export(&[&["terraform"], args].concat()).await.stdout).expect("HCL");
        let is_action = |block: &&Block| block.labels().first().is_some_and(|kind| kind.as_str() == "genesyscloud_integration_action");
        let actions: Vec<_> = module.blocks().filter(is_action).collect();
        let labels: Vec<_> = actions.iter().map(|block| block.labels()[1].as_str()).collect();
        assert_eq!(labels, ["lookup", "ping"]);
        for (action, block) in labels.iter().zip(&actions) {
            let resource = evaluated(block.body());
            let imported = export(&[&["genesys", "--action", action], args].concat()).await.stdout;
            let imported = DataAction(serde_json::from_str(&imported).expect("JSON"));
            assert_eq!(data_action(&resource), imported.0);
            let timeout = resource["config_timeout_seconds"].as_u64().expect("a number");
            assert!((1..=60).contains(&timeout), "{timeout}");
        }
    }
}
