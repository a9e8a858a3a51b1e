//! One request, as the server that answers it sees it.

use std::sync::Arc;
use std::sync::atomic::{AtomicU8, AtomicU32, AtomicU64, Ordering};
use std::task::Poll;

use futures_util::task::AtomicWaker;
use xxhash_rust::xxh3::xxh3_64_with_seed;

use super::{NotTaken, Shared};
use crate::sim::step::{Keys, Origin, Request};
use crate::sim::text::ANSWER;

/// How a request ended before its limit, on its ticket.
const LOST: u8 = 1;
const ABORTED: u8 = 2;

/// The engine died, or was started again.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("EngineCore encountered an issue. See stack trace (above) for the root cause.")]
pub(in crate::sim) struct Lost;

/// A prompt, as far as an engine sees it.
#[derive(Clone, Debug, Default)]
pub(in crate::sim) struct Prompt {
    len: u64,
    streams: bool,
    /// No tokens: it shares nothing with any other.
    origin: Origin,
}

/// What an engine tells of a request. A counter and not a queue: a client that reads slowly costs no memory.
#[derive(Debug, Default)]
pub(super) struct Ticket {
    /// Whether tokens go out one by one.
    pub(super) streams: bool,
    generated: AtomicU64,
    /// Prompt tokens from the prefix cache; known with the first token.
    pub(super) cached: AtomicU32,
    ended: AtomicU8,
    reader: AtomicWaker,
}

/// One request, until it is dropped.
#[derive(Debug)]
pub(in crate::sim) struct Generation {
    shared: Arc<Shared>,
    ticket: Arc<Ticket>,
    id: u64,
    prompt_tokens: u64,
    /// Those that the reader knows.
    generated: u64,
    limit: u64,
    caches: bool,
}

// === impl Prompt ===

impl Prompt {
    /// At least one token. Prompts of different salts have no block in common, nor have those for different adapters, as
    /// in vLLM, whose hashes have these in them.
    pub(in crate::sim) fn new(tokens: Vec<u32>, salt: Option<String>) -> Self {
        Self {
            len: tokens.len() as u64,
            streams: false,
            origin: Origin {
                tokens,
                answer: ANSWER,
                adapter: None,
                salt,
            },
        }
    }

    /// The same; whether its answer goes out token by token.
    pub(in crate::sim) fn streaming(self, streams: bool) -> Self {
        Self { streams, ..self }
    }

    /// Tokens.
    pub(in crate::sim) fn len(&self) -> u64 {
        self.len
    }

    /// The names of its full blocks of `size` tokens, and of those of an answer of `limit` tokens: it is known what an
    /// answer will be.
    fn keys(&self, limit: u64, size: u64) -> Keys {
        let prompt = &self.origin.tokens;
        let size = usize::try_from(size).unwrap_or(usize::MAX).max(1);
        if prompt.is_empty() {
            return Keys::default();
        }
        let scope = [&self.origin.adapter, &self.origin.salt];
        let seed = scope.into_iter().fold(0, |seed, part| {
            xxh3_64_with_seed(part.as_deref().unwrap_or_default().as_bytes(), seed)
        });
        let blocks = (prompt.len() as u64 + limit) / size as u64;
        let mut bytes = Vec::with_capacity(size.min(1 << 16) * size_of::<u32>());
        let mut name = |block: usize| {
            bytes.clear();
            for at in block * size..(block + 1) * size {
                bytes.extend_from_slice(&self.origin.token(at).to_le_bytes());
            }
            xxh3_64_with_seed(&bytes, seed)
        };
        // All blocks after the prompt's last token are alike.
        let begun = prompt.len().div_ceil(size).min(blocks as usize);
        let answer = (blocks as usize > begun).then(|| name(begun));
        let mut names: Vec<_> = (0..begun).map(&mut name).collect();
        names.extend(answer.into_iter().cycle().take(blocks as usize - begun));
        Keys::new(names, 1, u32::try_from(blocks).unwrap_or(u32::MAX))
    }
}

/// One that shares nothing with any other.
#[cfg(test)]
impl From<u64> for Prompt {
    fn from(len: u64) -> Self {
        Self {
            len,
            streams: false,
            origin: Origin::default(),
        }
    }
}

// === impl Ticket ===

impl Ticket {
    /// So many tokens are there.
    pub(super) fn token(&self, generated: u64) {
        self.generated.store(generated, Ordering::Release);
        self.reader.wake();
    }

    /// There will be no more: the engine is gone.
    pub(super) fn lose(&self) {
        self.end(LOST);
    }

    /// There will be no more: the engine was told to give up its requests.
    pub(super) fn abort(&self) {
        self.end(ABORTED);
    }

    fn end(&self, how: u8) {
        self.ended.store(how, Ordering::Release);
        self.reader.wake();
    }
}

// === impl Generation ===

impl Generation {
    /// Queues it. `cached_in`: tokens of the blocks in which prompts are cached, if they are.
    pub(super) fn begin(
        shared: &Arc<Shared>,
        mut prompt: Prompt,
        limit: u64,
        adapter: Option<&str>,
        cached_in: Option<u64>,
    ) -> Result<Self, NotTaken> {
        prompt.origin.adapter = adapter.map(str::to_owned);
        let keys = cached_in.map(|size| prompt.keys(limit, size));
        let prompt_tokens = prompt.len;
        // Both were held against the longest request, which u32 holds.
        let small = |n: u64| u32::try_from(n).unwrap_or(u32::MAX);
        let request = Request {
            id: 0,
            prompt_tokens: small(prompt_tokens),
            output_tokens: small(limit),
            keys: keys.unwrap_or_default(),
            // Adapters come and go; a hash needs no list of them.
            adapter: adapter.map(|name| xxh3_64_with_seed(name.as_bytes(), 0) as u32),
        };
        let ticket = Arc::new(Ticket {
            streams: prompt.streams,
            ..Ticket::default()
        });
        let (id, caches) = shared.change(|state| {
            let id = state.submit(&ticket, request, prompt.origin, adapter)?;
            Ok::<_, NotTaken>((id, state.caches()))
        })?;
        Ok(Self {
            shared: Arc::clone(shared),
            ticket,
            id,
            prompt_tokens,
            generated: 0,
            limit,
            caches,
        })
    }

    /// Waits for tokens. Returns how many have come since the last call; 0: there are no more.
    pub(in crate::sim) async fn more(&mut self) -> Result<u64, Lost> {
        if self.is_done() {
            return Ok(0);
        }
        std::future::poll_fn(|context| {
            self.ticket.reader.register(context.waker());
            let generated = self.ticket.generated.load(Ordering::Acquire);
            if generated > self.generated {
                let new = generated - self.generated;
                self.generated = generated;
                Poll::Ready(Ok(new))
            } else {
                match self.ticket.ended.load(Ordering::Acquire) {
                    LOST => Poll::Ready(Err(Lost)),
                    ABORTED => Poll::Ready(Ok(0)),
                    _ => Poll::Pending,
                }
            }
        })
        .await
    }

    /// Whether the last token was the last one.
    pub(in crate::sim) fn is_done(&self) -> bool {
        self.generated == self.limit || self.is_aborted()
    }

    /// Whether it ended before its limit, and all tokens that there were have been told.
    pub(in crate::sim) fn is_aborted(&self) -> bool {
        self.ticket.ended.load(Ordering::Acquire) == ABORTED
            && self.generated == self.ticket.generated.load(Ordering::Acquire)
    }

    /// Why it ended, as vLLM's `finish_reason`.
    pub(in crate::sim) fn finish(&self) -> &'static str {
        if self.is_aborted() { "abort" } else { "length" }
    }

    /// Tokens so far: of the prompt, and generated.
    pub(in crate::sim) fn tokens(&self) -> (u64, u64) {
        (self.prompt_tokens, self.generated)
    }

    /// Prompt tokens that came from the prefix cache, once there is a token; `None` if there is no such cache.
    pub(in crate::sim) fn cached_tokens(&self) -> Option<u32> {
        self.caches
            .then(|| self.ticket.cached.load(Ordering::Relaxed))
    }
}

impl Drop for Generation {
    fn drop(&mut self) {
        if self.ticket.generated.load(Ordering::Acquire) < self.limit {
            self.shared.change(|state| state.cancel(self.id));
        }
    }
}
