//! GPUs as metrics, computed when they are read: of each endpoint what decisions go by, of the sources whether they are heard.

use std::fmt;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use gpu_probes::telemetry::Gpu;
use prometheus_client::collector::Collector;
use prometheus_client::encoding::{DescriptorEncoder, EncodeMetric as _};
use prometheus_client::metrics::counter::ConstCounter;
use prometheus_client::metrics::gauge::ConstGauge;

use super::super::gauges::{ENDPOINT, of_endpoints};
use super::super::{Snapshot, clock_ms};
use super::agents::StreamFault;
use super::{EndpointGpus, Gpus, SourceKind};

/// Sources of which each has a row of its own; the others are in the counts.
const MOST_SOURCES: usize = 1_024;

/// Collects the gauges of one pool's GPUs.
#[derive(Debug)]
pub struct GpuGauges {
    /// The pool's name.
    pub name: String,
    /// Its GPUs.
    pub gpus: Arc<Gpus>,
}

/// What the page tells of a source.
struct Row {
    kind: SourceKind,
    address: Arc<str>,
    node: String,
    age_ms: Option<u64>,
    silent: bool,
}

/// The value over GPUs of what `of` says of each; NaN if it says nothing of any.
fn over(gpus: &EndpointGpus, of: fn(&Gpu) -> Option<f64>, add: fn(f64, f64) -> f64) -> f64 {
    // All of them: a MIG instance has its clocks, its power and its temperature from its board.
    let values = gpus.gpus.iter().filter_map(|sight| of(&sight.gpu));
    values.reduce(add).unwrap_or(f64::NAN)
}

fn sm_clock(gpu: &Gpu) -> Option<f64> {
    let clocks = gpu.clocks.as_ref()?;
    let most = clocks.sm_max.filter(|&most| most > 0)?;
    Some(f64::from(clocks.sm?) / f64::from(most))
}

// === impl GpuGauges ===

impl GpuGauges {
    fn of_endpoints(&self, e: &mut DescriptorEncoder<'_>, snapshot: &Snapshot) -> fmt::Result {
        let now = clock_ms();
        let memory = |position: usize| {
            let (s, i) = snapshot.cell(position as u32);
            s.gpu_cells.memory(i, now, u64::MAX)
        };
        let age = |position: usize| {
            let (s, i) = snapshot.cell(position as u32);
            let age = s.gpu_cells.memory_age(i, now);
            age.map_or(f64::NAN, |age| age as f64 / 1000.0)
        };
        let gpus = |position: usize, of: &dyn Fn(&EndpointGpus) -> f64| {
            let (s, i) = snapshot.cell(position as u32);
            s.gpus[i].load().as_ref().map_or(f64::NAN, |gpus| of(gpus))
        };
        let mut gauge = |name: &str, help: &str, value: &dyn Fn(usize) -> f64| {
            of_endpoints(e, &self.name, (name, help, ENDPOINT), snapshot, value)
        };
        gauge(
            "endpoint_gpus",
            "GPUs and MIG instances of an endpoint",
            &|at| gpus(at, &|gpus| gpus.own().count() as f64),
        )?;
        gauge(
            "endpoint_gpu_memory_held_bytes",
            "GPU memory that an endpoint holds",
            &|at| memory(at).map_or(f64::NAN, |memory| memory.held as f64),
        )?;
        gauge(
            "endpoint_gpu_memory_free_bytes",
            "GPU memory that an endpoint can still take, less what others are about to take",
            &|at| memory(at).map_or(f64::NAN, |memory| memory.free as f64),
        )?;
        gauge(
            "endpoint_gpu_foreign_processes",
            "Processes of nobody here on an endpoint's GPUs",
            &|at| memory(at).map_or(f64::NAN, |memory| f64::from(memory.foreign)),
        )?;
        gauge(
            "endpoint_gpu_memory_age_seconds",
            "How old what is known of an endpoint's GPU memory is",
            &age,
        )?;
        gauge(
            "endpoint_gpu_sm_clock_ratio",
            "SM clock by its maximum, of an endpoint's slowest GPU",
            &|at| gpus(at, &|gpus| over(gpus, sm_clock, f64::min)),
        )?;
        gauge(
            "endpoint_gpu_temperature_celsius",
            "Temperature of an endpoint's hottest GPU",
            &|at| {
                gpus(at, &|gpus| {
                    over(gpus, |gpu| gpu.temperature.as_ref()?.gpu, f64::max)
                })
            },
        )?;
        gauge(
            "endpoint_gpu_power_watts",
            "Power that an endpoint's GPUs draw",
            &|at| {
                gpus(at, &|gpus| {
                    over(gpus, |gpu| gpu.power.as_ref()?.draw, |a, b| a + b)
                })
            },
        )
    }

    fn of_sources(&self, e: &mut DescriptorEncoder<'_>) -> fmt::Result {
        let now = clock_ms();
        let (rows, known, placed, disputed) = self.gpus.look(|inner| {
            let rows: Vec<Row> = inner
                .sources
                .iter()
                .map(|(id, told)| Row {
                    kind: id.kind,
                    address: Arc::clone(&id.address),
                    node: told.source.node.clone(),
                    age_ms: told.age_ms(now),
                    silent: told.source.is_silent(now),
                })
                .collect();
            let (known, placed) = inner.counts();
            (rows, known, placed, inner.claims.disputed())
        });
        let gauge = ConstGauge::new(0.0).metric_type();
        let help = "Sources of GPU readings, by whether they are heard";
        let mut family = e.encode_descriptor("gpu_sources", help, None, gauge)?;
        for kind in SourceKind::ALL {
            for (state, silent) in [("heard", false), ("silent", true)] {
                let of = rows.iter().filter(|r| (r.kind, r.silent) == (kind, silent));
                let labels = [
                    ("name", &*self.name),
                    ("kind", kind.name()),
                    ("state", state),
                ];
                let count = ConstGauge::new(of.count() as f64);
                count.encode(family.encode_family(&labels)?)?;
            }
        }
        let heard = rows.iter().filter_map(|row| Some((row, row.age_ms?)));
        let mut heard = heard.take(MOST_SOURCES).peekable();
        if heard.peek().is_some() {
            let help = "Since a source of GPU readings was last heard";
            let mut family = e.encode_descriptor("gpu_source_age_seconds", help, None, gauge)?;
            for (row, age_ms) in heard {
                let labels = [
                    ("name", &*self.name),
                    ("kind", row.kind.name()),
                    ("source", &*row.address),
                    ("node", &*row.node),
                ];
                let age = ConstGauge::new(age_ms as f64 / 1000.0);
                age.encode(family.encode_family(&labels)?)?;
            }
        }
        let help = "GPUs and MIG instances that are known, by whether they are an endpoint's";
        let mut family = e.encode_descriptor("gpus", help, None, gauge)?;
        for (of, count) in [("endpoint", placed), ("nobody", known - placed)] {
            let labels = [("name", &*self.name), ("of", of)];
            ConstGauge::new(count as f64).encode(family.encode_family(&labels)?)?;
        }
        let help = "GPUs that an agent claims while another one has them";
        let count = ConstGauge::new(disputed as f64);
        let mut family = e.encode_descriptor("gpus_disputed", help, None, gauge)?;
        count.encode(family.encode_family(&[("name", &*self.name)])?)
    }

    fn counters(&self, e: &mut DescriptorEncoder<'_>) -> fmt::Result {
        let kind = ConstCounter::new(0_u64).metric_type();
        let help = "How often an agent began to claim a GPU that another one has";
        let mut family = e.encode_descriptor("gpu_claim_conflicts", help, None, kind)?;
        let count = ConstCounter::new(self.gpus.conflicts.load(Ordering::Relaxed));
        count.encode(family.encode_family(&[("name", &*self.name)])?)?;
        let help = "Streams of GPU agents that could not begin, or ended, by cause";
        let mut family = e.encode_descriptor("gpu_agent_failures", help, None, kind)?;
        for fault in StreamFault::ALL {
            let labels = [("name", &*self.name), ("cause", fault.name())];
            let count = ConstCounter::new(self.gpus.failed_streams.of(fault));
            count.encode(family.encode_family(&labels)?)?;
        }
        let help = "What of GPU reports could not be taken";
        let mut family = e.encode_descriptor("gpu_reports_refused", help, None, kind)?;
        let refused = &self.gpus.refused;
        for (what, count) in [
            ("nameless-gpu", &refused.nameless),
            ("too-many-gpus", &refused.too_many),
            ("event-of-unknown-gpu", &refused.strange_events),
        ] {
            let labels = [("name", &*self.name), ("what", what)];
            let count = ConstCounter::new(count.load(Ordering::Relaxed));
            count.encode(family.encode_family(&labels)?)?;
        }
        Ok(())
    }
}

impl Collector for GpuGauges {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> fmt::Result {
        let snapshot = self.gpus.pool().snapshot();
        self.of_endpoints(&mut encoder, &snapshot)?;
        self.of_sources(&mut encoder)?;
        self.counters(&mut encoder)
    }
}
