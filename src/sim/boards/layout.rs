//! Which server sits on which GPU.

use std::fmt::Write as _;
use std::num::NonZeroUsize;
use std::ops::Range;

use crate::sim::step::MigProfile;

/// How many GPUs there are, and who sits on them. All are of one kind.
#[derive(Clone, Debug)]
pub struct Layout {
    /// A GPU of the step model's tables.
    pub gpu: String,
    /// Servers, numbered from 0.
    pub servers: usize,
    /// GPUs of a server; at least 1.
    pub tp: usize,
    /// How they divide the GPUs.
    pub division: Division,
}

/// How servers divide GPUs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Division {
    /// So many servers take turns on the same GPUs (time slicing); 1 = each has its own.
    Turns(NonZeroUsize),
    /// Each server has a MIG instance, as many on a board as there is room for.
    Mig(MigProfile),
}

/// A server's place.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Place {
    /// Its boards.
    pub(super) boards: Range<usize>,
    /// Which one of its kind it is on them.
    pub(super) slot: usize,
}

/// All UUIDs begin so: `pointsman` in ASCII, and a 0.
const FAMILY: &str = "706f696e-7473-6d61-6e00";

// === impl Layout ===

impl Layout {
    /// Servers on one board.
    pub(super) fn tenants(&self) -> usize {
        match self.division {
            Division::Turns(servers) => servers.get(),
            Division::Mig(profile) => profile.most as usize,
        }
    }

    pub(super) fn place(&self, server: usize) -> Place {
        let group = server / self.tenants();
        Place {
            boards: group * self.tp..(group + 1) * self.tp,
            slot: server % self.tenants(),
        }
    }

    /// Boards in all.
    pub(super) fn boards(&self) -> usize {
        self.servers.div_ceil(self.tenants()) * self.tp
    }

    pub(super) fn mig(&self) -> Option<MigProfile> {
        match self.division {
            Division::Turns(_) => None,
            Division::Mig(profile) => Some(profile),
        }
    }

    /// Of a board, by its number.
    pub(super) fn board_uuid(board: usize) -> String {
        format!("GPU-{FAMILY}-{board:012x}")
    }

    /// Of a MIG instance, by the number of the server that has it.
    pub(super) fn instance_uuid(server: usize) -> String {
        format!("MIG-{FAMILY}-{server:012x}")
    }

    /// UUIDs of the GPUs, or of the MIG instance, that a server was given.
    pub(super) fn uuids(&self, server: usize) -> Vec<String> {
        match self.division {
            Division::Mig(_) => vec![Self::instance_uuid(server)],
            Division::Turns(_) => self.place(server).boards.map(Self::board_uuid).collect(),
        }
    }

    /// Who has which GPU, as `pointsman probe` reads it: YAML. `pod` names a server, `command` this process: whatever else is
    /// on its GPUs is foreign.
    pub fn map(&self, pod: impl Fn(usize) -> String, command: &str) -> String {
        let mut out = String::from("gpus:\n");
        for server in 0..self.servers {
            for uuid in self.uuids(server) {
                // Writing to a String cannot fail.
                let _ = writeln!(
                    out,
                    "- {{uuid: {uuid}, namespace: default, pod: {}, container: server, commands: [\"{command}\"]}}",
                    pod(server)
                );
            }
        }
        out
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn layout(servers: usize, tp: usize, division: Division) -> Layout {
        Layout {
            gpu: "H100".to_owned(),
            servers,
            tp,
            division,
        }
    }

    #[test]
    fn servers_fill_boards_in_their_order() {
        let turns = |n| Division::Turns(NonZeroUsize::new(n).unwrap());
        let mig = |name| Division::Mig(MigProfile::find(name).unwrap());
        for (layout, boards, last) in [
            (layout(3, 1, turns(1)), 3, (2..3, 0)),
            (layout(2, 4, turns(1)), 8, (4..8, 0)),
            (layout(5, 1, turns(2)), 3, (2..3, 0)),
            (layout(4, 2, turns(2)), 4, (2..4, 1)),
            (layout(8, 1, mig("1g.10gb")), 2, (1..2, 0)),
            (layout(2, 1, mig("3g.40gb")), 1, (0..1, 1)),
        ] {
            assert_eq!(layout.boards(), boards);
            let place = layout.place(layout.servers - 1);
            assert_eq!((place.boards, place.slot), last);
        }
    }

    #[test]
    fn the_map_names_every_gpu_of_every_server() {
        let turns = |n| Division::Turns(NonZeroUsize::new(n).unwrap());
        let pod = |server| format!("sim-{server}");
        assert_eq!(
            layout(1, 2, turns(1)).map(pod, "x"),
            "gpus:\n\
             - {uuid: GPU-706f696e-7473-6d61-6e00-000000000000, namespace: default, pod: sim-0, container: server, commands: [\"x\"]}\n\
             - {uuid: GPU-706f696e-7473-6d61-6e00-000000000001, namespace: default, pod: sim-0, container: server, commands: [\"x\"]}\n"
        );
        let shared = layout(2, 1, turns(2));
        assert_eq!(shared.uuids(0), shared.uuids(1));
        let mig = Division::Mig(MigProfile::find("3g.40gb").unwrap());
        let instances = layout(2, 1, mig).map(pod, "x");
        assert!(
            instances.contains(
                "MIG-706f696e-7473-6d61-6e00-000000000001, namespace: default, pod: sim-1"
            )
        );
    }
}
