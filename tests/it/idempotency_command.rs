//! `idempotency show` and `idempotency resolve`: what somebody says who looked whether the work was done. Contract, section 4.

use std::collections::BTreeSet;
use std::path::PathBuf;
use std::time::Duration;

use chrono::{DateTime, TimeDelta, Utc};
use nix::sys::signal::Signal;
use reqwest::Method;

use crate::support::{
    Answer, Database, Outcome, Redis, Reply, Route, SECRET, Service, Setup, Tool, Upstream, free_port, scratch_file, send, settings_file,
    sign, sign_with, wait_until,
};

const EXECUTE: &str = "/genesys/actions/{action_id}/execute";
const HOOK: &str = "/webhooks/action";
const FORGETFUL: &str = "/webhooks/forgetful";
const NEXT_SECRET: &str = "the next secret of the tests, 32 bytes at least";
const NOBODYS: &str = "0000000000000000000000000000000000000000000000000000000000000000";

/// A service that executes data actions by a route of its own, with keys in Redis, and by a webhook, with keys in Postgres.
struct Stage {
    service: Service,
    genesys: Upstream,
    /// Gives everybody the same token.
    _login: Upstream,
    redis: Redis,
    database: Database,
    file: PathBuf,
}

/// One line of `show`.
#[derive(Debug)]
struct Shown {
    key: String,
    route: String,
    since: DateTime<Utc>,
    until: DateTime<Utc>,
}

impl Stage {
    async fn new() -> Self {
        Self::with("30s").await
    }

    async fn with(lease: &str) -> Self {
        let (genesys, login) = (Upstream::start(), Upstream::start());
        login.answer(Answer::new(200).body(r#"{"access_token":"t","token_type":"bearer","expires_in":3600}"#));
        let routes = [
            Route::new(HOOK).store("postgres").keep("2h").lease(lease).set("action", "{ genesys = { action_id = 'a' } }"),
            Route::new(FORGETFUL).set("action", "{ genesys = { action_id = 'a' } }"),
        ];
        let section = format!(
            "[genesys]\nbase_url = 'http://127.0.0.1:{}'\nlogin_url = 'http://127.0.0.1:{}/oauth/token'\nallow_http = true\n\
            client_id = 'c'\nclient_secret = 's'\nstore = 'redis'\nkeep = '1h'\nlease = '{lease}'\n\n\
            [[signing.keys]]\nid = 'next'\nsecret = '{NEXT_SECRET}'\n\n",
            genesys.port, login.port
        );
        let file = scratch_file(section + &settings_file(&routes));
        let (database, redis) = (Database::new().await, Redis::start().await);
        let setup = Setup::on(&database).redis(&redis).set("CXDA_CONFIG", file.to_str().unwrap());
        Self { service: setup.start().await, genesys, _login: login, redis, database, file }
    }

    /// With the service's settings, in the environment and in the file that it names.
    fn tool(&self, args: &[&str]) -> Tool {
        let tool = Tool::new(&["idempotency"]).args(args).set("CXDA_CONFIG", self.file.to_str().unwrap());
        tool.set("DATABASE_URL", &self.database.url).set("REDIS_URL", self.redis.url()).set("CXDA_SIGNING__SECRET", SECRET)
    }

    async fn run(&self, args: &[&str], code: i32) -> Outcome {
        let outcome = self.tool(args).run().await;
        assert_eq!(outcome.code, Some(code), "{args:?}: {}", outcome.printed());
        outcome
    }

    /// Everything that is listed, or what is listed of a key.
    async fn show(&self, key: Option<&str>) -> Vec<Shown> {
        let args: Vec<_> = ["show"].into_iter().chain(key).collect();
        shown(&self.run(&args, 0).await)
    }

    /// An execution that its caller names.
    async fn execute(&self, key: &str, body: &str) -> Reply {
        send(self.execution(key, body)).await
    }

    fn execution(&self, key: &str, body: &str) -> reqwest::RequestBuilder {
        let call = self.service.call(Method::POST, "/genesys/actions/a/execute").header("Idempotency-Key", key);
        call.header("X-CXone-Signature", sign(body)).header("X-CXone-Key-Id", "default").body(body.to_owned())
    }

    /// A webhook, or an execution, of that name.
    async fn post(&self, route: &str, key: &str) -> Reply {
        match route {
            EXECUTE => self.execute(key, r#"{"a":1}"#).await,
            hook => self.service.webhook(hook, key, r#"{"a":1}"#).await,
        }
    }

    /// A call of which nobody knows what became of it; gives its key as the log has it.
    async fn lose(&self, route: &str, key: &str) -> String {
        let before = self.warned_of(route).len();
        self.genesys.answer_once(Answer::cut());
        self.post(route, key).await.problem(502, "unknown_outcome");
        wait_until("the log names the key", async || self.warned_of(route).get(before).cloned()).await
    }

    /// The keys that the log warns of.
    fn warned_of(&self, route: &str) -> Vec<String> {
        let warnings = self.service.log().into_iter().filter(|line| line["level"] == "WARN" && line["route"] == route);
        warnings.filter_map(|line| line["key"].as_str().map(str::to_owned)).collect()
    }

    /// A call that is made.
    async fn is_made(&self, route: &str, key: &str) -> Reply {
        let before = self.genesys.started();
        let reply = self.post(route, key).await;
        assert_eq!((reply.status, reply.replayed(), self.genesys.started()), (200, false, before + 1), "{route}: {}", reply.text());
        reply
    }

    /// An answer that is given without a call.
    async fn is_replayed(&self, route: &str, key: &str) -> Reply {
        let before = self.genesys.started();
        let reply = self.post(route, key).await;
        assert_eq!((reply.replayed(), self.genesys.started()), (true, before), "{route}: {}", reply.text());
        reply
    }

    async fn is_still_unknown(&self, route: &str, key: &str) {
        let before = self.genesys.started();
        self.post(route, key).await.problem(502, "unknown_outcome");
        assert_eq!(self.genesys.started(), before, "{route}");
    }

    /// For how long the answer under a key is kept from now on.
    async fn kept(&self, route: &str, key: &str) -> Duration {
        let millis = match route {
            EXECUTE => self.redis.run(&["PTTL", &format!("cxda:idem:v1:{{{key}}}:done")]).await,
            _ => {
                let sql = format!(
                    "SELECT (extract(epoch FROM expires_at - now()) * 1000)::bigint FROM idempotency \
                    WHERE state = 'done' AND key_hash = decode('{key}', 'hex')"
                );
                self.database.value::<i64>(&sql).await
            }
        };
        Duration::from_millis(u64::try_from(millis).expect("it is kept"))
    }
}

fn shown(outcome: &Outcome) -> Vec<Shown> {
    let is_key = |word: &str| word.len() == 64 && word.bytes().all(|b| b.is_ascii_digit() || (b'a'..=b'f').contains(&b));
    let lines = outcome.stdout.lines().map(|line| line.split_whitespace().collect::<Vec<_>>());
    let lines = lines.filter(|words| words.first().is_some_and(|word| is_key(word)));
    let time = |word: &str| word.parse().unwrap_or_else(|e| panic!("{word}: {e}"));
    lines
        .map(|words| match words[..] {
            [key, route, "since", since, "until", until] => {
                Shown { key: key.to_owned(), route: route.to_owned(), since: time(since), until: time(until) }
            }
            _ => panic!("not a key, a route and two times: {words:?}"),
        })
        .collect()
}

#[tokio::test]
async fn what_is_unknown_is_shown_with_its_key_its_route_and_its_times() {
    let stage = Stage::new().await;
    assert!(stage.show(None).await.is_empty());
    let before = Utc::now();
    let keys = [stage.lose(EXECUTE, "order-7").await, stage.lose(HOOK, "order-8").await];
    let after = Utc::now();
    let mut found = stage.show(None).await;
    found.sort_by(|a, b| a.route.cmp(&b.route));
    assert_eq!(found.iter().map(|shown| (&*shown.route, &shown.key)).collect::<Vec<_>>(), [(EXECUTE, &keys[0]), (HOOK, &keys[1])]);
    for (shown, hours) in found.iter().zip([1, 2]) {
        let slack = TimeDelta::seconds(2);
        assert!((before - slack..=after + slack).contains(&shown.since), "{shown:?}");
        assert!((before - slack..=after + slack).contains(&(shown.until - TimeDelta::hours(hours))), "{shown:?}");
    }
    for (names, key) in [(["order-7", &*keys[0]], &keys[0]), (["order-8", &*keys[1]], &keys[1])] {
        for name in names {
            let found = stage.show(Some(name)).await;
            assert_eq!(found.iter().map(|shown| &shown.key).collect::<Vec<_>>(), [key], "{name}");
        }
    }
    assert_eq!(stage.show(Some(&keys[0].to_uppercase())).await.len(), 1, "hex is hex");
}

#[tokio::test]
async fn a_key_of_which_the_outcome_is_known_is_not_there() {
    let stage = Stage::new().await;
    stage.is_made(EXECUTE, "done").await;
    stage.genesys.hold();
    let under_way = tokio::spawn(send(stage.execution("under-way", r#"{"a":1}"#)));
    stage.genesys.has_started(2).await;
    assert!(stage.show(None).await.is_empty());
    let answer = scratch_file("{}");
    for key in ["done", "under-way", "never-seen", NOBODYS] {
        for args in [&["show", key][..], &["resolve", key], &["resolve", key, "--answer", answer.to_str().unwrap()]] {
            let outcome = stage.run(args, 1).await;
            assert!(outcome.stderr.contains("no unknown outcome under this key"), "{args:?}: {}", outcome.printed());
            assert_eq!(outcome.stdout, "", "{args:?}");
        }
    }
    stage.genesys.release();
    let reply = under_way.await.unwrap();
    assert_eq!((reply.status, reply.replayed()), (200, false), "{}", reply.text());
    for key in ["done", "under-way"] {
        stage.is_replayed(EXECUTE, key).await;
    }
    // Nor is one of a process that died, before its lease is over.
    stage.genesys.hold();
    drop(tokio::spawn(send(stage.execution("died", r#"{"a":1}"#))));
    stage.genesys.has_started(3).await;
    stage.service.signal(Signal::SIGKILL);
    stage.run(&["show", "died"], 1).await;
}

#[tokio::test]
async fn what_a_killed_process_was_at_is_shown_once_its_lease_has_ended() {
    let stage = Stage::with("1s").await;
    for (route, nth) in [(EXECUTE, 1), (HOOK, 2)] {
        stage.genesys.hold();
        let call = match route {
            EXECUTE => stage.execution("k", r#"{"a":1}"#),
            hook => stage.service.hook(hook, "k", r#"{"a":1}"#),
        };
        drop(tokio::spawn(call.send()));
        stage.genesys.has_started(nth).await;
    }
    stage.service.signal(Signal::SIGKILL);
    let found = wait_until("both leases have ended", async || Some(stage.show(None).await).filter(|found| found.len() == 2)).await;
    assert_eq!(found.iter().map(|shown| &*shown.route).collect::<BTreeSet<_>>(), [EXECUTE, HOOK].into());
    for shown in found {
        stage.run(&["resolve", &shown.key], 0).await;
    }
    assert!(stage.show(None).await.is_empty());
}

#[tokio::test]
async fn a_key_that_is_freed_has_its_call_made() {
    let stage = Stage::new().await;
    for route in [EXECUTE, HOOK] {
        let hash = stage.lose(route, "by-hash").await;
        stage.lose(route, "by-name").await;
        for (name, key) in [(&*hash, "by-hash"), ("by-name", "by-name")] {
            stage.is_still_unknown(route, key).await;
            let outcome = stage.run(&["resolve", name], 0).await;
            assert!(!outcome.stdout.is_empty(), "it says what it did");
            stage.run(&["resolve", name], 1).await;
            stage.run(&["show", name], 1).await;
            let reply = stage.is_made(route, key).await;
            assert_eq!(stage.is_replayed(route, key).await.body, reply.body);
            stage.run(&["resolve", name], 1).await;
            assert_eq!(stage.is_replayed(route, key).await.body, reply.body, "an answer is never taken away");
        }
    }
}

#[tokio::test]
async fn an_answer_that_is_given_is_replayed_for_as_long_as_the_route_keeps_answers() {
    let stage = Stage::new().await;
    let body = b"{\"id\" : 7,\r\n \"x\":\"\x00\xff\" }\n".to_vec();
    let file = scratch_file(&body);
    for (route, hours) in [(EXECUTE, 1), (HOOK, 2)] {
        let hash = stage.lose(route, "k").await;
        let args = ["resolve", "k", "--answer", file.to_str().unwrap()];
        stage.run(&args, 0).await;
        stage.run(&args, 1).await;
        stage.run(&["resolve", &hash], 1).await;
        assert!(stage.show(None).await.is_empty());
        let reply = stage.is_replayed(route, "k").await;
        assert_eq!((reply.status, reply.header("content-type"), &reply.body), (200, Some("application/json"), &body));
        let (kept, whole) = (stage.kept(route, &hash).await, Duration::from_hours(hours));
        assert!(kept <= whole && whole.abs_diff(kept) < Duration::from_mins(2), "{route}: {kept:?}");
    }
    // It answers the payload that was sent, and no other.
    stage.execute("k", r#"{"a":2}"#).await.problem(422, "idempotency_key_reused");
    stage.service.webhook(HOOK, "k", r#"{"a":2}"#).await.problem(422, "idempotency_key_reused");
}

#[tokio::test]
async fn an_answer_may_be_of_any_status_and_type() {
    let stage = Stage::new().await;
    let (words, nothing) = (scratch_file("no such order"), scratch_file(""));
    for (key, file, status, kind) in [("a", &words, 404, "text/plain; charset=utf-8"), ("b", &nothing, 202, "application/json")] {
        let hash = stage.lose(EXECUTE, key).await;
        let status_text = status.to_string();
        let mut args = vec!["resolve", &hash, "--answer", file.to_str().unwrap(), "--status", &status_text];
        if kind != "application/json" {
            args.extend(["--content-type", kind]);
        }
        stage.run(&args, 0).await;
        let reply = stage.is_replayed(EXECUTE, key).await;
        assert_eq!((reply.status, reply.header("content-type")), (status, Some(kind)));
        assert_eq!(reply.body, std::fs::read(file).unwrap());
    }
    let hash = stage.lose(EXECUTE, "c").await;
    let outcome = stage.tool(&["resolve", &hash, "--answer", "-"]).input("by hand\n").run().await;
    assert_eq!(outcome.code, Some(0), "{}", outcome.printed());
    assert_eq!(stage.is_replayed(EXECUTE, "c").await.text(), "by hand\n");
}

#[tokio::test]
async fn what_cannot_be_meant_changes_nothing() {
    let stage = Stage::new().await;
    stage.lose(EXECUTE, "k").await;
    let answer = scratch_file("{}");
    let answer = answer.to_str().unwrap();
    let usage: [&[&str]; 8] = [
        &[],
        &["resolve"],
        &["show", "k", "l"],
        &["resolve", "k", "--status", "404"],
        &["resolve", "k", "--content-type", "text/plain"],
        &["resolve", "k", "--answer", answer, "--status", "99"],
        &["resolve", "k", "--answer", answer, "--status", "600"],
        &["resolve", "k", "--answer", answer, "--status", "fine"],
    ];
    for args in usage {
        stage.run(args, 2).await;
    }
    for key in ["", "two\nlines", "ü", &"k".repeat(256)] {
        for verb in ["show", "resolve"] {
            let outcome = stage.tool(&[verb, key]).run().await;
            assert!(matches!(outcome.code, Some(1 | 2)), "{verb} {key:?}: {}", outcome.printed());
            assert_ne!(outcome.stderr, "", "{verb} {key:?}");
        }
    }
    // No answer of these is ever kept, so none can be replayed.
    for status in ["301", "401", "409", "429", "503"] {
        let outcome = stage.tool(&["resolve", "k", "--answer", answer, "--status", status]).run().await;
        assert!(matches!(outcome.code, Some(1 | 2)) && outcome.stderr.contains(status), "{status}: {}", outcome.printed());
    }
    let outcome = stage.run(&["resolve", "k", "--answer", "/nowhere/answer"], 1).await;
    assert!(outcome.stderr.contains("/nowhere/answer"), "{}", outcome.stderr);
    stage.is_still_unknown(EXECUTE, "k").await;
}

#[tokio::test]
async fn a_content_type_is_what_a_header_can_hold() {
    let stage = Stage::new().await;
    stage.lose(EXECUTE, "k").await;
    let answer = scratch_file("{}");
    for kind in ["text/plain\nX-Y: z", "text/plain\r\n"] {
        let outcome = stage.tool(&["resolve", "k", "--answer", answer.to_str().unwrap(), "--content-type", kind]).run().await;
        assert!(matches!(outcome.code, Some(1 | 2)), "{kind:?}: {}", outcome.printed());
    }
    stage.is_still_unknown(EXECUTE, "k").await;
}

#[tokio::test]
async fn a_name_that_several_callers_gave_resolves_none_of_theirs() {
    let stage = Stage::new().await;
    let lose_next = async |key: &str| {
        stage.genesys.answer_once(Answer::cut());
        let (body, call) = (r#"{"a":1}"#, stage.service.call(Method::POST, "/genesys/actions/a/execute").header("Idempotency-Key", key));
        let call = call.header("X-CXone-Signature", sign_with(NEXT_SECRET, body)).header("X-CXone-Key-Id", "next").body(body);
        send(call).await.problem(502, "unknown_outcome");
    };
    // By whichever key a request was signed, its name is found.
    lose_next("theirs").await;
    stage.run(&["resolve", "theirs"], 0).await;

    lose_next("both").await;
    stage.lose(EXECUTE, "both").await;
    stage.lose(HOOK, "both").await;
    let found = stage.show(Some("both")).await;
    assert_eq!(found.iter().map(|shown| &shown.key).collect::<BTreeSet<_>>().len(), 3, "{found:?}");
    let outcome = stage.run(&["resolve", "both"], 1).await;
    assert!(outcome.stderr.contains("64 digits"), "{}", outcome.stderr);
    assert_eq!(stage.show(Some("both")).await.len(), 3);
    for shown in found {
        stage.run(&["resolve", &shown.key], 0).await;
    }
    for route in [EXECUTE, HOOK] {
        stage.is_made(route, "both").await;
    }
}

#[tokio::test]
async fn keys_in_memory_are_left_out_and_that_is_said() {
    let stage = Stage::new().await;
    stage.lose(FORGETFUL, "k").await;
    stage.lose(HOOK, "h").await;
    let outcome = stage.run(&["show"], 0).await;
    assert_eq!(shown(&outcome).iter().map(|shown| &*shown.route).collect::<Vec<_>>(), [HOOK]);
    assert!(outcome.stderr.contains(FORGETFUL), "{}", outcome.stderr);
    for route in [HOOK, EXECUTE] {
        assert!(!outcome.stderr.contains(route), "{}", outcome.stderr);
    }
    let outcome = stage.run(&["resolve", "k"], 1).await;
    assert!(outcome.stderr.contains(FORGETFUL), "{}", outcome.stderr);
    stage.is_still_unknown(FORGETFUL, "k").await;
}

#[tokio::test]
async fn a_store_that_is_not_there_is_a_failure() {
    let stage = Stage::new().await;
    let hash = stage.lose(HOOK, "h").await;
    let nowhere = [
        ("REDIS_URL", format!("redis://:hunter2@127.0.0.1:{}", free_port())),
        ("DATABASE_URL", format!("postgresql://nobody:hunter2@127.0.0.1:{}/none", free_port())),
    ];
    for (name, url) in nowhere {
        for args in [&["show"][..], &["show", "nothing"], &["resolve", "nothing"]] {
            let outcome = stage.tool(args).set(name, &url).run().await;
            assert_eq!(outcome.code, Some(1), "{name} {args:?}: {}", outcome.printed());
            assert!(!outcome.stderr.contains("no unknown outcome"), "{name} {args:?}: nobody knows that: {}", outcome.printed());
            assert!(!outcome.stderr.is_empty() && !outcome.printed().contains("hunter2"), "{}", outcome.printed());
        }
    }
    assert_eq!(stage.show(Some(&hash)).await.len(), 1);
}

#[tokio::test]
async fn its_settings_are_those_of_serve() {
    let stage = Stage::new().await;
    let hash = stage.lose(EXECUTE, "k").await;
    let outcome = stage.tool(&["show", "--config", stage.file.to_str().unwrap()]).set("CXDA_CONFIG", "/nowhere/settings.toml").run().await;
    assert_eq!((outcome.code, shown(&outcome).len()), (Some(0), 1), "{}", outcome.printed());
    // Without the file there is no route to look at.
    let outcome = stage.tool(&["show", &hash]).set("CXDA_CONFIG", "").run().await;
    assert_eq!(outcome.code, Some(1), "{}", outcome.printed());

    for (name, value) in [("CXDA_IDEMPOTENCY__CONNECTIONS", "0"), ("CXDA_CONFIG", "/nowhere/settings.toml")] {
        let outcome = stage.tool(&["show"]).set(name, value).run().await;
        assert_eq!(outcome.code, Some(78), "{}", outcome.printed());
        let named = if value == "0" { name } else { value };
        assert!(outcome.stderr.contains(named), "{named}: {}", outcome.stderr);
    }
    for name in ["DATABASE_URL", "REDIS_URL"] {
        let outcome = stage.tool(&["show"]).set(name, "").run().await;
        assert_eq!(outcome.code, Some(78), "{name}: {}", outcome.printed());
    }
    stage.is_still_unknown(EXECUTE, "k").await;
}
