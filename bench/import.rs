//! `import` beside what Postgres' own `\copy` does with the same rows and the same table, in turn and from both sides.

use std::fmt::Write;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Instant;

use uuid::Uuid;

use crate::support::{Database, Tool, scratch_dir};
use crate::table::{Spread, Table, count};
use crate::{Options, cluster};

#[derive(Clone, Copy)]
enum Way {
    Copy,
    Import,
    Again,
}

/// The second half runs from the other side: whoever comes after another meets the same machine once.
const ORDER: [[Way; 3]; 2] = [[Way::Copy, Way::Import, Way::Again], [Way::Import, Way::Again, Way::Copy]];

pub(crate) async fn run(options: &Options) {
    let rows = usize::try_from(options.main_customers()).expect("a number of rows");
    let cluster = cluster().await;
    let database = cluster.database().await;
    let file = file(rows);
    let mut rates = [const { Vec::new() }; 3];
    for nth in 0..options.rounds * 2 {
        for way in ORDER[nth % 2] {
            let rate = count(rows) / way.round(&database, &file, rows).await;
            println!("{:12} {rate:9.0} rows/s", way.name());
            rates[way as usize].push(rate);
        }
    }
    let mut table = Table::new(&["", "rows/s", "of `\\copy`"]);
    for way in ORDER[0] {
        let own = &rates[way as usize];
        let ratios = own.iter().zip(&rates[Way::Copy as usize]).map(|(own, copy)| own / copy);
        table.row([way.name().to_owned(), Spread::of(own.iter().copied()).show(0), Spread::of(ratios).show(2)]);
    }
    table.print(&format!("{rows} rows. Medians of {} interleaved rounds in two orders (least to most).", options.rounds * 2));
}

impl Way {
    fn name(self) -> &'static str {
        match self {
            Self::Copy => "psql \\copy",
            Self::Import => "import",
            Self::Again => "import again",
        }
    }

    /// Seconds that it takes.
    async fn round(self, database: &Database, file: &Path, rows: usize) -> f64 {
        if !matches!(self, Self::Again) {
            database.run("TRUNCATE customers").await;
        }
        database.run("CHECKPOINT").await;
        let began = Instant::now();
        if matches!(self, Self::Copy) {
            let copy = format!("\\copy customers (tenant_id, id, name, status, attributes) FROM '{}' CSV HEADER", file.display());
            let output = Command::new("psql").args(["-qX", "-v", "ON_ERROR_STOP=1", "-c", &copy]).arg(&database.owner_url).output();
            let output = output.expect("psql is there");
            assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        } else {
            let tool = Tool::new(&["import"]).arg(file.display().to_string()).set("DATABASE_URL", &database.owner_url);
            let outcome = tool.run().await;
            assert_eq!(outcome.code, Some(0), "{}", outcome.printed());
        }
        let took = began.elapsed().as_secs_f64();
        let there: i64 = database.value("SELECT count(*) FROM customers WHERE version = 1").await;
        assert_eq!(usize::try_from(there), Ok(rows), "all rows are there, and none was touched twice");
        took
    }
}

/// Customers with random ids, as a CRM has them.
fn file(rows: usize) -> PathBuf {
    let mut text = "tenant_id,id,name,status,attributes\n".to_owned();
    for n in 0..rows {
        let id = Uuid::new_v4();
        writeln!(text, r#"acme42,{id},Customer number {n},active,"{{""tier"": ""gold"", ""language"": ""en""}}""#).expect("memory");
    }
    let path = scratch_dir().join("customers.csv");
    std::fs::write(&path, text).expect("a scratch file");
    path
}
