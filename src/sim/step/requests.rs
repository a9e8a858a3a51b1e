//! Requests, as the caller sees them and as the engine keeps them.

use super::blocks::Hold;
use super::keys::{Chain, Keys};

/// What an engine is asked for.
#[derive(Clone, Debug)]
pub struct Request {
    /// The caller's number for it; events carry it.
    pub id: u64,
    /// At least 1.
    pub prompt_tokens: u32,
    /// Tokens that it will generate; at least 1.
    pub output_tokens: u32,
    /// The names of its full prompt blocks. Names beyond them name full blocks of the answer, which can be hit when the
    /// request is over.
    pub keys: Keys,
    /// The LoRA adapter it is for.
    pub adapter: Option<u32>,
}

/// What happened, and when.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Event {
    /// The prompt is read, the first token is there.
    FirstToken {
        /// The request.
        id: u64,
        /// Seconds.
        at: f64,
        /// Prompt tokens that came from the prefix cache when it first ran.
        cached_tokens: u32,
        /// When it first ran: the begin of that step, in seconds.
        scheduled: f64,
    },
    /// One more token after the first; only with [`Engine::each_token`](super::Engine::each_token).
    Token {
        /// The request.
        id: u64,
        /// Seconds.
        at: f64,
    },
    /// The last token is there. It follows the event of that token.
    Finished {
        /// The request.
        id: u64,
        /// Seconds.
        at: f64,
    },
    /// It lost its blocks and waits again. What it had generated is kept, but has to be read once more.
    Preempted {
        /// The request.
        id: u64,
        /// Seconds.
        at: f64,
    },
}

/// A request in the engine.
#[derive(Debug, Default)]
pub(super) struct Slot {
    pub(super) id: u64,
    pub(super) prompt: u32,
    pub(super) output: u32,
    pub(super) adapter: Option<u32>,
    pub(super) chain: Chain,
    pub(super) hold: Hold,
    pub(super) arrived: f64,
    /// Tokens generated; while it decodes, when it began to.
    pub(super) done: u32,
    /// Tokens in the KV cache; while it decodes, when it began to.
    pub(super) computed: u32,
    /// The tick at which it began to decode.
    pub(super) since: u64,
    pub(super) decodes: bool,
    pub(super) cached_tokens: u32,
    /// When it first ran.
    pub(super) scheduled: f64,
    /// Nobody waits for it any more; it ends with the step that runs.
    pub(super) cancelled: bool,
}

/// The requests in the engine, by a number that is used again.
#[derive(Debug, Default)]
pub(super) struct Slots {
    slots: Vec<Slot>,
    unused: Vec<u32>,
}

/// A request that runs.
#[derive(Clone, Copy, Debug)]
pub(super) struct Running {
    pub(super) slot: u32,
    /// The tick at which it ends, if it decodes.
    pub(super) last: u64,
}

// === impl Slots ===

impl Slots {
    pub(super) fn insert(&mut self, slot: Slot) -> u32 {
        if let Some(at) = self.unused.pop() {
            self.slots[at as usize] = slot;
            return at;
        }
        self.slots.push(slot);
        (self.slots.len() - 1) as u32
    }

    pub(super) fn remove(&mut self, at: u32) -> Slot {
        self.unused.push(at);
        std::mem::take(&mut self.slots[at as usize])
    }
}

impl std::ops::Index<u32> for Slots {
    type Output = Slot;

    fn index(&self, at: u32) -> &Slot {
        &self.slots[at as usize]
    }
}

impl std::ops::IndexMut<u32> for Slots {
    fn index_mut(&mut self, at: u32) -> &mut Slot {
        &mut self.slots[at as usize]
    }
}

// === impl Slot ===

impl Slot {
    /// Tokens that must be in the KV cache before the next one can be made.
    pub(super) fn total(&self) -> u32 {
        self.prompt + self.done
    }
}
