# Made by `cxone-data-action export terraform`. The API key goes into the integration's credential (User Defined), and from there
# into a header; Genesys Cloud lets no flow see it.

terraform {
  required_providers {
    genesyscloud = {
      source = "mypurecloud/genesyscloud"
    }
  }
}

variable "api_key" {
  type        = string
  sensitive   = true
  description = "The API key of one of the service's signing keys."
}

resource "genesyscloud_integration_credential" "lookup_service" {
  name                 = "Lookup service"
  credential_type_name = "userDefined"
  fields = {
    apiKey = var.api_key
  }
}

resource "genesyscloud_integration" "lookup_service" {
  intended_state   = "ENABLED"
  integration_type = "custom-rest-actions"
  config {
    name       = "Lookup service"
    properties = jsonencode({})
    advanced   = jsonencode({})
    credentials = {
      basicAuth = genesyscloud_integration_credential.lookup_service.id
    }
  }
}

resource "genesyscloud_integration_action" "lookup" {
  name                   = "Look customers up"
  category               = "Lookup service"
  integration_id         = genesyscloud_integration.lookup_service.id
  secure                 = false
  config_timeout_seconds = 5
  # Flows that are published hold on to a contract: one that has changed replaces the action.
  contract_input = jsonencode({
    "$schema" : "http://json-schema.org/draft-04/schema#",
    "additionalProperties" : true,
    "properties" : {
      "contact_id" : {
        "description" : "Goes into the audit log, such as the conversation's id. May be left out.",
        "type" : "string"
      },
      "customer_ids" : {
        "description" : "1 to 100 customer ids, with commas between them.",
        "type" : "string"
      },
      "tenant_id" : {
        "description" : "Whose customers are asked for.",
        "type" : "string"
      }
    },
    "required" : [
      "customer_ids",
      "tenant_id"
    ],
    "title" : "Look customers up",
    "type" : "object"
  })
  contract_output = jsonencode({
    "$schema" : "http://json-schema.org/draft-04/schema#",
    "additionalProperties" : true,
    "properties" : {
      "count" : {
        "description" : "How many customers are sent.",
        "type" : "integer"
      },
      "customers" : {
        "description" : "Those found, in the order asked.",
        "items" : {
          "additionalProperties" : true,
          "properties" : {
            "id" : {
              "description" : "A UUID.",
              "type" : "string"
            },
            "name" : {
              "description" : "Display name.",
              "type" : "string"
            },
            "status" : {
              "description" : "Free text such as active.",
              "type" : "string"
            },
            "updated_at" : {
              "description" : "When the record last changed (RFC 3339).",
              "type" : "string"
            }
          },
          "required" : [
            "id",
            "name",
            "status",
            "updated_at"
          ],
          "type" : "object"
        },
        "type" : "array"
      },
      "missing" : {
        "description" : "Ids asked for that this tenant does not have.",
        "items" : {
          "type" : "string"
        },
        "type" : "array"
      },
      "next_ids" : {
        "description" : "Ids of those that did not fit: ask for them next.",
        "items" : {
          "type" : "string"
        },
        "type" : "array"
      },
      "truncated" : {
        "description" : "Whether some customers did not fit into the answer.",
        "type" : "boolean"
      }
    },
    "required" : [
      "customers",
      "count",
      "missing",
      "truncated",
      "next_ids"
    ],
    "title" : "Look customers up",
    "type" : "object"
  })
  config_request {
    request_url_template = "https://lookup.example.com/data-action"
    request_type         = "POST"
    request_template     = "{\"action\":\"process_customer_batch\",\"input\":{\"customer_ids\":\"$!esc.jsonString($!{input.customer_ids})\",\"tenant_id\":\"$!esc.jsonString($!{input.tenant_id})\"}#if(\"$!{input.contact_id}\" != \"\"),\"context\":{\"contactId\":\"$!esc.jsonString($!{input.contact_id})\"}#end}"
    headers = {
      "Content-Type" = "application/json"
      "X-API-Key"    = "$${credentials.apiKey}"
    }
  }
  config_response {
    translation_map = {
      "count"     = "$.output.count"
      "customers" = "$.output.customers"
      "missing"   = "$.output.missing"
      "next_ids"  = "$.output.next_ids"
      "truncated" = "$.output.truncated"
    }
    translation_map_defaults = {
      "count"     = "0"
      "customers" = "[]"
      "missing"   = "[]"
      "next_ids"  = "[]"
      "truncated" = "false"
    }
    success_template = "{\"customers\":$${customers},\"count\":$${count},\"missing\":$${missing},\"truncated\":$${truncated},\"next_ids\":$${next_ids}}"
  }
}

resource "genesyscloud_integration_action" "ping" {
  name                   = "Ping the lookup service"
  category               = "Lookup service"
  integration_id         = genesyscloud_integration.lookup_service.id
  secure                 = false
  config_timeout_seconds = 5
  # Flows that are published hold on to a contract: one that has changed replaces the action.
  contract_input = jsonencode({
    "$schema" : "http://json-schema.org/draft-04/schema#",
    "additionalProperties" : true,
    "properties" : {
      "tenant_id" : {
        "description" : "Whose customers are asked for.",
        "type" : "string"
      }
    },
    "required" : [
      "tenant_id"
    ],
    "title" : "Ping the lookup service",
    "type" : "object"
  })
  contract_output = jsonencode({
    "$schema" : "http://json-schema.org/draft-04/schema#",
    "additionalProperties" : true,
    "properties" : {
      "dependencies" : {
        "additionalProperties" : true,
        "description" : "What the service needs.",
        "properties" : {
          "postgres" : {
            "description" : "up",
            "type" : "string"
          },
          "redis" : {
            "description" : "up, down or off",
            "type" : "string"
          }
        },
        "required" : [
          "postgres",
          "redis"
        ],
        "type" : "object"
      },
      "key_id" : {
        "description" : "The key that the service knew the caller by.",
        "type" : "string"
      },
      "status" : {
        "description" : "ok",
        "type" : "string"
      },
      "tenant_id" : {
        "description" : "The tenant that was asked about.",
        "type" : "string"
      }
    },
    "required" : [
      "status",
      "tenant_id",
      "key_id",
      "dependencies"
    ],
    "title" : "Ping the lookup service",
    "type" : "object"
  })
  config_request {
    request_url_template = "https://lookup.example.com/data-action"
    request_type         = "POST"
    request_template     = "{\"action\":\"ping\",\"input\":{\"tenant_id\":\"$!esc.jsonString($!{input.tenant_id})\"}}"
    headers = {
      "Content-Type" = "application/json"
      "X-API-Key"    = "$${credentials.apiKey}"
    }
  }
  config_response {
    translation_map = {
      "dependencies" = "$.output.dependencies"
      "key_id"       = "$.output.key_id"
      "status"       = "$.output.status"
      "tenant_id"    = "$.output.tenant_id"
    }
    translation_map_defaults = {
      "dependencies" = "{\"postgres\":\"\",\"redis\":\"\"}"
      "key_id"       = "\"\""
      "status"       = "\"\""
      "tenant_id"    = "\"\""
    }
    success_template = "{\"status\":$${status},\"tenant_id\":$${tenant_id},\"key_id\":$${key_id},\"dependencies\":$${dependencies}}"
  }
}
