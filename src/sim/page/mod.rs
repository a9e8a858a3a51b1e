//! `/metrics`, as a vLLM of 2026 prints it.
//!
//! What was modelled after what:
//!
//! - The `vllm:` families: names, types, help texts, labels, bounds and order are those that vLLM's `v1/metrics/loggers.py`
//!   and `perf.py` register in mid-2026 for one engine, with LoRA where it is enabled and with
//!   `VLLM_COMPUTE_NANS_IN_LOGITS` (which brings `corrupted_requests`). The names were held against published lists of
//!   scrapes of 0.27.1 and 0.29.0; of the latter `model_weights_memory_bytes` is left out.
//! - The labels of `cache_config_info`: a published scrape of August 2026.
//! - The `http_` families: prometheus-fastapi-instrumentator 8, with vLLM's excluded paths. They count real requests.
//! - The rest and the text format: prometheus_client 0.26. A golden test compares the outline of the page with one that
//!   these two libraries printed from vLLM's definitions.
//!
//! What moves as the simulated engine moves is in [`families`]. Everything else stands at zero or is made up once: the
//! caches and the steps that there are not, and the numbers of a Python process.

mod families;
mod go_float;
mod histogram;
mod http;
mod labels;
#[cfg(test)]
mod tests;

use std::time::{SystemTime, UNIX_EPOCH};

use go_float::go_float;
pub(super) use histogram::Histogram;
use histogram::Lines;
pub(super) use http::HttpStats;
use labels::{Label, sorted};

use super::engine::{Combination, Engine, SleepLevel, Stats};
use super::step::Gauges;

/// The page of one server. What never changes of it, nearly all, is printed once.
#[derive(Debug)]
pub(super) struct Page {
    pieces: Vec<Piece>,
    max_loras: String,
    http: HttpStats,
}

/// A part of the page.
#[derive(Debug)]
enum Piece {
    Text(String),
    /// A number and the end of its line.
    Value(Source),
    Histogram(fn(&Stats) -> &Histogram, Lines),
    Lora,
}

/// What is read for one page.
#[derive(Debug)]
struct Reading<'a> {
    gauges: Gauges,
    asleep: Option<SleepLevel>,
    stats: &'a Stats,
}

/// Where a number comes from.
type Source = fn(&Reading<'_>) -> f64;

/// A series of a family: the label that tells it from the others, and its number; `None` = it stays at zero.
type Series = (Option<Label<'static>>, Option<Source>);

/// A page that is being put together.
struct Builder<'a> {
    pieces: Vec<Piece>,
    /// Labels of all `vllm:` series.
    base: [Label<'a>; 2],
    /// When every series began, as a line's value.
    created: String,
}

// === impl Page ===

impl Page {
    pub(super) fn new(model: &str, engine: &Engine) -> Self {
        let created = now();
        let mut builder = Builder {
            pieces: Vec::new(),
            base: [("engine", "0"), ("model_name", model)],
            created: number(created),
        };
        families::python(&mut builder);
        families::vllm(&mut builder, engine.config(), &engine.stats());
        Self {
            pieces: builder.pieces,
            max_loras: engine.config().max_loras.to_string(),
            http: HttpStats::new(created),
        }
    }

    /// The server's requests.
    pub(super) fn http(&self) -> &HttpStats {
        &self.http
    }

    pub(super) fn print(&self, engine: &Engine) -> String {
        let stats = engine.stats();
        let reading = Reading {
            gauges: engine.gauges(),
            asleep: engine.asleep(),
            stats: &stats,
        };
        // All but the longest of pages.
        let mut out = String::with_capacity(72 << 10);
        for piece in &self.pieces {
            match piece {
                Piece::Text(text) => out.push_str(text),
                Piece::Value(source) => {
                    go_float(&mut out, source(&reading));
                    out.push('\n');
                }
                Piece::Histogram(histogram, lines) => {
                    histogram(reading.stats).print(&mut out, lines);
                }
                Piece::Lora => self.lora(&mut out, &engine.adapters()),
            }
        }
        self.http.print(&mut out);
        out
    }

    fn lora(&self, out: &mut String, adapters: &[Combination]) {
        for combination in adapters {
            out.push_str("vllm:lora_requests_info");
            out.push_str(&sorted(&[
                ("max_lora", &self.max_loras),
                ("running_lora_adapters", &combination.running),
                ("waiting_lora_adapters", &combination.waiting),
            ]));
            out.push(' ');
            go_float(out, combination.at);
            out.push('\n');
        }
    }
}

// === impl Builder ===

impl Builder<'_> {
    fn text(&mut self, text: &str) {
        match self.pieces.last_mut() {
            Some(Piece::Text(last)) => last.push_str(text),
            _ => self.pieces.push(Piece::Text(text.to_owned())),
        }
    }

    fn head(&mut self, name: &str, kind: &str, help: &str) {
        self.text(&head(name, kind, help));
    }

    fn line(&mut self, name: &str, labels: &[Label<'_>], value: &str) {
        self.text(&format!("{name}{} {value}\n", sorted(labels)));
    }

    fn series(&mut self, name: &str, (label, source): Series) {
        let labels: Vec<_> = self.base.into_iter().chain(label).collect();
        match source {
            None => self.line(name, &labels, "0.0"),
            Some(source) => {
                self.text(&format!("{name}{} ", sorted(&labels)));
                self.pieces.push(Piece::Value(source));
            }
        }
    }

    fn gauge(&mut self, name: &str, help: &str, series: &[Series]) {
        self.head(name, "gauge", help);
        for series in series {
            self.series(name, *series);
        }
    }

    /// `name` without `_total`.
    fn counter(&mut self, name: &str, help: &str, series: &[Series]) {
        let total = format!("{name}_total");
        self.head(&total, "counter", help);
        for series in series {
            self.series(&total, *series);
        }
        let labels: Vec<_> = series.iter().map(|(label, _)| *label).collect();
        self.created(name, help, &labels);
    }

    fn histogram(&mut self, name: &str, help: &str, of: fn(&Stats) -> &Histogram, stats: &Stats) {
        self.head(name, "histogram", help);
        let lines = of(stats).lines(name, &self.base);
        self.pieces.push(Piece::Histogram(of, lines));
        self.created(name, help, &[None]);
    }

    fn created(&mut self, name: &str, help: &str, labels: &[Option<Label<'_>>]) {
        let name = format!("{name}_created");
        self.head(&name, "gauge", help);
        let value = self.created.clone();
        for label in labels {
            let labels: Vec<_> = self.base.into_iter().chain(*label).collect();
            self.line(&name, &labels, &value);
        }
    }
}

fn head(name: &str, kind: &str, help: &str) -> String {
    format!("# HELP {name} {help}\n# TYPE {name} {kind}\n")
}

fn number(value: f64) -> String {
    let mut out = String::new();
    go_float(&mut out, value);
    out
}

/// Seconds of Unix time.
fn now() -> f64 {
    SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .unwrap_or_default()
        .as_secs_f64()
}
