//! A service killed at each of the moments that matter, again and again: which keys are lost, which get two answers, whose
//! work is done again.

use crate::stage::{self, Fate, LONG, Point, Stage};
use crate::{Options, Store};

/// Keys in flight at each kill.
const KEYS: usize = 10;

/// With how often the work of a key is begun and finished because of it.
const POINTS: [(Point, &str, (usize, usize)); 4] = [
    (Point::Claimed, "claimed, not yet told", (1, 1)),
    (Point::Working, "amid the work", (2, 1)),
    (Point::Worked, "worked, not yet stored", (2, 2)),
    (Point::Stored, "stored, not yet told", (1, 1)),
];

pub(crate) async fn run(options: &Options) {
    println!(
        "{:9} {:23} {:>5} {:>5} {:>9} {:>12} {:>11} {:>14}",
        "store", "killed", "kills", "keys", "lost keys", "stored twice", "begun again", "finished again"
    );
    for store in options.stores() {
        let (name, store) = match store {
            Store::Redis => ("redis", stage::Store::Redis),
            Store::Postgres => ("postgres", stage::Store::Postgres),
        };
        let stage = Stage::new(store).await;
        let mut service = stage.service(LONG).await;
        // From now on Redis knows the scripts.
        stage::webhook(&service, "first").await;
        for (point, what, expected) in POINTS {
            let mut all = Vec::new();
            for _ in 0..options.times {
                let fates;
                (service, fates) = stage.kill(service, point, &stage::keys(KEYS)).await;
                all.extend(fates);
            }
            let count = |wanted: fn(&Fate) -> bool| all.iter().filter(|fate| wanted(fate)).count();
            let answered = |fate: &Fate| fate.answers.iter().flatten().any(|(status, _)| *status == 200);
            let lost = all.iter().filter(|fate| !answered(fate)).count();
            println!(
                "{name:9} {what:23} {:>5} {:>5} {lost:>9} {:>12} {:>11} {:>14}",
                options.times,
                all.len(),
                count(|fate| fate.answers.len() > 1),
                count(|fate| fate.runs.started > 1),
                count(|fate| fate.runs.completed > 1)
            );
            assert_eq!(lost, 0, "lost keys");
            for Fate { answers, runs } in &all {
                assert_eq!((answers.len(), (runs.started, runs.completed)), (1, expected), "{what}: {answers:?}");
            }
        }
    }
}
