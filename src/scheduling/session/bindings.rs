//! Which endpoint each session is bound to, for a while.

use std::collections::HashMap;

use parking_lot::Mutex;

/// A power of two, so that a session's shard is its lowest bits.
const SHARDS: usize = 64;
/// Sessions in a shard: 131,072 in all, in some 4 MiB.
const SHARD_SESSIONS: usize = 2048;

/// Sessions and their endpoints, both as hashes. Bounded: past the bound, whoever was longest away is forgotten.
#[derive(Debug)]
pub(super) struct Bindings {
    shards: Box<[Mutex<Shard>]>,
    ttl_ms: u64,
    sweep_ms: u64,
}

#[derive(Debug, Default)]
struct Shard {
    sessions: HashMap<u64, Binding>,
    swept_at: u64,
}

#[derive(Clone, Copy, Debug)]
struct Binding {
    endpoint: u64,
    used_at: u64,
}

// === impl Bindings ===

impl Bindings {
    /// A session that is not seen for `ttl_ms` is forgotten, at the latest `sweep_ms` later.
    pub(super) fn new(ttl_ms: u64, sweep_ms: u64) -> Self {
        Self {
            shards: (0..SHARDS).map(|_| Mutex::default()).collect(),
            ttl_ms,
            sweep_ms,
        }
    }

    /// Where `session` is bound to.
    pub(super) fn get(&self, session: u64, now_ms: u64) -> Option<u64> {
        let shard = self.shard(session).lock();
        let binding = shard.sessions.get(&session)?;
        binding
            .is_alive(now_ms, self.ttl_ms)
            .then_some(binding.endpoint)
    }

    /// Binds `session` to `endpoint`, whatever it was bound to.
    pub(super) fn bind(&self, session: u64, endpoint: u64, now_ms: u64) {
        let mut shard = self.shard(session).lock();
        let shard = &mut *shard;
        let full = shard.sessions.len() >= SHARD_SESSIONS;
        if full || now_ms.saturating_sub(shard.swept_at) >= self.sweep_ms {
            let ttl_ms = self.ttl_ms;
            shard
                .sessions
                .retain(|_, binding| binding.is_alive(now_ms, ttl_ms));
            shard.swept_at = now_ms;
        }
        if shard.sessions.len() >= SHARD_SESSIONS && !shard.sessions.contains_key(&session) {
            let oldest = shard
                .sessions
                .iter()
                .min_by_key(|(_, binding)| binding.used_at);
            if let Some(oldest) = oldest.map(|(&session, _)| session) {
                shard.sessions.remove(&oldest);
            }
        }
        let used_at = now_ms;
        shard
            .sessions
            .insert(session, Binding { endpoint, used_at });
    }

    /// How many are kept, dead ones that were not swept yet among them.
    pub(super) fn count(&self) -> usize {
        let shards = self.shards.iter();
        shards.map(|shard| shard.lock().sessions.len()).sum()
    }

    fn shard(&self, session: u64) -> &Mutex<Shard> {
        &self.shards[session as usize % SHARDS]
    }
}

// === impl Binding ===

impl Binding {
    fn is_alive(&self, now_ms: u64, ttl_ms: u64) -> bool {
        now_ms.saturating_sub(self.used_at) < ttl_ms
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_binding_lives_as_long_as_it_is_used() {
        let bindings = Bindings::new(100, 10);
        bindings.bind(1, 7, 1000);
        assert_eq!(bindings.get(1, 1099), Some(7));
        bindings.bind(1, 8, 1099);
        assert_eq!(bindings.get(1, 1198), Some(8));
        assert_eq!(bindings.get(1, 1199), None);
        assert_eq!(bindings.get(2, 1000), None);
        assert_eq!(bindings.count(), 1);
        // Swept by the next that comes to its shard.
        bindings.bind(1 + SHARDS as u64, 7, 2000);
        assert_eq!(bindings.shard(1).lock().sessions.len(), 1);
    }

    #[test]
    fn past_the_bound_the_longest_unused_is_forgotten() {
        let bindings = Bindings::new(u64::MAX, u64::MAX);
        let session = |n: usize| (n * SHARDS) as u64;
        for n in 0..SHARD_SESSIONS {
            bindings.bind(session(n), 7, 10 + n as u64);
        }
        bindings.bind(session(0), 7, 1_000_000);
        bindings.bind(session(SHARD_SESSIONS), 7, 1_000_001);
        assert_eq!(bindings.shard(0).lock().sessions.len(), SHARD_SESSIONS);
        assert_eq!(bindings.get(session(0), 1_000_001), Some(7));
        assert_eq!(bindings.get(session(1), 1_000_001), None);
    }
}
