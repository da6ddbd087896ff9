import { createExtension } from "@cognigy/extension-tools";
import { lookupService } from "./connections/lookupService";
import { callWebhook } from "./nodes/callWebhook";
import { lookUpCustomers } from "./nodes/lookUpCustomers";

export default createExtension({
	nodes: [lookUpCustomers, callWebhook],
	connections: [lookupService],
	options: { label: "Lookup service" },
});
