"use strict";

// Numbers are counts since the service's start. What happens now is the difference between two readings.
const POLL_MS = 2000;
const WINDOW_MS = 10000;
const READINGS = 61;

const readings = []; // the newest last
let signing = null;

// Where the page sends its lookup.
const LOOKUP = "/console/data-action";
let paused = false;

const byId = (id) => document.getElementById(id);
const total = (counts) => Object.values(counts ?? {}).reduce((sum, count) => sum + count, 0);
const newest = () => readings[readings.length - 1];

function setText(node, text) {
  if (node.textContent !== text) node.textContent = text; // nothing to tell where nothing has changed
}

function number(value) {
  return value.toLocaleString("en", { maximumFractionDigits: value < 100 ? 1 : 0 });
}

function share(part, whole) {
  return whole > 0 ? `${number((100 * part) / whole)} %` : "–";
}

function duration(seconds) {
  if (seconds === null) return "–";
  return seconds < 1 ? `${number(seconds * 1000)} ms` : `${number(seconds)} s`;
}

// How Prometheus does it: evenly spread within a bucket; past the last bound, that bound.
function quantile(q, bounds, within, count) {
  if (count <= 0) return null;
  const rank = q * count;
  const at = within.findIndex((below) => below >= rank);
  if (at < 0) return bounds[bounds.length - 1];
  const [lower, before] = at === 0 ? [0, 0] : [bounds[at - 1], within[at - 1]];
  return lower + ((bounds[at] - lower) * (rank - before)) / (within[at] - before);
}

function difference(to, from) {
  return { bounds: to.bounds, within: to.within.map((n, at) => n - (from.within[at] ?? 0)), count: to.count - from.count };
}

function keep(state) {
  const last = newest();
  if (last && last.at_ms === state.at_ms) return;
  // Counts that fall are those of a new process.
  if (last && total(state.metrics.requests) < total(last.metrics.requests)) readings.length = 0;
  readings.push(state);
  if (readings.length > READINGS) readings.shift();
}

// The reading that the last ten seconds began with.
function before() {
  const now = newest();
  return readings.find((reading) => now.at_ms - reading.at_ms <= WINDOW_MS + POLL_MS / 2) ?? now;
}

function failures(requests) {
  return Object.entries(requests).reduce((sum, [status, count]) => sum + (status >= "500" ? count : 0), 0);
}

function showTraffic(now, then) {
  const seconds = (now.at_ms - then.at_ms) / 1000;
  const requests = total(now.metrics.requests) - total(then.metrics.requests);
  const latency = difference(now.metrics.latency, then.metrics.latency);
  setText(byId("rate"), seconds > 0 ? number(requests / seconds) : "–");
  setText(byId("failed"), share(failures(now.metrics.requests) - failures(then.metrics.requests), requests));
  for (const [id, q] of [["p50", 0.5], ["p95", 0.95], ["p99", 0.99]]) {
    setText(byId(id), duration(quantile(q, latency.bounds, latency.within, latency.count)));
  }
  const statuses = Object.entries(now.metrics.requests).map(([status, count]) => `${number(count)} × ${status}`);
  setText(byId("statuses"), statuses.length ? `Since the start: ${statuses.join(", ")}` : "No requests yet");
}

function showChart() {
  const rates = readings.slice(1).map((to, at) => {
    const from = readings[at];
    return (1000 * (total(to.metrics.requests) - total(from.metrics.requests))) / (to.at_ms - from.at_ms);
  });
  const most = Math.max(1, ...rates);
  const x = (at) => (600 * (READINGS - 1 - rates.length + at + 1)) / (READINGS - 1);
  const points = rates.map((rate, at) => `${x(at).toFixed(1)},${(58 - (54 * rate) / most).toFixed(1)}`);
  const line = points.length ? `M${points.join("L")}` : "";
  byId("line").setAttribute("d", line);
  byId("area").setAttribute("d", line && `${line}L600,60L${x(0).toFixed(1)},60Z`);
  setText(byId("most"), rates.length ? `Two minutes, at most ${number(Math.max(...rates))} a second` : "");
}

function cell(content, className, label) {
  const td = document.createElement("td");
  if (className) td.className = className;
  if (label) {
    td.dataset.label = label;
    td.setAttribute("role", "cell");
  }
  td.append(...[content].flat());
  return td;
}

function row(name, ...cells) {
  const tr = document.createElement("tr");
  const th = document.createElement("th");
  th.scope = "row";
  th.textContent = name;
  tr.append(th, ...cells);
  return tr;
}

// Only where something has changed, so that nobody who reads or selects is disturbed.
function fill(id, rows) {
  const made = document.createElement("tbody");
  made.append(...rows);
  const body = byId(id);
  if (body.innerHTML !== made.innerHTML) body.replaceChildren(...made.childNodes);
}

function span(text, className) {
  const node = document.createElement("span");
  node.className = className;
  node.textContent = text;
  return node;
}

function stateCell(text, grade) {
  return cell(span(text, `state ${grade}`));
}

const GRADES = { up: "good", closed: "good", ready: "good", down: "bad", open: "bad", half_open: "warn", degraded: "warn", off: "off" };
const NAMES = { half_open: "half open", database_unavailable: "database unavailable", shutting_down: "shutting down" };

function graded(word) {
  return stateCell(NAMES[word] ?? word, GRADES[word] ?? "bad");
}

function showDependencies({ readiness, metrics }) {
  const checks = readiness.checks ?? { postgres: "down" };
  const names = { postgres: "Postgres", redis: "Redis, cache", idempotency_redis: "Redis, idempotency keys" };
  const state = (key) => (checks[`${key}_refusal`] ? stateCell(`refuses: ${checks[`${key}_refusal`]}`, "bad") : graded(checks[key]));
  const rows = Object.entries(names).filter(([key]) => checks[key]).map(([key, name]) => row(name, state(key)));
  rows.push(...Object.entries(metrics.breakers).map(([name, state]) => row(`Breaker: ${name}`, graded(state))));
  const lag = metrics.notification_lag;
  const median = quantile(0.5, lag.bounds, lag.within, lag.count);
  const heard = median === null ? "heard of" : `heard of, in ${duration(median)}`;
  rows.push(row("Changes of customers", metrics.listener_up ? stateCell(heard, "good") : stateCell("not heard of; cache passed by", "warn")));
  const { in_use = 0, idle = 0 } = metrics.pool;
  rows.push(row("Postgres connections", cell(`${in_use} in use, ${idle} idle`)));
  rows.push(row("Lookups that wait", cell(number(metrics.lookups_waiting))));
  rows.push(row("Transactions rolled back", cell(number(metrics.rollbacks))));
  fill("dependencies", rows);
}

function nothing(text, columns, label) {
  const tr = document.createElement("tr");
  const td = cell(text, "quiet nothing", label);
  td.colSpan = columns;
  tr.append(td);
  return tr;
}

function showCache(now, then) {
  const found = (counts) => (counts.hit ?? 0) + (counts.absent ?? 0);
  const rows = Object.entries(now.metrics.cache).map(([tier, counts]) => {
    const earlier = then.metrics.cache[tier] ?? {};
    const lately = share(found(counts) - found(earlier), total(counts) - total(earlier));
    return row(tier, cell(lately, "number"), cell(share(found(counts), total(counts)), "number"));
  });
  fill("cache", rows.length ? rows : [nothing("Nothing was looked for yet", 3)]);
}

function showWebhooks({ routes, metrics }) {
  const rows = routes.map((route) => {
    const counts = metrics.once[route] ?? {};
    const all = total(counts);
    const numbers = [number(all), share(all - (counts.first ?? 0), all), number(counts.unknown ?? 0)];
    return row(route, ...numbers.map((text) => cell(text, "number")));
  });
  fill("webhooks", rows.length ? rows : [nothing("No routes are set", 4)]);
}

function showAudit({ audit }) {
  const rows = (audit ?? []).map((entry) => {
    const tr = document.createElement("tr");
    tr.setAttribute("role", "row");
    const time = document.createElement("time");
    time.dateTime = entry.occurred_at;
    time.textContent = entry.occurred_at.slice(11, 23);
    const more = entry.customers > 1 ? `+${entry.customers - 1}` : "";
    const missing = entry.missing > 0 ? `${entry.missing} missing` : "";
    tr.append(
      cell(time, "clock", "Time"),
      cell(entry.tenant, "", "Tenant"),
      cell(entry.source, "", "From"),
      cell(entry.key_id ?? "–", "", "Key"),
      cell([span(entry.first_id ?? "–", "id"), span([more, missing].filter(Boolean).join(", "), "quiet")], "long", "Customers"),
      cell(span(entry.request_id ?? "–", "id"), "long", "Request"),
    );
    return tr;
  });
  const why = audit === null ? "The audit log could not be read" : "No lookup was answered since yesterday";
  fill("audit", rows.length ? rows : [nothing(why, 6, "")]);
}

function showReadiness(word, grade) {
  const node = byId("readiness");
  node.className = `state ${grade}`;
  setText(node, word);
}

function show(state) {
  keep(state);
  const [now, then] = [newest(), before()];
  signing = state.signing;
  const { status } = state.readiness;
  setText(byId("version"), state.version);
  showReadiness(NAMES[status] ?? status, GRADES[status] ?? "bad");
  showTraffic(now, then);
  showChart();
  showDependencies(state);
  showCache(now, then);
  showWebhooks(state);
  showAudit(state);
  setText(byId("updated"), `${new Date(state.at_ms).toISOString().slice(11, 19)} UTC`);
  byId("main").hidden = false;
}

async function poll() {
  if (!paused && !document.hidden) {
    try {
      const answer = await fetch("/console/state.json", { cache: "no-store", signal: AbortSignal.timeout(5000) });
      if (!answer.ok) throw new Error(`status ${answer.status}`);
      show(await answer.json());
    } catch {
      showReadiness("not reached", "bad");
    }
  }
  setTimeout(poll, POLL_MS);
}

// Signing: the secret goes into the browser's own HMAC and nowhere else.

async function sign(secret, text) {
  const bytes = new TextEncoder();
  const key = await crypto.subtle.importKey("raw", bytes.encode(secret), { name: "HMAC", hash: "SHA-256" }, false, ["sign"]);
  const tag = new Uint8Array(await crypto.subtle.sign("HMAC", key, bytes.encode(text)));
  if (signing.encoding === "base64") return btoa(String.fromCharCode(...tag));
  return Array.from(tag, (byte) => byte.toString(16).padStart(2, "0")).join("");
}

async function signedRequest() {
  const ids = byId("ids").value.split(/[\s,]+/).filter(Boolean);
  const input = { customer_ids: ids, tenant_id: byId("tenant").value };
  const body = JSON.stringify({ action: "process_customer_batch", input });
  const headers = { "Content-Type": "application/json" };
  let signed = body;
  if (signing.timestamp_header) {
    const timestamp = String(Math.floor(Date.now() / 1000));
    headers[signing.timestamp_header] = timestamp;
    signed = `${timestamp}.${body}`;
  }
  if (signing.target) signed = `POST ${LOOKUP}.${signed}`;
  headers[signing.header] = await sign(byId("secret").value, signed);
  const keyId = byId("key-id").value;
  if (keyId) headers[signing.key_id_header] = keyId;
  return { method: "POST", headers, body, cache: "no-store", credentials: "omit", signal: AbortSignal.timeout(20000) };
}

function indented(text) {
  try {
    return JSON.stringify(JSON.parse(text), null, 2);
  } catch {
    return text;
  }
}

async function lookUp(event) {
  event.preventDefault();
  const button = byId("send");
  button.disabled = true;
  setText(byId("outcome"), "Sending");
  byId("answer").textContent = "";
  try {
    const request = await signedRequest();
    const began = performance.now();
    const answer = await fetch(LOOKUP, request);
    const text = await answer.text();
    const facts = [`Status ${answer.status}`, duration((performance.now() - began) / 1000)];
    const cache = answer.headers.get("x-cache");
    if (cache) facts.push(`cache: ${cache}`);
    setText(byId("outcome"), facts.join(", "));
    byId("answer").textContent = indented(text);
  } catch (error) {
    setText(byId("outcome"), `No answer (${error.name})`);
  }
  button.disabled = false;
}

function togglePause() {
  paused = !paused;
  byId("pause").setAttribute("aria-pressed", String(paused));
}

byId("lookup").addEventListener("submit", lookUp);
byId("pause").addEventListener("click", togglePause);
if (!globalThis.crypto?.subtle) {
  byId("insecure").hidden = false;
  byId("send").disabled = true;
}
poll();
