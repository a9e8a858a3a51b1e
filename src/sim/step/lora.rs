//! Adapters in GPU memory.

use super::spec::Loras;

/// The adapters that are loaded, as vLLM's LRU cache of them.
#[derive(Debug)]
pub(super) struct Adapters {
    spec: Loras,
    loaded: Vec<Adapter>,
    clock: u64,
    /// How often one was loaded, in all.
    pub(super) loads: u64,
}

/// What an engine's page tells of its adapters: not what is loaded, but what is wanted.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct LoraUse {
    /// Adapters that it holds at most.
    pub max: u32,
    /// Those of the requests that run, each once, in ascending order.
    pub running: Vec<u32>,
    /// Those of the requests that wait, likewise.
    pub waiting: Vec<u32>,
}

#[derive(Debug)]
struct Adapter {
    id: u32,
    /// Requests that run with it.
    running: u32,
    used: u64,
}

// === impl Adapters ===

impl Adapters {
    pub(super) fn new(spec: Loras) -> Self {
        Self {
            spec,
            loaded: Vec::new(),
            clock: 0,
            loads: 0,
        }
    }

    /// The same, with nothing loaded.
    pub(super) fn emptied(&self) -> Self {
        Self {
            loads: self.loads,
            ..Self::new(self.spec)
        }
    }

    /// What is in use, with requests for `waiting` in the queue.
    pub(super) fn in_use(&self, waiting: impl Iterator<Item = u32>) -> LoraUse {
        let running = self.loaded.iter().filter(|adapter| adapter.running > 0);
        LoraUse {
            max: self.spec.max,
            running: sorted(running.map(|adapter| adapter.id)),
            waiting: sorted(waiting),
        }
    }

    /// Whether a request for that adapter may join the batch.
    pub(super) fn admits(&self, id: u32) -> bool {
        let in_batch = self.loaded.iter().filter(|a| a.running > 0 && a.id != id);
        in_batch.count() < self.spec.max as usize
    }

    /// A request for that adapter, which may, joins the batch. Returns the seconds until it is loaded.
    pub(super) fn join(&mut self, id: u32) -> f64 {
        self.clock += 1;
        let used = self.clock;
        if let Some(adapter) = self.loaded.iter_mut().find(|a| a.id == id) {
            adapter.running += 1;
            adapter.used = used;
            return 0.0;
        }
        if self.loaded.len() >= self.spec.max as usize {
            let idle = self
                .loaded
                .iter()
                .enumerate()
                .filter(|(_, a)| a.running == 0);
            if let Some((oldest, _)) = idle.min_by_key(|(_, a)| a.used) {
                self.loaded.swap_remove(oldest);
            }
        }
        self.loaded.push(Adapter {
            id,
            running: 1,
            used,
        });
        self.loads += 1;
        self.spec.load
    }

    /// It leaves.
    pub(super) fn leave(&mut self, id: u32) {
        if let Some(adapter) = self.loaded.iter_mut().find(|a| a.id == id) {
            adapter.running -= 1;
        }
    }
}

/// Each once, in ascending order.
fn sorted(ids: impl Iterator<Item = u32>) -> Vec<u32> {
    let mut ids: Vec<u32> = ids.collect();
    ids.sort_unstable();
    ids.dedup();
    ids
}
