//! Which stages of a request an endpoint does, by its label `llm-d.ai/role`. The roles are the llm-d picker's, and
//! `encode-decode`, which it documents.

use std::collections::BTreeMap;

/// The label that names an endpoint's role.
pub const ROLE_LABEL: &str = "llm-d.ai/role";
/// Roles that do prefill.
pub const PREFILL_ROLES: [&str; 5] = [
    "prefill",
    "encode-prefill",
    "prefill-decode",
    "both",
    "encode-prefill-decode",
];
/// Roles that do decode, as does an endpoint without a role.
pub const DECODE_ROLES: [&str; 5] = [
    "decode",
    "prefill-decode",
    "both",
    "encode-decode",
    "encode-prefill-decode",
];
/// Roles that encode images, sound and videos.
pub const ENCODE_ROLES: [&str; 4] = [
    "encode",
    "encode-prefill",
    "encode-decode",
    "encode-prefill-decode",
];

/// The stages whose load an endpoint is a part of.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Stages {
    /// Prompts are worked on there.
    pub prefill: bool,
    /// Answers are generated there.
    pub decode: bool,
}

// === impl Stages ===

impl Stages {
    /// By `labels`. A role that is none of those above says nothing of stages: it is as no role at all.
    pub fn of(labels: &BTreeMap<String, String>) -> Self {
        let role = labels.get(ROLE_LABEL).map_or("", String::as_str);
        let prefill = PREFILL_ROLES.contains(&role);
        Self {
            prefill,
            decode: DECODE_ROLES.contains(&role) || !(prefill || ENCODE_ROLES.contains(&role)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn by_role() {
        for (role, prefill, decode) in [
            (None, false, true),
            (Some("decode"), false, true),
            (Some("prefill"), true, false),
            (Some("encode-prefill"), true, false),
            (Some("encode"), false, false),
            (Some("encode-decode"), false, true),
            (Some("both"), true, true),
            (Some("prefill-decode"), true, true),
            (Some("encode-prefill-decode"), true, true),
            (Some("batch"), false, true),
        ] {
            let labels = role.map(|role| (ROLE_LABEL.to_owned(), role.to_owned()));
            let got = Stages::of(&labels.into_iter().collect());
            assert_eq!(got, Stages { prefill, decode }, "{role:?}");
        }
    }
}
