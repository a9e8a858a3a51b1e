//! From a request to its chain: one hash a block, each standing for the whole prompt up to there.
//!
//! ```text
//! root = xxh3(block bytes ‖ len ‖ tenant ‖ len ‖ model ‖ len ‖ adapter ‖ len ‖ cache salt)
//! h[0] = xxh3(block 0, seed root)
//! h[i] = xxh3(block i, seed h[i-1])
//! ```
//!
//! Lengths are 8 bytes, little-endian. The text is the prompt as it stands in the decoded JSON body (escapes and all): a server that
//! sees the same bytes makes the same tokens, and a client that escapes differently only misses. Between two pieces
//! (role, content, tool call) stands the byte 0xFF, which no UTF-8 text has, so that moving a boundary changes the hash. It is
//! written when the next piece begins, not when a piece ends: a prompt that goes on later must hash as it did before.
//!
//! Only full blocks count. The reference hashes a partial last block too (reference §5.1), but an engine caches full blocks
//! alone, and a partial one never has a successor: the next turn fills it up and it hashes differently. It would
//! take an entry for each request and promise up to a block too much. The price: a prompt shorter than one block has no
//! chain, so nothing of it is remembered; at most 63 tokens of prefill are lost by that.

use std::ops::Range;

use xxhash_rust::xxh3::{Xxh3, xxh3_64_with_seed};

/// Bytes that stand for one token (the reference's `estimate` tokenizer).
pub const TOKEN_BYTES: usize = 4;

/// Tokens in a block unless configured otherwise. The reference never goes below.
pub const DEFAULT_BLOCK_TOKENS: usize = 64;

/// Longest prefix that is looked at, in tokens, as in the reference.
pub const MAX_PREFIX_TOKENS: usize = 131_072;

/// Stands between two pieces of text.
const NEXT_PIECE: u8 = 0xFF;

/// Stands before an image's content hash.
const IMAGE: u8 = 0xFE;

/// What splits the cache: two requests that differ in any of these share nothing.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Scope<'a> {
    /// Whose request it is; empty = the one tenant there is.
    pub tenant: &'a str,
    /// The model that the server is asked for.
    pub model: &'a str,
    /// The LoRA adapter, if it is named beside the model.
    pub adapter: &'a str,
    /// vLLM's `cache_salt`.
    pub cache_salt: &'a str,
}

/// How prompts are cut into blocks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Blocks {
    tokens: usize,
    max: usize,
}

/// Hashes a prompt as it comes. Bytes that fill a block are hashed where they are; only a block that
/// spans two pieces (or two body chunks) is gathered first.
#[derive(Debug)]
pub struct ChainHasher {
    block: usize,
    max: usize,
    last: u64,
    chain: Vec<u64>,
    /// The start of the block that is not full yet.
    pending: Vec<u8>,
    begun: bool,
}

/// A body in parts, read from front to back.
struct Body<'a, T> {
    parts: &'a [T],
    part: usize,
    /// Bytes before `part`.
    offset: usize,
}

// === impl Body ===

impl<'a, T: AsRef<[u8]>> Body<'a, T> {
    /// The bytes at `range`, part by part. Ranges are asked for in their order.
    fn each(&mut self, range: &Range<usize>, mut take: impl FnMut(&'a [u8])) {
        while let Some(bytes) = self.parts.get(self.part).map(AsRef::as_ref) {
            let end = self.offset + bytes.len();
            if range.start < end {
                let from = range.start.saturating_sub(self.offset);
                let to = range.end.min(end).saturating_sub(self.offset);
                take(bytes.get(from..to).unwrap_or_default());
            }
            if range.end <= end {
                break;
            }
            self.offset = end;
            self.part += 1;
        }
    }
}

// === impl Blocks ===

impl Blocks {
    /// Blocks of `tokens` tokens (at least 1), as many as [`MAX_PREFIX_TOKENS`] has.
    pub fn of_tokens(tokens: usize) -> Self {
        let tokens = tokens.clamp(1, MAX_PREFIX_TOKENS);
        Self {
            tokens,
            max: MAX_PREFIX_TOKENS / tokens,
        }
    }

    /// The same blocks, but at most `max` of them.
    pub fn at_most(self, max: usize) -> Self {
        Self { max, ..self }
    }

    /// Tokens in a block, by the estimate of [`TOKEN_BYTES`].
    pub fn tokens(self) -> usize {
        self.tokens
    }

    /// How many of these blocks fit into an engine's cache of `kv_blocks` blocks of `block_tokens` tokens. `None` when the
    /// engine does not say (either is 0): then [`super::DEFAULT_CAPACITY`] is what the reference takes.
    pub fn capacity(self, kv_blocks: u32, block_tokens: u32) -> Option<u32> {
        let tokens = u64::from(kv_blocks) * u64::from(block_tokens);
        let blocks = tokens / self.tokens as u64;
        (tokens > 0).then(|| u32::try_from(blocks).unwrap_or(u32::MAX))
    }
}

impl Default for Blocks {
    fn default() -> Self {
        Self::of_tokens(DEFAULT_BLOCK_TOKENS)
    }
}

// === impl Scope ===

impl Scope<'_> {
    fn root(&self, block: usize) -> u64 {
        let mut hash = Xxh3::new();
        hash.update(&(block as u64).to_le_bytes());
        for field in [self.tenant, self.model, self.adapter, self.cache_salt] {
            hash.update(&(field.len() as u64).to_le_bytes());
            hash.update(field.as_bytes());
        }
        hash.digest()
    }
}

// === impl ChainHasher ===

impl ChainHasher {
    /// Starts the chain of a request.
    pub fn new(scope: &Scope<'_>, blocks: Blocks) -> Self {
        let block = blocks.tokens * TOKEN_BYTES;
        Self {
            block,
            max: blocks.max,
            last: scope.root(block),
            chain: Vec::new(),
            pending: Vec::new(),
            begun: false,
        }
    }

    /// A piece of prompt follows: what [`ChainHasher::text`] brings from here on belongs to it.
    pub fn next_piece(&mut self) {
        if std::mem::replace(&mut self.begun, true) {
            self.text(&[NEXT_PIECE]);
        }
    }

    /// More text of the piece.
    pub fn text(&mut self, mut text: &[u8]) {
        self.begun = true;
        if !self.pending.is_empty() {
            let missing = self.block - self.pending.len();
            let (head, rest) = text.split_at(missing.min(text.len()));
            self.pending.extend_from_slice(head);
            text = rest;
            if self.pending.len() < self.block {
                return;
            }
            let block = std::mem::take(&mut self.pending);
            self.close(&block);
            self.pending = block;
            self.pending.clear();
        }
        let blocks = text.chunks_exact(self.block);
        let rest = blocks.remainder();
        self.chain
            .reserve(blocks.len().min(self.max - self.chain.len()));
        for block in blocks {
            if self.is_full() {
                return;
            }
            self.close(block);
        }
        if !rest.is_empty() && !self.is_full() {
            self.pending.reserve_exact(self.block);
            self.pending.extend_from_slice(rest);
        }
    }

    /// An image, or another thing that is no text: the bytes of its `data:` URL, or of the URL that it is fetched from. It
    /// closes the block that it stands in, however short the text before it: the text after it starts a new one. The bytes
    /// enter by their 128-bit xxh3.
    pub fn image(&mut self, content: &[u8]) {
        self.attached(&[content]);
    }

    /// The same, of content that came in pieces.
    fn attached(&mut self, pieces: &[&[u8]]) {
        self.begun = true;
        if self.is_full() {
            return;
        }
        let mut hash = Xxh3::new();
        for piece in pieces {
            hash.update(piece);
        }
        let mut block = std::mem::take(&mut self.pending);
        block.push(IMAGE);
        block.extend_from_slice(&hash.digest128().to_le_bytes());
        self.close(&block);
    }

    /// The prompt of a body that came in `parts`: the pieces of text that `text` names and what `attached` names, as
    /// [`crate::dialect::RequestFacts`] has them. Ranges ascend; what lies outside the body is left out.
    pub fn prompt<T: AsRef<[u8]>>(
        &mut self,
        parts: &[T],
        text: &[Range<usize>],
        attached: &[Range<usize>],
    ) {
        let mut body = Body {
            parts,
            part: 0,
            offset: 0,
        };
        let (mut text, mut attached) = (text.iter().peekable(), attached.iter().peekable());
        while !self.is_full() {
            let is_text = match (text.peek(), attached.peek()) {
                (Some(text), Some(attached)) => text.start <= attached.start,
                (Some(_), None) => true,
                (None, Some(_)) => false,
                (None, None) => return,
            };
            let next = if is_text {
                text.next()
            } else {
                attached.next()
            };
            let Some(range) = next else { return };
            if is_text {
                self.next_piece();
                body.each(range, |bytes| self.text(bytes));
            } else {
                let mut pieces = Vec::new();
                body.each(range, |bytes| pieces.push(bytes));
                self.attached(&pieces);
            }
        }
    }

    /// No more blocks are taken.
    pub fn is_full(&self) -> bool {
        self.chain.len() >= self.max
    }

    /// Text that has not filled a block yet, in bytes.
    pub fn rest(&self) -> usize {
        self.pending.len()
    }

    /// The chain. The text that did not fill a block is not in it.
    pub fn finish(self) -> Vec<u64> {
        self.chain
    }

    fn close(&mut self, block: &[u8]) {
        if self.is_full() {
            return;
        }
        self.last = xxh3_64_with_seed(block, self.last);
        self.chain.push(self.last);
    }
}

#[cfg(test)]
#[path = "chain_tests.rs"]
mod tests;
