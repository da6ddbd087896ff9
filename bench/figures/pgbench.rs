//! What Postgres does by itself, by `pgbench`.

use std::process::Command;

use crate::client::BATCH;
use crate::support::{Database, binaries, scratch_file};

/// Lookups of one shared transaction.
const MEMBERS: usize = 16;

/// What a transaction holds.
#[derive(Clone, Copy)]
pub(crate) enum Form {
    /// One lookup: the four statements, each with its round trip.
    Alone,
    /// Sixteen lookups: one select of all their customers, one insert of all their audit rows.
    Shared,
}

/// What came out.
pub(crate) struct Outcome {
    /// Lookups a second.
    pub(crate) rate: f64,
    pub(crate) lookups: f64,
}

impl Form {
    fn lookups(self) -> usize {
        match self {
            Self::Alone => 1,
            Self::Shared => MEMBERS,
        }
    }

    fn script(self, customers: i32) -> String {
        let nth = |lookup: usize, nth: usize| lookup * BATCH + nth;
        let all = self.lookups() * BATCH;
        let sets: Vec<_> = (0..all).map(|n| format!("\\set c{n} random(1, {customers})")).collect();
        let id = |n: usize| format!("('00000000-0000-4000-8000-' || lpad(to_hex(:c{n}::int), 12, '0'))::uuid");
        let ids = |range: std::ops::Range<usize>| range.map(id).collect::<Vec<_>>().join(", ");
        let row = |lookup: usize| {
            let ids = ids(nth(lookup, 0)..nth(lookup, BATCH));
            format!("('acme42', gen_random_uuid(), 'process_customer_batch', 'database', ARRAY[{ids}])")
        };
        let rows: Vec<_> = (0..self.lookups()).map(row).collect();
        format!(
            "{}\nBEGIN;\n\
            SELECT id, name, status, updated_at, attributes::text FROM customers WHERE tenant_id = 'acme42' AND id = ANY(ARRAY[{}]);\n\
            INSERT INTO audit_log (tenant_id, id, action, source, customer_ids) VALUES {};\n\
            COMMIT;\n",
            sets.join("\n"),
            ids(0..all),
            rows.join(", ")
        )
    }
}

/// With as many lookups under way as there would be connections.
pub(crate) fn run(form: Form, database: &Database, customers: i32, connections: usize, seconds: u64) -> Outcome {
    let clients = (connections / form.lookups()).max(1);
    // What is found may be links to the place where the other programs are.
    let postgres = std::fs::canonicalize(binaries().directory().join("postgres")).expect("a path");
    let output = Command::new(postgres.with_file_name("pgbench"))
        .args(["--no-vacuum", "--protocol=prepared", "--time", &seconds.to_string()])
        .args(["--client", &clients.to_string(), "--jobs", &clients.min(2).to_string(), "--file"])
        .arg(scratch_file(form.script(customers)))
        .arg(&database.owner_url)
        .output()
        .expect("pgbench stands beside postgres");
    let text = String::from_utf8_lossy(&output.stdout);
    let value = |name: &str| {
        let value = text.lines().find_map(|line| line.strip_prefix(name)?.split([' ', '/']).next()?.parse::<f64>().ok());
        value.unwrap_or_else(|| panic!("pgbench: {text}{}", String::from_utf8_lossy(&output.stderr)))
    };
    let lookups = crate::table::count(form.lookups());
    Outcome { rate: value("tps = ") * lookups, lookups: value("number of transactions actually processed: ") * lookups }
}
