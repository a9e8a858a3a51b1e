//! What two pages of an exporter tell together.

use std::collections::BTreeMap;

use super::page::{Marks, Page};
use crate::telemetry::{Event, EventKind};

/// Follows the pages of one exporter.
///
/// A GPU's first page is where it starts from: an XID on it may be weeks old. A counter that falls was reset (the driver
/// was loaded anew, the exporter restarted, a window passed), and is no burst of errors.
#[derive(Debug, Default)]
pub struct Tracker {
    /// By UUID, of the last page.
    last: BTreeMap<String, Marks>,
    /// By UUID: the clock-event bits that hold by the counts in the exporter's window.
    held: BTreeMap<String, u64>,
}

impl Tracker {
    /// Takes the next page: what happened since the last one, GPU by GPU (numbers and ages are for the caller to set).
    /// Where the page gives no clock-event reasons, but counters that rise while clocks are held down, the reasons are set
    /// in it from those that rose.
    pub fn observe(&mut self, page: &mut Page) -> Vec<Event> {
        let mut events = Vec::new();
        for gpu in &mut page.gpus {
            let Some(now) = page.marks.get(&gpu.uuid) else {
                continue;
            };
            let Some(before) = self.last.get(&gpu.uuid) else {
                continue;
            };
            let mut event = |kind: EventKind, value: u64| {
                events.push(Event {
                    uuid: gpu.uuid.clone(),
                    kind: kind.into(),
                    value,
                    source: "dcgm".to_owned(),
                    ..Event::default()
                });
            };
            for xid in xids(before, now) {
                event(EventKind::Xid, xid);
            }
            // A series that was not there before says nothing of when.
            if let (Some(before), Some(now)) = (before.ecc_uncorrected, now.ecc_uncorrected)
                && now > before
            {
                event(EventKind::EccUncorrected, now - before);
            }
            let held = self.held.get(&gpu.uuid).copied().unwrap_or(0);
            if let Some((bits, held)) = reasons(before, now, held) {
                gpu.clocks
                    .get_or_insert_default()
                    .event_reasons
                    .get_or_insert(bits);
                gpu.missing.retain(|missing| {
                    missing.field != "clocks.event_reasons" && missing.field != "clocks"
                });
                self.held.insert(gpu.uuid.clone(), held);
            }
        }
        self.held.retain(|uuid, _| page.marks.contains_key(uuid));
        self.last.clone_from(&page.marks);
        events
    }
}

/// The XIDs since. Where counts are given they tell each; the last number alone does not tell one that comes twice.
fn xids(before: &Marks, now: &Marks) -> Vec<u64> {
    if !now.xids.is_empty() || !before.xids.is_empty() {
        let rose = |xid: &u64, count: f64| count > before.xids.get(xid).copied().unwrap_or(0.0);
        return now
            .xids
            .iter()
            .filter(|(xid, count)| **xid != 0 && rose(xid, **count))
            .map(|(xid, _)| *xid)
            .collect();
    }
    // Some exporters begin the series with the first XID: none before and one now is an XID.
    now.last_xid
        .filter(|xid| *xid != 0 && now.last_xid != before.last_xid)
        .into_iter()
        .collect()
}

/// The clock-event bits, and those of them that hold by the counts in the window; none = nothing is told.
///
/// A count in a window rises when throttling begins, stays when it lasts as long as the window, and falls after it: what
/// neither rose nor fell holds as before.
fn reasons(before: &Marks, now: &Marks, held: u64) -> Option<(u64, u64)> {
    if now.violations.is_empty() && now.clock_events.is_empty() && before.clock_events.is_empty() {
        return None;
    }
    let violated = now
        .violations
        .iter()
        .filter(|(bit, time)| before.violations.get(bit).is_some_and(|old| *time > old));
    let violated = violated.fold(0, |bits, (bit, _)| bits | bit);
    let mut holds = 0;
    for (bit, count) in &now.clock_events {
        // A kind has no line before its first time.
        let old = before.clock_events.get(bit).copied().unwrap_or(0.0);
        if *count > old || *count == old && held & bit != 0 {
            holds |= bit;
        }
    }
    Some((violated | holds, holds))
}
