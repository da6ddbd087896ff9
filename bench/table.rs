//! Medians with their spread, and tables of them as Markdown.

/// The middle of several rounds, and how far they lie apart.
#[derive(Clone, Copy)]
pub(crate) struct Spread {
    pub(crate) median: f64,
    least: f64,
    most: f64,
}

impl Spread {
    pub(crate) fn of(values: impl Iterator<Item = f64>) -> Self {
        let values: Vec<_> = values.collect();
        let (least, most) =
            (values.iter().copied().fold(f64::INFINITY, f64::min), values.iter().copied().fold(f64::NEG_INFINITY, f64::max));
        Self { median: median(values.into_iter()), least, most }
    }

    /// `median (least to most)`, with so many decimals; a dash where there is nothing.
    pub(crate) fn show(self, decimals: usize) -> String {
        if self.median.is_nan() {
            return "–".to_owned();
        }
        format!("{} ({} to {})", number(self.median, decimals), number(self.least, decimals), number(self.most, decimals))
    }
}

pub(crate) fn median(values: impl Iterator<Item = f64>) -> f64 {
    let mut sorted: Vec<_> = values.collect();
    sorted.sort_by(f64::total_cmp);
    sorted.get(sorted.len() / 2).copied().unwrap_or(f64::NAN)
}

/// With commas between thousands; a dash where there is none.
pub(crate) fn number(value: f64, decimals: usize) -> String {
    if !value.is_finite() {
        return "–".to_owned();
    }
    let text = format!("{value:.decimals$}");
    let (whole, fraction) = text.split_once('.').map_or((&*text, String::new()), |(whole, fraction)| (whole, format!(".{fraction}")));
    let mut grouped = String::new();
    for (nth, digit) in whole.chars().enumerate() {
        if nth > 0 && (whole.len() - nth).is_multiple_of(3) {
            grouped.push(',');
        }
        grouped.push(digit);
    }
    grouped + &fraction
}

/// A count, to reckon with.
#[expect(clippy::cast_precision_loss, reason = "nothing here is counted that far")]
pub(crate) fn count(n: usize) -> f64 {
    n as f64
}

/// Rows under a head. The first column holds names, all others numbers.
pub(crate) struct Table(Vec<Vec<String>>);

impl Table {
    pub(crate) fn new(head: &[&str]) -> Self {
        Self(vec![head.iter().map(|cell| (*cell).to_owned()).collect()])
    }

    pub(crate) fn row(&mut self, cells: impl IntoIterator<Item = String>) {
        self.0.push(cells.into_iter().collect());
    }

    pub(crate) fn print(&self, title: &str) {
        let width = |column: usize| self.0.iter().map(|row| row[column].chars().count()).max().unwrap_or(0);
        let widths: Vec<_> = (0..self.0[0].len()).map(width).collect();
        println!("\n{title}\n");
        for (nth, row) in self.0.iter().enumerate() {
            let cell = |(column, cell): (usize, &String)| {
                let width = widths[column];
                if column == 0 { format!("{cell:width$}") } else { format!("{cell:>width$}") }
            };
            println!("| {} |", row.iter().enumerate().map(cell).collect::<Vec<_>>().join(" | "));
            if nth == 0 {
                let line = |(column, width): (usize, &usize)| if column == 0 { "-".repeat(*width) } else { "-".repeat(width - 1) + ":" };
                println!("| {} |", widths.iter().enumerate().map(line).collect::<Vec<_>>().join(" | "));
            }
        }
    }
}
