//! Series that are kept under two names.
//!
//! The llm-d picker still writes many metrics under the names of its predecessors too, and dashboards and autoscalers still
//! read them. Here they are kept on demand, and a request resolves both names once: an event is one more atomic add.

use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::registry::{Metric, Registry};

use super::histogram::Histogram;

/// A series and, if those are kept, its twin under the old name.
#[derive(Clone, Debug)]
pub struct Twin<M> {
    series: M,
    old: Option<M>,
}

/// A family, and its twin with labels of its own.
#[derive(Debug)]
pub(super) struct Twins<L, O, M> {
    family: Made<L, M>,
    old: Option<Made<O, M>>,
}

/// A family whose series a plain function makes.
pub(super) type Made<L, M> = Family<L, M, fn() -> M>;

/// What the bounds of `prometheus-client` come to for a set of labels.
pub(super) trait Labels:
    EncodeLabelSet + Clone + std::hash::Hash + Eq + Send + Sync + std::fmt::Debug + 'static
{
}

/// Where families are registered: under our prefix, and without one.
pub(super) struct Registries<'a> {
    pub(super) ours: &'a mut Registry,
    /// `None`: old names are not kept.
    pub(super) old: Option<&'a mut Registry>,
}

impl<L> Labels for L where
    L: EncodeLabelSet + Clone + std::hash::Hash + Eq + Send + Sync + std::fmt::Debug + 'static
{
}

// === impl Twins ===

impl<L: Labels, O: Labels, M: Metric + Clone> Twins<L, O, M>
where
    Made<L, M>: Metric,
    Made<O, M>: Metric,
{
    /// Registers the family `name`, and `old` if old names are kept; `new` makes a series.
    pub(super) fn register(
        registries: &mut Registries<'_>,
        (name, help): (&str, &str),
        old: &str,
        new: fn() -> M,
    ) -> Self {
        let family = Family::new_with_constructor(new);
        registries.ours.register(name, help, family.clone());
        let old = registries.old.as_mut().map(|registry| {
            let family = Family::new_with_constructor(new);
            registry.register(old, help, family.clone());
            family
        });
        Self { family, old }
    }

    pub(super) fn resolve(&self, labels: &L, old: impl FnOnce() -> O) -> Twin<M> {
        Twin {
            series: self.family.get_or_create_owned(labels),
            old: self.old.as_ref().map(|f| f.get_or_create_owned(&old())),
        }
    }

    pub(super) fn remove(&self, labels: &L, old: impl FnOnce() -> O) {
        self.family.remove(labels);
        if let Some(family) = &self.old {
            family.remove(&old());
        }
    }
}

impl<L, O, M> Clone for Twins<L, O, M> {
    fn clone(&self) -> Self {
        Self {
            family: self.family.clone(),
            old: self.old.clone(),
        }
    }
}

// === impl Twin ===

impl<M> Twin<M> {
    fn both(&self) -> impl Iterator<Item = &M> {
        std::iter::once(&self.series).chain(&self.old)
    }
}

impl Twin<Counter> {
    /// One more.
    pub fn inc(&self) {
        self.both().for_each(|counter| {
            counter.inc();
        });
    }
}

impl Twin<Gauge> {
    /// One more.
    pub fn inc(&self) {
        self.both().for_each(|gauge| {
            gauge.inc();
        });
    }

    /// One less.
    pub fn dec(&self) {
        self.both().for_each(|gauge| {
            gauge.dec();
        });
    }

    /// How many.
    pub fn get(&self) -> i64 {
        self.series.get()
    }
}

impl Twin<Histogram> {
    /// Counts `value`.
    pub fn observe(&self, value: f64) {
        self.observe_times(value, 1);
    }

    /// Counts `value` as if it had been seen so many `times`.
    pub fn observe_times(&self, value: f64, times: u32) {
        self.both()
            .for_each(|histogram| histogram.observe_times(value, times));
    }
}
