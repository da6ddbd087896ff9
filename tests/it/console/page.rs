//! The console's page in a browser.

use serde_json::{Value, json};

use crate::support::{Browser, Database, Route, SECRET, Service, Setup};

/// What a reader with a keyboard, a screen reader or weak eyes stumbles over.
const FLAWS: &str = r#"
const flaws = [];
const all = (selector) => [...document.querySelectorAll(selector)];
const seen = (node) => node.checkVisibility({ visibilityProperty: true });
if (!document.documentElement.lang) flaws.push("no lang");
if (!document.title) flaws.push("no title");
for (const landmark of ["h1", "header", "main", "nav"]) if (all(landmark).length !== 1) flaws.push(`not one ${landmark}`);
const ids = all("[id]").map((node) => node.id);
if (new Set(ids).size !== ids.length) flaws.push("an id twice");
for (const node of all("input, textarea, select")) if (!node.labels.length) flaws.push(`no label: ${node.id}`);
for (const node of all("button, a")) if (!node.textContent.trim()) flaws.push(`no name: ${node.outerHTML}`);
for (const node of all("svg, img")) if (!node.getAttribute("aria-label") && !node.alt) flaws.push("a picture without words");
for (const name of ["aria-labelledby", "aria-describedby"])
  for (const node of all(`[${name}]`)) if (!document.getElementById(node.getAttribute(name))) flaws.push(`${name} leads nowhere`);
for (const node of all("[tabindex]")) if (node.tabIndex > 0) flaws.push("an order of its own");
const levels = all("h1, h2, h3, h4").map((node) => Number(node.tagName[1]));
if (levels.some((level, at) => at > 0 && level > levels[at - 1] + 1)) flaws.push("a heading level left out");
const colour = (text) => (text.match(/[\d.]+/g) ?? []).map(Number);
const light = (rgb) => {
  const [r, g, b] = rgb.slice(0, 3).map((v) => (v / 255 <= 0.04045 ? v / 255 / 12.92 : ((v / 255 + 0.055) / 1.055) ** 2.4));
  return 0.2126 * r + 0.7152 * g + 0.0722 * b;
};
const ground = (node) => {
  for (let at = node; at; at = at.parentElement) {
    const rgb = colour(getComputedStyle(at).backgroundColor);
    if (rgb.length === 3 || rgb[3] > 0) return rgb;
  }
  return [255, 255, 255];
};
for (const node of all("body *")) {
  const words = [...node.childNodes].some((child) => child.nodeType === 3 && child.textContent.trim());
  if (!(words || node.value) || !seen(node) || node.disabled) continue;
  const [one, other] = [light(colour(getComputedStyle(node).color)), light(ground(node))].sort((a, b) => b - a);
  const contrast = (one + 0.05) / (other + 0.05);
  if (contrast < 4.5) flaws.push(`contrast ${contrast.toFixed(1)}: ${node.textContent.slice(0, 30)}`);
}
if (document.documentElement.scrollWidth > innerWidth) flaws.push("wider than the window");
return flaws;
"#;

/// What has moved, though nobody has touched it, by more than a trace.
const SHIFT: &str = r#"
const observer = new PerformanceObserver(() => {});
observer.observe({ type: "layout-shift", buffered: true });
const shifts = observer.takeRecords().filter((shift) => !shift.hadRecentInput && shift.value > 0.001);
return shifts.flatMap((shift) => shift.sources.map((source) => `${shift.value}: ${source.node?.nodeName} ${source.node?.textContent.slice(0, 40)}`));
"#;

async fn open(service: &Service) -> Browser {
    let browser = Browser::start().await;
    browser.open(&service.admin_url).await;
    browser
}

async fn text(browser: &Browser, id: &str) -> String {
    browser.run(&format!("return document.getElementById('{id}').textContent")).await.as_str().expect("text").to_owned()
}

async fn sign_and_send(browser: &Browser, tenant: &str, ids: &str, secret: &str) -> String {
    for (selector, value) in [("#tenant", tenant), ("#ids", ids), ("#secret", secret)] {
        browser.run(&format!("document.querySelector('{selector}').value = ''")).await;
        browser.type_into(selector, value).await;
    }
    browser.click("#send").await;
    browser.until("document.getElementById('outcome').textContent.startsWith('Status ')").await;
    text(browser, "outcome").await
}

#[tokio::test]
async fn the_page_shows_what_happens_and_moves_nothing_meanwhile() {
    let database = Database::new().await;
    let service = Setup::on(&database).webhooks(&[Route::new("/webhooks/dialog")]).start().await;
    let id = database.customer("acme42", "Ann").await;
    let browser = open(&service).await;
    browser.until("document.getElementById('readiness').textContent === 'ready'").await;
    browser.until("document.getElementById('statuses').textContent === 'No requests yet'").await;
    for _ in 0..20 {
        service.lookup("acme42", &[id]).await;
        service.webhook("/webhooks/dialog", "k", "{}").await;
    }
    browser.until("document.getElementById('statuses').textContent === 'Since the start: 40 × 200'").await;
    browser.until("Number(document.getElementById('rate').textContent) > 1").await;
    for quantile in ["p50", "p95", "p99"] {
        assert!(text(&browser, quantile).await.ends_with(" ms"), "{quantile}");
    }
    assert_eq!(text(&browser, "failed").await, "0 %");
    assert_eq!(text(&browser, "webhooks").await, "/webhooks/dialog2095 %0");
    let cache = text(&browser, "cache").await;
    assert!(cache.starts_with("local") && cache.ends_with("95 %"), "{cache}");
    assert!(text(&browser, "dependencies").await.contains("Postgresup"));
    browser.until("document.querySelectorAll('#audit tr').length === 20").await;
    browser.until("document.getElementById('line').getAttribute('d').startsWith('M')").await;
    assert_eq!(browser.run(SHIFT).await, json!([]), "what has moved, and how far");
    assert_eq!(browser.complaints().await, json!([]));
}

#[tokio::test]
async fn a_lookup_is_signed_in_the_browser_and_its_secret_stays_there() {
    let database = Database::new().await;
    let service = Setup::on(&database).start().await;
    let (ann, ben) = (database.customer("acme42", "Ann Example").await, database.customer("acme42", "Ben Example").await);
    let browser = open(&service).await;
    browser.until("!document.getElementById('main').hidden").await;

    let outcome = sign_and_send(&browser, "acme42", &format!("{ann}, {ben}"), SECRET).await;
    assert!(outcome.starts_with("Status 200,") && outcome.ends_with("cache: miss"), "{outcome}");
    let answer: Value = serde_json::from_str(&text(&browser, "answer").await).expect("JSON");
    assert_eq!((&answer["output"]["count"], &answer["output"]["customers"][1]["name"]), (&2.into(), &"Ben Example".into()));
    browser.until("document.querySelectorAll('#audit tr').length === 1").await;

    let kept = "return [localStorage.length, sessionStorage.length, document.cookie, location.href.includes('?')]";
    assert_eq!(browser.run(kept).await, json!([0, 0, "", false]));
    let requests = browser.requests().await;
    let sent: Vec<_> = requests.iter().filter_map(|sent| sent["request"]["url"].as_str()).collect();
    let lookup = format!("{}/console/data-action", service.admin_url);
    assert!(sent.contains(&lookup.as_str()), "{sent:?}");
    assert!(sent.iter().all(|url| url.starts_with(&service.admin_url)), "nothing from elsewhere: {sent:?}");
    let all = Value::Array(requests).to_string();
    assert!(all.contains("X-CXone-Signature") && all.contains(&ann.to_string()), "the lookup was looked at");
    assert!(!all.contains(SECRET), "the secret has left");
    assert_eq!(browser.complaints().await, json!([]));

    let outcome = sign_and_send(&browser, "acme42", &ann.to_string(), "another secret, which nobody here knows").await;
    assert!(outcome.starts_with("Status 401,"), "{outcome}");
    assert!(text(&browser, "answer").await.contains("invalid_signature"));
}

#[tokio::test]
async fn the_browser_signs_as_the_settings_say() {
    let database = Database::new().await;
    let setup = Setup::on(&database).set("CXDA_SIGNING__HEADER", "X-Own-Signature").set("CXDA_SIGNING__ENCODING", "base64");
    let service = setup.set("CXDA_SIGNING__TIMESTAMP_HEADER", "X-Own-Timestamp").start().await;
    let id = database.customer("acme42", "Änne 東").await;
    let browser = open(&service).await;
    browser.until("!document.getElementById('main').hidden").await;
    browser.type_into("#key-id", "default").await;
    let outcome = sign_and_send(&browser, "acme42", &id.to_string(), SECRET).await;
    assert!(outcome.starts_with("Status 200,"), "{outcome}: {}", text(&browser, "answer").await);
    assert!(text(&browser, "answer").await.contains("Änne 東"));
}

#[tokio::test]
async fn the_page_can_be_read_by_everybody() {
    let database = Database::new().await;
    let service = Setup::on(&database).webhooks(&[Route::new("/webhooks/dialog")]).start().await;
    let id = database.customer("acme42", "Ann").await;
    let browser = open(&service).await;
    browser.until("!document.getElementById('main').hidden").await;
    sign_and_send(&browser, "acme42", &id.to_string(), SECRET).await;
    browser.until("document.querySelectorAll('#audit tr').length === 1").await;
    for (scheme, width) in [("light", 1280), ("dark", 1280), ("light", 390), ("dark", 390), ("light", 320)] {
        browser.tool("Emulation.setEmulatedMedia", json!({"features": [{"name": "prefers-color-scheme", "value": scheme}]})).await;
        let size = json!({"width": width, "height": 900, "deviceScaleFactor": 1, "mobile": width < 1000});
        browser.tool("Emulation.setDeviceMetricsOverride", size).await;
        assert_eq!(browser.run(FLAWS).await, json!([]), "{scheme}, {width} wide");
    }
    browser.type_into("#secret", "\u{e004}").await; // the Tab key
    let ringed = "return [document.activeElement.id, getComputedStyle(document.activeElement).outlineStyle]";
    assert_eq!(browser.run(ringed).await, json!(["send", "solid"]), "where the keyboard is can be seen");
}

#[tokio::test]
async fn where_a_browser_cannot_sign_the_page_says_so() {
    let database = Database::new().await;
    let service = Setup::on(&database).start().await;
    let browser = Browser::start().await;
    let insecure = "Object.defineProperty(Crypto.prototype, 'subtle', { get: () => undefined })";
    browser.tool("Page.addScriptToEvaluateOnNewDocument", json!({ "source": insecure })).await;
    browser.open(&service.admin_url).await;
    browser.until("!document.getElementById('main').hidden").await;
    browser.until("document.getElementById('insecure').checkVisibility() && document.getElementById('send').disabled").await;
}

#[tokio::test]
async fn a_paused_page_rests_and_one_that_lost_its_service_says_so() {
    let database = Database::new().await;
    let service = Setup::on(&database).start().await;
    let browser = open(&service).await;
    browser.until("document.getElementById('readiness').textContent === 'ready'").await;
    browser.click("#pause").await;
    assert_eq!(browser.run("return document.getElementById('pause').ariaPressed").await, "true");
    service.stop().await;
    browser.click("#pause").await;
    browser.until("document.getElementById('readiness').textContent === 'not reached'").await;
}
