//! `disagg-profile-handler`: an endpoint for each stage of a request: decode, and if their deciders say so, prefill and
//! encode.
//!
//! `stageOrder` (`decode-first`): with `prefill-first` the decode endpoint can be chosen near the prefill endpoint, and
//! without a decider prefill always runs. `profiles.decode|prefill|encode` (the same names). `deciders.prefill|encode`
//! (none = no such stage). The decode endpoint is the destination; the proxy beside it learns of the others by
//! headers. A prefill or encode stage that finds no endpoint is left out: the decode endpoint can do all of it, and a
//! request that is served slowly is better than one that is not. Source: the llm-d picker (which refuses a request that
//! finds no prefill endpoint).
//!
//! `pd-profile-handler` is this with two stages, decode first.

use std::fmt;

use super::super::pipeline::Stages;
use super::super::{Decider, Decision, ScheduleError};
use super::ProfileHandler;
use crate::config::params::StageOrder;

/// See the module. Profiles by position.
pub(in crate::scheduling) struct Disagg {
    pub(in crate::scheduling) order: StageOrder,
    pub(in crate::scheduling) decode: usize,
    /// Without a decider it always runs.
    pub(in crate::scheduling) prefill: Option<(usize, Option<Box<dyn Decider>>)>,
    pub(in crate::scheduling) encode: Option<(usize, Box<dyn Decider>)>,
    pub(in crate::scheduling) primary_port: Option<u16>,
}

impl ProfileHandler for Disagg {
    fn handle(&self, stages: &mut Stages<'_>) -> Result<Decision, ScheduleError> {
        let mut decision = match self.order {
            StageOrder::DecodeFirst => {
                let mut decision = stages.destination(self.decode, None)?;
                let decode = decision.endpoints.first().copied();
                self.encode(stages, decode, &mut decision.encode);
                decision.prefill = self.prefill(stages, decode);
                decision
            }
            StageOrder::PrefillFirst => {
                let prefill = self.prefill(stages, None);
                let mut encode = Vec::new();
                self.encode(stages, None, &mut encode);
                Decision {
                    prefill,
                    encode,
                    ..stages.destination(self.decode, prefill)?
                }
            }
        };
        decision.primary_port = self.primary_port;
        Ok(decision)
    }
}

impl Disagg {
    fn prefill(&self, stages: &mut Stages<'_>, decode: Option<u32>) -> Option<u32> {
        let (profile, decider) = self.prefill.as_ref()?;
        if let Some(decider) = decider
            && !decider.disaggregate(stages.cx(), decode)
        {
            return None;
        }
        stages.aside(*profile, decode).first().copied()
    }

    fn encode(&self, stages: &mut Stages<'_>, decode: Option<u32>, out: &mut Vec<u32>) {
        if let Some((profile, decider)) = &self.encode
            && decider.disaggregate(stages.cx(), decode)
        {
            *out = stages.aside(*profile, None);
        }
    }
}

impl fmt::Debug for Disagg {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Disagg")
            .field("order", &self.order)
            .field("decode", &self.decode)
            .field(
                "prefill",
                &self.prefill.as_ref().map(|(profile, _)| profile),
            )
            .field("encode", &self.encode.as_ref().map(|(profile, _)| profile))
            .field("primary_port", &self.primary_port)
            .finish()
    }
}
