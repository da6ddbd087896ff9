//! Which bodies cost the service the most CPU time: those of the corpus, and mutants of the worst of them.

use std::time::{Duration, Instant};

use fastrand::Rng;

use crate::attacks::body::Recipe;
use crate::attacks::cost::{Meter, WORKERS};
use crate::attacks::rank::{Bench, Ranked, distinct, sort};
use crate::attacks::route::ROUTES;
use crate::attacks::target::Launch;
use crate::attacks::{corpus, mutate};
use crate::support::Genesys;
use crate::table::{Table, number};
use crate::{Options, database};

const CUSTOMERS: i32 = 10_000;
/// Of the search, in seconds, where `--seconds` does not say.
const SEARCH: u32 = 60;
const SEED: u64 = 0x5eed;
/// Mutants are tried at this size: no longer body is examined for why its signature is wrong.
const SIZE: usize = 16 << 10;
/// Parents that the next mutants are made from.
const POOL: usize = 8;
/// A mutant must be this much worse than the worst before it, so that noise is not kept.
const WORSE: f64 = 1.1;

/// A route with the worst bodies so far, at [`SIZE`].
struct Search<'b> {
    bench: Bench<'b>,
    pool: Vec<Ranked>,
    /// The worst of the corpus, for each byte.
    known: f64,
    tried: usize,
}

pub(crate) async fn run(options: &Options) {
    let (_cluster, database) = database(CUSTOMERS).await;
    let genesys = Genesys::start();
    let service = Launch::new(options).genesys(&genesys).set("CXDA_HTTP__WORKERS", WORKERS.to_string());
    let service = service.start(&database).await;
    let mut meter = Meter::new(&service).await;
    let recipes = corpus::load();
    let bodies: Vec<_> = recipes.iter().flat_map(Recipe::bodies).collect();
    let sizes = &options.attacks.sizes;
    println!("worst bodies: {} recipes in {} places, at {sizes:?} bytes", recipes.len(), bodies.len());

    let mut searches = Vec::new();
    let mut rows = Vec::new();
    for route in
        ROUTES.iter().filter(|route| options.attacks.route.is_empty() || options.attacks.route.iter().any(|path| path == route.path))
    {
        for proven in [false, true] {
            let mut with_search = sizes.clone();
            with_search.push(SIZE);
            let bench = Bench::new(&mut meter, route, proven, &with_search).await;
            let ranked = bench.rank_all(&mut meter, &bodies, sizes, 3).await;
            let mut worst = bench.rank_all(&mut meter, &distinct(&ranked, POOL), &[SIZE], 5).await;
            worst.truncate(POOL);
            let known = worst.first().map_or(0.0, Ranked::per_byte);
            eprintln!("{} {}: {}", route.path, proof(proven), worst.first().map_or_else(String::new, |worst| worst.body.name()));
            rows.push(ranked);
            searches.push(Search { bench, pool: worst, known, tried: 0 });
        }
    }
    let lasting = Duration::from_secs(options.seconds.unwrap_or(SEARCH).into());
    search(&mut meter, &mut searches, &recipes, lasting).await;
    report(options, &mut meter, &searches, rows).await;
    if options.attacks.keep {
        let worse = searches.iter().filter_map(|search| search.pool.first().filter(|worst| worst.per_byte() > search.known * WORSE));
        corpus::keep(worse.map(|worst| worst.body.recipe.clone()));
    }
}

fn proof(proven: bool) -> &'static str {
    if proven { "proven" } else { "unproven" }
}

/// Mutates the worst bodies of each route in turn.
async fn search(meter: &mut Meter<'_>, searches: &mut [Search<'_>], recipes: &[Recipe], lasting: Duration) {
    let (mut rng, began) = (Rng::with_seed(SEED), Instant::now());
    while began.elapsed() < lasting {
        for search in &mut *searches {
            let parent = &search.pool[rng.usize(0..search.pool.len())].body;
            let other = &recipes[rng.usize(0..recipes.len())];
            let recipe = mutate::mutate(&mut rng, &parent.recipe, other);
            let frames = recipe.bodies();
            let body = frames[rng.usize(0..frames.len())].clone();
            search.tried += 1;
            let least = search.pool.last().map_or(0.0, Ranked::per_byte);
            if search.bench.rank(meter, &body, SIZE, 1).await.per_byte() <= least {
                continue;
            }
            // Once may be noise.
            let mutant = search.bench.rank(meter, &body, SIZE, 5).await;
            if mutant.per_byte() > least {
                search.pool.push(mutant);
                sort(&mut search.pool);
                search.pool.truncate(POOL);
            }
        }
    }
}

async fn report(options: &Options, meter: &mut Meter<'_>, searches: &[Search<'_>], rows: Vec<Vec<Ranked>>) {
    let head = ["route", "proven?", "body", "bytes", "CPU µs a request", "of a plain one", "ns a byte beyond it", "status"];
    let mut table = Table::new(&head);
    for (search, ranked) in searches.iter().zip(rows) {
        for size in &options.attacks.sizes {
            let of_size: Vec<_> = ranked.iter().filter(|ranked| ranked.size == *size).cloned().collect();
            let mut bodies = distinct(&of_size, options.attacks.worst + 2);
            bodies.extend(distinct(&search.pool, options.attacks.worst + 1));
            // Once more, since the worst of many measurements is noise too.
            let worst = search.bench.rank_all(meter, &bodies, &[*size], 7).await;
            for worst in distinct(&worst, options.attacks.worst).iter().filter_map(|body| worst.iter().find(|ranked| ranked.body == *body))
            {
                table.row([
                    search.bench.route.path.to_owned(),
                    proof(search.bench.proven).to_owned(),
                    worst.body.name(),
                    number(f64::from(u32::try_from(worst.cost.bytes).unwrap_or(u32::MAX)), 0),
                    number(worst.cost.nanoseconds / 1e3, 0),
                    number(search.bench.plain(*size) / 1e3, 0),
                    number(worst.per_byte(), 1),
                    worst.cost.status.to_string(),
                ]);
            }
        }
    }
    table.print("Worst bodies");
    let tried: usize = searches.iter().map(|search| search.tried).sum();
    println!("\n{tried} mutants tried, seed {SEED:#x}");
}
