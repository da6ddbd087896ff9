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
    @credential@ = var.api_key
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

@actions@
