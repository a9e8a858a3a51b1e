//! One stream of events from two that tell of the same things: NVML's and the kernel log's.
//!
//! The log has each XID with its number and its process, so its line is the one that is told. NVML's event is held back
//! for a moment, in case the line is late, and told if none comes: the log may not be readable, or be overrun. NVML gives
//! several XIDs the number of the last; as that number is in the log too, such an event is a repetition and goes.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::{Duration, Instant};

use crate::telemetry::{Event, EventKind};

/// How long NVML's XID waits for its line.
const HOLD: Duration = Duration::from_millis(50);
/// XIDs of the same number, GPU and process are one within this time: a single fault writes dozens of lines.
const ONE: Duration = Duration::from_secs(2);
/// How many are remembered.
const MOST: usize = 256;

/// An event, and the board it happened on.
#[derive(Clone, Debug)]
pub(super) struct Told {
    pub(super) board: Arc<str>,
    pub(super) event: Event,
}

impl Told {
    fn is_xid(&self) -> bool {
        self.event.kind() == EventKind::Xid
    }

    fn is_of_log(&self) -> bool {
        self.event.source == super::KMSG
    }

    fn same_xid(&self, other: &Self) -> bool {
        self.board == other.board && self.event.value == other.event.value
    }
}

/// See the module.
#[derive(Debug, Default)]
pub(super) struct Merge {
    /// Whether the log is read.
    log: bool,
    /// NVML's XIDs that wait, and until when.
    held: VecDeque<(Instant, Told)>,
    /// XIDs that were told.
    told: VecDeque<(Instant, Told)>,
    ready: Vec<Event>,
}

impl Merge {
    pub(super) fn new(log: bool) -> Self {
        Self {
            log,
            ..Self::default()
        }
    }

    /// The log is no longer read: nothing waits for it.
    pub(super) fn without_log(&mut self) {
        self.log = false;
        for (_, told) in self.held.drain(..) {
            self.ready.push(told.event);
        }
    }

    /// Takes an event in.
    pub(super) fn add(&mut self, new: Told, now: Instant) {
        if !new.is_xid() || !self.log {
            self.ready.push(new.event);
            return;
        }
        self.told
            .retain(|(at, _)| now.saturating_duration_since(*at) < ONE);
        let mut before = self
            .told
            .iter()
            .map(|(_, told)| told)
            .filter(|told| told.same_xid(&new));
        if !new.is_of_log() {
            if before.any(Told::is_of_log) {
                return;
            }
            if self.held.len() == MOST
                && let Some((_, oldest)) = self.held.pop_front()
            {
                self.tell(oldest, now);
            }
            self.held.push_back((now + HOLD, new));
            return;
        }
        // Told already by a line of the same process, or by NVML because this line was late.
        let same = |told: &Told| {
            let who = |event: &Event| (event.pid, event.gpu_instance, event.compute_instance);
            !told.is_of_log() || who(&told.event) == who(&new.event)
        };
        if before.any(same) {
            return;
        }
        let mut new = new;
        self.held.retain(|(_, held)| {
            let same = held.same_xid(&new);
            // Not every driver writes the instance into the line.
            if same && new.event.gpu_instance.is_none() {
                (new.event.gpu_instance, new.event.compute_instance) =
                    (held.event.gpu_instance, held.event.compute_instance);
                new.event.uuid.clone_from(&held.event.uuid);
            }
            !same
        });
        self.tell(new, now);
    }

    /// When something that is held has waited long enough.
    pub(super) fn due(&self) -> Option<Instant> {
        self.held.front().map(|(until, _)| *until)
    }

    /// What is to be told now.
    pub(super) fn take(&mut self, now: Instant) -> Vec<Event> {
        while self.due().is_some_and(|until| until <= now) {
            if let Some((_, told)) = self.held.pop_front() {
                self.tell(told, now);
            }
        }
        std::mem::take(&mut self.ready)
    }

    fn tell(&mut self, told: Told, now: Instant) {
        self.ready.push(told.event.clone());
        if self.told.len() == MOST {
            self.told.pop_front();
        }
        self.told.push_back((now, told));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn xid(board: &str, value: u64, source: &str, pid: Option<u32>) -> Told {
        let event = Event {
            kind: EventKind::Xid.into(),
            value,
            source: source.into(),
            pid,
            ..Event::default()
        };
        Told {
            board: board.into(),
            event,
        }
    }

    fn nvml(value: u64) -> Told {
        xid("a", value, crate::nvml::SOURCE, None)
    }

    fn log(value: u64, pid: u32) -> Told {
        xid("a", value, crate::nvml::KMSG, Some(pid))
    }

    /// What is told of events that come at these milliseconds, up to a second after the last: (when, number, process).
    fn merge(with_log: bool, events: Vec<(u64, Told)>) -> Vec<(u64, u64, Option<u32>)> {
        let start = Instant::now();
        let mut merge = Merge::new(with_log);
        let end = events.last().map_or(0, |(at, _)| *at) + 1000;
        let mut events = events.into_iter().peekable();
        let mut told = Vec::new();
        for ms in 0..=end {
            let now = start + Duration::from_millis(ms);
            while let Some((_, event)) = events.next_if(|(at, _)| *at == ms) {
                merge.add(event, now);
            }
            told.extend(
                merge
                    .take(now)
                    .into_iter()
                    .map(|event| (ms, event.value, event.pid)),
            );
        }
        told
    }

    #[test]
    fn without_the_log_events_pass_at_once() {
        assert_eq!(
            merge(false, vec![(0, nvml(31)), (0, nvml(31))]),
            [(0, 31, None), (0, 31, None)]
        );
    }

    #[test]
    fn the_line_is_told_whichever_comes_first() {
        assert_eq!(
            merge(true, vec![(0, log(31, 7)), (3, nvml(31))]),
            [(0, 31, Some(7))]
        );
        assert_eq!(
            merge(true, vec![(0, nvml(31)), (3, log(31, 7))]),
            [(3, 31, Some(7))]
        );
    }

    #[test]
    fn the_line_gets_the_instance_that_only_nvml_tells() {
        let now = Instant::now();
        let mut merge = Merge::new(true);
        let mut held = nvml(31);
        (held.event.gpu_instance, held.event.compute_instance) = (Some(3), Some(0));
        held.event.uuid = "MIG-1".into();
        merge.add(held, now);
        merge.add(log(31, 7), now);
        let told = merge.take(now).remove(0);
        assert_eq!(
            (told.uuid.as_str(), told.gpu_instance, told.compute_instance),
            ("MIG-1", Some(3), Some(0))
        );
        assert_eq!((told.pid, merge.take(now + HOLD)), (Some(7), vec![]));
    }

    #[test]
    fn an_event_without_a_line_is_told_after_a_moment() {
        assert_eq!(merge(true, vec![(0, nvml(79))]), [(50, 79, None)]);
        let late = merge(true, vec![(0, nvml(79)), (200, log(79, 7))]);
        assert_eq!(
            late,
            [(50, 79, None)],
            "and a line that is later still says nothing new"
        );
        let other = merge(true, vec![(0, log(13, 7)), (10, nvml(79))]);
        assert_eq!(
            other,
            [(0, 13, Some(7)), (60, 79, None)],
            "another number is another event"
        );
    }

    #[test]
    fn several_xids_that_nvml_gives_one_number_are_told_by_their_lines() {
        let after = vec![
            (0, nvml(45)),
            (0, nvml(45)),
            (5, log(31, 7)),
            (5, log(45, 7)),
        ];
        assert_eq!(merge(true, after), [(5, 31, Some(7)), (5, 45, Some(7))]);
        let before = vec![
            (0, log(31, 7)),
            (0, log(45, 7)),
            (5, nvml(45)),
            (5, nvml(45)),
        ];
        assert_eq!(merge(true, before), [(0, 31, Some(7)), (0, 45, Some(7))]);
    }

    #[test]
    fn a_fault_of_many_lines_is_one_event_and_one_a_process() {
        let lines = vec![
            (0, log(13, 7)),
            (0, log(13, 7)),
            (1, log(13, 8)),
            (2, nvml(13)),
            (3, log(13, 7)),
        ];
        assert_eq!(merge(true, lines), [(0, 13, Some(7)), (1, 13, Some(8))]);
        let again = vec![(0, log(13, 7)), (2500, log(13, 7)), (2501, nvml(13))];
        assert_eq!(merge(true, again), [(0, 13, Some(7)), (2500, 13, Some(7))]);
    }

    #[test]
    fn another_gpu_has_xids_of_its_own_and_other_kinds_pass() {
        let mut lost = xid("a", 0, crate::nvml::SOURCE, None);
        lost.event.kind = EventKind::GpuLost.into();
        let told = merge(
            true,
            vec![
                (0, log(79, 7)),
                (1, xid("b", 79, crate::nvml::SOURCE, None)),
                (2, lost),
            ],
        );
        assert_eq!(told, [(0, 79, Some(7)), (2, 0, None), (51, 79, None)]);
    }

    #[test]
    fn a_storm_is_bounded_and_loses_nothing() {
        let now = Instant::now();
        let mut merge = Merge::new(true);
        for number in 0..10 * MOST as u64 {
            merge.add(nvml(number), now);
        }
        assert_eq!((merge.held.len(), merge.told.len()), (MOST, MOST));
        assert_eq!(merge.take(now + HOLD).len(), 10 * MOST);
    }

    #[test]
    fn what_waits_for_the_log_is_told_when_it_ends() {
        let now = Instant::now();
        let mut merge = Merge::new(true);
        merge.add(nvml(79), now);
        assert!(merge.take(now).is_empty());
        merge.without_log();
        assert_eq!((merge.take(now).len(), merge.due()), (1, None));
    }
}
