//! Which run begins with which hash: what readers walk by.
//!
//! A chain's hash stands for everything before it, so one table for all runs does what a table of children in each would.
//! Open addressing with linear probing; a slot is one word, half of the hash beside the run's number, and what it
//! leads to is checked in the run itself. A table that got too full is replaced as a whole.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use arc_swap::{ArcSwap, ArcSwapOption, Guard};

use super::chunks::Chunks;
use super::run::Run;

/// The runs by number.
pub(super) type Runs = Chunks<ArcSwapOption<Run>>;

/// A run that is looked at.
pub(super) type Seen = Guard<Option<Arc<Run>>>;

const EMPTY: u64 = 0;

/// A slot that was in use: a search goes on past it.
const GONE: u64 = u32::MAX as u64;

const SMALLEST: usize = 256;

/// The heads of all runs.
pub(super) struct Heads {
    table: ArcSwap<Table>,
}

/// One state of the slots, for a whole lookup.
pub(super) struct Table {
    slots: Box<[AtomicU64]>,
}

/// What the writer counts.
#[derive(Debug, Default)]
pub(super) struct HeadCounts {
    live: usize,
    gone: usize,
}

fn tag(head: u64) -> u64 {
    head >> 32
}

// === impl Heads ===

impl Heads {
    pub(super) fn new() -> Self {
        Self {
            table: ArcSwap::from_pointee(Table::of(SMALLEST)),
        }
    }

    /// The table as it is now.
    pub(super) fn load(&self) -> Guard<Arc<Table>> {
        self.table.load()
    }

    pub(super) fn bytes(&self) -> usize {
        size_of_val::<[AtomicU64]>(&self.load().slots)
    }

    /// Writers only: run `number` begins with `head`.
    pub(super) fn add(&self, head: u64, number: u32, counts: &mut HeadCounts) {
        let table = self.load();
        if (counts.live + counts.gone + 1) * 4 > table.slots.len() * 3 {
            let wanted = ((counts.live + 1) * 2).next_power_of_two();
            let larger = Table::of(wanted.max(SMALLEST));
            for slot in &table.slots {
                let slot = slot.load(Ordering::Relaxed);
                if slot != EMPTY && slot != GONE {
                    larger.put(slot);
                }
            }
            larger.put(entry(head, number));
            counts.gone = 0;
            self.table.store(Arc::new(larger));
        } else if table.put(entry(head, number)) == GONE {
            counts.gone -= 1;
        }
        counts.live += 1;
    }

    /// Writers only: run `number`, which began with `head`, is no more.
    pub(super) fn remove(&self, head: u64, number: u32, counts: &mut HeadCounts) {
        let wanted = entry(head, number);
        for slot in self.load().probe(tag(head)) {
            match slot.load(Ordering::Relaxed) {
                EMPTY => return,
                it if it == wanted => {
                    slot.store(GONE, Ordering::Release);
                    counts.live -= 1;
                    counts.gone += 1;
                    return;
                }
                _ => {}
            }
        }
    }
}

/// What a slot says: half of the hash, and the run's number plus one.
fn entry(head: u64, number: u32) -> u64 {
    tag(head) << 32 | (u64::from(number) + 1)
}

// === impl Table ===

impl Table {
    fn of(slots: usize) -> Self {
        Self {
            slots: (0..slots).map(|_| AtomicU64::new(EMPTY)).collect(),
        }
    }

    /// The run that continues a chain at block `at` with `head`, and its number.
    pub(super) fn find(&self, head: u64, at: usize, runs: &Runs) -> Option<(u32, Seen)> {
        for slot in self.probe(tag(head)) {
            let slot = slot.load(Ordering::Acquire);
            if slot == EMPTY {
                return None;
            }
            if slot == GONE || slot >> 32 != tag(head) {
                continue;
            }
            let number = (slot as u32).wrapping_sub(1);
            let seen = runs.get(number)?.load();
            if seen.as_ref().is_some_and(|run| run.begins(head, at)) {
                return Some((number, seen));
            }
        }
        None
    }

    /// All slots, from where a tag belongs.
    fn probe(&self, tag: u64) -> impl Iterator<Item = &AtomicU64> {
        // The tag's bits are spread by multiplying with 2^64 over the golden ratio; the length is a power of two.
        let bits = self.slots.len().trailing_zeros();
        let home = tag.wrapping_mul(0x9E37_79B9_7F4A_7C15) >> (64 - bits);
        let (before, after) = self.slots.split_at(home as usize);
        after.iter().chain(before)
    }

    /// Fills the first free slot. What was in it?
    fn put(&self, entry: u64) -> u64 {
        for slot in self.probe(entry >> 32) {
            let was = slot.load(Ordering::Relaxed);
            if was == EMPTY || was == GONE {
                slot.store(entry, Ordering::Release);
                return was;
            }
        }
        unreachable!("a quarter of the slots is empty")
    }
}
