//! Requests that come again because they failed, and where they failed.
//!
//! A client that retries sends the same request, and is no more to be known by than that: what names a request is the
//! client's to choose. So a request is known by what is in it: the tenant, the model, how long it is, how its prompt begins
//! (the last of its prefix chain, which is there anyway, or else its first bytes) and its last bytes. Where one failed, by the
//! breaker's notion of failure, is remembered for [`TTL_MS`]; one that is the same and comes meanwhile is taken for its retry,
//! and scorers get to know where not to send it. Once it is served, it is forgotten.
//!
//! Two requests that are alike may be two clients' (a health check, the same question again). Then the second one is spared
//! the endpoint that the first one failed at, which does no harm.
//!
//! While nothing has failed, a look costs one load.

use std::collections::{HashMap, VecDeque};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use bytes::Bytes;
use parking_lot::Mutex;
use xxhash_rust::xxh3::xxh3_64_with_seed;

use super::control::REQUEST_ID;
use super::prompt::Prompt;
use crate::extproc::Headers;
use crate::pool::slab::Slot;
use crate::pool::{Snapshot, clock_ms};
use crate::prefix::Who;

/// Requests that are remembered; the oldest make room for others.
pub(super) const MOST: usize = 4_096;
/// Endpoints of each.
pub(super) const MOST_PLACES: usize = 4;
/// For how long, in milliseconds.
pub(super) const TTL_MS: u64 = 60_000;
/// Bytes at the beginning and at the end of a body by which it is known.
const SAMPLE: usize = 1_024;
/// Bytes of a request's id that are kept.
const ID: usize = 253;

/// See the module.
#[derive(Debug)]
pub(super) struct Retries {
    /// When the last of them is forgotten, in milliseconds of [`clock_ms`]; 0 = there is none.
    until: AtomicU64,
    /// Nobody outside knows what is hashed alike.
    seed: u64,
    failed: Mutex<Failed>,
}

#[derive(Debug, Default)]
struct Failed {
    of: HashMap<u64, Failure>,
    /// Their keys by age, with when they first failed. Some are gone by now, or have failed anew.
    order: VecDeque<(u64, u64)>,
}

#[derive(Debug)]
struct Failure {
    since: u64,
    retry: Retry,
}

/// What a request is that came before and failed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Retry {
    /// The id of the one that failed first; empty if it had none.
    pub of: Box<str>,
    /// Where it failed.
    pub at: Vec<Who>,
}

/// A request that is under way: if its endpoint fails it, that is remembered.
#[derive(Debug)]
pub(super) struct Attempt {
    retries: Arc<Retries>,
    key: u64,
    headers: Arc<Headers>,
    slot: Arc<Slot>,
    sent_at: u64,
    /// It is known how it ended.
    over: bool,
}

// === impl Retries ===

impl Retries {
    /// By what a request is known; `None`: too little of it was read.
    pub(super) fn key(
        &self,
        tenant: Option<&str>,
        model: &str,
        prompt: Option<&Prompt>,
        body: &[Bytes],
    ) -> Option<u64> {
        let length: usize = body.iter().map(Bytes::len).sum();
        if length == 0 {
            return None;
        }
        let mut buffer = [0; SAMPLE];
        let tenant = tenant.unwrap_or_default().as_bytes();
        let mut key = self.seed ^ length as u64;
        for part in [tenant, model.as_bytes()] {
            key = xxh3_64_with_seed(part, key);
        }
        key = match prompt {
            Some(prompt) => xxh3_64_with_seed(&prompt.last().to_le_bytes(), key),
            None => xxh3_64_with_seed(head(body, &mut buffer), key),
        };
        Some(xxh3_64_with_seed(tail(body, &mut buffer), key))
    }

    /// Where the request that is known by `key` failed a while ago, if it did.
    pub(super) fn look(&self, key: u64, now_ms: u64) -> Option<Retry> {
        if self.until.load(Ordering::Relaxed) <= now_ms {
            return None;
        }
        let failed = self.failed.lock();
        let failure = failed.of.get(&key)?;
        (now_ms < failure.since + TTL_MS).then(|| failure.retry.clone())
    }

    fn failed(&self, key: u64, id: &str, at: Who, now_ms: u64) {
        let Failed { of, order } = &mut *self.failed.lock();
        while let Some(&(oldest, since)) = order.front()
            && (order.len() >= MOST || since + TTL_MS <= now_ms)
        {
            order.pop_front();
            if of.get(&oldest).is_some_and(|f| f.since == since) {
                of.remove(&oldest);
            }
        }
        let failure = of.entry(key).or_insert_with(|| {
            order.push_back((key, now_ms));
            Failure {
                since: now_ms,
                retry: Retry {
                    of: id[..id.floor_char_boundary(ID)].into(),
                    at: Vec::with_capacity(1),
                },
            }
        });
        let places = &mut failure.retry.at;
        if !places.contains(&at) && places.len() < MOST_PLACES {
            places.push(at);
        }
        self.until.fetch_max(now_ms + TTL_MS, Ordering::Relaxed);
    }

    fn served(&self, key: u64, now_ms: u64) {
        if self.until.load(Ordering::Relaxed) <= now_ms {
            return;
        }
        let mut failed = self.failed.lock();
        failed.of.remove(&key);
        if failed.of.is_empty() {
            failed.order.clear();
            self.until.store(0, Ordering::Relaxed);
        }
    }
}

impl Default for Retries {
    fn default() -> Self {
        Self {
            until: AtomicU64::new(0),
            seed: rand::random(),
            failed: Mutex::default(),
        }
    }
}

/// The first bytes of `body`.
fn head<'a>(body: &[Bytes], buffer: &'a mut [u8; SAMPLE]) -> &'a [u8] {
    let mut filled = 0;
    for piece in body {
        let taken = piece.len().min(SAMPLE - filled);
        buffer[filled..filled + taken].copy_from_slice(&piece[..taken]);
        filled += taken;
    }
    &buffer[..filled]
}

/// The last bytes of `body`.
fn tail<'a>(body: &[Bytes], buffer: &'a mut [u8; SAMPLE]) -> &'a [u8] {
    let mut free = SAMPLE;
    for piece in body.iter().rev() {
        let taken = piece.len().min(free);
        buffer[free - taken..free].copy_from_slice(&piece[piece.len() - taken..]);
        free -= taken;
    }
    &buffer[free..]
}

// === impl Retry ===

impl Retry {
    /// Puts the positions of where it failed into `out`, of those that are still there.
    pub(super) fn positions(&self, snapshot: &Snapshot, out: &mut Vec<u32>) {
        let (numbers, lives) = (snapshot.numbers(), snapshot.lives());
        let found = self.at.iter().filter_map(|who| {
            let at = numbers.iter().position(|&number| number == who.number)?;
            (lives[at] == who.life).then_some(at as u32)
        });
        out.extend(found);
    }
}

// === impl Attempt ===

impl Attempt {
    /// The request that is known by `key`, and has these `headers`, was sent to `slot` at `sent_at`.
    pub(super) fn new(
        retries: &Arc<Retries>,
        key: u64,
        headers: &Arc<Headers>,
        slot: &Arc<Slot>,
        sent_at: u64,
    ) -> Self {
        Self {
            retries: Arc::clone(retries),
            key,
            headers: Arc::clone(headers),
            slot: Arc::clone(slot),
            sent_at,
            over: false,
        }
    }

    /// The gateway went to `slot` with it, since the one before failed it.
    pub(super) fn moved_to(&mut self, slot: &Arc<Slot>) {
        self.note();
        self.slot = Arc::clone(slot);
    }

    /// Its endpoint failed it.
    pub(super) fn failed(&mut self) {
        self.over = true;
        self.note();
    }

    /// It is over, and whoever sent it has his answer: `served`, or it was no fault of the endpoint's.
    pub(super) fn ended(&mut self, served: bool) {
        self.over = true;
        if served {
            self.retries.served(self.key, clock_ms());
        }
    }

    fn note(&self) {
        let id = self.headers.first_of(&[REQUEST_ID]).unwrap_or_default();
        let who = Who::of(&self.slot);
        self.retries.failed(self.key, id, who, clock_ms());
    }
}

impl Drop for Attempt {
    /// Nobody waits for it any more. If its endpoint broke down meanwhile, that is why.
    fn drop(&mut self) {
        if !self.over && self.slot.broke_since(self.sent_at) {
            self.note();
        }
    }
}

#[cfg(test)]
mod tests;
