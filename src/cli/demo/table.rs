//! What the demo shows: a table that moves, and a summary at the end.

use std::fmt::Write as _;
use std::io::{IsTerminal as _, Write as _};

use super::traffic::Results;

/// One server, as it is now.
#[derive(Clone, Debug, Default)]
pub(super) struct Row {
    pub(super) name: String,
    pub(super) address: String,
    pub(super) speed: String,
    pub(super) waiting: f64,
    pub(super) running: f64,
    pub(super) kv_usage: f64,
    /// How often the picker chose it, by the picker's own count.
    pub(super) picked: u64,
    /// Sum of waiting and running over all looks.
    pub(super) load_sum: f64,
    pub(super) looks: u64,
}

/// Draws over what it drew before, or, where nobody looks, now and then a line below the others.
#[derive(Debug)]
pub(super) struct Screen {
    terminal: bool,
    drawn: usize,
    calls: u32,
}

/// Looks between two tables where they cannot be drawn over each other.
const SPARSE: u32 = 10;

// === impl Screen ===

impl Screen {
    pub(super) fn new() -> Self {
        Self {
            terminal: std::io::stdout().is_terminal(),
            drawn: 0,
            calls: 0,
        }
    }

    pub(super) fn draw(&mut self, rows: &[Row], results: &Results, seconds: f64) {
        self.show(|| live(rows, results, seconds));
    }

    /// Shows `text` in the place of what was shown before.
    pub(super) fn show(&mut self, text: impl FnOnce() -> String) {
        self.calls += 1;
        if !self.terminal && !self.calls.is_multiple_of(SPARSE) {
            return;
        }
        let text = text();
        let mut out = String::new();
        if self.terminal && self.drawn > 0 {
            // Up to where the last table began, and clear from there.
            let _ = write!(out, "\x1b[{}A\x1b[J", self.drawn);
        }
        out.push_str(&text);
        self.drawn = text.lines().count();
        // A closed standard output ends the show, not the demo.
        let _ = std::io::stdout().write_all(out.as_bytes());
        let _ = std::io::stdout().flush();
    }
}

fn live(rows: &[Row], results: &Results, seconds: f64) -> String {
    let mut out = format!(
        "{seconds:5.1} s  {} sent, {} answered, {} failed\n{:<8} {:<16} {:>6} {:>8} {:>8} {:>5} {:>7} {:>7}\n",
        results.sent,
        results.complete,
        results.failures(),
        "server",
        "address",
        "speed",
        "waiting",
        "running",
        "kv %",
        "picked",
        "served",
    );
    for row in rows {
        // Writing to a String cannot fail.
        let _ = writeln!(
            out,
            "{:<8} {:<16} {:>6} {:>8} {:>8} {:>5.1} {:>7} {:>7}",
            row.name,
            row.address,
            row.speed,
            row.waiting,
            row.running,
            row.kv_usage * 100.0,
            row.picked,
            results.by_server.get(&row.name).copied().unwrap_or(0),
        );
    }
    out
}

/// Who was chosen how often, and whether the requests arrived there.
pub(super) fn summary(rows: &[Row], results: &Results, seconds: f64) -> String {
    let picked: u64 = rows.iter().map(|row| row.picked).sum();
    let share = |count: u64| 100.0 * count as f64 / (results.complete.max(1)) as f64;
    let mut out = format!(
        "\n{}\n\n{:<8} {:>6} {:>8} {:>8} {:>7} {:>10}\n",
        results.told(seconds),
        "server",
        "speed",
        "picked",
        "served",
        "share",
        "mean load",
    );
    for row in rows {
        let served = results.by_server.get(&row.name).copied().unwrap_or(0);
        let _ = writeln!(
            out,
            "{:<8} {:>6} {:>8} {:>8} {:>5.0} % {:>10.1}",
            row.name,
            row.speed,
            row.picked,
            served,
            share(served),
            row.load_sum / row.looks.max(1) as f64,
        );
    }
    for (what, count) in &results.failed {
        let _ = writeln!(out, "failed: {count} {what}");
    }
    let astray: u64 = rows
        .iter()
        .map(|row| {
            let served = results.by_server.get(&row.name).copied().unwrap_or(0);
            served.abs_diff(row.picked)
        })
        .sum();
    let _ = match (picked, astray) {
        (0, _) => writeln!(out, "\nThe picker was never asked."),
        (_, 0) => writeln!(
            out,
            "\nThe picker counts {picked} decisions, and every request was served by the server that it was sent to."
        ),
        _ => writeln!(
            out,
            "\nThe picker counts {picked} decisions; {astray} differ from where requests were served."
        ),
    };
    out
}
