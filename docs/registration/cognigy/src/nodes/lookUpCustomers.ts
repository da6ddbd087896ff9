import { createNodeDescriptor, INodeFunctionBaseParams } from "@cognigy/extension-tools";
import { call, sign, target } from "../call";
import { LookupService } from "../connections/lookupService";
import { service } from "../service";
import { Common, commonFields, keep, millisecondsOf } from "./common";

interface Params extends INodeFunctionBaseParams {
	config: Common & {
		connection: LookupService;
		tenantId: string;
		customerIds: string | string[];
		contactId?: string;
	};
}

export const lookUpCustomers = createNodeDescriptor({
	type: "lookUpCustomers",
	defaultLabel: "Look customers up",
	summary: "Asks for customers of a tenant by their ids",
	appearance: { color: "#2b6cb0" },
	fields: [
		{ key: "connection", label: "Lookup service", type: "connection", params: { connectionType: "lookupService", required: true } },
		{ key: "tenantId", label: "Tenant", type: "cognigyText", defaultValue: service.tenant, params: { required: true } },
		{
			key: "customerIds",
			label: "Customer ids",
			description: "1 to 100, with commas between them.",
			type: "cognigyText",
			params: { required: true },
		},
		{
			key: "contactId",
			label: "Contact id",
			description: "Goes into the audit log. May be empty.",
			type: "cognigyText",
			defaultValue: "{{input.sessionId}}",
		},
		...commonFields("customers"),
	],
	function: async ({ cognigy, config }: INodeFunctionBaseParams) => {
		const { connection, tenantId, customerIds, contactId, ...common } = config as Params["config"];
		const body = JSON.stringify({
			action: service.action,
			input: { customer_ids: customerIds, tenant_id: tenantId },
			...(contactId ? { context: { contactId } } : {}),
		});
		const { header, encoding, timestampHeader } = service.signature;
		const url = service.url + service.path;
		const headers = (): Record<string, string> => {
			const time = String(Math.floor(Date.now() / 1000));
			const timed = timestampHeader ? [time, ".", body] : [body];
			const signed = service.signature.target ? [target(url), ...timed] : timed;
			return {
				[header]: sign(connection.secret, encoding, signed),
				...(timestampHeader ? { [timestampHeader]: time } : {}),
				...(connection.keyId ? { [service.keyIdHeader]: connection.keyId } : {}),
			};
		};
		const outcome = await call({ url, body, headers, patience: millisecondsOf(common) });
		keep(cognigy, common, outcome);
	},
});
