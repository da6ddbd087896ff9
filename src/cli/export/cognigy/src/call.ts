import { BinaryToTextEncoding, createHmac } from "crypto";

export interface Call {
	url: string;
	body: string;
	/** Made anew for each try, since a signature may cover the time. */
	headers: () => Record<string, string>;
	/** Milliseconds for all tries together. */
	patience: number;
}

export interface Outcome {
	ok: boolean;
	/** 0 where no answer came. */
	status: number;
	/** Whether the answer is an earlier try's. */
	replayed: boolean;
	tries: number;
	body: unknown;
}

/** A twin is at work, too many calls, or not now: the service has done nothing yet, or will not do it twice. */
const TRY_AGAIN = [409, 429, 503];

const FIRST_WAIT = 100;
const LONGEST_WAIT = 2000;

/** HMAC-SHA256 of the parts, one after the other. */
export function sign(secret: string, encoding: BinaryToTextEncoding, parts: string[]): string {
	const mac = createHmac("sha256", secret);
	parts.forEach((part) => mac.update(part, "utf8"));
	return mac.digest(encoding);
}

/** What signed text begins with where a signature covers the method and the path, as they are sent. */
export function target(url: string): string {
	return `POST ${new URL(url).pathname}.`;
}

/** Posts until there is an answer to keep, or the time is over. Only for what may arrive twice. */
export async function call(request: Call): Promise<Outcome> {
	const end = Date.now() + request.patience;
	// One try that hangs leaves time for another.
	const longest = request.patience / 2;
	for (let tries = 1; ; tries++) {
		const { outcome, retryAfter } = await attempt(request, Math.min(longest, end - Date.now()), tries);
		const again = outcome.status === 0 || TRY_AGAIN.includes(outcome.status);
		const wait = retryAfter ?? backOff(tries);
		if (!again || Date.now() + wait >= end) {
			return outcome;
		}
		await new Promise((resolve) => setTimeout(resolve, wait));
	}
}

async function attempt(request: Call, timeout: number, tries: number): Promise<{ outcome: Outcome; retryAfter?: number }> {
	const headers = { "Content-Type": "application/json", ...request.headers() };
	try {
		const response = await fetch(request.url, {
			method: "POST",
			headers,
			body: request.body,
			redirect: "manual",
			signal: AbortSignal.timeout(Math.max(1, timeout)),
		});
		const { ok, status } = response;
		const replayed = response.headers.get("Idempotent-Replayed") === "true";
		const outcome = { ok, status, replayed, tries, body: parsed(await response.text()) };
		return { outcome, retryAfter: milliseconds(response.headers.get("Retry-After")) };
	} catch {
		return { outcome: { ok: false, status: 0, replayed: false, tries, body: null } };
	}
}

/** `Retry-After` is a number of seconds or a date (RFC 9110, section 10.2.3). */
function milliseconds(retryAfter: string | null): number | undefined {
	if (!retryAfter) {
		return undefined;
	}
	const wait = /^\d+$/.test(retryAfter) ? Number(retryAfter) * 1000 : Date.parse(retryAfter) - Date.now();
	return Number.isNaN(wait) ? undefined : Math.max(0, wait);
}

function backOff(tries: number): number {
	return Math.random() * Math.min(LONGEST_WAIT, FIRST_WAIT * 2 ** tries);
}

function parsed(text: string): unknown {
	try {
		return JSON.parse(text);
	} catch {
		return text;
	}
}
