//! The pool as gauges, computed when they are read: by the llm-d picker's names, and what it lacks.

use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use prometheus_client::collector::Collector;
use prometheus_client::encoding::{DescriptorEncoder, EncodeMetric};
use prometheus_client::metrics::gauge::ConstGauge;

use super::slab::Scraped;
use super::{Pool, Snapshot, clock_ms};

/// Collects the gauges of one pool.
#[derive(Debug)]
pub struct PoolGauges {
    name: String,
    pool: Arc<Pool>,
    staleness_ms: Arc<AtomicU64>,
}

struct Summary {
    mean: f64,
    deviation: f64,
}

// === impl PoolGauges ===

impl PoolGauges {
    /// `name` is the pool's; scrapes older than `staleness_ms`, which may change, are left out of averages.
    pub fn new(name: String, pool: Arc<Pool>, staleness_ms: Arc<AtomicU64>) -> Self {
        Self {
            name,
            pool,
            staleness_ms,
        }
    }

    fn of_pool(
        &self,
        encoder: &mut DescriptorEncoder<'_>,
        name: &str,
        help: &str,
        value: f64,
    ) -> fmt::Result {
        let gauge = ConstGauge::new(value);
        let mut family = encoder.encode_descriptor(name, help, None, gauge.metric_type())?;
        gauge.encode(family.encode_family(&[("name", self.name.as_str())])?)
    }

    fn of_endpoints(
        &self,
        encoder: &mut DescriptorEncoder<'_>,
        (name, help): (&str, &str),
        snapshot: &Snapshot,
        value: impl Fn(usize) -> f64,
    ) -> fmt::Result {
        if snapshot.is_empty() {
            return Ok(());
        }
        let kind = ConstGauge::new(0.0).metric_type();
        let mut family = encoder.encode_descriptor(name, help, None, kind)?;
        for (position, member) in snapshot.members().iter().enumerate() {
            let value = value(position);
            if value.is_nan() {
                continue;
            }
            let endpoint = member.endpoint.id.name.as_str();
            let labels = [
                ("name", self.name.as_str()),
                ("model_server_endpoint", endpoint),
            ];
            ConstGauge::new(value).encode(family.encode_family(&labels)?)?;
        }
        Ok(())
    }
}

impl Collector for PoolGauges {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> fmt::Result {
        let snapshot = self.pool.snapshot();
        let now = clock_ms();
        let staleness_ms = self.staleness_ms.load(Ordering::Relaxed);
        // As scraped: what we add for our own decisions would hide from a dashboard what the engines say.
        let scraped: Vec<Option<Scraped>> = (0..snapshot.len() as u32)
            .map(|position| {
                let (s, i) = snapshot.cell(position);
                s.fresh(i, now, staleness_ms)
            })
            .collect();
        let column = |value: fn(&Scraped) -> f32| -> Vec<f32> {
            let known = |scraped: &Option<Scraped>| scraped.as_ref().map_or(f32::NAN, value);
            scraped.iter().map(known).collect()
        };
        let stale = scraped.iter().filter(|scraped| scraped.is_none()).count();
        let waiting = column(|scraped| scraped.waiting);
        let e = &mut encoder;
        self.of_pool(
            e,
            "ready_endpoints",
            "Endpoints of the pool",
            snapshot.len() as f64,
        )?;
        self.of_pool(
            e,
            "stale_endpoints",
            "Endpoints without a recent scrape: their load is not known",
            stale as f64,
        )?;
        self.of_pool(
            e,
            "objectives",
            "Objectives whose priority is known",
            self.pool.objectives.count() as f64,
        )?;
        for (what, values) in [
            ("kv_cache_utilization", &column(|scraped| scraped.kv_usage)),
            ("queue_size", &waiting),
            ("running_requests", &column(|scraped| scraped.running)),
        ] {
            let Some(summary) = Summary::of(values) else {
                continue;
            };
            let help = "Over the endpoints with a recent scrape";
            self.of_pool(e, &format!("average_{what}"), help, summary.mean)?;
            self.of_pool(e, &format!("std_dev_{what}"), help, summary.deviation)?;
        }
        let queue = ("per_endpoint_queue_size", "Requests waiting, as scraped");
        self.of_endpoints(e, queue, &snapshot, |i| f64::from(waiting[i]))?;
        let flight = (
            "endpoint_in_flight",
            "Requests sent that have not ended, as far as we see their end",
        );
        self.of_endpoints(e, flight, &snapshot, |i| {
            let (s, i) = snapshot.cell(i as u32);
            f64::from(s.in_flight[i].load(Ordering::Relaxed))
        })?;
        let open = (
            "endpoint_breaker_open",
            "1 while failures keep requests away",
        );
        self.of_endpoints(e, open, &snapshot, |i| {
            f64::from(u8::from(snapshot.is_open(i as u32)))
        })
    }
}

// === impl Summary ===

impl Summary {
    /// Over the values that are known.
    fn of(values: &[f32]) -> Option<Self> {
        let known = || values.iter().filter(|v| !v.is_nan()).map(|&v| f64::from(v));
        let count = known().count();
        if count == 0 {
            return None;
        }
        let mean = known().sum::<f64>() / count as f64;
        let variance = known().map(|v| (v - mean).powi(2)).sum::<f64>() / count as f64;
        Some(Self {
            mean,
            deviation: variance.sqrt(),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::super::Reservation;
    use super::super::slab::Scrape;
    use super::super::snapshot::tests::pool_of;
    use super::*;
    use prometheus_client::registry::Registry;

    #[test]
    fn load_is_shown_as_scraped() {
        let pool = Arc::new(pool_of(&["10.0.0.1:80", "10.0.0.2:80"]));
        let snapshot = pool.snapshot();
        let slot = &snapshot.member(0).slot;
        let page = Scrape {
            waiting: Some(2.0),
            running: Some(5.0),
            kv_usage: Some(0.25),
            ..Default::default()
        };
        let begun = slot.scrape_begins();
        let _sent = [Reservation::new(slot), Reservation::new(slot)];
        slot.record(&page, begun, clock_ms());
        let mut registry = Registry::default();
        let gauges = PoolGauges::new("p".to_owned(), Arc::clone(&pool), Arc::new(u64::MAX.into()));
        registry.register_collector(Box::new(gauges));
        let mut text = String::new();
        prometheus_client::encoding::text::encode(&mut text, &registry).unwrap();
        for line in [
            "stale_endpoints{name=\"p\"} 1",
            "average_queue_size{name=\"p\"} 2",
            "average_running_requests{name=\"p\"} 5",
            "average_kv_cache_utilization{name=\"p\"} 0.25",
            "per_endpoint_queue_size{name=\"p\",model_server_endpoint=\"10.0.0.1:80\"} 2",
            "endpoint_in_flight{name=\"p\",model_server_endpoint=\"10.0.0.1:80\"} 2",
        ] {
            assert!(text.contains(line), "{line} is not in\n{text}");
        }
    }

    #[test]
    fn unknown_values_are_left_out() {
        let summary = Summary::of(&[2.0, f32::NAN, 4.0]).unwrap();
        assert_eq!((summary.mean, summary.deviation), (3.0, 1.0));
        assert!(Summary::of(&[f32::NAN]).is_none());
    }
}
