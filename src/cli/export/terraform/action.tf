resource "genesyscloud_integration_action" "@label@" {
  name                   = @name@
  category               = "Lookup service"
  integration_id         = genesyscloud_integration.lookup_service.id
  secure                 = @secure@
  config_timeout_seconds = @timeout@
  # Flows that are published hold on to a contract: one that has changed replaces the action.
  contract_input = jsonencode(@contract_input@)
  contract_output = jsonencode(@contract_output@)
  config_request {
    request_url_template = @request_url_template@
    request_type         = @request_type@
    request_template     = @request_template@
    headers = {
@headers@    }
  }
  config_response {
    translation_map = {
@translation_map@    }
    translation_map_defaults = {
@translation_map_defaults@    }
    success_template = @success_template@
  }
}
