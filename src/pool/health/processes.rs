//! Whether an engine is another process than it was, by the processes on its GPUs.
//!
//! The driver shows a new process when it begins, and an engine then loads its model for minutes. So it counts once a page
//! of its metrics was read after that.

use super::super::gpu::EndpointGpus;
use super::gpus::is_shared;
use super::marks::Reading;

/// See the module.
#[derive(Debug)]
pub(super) struct Processes {
    /// Of those that were there at first, the ones that are left.
    left: Vec<u32>,
    /// When the last of them was seen to be gone and others there; 0 = it was not.
    replaced_at: u64,
}

// === impl Processes ===

impl Processes {
    pub(super) const NEW: Self = Self {
        left: Vec::new(),
        replaced_at: 0,
    };

    /// Takes down who is there. On a GPU that several pods have it cannot be told whose they are; and none at all may mean that
    /// they were not read.
    pub(super) fn look(&mut self, gpus: &EndpointGpus, now: u64) {
        let own = || {
            let known = gpus
                .own()
                .filter(|sight| !is_shared(&sight.gpu) && !sight.source.is_silent(now));
            let processes = known.flat_map(|sight| &sight.gpu.processes);
            processes
                .filter(|process| process.foreign != Some(true))
                .map(|process| process.pid)
        };
        if own().next().is_none() {
            return;
        }
        let known = !self.left.is_empty();
        self.left.retain(|left| own().any(|pid| pid == *left));
        if self.left.is_empty() {
            self.left = own().collect();
            if known {
                self.replaced_at = now;
            }
        }
    }

    /// Something happened to those that are there: that they are new does not count any more.
    pub(super) fn failed(&mut self) {
        self.replaced_at = 0;
    }

    /// Whether the engine is another one by now, once. Where it has no pages, nothing has to be waited for.
    pub(super) fn restarted(&mut self, marks: &Reading) -> bool {
        let heard = marks.pages == 0 || marks.paged_at > self.replaced_at;
        let restarted = self.replaced_at != 0 && heard;
        if restarted {
            self.replaced_at = 0;
        }
        restarted
    }
}

#[cfg(test)]
mod tests {
    use gpu_probes::telemetry::Process;

    use super::super::gpus::tests::{Told, pods, told};
    use super::*;

    fn with(now: u64, pids: &'static [u32]) -> Told {
        told(now, move |gpu| {
            let process = |&pid| Process {
                pid,
                ..Default::default()
            };
            gpu.processes = pids.iter().map(process).collect();
        })
    }

    /// A page was read at `paged_at`; 0 = none ever was.
    fn pages(paged_at: u64) -> Reading {
        Reading {
            pages: u32::from(paged_at != 0),
            paged_at,
            ..Reading::NONE
        }
    }

    #[test]
    fn an_engine_is_new_when_none_of_its_processes_is_left_and_it_was_heard() {
        for (steps, paged_at, restarted) in [
            (&[&[1, 2][..], &[1, 2]][..], 9_000, false),
            (&[&[1, 2], &[3, 4]], 9_000, true),
            // It loads its model.
            (&[&[1, 2], &[3, 4]], 1_500, false),
            (&[&[1, 2], &[3, 4]], 0, true),
            // One after the other; and those that came later are not the first ones.
            (&[&[1, 2], &[2, 3], &[3, 4]], 9_000, true),
            (&[&[1], &[1, 2], &[2]], 9_000, true),
            (&[&[1], &[], &[1]], 9_000, false),
            (&[&[1], &[], &[2]], 9_000, true),
            (&[&[], &[1]], 9_000, false),
        ] {
            let mut processes = Processes::NEW;
            for (n, pids) in steps.iter().enumerate() {
                let now = 1_000 * (n as u64 + 1);
                processes.look(&with(now, pids).gpus(), now);
            }
            let page = pages(paged_at);
            assert_eq!(processes.restarted(&page), restarted, "{steps:?}");
            assert!(!processes.restarted(&page));
        }
    }

    #[test]
    fn whose_processes_cannot_be_told_says_nothing() {
        let edits: [fn(&mut gpu_probes::telemetry::Gpu); 2] = [
            |gpu| gpu.owners = pods(2),
            |gpu| gpu.processes[0].foreign = Some(true),
        ];
        for edit in edits {
            let mut processes = Processes::NEW;
            for (now, pid) in [(1_000, 1), (2_000, 2)] {
                let told = told(now, |gpu| {
                    gpu.processes = vec![Process {
                        pid,
                        ..Default::default()
                    }];
                    edit(gpu);
                });
                processes.look(&told.gpus(), now);
            }
            assert!(!processes.restarted(&pages(9_000)));
        }
        // Two containers of one pod are one's.
        let mut processes = Processes::NEW;
        for (now, pid) in [(1_000, 1), (2_000, 2)] {
            let told = told(now, |gpu| {
                gpu.owners = vec![Default::default(); 2];
                gpu.processes = vec![Process {
                    pid,
                    ..Default::default()
                }];
            });
            processes.look(&told.gpus(), now);
        }
        assert!(processes.restarted(&pages(9_000)));
        // What failed is what is new.
        let mut processes = Processes::NEW;
        for (now, pids) in [(1_000, &[1][..]), (2_000, &[2])] {
            processes.look(&with(now, pids).gpus(), now);
        }
        processes.failed();
        assert!(!processes.restarted(&pages(9_000)));
    }
}
