//! The index and the trust of one pool, kept under endpoints that come and go.
//!
//! An endpoint is a number and a life: when it goes, its number is given to another, and what was kept under it must not be
//! believed of that one. So each number's life is kept beside, and what belongs to an earlier life counts as nothing, from
//! the moment on at which the number is another's; [`PrefixCache::retain`] frees the memory of those that are gone.

use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};

use super::chunks::Chunks;
use super::{MAX_ENDPOINTS, Outcome, PrefixIndex, Size, Trust};
use crate::pool::slab::Slot;

/// An endpoint: its number, and which of those that have had it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Who {
    /// [`crate::pool::slab::Slot::number`].
    pub number: u32,
    /// [`crate::pool::slab::Slot::life`], from 1.
    pub life: u64,
}

/// What was predicted when a request was sent: to be compared with what its response says.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Prediction {
    /// Where it was sent.
    pub who: Who,
    /// Share of the prompt that was predicted to be cached, 0 to 1.
    pub share: f32,
}

/// See the module.
pub struct PrefixCache {
    index: PrefixIndex,
    trust: Trust,
    /// By number; 0 = nothing is kept.
    lives: Chunks<AtomicU64>,
    /// Numbers from here on never had anything.
    numbers: AtomicU32,
}

// === impl Who ===

impl Who {
    /// The endpoint whose slot this is.
    pub fn of(slot: &Slot) -> Self {
        Self {
            number: slot.number(),
            life: slot.life(),
        }
    }
}

// === impl PrefixCache ===

impl PrefixCache {
    /// An empty one that takes at most `budget` bytes.
    pub fn new(budget: usize) -> Self {
        Self {
            index: PrefixIndex::new(budget),
            trust: Trust::new(),
            lives: Chunks::new(),
            numbers: AtomicU32::new(0),
        }
    }

    /// How many blocks of `chain`, from its first, each endpoint holds: `numbers` and `lives` are the endpoints, `out` gets
    /// one number for each of them. `by_number` is working space.
    pub fn matched(
        &self,
        chain: &[u64],
        (numbers, lives): (&[u32], &[u64]),
        by_number: &mut Vec<u32>,
        out: &mut Vec<u32>,
    ) {
        let all = self.numbers.load(Ordering::Acquire);
        by_number.clear();
        by_number.resize(all as usize, 0);
        self.index.match_into(chain, by_number);
        out.clear();
        out.extend(numbers.iter().zip(lives).map(|(&number, &life)| {
            let blocks = by_number.get(number as usize).copied().unwrap_or(0);
            match blocks > 0 && self.is(Who { number, life }) {
                true => blocks,
                false => 0,
            }
        }));
    }

    /// A prompt with this chain is sent to `who`, which holds at most `capacity` blocks.
    pub fn sent(&self, who: Who, chain: &[u64], capacity: u32) {
        if who.number >= MAX_ENDPOINTS || chain.is_empty() {
            return;
        }
        let life = self.lives.grown(who.number);
        let known = life.load(Ordering::Acquire);
        if known > who.life {
            // Decided on a snapshot from before its number was given away: what the new endpoint holds is not to be lost.
            return;
        }
        if known != who.life {
            self.index.forget(who.number);
            self.trust.forget(who.number);
            life.store(who.life, Ordering::Release);
            self.numbers.fetch_max(who.number + 1, Ordering::AcqRel);
        }
        self.index.insert(who.number, chain, capacity);
    }

    /// A response said how much of a prompt was cached.
    pub fn answered(&self, prediction: Prediction, prompt_tokens: u64, cached_tokens: u64) {
        if self.is(prediction.who) {
            let outcome = Outcome {
                predicted_share: prediction.share,
                prompt_tokens,
                cached_tokens,
            };
            self.trust.observe(prediction.who.number, outcome);
        }
    }

    /// How far what is kept of `who` can be believed, 0 to 1.
    pub fn trust(&self, who: Who) -> f32 {
        match self.is(who) {
            true => self.trust.of(who.number),
            false => 1.0,
        }
    }

    /// By how much predictions for `who` miss, as a share of the prompt: a moving mean. `None`: none was compared yet.
    pub fn error(&self, who: Who) -> Option<f32> {
        let compared = self.is(who) && self.trust.totals(who.number).answers > 0;
        compared.then(|| self.trust.error(who.number))
    }

    /// Forgets all endpoints that are not among `alive`.
    pub fn retain(&self, alive: impl Iterator<Item = Who>) {
        let numbers = self.numbers.load(Ordering::Acquire);
        let mut kept = vec![0; numbers as usize];
        for who in alive {
            if let Some(life) = kept.get_mut(who.number as usize) {
                *life = who.life;
            }
        }
        for (number, kept) in (0u32..).zip(kept) {
            let Some(life) = self.lives.get(number) else {
                continue;
            };
            // One that came meanwhile loses the little that it was sent since.
            let known = life.load(Ordering::Acquire);
            if known == 0 || known == kept {
                continue;
            }
            let gone = life.compare_exchange(known, 0, Ordering::AcqRel, Ordering::Acquire);
            if gone.is_ok() {
                self.index.forget(number);
                self.trust.forget(number);
            }
        }
    }

    /// How large the index is.
    pub fn size(&self) -> Size {
        self.index.size()
    }

    /// Blocks that `who` is taken to hold.
    pub fn blocks(&self, who: Who) -> u32 {
        match self.is(who) {
            true => self.blocks_of(who.number),
            false => 0,
        }
    }

    fn blocks_of(&self, number: u32) -> u32 {
        self.index.blocks_of(number)
    }

    /// What is kept under its number is of this endpoint.
    fn is(&self, who: Who) -> bool {
        let life = self.lives.get(who.number);
        life.is_some_and(|life| life.load(Ordering::Acquire) == who.life)
    }
}

impl std::fmt::Debug for PrefixCache {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("PrefixCache")
            .field("size", &self.size())
            .finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const CHAIN: [u64; 3] = [11, 12, 13];

    fn who(number: u32, life: u64) -> Who {
        Who { number, life }
    }

    fn matched(cache: &PrefixCache, whose: &[Who]) -> Vec<u32> {
        let numbers: Vec<u32> = whose.iter().map(|who| who.number).collect();
        let lives: Vec<u64> = whose.iter().map(|who| who.life).collect();
        let (mut by_number, mut out) = (Vec::new(), Vec::new());
        cache.matched(&CHAIN, (&numbers, &lives), &mut by_number, &mut out);
        out
    }

    #[test]
    fn what_was_sent_is_held_by_its_endpoint_in_its_life_alone() {
        let cache = PrefixCache::new(1 << 20);
        assert_eq!(matched(&cache, &[who(4, 9), who(0, 1)]), [0, 0]);
        cache.sent(who(4, 9), &CHAIN, 100);
        cache.sent(who(0, 1), &CHAIN[..2], 100);
        assert_eq!(
            matched(&cache, &[who(4, 9), who(0, 1), who(1, 2)]),
            [3, 2, 0]
        );
        assert_eq!(matched(&cache, &[who(4, 10), who(0, 1)]), [0, 2]);
        // The number has another life: what was held is gone for good.
        cache.sent(who(4, 10), &CHAIN[..1], 100);
        assert_eq!(matched(&cache, &[who(4, 9), who(4, 10)]), [0, 1]);
        // One that was decided on before comes late.
        cache.sent(who(4, 9), &CHAIN, 100);
        assert_eq!(matched(&cache, &[who(4, 9), who(4, 10)]), [0, 1]);
        cache.sent(who(MAX_ENDPOINTS, 3), &CHAIN, 100);
        assert_eq!(cache.size().blocks, 3);
    }

    #[test]
    fn who_is_gone_is_forgotten() {
        let cache = PrefixCache::new(1 << 20);
        for number in 0..3 {
            cache.sent(who(number, 5), &CHAIN, 100);
        }
        cache.retain([who(0, 5), who(2, 6)].into_iter());
        assert_eq!(cache.size().blocks, 3);
        assert_eq!(cache.blocks(who(0, 5)), 3);
        assert_eq!(
            matched(&cache, &[who(0, 5), who(1, 5), who(2, 5)]),
            [3, 0, 0]
        );
    }

    #[test]
    fn answers_teach_trust_of_the_life_that_they_are_about() {
        let cache = PrefixCache::new(1 << 20);
        let broken = Prediction {
            who: who(1, 5),
            share: 1.0,
        };
        cache.sent(who(1, 5), &CHAIN, 100);
        assert_eq!(
            (cache.trust(who(1, 5)), cache.error(who(1, 5))),
            (1.0, None)
        );
        cache.answered(broken, 10_000, 0);
        assert!(cache.trust(who(1, 5)) < 0.9 && cache.error(who(1, 5)) > Some(0.1));
        cache.sent(who(1, 6), &CHAIN, 100);
        cache.answered(broken, 10_000, 0);
        assert_eq!(
            (cache.trust(who(1, 6)), cache.error(who(1, 6))),
            (1.0, None)
        );
    }
}
