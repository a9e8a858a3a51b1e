//! What responses and metrics pages leave for the next look at an endpoint: counters that only rise, written without a
//! lock.

use std::sync::atomic::Ordering::Relaxed;
use std::sync::atomic::{AtomicBool, AtomicU32, AtomicU64};
use std::time::Duration;

use super::super::slab::Scrape;

/// Of one endpoint.
#[derive(Debug)]
pub struct Marks {
    /// Pieces of responses that did not fail, their ends included, and heads where these tell something of the engine.
    pieces: AtomicU32,
    /// Generated tokens that were timed, and what they took, in microseconds.
    tokens: AtomicU64,
    token_us: AtomicU64,
    /// First tokens that were timed, the tokens of prompt read before them, and what it took, in microseconds.
    firsts: AtomicU32,
    read: AtomicU64,
    read_us: AtomicU64,
    /// Pages that were read, and when the last was.
    pages: AtomicU32,
    paged_at: AtomicU64,
    /// What the last of them told of progress, as a number that only has to differ.
    page: AtomicU64,
    /// When that last changed.
    page_changed_at: AtomicU64,
    /// That page had counters.
    page_counts: AtomicBool,
    /// Bits of the sum of counters, and of the start of the process, that the last page had that had them; 0 = none had.
    counted: AtomicU64,
    started: AtomicU64,
}

/// All of them at one moment.
#[derive(Clone, Copy, Debug)]
pub(super) struct Reading {
    pub(super) pieces: u32,
    pub(super) tokens: u64,
    pub(super) token_us: u64,
    pub(super) firsts: u32,
    pub(super) read: u64,
    pub(super) read_us: u64,
    pub(super) pages: u32,
    pub(super) paged_at: u64,
    pub(super) page_changed_at: u64,
    /// Pages tell how far the engine has come, by counters.
    pub(super) counts: bool,
}

/// What a page tells of progress: not its queue, which grows where nothing moves. Another number for any other page, or
/// nearly so; never 0.
fn mark(scrape: &Scrape) -> u64 {
    let mut bytes = [0; 16];
    bytes[..8].copy_from_slice(&scrape.progress.map_or(0, f64::to_bits).to_ne_bytes());
    for (at, told) in [(8, scrape.kv_usage), (12, scrape.running)] {
        let bits = told.map_or(0, f32::to_bits);
        bytes[at..at + 4].copy_from_slice(&bits.to_ne_bytes());
    }
    xxhash_rust::xxh3::xxh3_64(&bytes).max(1)
}

// === impl Reading ===

impl Reading {
    pub(super) const NONE: Self = Self {
        pieces: 0,
        tokens: 0,
        token_us: 0,
        firsts: 0,
        read: 0,
        read_us: 0,
        pages: 0,
        paged_at: 0,
        page_changed_at: 0,
        counts: false,
    };
}

// === impl Marks ===

impl Marks {
    pub(in crate::pool) const fn new() -> Self {
        Self {
            pieces: AtomicU32::new(0),
            tokens: AtomicU64::new(0),
            token_us: AtomicU64::new(0),
            firsts: AtomicU32::new(0),
            read: AtomicU64::new(0),
            read_us: AtomicU64::new(0),
            pages: AtomicU32::new(0),
            paged_at: AtomicU64::new(0),
            page: AtomicU64::new(0),
            page_changed_at: AtomicU64::new(0),
            page_counts: AtomicBool::new(false),
            counted: AtomicU64::new(0),
            started: AtomicU64::new(0),
        }
    }

    pub(in crate::pool) fn clear(&self) {
        for cell in [&self.pieces, &self.firsts, &self.pages] {
            cell.store(0, Relaxed);
        }
        for cell in [
            &self.tokens,
            &self.token_us,
            &self.read,
            &self.read_us,
            &self.paged_at,
            &self.page,
            &self.page_changed_at,
            &self.counted,
            &self.started,
        ] {
            cell.store(0, Relaxed);
        }
        self.page_counts.store(false, Relaxed);
    }

    /// Something of a response came by that the engine worked for: an error is no sign that it does.
    pub fn piece(&self) {
        self.pieces.fetch_add(1, Relaxed);
    }

    /// `tokens` were generated in `time`, the first of a response left out.
    pub fn generated(&self, tokens: u64, time: Duration) {
        self.tokens.fetch_add(tokens, Relaxed);
        let micros = u64::try_from(time.as_micros()).unwrap_or(u64::MAX);
        self.token_us.fetch_add(micros, Relaxed);
    }

    /// The first token of a response came `ms` milliseconds after the request was sent, when there were `tokens` of prompt
    /// to be read, its own included.
    pub(in crate::pool) fn first_token(&self, tokens: u64, ms: u64) {
        self.piece();
        self.firsts.fetch_add(1, Relaxed);
        self.read.fetch_add(tokens, Relaxed);
        self.read_us.fetch_add(ms.saturating_mul(1000), Relaxed);
    }

    /// A page was read. `true`: by what it tells, the engine process is another one than before.
    pub(super) fn page(&self, scrape: &Scrape, now_ms: u64) -> bool {
        self.pages.fetch_add(1, Relaxed);
        self.paged_at.store(now_ms, Relaxed);
        let mark = mark(scrape);
        if self.page.swap(mark, Relaxed) != mark {
            self.page_changed_at.store(now_ms, Relaxed);
        }
        self.page_counts.store(scrape.progress.is_some(), Relaxed);
        let change = |cell: &AtomicU64, told: Option<f64>| {
            let told = told?;
            let before = f64::from_bits(cell.swap(told.to_bits(), Relaxed));
            (before > 0.0).then_some(told - before)
        };
        let counters_fell = change(&self.counted, scrape.progress).is_some_and(|by| by < 0.0);
        // Pages print it with few digits.
        let started_anew = change(&self.started, scrape.started).is_some_and(|by| by.abs() >= 1.0);
        counters_fell || started_anew
    }

    #[cfg(test)]
    /// Pieces, first tokens that were timed, other tokens that were, and what these took.
    pub(crate) fn seen(&self) -> (u32, u32, u64, Duration) {
        let took = Duration::from_micros(self.token_us.load(Relaxed));
        let (firsts, tokens) = (self.firsts.load(Relaxed), self.tokens.load(Relaxed));
        (self.pieces.load(Relaxed), firsts, tokens, took)
    }

    pub(super) fn reading(&self) -> Reading {
        Reading {
            pieces: self.pieces.load(Relaxed),
            tokens: self.tokens.load(Relaxed),
            token_us: self.token_us.load(Relaxed),
            firsts: self.firsts.load(Relaxed),
            read: self.read.load(Relaxed),
            read_us: self.read_us.load(Relaxed),
            pages: self.pages.load(Relaxed),
            paged_at: self.paged_at.load(Relaxed),
            page_changed_at: self.page_changed_at.load(Relaxed),
            counts: self.page_counts.load(Relaxed),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_page_tells_a_new_process_and_whether_anything_moved() {
        let marks = Marks::new();
        let page = |progress: Option<f64>, started: Option<f64>| Scrape {
            progress,
            started,
            waiting: Some(3.0),
            ..Default::default()
        };
        for (at, progress, started, restarted, changed_at) in [
            (1, Some(5.0), Some(1.7e9), false, 1),
            (2, Some(5.0), Some(1.7e9), false, 1),
            (3, Some(6.0), Some(1.7e9 + 0.5), false, 3),
            // The page lacks them for once.
            (4, None, None, false, 4),
            (5, Some(6.0), None, false, 5),
            (6, Some(2.0), None, true, 6),
            (7, Some(3.0), Some(1.7e9 + 100.0), true, 7),
            (8, Some(0.0), Some(1.7e9 + 100.0), true, 8),
        ] {
            assert_eq!(marks.page(&page(progress, started), at), restarted, "{at}");
            assert_eq!(marks.reading().page_changed_at, changed_at, "{at}");
        }
        let growing = Scrape {
            waiting: Some(99.0),
            ..page(Some(0.0), None)
        };
        marks.page(&growing, 9);
        assert_eq!(marks.reading().page_changed_at, 8);
        marks.clear();
        assert_eq!((marks.reading().pages, marks.seen().0), (0, 0));
    }
}
