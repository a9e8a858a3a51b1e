//! `prefill-filter`, `decode-filter`, `encode-filter`: keep the endpoints whose label `llm-d.ai/role` says that they do
//! that stage.
//!
//! | Stage | Roles |
//! |---|---|
//! | prefill | prefill, encode-prefill, prefill-decode, both, encode-prefill-decode |
//! | decode | decode, prefill-decode, both, encode-prefill-decode, encode-decode, or no label at all |
//! | encode | encode, encode-prefill, encode-prefill-decode, encode-decode |
//!
//! No parameters. Source: the llm-d picker, which documents the role `encode-decode` and lets no filter match it; here
//! it is what it says. `both` is an old name of prefill-decode. Use one at the head of each profile of a disaggregated
//! pool.

use super::super::{Context, Filter};
use super::label_selector::{LabelSelector, Requirement};
use crate::pool::stages::{DECODE_ROLES, ENCODE_ROLES, PREFILL_ROLES, ROLE_LABEL};

/// See the module.
#[derive(Debug)]
pub(in crate::scheduling) struct Role(LabelSelector);

// === impl Role ===

impl Role {
    pub(in crate::scheduling) fn prefill() -> Self {
        Self::of(Requirement::In, &PREFILL_ROLES)
    }

    pub(in crate::scheduling) fn decode() -> Self {
        Self::of(Requirement::InOrAbsent, &DECODE_ROLES)
    }

    pub(in crate::scheduling) fn encode() -> Self {
        Self::of(Requirement::In, &ENCODE_ROLES)
    }

    fn of(requirement: fn(String, Vec<String>) -> Requirement, roles: &[&str]) -> Self {
        let roles = roles.iter().map(|role| (*role).to_owned()).collect();
        let requirement = requirement(ROLE_LABEL.to_owned(), roles);
        Self(LabelSelector::new(vec![requirement]))
    }
}

impl Filter for Role {
    fn filter(&self, cx: &Context<'_>, candidates: &mut Vec<u32>) {
        self.0.filter(cx, candidates);
    }

    fn is_of_kind(&self) -> bool {
        true
    }
}

#[cfg(test)]
mod tests {
    use super::super::super::testing::{kept, labelled};
    use super::*;

    #[test]
    fn each_stage_has_its_roles() {
        for (role, prefill, decode, encode) in [
            (Some("prefill"), true, false, false),
            (Some("decode"), false, true, false),
            (Some("encode"), false, false, true),
            (Some("encode-prefill"), true, false, true),
            (Some("prefill-decode"), true, true, false),
            (Some("both"), true, true, false),
            (Some("encode-decode"), false, true, true),
            (Some("encode-prefill-decode"), true, true, true),
            (Some("Decode"), false, false, false),
            (Some(""), false, false, false),
            (None, false, true, false),
        ] {
            let label = role.map(|role| (ROLE_LABEL, role));
            let snapshot = labelled(&[label.as_slice()]);
            for (filter, expected) in [
                (Role::prefill(), prefill),
                (Role::decode(), decode),
                (Role::encode(), encode),
            ] {
                let got = !kept(&filter, &snapshot).is_empty();
                assert_eq!(got, expected, "{role:?} {filter:?}");
            }
        }
    }
}
