//! What goes wrong, by a timetable, and what comes of it.

use super::network::Leg;
use super::router::Page;
use super::run::{Live, Run, What};
use super::sights::{Ailment, LOST, POWER_BRAKE, SLOWED_BY_HARDWARE, SLOWED_BY_HEAT};

/// Something that happens to an engine.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Fault {
    /// When, in seconds.
    pub at: f64,
    /// Which engine.
    pub endpoint: u32,
    /// What.
    pub kind: FaultKind,
}

/// What happens. Of what only happens to an engine its GPU shows no sign; two entries of the same time are one fault.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum FaultKind {
    /// The engine dies: its requests are lost, new ones fail at once. Its page reads zero from then on: a front end that
    /// answers for it.
    Die,
    /// The same, and its page cannot be read any more.
    DieSilently,
    /// The same, and its page stays as it was.
    DieFrozen,
    /// The engine stops: it takes requests and does nothing, its page stays as it is.
    Hang,
    /// The same, and its page reads zero.
    HangEmpty,
    /// Computing and reading memory take so many times longer.
    Slow(f64, f64),
    /// The GPU's power brake holds its clocks at half: computing takes twice as long.
    Brake,
    /// The GPU is too hot, and the hardware slows it down: computing takes four times as long, reading memory 1.2 times.
    Heat,
    /// Somebody else's process takes turns on the GPU: all takes twice as long.
    Tenant,
    /// The GPU fell off the bus; what becomes of the engine is an entry of its own.
    Lost,
    /// The driver tells of this XID; what becomes of the engine is an entry of its own.
    Xid(u64),
    /// The engine is back, empty, and it and its GPU are as good as they ever were.
    Restart,
}

// === impl Run ===

impl Run<'_> {
    /// The requests that were sent there and have not ended, in the order in which they came.
    fn at(&self, endpoint: u32) -> Vec<u64> {
        let there = |live: &Live| live.outcome.endpoint == Some(endpoint);
        let all = self.live.iter().filter(|(_, live)| there(live));
        let mut ids: Vec<u64> = all.map(|(&id, _)| id).collect();
        ids.sort_unstable();
        ids
    }

    /// It happens.
    pub(super) fn fault(&mut self, fault: Fault, now: f64) {
        self.faults_left -= 1;
        let (endpoint, at) = (fault.endpoint, fault.endpoint as usize);
        if at >= self.cluster.engines.len() {
            return;
        }
        let ailment = &mut self.ailments[at];
        match fault.kind {
            FaultKind::Die => self.die(endpoint, now),
            FaultKind::DieSilently => {
                self.silent[at] = true;
                self.die(endpoint, now);
            }
            FaultKind::DieFrozen => {
                self.stuck[at] = Some(self.page(endpoint, now));
                self.die(endpoint, now);
            }
            FaultKind::Hang => self.hang(endpoint, now),
            FaultKind::HangEmpty => {
                self.hang(endpoint, now);
                self.stuck[at] = Some(Page {
                    kv_blocks: self.cluster.engines[at].kv_blocks(),
                    block_size: self.cluster.block_size,
                    progress: 0.0,
                    ..Page::default()
                });
            }
            FaultKind::Slow(compute, memory) => self.slow(endpoint, (compute, memory), now),
            FaultKind::Brake => {
                ailment.throttled = Some((SLOWED_BY_HARDWARE | POWER_BRAKE, 0.5));
                self.slow(endpoint, (2.0, 1.0), now);
            }
            FaultKind::Heat => {
                ailment.throttled = Some((SLOWED_BY_HARDWARE | SLOWED_BY_HEAT, 0.25));
                self.slow(endpoint, (4.0, 1.2), now);
            }
            FaultKind::Tenant => {
                ailment.tenant = true;
                self.slow(endpoint, (2.0, 2.0), now);
            }
            FaultKind::Lost => {
                ailment.lost = true;
                self.xid(endpoint, LOST, now);
            }
            FaultKind::Xid(xid) => self.xid(endpoint, xid, now),
            FaultKind::Restart => {
                *ailment = Ailment::default();
                self.silent[at] = false;
                self.stuck[at] = None;
                let engine = &mut self.cluster.engines[at];
                engine.restart(now);
                engine.set_slow(1.0, 1.0, now);
                self.wake[at] = f64::INFINITY;
            }
        }
    }

    fn die(&mut self, endpoint: u32, now: f64) {
        self.cluster.engines[endpoint as usize].die();
        self.wake[endpoint as usize] = f64::INFINITY;
        // Requests that are on their way find out when they are there.
        for id in self.at(endpoint) {
            self.comes_back(id, Leg::Last, now, What::Failed(id, true));
        }
    }

    fn hang(&mut self, endpoint: u32, now: f64) {
        self.cluster.engines[endpoint as usize].hang(now);
        self.wake[endpoint as usize] = f64::INFINITY;
        self.ailments[endpoint as usize].spins = true;
        // A stream that stands still is given up as well.
        let patience = self.cluster.wires.patience;
        if patience.is_finite() {
            for id in self.at(endpoint) {
                self.events.put(now + patience, What::Failed(id, false));
            }
        }
    }

    fn slow(&mut self, endpoint: u32, (compute, memory): (f64, f64), now: f64) {
        self.cluster.engines[endpoint as usize].set_slow(compute, memory, now);
        self.wake[endpoint as usize] = f64::INFINITY;
        self.look(endpoint);
    }

    fn xid(&mut self, endpoint: u32, xid: u64, now: f64) {
        let told = now + self.cluster.wires.gpu_takes;
        self.events.put(told, What::Xid(endpoint, xid));
    }
}
