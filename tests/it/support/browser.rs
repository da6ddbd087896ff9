//! A headless Chromium, driven by `WebDriver`.

use std::io::{BufRead, BufReader};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use reqwest::Method;
use serde_json::{Value, json};

use super::{client, scratch_dir, wait_until, watch, watchdog};

const FLAGS: [&str; 9] = [
    "--headless",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--window-size=1280,900",
];

/// A browser with one tab and a new profile, ended when dropped.
#[derive(Debug)]
pub(crate) struct Browser {
    driver: Child,
    /// The browser itself, which outlives its driver.
    pid: u32,
    session: String,
}

impl Browser {
    pub(crate) async fn start() -> Self {
        let mut driver = Command::new("chromedriver");
        driver
            .arg("--port=0")
            .env("HOME", scratch_dir())
            .env_remove("XDG_CONFIG_HOME")
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::null());
        let mut driver = driver.spawn().expect("these tests need Chromium: apt-get install chromium chromium-driver");
        watch(driver.id(), "KILL");
        let lines = BufReader::new(driver.stdout.take().expect("a pipe")).lines().map_while(Result::ok);
        let port = lines.filter_map(|line| line.split_once("successfully on port ").map(|(_, port)| port.trim_end_matches('.').to_owned()));
        let port = { port }.next().expect("chromedriver says where it listens");
        let mut this = Self { driver, pid: 0, session: format!("http://127.0.0.1:{port}/session") };
        let profile = format!("--user-data-dir={}", scratch_dir().display());
        let flags: Vec<_> = FLAGS.into_iter().chain([profile.as_str()]).collect();
        let wanted = json!({"browserName": "chrome", "goog:chromeOptions": {"args": flags},
            "goog:loggingPrefs": {"browser": "ALL", "performance": "ALL"}});
        let session = this.ask(Method::POST, "", json!({"capabilities": {"alwaysMatch": wanted}})).await;
        this.pid = session["capabilities"]["goog:processID"].as_u64().and_then(|pid| pid.try_into().ok()).expect("a process id");
        watch(this.pid, "KILL");
        this.session = format!("{}/{}", this.session, session["sessionId"].as_str().expect("a session"));
        this
    }

    async fn ask(&self, method: Method, path: &str, body: Value) -> Value {
        let call = client().request(method, format!("{}{path}", self.session)).timeout(Duration::from_mins(1)).body(body.to_string());
        let answer = call.send().await.expect("chromedriver answers").text().await.expect("a whole answer");
        let answer: Value = serde_json::from_str(&answer).unwrap_or_else(|e| panic!("not JSON ({e}): {answer}"));
        assert!(answer["value"]["error"].is_null(), "{path}: {answer}");
        answer["value"].clone()
    }

    pub(crate) async fn open(&self, url: &str) {
        self.ask(Method::POST, "/url", json!({ "url": url })).await;
    }

    /// What a script returns that is run in the page.
    pub(crate) async fn run(&self, script: &str) -> Value {
        self.ask(Method::POST, "/execute/sync", json!({"script": script, "args": []})).await
    }

    /// Waits until an expression in the page is true.
    pub(crate) async fn until(&self, expression: &str) {
        let script = format!("return Boolean({expression})");
        wait_until(expression, async || (self.run(&script).await == true).then_some(())).await;
    }

    /// Types into what a selector finds.
    pub(crate) async fn type_into(&self, selector: &str, text: &str) {
        let element = self.element(selector).await;
        self.ask(Method::POST, &format!("/element/{element}/value"), json!({ "text": text })).await;
    }

    pub(crate) async fn click(&self, selector: &str) {
        let element = self.element(selector).await;
        self.ask(Method::POST, &format!("/element/{element}/click"), json!({})).await;
    }

    async fn element(&self, selector: &str) -> String {
        let found = self.ask(Method::POST, "/element", json!({"using": "css selector", "value": selector})).await;
        found.as_object().and_then(|ids| ids.values().next()?.as_str()).expect("an element").to_owned()
    }

    /// A command of the `DevTools` protocol.
    pub(crate) async fn tool(&self, command: &str, parameters: Value) {
        self.ask(Method::POST, "/goog/cdp/execute", json!({"cmd": command, "params": parameters})).await;
    }

    /// What the page complained of.
    pub(crate) async fn complaints(&self) -> Value {
        self.ask(Method::POST, "/se/log", json!({"type": "browser"})).await
    }

    /// Every request that pages have sent, with its URL, headers and body; but for the browser's own first page.
    pub(crate) async fn requests(&self) -> Vec<Value> {
        let log = self.ask(Method::POST, "/se/log", json!({"type": "performance"})).await;
        let events = log.as_array().expect("a log").iter().map(|entry| entry["message"].as_str().expect("an event"));
        let events = events.map(|event| serde_json::from_str::<Value>(event).expect("JSON")["message"].take());
        let sent = events.filter(|event| event["method"].as_str().is_some_and(|method| method.starts_with("Network.requestWillBeSent")));
        let own = |sent: &Value| {
            sent["documentURL"].as_str().is_some_and(|page| page.starts_with("chrome:") || page.starts_with("chrome-untrusted:"))
        };
        sent.map(|mut event| event["params"].take()).filter(|sent| !own(sent)).collect()
    }
}

impl Drop for Browser {
    fn drop(&mut self) {
        let _ = self.driver.kill();
        let _ = self.driver.wait();
        watchdog::forget(self.driver.id());
        if let Some(browser) = i32::try_from(self.pid).ok().filter(|pid| *pid > 0) {
            let _ = kill(Pid::from_raw(browser), Signal::SIGKILL);
            watchdog::forget(self.pid);
        }
    }
}
