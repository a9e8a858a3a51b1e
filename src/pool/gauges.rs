//! The pool as gauges, computed when they are read: by the llm-d picker's names, and what it lacks.

use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use prometheus_client::collector::Collector;
use prometheus_client::encoding::{DescriptorEncoder, EncodeMetric};
use prometheus_client::metrics::counter::ConstCounter;
use prometheus_client::metrics::gauge::ConstGauge;

use super::failure::SourceType;
use super::health::{Effect, Word};
use super::slab::Scraped;
use super::{Cause, Pool, Snapshot, clock_ms};

const SUMMARY: &str = "Over the endpoints with a recent scrape";
const QUEUE: &str = "Requests waiting, as scraped";
/// The label of an endpoint's name.
pub(super) const ENDPOINT: &str = "model_server_endpoint";

/// Collects the gauges of one pool.
#[derive(Clone, Debug)]
pub struct PoolGauges {
    name: String,
    pool: Arc<Pool>,
    staleness_ms: Arc<AtomicU64>,
}

/// Some of them by the names of the llm-d picker's predecessors, which have a prefix of their own.
#[derive(Debug)]
pub struct OldPoolGauges(pub PoolGauges);

/// The load of a pool at one moment.
struct Columns {
    stale: usize,
    waiting: Vec<f32>,
    running: Vec<f32>,
    kv_usage: Vec<f32>,
}

struct Summary {
    mean: f64,
    deviation: f64,
}

/// A gauge with a row for each endpoint of which `value`, by position, is a number; without rows there is no gauge.
/// `pool` is its name.
pub(super) fn of_endpoints(
    encoder: &mut DescriptorEncoder<'_>,
    pool: &str,
    (name, help, label): (&str, &str, &str),
    snapshot: &Snapshot,
    value: impl Fn(usize) -> f64,
) -> fmt::Result {
    let known = |position: usize| Some((position, value(position))).filter(|(_, v)| !v.is_nan());
    let mut rows = (0..snapshot.len()).filter_map(known).peekable();
    if rows.peek().is_none() {
        return Ok(());
    }
    let kind = ConstGauge::new(0.0).metric_type();
    let mut family = encoder.encode_descriptor(name, help, None, kind)?;
    for (position, value) in rows {
        let endpoint = snapshot.members()[position].endpoint.id.name.as_str();
        let labels = [("name", pool), (label, endpoint)];
        ConstGauge::new(value).encode(family.encode_family(&labels)?)?;
    }
    Ok(())
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

    fn of_causes(&self, e: &mut DescriptorEncoder<'_>, snapshot: &Snapshot) -> fmt::Result {
        let mut now = [0u32; Cause::ALL.len()];
        let words = (0..snapshot.len() as u32).map(|position| snapshot.word(position));
        for cause in words.filter_map(Word::cause) {
            now[cause as usize] += 1;
        }
        let help = "Endpoints that are out, by the worst cause that stands there";
        let kind = ConstGauge::new(0.0).metric_type();
        let mut family = e.encode_descriptor("endpoints_ejected", help, None, kind)?;
        let puts_out = |cause: &Cause| cause.effect() != Effect::Derate;
        for cause in Cause::ALL.into_iter().filter(puts_out) {
            let labels = [("name", self.name.as_str()), ("cause", cause.name())];
            let count = f64::from(now[cause as usize]);
            ConstGauge::new(count).encode(family.encode_family(&labels)?)?;
        }
        let help = "How often endpoints were put out, by cause";
        let kind = ConstCounter::new(0u64).metric_type();
        let mut family = e.encode_descriptor("endpoint_ejections", help, None, kind)?;
        for cause in Cause::ALL.into_iter().filter(puts_out) {
            let labels = [("name", self.name.as_str()), ("cause", cause.name())];
            let count = self.pool.ejections(cause);
            ConstCounter::new(count).encode(family.encode_family(&labels)?)?;
        }
        Ok(())
    }

    /// How each endpoint is, and whether too many are out.
    fn of_health(&self, e: &mut DescriptorEncoder<'_>, snapshot: &Snapshot) -> fmt::Result {
        let weight = (
            "endpoint_health_weight",
            "What health leaves of an endpoint's share: 1 all, 0 nothing",
            ENDPOINT,
        );
        of_endpoints(e, &self.name, weight, snapshot, |i| {
            let word = snapshot.word(i as u32);
            match word.is_out(true) {
                true => 0.0,
                false => f64::from(word.weight()),
            }
        })?;
        let speed = (
            "endpoint_speed",
            "Beside the pool's median, as learned and as the GPUs tell",
            ENDPOINT,
        );
        of_endpoints(e, &self.name, speed, snapshot, |i| {
            let (s, i) = snapshot.cell(i as u32);
            f64::from(f32::from_bits(s.speed[i].load(Ordering::Relaxed)))
        })?;
        self.of_states(e, snapshot)?;
        let (out, most) = snapshot.kept_out();
        let over = f64::from(u8::from(out > most));
        let help =
            "1 while more endpoints of a stage are out than may be: the least bad get requests";
        self.of_pool(e, "ejection_limit_exceeded", help, over)?;
        let overruled = ConstCounter::new(self.pool.overruled());
        let help = "Decisions that let endpoints in for that reason";
        let kind = overruled.metric_type();
        let mut family = e.encode_descriptor("ejection_limit_decisions", help, None, kind)?;
        overruled.encode(family.encode_family(&[("name", self.name.as_str())])?)
    }

    /// One for each endpoint that is not well, and each cause of it.
    fn of_states(&self, e: &mut DescriptorEncoder<'_>, snapshot: &Snapshot) -> fmt::Result {
        let members = snapshot.members().iter();
        let ill = members.flat_map(|member| {
            let causes = member.slot.causes().into_iter();
            causes.map(move |(cause, _)| (member, member.slot.word().name(), cause))
        });
        let mut ill = ill.peekable();
        if ill.peek().is_none() {
            return Ok(());
        }
        let help =
            "1 while a cause stands at an endpoint, with the state that comes of all of them";
        let kind = ConstGauge::new(1_i64).metric_type();
        let mut family = e.encode_descriptor("endpoint_unhealthy", help, None, kind)?;
        for (member, state, cause) in ill {
            let labels = [
                ("name", self.name.as_str()),
                (ENDPOINT, member.endpoint.id.name.as_str()),
                ("state", state),
                ("cause", cause.name()),
            ];
            ConstGauge::new(1_i64).encode(family.encode_family(&labels)?)?;
        }
        Ok(())
    }

    /// One for each endpoint and source whose last poll failed, and none for the others: no cause of the past is left standing.
    fn of_faults(&self, e: &mut DescriptorEncoder<'_>, snapshot: &Snapshot) -> fmt::Result {
        let failing = snapshot.members().iter().flat_map(|member| {
            let of = move |source| Some((member, source, member.faults().of(source)?));
            SourceType::ALL.into_iter().filter_map(of)
        });
        let mut failing = failing.peekable();
        if failing.peek().is_none() {
            return Ok(());
        }
        let help = "1 while the last poll of an endpoint failed, by cause";
        let kind = ConstGauge::new(1_i64).metric_type();
        let mut family = e.encode_descriptor("endpoint_scrape_failed", help, None, kind)?;
        for (member, source, fault) in failing {
            let labels = [
                ("name", self.name.as_str()),
                (ENDPOINT, member.endpoint.id.name.as_str()),
                ("source_type", source.name()),
                ("cause", fault.name()),
            ];
            ConstGauge::new(1_i64).encode(family.encode_family(&labels)?)?;
        }
        Ok(())
    }

    /// As scraped: what we add for our own decisions would hide from a dashboard what the engines say.
    fn columns(&self, snapshot: &Snapshot) -> Columns {
        let now = clock_ms();
        let staleness_ms = self.staleness_ms.load(Ordering::Relaxed);
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
        Columns {
            stale: scraped.iter().filter(|scraped| scraped.is_none()).count(),
            waiting: column(|scraped| scraped.waiting),
            running: column(|scraped| scraped.running),
            kv_usage: column(|scraped| scraped.kv_usage),
        }
    }
}

impl Collector for PoolGauges {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> fmt::Result {
        let snapshot = self.pool.snapshot();
        let columns = self.columns(&snapshot);
        let e = &mut encoder;
        let ready = snapshot.len() as f64;
        self.of_pool(e, "ready_endpoints", "Endpoints of the pool", ready)?;
        self.of_pool(
            e,
            "stale_endpoints",
            "Endpoints without a recent scrape: their load is not known",
            columns.stale as f64,
        )?;
        self.of_pool(
            e,
            "objectives",
            "Objectives whose priority is known",
            self.pool.objectives.count() as f64,
        )?;
        for (what, summary) in columns.summaries() {
            self.of_pool(e, &format!("average_{what}"), SUMMARY, summary.mean)?;
            self.of_pool(e, &format!("std_dev_{what}"), SUMMARY, summary.deviation)?;
        }
        let queue = ("per_endpoint_queue_size", QUEUE, ENDPOINT);
        let waiting = &columns.waiting;
        of_endpoints(e, &self.name, queue, &snapshot, |i| f64::from(waiting[i]))?;
        let flight = (
            "endpoint_in_flight",
            "Requests sent that have not ended, as far as we see their end",
            ENDPOINT,
        );
        of_endpoints(e, &self.name, flight, &snapshot, |i| {
            let (s, i) = snapshot.cell(i as u32);
            f64::from(s.in_flight[i].load(Ordering::Relaxed))
        })?;
        let open = (
            "endpoint_breaker_open",
            "1 while failures keep requests away",
            ENDPOINT,
        );
        of_endpoints(e, &self.name, open, &snapshot, |i| {
            let causes = snapshot.member(i as u32).slot.causes();
            let failing = causes.iter().any(|&(cause, _)| cause == Cause::Failures);
            f64::from(u8::from(failing))
        })?;
        self.of_causes(e, &snapshot)?;
        self.of_health(e, &snapshot)?;
        self.of_faults(e, &snapshot)
    }
}

// === impl OldPoolGauges ===

impl Collector for OldPoolGauges {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> fmt::Result {
        let (e, pool) = (&mut encoder, &self.0);
        let snapshot = pool.pool.snapshot();
        let columns = pool.columns(&snapshot);
        let ready = snapshot.len() as f64;
        pool.of_pool(
            e,
            "inference_pool_ready_pods",
            "Endpoints of the pool",
            ready,
        )?;
        for (what, summary) in columns.summaries() {
            let name = format!("inference_pool_average_{what}");
            pool.of_pool(e, &name, SUMMARY, summary.mean)?;
        }
        let queue = (
            "inference_pool_per_pod_queue_size",
            QUEUE,
            "model_server_pod",
        );
        let waiting = &columns.waiting;
        of_endpoints(e, &pool.name, queue, &snapshot, |i| f64::from(waiting[i]))
    }
}

// === impl Columns ===

impl Columns {
    /// Of what there is anything known.
    fn summaries(&self) -> impl Iterator<Item = (&'static str, Summary)> {
        let columns = [
            ("kv_cache_utilization", &self.kv_usage),
            ("queue_size", &self.waiting),
            ("running_requests", &self.running),
        ];
        let known = |(what, values): (_, &Vec<f32>)| Some((what, Summary::of(values)?));
        columns.into_iter().filter_map(known)
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
    use super::super::breaker::{PAUSE_MS, STREAK};
    use super::super::slab::Scrape;
    use super::super::snapshot::tests::pool_of;
    use super::super::{Breaker, Outcome, Reservation};
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
    fn ejections_are_counted_by_cause() {
        let pool = Arc::new(pool_of(&["10.0.0.1:80", "10.0.0.2:80"]));
        let slot = Arc::clone(&pool.snapshot().member(1).slot);
        let lines = |now: u32, ever: u32| {
            let mut registry = Registry::default();
            let staleness = Arc::new(u64::MAX.into());
            let gauges = PoolGauges::new("p".to_owned(), Arc::clone(&pool), staleness);
            registry.register_collector(Box::new(gauges));
            let mut text = String::new();
            prometheus_client::encoding::text::encode(&mut text, &registry).unwrap();
            for (name, value) in [
                ("endpoints_ejected", now),
                ("endpoint_ejections_total", ever),
            ] {
                let line = format!("{name}{{name=\"p\",cause=\"failures\"}} {value}");
                assert!(text.contains(&line), "{line} is not in\n{text}");
            }
        };
        lines(0, 0);
        let fail = |sent_at| Breaker::observe(&slot, Outcome::Failed, sent_at, sent_at);
        (0..STREAK).for_each(|_| fail(50));
        lines(1, 1);
        // A probe fails: that is no other ejection.
        fail(50 + PAUSE_MS);
        lines(1, 1);
        Breaker::observe(&slot, Outcome::Ok, 100_000, 100_000);
        lines(0, 1);
        (0..STREAK).for_each(|_| fail(100_001));
        lines(1, 2);
        // Another cause of the same endpoint: it is out once.
        let page = Scrape {
            healthy: Some(false),
            ..Default::default()
        };
        slot.record(&page, 0, clock_ms());
        lines(1, 2);
        // It takes what it is with it, and what happened stays.
        pool.replace(Vec::new());
        lines(0, 2);
    }

    #[test]
    fn what_is_wrong_is_named() {
        let pool = Arc::new(pool_of(&["10.0.0.1:80", "10.0.0.2:80", "10.0.0.3:80"]));
        let unhealthy = Scrape {
            healthy: Some(false),
            ..Default::default()
        };
        let snapshot = pool.snapshot();
        let page = |text: &mut String| {
            let mut registry = Registry::default();
            let staleness = Arc::new(u64::MAX.into());
            let gauges = PoolGauges::new("p".to_owned(), Arc::clone(&pool), staleness);
            registry.register_collector(Box::new(gauges));
            text.clear();
            prometheus_client::encoding::text::encode(text, &registry).unwrap();
        };
        let mut text = String::new();
        page(&mut text);
        assert!(!text.contains("endpoint_unhealthy"), "{text}");
        assert!(
            text.contains("ejection_limit_exceeded{name=\"p\"} 0"),
            "{text}"
        );
        for position in 0..2 {
            let slot = &snapshot.member(position).slot;
            slot.record(&unhealthy, 0, clock_ms());
        }
        let mut candidates = vec![0, 1, 2];
        assert!(!snapshot.retain_healthy(true, &mut candidates));
        snapshot.overruled();
        assert_eq!(candidates, [0, 2]);
        page(&mut text);
        for line in [
            "endpoint_unhealthy{name=\"p\",model_server_endpoint=\"10.0.0.1:80\",state=\"ejected\",cause=\"engine-unhealthy\"} 1",
            "endpoint_health_weight{name=\"p\",model_server_endpoint=\"10.0.0.1:80\"} 0",
            "endpoint_health_weight{name=\"p\",model_server_endpoint=\"10.0.0.3:80\"} 1",
            "endpoint_speed{name=\"p\",model_server_endpoint=\"10.0.0.1:80\"} 1",
            "endpoints_ejected{name=\"p\",cause=\"engine-unhealthy\"} 2",
            "ejection_limit_exceeded{name=\"p\"} 1",
            "ejection_limit_decisions_total{name=\"p\"} 1",
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
