//! A run: a stretch of a chain without a branch that matters, and who holds how much of it.

use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};

use super::recency::NONE;

/// What a run is to readers. Hashes and the list of holders never change: a changed run is a new one in the old
/// one's place. Only how much each holder holds changes in place.
#[derive(Debug)]
pub(super) struct Run {
    /// Blocks before it on its chain.
    start: u32,
    /// Its blocks. Those past what anyone holds are left over from evictions.
    hashes: Arc<[u64]>,
    /// Who holds some of it, in order of endpoint number.
    holders: Box<[Holder]>,
}

/// One endpoint's part of a run.
#[derive(Debug)]
pub(super) struct Holder {
    pub(super) endpoint: u32,
    /// Blocks of the run, from its first, that the endpoint holds; at least 1 except while a writer is at work.
    held: AtomicU32,
    /// The writer's: the endpoint's deepest span of this run.
    deepest: AtomicU32,
}

/// What an allocator with four size classes an octave takes for `bytes`.
fn allocated(bytes: usize) -> usize {
    bytes.next_multiple_of((bytes.next_power_of_two() / 8).max(16))
}

// === impl Run ===

impl Run {
    pub(super) fn new(start: u32, hashes: Arc<[u64]>, holder: Holder) -> Self {
        Self {
            start,
            hashes,
            holders: Box::new([holder]),
        }
    }

    /// Is this the run that continues a chain at block `at` with `head`?
    pub(super) fn begins(&self, head: u64, at: usize) -> bool {
        self.start as usize == at && self.hashes.first() == Some(&head)
    }

    /// Blocks before it on its chain.
    #[cfg(test)]
    pub(super) fn start(&self) -> usize {
        self.start as usize
    }

    /// Length in blocks, those that nobody holds any more included.
    #[cfg(test)]
    pub(super) fn len(&self) -> usize {
        self.hashes.len()
    }

    pub(super) fn head(&self) -> u64 {
        self.hashes.first().copied().unwrap_or_default()
    }

    pub(super) fn holders(&self) -> &[Holder] {
        &self.holders
    }

    /// How many blocks of the run `rest` begins with, given that it begins with the first.
    ///
    /// A hash stands for all blocks before it too, so where one agrees all before it agree: the last one is looked at, and if that
    /// differs, the place is found by halving.
    pub(super) fn matched(&self, rest: &[u64]) -> usize {
        let most = rest.len().min(self.hashes.len());
        let (ours, theirs) = (&self.hashes[..most], &rest[..most]);
        if ours.last() == theirs.last() {
            return most;
        }
        let (mut agree, mut differ) = (1, most);
        while agree < differ {
            let middle = agree.midpoint(differ);
            if ours[middle] == theirs[middle] {
                agree = middle + 1;
            } else {
                differ = middle;
            }
        }
        agree
    }

    /// Adds to `out` what each endpoint holds of the first `matched` blocks, if it holds all `at` blocks before them. Is
    /// there one that holds all of them?
    pub(super) fn score(&self, at: u32, matched: u32, out: &mut [u32]) -> bool {
        let mut most = 0;
        for holder in &self.holders {
            let Some(cell) = out.get_mut(holder.endpoint as usize) else {
                // In order of number: the rest are outside too.
                break;
            };
            if *cell == at {
                let held = holder.held().min(matched);
                *cell = at + held;
                most = most.max(held);
            }
        }
        most == matched
    }

    /// Where `endpoint` is among the holders, or where it would be.
    pub(super) fn find(&self, endpoint: u32) -> Result<usize, usize> {
        self.holders
            .binary_search_by_key(&endpoint, |it| it.endpoint)
    }

    /// Can the run go on after its first `blocks` with what `endpoint` adds? It can if no other endpoint holds all of these, as
    /// then another chain may branch off here, and if what comes after them is not held.
    pub(super) fn ends_for(&self, endpoint: u32, blocks: usize) -> bool {
        self.holders.iter().all(|it| {
            let held = it.held() as usize;
            held < blocks || (held == blocks && it.endpoint == endpoint)
        })
    }

    /// The run with one more holder, at `at` of the list.
    pub(super) fn joined(&self, at: usize, holder: Holder) -> Self {
        let (before, after) = self.holders.split_at(at);
        let before = before.iter().map(Holder::copy);
        let after = after.iter().map(Holder::copy);
        Self {
            holders: before.chain([holder]).chain(after).collect(),
            hashes: Arc::clone(&self.hashes),
            ..*self
        }
    }

    /// The run without the holder at `at` of the list.
    pub(super) fn left(&self, at: usize) -> Self {
        let (before, after) = self.holders.split_at(at);
        let rest = before.iter().chain(after.iter().skip(1));
        Self {
            holders: rest.map(Holder::copy).collect(),
            hashes: Arc::clone(&self.hashes),
            ..*self
        }
    }

    /// The run with its first `keep` blocks, then `more`.
    pub(super) fn continued(&self, keep: usize, more: &[u64]) -> Self {
        let kept = self.hashes.iter().take(keep);
        Self {
            hashes: kept.chain(more).copied().collect(),
            holders: self.holders.iter().map(Holder::copy).collect(),
            ..*self
        }
    }

    /// The run without what nobody holds, if that is most of it.
    pub(super) fn shrunk(&self) -> Option<Self> {
        if self.hashes.len() < 16 {
            return None;
        }
        let held = self.holders.iter().map(Holder::held).max()? as usize;
        (held <= self.hashes.len() / 2).then(|| self.continued(held, &[]))
    }

    /// Memory in bytes.
    pub(super) fn bytes(&self) -> usize {
        let counts = 2 * size_of::<usize>();
        allocated(counts + size_of::<Self>())
            + allocated(counts + size_of_val::<[u64]>(&self.hashes))
            + allocated(size_of_val::<[Holder]>(&self.holders))
    }
}

// === impl Holder ===

impl Holder {
    pub(super) fn new(endpoint: u32, held: u32, deepest: u32) -> Self {
        debug_assert_ne!(deepest, NONE);
        Self {
            endpoint,
            held: AtomicU32::new(held),
            deepest: AtomicU32::new(deepest),
        }
    }

    fn copy(&self) -> Self {
        Self {
            endpoint: self.endpoint,
            held: AtomicU32::new(self.held()),
            deepest: AtomicU32::new(self.deepest()),
        }
    }

    pub(super) fn held(&self) -> u32 {
        self.held.load(Ordering::Relaxed)
    }

    pub(super) fn deepest(&self) -> u32 {
        self.deepest.load(Ordering::Relaxed)
    }

    /// Only under the writers' lock, on the run that is in place.
    pub(super) fn set(&self, held: u32, deepest: u32) {
        self.held.store(held, Ordering::Relaxed);
        self.deepest.store(deepest, Ordering::Relaxed);
    }
}
