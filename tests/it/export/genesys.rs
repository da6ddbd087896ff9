//! The data action of Genesys Cloud: what it documents of its import, and a whole execution against the running service.

use std::collections::{BTreeMap, BTreeSet};

use serde_json::{Map, Value, json};
use uuid::Uuid;

use super::velocity::{Known, render};
use super::{API_KEY, call, export, service};
use crate::support::{Database, Reply, Service, Tool};

/// A data action, as it is imported.
pub(super) struct DataAction(pub(super) Value);

impl DataAction {
    async fn exported(args: &[&str]) -> Self {
        let printed = export(&[&["genesys"], args].concat()).await.stdout;
        Self(serde_json::from_str(&printed).expect("JSON"))
    }

    fn request(&self) -> &Value {
        &self.0["config"]["request"]
    }

    fn input_schema(&self) -> &Value {
        &self.0["contract"]["input"]["inputSchema"]
    }

    fn success_schema(&self) -> &Value {
        &self.0["contract"]["output"]["successSchema"]
    }

    /// The body of a call with these inputs.
    fn body(&self, inputs: &Value) -> String {
        render(text(&self.request()["requestTemplate"]), &known("input", inputs))
    }

    /// Executes it, as far as the answer.
    async fn call(&self, service: &Service, inputs: &Value) -> Reply {
        assert!(jsonschema::draft4::is_valid(self.input_schema(), inputs), "{inputs} against {}", self.input_schema());
        let credentials = known("credentials", &json!({ "apiKey": API_KEY }));
        let headers = object(&self.request()["headers"]).iter();
        let headers: BTreeMap<_, _> = headers.map(|(name, value)| (name.clone(), render(text(value), &credentials))).collect();
        assert_eq!(headers["X-API-Key"], API_KEY);
        call(service, &headers, &self.body(inputs)).await
    }

    /// What a flow gets of an answer.
    fn resolved(&self, answer: &Value) -> Value {
        let response = &self.0["config"]["response"];
        let translate = |(name, path): (&String, &Value)| {
            let found = text(path).strip_prefix("$.").expect("a path").split('.').try_fold(answer, |at, member| at.get(member));
            let default = || text(&response["translationMapDefaults"][name]).to_owned();
            (name.clone(), found.map_or_else(default, Value::to_string))
        };
        let translated: Known = object(&response["translationMap"]).iter().map(translate).collect();
        let rendered = render(text(&response["successTemplate"]), &translated);
        let resolved: Value = serde_json::from_str(&rendered).unwrap_or_else(|e| panic!("not JSON ({e}): {rendered}"));
        assert!(jsonschema::draft4::is_valid(self.success_schema(), &resolved), "{resolved} against {}", self.success_schema());
        resolved
    }

    /// Holds it to what Genesys documents of an import.
    fn is_importable(&self) {
        assert_eq!((text(&self.0["integrationType"]), text(&self.0["actionType"])), ("custom-rest-actions", "custom"));
        assert!(self.0["secure"].is_boolean() && !text(&self.0["name"]).is_empty());
        assert_eq!(self.request()["requestType"], "POST");
        for schema in [self.input_schema(), self.success_schema()] {
            assert!(jsonschema::draft4::meta::is_valid(schema), "{schema}");
            assert_eq!((&schema["$schema"], &schema["type"]), (&json!("http://json-schema.org/draft-04/schema#"), &json!("object")));
            assert!(!schema.to_string().contains("$ref"), "{schema}");
        }
        let inputs = object(&self.input_schema()["properties"]);
        for (name, property) in inputs {
            assert!(is_legal(name) && !["orgId", "integrationId", "rawRequest"].contains(&name.as_str()), "{name}");
            assert!(["string", "integer", "number", "boolean"].contains(&text(&property["type"])), "{name}: {property}");
        }
        let template = text(&self.request()["requestTemplate"]);
        let used: BTreeSet<_> = template.split("{input.").skip(1).map(|rest| rest.split('}').next().expect("a name").to_owned()).collect();
        assert_eq!(used, inputs.keys().cloned().collect(), "what the template uses, and what there is");
        no_list_inside_a_list(self.success_schema(), false);

        let response = &self.0["config"]["response"];
        let members: BTreeSet<_> = object(&self.success_schema()["properties"]).keys().collect();
        for map in ["translationMap", "translationMapDefaults"] {
            assert_eq!(object(&response[map]).keys().collect::<BTreeSet<_>>(), members, "{map}");
        }
        self.resolved(&json!({}));
    }
}

fn no_list_inside_a_list(schema: &Value, inside: bool) {
    let is_list = schema["type"] == "array";
    assert!(!(is_list && inside), "{schema}");
    schema.get("items").into_iter().for_each(|items| no_list_inside_a_list(items, true));
    let properties = schema.get("properties").and_then(Value::as_object);
    properties.into_iter().flatten().for_each(|(_, property)| no_list_inside_a_list(property, inside));
}

/// Whether a contract may have an input of that name.
fn is_legal(name: &str) -> bool {
    let legal = |c: char| c.is_ascii_alphanumeric() || c == '_' || c == '-';
    name.starts_with(|c: char| c.is_ascii_alphabetic()) && name.chars().all(legal)
}

fn text(value: &Value) -> &str {
    value.as_str().unwrap_or_else(|| panic!("no text: {value}"))
}

fn object(value: &Value) -> &Map<String, Value> {
    value.as_object().unwrap_or_else(|| panic!("no object: {value}"))
}

fn known(prefix: &str, values: &Value) -> Known {
    object(values).iter().map(|(name, value)| (format!("{prefix}.{name}"), text(value).to_owned())).collect()
}

fn commas(ids: &[Uuid]) -> String {
    ids.iter().map(Uuid::to_string).collect::<Vec<_>>().join(",")
}

#[tokio::test]
async fn a_data_action_is_as_genesys_documents_its_import() {
    let variants: [&[&str]; 5] = [
        &[],
        &["--tenant", "acme42"],
        &["--attribute", "tier", "--attribute", "visits:integer"],
        &["--action", "ping"],
        &["--action", "ping", "--tenant", "acme42"],
    ];
    for args in variants {
        DataAction::exported(args).await.is_importable();
    }
}

#[tokio::test]
async fn a_rendered_lookup_is_answered_and_a_flow_gets_all_of_it() {
    let (database, action) = (Database::new().await, DataAction::exported(&[]).await);
    let service = service(&database).await;
    let (there, absent) = (database.customers("acme42", 3).await, Uuid::new_v4());
    database.customer_with_id("acme42", Uuid::from_u128(7), "Ann \"A\" Lee\n$!{input.x} é").await;
    let asked = [there[2], absent, Uuid::from_u128(7), there[0]];
    for ids in [&asked[..1], &asked[1..2], &asked] {
        let reply = action.call(&service, &json!({ "customer_ids": commas(ids), "tenant_id": "acme42" })).await;
        assert_eq!(action.resolved(&reply.json()), reply.output(), "whatever the service answers");
        assert_eq!(reply.names().len(), ids.iter().filter(|id| **id != absent).count());
        let row = database.audit_row(&reply.request_id()).await;
        assert_eq!((row.customer_ids.as_slice(), row.contact_id), (ids, None), "a contact that was not given is none");
    }
}

#[tokio::test]
async fn what_an_input_holds_stays_inside_its_text() {
    let (database, action) = (Database::new().await, DataAction::exported(&[]).await);
    let service = service(&database).await;
    let ids = database.customers("acme42", 2).await;
    let odd = r#"Ann "A" O'Neil + Söhne \ {x} ${y} #end"#;
    let inputs = json!({ "customer_ids": format!(" {},\n\t{},", ids[0], ids[1]), "tenant_id": "acme42", "contact_id": odd });
    let reply = action.call(&service, &inputs).await;
    assert_eq!(reply.names().len(), 2);
    assert_eq!(database.audit_row(&reply.request_id()).await.contact_id.as_deref(), Some(odd));

    let break_out = r#"acme42","customer_ids":["x"]},"a":{"b":"c"#;
    let id = ids[0].to_string();
    let reply = action.call(&service, &json!({ "customer_ids": id, "tenant_id": break_out })).await;
    assert_eq!(reply.pointers(), ["/input/tenant_id"]);
    let reply = action.call(&service, &json!({ "customer_ids": "Ann\n+\"", "tenant_id": "acme42" })).await;
    assert_eq!(reply.pointers(), ["/input/customer_ids/0"]);
    let reply = action.call(&service, &json!({ "customer_ids": id, "tenant_id": "acme42", "contact_id": "a\nb" })).await;
    assert_eq!(reply.pointers(), ["/context"]);
}

#[tokio::test]
async fn inputs_that_may_be_left_out_or_be_empty_are_no_names() {
    let (database, action) = (Database::new().await, DataAction::exported(&["--tenant", "acme42"]).await);
    let service = service(&database).await;
    let id = database.customer("acme42", "Ann").await.to_string();
    for inputs in [json!({ "customer_ids": id }), json!({ "customer_ids": id, "contact_id": "" })] {
        let reply = action.call(&service, &inputs).await;
        assert_eq!(reply.names(), ["Ann"], "the tenant stands in the template");
        assert_eq!(database.audit_row(&reply.request_id()).await.contact_id, None);
    }
    assert!(!action.body(&json!({})).contains('$'), "not even one that must be there");
}

#[tokio::test]
async fn a_flow_sees_the_attributes_that_were_asked_for() {
    let database = Database::new().await;
    let service = service(&database).await;
    let id = database.customer("acme42", "Ann").await;
    database.run(&format!(r#"UPDATE customers SET attributes = '{{"tier":"gold","visits":3,"tags":[["a"]]}}' WHERE id = '{id}'"#)).await;
    let inputs = json!({ "customer_ids": id.to_string(), "tenant_id": "acme42" });
    let action = DataAction::exported(&["--attribute", "tier", "--attribute", "visits:integer"]).await;
    let resolved = action.resolved(&action.call(&service, &inputs).await.json());
    assert_eq!(resolved["customers"][0]["attributes"]["tier"], "gold");
    let shown = &action.success_schema()["properties"]["customers"]["items"]["properties"]["attributes"]["properties"];
    assert_eq!(shown, &json!({ "tier": { "type": "string" }, "visits": { "type": "integer" } }));
    for bad in ["a b", "", "1a", "tier:list", "tier:"] {
        let outcome = Tool::new(&["export", "genesys", "--attribute", bad]).run().await;
        assert_eq!(outcome.code, Some(2), "{bad}: {}", outcome.printed());
    }
}

#[tokio::test]
async fn a_rendered_ping_is_answered_and_a_flow_gets_all_of_it() {
    let database = Database::new().await;
    let service = service(&database).await;
    for (args, inputs) in [(&[][..], json!({ "tenant_id": "acme42" })), (&["--tenant", "acme42"], json!({}))] {
        let action = DataAction::exported(&[&["--action", "ping"], args].concat()).await;
        let reply = action.call(&service, &inputs).await;
        assert_eq!(action.resolved(&reply.json()), reply.output());
        assert_eq!(reply.output()["dependencies"], json!({ "postgres": "up", "redis": "off" }));
    }
    assert_eq!(database.audit_count().await, 0);
}

#[tokio::test]
async fn a_data_action_tells_the_limit_and_the_header_that_are_set() {
    let set = Tool::new(&["export", "genesys"]).set("CXDA_LOOKUP__MAX_BATCH", "7").set("CXDA_SIGNING__API_KEY_HEADER", "X-Lookup-Key");
    let outcome = set.run().await;
    for told in ["1 to 7 customer ids", r#""X-Lookup-Key": "${credentials.apiKey}""#] {
        assert!(outcome.stdout.contains(told), "{told}: {}", outcome.printed());
    }
}
