//! The one who changes the index: everything here happens under its lock.

use std::sync::Arc;

use super::heads::HeadCounts;
use super::index::{Shared, Size};
use super::recency::{NONE, Recency};
use super::run::{Holder, Run};

/// What only writers see.
pub(super) struct Writer {
    shared: Arc<Shared>,
    heads: HeadCounts,
    recency: Recency,
    /// Run numbers ever used, and those that can be used again.
    numbers: u32,
    free: Vec<u32>,
    /// Memory of the runs.
    run_bytes: usize,
    evicted: u64,
    /// The spans of the chain in hand, the shallowest first.
    used: Vec<u32>,
}

// === impl Writer ===

impl Writer {
    pub(super) fn new(shared: Arc<Shared>) -> Self {
        Self {
            shared,
            heads: HeadCounts::default(),
            recency: Recency::new(),
            numbers: 0,
            free: Vec::new(),
            run_bytes: 0,
            evicted: 0,
            used: Vec::new(),
        }
    }

    pub(super) fn insert(&mut self, endpoint: u32, chain: &[u64]) {
        self.recency.admit(endpoint);
        let mut at = 0;
        while let Some(&head) = chain.get(at) {
            let rest = &chain[at..];
            let Some((number, run)) = self.find(head, at) else {
                self.begin(endpoint, at as u32, rest);
                break;
            };
            let mut matched = run.matched(rest);
            if let Some(&next) = rest.get(matched)
                && run.ends_for(endpoint, matched)
                && self.find(next, at + matched).is_none()
            {
                let longer = run.continued(matched, &rest[matched..]);
                self.replace(number, &run, longer);
                matched = rest.len();
            }
            self.hold(endpoint, number, matched as u32);
            at += matched;
        }
        // A use is newest at its first block: the deepest is touched first.
        while let Some(span) = self.used.pop() {
            self.recency.touch(span);
        }
    }

    /// The endpoint keeps at most `blocks` blocks. `true`: there is more to do after `spans` spans.
    pub(super) fn truncate(&mut self, endpoint: u32, blocks: u32, spans: u32) -> bool {
        for _ in 0..spans {
            let excess = self.blocks_of(endpoint).saturating_sub(blocks);
            match self.recency.oldest_of(endpoint) {
                Some(span) if excess > 0 => self.trim(span, excess),
                _ => return false,
            };
        }
        true
    }

    /// Evicts the `most` oldest blocks of all. Returns how many there were.
    pub(super) fn evict(&mut self, most: u32) -> u32 {
        let mut gone = 0;
        while gone < most
            && let Some(span) = self.recency.oldest()
        {
            gone += self.trim(span, most - gone);
        }
        gone
    }

    pub(super) fn blocks_of(&self, endpoint: u32) -> u32 {
        self.recency.blocks_of(endpoint)
    }

    /// Memory of everything, in bytes.
    pub(super) fn bytes(&self) -> usize {
        let lists = (self.free.capacity() + self.used.capacity()) * size_of::<u32>();
        let shared = self.shared.heads.bytes() + self.shared.runs.bytes();
        self.run_bytes + self.recency.bytes() + shared + lists
    }

    pub(super) fn size(&self) -> Size {
        Size {
            bytes: self.bytes(),
            blocks: self.recency.blocks(),
            runs: self.numbers as usize - self.free.len(),
            evicted: self.evicted,
        }
    }

    /// The run that continues a chain at block `at` with `head`, and its number.
    fn find(&self, head: u64, at: usize) -> Option<(u32, Arc<Run>)> {
        let heads = self.shared.heads.load();
        let (number, seen) = heads.find(head, at, &self.shared.runs)?;
        Some((number, Arc::clone(seen.as_ref()?)))
    }

    /// A new run, which `endpoint` holds.
    fn begin(&mut self, endpoint: u32, at: u32, hashes: &[u64]) {
        let number = self.free.pop().unwrap_or_else(|| {
            self.numbers += 1;
            self.numbers - 1
        });
        let blocks = hashes.len() as u32;
        let span = self.recency.add(number, endpoint, blocks);
        let run = Run::new(at, hashes.into(), Holder::new(endpoint, blocks, span));
        self.run_bytes += run.bytes();
        let head = run.head();
        // Readers come by the head: the run is there first.
        let place = self.shared.runs.grown(number);
        place.store(Some(Arc::new(run)));
        self.shared.heads.add(head, number, &mut self.heads);
        self.recency.gained(endpoint, blocks);
        self.used.push(span);
    }

    fn end(&mut self, number: u32, run: &Run) {
        self.shared
            .heads
            .remove(run.head(), number, &mut self.heads);
        self.shared.runs.grown(number).store(None);
        self.run_bytes -= run.bytes();
        self.free.push(number);
    }

    fn replace(&mut self, number: u32, old: &Run, new: Run) {
        self.run_bytes = self.run_bytes + new.bytes() - old.bytes();
        self.shared.runs.grown(number).store(Some(Arc::new(new)));
    }

    /// The endpoint uses the first `blocks` blocks of a run.
    fn hold(&mut self, endpoint: u32, number: u32, blocks: u32) {
        let run = self.run(number);
        let at = match run.find(endpoint) {
            Ok(at) => at,
            Err(at) => {
                let span = self.recency.add(number, endpoint, blocks);
                let joined = run.joined(at, Holder::new(endpoint, blocks, span));
                self.replace(number, &run, joined);
                self.recency.gained(endpoint, blocks);
                self.used.push(span);
                return;
            }
        };
        let holder = &run.holders()[at];
        let (held, mut span) = (holder.held(), holder.deepest());
        if held <= blocks {
            self.recency.set_end(span, blocks);
            holder.set(blocks, span);
            self.recency.gained(endpoint, blocks - held);
        } else {
            while self.recency.start(span) >= blocks {
                span = self.recency.span(span).up;
            }
        }
        // All the blocks have one use in common now, so they are one span.
        self.recency.absorb(span);
        if self.recency.span(span).end > blocks {
            let used = self.recency.add(number, endpoint, blocks);
            self.recency.set_up(span, used);
            span = used;
        }
        self.used.push(span);
    }

    /// Evicts the last blocks of a span that is a leaf: at most `most`. Returns how many.
    fn trim(&mut self, span: u32, most: u32) -> u32 {
        let (it, start) = (self.recency.span(span), self.recency.start(span));
        let gone = most.min(it.end - start);
        let left = it.end - gone;
        self.recency.lost(it.endpoint, gone);
        self.evicted += u64::from(gone);
        let run = self.run(it.run);
        let at = run.find(it.endpoint);
        let at = at.expect("whoever has a span of a run is among its holders");
        let mut changed = None;
        if left > start {
            self.recency.set_end(span, left);
            run.holders()[at].set(left, span);
        } else {
            self.recency.drop_span(span);
            if it.up != NONE {
                run.holders()[at].set(left, it.up);
            } else if run.holders().len() > 1 {
                changed = Some(run.left(at));
            } else {
                self.end(it.run, &run);
                return gone;
            }
        }
        let shrunk = changed.as_ref().unwrap_or(&run).shrunk();
        if let Some(new) = shrunk.or(changed) {
            self.replace(it.run, &run, new);
        }
        gone
    }

    fn run(&self, number: u32) -> Arc<Run> {
        let run = self.shared.runs.get(number);
        let run = run.and_then(|place| place.load_full());
        run.expect("a run lives as long as anyone has a span of it")
    }

    /// Panics if what is kept twice does not agree.
    #[cfg(test)]
    pub(super) fn check(&self) {
        let mut blocks = std::collections::BTreeMap::<u32, u32>::new();
        let (mut bytes, mut spans, mut live) = (0, 0, 0);
        for number in (0..self.numbers).filter(|it| !self.free.contains(it)) {
            let run = self.run(number);
            bytes += run.bytes();
            live += 1;
            let (found, _) = self
                .find(run.head(), run.start())
                .expect("its head is known");
            assert_eq!(found, number);
            assert!(run.holders().is_sorted_by(|a, b| a.endpoint < b.endpoint));
            for holder in run.holders() {
                let mut span = holder.deepest();
                assert_eq!(self.recency.span(span).end, holder.held());
                assert!(holder.held() as usize <= run.len());
                *blocks.entry(holder.endpoint).or_default() += holder.held();
                while span != NONE {
                    let it = self.recency.span(span);
                    assert_eq!((it.run, it.endpoint), (number, holder.endpoint));
                    assert!(self.recency.start(span) < it.end);
                    spans += 1;
                    span = it.up;
                }
            }
        }
        assert_eq!(bytes, self.run_bytes);
        assert_eq!(live, self.size().runs);
        self.recency.check(spans, &blocks);
    }
}
