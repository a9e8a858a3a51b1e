//! The types that are served.

use serde_json::Value;

/// A type of objects. All are in namespaces but [`SLICES`] and reviews.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Type {
    pub(super) group: &'static str,
    pub(super) version: &'static str,
    pub(super) kind: &'static str,
    pub(super) plural: &'static str,
}

/// What ResourceSlices are called.
pub(super) const SLICES: &str = "resourceslices";

pub(super) const TYPES: [Type; 11] = [
    of("", "v1", "Pod", "pods"),
    of(
        "inference.networking.k8s.io",
        "v1",
        "InferencePool",
        "inferencepools",
    ),
    of(
        "llm-d.ai",
        "v1alpha2",
        "InferenceObjective",
        "inferenceobjectives",
    ),
    of(
        "llm-d.ai",
        "v1alpha2",
        "InferenceModelRewrite",
        "inferencemodelrewrites",
    ),
    of(
        "inference.networking.x-k8s.io",
        "v1alpha2",
        "InferenceObjective",
        "inferenceobjectives",
    ),
    of(
        "inference.networking.x-k8s.io",
        "v1alpha2",
        "InferenceModelRewrite",
        "inferencemodelrewrites",
    ),
    of("coordination.k8s.io", "v1", "Lease", "leases"),
    of("authentication.k8s.io", "v1", "TokenReview", "tokenreviews"),
    of(
        "authorization.k8s.io",
        "v1",
        "SubjectAccessReview",
        "subjectaccessreviews",
    ),
    of("resource.k8s.io", "v1", "ResourceSlice", SLICES),
    of("resource.k8s.io", "v1beta1", "ResourceSlice", SLICES),
];

const fn of(
    group: &'static str,
    version: &'static str,
    kind: &'static str,
    plural: &'static str,
) -> Type {
    Type {
        group,
        version,
        kind,
        plural,
    }
}

// === impl Type ===

impl Type {
    /// That of `object`, by its `apiVersion` and `kind`.
    pub(super) fn of(object: &Value) -> Option<&'static Self> {
        let (version, kind) = (object["apiVersion"].as_str()?, object["kind"].as_str()?);
        TYPES
            .iter()
            .find(|of| of.api_version() == version && of.kind == kind)
    }

    pub(super) fn named(group: &str, plural: &str) -> Option<&'static Self> {
        TYPES
            .iter()
            .find(|of| of.group == group && of.plural == plural)
    }

    /// Questions, which are answered and not kept.
    pub(super) fn is_review(&self) -> bool {
        self.group.starts_with("auth")
    }

    /// That of a path; `namespaced`: whether it names a namespace.
    pub(super) fn at(
        group: &str,
        version: &str,
        plural: &str,
        namespaced: bool,
    ) -> Option<&'static Self> {
        let mut all = TYPES.iter();
        all.find(|of| (of.group, of.version, of.plural) == (group, version, plural))
            .filter(|of| of.is_namespaced() == namespaced)
    }

    pub(super) fn is_namespaced(&self) -> bool {
        self.plural != SLICES && !self.is_review()
    }

    pub(super) fn api_version(&self) -> String {
        match self.group {
            "" => self.version.to_owned(),
            group => format!("{group}/{}", self.version),
        }
    }
}
