//! `gpu-health-filter` (ours): keeps requests away from endpoints whose GPUs are broken, or about to be reset.
//!
//! Every profile has it built in for what requests and the engine themselves tell: an endpoint that fails requests, has
//! them and does nothing, or says that it does not work gets none. Listed in a profile, it counts what the endpoint's GPUs
//! tell too: lost, to be reset, an XID after which nothing works. It runs before all filters but those that say which
//! endpoints can serve a request at all (roles, labels, the testing header), wherever it is listed: no affinity can pull a
//! request, or a session, to where it must not go. An endpoint that is to be tried out gets one request at a time. At most
//! a share of those that can serve the request is kept out (`--max-ejected-share`). What is not known keeps nobody out. No parameters.
//! States and causes: [`crate::pool::health`]. It is in the default profile.

use super::super::{Context, Filter};
use crate::config::params::NoParams;
use crate::config::{PluginUse, Problem};

/// Its type.
pub(in crate::scheduling) const TYPE: &str = "gpu-health-filter";

/// See the module.
#[derive(Debug)]
pub struct GpuHealth {
    /// In the configuration, or `health` where it is only built in.
    pub(in crate::scheduling) name: String,
    /// What GPUs tell counts.
    pub(in crate::scheduling) gpus: bool,
}

// === impl GpuHealth ===

impl GpuHealth {
    pub(in crate::scheduling) fn of(plugin: &PluginUse) -> Result<Self, Problem> {
        plugin.parameters.read::<NoParams>()?;
        Ok(Self {
            name: plugin.name.clone(),
            gpus: true,
        })
    }
}

impl Default for GpuHealth {
    /// What is built in.
    fn default() -> Self {
        Self {
            name: "health".to_owned(),
            gpus: false,
        }
    }
}

impl Filter for GpuHealth {
    fn filter(&self, cx: &Context<'_>, candidates: &mut Vec<u32>) {
        if !cx.snapshot.retain_healthy(self.gpus, candidates) {
            cx.snapshot.overruled();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::super::testing::{kept, plugin, snapshot};
    use super::*;
    use crate::pool::gpu::EndpointGpus;
    use crate::pool::health::observe_gpus;
    use crate::pool::{Breaker, Outcome, breaker, gpu};
    use std::sync::Arc;

    #[test]
    fn what_gpus_tell_counts_only_where_it_is_listed() {
        let snapshot = snapshot(5);
        let source = Arc::new(gpu::Source::default());
        source
            .heard_at
            .store(1, std::sync::atomic::Ordering::Relaxed);
        let lost = gpu_probes::telemetry::Gpu {
            lost: true,
            ..Default::default()
        };
        let sight = gpu::Sight {
            gpu: lost,
            source,
            received_at: 1,
            events: Vec::new(),
            neighbours: Vec::new(),
        };
        let gpus = EndpointGpus {
            gpus: vec![Arc::new(sight)],
        };
        observe_gpus(&snapshot.member(1).slot, &gpus, 1);
        for _ in 0..breaker::STREAK {
            Breaker::observe(&snapshot.member(2).slot, Outcome::Failed, 0, 1);
        }
        let listed = GpuHealth::of(&plugin(TYPE, "{}")).unwrap();
        assert_eq!(kept(&listed, &snapshot), [0, 3, 4]);
        assert_eq!(kept(&GpuHealth::default(), &snapshot), [0, 1, 3, 4]);
    }
}
