//! The objects of the demo's namespace, as any client of the API has them.

use anyhow::Context as _;
use kube::api::{Api, DeleteParams, DynamicObject, ListParams, Patch, PatchParams, PostParams};
use kube::api::{Preconditions, ResourceExt as _};
use kube::core::GroupVersionKind;
use kube::discovery::ApiResource;
use kube::{Client, Error};
use serde_json::{Value, json};

use super::NAMESPACE;
use crate::pool::discovery::kube::POOL_GROUP;

/// A kind that the demo has.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Kind {
    pub(super) group: &'static str,
    pub(super) version: &'static str,
    pub(super) name: &'static str,
    pub(super) plural: &'static str,
    /// In tables.
    pub(super) short: &'static str,
}

pub(super) static PODS: Kind = Kind {
    group: "",
    version: "v1",
    name: "Pod",
    plural: "pods",
    short: "pod",
};
pub(super) static POOLS: Kind = Kind {
    group: POOL_GROUP,
    version: "v1",
    name: "InferencePool",
    plural: "inferencepools",
    short: "pool",
};
pub(super) static OBJECTIVES: Kind = Kind {
    group: "llm-d.ai",
    version: "v1alpha2",
    name: "InferenceObjective",
    plural: "inferenceobjectives",
    short: "objective",
};
pub(super) static REWRITES: Kind = Kind {
    group: "llm-d.ai",
    version: "v1alpha2",
    name: "InferenceModelRewrite",
    plural: "inferencemodelrewrites",
    short: "rewrite",
};

/// All objects, by one client.
#[derive(Clone)]
pub(super) struct Objects {
    client: Client,
}

/// What came of a wish.
#[derive(Debug, PartialEq, Eq)]
#[must_use]
pub(super) enum Written {
    Done,
    /// Somebody else was there in between: to be tried again, if it is still wanted.
    Outrun,
    /// With the API server's own words.
    Refused(String),
}

/// What no client can write is refused before it is sent.
fn read(object: Value) -> Result<DynamicObject, String> {
    serde_path_to_error::deserialize(object)
        .map_err(|error| format!("{}: {}", error.path(), error.inner()))
}

// === impl Kind ===

impl Kind {
    /// As objects name it.
    pub(super) fn api_version(&self) -> String {
        self.resource().api_version
    }

    fn resource(&self) -> ApiResource {
        let kind = GroupVersionKind::gvk(self.group, self.version, self.name);
        ApiResource::from_gvk_with_plural(&kind, self.plural)
    }
}

// === impl Objects ===

impl Objects {
    pub(super) fn new(client: Client) -> Self {
        Self { client }
    }

    /// All of a kind, by name.
    pub(super) async fn list(&self, kind: &Kind) -> anyhow::Result<Vec<Value>> {
        let listed = self.of(kind).list(&ListParams::default()).await;
        let listed = listed.with_context(|| format!("listing {}", kind.plural))?;
        let mut objects = listed.items;
        objects.sort_by_key(DynamicObject::name_any);
        let objects: Result<_, _> = objects.into_iter().map(serde_json::to_value).collect();
        Ok(objects?)
    }

    pub(super) async fn get(&self, kind: &Kind, name: &str) -> anyhow::Result<Option<Value>> {
        let got = self.of(kind).get_opt(name).await;
        let got = got.with_context(|| format!("reading {}/{name}", kind.plural))?;
        Ok(got.map(serde_json::to_value).transpose()?)
    }

    pub(super) async fn create(&self, kind: &Kind, object: &Value) -> anyhow::Result<Written> {
        let object = match read(object.clone()) {
            Ok(object) => object,
            Err(why) => return Ok(Written::Refused(why)),
        };
        let created = self.of(kind).create(&PostParams::default(), &object).await;
        Written::of(created)
    }

    /// Makes the object what `object` says, which was read before and changed since.
    pub(super) async fn replace(&self, kind: &Kind, object: Value) -> anyhow::Result<Written> {
        let object = match read(object) {
            Ok(object) => object,
            Err(why) => return Ok(Written::Refused(why)),
        };
        let (all, name) = (self.of(kind), object.name_any());
        Written::of(all.replace(&name, &PostParams::default(), &object).await)
    }

    /// Writes the status of the pod `name`, if it is still the one with that uid.
    pub(super) async fn tell(
        &self,
        name: &str,
        uid: &str,
        status: Value,
    ) -> anyhow::Result<Written> {
        let patch = json!({"metadata": {"uid": uid}, "status": status});
        let params = PatchParams::default();
        let pods = self.of(&PODS);
        Written::of(pods.patch_status(name, &params, &Patch::Merge(patch)).await)
    }

    /// Deletes the object; a pod on a node ends in its own time.
    pub(super) async fn delete(&self, kind: &Kind, name: &str) -> anyhow::Result<Written> {
        Written::of(self.of(kind).delete(name, &DeleteParams::default()).await)
    }

    /// Says that the pod `name` has ended, if it is still the one with that uid.
    pub(super) async fn remove(&self, name: &str, uid: &str) -> anyhow::Result<Written> {
        let params = DeleteParams {
            grace_period_seconds: Some(0),
            preconditions: Some(Preconditions {
                uid: Some(uid.to_owned()),
                resource_version: None,
            }),
            ..DeleteParams::default()
        };
        Written::of(self.of(&PODS).delete(name, &params).await)
    }

    fn of(&self, kind: &Kind) -> Api<DynamicObject> {
        Api::namespaced_with(self.client.clone(), NAMESPACE, &kind.resource())
    }
}

// === impl Written ===

impl Written {
    /// An error where it is not about the object.
    fn of<T>(answer: kube::Result<T>) -> anyhow::Result<Self> {
        match answer {
            Ok(_) => Ok(Self::Done),
            Err(Error::Api(status)) if [404, 409].contains(&status.code) => Ok(Self::Outrun),
            Err(Error::Api(status)) if (400..429).contains(&status.code) => {
                Ok(Self::Refused(status.message))
            }
            Err(error) => Err(error.into()),
        }
    }

    /// The API server's words, if it refused.
    pub(super) fn refusal(self) -> Option<String> {
        match self {
            Self::Refused(why) => Some(why),
            Self::Done | Self::Outrun => None,
        }
    }
}
