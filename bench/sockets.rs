//! What good requests see while thousands of sockets hold on to the service without being of use to it.

mod attacker;

use std::sync::atomic::Ordering;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use nix::sys::resource::{Resource, getrlimit, setrlimit};
use tokio::task::JoinHandle;
use tokio::time::{MissedTickBehavior, interval, timeout};

use crate::attacks::load::{Load, Outcome};
use crate::attacks::process::{open_connections, resident};
use crate::attacks::route::lookup;
use crate::attacks::target::{Launch, Target};
use crate::client::{BATCH, Requests};
use crate::connection::Connection;
use crate::table::{Table, number};
use crate::{Options, database};
use attacker::{Kind, Sockets};

const CUSTOMERS: i32 = 10_000;
/// Good lookups a second.
const RATE: f64 = 200.0;
const KEPT: usize = 32;
/// How long sockets of one kind are waited for, in seconds, where `--seconds` does not say: longer than an idle connection is kept.
const SECONDS: u32 = 90;
/// Good load before the sockets come, so that there is a figure to compare with.
const QUIET: Duration = Duration::from_secs(5);
const PROBE: Duration = Duration::from_millis(250);
const PROBE_PATIENCE: Duration = Duration::from_secs(1);
const NEW_CONNECTION_PATIENCE: Duration = Duration::from_secs(2);
/// Of the service at the end, and of the bench with it.
const GRACE: Duration = Duration::from_secs(3);
const EXIT_PATIENCE: Duration = Duration::from_mins(1);
const STALLED: usize = 100;

/// Counts of answers out of attempts.
#[derive(Default)]
struct Answered {
    attempts: usize,
    answers: usize,
}

type Shared = Arc<Mutex<Answered>>;

pub(crate) async fn run(options: &Options) {
    raise_own_limit();
    let (_cluster, database) = database(CUSTOMERS).await;
    let launch = || Launch::new(options).nofile(options.attacks.nofile);
    let mut table = Table::new(&[
        "sockets",
        "connected",
        "good sent",
        "200s",
        "failed",
        "p99 ms",
        "quiet p99",
        "RSS MiB before",
        "peak",
        "after",
        "closed s after the last",
        "/readyz",
        "new connections",
    ]);
    println!(
        "{} sockets of each kind (a hundred of stalled-lookups) under {RATE} good lookups a second over {KEPT} kept connections, the service with a soft limit of {} descriptors",
        options.attacks.sockets, options.attacks.nofile
    );
    let kinds =
        Kind::ALL.into_iter().filter(|kind| options.attacks.kind.is_empty() || options.attacks.kind.iter().any(|name| name == kind.name()));
    for kind in kinds {
        eprintln!("{}", kind.name());
        // A service of its own, so that what one kind leaves behind is not told of the next.
        let service = launch().start(&database).await;
        table.row(scene(options, &service, kind).await);
    }
    table.print("Sockets");

    let mut service = launch().set("CXDA_SHUTDOWN__GRACE", "3s").start(&database).await;
    let sockets = Sockets::open(Kind::Stalled, &service, STALLED).await;
    sockets.stalled().await;
    let exit = service.terminate(EXIT_PATIENCE).await;
    let told =
        exit.map_or_else(|| format!("not within {EXIT_PATIENCE:?}"), |(took, status)| format!("{:.2} s, {status}", took.as_secs_f64()));
    println!("\nSIGTERM with a grace of {GRACE:?} and {STALLED} clients that do not take their answers: exit after {told}");
}

/// The bench itself has a socket for each that it opens.
fn raise_own_limit() {
    let (_, hard) = getrlimit(Resource::RLIMIT_NOFILE).expect("a limit");
    setrlimit(Resource::RLIMIT_NOFILE, hard, hard).expect("the soft limit may be as high as the hard one");
}

async fn scene(options: &Options, service: &Target, kind: Kind) -> Vec<String> {
    let requests: Requests = Arc::new((0..2_000).map(|_| lookup("acme42", (0..BATCH).map(|_| fastrand::i32(1..=CUSTOMERS)))).collect());
    let quiet = Load::new(&service.url, Arc::clone(&requests), RATE, KEPT, QUIET).run().await;
    let before = resident(service.pid());
    let cap = Duration::from_secs(options.seconds.unwrap_or(SECONDS).into());

    let good = Load::new(&service.url, requests.clone(), RATE, KEPT, cap + cap);
    let stop = Arc::clone(&good.stop);
    let (probes, visits) = (Shared::default(), Shared::default());
    let running = [
        every(PROBE, PROBE_PATIENCE, service.admin_url.clone(), vec![b"GET /readyz HTTP/1.1\r\nHost: bench\r\n\r\n".to_vec()], &probes),
        every(Duration::from_secs(1), NEW_CONNECTION_PATIENCE, service.url.clone(), requests[..100].to_vec(), &visits),
    ];
    let peak = Arc::new(Mutex::new(before));
    let watch = watch_memory(service.pid(), Arc::clone(&peak));
    // First come the good ones, as in a service that is attacked while it is in use.
    let good = tokio::spawn(good.connect().await.run());
    // Each of their connections has proven its caller before the sockets come.
    tokio::time::sleep(Duration::from_secs(1)).await;
    // The kept connections, and perhaps one new one.
    let own = KEPT + 1;

    let number_of_sockets = if kind == Kind::StalledLookups { options.attacks.sockets.min(STALLED) } else { options.attacks.sockets };
    let sockets = Sockets::open(kind, service, number_of_sockets).await;
    let connected = sockets.connected();
    // The last of them has just connected.
    let closed = closed_within(service, own, Instant::now(), cap).await;
    stop.store(true, Ordering::Relaxed);
    drop(sockets);
    let outcome = good.await.expect("the good load");
    for task in running {
        task.abort();
    }
    // What is still open is closed by us now.
    let _left_over = closed_within(service, own, Instant::now(), Duration::from_secs(20)).await;
    watch.abort();
    let after = resident(service.pid());
    let peak = *peak.lock().unwrap_or_else(PoisonError::into_inner);
    row(kind, connected, number_of_sockets, &quiet, &outcome, [before, peak, after], closed, cap, [&probes, &visits])
}

#[expect(clippy::too_many_arguments, reason = "one for each cell")]
fn row(
    kind: Kind,
    connected: usize,
    sockets: usize,
    quiet: &Outcome,
    good: &Outcome,
    memory: [f64; 3],
    closed: Result<Duration, usize>,
    cap: Duration,
    counts: [&Shared; 2],
) -> Vec<String> {
    let told = |counts: &Shared| {
        let counts = counts.lock().unwrap_or_else(PoisonError::into_inner);
        format!("{} of {}", counts.answers, counts.attempts)
    };
    let sent = good.samples.len() + good.unsent;
    let mut cells = vec![
        kind.name().to_owned(),
        format!("{connected} of {sockets}"),
        sent.to_string(),
        good.good().to_string(),
        (sent - good.good()).to_string(),
        number(good.quantile(0.99), 1),
        number(quiet.quantile(0.99), 1),
    ];
    cells.extend(memory.map(|mib| number(mib, 0)));
    cells.push(match closed {
        Ok(took) => format!("{:.1}", took.as_secs_f64()),
        Err(open) => format!("{open} open after {}", cap.as_secs()),
    });
    cells.extend(counts.map(told));
    cells
}

/// When the service had closed all but its own share; how many more were open in the end.
async fn closed_within(service: &Target, own: usize, began: Instant, cap: Duration) -> Result<Duration, usize> {
    let mut tick = interval(Duration::from_millis(500));
    loop {
        tick.tick().await;
        let open = open_connections(service.port());
        if open <= own {
            return Ok(began.elapsed());
        }
        if began.elapsed() > cap {
            return Err(open - own);
        }
    }
}

/// One request each time over a connection of its own; none waits for the one before it.
fn every(period: Duration, patience: Duration, url: String, requests: Vec<Vec<u8>>, counts: &Shared) -> JoinHandle<()> {
    let counts = Arc::clone(counts);
    tokio::spawn(async move {
        let mut tick = interval(period);
        tick.set_missed_tick_behavior(MissedTickBehavior::Skip);
        for request in requests.iter().cycle() {
            tick.tick().await;
            let (url, request, counts) = (url.clone(), request.clone(), Arc::clone(&counts));
            tokio::spawn(async move {
                let answered = async { Connection::open(&url).await?.exchange(&request).await };
                let answered = matches!(timeout(patience, answered).await, Ok(Ok(200)));
                let mut counts = counts.lock().unwrap_or_else(PoisonError::into_inner);
                counts.attempts += 1;
                counts.answers += usize::from(answered);
            });
        }
    })
}

fn watch_memory(pid: u32, peak: Arc<Mutex<f64>>) -> JoinHandle<()> {
    tokio::spawn(async move {
        let mut tick = interval(PROBE);
        loop {
            tick.tick().await;
            let mut peak = peak.lock().unwrap_or_else(PoisonError::into_inner);
            *peak = peak.max(resident(pid));
        }
    })
}
