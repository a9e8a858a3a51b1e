//! One request, as the server that answers it sees it.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering};
use std::task::Poll;

use futures_util::task::AtomicWaker;
use xxhash_rust::xxh3::xxh3_64_with_seed;

use super::{NotTaken, Shared};
use crate::sim::step::{Keys, Request};

/// Bytes of a prompt's text that make a token.
const TOKEN_BYTES: u64 = 4;

/// The engine died, or was started again.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("EngineCore encountered an issue. See stack trace (above) for the root cause.")]
pub(in crate::sim) struct Lost;

/// A prompt, as far as an engine sees it.
#[derive(Clone, Debug, Default)]
pub(in crate::sim) struct Prompt {
    pub(in crate::sim) tokens: u64,
    /// The names of its full blocks.
    keys: Keys,
}

/// What an engine tells of a request. A counter and not a queue: a client that reads slowly costs no memory.
#[derive(Debug, Default)]
pub(super) struct Ticket {
    generated: AtomicU64,
    /// Prompt tokens from the prefix cache; known with the first token.
    pub(super) cached: AtomicU32,
    lost: AtomicBool,
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
    /// A text, in blocks of `block_size` tokens. Texts of different `scope`s (adapter, salt) have no block in common, as
    /// in vLLM, whose hashes have these in them.
    pub(in crate::sim) fn new(text: &[u8], scope: &[&str], block_size: u64) -> Self {
        let seed = scope
            .iter()
            .fold(0, |seed, part| xxh3_64_with_seed(part.as_bytes(), seed));
        let bytes = block_size.saturating_mul(TOKEN_BYTES);
        let bytes = usize::try_from(bytes).unwrap_or(usize::MAX).max(1);
        let blocks = text.chunks_exact(bytes);
        let count = u32::try_from(blocks.len()).unwrap_or(u32::MAX);
        let names = blocks.map(|block| xxh3_64_with_seed(block, seed));
        Self {
            tokens: (text.len() as u64).div_ceil(TOKEN_BYTES).max(1),
            keys: Keys::new(names, 1, count),
        }
    }
}

/// One that shares nothing with any other.
#[cfg(test)]
impl From<u64> for Prompt {
    fn from(tokens: u64) -> Self {
        Self {
            tokens,
            keys: Keys::default(),
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

    /// There will be no more.
    pub(super) fn lose(&self) {
        self.lost.store(true, Ordering::Release);
        self.reader.wake();
    }
}

// === impl Generation ===

impl Generation {
    pub(super) fn begin(
        shared: &Arc<Shared>,
        prompt: Prompt,
        limit: u64,
        adapter: Option<&str>,
    ) -> Result<Self, NotTaken> {
        // Both were held against the longest request, which u32 holds.
        let small = |n: u64| u32::try_from(n).unwrap_or(u32::MAX);
        let request = Request {
            id: 0,
            prompt_tokens: small(prompt.tokens),
            output_tokens: small(limit),
            keys: prompt.keys,
            // Adapters come and go; a hash needs no list of them.
            adapter: adapter.map(|name| xxh3_64_with_seed(name.as_bytes(), 0) as u32),
        };
        let ticket = Arc::new(Ticket::default());
        let (id, caches) = shared.change(|state| {
            let id = state.submit(&ticket, request, adapter)?;
            Ok::<_, NotTaken>((id, state.caches()))
        })?;
        Ok(Self {
            shared: Arc::clone(shared),
            ticket,
            id,
            prompt_tokens: prompt.tokens,
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
            } else if self.ticket.lost.load(Ordering::Acquire) {
                Poll::Ready(Err(Lost))
            } else {
                Poll::Pending
            }
        })
        .await
    }

    /// Whether the last token was the last one.
    pub(in crate::sim) fn is_done(&self) -> bool {
        self.generated == self.limit
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
