//! The endpoints and what is known of each, for people.

use std::sync::atomic::AtomicU32;
use std::sync::atomic::Ordering::{Acquire, Relaxed};

use serde_json::{Value, json};

use super::failure::SourceType;
use super::scrape::ScrapeConfig;
use super::slab::{Segment, Slot};
use super::{Member, Pool, clock_ms};
use crate::telemetry::state::MOST_SHOWN;

/// Models of one endpoint that are shown.
const MOST_MODELS_SHOWN: usize = 32;

/// The first [`MOST_SHOWN`] endpoints of `pool`; `scrape` says what engines they are taken to run. What is not known is
/// null; ages are in milliseconds.
pub fn state(pool: &Pool, scrape: Option<&ScrapeConfig>) -> Value {
    let snapshot = pool.snapshot();
    let now = clock_ms();
    let shown: Vec<Value> = (0..snapshot.len().min(MOST_SHOWN))
        .map(|position| {
            let (s, i) = snapshot.cell(position as u32);
            let member = snapshot.member(position as u32);
            endpoint(member, s, i, scrape, now)
        })
        .collect();
    json!({
        "count": snapshot.len(),
        "not_shown": snapshot.len() - shown.len(),
        "known_adapters": pool.known_adapters(),
        "endpoints": shown,
    })
}

fn endpoint(
    member: &Member,
    s: &Segment,
    i: usize,
    scrape: Option<&ScrapeConfig>,
    now: u64,
) -> Value {
    let engine = scrape.and_then(|scrape| scrape.engine(member));
    json!({
        "name": member.endpoint.id.to_string(),
        "address": member.address,
        "engine": engine.map(|engine| &engine.name),
        "scraped": scraped(s, i, now),
        "failing": failing(member),
        "in_flight": s.in_flight[i].load(Relaxed),
        "sent": s.sent[i].load(Relaxed),
        "health": health(&member.slot, s, i, now),
        "adapters": s.lora[i].load().as_ref().map(|lora| json!({
            "slots": lora.max,
            "running": lora.running.len(),
            "waiting": lora.waiting.len(),
            "taken_to_be_resident": lora.resident.len(),
        })),
        "models": models(s, i, now),
    })
}

/// What the last metrics page told.
fn scraped(s: &Segment, i: usize, now: u64) -> Value {
    let at = s.scraped_at[i].load(Acquire);
    if at == 0 {
        return Value::Null;
    }
    // As many digits as the page had, more or less.
    let number =
        |cell: &AtomicU32| (f64::from(f32::from_bits(cell.load(Relaxed))) * 1e4).round() / 1e4;
    let known = |count: u32| (count != 0).then_some(count);
    json!({
        "age_ms": now.saturating_sub(at),
        "waiting": number(&s.waiting[i]),
        "running": number(&s.running[i]),
        "kv_usage": number(&s.kv_usage[i]),
        "kv_blocks": known(s.kv_blocks[i].load(Relaxed)),
        "block_size": known(s.block_size[i].load(Relaxed)),
        "attributes": s.attributes[i].load().as_ref().map_or(0, |attributes| attributes.len()),
    })
}

/// The sources whose last poll of it failed, with the cause.
fn failing(member: &Member) -> Value {
    let of = |source: SourceType| {
        let fault = member.faults().of(source)?;
        Some((source.name().to_owned(), fault.name().into()))
    };
    Value::Object(SourceType::ALL.into_iter().filter_map(of).collect())
}

/// What is wrong with it, if anything is, and how fast it is.
fn health(slot: &Slot, s: &Segment, i: usize, now: u64) -> Value {
    let word = slot.word();
    let (streak, trips) = slot.failures();
    let since: Vec<Value> = slot
        .causes()
        .into_iter()
        .map(|(cause, since)| json!({"cause": cause.name(), "for_ms": now.saturating_sub(since)}))
        .collect();
    let next = s.next_trial[1][i].load(Relaxed);
    // While what puts it out stands, nobody knows when.
    let trial = (word.is_out(true) && next != u64::MAX).then(|| next.saturating_sub(now));
    json!({
        "state": word.name(),
        "causes": since,
        "weight": (f64::from(word.weight()) * 100.0).round() / 100.0,
        "speed": (f64::from(f32::from_bits(s.speed[i].load(Relaxed))) * 100.0).round() / 100.0,
        "trial_in_ms": trial,
        "trips": trips,
        "failures_in_a_row": streak,
    })
}

/// What the last list of models told.
fn models(s: &Segment, i: usize, now: u64) -> Value {
    let Some(list) = s.models[i].load_full() else {
        return Value::Null;
    };
    let shown = list.models.iter().take(MOST_MODELS_SHOWN);
    let shown: Vec<Value> = shown
        .map(|model| match &model.parent {
            Some(parent) => json!({"id": model.id, "parent": parent}),
            None => json!({"id": model.id}),
        })
        .collect();
    let count = list.models.len() + list.omitted;
    json!({
        "age_ms": now.saturating_sub(list.read_at),
        "count": count,
        "not_shown": count - shown.len(),
        "listed": shown,
    })
}

#[cfg(test)]
mod tests {
    use super::super::failure::Fault;
    use super::super::models::ModelList;
    use super::super::slab::{LoraState, Scrape};
    use super::super::snapshot::tests::{endpoint, pool_of};
    use super::super::{Breaker, Outcome, Reservation, breaker};
    use super::*;

    #[test]
    fn an_endpoint_is_shown_with_all_that_is_known_of_it() {
        let pool = pool_of(&["10.0.0.1:80", "10.0.0.2:80"]);
        let snapshot = pool.snapshot();
        let slot = &snapshot.member(0).slot;
        let page = Scrape {
            waiting: Some(2.0),
            kv_usage: Some(0.25),
            lora: Some(LoraState {
                max: 4,
                running: [7, 8].into(),
                ..Default::default()
            }),
            ..Default::default()
        };
        slot.record(&page, slot.scrape_begins(), clock_ms());
        let list = br#"{"data":[{"id":"base"},{"id":"a","parent":"base"}]}"#;
        slot.list_models(Some(ModelList::parse(list, clock_ms()).unwrap()));
        let faults = snapshot.member(0).faults();
        faults.failed(SourceType::Models, Fault::Timeout);
        let _sent = Reservation::new(slot);
        for _ in 0..breaker::STREAK {
            Breaker::observe(slot, Outcome::Failed, clock_ms(), clock_ms());
        }
        let state = state(&pool, None);
        assert_eq!(
            (&state["count"], &state["known_adapters"]),
            (&2.into(), &3.into())
        );
        let first = &state["endpoints"][0];
        let scraped = &first["scraped"];
        assert_eq!(
            (&scraped["waiting"], &scraped["kv_usage"]),
            (&2.0.into(), &0.25.into())
        );
        assert!(scraped["running"].is_null() && scraped["age_ms"].is_u64());
        assert_eq!(first["adapters"]["taken_to_be_resident"], 2);
        assert_eq!(first["models"]["listed"][1]["parent"], "base");
        assert_eq!(
            (&first["in_flight"], &first["health"]["state"]),
            (&1.into(), &"ejected".into())
        );
        let causes = &first["health"]["causes"];
        assert_eq!(causes[0]["cause"], "failures");
        assert!(first["health"]["trial_in_ms"].as_u64().unwrap() <= breaker::PAUSE_MS);
        assert_eq!(first["failing"], json!({"models-data-source": "timeout"}));
        let second = &state["endpoints"][1];
        assert!(second["scraped"].is_null() && second["models"].is_null());
        assert_eq!(second["health"]["state"], "ok");
        assert_eq!(second["failing"], json!({}));
    }

    #[test]
    fn a_large_pool_is_cut_and_says_so() {
        let pool = Pool::default();
        let many = (0..MOST_SHOWN + 5).map(|n| {
            let address = format!("10.0.{}.{}:80", n / 256, n % 256);
            endpoint(&address, &address)
        });
        pool.replace(many.collect());
        let state = state(&pool, None);
        assert_eq!(state["endpoints"].as_array().unwrap().len(), MOST_SHOWN);
        assert_eq!(state["not_shown"], 5);
    }
}
