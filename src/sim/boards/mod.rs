//! The GPUs of the simulated servers: who sits on which, what goes wrong with them, and how they look to NVML.
//!
//! An engine tells what it does ([`GpuState`](super::step::GpuState)); [`board`] makes of that and of the faults that were
//! ordered what NVML would read, [`file`] writes it where the fake NVML library finds it. A fault goes the other way too:
//! it slows the engines of all servers on the board, or ends them.

mod board;
mod file;
mod layout;
mod order;
#[cfg(test)]
mod tests;

use std::collections::VecDeque;
use std::sync::{Arc, Weak};

use fake_state::{Event, MOST_EVENTS, State};
use parking_lot::Mutex;
use tokio::sync::Notify;
use tokio::time::Instant;

use board::{Board, Faults, Tenant};
pub use file::follow;
pub use layout::{Division, Layout};
pub(super) use order::{Order, Slow};

use super::engine::{Crowd, Engine};
use super::step::{Gpu, StepError, Tables};

/// What the driver says of itself.
const DRIVER: &str = "570.124.06";

/// NVML's event bits.
const DOUBLE_BIT_ERROR: u64 = 0x2;
const XID: u64 = 0x8;

/// All GPUs of one process.
#[derive(Debug)]
pub struct Boards {
    layout: Layout,
    gpu: &'static Gpu,
    node: Mutex<Node>,
    /// By group of boards: how many of the servers that share it are busy.
    crowds: Vec<Arc<Crowd>>,
    /// Something happened that shall be seen at once.
    changed: Notify,
}

#[derive(Debug)]
struct Node {
    boards: Vec<Board>,
    /// By server.
    engines: Vec<Weak<Engine>>,
    events: VecDeque<Event>,
    sequence: u64,
    read: Instant,
}

/// A server's place on them.
#[derive(Clone, Debug)]
pub struct Seat {
    boards: Arc<Boards>,
    server: usize,
}

/// What a fault does to an engine.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Blow {
    Die,
    Hang,
    /// Its calls never return, until a timeout ends it.
    Lose,
}

// === impl Boards ===

impl Boards {
    /// Cool and healthy.
    pub fn new(layout: Layout) -> Result<Arc<Self>, StepError> {
        let boards = layout.boards();
        let tenants = layout.tenants();
        Ok(Arc::new(Self {
            gpu: Tables::get()?.gpu(&layout.gpu)?,
            node: Mutex::new(Node {
                boards: (0..boards).map(|_| Board::new(tenants)).collect(),
                engines: (0..layout.servers).map(|_| Weak::new()).collect(),
                events: VecDeque::new(),
                sequence: 0,
                read: Instant::now(),
            }),
            crowds: (0..boards).map(|_| Arc::default()).collect(),
            changed: Notify::new(),
            layout,
        }))
    }

    /// The place of the server with that number.
    pub fn seat(self: &Arc<Self>, server: usize) -> Seat {
        Seat {
            boards: Arc::clone(self),
            server,
        }
    }

    /// All that NVML would tell.
    pub fn state(&self) -> State {
        let mut node = self.node.lock();
        let now = Instant::now();
        let seconds = (now - node.read).as_secs_f64();
        node.read = now;
        let tenants: Vec<_> = (0..self.layout.servers)
            .filter_map(|server| self.tenant(&node, server))
            .collect();
        let mut gpus = Vec::with_capacity(node.boards.len());
        for (number, board) in node.boards.iter_mut().enumerate() {
            let here = tenants
                .iter()
                .filter(|tenant| self.layout.place(tenant.server).boards.contains(&number));
            let here: Vec<_> = here.cloned().collect();
            gpus.push(board.read(number, self.gpu, self.layout.mig(), &here, seconds));
        }
        State {
            driver_version: DRIVER.to_owned(),
            gpus,
            events: node.events.iter().cloned().collect(),
            ..State::default()
        }
    }

    fn tenant(&self, node: &Node, server: usize) -> Option<Tenant> {
        let engine = node.engines[server].upgrade()?;
        Some(Tenant {
            server,
            slot: self.layout.place(server).slot,
            state: engine.gpu()?,
            compute: engine.slow()[0],
        })
    }

    /// The servers on that board.
    fn servers_on(&self, board: usize) -> impl Iterator<Item = usize> {
        let servers = 0..self.layout.servers;
        servers.filter(move |&server| self.layout.place(server).boards.contains(&board))
    }
}

// === impl Seat ===

impl Seat {
    /// Who shares the GPUs with it.
    pub(super) fn crowd(&self) -> Arc<Crowd> {
        match self.boards.layout.division {
            Division::Turns(_) => Arc::clone(&self.boards.crowds[self.place().boards.start]),
            // An instance is shared with nobody.
            Division::Mig(_) => Arc::default(),
        }
    }

    /// From now on this engine is what runs there.
    pub(super) fn occupy(&self, engine: &Arc<Engine>) {
        self.boards.node.lock().engines[self.server] = Arc::downgrade(engine);
    }

    /// UUIDs of its GPUs, or of its MIG instance.
    pub(super) fn uuids(&self) -> Vec<String> {
        self.boards.layout.uuids(self.server)
    }

    /// The first of its boards, as NVML would read it.
    pub(super) fn board(&self) -> fake_state::Gpu {
        let number = self.place().boards.start;
        self.boards.state().gpus.swap_remove(number)
    }

    /// Whether it has a GPU that does not answer any more: nothing can be started there.
    pub(super) fn is_lost(&self) -> bool {
        let node = self.boards.node.lock();
        self.place()
            .boards
            .any(|board| node.boards[board].faults.lost)
    }

    /// The engine is another than it was: that shall be seen at once.
    pub(super) fn touch(&self) {
        self.boards.changed.notify_one();
    }

    /// Lets something happen to its GPUs. An order that makes no sense changes nothing, and is told why.
    pub(super) fn order(&self, order: Order) -> Result<(), String> {
        let all = &self.boards;
        let (place, gpu) = (self.place(), all.gpu);
        order.check(place.boards.len(), gpu)?;
        let mut blows = Vec::new();
        {
            let mut node = all.node.lock();
            let tenants = all.layout.tenants();
            if order.clear {
                for board in place.boards.clone() {
                    node.boards[board].faults = Faults::new(tenants);
                }
            }
            let board = place.boards.start + order.rank;
            if let Some(xid) = order.xid {
                let blow = node.xid(xid, board, order.action, self.instance());
                blows = self.struck(xid, board, blow);
            }
            let faults = &mut node.boards[board].faults;
            if let Some(slow) = order.thermal {
                faults.thermal = slow;
            }
            if let Some(cap) = order.power_cap {
                faults.power_cap = Some(cap);
            }
            if let Some(cotenant) = order.cotenant {
                let slot = all.layout.mig().map_or(0, |_| place.slot);
                let is_there = cotenant.memory_gib > 0.0 || cotenant.slow > 1.0;
                faults.cotenants[slot] = is_there.then_some(cotenant);
            }
        }
        for board in place.boards.clone() {
            for server in all.servers_on(board) {
                all.seat(server).slow_down();
            }
        }
        for (server, blow) in blows {
            all.seat(server).strike(blow, order.timeout());
        }
        self.touch();
        Ok(())
    }

    fn place(&self) -> layout::Place {
        self.boards.layout.place(self.server)
    }

    /// The GPU instance that it has, with MIG.
    fn instance(&self) -> Option<u32> {
        let profile = self.boards.layout.mig()?;
        Some(profile.first_instance + self.place().slot as u32)
    }

    fn engine(&self) -> Option<Arc<Engine>> {
        self.boards.node.lock().engines[self.server].upgrade()
    }

    /// Whom an XID strikes: those of a process this server alone, those of the board all that are on it.
    fn struck(&self, xid: u64, board: usize, blow: Option<Blow>) -> Vec<(usize, Blow)> {
        let Some(blow) = blow else {
            return Vec::new();
        };
        if matches!(xid, 13 | 31 | 43 | 45 | 94) {
            return vec![(self.server, blow)];
        }
        let all = self.boards.servers_on(board);
        all.map(|server| (server, blow)).collect()
    }

    /// Tells the engine how slow its GPUs are now: as slow as the slowest of them.
    fn slow_down(&self) {
        let all = &self.boards;
        let place = self.place();
        let slot = all.layout.mig().map_or(0, |_| place.slot);
        let slow = {
            let node = all.node.lock();
            let each = place
                .boards
                .map(|board| node.boards[board].faults.slow(all.gpu, slot));
            each.fold([0.0_f64; 2], |all, one| {
                [all[0].max(one[0]), all[1].max(one[1])]
            })
        };
        if let Some(engine) = self.engine() {
            engine.set_gpu_slow(slow);
        }
    }

    fn strike(&self, blow: Blow, timeout: std::time::Duration) {
        let Some(engine) = self.engine() else { return };
        match blow {
            Blow::Die => engine.die(),
            Blow::Hang => engine.hang(),
            Blow::Lose => {
                engine.hang();
                let seat = self.clone();
                tokio::spawn(async move {
                    tokio::time::sleep(timeout).await;
                    // It may have been started again meanwhile.
                    if let Some(engine) = seat.engine()
                        && engine.is_hung()
                    {
                        engine.die();
                        seat.touch();
                    }
                });
            }
        }
    }
}

// === impl Node ===

impl Node {
    /// Marks the board, and tells what becomes of those on it: gpu-and-simulation.md §2.3 and §6.3.
    fn xid(
        &mut self,
        xid: u64,
        board: usize,
        action: Option<u32>,
        instance: Option<u32>,
    ) -> Option<Blow> {
        let faults = &mut self.boards[board].faults;
        let blow = match xid {
            13 | 31 | 43 | 45 | 94 => Some(Blow::Die),
            48 | 95 => {
                faults.ecc_uncorrected += 1;
                faults.recovery_action = 1;
                Some(Blow::Die)
            }
            63 => {
                faults.remap_pending = true;
                faults.remapped_uncorrected += 1;
                None
            }
            64 => {
                faults.remap_failed = true;
                None
            }
            74 => {
                faults.link_errors += 1;
                None
            }
            79 => {
                faults.lost = true;
                Some(Blow::Lose)
            }
            92 => {
                faults.ecc_corrected += 1;
                None
            }
            119 | 120 => {
                faults.recovery_action = 1;
                Some(Blow::Hang)
            }
            154 => {
                faults.recovery_action = action.unwrap_or_default();
                None
            }
            _ => None,
        };
        if matches!(xid, 48 | 95) {
            self.event(board, DOUBLE_BIT_ERROR, 0, instance);
        }
        self.event(board, XID, xid, instance);
        blow
    }

    fn event(&mut self, gpu: usize, kind: u64, data: u64, instance: Option<u32>) {
        self.sequence += 1;
        if self.events.len() == MOST_EVENTS {
            self.events.pop_front();
        }
        self.events.push_back(Event {
            sequence: self.sequence,
            gpu,
            kind,
            data,
            gpu_instance: instance,
            compute_instance: instance.map(|_| 0),
        });
    }
}
