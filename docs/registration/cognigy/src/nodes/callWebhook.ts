import { createHash } from "crypto";
import { createNodeDescriptor, INodeFunctionBaseParams } from "@cognigy/extension-tools";
import { call, sign, target } from "../call";
import { LookupService } from "../connections/lookupService";
import { service } from "../service";
import { Common, commonFields, keep, millisecondsOf } from "./common";

interface Params extends INodeFunctionBaseParams {
	config: Common & {
		connection: LookupService;
		path: string;
		payload: unknown;
		keyHeader: string;
		key: string;
		signatureHeader: string;
		signTarget?: boolean;
	};
}

/** What a header may hold, without the dot that ends a signed header's value. */
const PLAIN = /^[A-Za-z0-9:_-]{1,255}$/;

export const callWebhook = createNodeDescriptor({
	type: "callWebhook",
	defaultLabel: "Call a webhook",
	summary: "Posts a payload to a route that does its work once for each key",
	appearance: { color: "#2b6cb0" },
	fields: [
		{ key: "connection", label: "Lookup service", type: "connection", params: { connectionType: "lookupService", required: true } },
		{ key: "path", label: "Path", type: "cognigyText", defaultValue: "/webhooks/dialog", params: { required: true } },
		{ key: "payload", label: "Payload", type: "json", defaultValue: {}, params: { required: true } },
		{
			key: "key",
			label: "Idempotency key",
			description: "Names what must happen once.",
			type: "cognigyText",
			defaultValue: "{{input.inputId}}",
			params: { required: true },
		},
		{ key: "keyHeader", label: "Header of the key", type: "text", defaultValue: "X-Correlation-Id", params: { required: true } },
		{
			key: "signatureHeader",
			label: "Header of the signature",
			type: "text",
			defaultValue: service.webhookSignatureHeader,
			params: { required: true },
		},
		{
			key: "signTarget",
			label: "Sign the path",
			description: "For a route whose signed_target is accept or require.",
			type: "toggle",
			defaultValue: false,
		},
		...commonFields("webhook"),
	],
	function: async ({ cognigy, config }: INodeFunctionBaseParams) => {
		const { connection, path, payload, keyHeader, key, signatureHeader, signTarget, ...common } = config as Params["config"];
		const body = typeof payload === "string" ? payload : JSON.stringify(payload);
		const sent = PLAIN.test(key) ? key : createHash("sha256").update(key, "utf8").digest("hex");
		const url = service.url + path;
		const signed = [...(signTarget ? [target(url)] : []), sent, ".", body];
		const headers = (): Record<string, string> => ({
			[keyHeader]: sent,
			[signatureHeader]: sign(connection.secret, "hex", signed),
			...(connection.keyId ? { [service.keyIdHeader]: connection.keyId } : {}),
		});
		const outcome = await call({ url, body, headers, patience: millisecondsOf(common) });
		keep(cognigy, common, outcome);
	},
});
