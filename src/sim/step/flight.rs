//! Steps that are under way, and the sequences that decode in them, without a look at any single one.

use super::cost::Work;

/// One step, or many in a row in which only decoding sequences grow.
#[derive(Clone, Copy, Debug)]
pub(super) struct Flight {
    pub(super) begin: f64,
    pub(super) steps: u64,
    /// Of the first step.
    pub(super) work: Work,
}

/// The sequences that decode. All take part in every step, and each step is a tick of their clock.
#[derive(Debug)]
pub(super) struct Decoders {
    pub(super) tick: u64,
    pub(super) count: u32,
    /// Tokens that they have in the KV cache.
    pub(super) context: u64,
    /// How many need a new block at the ticks that leave this remainder when divided by the block size.
    due: Vec<u32>,
}

// === impl Flight ===

impl Flight {
    /// Seconds that the first `steps` take: each is `growth` longer than the one before.
    fn after(&self, steps: u64) -> f64 {
        let k = steps as f64;
        k * self.work.seconds + self.work.growth * (k * (k - 1.0) / 2.0)
    }

    pub(super) fn end(&self) -> f64 {
        self.begin + self.after(self.steps)
    }

    /// When the last step begins.
    pub(super) fn last_begin(&self) -> f64 {
        self.begin + self.after(self.steps - 1)
    }

    /// How many steps begin before that time; at least the first one.
    pub(super) fn begun(&self, before: f64) -> u64 {
        if self.steps == 1 {
            return 1;
        }
        let time = (before - self.begin).max(0.0);
        let Work {
            seconds, growth, ..
        } = self.work;
        // after(k) = time is a quadratic equation in k. This form of its root is good for growth = 0 too.
        let b = seconds - growth / 2.0;
        let root = 2.0 * time / (b + (b * b + 2.0 * growth * time).sqrt());
        let mut steps = (root as u64).clamp(1, self.steps);
        // The root is rounded; the definition decides.
        while steps < self.steps && self.begin + self.after(steps) < before {
            steps += 1;
        }
        while steps > 1 && self.begin + self.after(steps - 1) >= before {
            steps -= 1;
        }
        steps
    }
}

// === impl Decoders ===

impl Decoders {
    pub(super) fn new(block_size: u32) -> Self {
        Self {
            tick: 0,
            count: 0,
            context: 0,
            due: vec![0; block_size as usize],
        }
    }

    /// Where in `due` a sequence is whose `computed` tokens will fill its blocks at this tick or the next ones.
    fn place(&self, computed: u32) -> usize {
        let size = self.due.len() as u64;
        let missing = (size - u64::from(computed) % size) % size;
        ((self.tick + missing) % size) as usize
    }

    pub(super) fn join(&mut self, computed: u32) {
        let place = self.place(computed);
        self.due[place] += 1;
        self.count += 1;
        self.context += u64::from(computed);
    }

    pub(super) fn leave(&mut self, computed: u32) {
        let place = self.place(computed);
        self.due[place] -= 1;
        self.count -= 1;
        self.context -= u64::from(computed);
    }

    /// Blocks that the steps `from..to` need, counted from the next one.
    pub(super) fn blocks(&self, from: u64, to: u64) -> u64 {
        let size = self.due.len() as u64;
        let rounds = (to - from) / size;
        let rest = (from + rounds * size)..to;
        let due = |step: u64| u64::from(self.due[((self.tick + step) % size) as usize]);
        rounds * u64::from(self.count) + rest.map(due).sum::<u64>()
    }

    /// For how many steps so many blocks suffice, up to `limit`, if at least the first one needs none of them.
    pub(super) fn lasting(&self, available: u64, limit: u64) -> u64 {
        let size = self.due.len() as u64;
        let rounds = available / u64::from(self.count.max(1));
        let mut steps = (1 + rounds.saturating_mul(size)).min(limit);
        while steps < limit && self.blocks(1, steps + 1) <= available {
            steps += 1;
        }
        steps
    }

    pub(super) fn advance(&mut self, steps: u64) {
        self.tick += steps;
        self.context += steps * u64::from(self.count);
    }
}
