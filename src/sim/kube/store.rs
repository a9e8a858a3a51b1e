//! Objects, and what happened to them lately.

use std::collections::{BTreeMap, VecDeque};

use k8s_openapi::jiff::{SignedDuration, Timestamp};
use serde_json::{Map, Value, json};

use super::types::Type;

/// Changes that are remembered.
const HISTORY: usize = 20_000;
/// Seconds that a pod has to end, if neither it nor who ends it says another time.
const GRACE: i64 = 30;
/// The longest that is said in a timestamp.
const MOST_GRACE: i64 = 86_400;

/// Everything, by type, namespace and name. Versions count all changes.
#[derive(Debug, Default)]
pub(super) struct Store {
    version: u64,
    /// Of the newest change that is forgotten.
    forgotten: u64,
    objects: BTreeMap<Key, Value>,
    changes: VecDeque<Change>,
}

type Key = (&'static str, &'static str, String, String);

/// What happened to one object.
#[derive(Clone, Debug)]
pub(super) struct Change {
    pub(super) version: u64,
    pub(super) key: Key,
    pub(super) before: Option<Value>,
    pub(super) after: Option<Value>,
}

/// Which objects of a type.
#[derive(Clone, Debug)]
pub(super) struct Selected {
    pub(super) of: &'static Type,
    pub(super) namespace: String,
    /// Labels, as `k=v` each.
    pub(super) labels: Vec<(String, String)>,
    pub(super) name: Option<String>,
    /// By `spec.nodeName`.
    pub(super) node: Option<String>,
}

/// Why an object is not written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Refused {
    Missing,
    Exists,
    Conflict,
}

// === impl Store ===

impl Store {
    pub(super) fn version(&self) -> u64 {
        self.version
    }

    pub(super) fn get(&self, of: &'static Type, namespace: &str, name: &str) -> Option<&Value> {
        self.objects.get(&key(of, namespace, name))
    }

    /// Returns the version of the change.
    pub(super) fn put(&mut self, of: &'static Type, mut object: Value) -> u64 {
        let (namespace, name) = name_of(&object);
        let key = key(of, &namespace, &name);
        let before = self.objects.get(&key).cloned();
        if let Some(before) = &before
            && object.get("status").is_none()
        {
            object["status"] = before["status"].clone();
        }
        self.store(key, before, object)
    }

    pub(super) fn create(&mut self, of: &'static Type, object: Value) -> Result<Value, Refused> {
        let (namespace, name) = name_of(&object);
        let key = key(of, &namespace, &name);
        if self.objects.contains_key(&key) {
            return Err(Refused::Exists);
        }
        self.store(key.clone(), None, object);
        Ok(self.objects[&key].clone())
    }

    /// Makes `change` of the object; if that names a version or a uid, they must be the object's.
    pub(super) fn change(
        &mut self,
        of: &'static Type,
        (namespace, name): (&str, &str),
        (body, change): (&Value, impl FnOnce(&mut Value)),
    ) -> Result<Value, Refused> {
        let key = key(of, namespace, name);
        let before = self.objects.get(&key).cloned().ok_or(Refused::Missing)?;
        for field in ["resourceVersion", "uid"] {
            let named = &body["metadata"][field];
            if !named.is_null() && *named != before["metadata"][field] {
                return Err(Refused::Conflict);
            }
        }
        let mut after = before.clone();
        change(&mut after);
        if after != before {
            self.store(key.clone(), Some(before), after);
        }
        Ok(self.objects[&key].clone())
    }

    pub(super) fn delete(&mut self, of: &'static Type, namespace: &str, name: &str) -> Option<u64> {
        let key = key(of, namespace, name);
        let mut before = self.objects.remove(&key)?;
        self.version += 1;
        before["metadata"]["resourceVersion"] = json!(self.version.to_string());
        self.remember(key, Some(before), None);
        Some(self.version)
    }

    /// As a client deletes it, with `options`: a pod that is on a node is told to end, and goes when it is left no time.
    pub(super) fn end(
        &mut self,
        of: &'static Type,
        (namespace, name): (&str, &str),
        options: &Value,
    ) -> Result<Value, Refused> {
        let key = key(of, namespace, name);
        let before = self.objects.get(&key).cloned().ok_or(Refused::Missing)?;
        let named = &options["preconditions"]["uid"];
        if !named.is_null() && *named != before["metadata"]["uid"] {
            return Err(Refused::Conflict);
        }
        let asked = options["gracePeriodSeconds"].as_i64();
        let grace = asked
            .or(before["spec"]["terminationGracePeriodSeconds"].as_i64())
            .unwrap_or(GRACE);
        let on_a_node = of.plural == "pods" && before["spec"]["nodeName"].is_string();
        if grace <= 0 || !on_a_node {
            self.delete(of, namespace, name);
            return Ok(before);
        }
        if before["metadata"]["deletionTimestamp"].is_null() {
            let mut after = before.clone();
            let end = Timestamp::now() + SignedDuration::from_secs(grace.min(MOST_GRACE));
            after["metadata"]["deletionTimestamp"] = json!(written(end));
            after["metadata"]["deletionGracePeriodSeconds"] = json!(grace);
            self.store(key.clone(), Some(before), after);
        }
        Ok(self.objects[&key].clone())
    }

    fn store(&mut self, key: Key, before: Option<Value>, mut object: Value) -> u64 {
        self.version += 1;
        let generation = match &before {
            Some(before) if before["spec"] == object["spec"] => {
                before["metadata"]["generation"].as_u64().unwrap_or(1)
            }
            Some(before) => before["metadata"]["generation"].as_u64().unwrap_or(1) + 1,
            None => 1,
        };
        let fresh = json!({"uid": uuid::Uuid::new_v4().to_string(), "creationTimestamp": written(Timestamp::now())});
        let metadata = &mut object["metadata"];
        for field in ["uid", "creationTimestamp"] {
            let kept = before
                .as_ref()
                .map(|before| before["metadata"][field].clone());
            if kept.is_some() || metadata[field].is_null() {
                metadata[field] = kept.unwrap_or_else(|| fresh[field].clone());
            }
        }
        metadata["generation"] = json!(generation);
        metadata["resourceVersion"] = json!(self.version.to_string());
        self.objects.insert(key.clone(), object.clone());
        self.remember(key, before, Some(object));
        self.version
    }

    fn remember(&mut self, key: Key, before: Option<Value>, after: Option<Value>) {
        if self.changes.len() == HISTORY
            && let Some(oldest) = self.changes.pop_front()
        {
            self.forgotten = oldest.version;
        }
        self.changes.push_back(Change {
            version: self.version,
            key,
            before,
            after,
        });
    }

    pub(super) fn forget(&mut self) {
        self.changes.clear();
        self.forgotten = self.version;
    }

    pub(super) fn select(&self, selected: &Selected) -> Vec<&Value> {
        let all = self.objects.iter();
        let matching = all.filter(|(key, object)| selected.takes(key, object));
        matching.map(|(_, object)| object).collect()
    }

    /// Events since `version`, as a watch has them; `None`: that is too long ago.
    pub(super) fn since(&self, version: u64, selected: &Selected) -> Option<Vec<Value>> {
        if version < self.forgotten {
            return None;
        }
        let first = self
            .changes
            .partition_point(|change| change.version <= version);
        let changes = self.changes.range(first..);
        Some(
            changes
                .filter_map(|change| change.seen_by(selected))
                .collect(),
        )
    }
}

// === impl Change ===

impl Change {
    /// One that begins to match is new to who watches, and one that ceases to is gone.
    fn seen_by(&self, selected: &Selected) -> Option<Value> {
        let takes = |object: &Option<Value>| {
            let object = object.as_ref();
            object.is_some_and(|object| selected.takes(&self.key, object))
        };
        let (seen, object) = match (takes(&self.before), takes(&self.after)) {
            (false, false) => return None,
            (false, true) => ("ADDED", &self.after),
            (true, true) => ("MODIFIED", &self.after),
            (true, false) if self.after.is_some() => ("DELETED", &self.after),
            (true, false) => ("DELETED", &self.before),
        };
        Some(json!({"type": seen, "object": object}))
    }
}

// === impl Selected ===

impl Selected {
    fn takes(&self, (group, plural, namespace, name): &Key, object: &Value) -> bool {
        let labels = &object["metadata"]["labels"];
        (*group, *plural) == (self.of.group, self.of.plural)
            && (self.namespace.is_empty() || *namespace == self.namespace)
            && self.name.as_ref().is_none_or(|wanted| wanted == name)
            && self
                .node
                .as_ref()
                .is_none_or(|wanted| object["spec"]["nodeName"] == **wanted)
            && self
                .labels
                .iter()
                .all(|(key, value)| labels[key] == **value)
    }
}

fn key(of: &'static Type, namespace: &str, name: &str) -> Key {
    (of.group, of.plural, namespace.to_owned(), name.to_owned())
}

fn written(time: Timestamp) -> String {
    time.strftime("%Y-%m-%dT%H:%M:%SZ").to_string()
}

fn name_of(object: &Value) -> (String, String) {
    let field = |name: &str| {
        object["metadata"][name]
            .as_str()
            .unwrap_or_default()
            .to_owned()
    };
    (field("namespace"), field("name"))
}

/// RFC 7386, but that `conditions` of other types stay.
pub(super) fn merge(into: &mut Value, patch: &Value) {
    let Value::Object(fields) = patch else {
        into.clone_from(patch);
        return;
    };
    if !into.is_object() {
        *into = Value::Object(Map::new());
    }
    for (name, value) in fields {
        match (name.as_str(), value) {
            (_, Value::Null) => {
                into.as_object_mut().and_then(|object| object.remove(name));
            }
            ("conditions", Value::Array(conditions)) => {
                let before = into[name].as_array().cloned().unwrap_or_default();
                let others = before.into_iter().filter(|before| {
                    let same = |condition: &Value| condition["type"] == before["type"];
                    !conditions.iter().any(same)
                });
                into[name] = others.chain(conditions.iter().cloned()).collect();
            }
            _ => merge(&mut into[name], value),
        }
    }
}
