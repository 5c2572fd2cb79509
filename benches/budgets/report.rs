//! The table: what was promised, what was seen, and what it was measured against.

use std::fmt::Write as _;

use serde_json::{Value, json};

/// Whether a budget holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    Met,
    Missed,
    /// Measured for comparison; nothing was promised.
    Shown,
    /// Nothing to measure yet.
    NotBuilt,
}

impl Verdict {
    const fn word(self) -> &'static str {
        match self {
            Verdict::Met => "met",
            Verdict::Missed => "MISSED",
            Verdict::Shown => "",
            Verdict::NotBuilt => "not built yet",
        }
    }
}

/// One line of the table.
pub struct Row {
    pub what: String,
    pub budget: String,
    pub measured: String,
    pub verdict: Verdict,
    /// The figures, for programs.
    pub values: Value,
}

/// Everything one run has to say.
#[derive(Default)]
pub struct Report {
    rows: Vec<Row>,
    notes: Vec<String>,
    machine: Vec<(String, String)>,
}

impl Report {
    /// A row whose value must be at most `budget`, both in `unit`.
    pub fn at_most(&mut self, what: &str, budget: f64, unit: &str, value: f64, more: &str) {
        self.rows.push(Row {
            what: what.to_owned(),
            budget: format!("≤ {} {unit}", number(budget)),
            measured: join(&format!("{} {unit}", number(value)), more),
            verdict: if value <= budget { Verdict::Met } else { Verdict::Missed },
            values: json!({"value": value, "budget": budget, "unit": unit, "more": more}),
        });
    }

    /// A row whose ratio must be at least `budget`.
    pub fn at_least(&mut self, what: &str, budget: f64, ratio: f64, more: &str) {
        self.rows.push(Row {
            what: what.to_owned(),
            budget: format!("≥ {} times", number(budget)),
            measured: join(&format!("{} times", number(ratio)), more),
            verdict: if ratio >= budget { Verdict::Met } else { Verdict::Missed },
            values: json!({"value": ratio, "budget": budget, "unit": "times", "more": more}),
        });
    }

    /// A row without a promise.
    pub fn shown(&mut self, what: &str, unit: &str, value: f64, more: &str) {
        self.rows.push(Row {
            what: what.to_owned(),
            budget: String::new(),
            measured: join(&format!("{} {unit}", number(value)), more),
            verdict: Verdict::Shown,
            values: json!({"value": value, "unit": unit, "more": more}),
        });
    }

    /// A row for which there is nothing to measure yet.
    pub fn not_built(&mut self, what: &str, budget: &str, why: &str) {
        self.rows.push(Row {
            what: what.to_owned(),
            budget: budget.to_owned(),
            measured: why.to_owned(),
            verdict: Verdict::NotBuilt,
            values: json!({"why": why}),
        });
    }

    pub fn note(&mut self, text: impl Into<String>) {
        self.notes.push(text.into());
    }

    pub fn machine(&mut self, key: &str, value: impl Into<String>) {
        self.machine.push((key.to_owned(), value.into()));
    }

    /// How many budgets are missed.
    pub fn missed(&self) -> usize {
        self.rows.iter().filter(|row| row.verdict == Verdict::Missed).count()
    }

    /// For people.
    pub fn text(&self) -> String {
        let head = ["what", "budget", "measured", ""];
        let cells: Vec<[&str; 4]> = self
            .rows
            .iter()
            .map(|row| [&*row.what, &*row.budget, &*row.measured, row.verdict.word()])
            .collect();
        let width = |column: usize| {
            cells.iter().chain([&head]).map(|row| row[column].chars().count()).max().unwrap_or(0)
        };
        let widths = [width(0), width(1), width(2), width(3)];
        let line = |row: &[&str; 4]| {
            let padded = row.iter().zip(widths).map(|(cell, width)| format!("{cell:width$}"));
            format!("| {} |\n", padded.collect::<Vec<_>>().join(" | "))
        };
        let mut text = line(&head);
        text.push_str(&line(&widths.map(|width| "-".repeat(width)).each_ref().map(|s| s.as_str())));
        for row in &cells {
            text.push_str(&line(row));
        }
        text.push('\n');
        for (key, value) in &self.machine {
            let _ = writeln!(text, "{key}: {value}");
        }
        for note in &self.notes {
            let _ = writeln!(text, "note: {note}");
        }
        text
    }

    /// For programs.
    pub fn json(&self) -> Value {
        let rows: Vec<Value> = self
            .rows
            .iter()
            .map(|row| {
                json!({"what": row.what, "budget": row.budget, "measured": row.measured,
                    "verdict": row.verdict.word(), "values": row.values})
            })
            .collect();
        let machine: serde_json::Map<String, Value> =
            self.machine.iter().map(|(key, value)| (key.clone(), json!(value))).collect();
        json!({"rows": rows, "machine": machine, "notes": self.notes, "missed": self.missed()})
    }
}

fn join(value: &str, more: &str) -> String {
    if more.is_empty() { value.to_owned() } else { format!("{value} ({more})") }
}

/// Three digits that matter.
pub fn number(value: f64) -> String {
    match value.abs() {
        size if size >= 100.0 || value.fract() == 0.0 => format!("{value:.0}"),
        size if size >= 10.0 => format!("{value:.1}"),
        size if size >= 0.1 => format!("{value:.2}"),
        _ => format!("{value:.3}"),
    }
}

/// Times of one kind of call, in milliseconds.
#[derive(Default)]
pub struct Times(Vec<f64>);

impl Times {
    pub fn add(&mut self, took: std::time::Duration) {
        self.0.push(took.as_secs_f64() * 1e3);
    }

    pub fn add_ms(&mut self, took: f64) {
        self.0.push(took);
    }

    pub fn len(&self) -> usize {
        self.0.len()
    }

    /// The value below which `percent` of the times are; NaN if there are none.
    pub fn percentile(&self, percent: f64) -> f64 {
        let mut sorted = self.0.clone();
        sorted.sort_by(f64::total_cmp);
        let rank = (percent / 100.0 * sorted.len() as f64).ceil() as usize;
        sorted.get(rank.saturating_sub(1)).copied().unwrap_or(f64::NAN)
    }

    pub fn median(&self) -> f64 {
        self.percentile(50.0)
    }

    /// How many times as long as `other`: the median of what each pair of rounds says.
    pub fn against(&self, other: &Times) -> f64 {
        Times(self.0.iter().zip(&other.0).map(|(mine, its)| mine / its).collect()).median()
    }

    /// The mean of the middle half: what single slow ones do not move, and steadier than the median.
    pub fn middle(&self) -> f64 {
        let mut sorted = self.0.clone();
        sorted.sort_by(f64::total_cmp);
        let quarter = sorted.len() / 4;
        let half = sorted.get(quarter..sorted.len() - quarter).unwrap_or_default();
        half.iter().sum::<f64>() / half.len() as f64
    }

    /// `p50 0.1, max 2.3, n 100`.
    pub fn summary(&self) -> String {
        let (median, most) = (number(self.median()), number(self.percentile(100.0)));
        format!("p50 {median}, max {most}, n {}", self.len())
    }
}
