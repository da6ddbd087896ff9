import { INodeFunctionBaseParams } from "@cognigy/extension-tools";
import { Outcome } from "../call";

export interface Common {
	storeLocation: "context" | "input";
	storeKey: string;
	seconds: number;
}

/** Below the 8 s that Cognigy gives its own HTTP node. */
const SECONDS = 6;

export function millisecondsOf(common: Common): number {
	return (Number(common.seconds) || SECONDS) * 1000;
}

/** Where the outcome goes, and how long it may take. */
export function commonFields(storeKey: string) {
	const options = ["context", "input"].map((value) => ({ label: value, value }));
	return [
		{ key: "storeLocation", label: "Store in", type: "select", defaultValue: "context", params: { options, required: true } },
		{ key: "storeKey", label: "Under the name", type: "cognigyText", defaultValue: storeKey, params: { required: true } },
		{ key: "seconds", label: "Seconds for all tries", type: "number", defaultValue: SECONDS, params: { min: 1, max: 60 } },
	] as const;
}

/** Leaves the outcome for the flow, and a line in the log that names nobody. */
export function keep({ api }: INodeFunctionBaseParams["cognigy"], common: Common, outcome: Outcome): void {
	api.log?.(outcome.ok ? "debug" : "error", `lookup service: status ${outcome.status} after ${outcome.tries} tries`);
	if (common.storeLocation === "input") {
		// There, though the tools' types do not tell of it.
		(api as { addToInput?: (key: string, value: unknown) => void }).addToInput?.(common.storeKey, outcome);
	} else {
		api.addToContext?.(common.storeKey, outcome, "simple");
	}
}
