//! `always-disagg-pd-decider`: every request. Source: the llm-d picker. Where decode endpoints cannot prefill, and for tests.

use super::super::{Context, Decider};

/// See the module.
#[derive(Debug)]
pub(in crate::scheduling) struct Always;

impl Decider for Always {
    fn disaggregate(&self, _cx: &Context<'_>, _decode: Option<u32>) -> bool {
        true
    }
}
