//! What goes wrong, by a timetable, and what comes of it.

use super::network::Leg;
use super::run::{Live, Run, What};

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

/// What happens.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum FaultKind {
    /// The engine dies: its requests are lost, new ones fail at once. Its page reads zero from then on: a front end that
    /// answers for it.
    Die,
    /// The same, and its page cannot be read any more.
    DieSilently,
    /// The engine stops: it takes requests and does nothing, its page stays as it is.
    Hang,
    /// Computing and reading memory take so many times longer.
    Slow(f64, f64),
    /// It is back, empty, and as fast as it ever was.
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
        let at = fault.endpoint as usize;
        let Some(engine) = self.cluster.engines.get_mut(at) else {
            return;
        };
        match fault.kind {
            FaultKind::Die | FaultKind::DieSilently => {
                engine.die();
                self.silent[at] = fault.kind == FaultKind::DieSilently;
                self.wake[at] = f64::INFINITY;
                // Requests that are on their way find out when they are there.
                for id in self.at(fault.endpoint) {
                    self.comes_back(id, Leg::Last, now, What::Failed(id, true));
                }
            }
            FaultKind::Hang => {
                engine.hang(now);
                self.wake[at] = f64::INFINITY;
                // A stream that stands still is given up as well.
                let patience = self.cluster.wires.patience;
                if patience.is_finite() {
                    for id in self.at(fault.endpoint) {
                        self.events.put(now + patience, What::Failed(id, false));
                    }
                }
            }
            FaultKind::Slow(compute, memory) => {
                engine.set_slow(compute, memory, now);
                self.wake[at] = f64::INFINITY;
                self.look(fault.endpoint);
            }
            FaultKind::Restart => {
                self.silent[at] = false;
                engine.restart(now);
                engine.set_slow(1.0, 1.0, now);
                self.wake[at] = f64::INFINITY;
            }
        }
    }
}
