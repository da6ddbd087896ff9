//! Many callers, few keys, three instances of which one is killed every so often: each key's work is done once, and all who
//! ask for it get the same answer.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use futures_util::future::join_all;
use nix::sys::signal::Signal;
use reqwest::RequestBuilder;

use crate::support::{Answer, Database, PATIENCE, PgBouncer, Redis, Reply, Route, Service, Setup, Upstream};

const PATH: &str = "/webhooks/dialog";
const INSTANCES: usize = 3;
/// How long callers wait before they ask again.
const PAUSE: Duration = Duration::from_millis(60);
/// How often completions are looked for.
const GLANCE: Duration = Duration::from_millis(5);
/// Shorter than the second for which an answer waits to be kept: one that has left before can be another one after a kill.
const DEMOTED_FOR: Duration = Duration::from_millis(300);
/// A record that is not there so long after the upstream's answer has no kill as its excuse.
const SOON: Duration = Duration::from_millis(250);

/// What stands between the instances and the store, or befalls it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Neighbour {
    None,
    /// A PgBouncer in transaction mode.
    PgBouncer,
    /// Redis is demoted to a replica every so often, for a moment.
    Demotion(Duration),
}

/// What is done.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Plan {
    pub(crate) neighbour: Neighbour,
    /// As routes name it.
    pub(crate) store: &'static str,
    pub(crate) keys: usize,
    /// Requests of each key.
    pub(crate) each: usize,
    /// Keys whose requests come at the same time. The next ones come once those are answered, so that there is work to be
    /// killed from the beginning to the end.
    pub(crate) keys_at_once: usize,
    pub(crate) callers: usize,
    pub(crate) lease: &'static str,
    /// How long the upstream takes.
    pub(crate) work: Duration,
    pub(crate) kill_every: Duration,
    /// When it is taken for granted that somebody is never answered.
    pub(crate) within: Duration,
}

/// What came of it.
#[derive(Debug)]
pub(crate) struct Findings {
    /// All of the answers, by key.
    pub(crate) answers: BTreeMap<usize, Vec<(u16, Vec<u8>)>>,
    pub(crate) started: usize,
    pub(crate) completed: usize,
    pub(crate) kills: usize,
    /// Runs that ended with the instance that had begun them.
    pub(crate) killed_amid_work: usize,
    /// Completed runs that no record tells of, because the instance was killed before.
    pub(crate) killed_before_record: usize,
    /// Runs that nothing excuses.
    pub(crate) unexplained: Vec<String>,
    pub(crate) took: Duration,
}

impl Findings {
    pub(crate) fn answered(&self) -> usize {
        self.answers.values().map(Vec::len).sum()
    }

    /// The most that any key has.
    pub(crate) fn distinct_answers(&self) -> usize {
        self.answers.values().map(|answers| answers.iter().collect::<BTreeSet<_>>().len()).max().unwrap_or_default()
    }

    /// Holds the findings to what was promised.
    pub(crate) fn check(&self, plan: &Plan) {
        assert_eq!((self.answers.len(), self.answered()), (plan.keys, plan.keys * plan.each), "every request is answered");
        let statuses: BTreeSet<_> = self.answers.values().flatten().map(|(status, _)| *status).collect();
        assert_eq!(statuses, BTreeSet::from([200]));
        assert_eq!(self.distinct_answers(), 1, "one answer a key");
        assert_eq!(self.unexplained, Vec::<String>::new());
        assert_eq!(self.completed, plan.keys + self.killed_before_record, "each key's work was completed, and once");
        assert_eq!(self.started, self.completed + self.killed_amid_work);
    }
}

/// One process.
#[derive(Debug, Clone)]
struct Instance {
    /// No two processes of a run have the same.
    number: usize,
    service: Arc<Service>,
}

struct Fleet {
    setup: Setup,
    instances: Mutex<[Option<Instance>; INSTANCES]>,
    started: AtomicUsize,
    kills: Mutex<Vec<Kill>>,
}

#[derive(Debug, Clone, Copy)]
struct Kill {
    instance: usize,
    at: Instant,
}

impl Fleet {
    async fn start(setup: Setup) -> Self {
        let fleet = Self { setup, instances: Mutex::default(), started: AtomicUsize::new(0), kills: Mutex::default() };
        join_all((0..INSTANCES).map(|place| fleet.fill(place))).await;
        fleet
    }

    async fn fill(&self, place: usize) {
        let number = self.started.fetch_add(1, Ordering::Relaxed);
        let service = Arc::new(self.setup.clone().start().await);
        self.put(place, Some(Instance { number, service }));
    }

    fn put(&self, place: usize, instance: Option<Instance>) -> Option<Instance> {
        let mut instances = self.instances.lock().unwrap_or_else(PoisonError::into_inner);
        std::mem::replace(&mut instances[place], instance)
    }

    fn instance(&self, place: usize) -> Option<Instance> {
        self.instances.lock().unwrap_or_else(PoisonError::into_inner)[place].clone()
    }

    /// Kills one after the other, and starts it again at another address.
    async fn kill_in_turn(&self, every: Duration) {
        let mut timer = tokio::time::interval_at(tokio::time::Instant::now() + every, every);
        for place in (0..INSTANCES).cycle() {
            timer.tick().await;
            let Some(Instance { number, service }) = self.put(place, None) else { continue };
            service.signal(Signal::SIGKILL);
            let kill = Kill { instance: number, at: Instant::now() };
            self.kills.lock().unwrap_or_else(PoisonError::into_inner).push(kill);
            drop(service);
            self.fill(place).await;
        }
    }

    /// Asks one instance after the other until there is an answer.
    async fn ask(&self, key: usize) -> (u16, Vec<u8>) {
        let mut place = fastrand::usize(..INSTANCES);
        loop {
            if let Some(Instance { number, service }) = self.instance(place) {
                let request = service.hook(PATH, &format!("key-{key}"), format!(r#"{{"key":{key}}}"#));
                let reply = reply(request.header("X-Request-Id", format!("instance-{number}"))).await;
                if let Some(reply) = reply.filter(|reply| ![409, 503].contains(&reply.status)) {
                    return (reply.status, reply.body);
                }
            }
            tokio::time::sleep(PAUSE).await;
            place = (place + 1) % INSTANCES;
        }
    }
}

/// `None` where there is no whole answer.
async fn reply(request: RequestBuilder) -> Option<Reply> {
    let response = request.send().await.ok()?;
    let (status, headers) = (response.status().as_u16(), response.headers().clone());
    Some(Reply { status, headers, body: response.bytes().await.ok()?.into() })
}

/// When the runs of each key were completed, as closely as looking tells.
type Completions = BTreeMap<String, Vec<Instant>>;

fn look(upstream: &Upstream, completions: &Mutex<Completions>) {
    let (now, mut completions) = (Instant::now(), completions.lock().unwrap_or_else(PoisonError::into_inner));
    for (key, runs) in upstream.runs() {
        completions.entry(key).or_default().resize(runs.completed, now);
    }
}

async fn keep_looking(upstream: &Upstream, completions: &Mutex<Completions>) {
    loop {
        look(upstream, completions);
        tokio::time::sleep(GLANCE).await;
    }
}

async fn demote_in_turn(redis: &Redis, neighbour: Neighbour) {
    let Neighbour::Demotion(every) = neighbour else { return std::future::pending().await };
    loop {
        tokio::time::sleep(every).await;
        redis.demote().await;
        tokio::time::sleep(DEMOTED_FOR).await;
        redis.promote().await;
    }
}

/// The keys that are asked for, in their order.
fn order(plan: &Plan) -> Vec<usize> {
    let keys: Vec<_> = (0..plan.keys).collect();
    let mixed = |keys: &[usize]| {
        let mut asked = keys.repeat(plan.each);
        fastrand::shuffle(&mut asked);
        asked
    };
    keys.chunks(plan.keys_at_once).flat_map(mixed).collect()
}

pub(crate) async fn run(plan: &Plan, database: &Database, redis: &Redis) -> Findings {
    let upstream = Upstream::start();
    upstream.answer(Answer::new(200).after(plan.work));
    let route = Route::new(PATH).forward(&upstream).store(plan.store).lease(plan.lease);
    let setup = Setup::on(database).set("CXDA_IDEMPOTENCY__REDIS_URL", redis.url()).webhooks(&[route]);
    let pooler = if plan.neighbour == Neighbour::PgBouncer { Some(PgBouncer::before(database, 10).await) } else { None };
    let setup = pooler.iter().fold(setup, |setup, pooler| setup.set("DATABASE_URL", pooler.url()));
    let fleet = Fleet::start(setup).await;
    let (order, next, completions) = (order(plan), AtomicUsize::new(0), Mutex::default());
    let caller = async || {
        let mut answers = Vec::new();
        while let Some(key) = order.get(next.fetch_add(1, Ordering::Relaxed)) {
            answers.push((*key, fleet.ask(*key).await));
        }
        answers
    };
    let began = Instant::now();
    let callers = tokio::select! {
        answers = join_all((0..plan.callers).map(|_| caller())) => answers,
        () = fleet.kill_in_turn(plan.kill_every) => unreachable!("killing goes on for ever"),
        () = demote_in_turn(redis, plan.neighbour) => unreachable!("and so do demotions"),
        () = keep_looking(&upstream, &completions) => unreachable!("so does looking"),
        () = tokio::time::sleep(plan.within) => panic!("somebody was not answered within {:?}: {:?}", plan.within, upstream.runs()),
    };
    let took = began.elapsed();
    look(&upstream, &completions);
    let mut answers = BTreeMap::<_, Vec<_>>::new();
    for (key, answer) in callers.into_iter().flatten() {
        answers.entry(key).or_default().push(answer);
    }
    let kills = fleet.kills.into_inner().unwrap_or_else(PoisonError::into_inner);
    let completions = completions.into_inner().unwrap_or_else(PoisonError::into_inner);
    let mut findings = Findings {
        answers,
        started: upstream.started(),
        completed: upstream.completed(),
        kills: kills.len(),
        killed_amid_work: 0,
        killed_before_record: 0,
        unexplained: Vec::new(),
        took,
    };
    explain(&upstream, &kills, &completions, &mut findings);
    findings
}

/// Finds the kill that excuses each run but one of a key.
fn explain(upstream: &Upstream, kills: &[Kill], completions: &Completions, findings: &mut Findings) {
    let mut begun_by = BTreeMap::<_, Vec<_>>::new();
    for request in upstream.requests() {
        let instance = request.header("x-request-id").and_then(|id| id.strip_prefix("instance-")?.parse().ok());
        let instance: usize = instance.unwrap_or_else(|| panic!("no caller's id: {request:?}"));
        begun_by.entry(request.key().to_owned()).or_default().push(instance);
    }
    for (key, runs) in upstream.runs() {
        let begun_by = &begun_by[&key];
        let kills_of_its_own: Vec<_> = kills.iter().filter(|kill| begun_by.contains(&kill.instance)).collect();
        let incomplete = runs.started - runs.completed;
        findings.killed_amid_work += incomplete;
        // The last one is in the record. Between a kill and its being noted, and a completion and its being seen, time passes.
        let unrecorded = completions.get(&key).map(|seen| &seen[..seen.len().saturating_sub(1)]).unwrap_or_default();
        findings.killed_before_record += unrecorded.len();
        let excused = |seen: &Instant| kills_of_its_own.iter().any(|kill| kill.at + SOON / 5 >= *seen && kill.at <= *seen + SOON);
        let alone = unrecorded.iter().filter(|seen| !excused(seen)).count();
        if alone > 0 || incomplete + unrecorded.len() > kills_of_its_own.len() {
            findings
                .unexplained
                .push(format!("{key}: {runs:?}, begun by {begun_by:?}, killed: {kills_of_its_own:?}, done: {unrecorded:?}"));
        }
    }
}

async fn small(store: &'static str, neighbour: Neighbour) {
    let plan = Plan {
        neighbour,
        store,
        keys: 30,
        each: 50,
        keys_at_once: 6,
        callers: 16,
        lease: "2s",
        work: Duration::from_millis(600),
        kill_every: Duration::from_secs(1),
        within: PATIENCE * 3,
    };
    let findings = run(&plan, &Database::new().await, &Redis::start().await).await;
    findings.check(&plan);
    assert!(findings.kills >= 3, "{} kills", findings.kills);
    println!(
        "{store}: {} runs, {} kills, of which {} hit work and {} came between work and record; {:?}",
        findings.started, findings.kills, findings.killed_amid_work, findings.killed_before_record, findings.took
    );
}

#[tokio::test]
async fn with_redis_all_are_answered_alike_though_instances_are_killed() {
    small("redis", Neighbour::None).await;
}

#[tokio::test]
async fn with_postgres_all_are_answered_alike_though_instances_are_killed() {
    small("postgres", Neighbour::None).await;
}

#[tokio::test]
async fn with_postgres_behind_a_pooler_all_are_answered_alike_though_instances_are_killed() {
    small("postgres", Neighbour::PgBouncer).await;
}

#[tokio::test]
async fn with_a_redis_that_is_demoted_again_and_again_all_are_answered_alike_though_instances_are_killed() {
    small("redis", Neighbour::Demotion(Duration::from_secs(3))).await;
}
