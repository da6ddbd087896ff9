import { IConnectionSchema } from "@cognigy/extension-tools";

export interface LookupService {
	secret: string;
	keyId?: string;
}

export const lookupService: IConnectionSchema = {
	type: "lookupService",
	label: "Lookup service",
	fields: [{ fieldName: "secret" }, { fieldName: "keyId" }],
};
