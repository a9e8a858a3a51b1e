//! Both profiles through a real Envoy.

mod bodies;
mod demo;
mod failures;
mod health;
mod pools;
mod routing;
mod spoofing;
mod vectors;
mod verified;

use pointsman::cli::demo::bootstrap::Profile;

use crate::support::envoy::Envoy;
use crate::support::picker::{self, Picker};
use crate::support::sims::Sims;

const PROFILES: [Profile; 2] = [Profile::DecisionOnly, Profile::FullDuplex];
/// Weights as most users have them.
pub(crate) const SCORERS: [(&str, u32); 3] = [
    ("queue-scorer", 2),
    ("running-requests-size-scorer", 2),
    ("kv-cache-utilization-scorer", 2),
];

/// Model servers, a picker, an Envoy.
pub(crate) struct Chain {
    pub(crate) sims: Sims,
    pub(crate) picker: Picker,
    pub(crate) envoy: Envoy,
}

impl Chain {
    /// Three servers, or as many as `servers`, with more flags for them and for the picker.
    pub(crate) async fn start(
        profile: Profile,
        servers: usize,
        sim_flags: &[&str],
        picker_flags: &[&str],
    ) -> Self {
        let sims = Sims::start(servers, sim_flags).await;
        let config = picker::config(&sims.endpoints_file, &SCORERS);
        let mut flags = vec!["--secure-serving=true", "--health-checking"];
        flags.extend(picker_flags);
        let picker = Picker::start(&config, &flags).await;
        let envoy = Envoy::start(profile, &[picker.grpc], &sims.addresses, |_| {}).await;
        Self {
            sims,
            picker,
            envoy,
        }
    }
}
