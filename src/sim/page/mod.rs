//! `/metrics`, as an engine of 2026 prints it.
//!
//! What was modelled after what:
//!
//! - The `vllm:` families: names, types, help texts, labels, bounds and order are those that vLLM's `v1/metrics/loggers.py`
//!   and `perf.py` register in mid-2026 for one engine, with LoRA where it is enabled and with
//!   `VLLM_COMPUTE_NANS_IN_LOGITS` (which brings `corrupted_requests`). The names were held against published lists of
//!   scrapes of 0.27.1 and 0.29.0; of the latter `model_weights_memory_bytes` is left out.
//! - The labels of `cache_config_info`: a published scrape of August 2026.
//! - The `http_` families: prometheus-fastapi-instrumentator 8, with vLLM's excluded paths. They count real requests.
//! - The `sglang:` families: those of its `observability/metrics_collector.py` in autumn 2026 that a server has which is
//!   one process without speculative decoding, disaggregation, grammars or a hierarchical cache. Left out are stages, CUDA
//!   graphs, estimated FLOP/s, routing keys by number of requests, start-up times and sizes in GB.
//! - The `trtllm_` families: those of its `metrics/collector.py` in autumn 2026, with `return_perf_metrics` and
//!   `enable_iter_perf_stats`. Left out are those of configuration, iterations of the KV cache, and perplexity.
//! - The rest and the text format: prometheus_client 0.26; of the last two as it collects from several processes: nothing
//!   has a `_created`, and a family is there from its first value on. Golden tests compare the outlines of the pages with
//!   those that these libraries printed from the engines' definitions.
//!
//! What moves as the simulated engine moves is in [`vllm`], [`sglang`] and [`trtllm`]. Everything else stands at zero or is
//! made up once: the caches and the steps that there are not, and the numbers of a Python process.

mod go_float;
mod histogram;
mod http;
mod labels;
mod sglang;
#[cfg(test)]
mod tests;
mod trtllm;
mod vllm;

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Instant, SystemTime, UNIX_EPOCH};

use go_float::go_float;
pub(super) use histogram::Histogram;
use histogram::Lines;
pub(super) use http::HttpStats;
use labels::{Label, sorted};
use parking_lot::Mutex;
pub(super) use trtllm::iterations;

use super::engine::{Combination, Engine, EngineConfig, EngineKind, SleepLevel, Stats};
use super::step::{Gauges, GpuState};

/// The page of one server. What never changes of it, nearly all, is printed once.
#[derive(Debug)]
pub(super) struct Page {
    pieces: Vec<Piece>,
    max_loras: String,
    http: HttpStats,
    throughput: Mutex<Throughput>,
}

/// Tokens a second, as SGLang measures them: over the last second or more.
#[derive(Debug)]
struct Throughput {
    since: Instant,
    tokens: u64,
    rate: f64,
}

/// A part of the page.
#[derive(Debug)]
enum Piece {
    Text(String),
    /// A number and the end of its line.
    Value(Source),
    Histogram(Observed, Lines),
    Lora,
    /// What is there only where that is so.
    When(Condition, Vec<Piece>),
}

/// What is read for one page.
#[derive(Debug)]
struct Reading<'a> {
    config: &'a EngineConfig,
    gauges: Gauges,
    gpu: Option<GpuState>,
    asleep: Option<SleepLevel>,
    stats: &'a Stats,
    /// Generated tokens a second.
    throughput: f64,
}

/// Whether a part of the page is there.
type Condition = fn(&Reading<'_>) -> bool;

/// Where a histogram comes from.
type Observed = fn(&Stats) -> &Histogram;

/// Where a number comes from.
type Source = fn(&Reading<'_>) -> f64;

/// A series of a family: the label that tells it from the others, and its number; `None` = it stays at zero.
type Series = (Option<Label<'static>>, Option<Source>);

/// A page that is being put together.
struct Builder<'a> {
    pieces: Vec<Piece>,
    /// Labels of all series of the engine.
    base: Vec<Label<'a>>,
    /// When every series began, as a line's value; `None`: collected from several processes.
    created: Option<String>,
}

// === impl Page ===

impl Page {
    pub(super) fn new(model: &str, engine: &Engine) -> Self {
        let created = now();
        let kind = engine.config().kind;
        let base = match kind {
            EngineKind::Vllm => vec![("engine", "0"), ("model_name", model)],
            EngineKind::Sglang => sglang::labels(model),
            EngineKind::Trtllm => trtllm::labels(model),
        };
        let mut builder = Builder {
            pieces: Vec::new(),
            base,
            created: (kind == EngineKind::Vllm).then(|| number(created)),
        };
        let stats = engine.stats();
        match kind {
            EngineKind::Vllm => {
                vllm::python(&mut builder, &number(created));
                vllm::vllm(&mut builder, engine.config(), &stats);
            }
            EngineKind::Sglang => sglang::sglang(&mut builder, model, &stats),
            EngineKind::Trtllm => trtllm::trtllm(&mut builder, &stats),
        }
        Self {
            pieces: builder.pieces,
            max_loras: engine.config().max_loras.to_string(),
            http: HttpStats::new(created),
            throughput: Mutex::new(Throughput {
                since: Instant::now(),
                tokens: 0,
                rate: 0.0,
            }),
        }
    }

    /// The server's requests.
    pub(super) fn http(&self) -> &HttpStats {
        &self.http
    }

    pub(super) fn print(&self, engine: &Engine) -> String {
        let stats = engine.stats();
        let reading = Reading {
            config: engine.config(),
            gauges: engine.gauges(),
            gpu: engine.gpu(),
            asleep: engine.asleep(),
            stats: &stats,
            throughput: self.throughput.lock().measure(&stats),
        };
        // All but the longest of pages.
        let mut out = String::with_capacity(72 << 10);
        self.pieces(&mut out, &self.pieces, &reading, engine);
        if engine.config().kind == EngineKind::Vllm {
            self.http.print(&mut out);
        }
        out
    }

    fn pieces(&self, out: &mut String, pieces: &[Piece], reading: &Reading<'_>, engine: &Engine) {
        for piece in pieces {
            match piece {
                Piece::Text(text) => out.push_str(text),
                Piece::Value(source) => {
                    go_float(out, source(reading));
                    out.push('\n');
                }
                Piece::Histogram(histogram, lines) => histogram(reading.stats).print(out, lines),
                Piece::Lora => self.lora(out, &engine.adapters()),
                Piece::When(is, pieces) if is(reading) => {
                    self.pieces(out, pieces, reading, engine);
                }
                Piece::When(..) => {}
            }
        }
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

// === impl Throughput ===

impl Throughput {
    fn measure(&mut self, stats: &Stats) -> f64 {
        let seconds = self.since.elapsed().as_secs_f64();
        if seconds >= 1.0 {
            let tokens = stats.generated_tokens.load(Ordering::Relaxed);
            // After a restart there are fewer.
            self.rate = tokens.saturating_sub(self.tokens) as f64 / seconds;
            (self.since, self.tokens) = (Instant::now(), tokens);
        }
        self.rate
    }
}

// === impl Builder ===

impl Builder<'_> {
    /// What `build` adds is there only where `is` says so.
    fn when(&mut self, is: Condition, build: impl FnOnce(&mut Self)) {
        let outer = std::mem::take(&mut self.pieces);
        build(self);
        let inner = std::mem::replace(&mut self.pieces, outer);
        self.pieces.push(Piece::When(is, inner));
    }

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
        let labels: Vec<_> = self.base.iter().copied().chain(label).collect();
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

    fn histogram(&mut self, name: &str, help: &str, of: Observed, stats: &Stats) {
        self.histograms(name, help, &[(None, of)], stats);
    }

    /// One for each label.
    fn histograms(
        &mut self,
        name: &str,
        help: &str,
        series: &[(Option<Label<'static>>, Observed)],
        stats: &Stats,
    ) {
        self.head(name, "histogram", help);
        for (label, of) in series {
            let labels: Vec<_> = self.base.iter().copied().chain(*label).collect();
            let lines = of(stats).lines(name, &labels);
            let lines = match self.created {
                Some(_) => lines,
                None => lines.sum_first(),
            };
            self.pieces.push(Piece::Histogram(*of, lines));
        }
        let labels: Vec<_> = series.iter().map(|(label, _)| *label).collect();
        self.created(name, help, &labels);
    }

    fn created(&mut self, name: &str, help: &str, labels: &[Option<Label<'_>>]) {
        let Some(value) = self.created.clone() else {
            return;
        };
        let name = format!("{name}_created");
        self.head(&name, "gauge", help);
        for label in labels {
            let labels: Vec<_> = self.base.iter().copied().chain(*label).collect();
            self.line(&name, &labels, &value);
        }
    }
}

fn head(name: &str, kind: &str, help: &str) -> String {
    format!("# HELP {name} {help}\n# TYPE {name} {kind}\n")
}

fn count(counter: &AtomicU64) -> f64 {
    counter.load(Ordering::Relaxed) as f64
}

fn prompt_tokens(reading: &Reading<'_>) -> f64 {
    count(&reading.stats.prompt_tokens)
}

fn cached_tokens(reading: &Reading<'_>) -> f64 {
    count(&reading.stats.cached_tokens)
}

fn computed_tokens(reading: &Reading<'_>) -> f64 {
    prompt_tokens(reading) - cached_tokens(reading)
}

/// KV cache blocks in use.
fn used_blocks(reading: &Reading<'_>) -> f64 {
    (reading.gauges.kv_usage * reading.config.kv_blocks as f64).round()
}

/// Whether an answer has ended.
fn has_finished(reading: &Reading<'_>) -> bool {
    !reading.stats.prompt.is_empty()
}

/// Whether a prompt was read.
fn has_read(reading: &Reading<'_>) -> bool {
    !reading.stats.ttft.is_empty()
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
