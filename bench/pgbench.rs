//! What Postgres does by itself: the same four statements, by `pgbench`.

use std::process::Command;

use crate::Options;
use crate::client::BATCH;
use crate::support::{Database, binaries, scratch_file};

/// Transactions a second.
pub(crate) fn run(options: &Options, database: &Database) -> f64 {
    let sets: Vec<_> = (0..BATCH).map(|n| format!("\\set c{n} random(1, {})", options.customers)).collect();
    let ids: Vec<_> = (0..BATCH).map(|n| format!("('00000000-0000-4000-8000-' || lpad(to_hex(:c{n}::int), 12, '0'))::uuid")).collect();
    let ids = ids.join(", ");
    let script = format!(
        "{}\nBEGIN ISOLATION LEVEL REPEATABLE READ;\n\
        SELECT id, name, status, updated_at, attributes::text FROM customers WHERE tenant_id = 'acme42' AND id = ANY(ARRAY[{ids}]);\n\
        INSERT INTO audit_log (tenant_id, id, action, source, customer_ids) VALUES ('acme42', gen_random_uuid(), 'process_customer_batch', 'database', ARRAY[{ids}]);\n\
        COMMIT;\n",
        sets.join("\n")
    );
    let each = (options.requests / options.connections).max(1).to_string();
    // What is found may be links to the place where the other programs are.
    let postgres = std::fs::canonicalize(binaries().directory().join("postgres")).expect("a path");
    let output = Command::new(postgres.with_file_name("pgbench"))
        .args(["--no-vacuum", "--protocol=prepared", "--jobs=2", "--transactions", &each, "--client", &options.connections.to_string()])
        .arg("--file")
        .arg(scratch_file(&script))
        .arg(&database.owner_url)
        .output()
        .expect("pgbench stands beside postgres");
    let text = String::from_utf8_lossy(&output.stdout);
    let rate = text.lines().find_map(|line| line.strip_prefix("tps = ")?.split(' ').next()?.parse().ok());
    rate.unwrap_or_else(|| panic!("pgbench: {text}{}", String::from_utf8_lossy(&output.stderr)))
}
