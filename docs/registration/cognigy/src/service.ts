export interface Service {
	url: string;
	path: string;
	action: string;
	/** Empty where each call says whose customers it asks for. */
	tenant: string;
	keyIdHeader: string;
	signature: {
		header: string;
		encoding: "hex" | "base64";
		/** Empty where the signature does not cover the time. */
		timestampHeader: string;
		/** Whether the signature covers the method and the path. */
		target: boolean;
	};
	webhookSignatureHeader: string;
}

/** The service, as `cxone-data-action export cognigy` found it in its settings. */
export const service: Service = {
	"action": "process_customer_batch",
	"keyIdHeader": "X-CXone-Key-Id",
	"path": "/data-action",
	"signature": {
		"encoding": "hex",
		"header": "X-CXone-Signature",
		"target": false,
		"timestampHeader": ""
	},
	"tenant": "",
	"url": "https://lookup.example.com",
	"webhookSignatureHeader": "X-Cognigy-Signature"
};
