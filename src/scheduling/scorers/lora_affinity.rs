//! `lora-affinity-scorer`: where the adapter is loaded, or where there is room to load it.
//!
//! Formula: in use by a running request, or taken to be loaded ([`crate::pool::residents`]) 1.0; else room for one more
//! adapter (running + waiting < max) 0.8; else wanted by a waiting request 0.6; else 0. Source: the llm-d picker, which
//! takes the adapters of running requests for those that are loaded **[bug]**: an idle engine that holds the adapter
//! looks to it like one that must load it. An engine that reports no adapters at all, or whose last report is too old, is
//! neutral. Use it where many adapters share few slots.

use std::sync::atomic::Ordering;

use super::super::{Context, NEUTRAL, Scorer};
use crate::pool::slab::{LoraState, lora_key};

/// See the module.
#[derive(Debug)]
pub(in crate::scheduling) struct LoraAffinity;

impl Scorer for LoraAffinity {
    fn score(&self, cx: &Context<'_>, candidates: &[u32], out: &mut [f32]) {
        let wanted = lora_key(cx.request.adapter);
        for (out, &candidate) in out.iter_mut().zip(candidates) {
            let (segment, i) = cx.snapshot.cell(candidate);
            let hint = segment.lora_hint[i].load(Ordering::Relaxed);
            *out = if hint == 0 || !cx.load.fresh[candidate as usize] {
                NEUTRAL
            } else if hint & LoraState::hint_of(wanted) == 0 {
                // Most endpoints have nothing of it, and to take their lists in hand costs more than all other scores.
                room(hint & LoraState::ROOM != 0)
            } else {
                let lora = segment.lora[i].load();
                lora.as_ref().map_or(NEUTRAL, |lora| affinity(lora, wanted))
            };
        }
    }
}

fn affinity(lora: &LoraState, wanted: u64) -> f32 {
    if lora.running.contains(&wanted) || lora.resident.contains(&wanted) {
        1.0
    } else if !lora.has_room() && lora.waiting.contains(&wanted) {
        0.6
    } else {
        room(lora.has_room())
    }
}

/// For an adapter that is neither loaded nor waited for.
fn room(is_there: bool) -> f32 {
    if is_there { 0.8 } else { 0.0 }
}

#[cfg(test)]
mod tests {
    use super::super::super::testing::{scores, snapshot};
    use super::*;
    use crate::pool::LoadView;
    use crate::pool::slab::Scrape;

    #[test]
    fn tiers() {
        let snapshot = snapshot(5);
        let states: [(&[&str], &[&str]); 4] = [
            (&["a", "x"], &["y"]),
            (&["x"], &[]),
            (&["x"], &["a", "y"]),
            (&["x", "y"], &["z"]),
        ];
        let keys = |names: &[&str]| names.iter().map(|n| lora_key(n)).collect();
        for (i, (running, waiting)) in states.into_iter().enumerate() {
            let scrape = Scrape {
                lora: Some(LoraState {
                    max: 2,
                    running: keys(running),
                    waiting: keys(waiting),
                    ..Default::default()
                }),
                ..Default::default()
            };
            snapshot.member(i as u32).slot.record(&scrape, 0, 1);
        }
        let mut load = LoadView::default();
        load.gather(&snapshot, 100, 200);
        let got = scores(&LoraAffinity, &snapshot, &load, "a");
        assert_eq!(got, [1.0, 0.8, 0.6, 0.0, 0.5]);
        load.gather(&snapshot, 300, 200);
        let got = scores(&LoraAffinity, &snapshot, &load, "a");
        assert_eq!(got, [0.5; 5]);
    }

    #[test]
    fn an_idle_endpoint_that_holds_the_adapter_wins() {
        let snapshot = snapshot(3);
        let record = |position: u32, running: &[&str]| {
            let page = Scrape {
                lora: Some(LoraState {
                    max: 2,
                    running: running.iter().map(|name| lora_key(name)).collect(),
                    ..Default::default()
                }),
                ..Default::default()
            };
            snapshot.member(position).slot.record(&page, 0, 1);
        };
        record(0, &["x"]);
        record(1, &["a"]);
        record(2, &["x"]);
        // The last requests end, and the page lists nothing any more.
        (0..3).for_each(|position| record(position, &[]));
        let mut load = LoadView::default();
        load.gather(&snapshot, 1, 1);
        let score = |adapter| scores(&LoraAffinity, &snapshot, &load, adapter);
        assert_eq!(score("a"), [0.8, 1.0, 0.8]);
        // What we send counts before any page shows it.
        snapshot.member(2).slot.adapter_sent(lora_key("a"));
        assert_eq!(score("a"), [0.8, 1.0, 1.0]);
        // Two others take its slots.
        record(1, &["y", "z"]);
        assert_eq!(score("a"), [0.8, 0.0, 1.0]);
    }
}
