//! What stands before the plugins: version, kind and feature gates.

use super::super::document::Document;
use super::super::{Problem, did_you_mean};
use super::Resolver;

pub(super) const API_VERSION: &str = "llm-d.ai/v1alpha1";
pub(super) const LEGACY_API_VERSION: &str = "inference.networking.x-k8s.io/v1alpha1";
const KIND: &str = "EndpointPickerConfig";
/// Feature gates with their defaults.
const GATES: [(&str, bool); 2] = [
    ("flowControl", false),
    ("haPopulateNonLeaderDatastore", true),
];

// === impl Resolver ===

impl Resolver {
    pub(super) fn header(&mut self, document: &Document) {
        let line = document.api_version.referenced.line();
        match document.api_version.value.as_str() {
            API_VERSION => {}
            LEGACY_API_VERSION => self.warnings.push(Problem::new(
                line,
                format!("apiVersion: `{LEGACY_API_VERSION}` is deprecated; write `{API_VERSION}`"),
            )),
            other => self.problem(
                line,
                format!("apiVersion: `{other}` is not known; write `{API_VERSION}`"),
            ),
        }
        if document.kind.value != KIND {
            let message = format!(
                "kind: `{}` is not known; write `{KIND}`",
                document.kind.value
            );
            self.problem(document.kind.referenced.line(), message);
        }
        for gate in &document.feature_gates {
            self.gate(&gate.value, gate.referenced.line());
        }
    }

    fn gate(&mut self, gate: &str, line: u64) {
        let (name, value) = gate.split_once('=').unwrap_or((gate, "true"));
        let Ok(on) = value.parse::<bool>() else {
            return self.problem(
                line,
                format!("featureGates: `{gate}`: write {name}=true or {name}=false"),
            );
        };
        if !GATES.iter().any(|(known, _)| *known == name) {
            let hint = did_you_mean(name, GATES.map(|(known, _)| known));
            return self.problem(line, format!("featureGates: `{name}` is not known{hint}"));
        }
        if name == "flowControl" && on {
            self.problem(
                line,
                "featureGates: `flowControl` is not supported yet; remove it to route without queues",
            );
        }
    }
}
