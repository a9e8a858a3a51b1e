//! The KV cache: vLLM's prefix-cached block pool, held as runs of blocks instead of single ones.
//!
//! vLLM hashes each full block with all that precedes it, counts who uses it, and puts it at the end of a list when
//! nobody does, the last block of a request first; whoever needs a block takes a free one, else the head of that list.
//! It follows that whoever holds a block holds all before it, and that a block is taken before any block that precedes
//! it in a prompt. So the cache is a tree of runs in which a user holds whole runs from the root downwards, a run is
//! taken from its end, and what costs O(blocks) there costs O(runs) here, with the same blocks cached at any time.
//! A run is split where a user's blocks end in its middle.

use std::collections::HashMap;

use super::changes::Log;
use super::keys::{BuildMix, Chain};

const NONE: u32 = u32::MAX;

#[derive(Debug)]
pub(super) struct Blocks {
    runs: Vec<Run>,
    unused: Vec<u32>,
    /// Runs by the name of their first block.
    by_key: HashMap<u64, u32, BuildMix>,
    /// Of the runs that nobody uses: the one that is taken next, and the one released last.
    head: u32,
    tail: u32,
    total: u32,
    /// Blocks with nothing to hit in them that nobody uses.
    free: u32,
    /// Blocks of runs that nobody uses.
    idle: u32,
    /// Blocks that more than one decoding sequence reads: times read, and once each.
    shared: u64,
    shared_once: u64,
    /// Where the last lookup went.
    path: Vec<(u32, u32)>,
    pub(super) log: Log,
}

#[derive(Debug)]
struct Run {
    /// A chain that these blocks are part of.
    chain: Chain,
    start: u32,
    len: u32,
    parent: u32,
    children: u32,
    users: u32,
    /// Users that decode.
    readers: u32,
    previous: u32,
    next: u32,
}

/// What a request holds of the tree.
#[derive(Clone, Copy, Debug)]
pub(super) struct Hold {
    /// The last run.
    tip: u32,
    /// Blocks from the root to the end of that run.
    pub(super) blocks: u32,
}

/// What the cache has of a chain.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub(super) struct Hit {
    pub(super) blocks: u32,
    /// Those of them that nobody uses.
    pub(super) idle: u32,
}

// === impl Hold ===

impl Default for Hold {
    fn default() -> Self {
        Self {
            tip: NONE,
            blocks: 0,
        }
    }
}

// === impl Blocks ===

impl Blocks {
    pub(super) fn new(total: u32) -> Self {
        Self {
            runs: Vec::new(),
            unused: Vec::new(),
            by_key: HashMap::default(),
            head: NONE,
            tail: NONE,
            total,
            free: total,
            idle: 0,
            shared: 0,
            shared_once: 0,
            path: Vec::new(),
            log: Log::default(),
        }
    }

    /// The same, with nothing in it.
    pub(super) fn emptied(&mut self) -> Self {
        let mut log = std::mem::take(&mut self.log);
        log.cleared();
        Self {
            log,
            ..Self::new(self.total)
        }
    }

    /// Blocks that can be taken.
    pub(super) fn available(&self) -> u32 {
        self.free + self.idle
    }

    /// Those of them in which there is something to hit.
    pub(super) fn idle(&self) -> u32 {
        self.idle
    }

    pub(super) fn total(&self) -> u32 {
        self.total
    }

    /// Blocks that several decoding sequences read: with each reader counted, and once.
    pub(super) fn shared(&self) -> (u64, u64) {
        (self.shared, self.shared_once)
    }

    /// What is cached of the first `limit` blocks. Touches nothing.
    pub(super) fn cached(&self, chain: &Chain, limit: u32) -> u32 {
        let mut at = 0;
        while at < limit
            && let Some(&run) = self.by_key.get(&chain.block(at))
        {
            let (same, whole) = self.common(run, chain, at, limit);
            at += same;
            if !whole {
                break;
            }
        }
        at
    }

    /// The same, for [`hold`](Self::hold) to follow.
    pub(super) fn look_up(&mut self, chain: &Chain, limit: u32) -> Hit {
        self.path.clear();
        let mut hit = Hit::default();
        while hit.blocks < limit
            && let Some(&run) = self.by_key.get(&chain.block(hit.blocks))
        {
            let (same, whole) = self.common(run, chain, hit.blocks, limit);
            self.path.push((run, same));
            hit.blocks += same;
            if self.runs[run as usize].users == 0 {
                hit.idle += same;
            }
            if !whole {
                break;
            }
        }
        hit
    }

    /// Holds what the last lookup found.
    pub(super) fn hold(&mut self) -> Hold {
        let mut hold = Hold::default();
        let mut path = std::mem::take(&mut self.path);
        for (run, len) in path.drain(..) {
            hold.tip = self.use_front(run, len);
            hold.blocks += len;
        }
        self.path = path;
        hold
    }

    /// Takes so many blocks, which must be available.
    pub(super) fn take(&mut self, blocks: u32) {
        let free = blocks.min(self.free);
        self.free -= free;
        let mut left = blocks - free;
        while left > 0 && self.head != NONE {
            let head = self.head;
            let run = &mut self.runs[head as usize];
            let taken = left.min(run.len);
            run.len -= taken;
            left -= taken;
            self.idle -= taken;
            let end = run.start + run.len;
            self.log.removed(&run.chain, end..end + taken);
            if run.len == 0 {
                self.unlink(head);
                self.forget(head);
            }
        }
        debug_assert_eq!(left, 0, "more blocks taken than available");
    }

    /// Blocks that were taken, and never published, are free again.
    pub(super) fn give_back(&mut self, blocks: u32) {
        self.free += blocks;
    }

    /// The first `upto` blocks of the chain are full: they can be hit from now on. Where another request has filled the
    /// same block, that one is shared and ours is free again.
    pub(super) fn publish(&mut self, hold: &mut Hold, chain: &Chain, upto: u32) {
        while hold.blocks < upto {
            let at = hold.blocks;
            let key = chain.block(at);
            if let Some(&run) = self.by_key.get(&key) {
                let (same, _) = self.common(run, chain, at, upto);
                hold.tip = self.use_front(run, same);
                hold.blocks += same;
                self.free += same;
                continue;
            }
            let named = chain.keys.blocks();
            // The cache knows no block that follows an unknown one. Named runs and own ones stay apart.
            let end = if at < named { upto.min(named) } else { upto };
            let tip = self.runs.get_mut(hold.tip as usize);
            let extended = tip.is_some_and(|tip| {
                let alone = tip.users == 1 && tip.children == 0;
                let same_kind = (tip.start < tip.chain.keys.blocks()) == (at < named);
                let fits = alone && same_kind && tip.start + tip.len == at;
                if fits {
                    // Its chain may be that of a request that went another way after this run.
                    tip.chain = chain.bare();
                    tip.len += end - at;
                }
                fits
            });
            if !extended {
                hold.tip = self.insert(
                    key,
                    Run {
                        chain: chain.bare(),
                        start: at,
                        len: end - at,
                        parent: hold.tip,
                        children: 0,
                        users: 1,
                        readers: 0,
                        previous: NONE,
                        next: NONE,
                    },
                );
            }
            hold.blocks = end;
            self.log.stored(chain, at..end);
        }
    }

    /// Gives back what a request holds, and the `own` blocks that were never published.
    pub(super) fn release(&mut self, hold: Hold, own: u32) {
        self.free += own;
        let mut at = hold.tip;
        while at != NONE {
            let run = &mut self.runs[at as usize];
            run.users -= 1;
            let parent = run.parent;
            if run.users == 0 {
                self.idle += run.len;
                self.link_after(at, self.tail);
            }
            at = parent;
        }
    }

    /// From now on a decoding sequence reads what is held.
    pub(super) fn read(&mut self, hold: Hold) {
        let mut at = hold.tip;
        while at != NONE {
            let run = &mut self.runs[at as usize];
            let len = u64::from(run.len);
            match run.readers {
                0 => {}
                1 => {
                    self.shared += 2 * len;
                    self.shared_once += len;
                }
                _ => self.shared += len,
            }
            run.readers += 1;
            at = run.parent;
        }
    }

    /// It reads no more. What it holds must be what it held then.
    pub(super) fn stop_reading(&mut self, hold: Hold) {
        let mut at = hold.tip;
        while at != NONE {
            let run = &mut self.runs[at as usize];
            let len = u64::from(run.len);
            run.readers -= 1;
            match run.readers {
                0 => {}
                1 => {
                    self.shared -= 2 * len;
                    self.shared_once -= len;
                }
                _ => self.shared -= len,
            }
            at = run.parent;
        }
    }

    /// How much of a run a chain has at that place, up to `limit`; and whether that is the whole run.
    fn common(&self, run: u32, chain: &Chain, at: u32, limit: u32) -> (u32, bool) {
        let run = &self.runs[run as usize];
        debug_assert_eq!(run.start, at, "a key stands for one place in a chain");
        let len = run.len.min(limit - at);
        let same = run.chain.common(chain, at, len);
        (same, same == run.len)
    }

    /// One user more for the first `len` blocks of a run. Returns the run that ends with them.
    fn use_front(&mut self, run: u32, len: u32) -> u32 {
        let front = if len < self.runs[run as usize].len {
            self.split(run, len)
        } else {
            run
        };
        let used = &mut self.runs[front as usize];
        used.users += 1;
        if used.users == 1 {
            self.idle -= used.len;
            self.unlink(front);
        }
        front
    }

    /// Makes a run of the first `len` blocks. What is left keeps the number: users' tips and children stay right.
    fn split(&mut self, at: u32, len: u32) -> u32 {
        let run = &mut self.runs[at as usize];
        let front = Run {
            chain: run.chain.clone(),
            start: run.start,
            len,
            parent: run.parent,
            children: 1,
            users: run.users,
            readers: run.readers,
            previous: NONE,
            next: NONE,
        };
        run.start += len;
        run.len -= len;
        let (first, rest) = (front.chain.block(front.start), run.chain.block(run.start));
        let (idle, parent) = (run.users == 0, run.parent);
        let front = self.insert(first, front);
        if let Some(parent) = self.runs.get_mut(parent as usize) {
            parent.children -= 1;
        }
        self.runs[at as usize].parent = front;
        self.by_key.insert(rest, at);
        if idle {
            self.link_after(front, at);
        }
        front
    }

    fn insert(&mut self, key: u64, run: Run) -> u32 {
        if let Some(parent) = self.runs.get_mut(run.parent as usize) {
            parent.children += 1;
        }
        let at = if let Some(at) = self.unused.pop() {
            self.runs[at as usize] = run;
            at
        } else {
            self.runs.push(run);
            (self.runs.len() - 1) as u32
        };
        self.by_key.insert(key, at);
        at
    }

    fn forget(&mut self, at: u32) {
        let run = &mut self.runs[at as usize];
        debug_assert_eq!((run.users, run.children), (0, 0));
        let (key, parent) = (run.chain.block(run.start), run.parent);
        run.chain = Chain::default();
        self.by_key.remove(&key);
        if let Some(parent) = self.runs.get_mut(parent as usize) {
            parent.children -= 1;
        }
        self.unused.push(at);
    }

    fn link_after(&mut self, at: u32, previous: u32) {
        let next = match self.runs.get_mut(previous as usize) {
            Some(run) => std::mem::replace(&mut run.next, at),
            None => std::mem::replace(&mut self.head, at),
        };
        match self.runs.get_mut(next as usize) {
            Some(run) => run.previous = at,
            None => self.tail = at,
        }
        let run = &mut self.runs[at as usize];
        (run.previous, run.next) = (previous, next);
    }

    fn unlink(&mut self, at: u32) {
        let run = &mut self.runs[at as usize];
        let previous = std::mem::replace(&mut run.previous, NONE);
        let next = std::mem::replace(&mut run.next, NONE);
        match self.runs.get_mut(previous as usize) {
            Some(run) => run.next = next,
            None => self.head = next,
        }
        match self.runs.get_mut(next as usize) {
            Some(run) => run.previous = previous,
            None => self.tail = previous,
        }
    }
}
