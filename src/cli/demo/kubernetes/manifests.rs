//! A folder of objects, applied to the API as it changes: what is in no file any more is deleted.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use anyhow::Context as _;
use k8s_openapi::jiff::Timestamp;
use serde_json::{Value, json};

use super::NAMESPACE;
use crate::config::file;
use crate::sim::kube::ApiServer;

/// Files that are read; more are left out, and that is said.
const MOST_FILES: usize = 256;
/// What is followed: group, kind, and the plural by which it is asked for.
const KINDS: [(&str, &str, &str); 4] = [
    ("", "Pod", "pods"),
    (
        "inference.networking.k8s.io",
        "InferencePool",
        "inferencepools",
    ),
    ("llm-d.ai", "InferenceObjective", "inferenceobjectives"),
    (
        "llm-d.ai",
        "InferenceModelRewrite",
        "inferencemodelrewrites",
    ),
];

/// One object of a file.
#[derive(Clone, Debug, PartialEq)]
struct Manifest {
    group: &'static str,
    plural: &'static str,
    name: String,
    object: Value,
}

/// The folder, and what was applied of it.
#[derive(Debug)]
pub(super) struct Manifests {
    folder: PathBuf,
    /// What each file says, or said last when it could be read.
    files: BTreeMap<PathBuf, Vec<Manifest>>,
    /// What is wrong with a file, said once.
    faults: BTreeMap<PathBuf, String>,
    applied: BTreeMap<(&'static str, String), Manifest>,
}

// === impl Manifests ===

impl Manifests {
    pub(super) fn of(folder: &Path) -> Self {
        Self {
            folder: folder.to_owned(),
            files: BTreeMap::new(),
            faults: BTreeMap::new(),
            applied: BTreeMap::new(),
        }
    }

    /// Makes `api` what the files say; returns what was done, for people. An error if the folder cannot be read.
    pub(super) fn apply(&mut self, api: &ApiServer) -> anyhow::Result<Vec<String>> {
        let mut events = self.read()?;
        let wanted = self.files.values().flatten();
        let wanted: BTreeMap<_, _> = wanted
            .map(|manifest| ((manifest.plural, manifest.name.clone()), manifest.clone()))
            .collect();
        for (key, manifest) in &wanted {
            if self.applied.get(key) == Some(manifest) {
                continue;
            }
            let before = api.get(manifest.group, manifest.plural, NAMESPACE, &manifest.name);
            // A name is free again when its pod has ended.
            if before.is_some_and(|before| !before["metadata"]["deletionTimestamp"].is_null()) {
                continue;
            }
            let done = match self.applied.insert(key.clone(), manifest.clone()) {
                Some(_) => "changed",
                None => "created",
            };
            api.put(manifest.object.clone());
            events.push(format!("{}/{} {done}", key.0, key.1));
        }
        let gone: Vec<_> = self.applied.keys().cloned().collect();
        for key in gone.into_iter().filter(|key| !wanted.contains_key(key)) {
            if let Some(manifest) = self.applied.remove(&key) {
                delete(api, &manifest);
                events.push(format!("{}/{} deleted", key.0, key.1));
            }
        }
        Ok(events)
    }

    /// Reads all files; what is said of those that cannot be read is new.
    fn read(&mut self) -> anyhow::Result<Vec<String>> {
        let shown = self.folder.display();
        let entries = std::fs::read_dir(&self.folder).with_context(|| format!("{shown}"))?;
        let mut paths: Vec<PathBuf> = entries
            .filter_map(|entry| Some(entry.ok()?.path()))
            .filter(|path| {
                let extension = path.extension().and_then(|extension| extension.to_str());
                extension.is_some_and(|extension| ["yaml", "yml", "json"].contains(&extension))
            })
            .collect();
        paths.sort();
        let mut faults = BTreeMap::new();
        if paths.len() > MOST_FILES {
            let count = paths.len();
            let fault = format!("{count} files; the first {MOST_FILES} count");
            faults.insert(self.folder.clone(), fault);
            paths.truncate(MOST_FILES);
        }
        self.files.retain(|path, _| paths.contains(path));
        for path in paths {
            match file::read(&path).and_then(|text| parse(&text)) {
                Ok(manifests) => {
                    self.files.insert(path, manifests);
                }
                Err(fault) => {
                    faults.insert(path, fault);
                }
            }
        }
        let new = faults
            .iter()
            .filter(|(path, fault)| self.faults.get(*path) != Some(*fault));
        let told = new
            .map(|(path, fault)| format!("{}: {fault}", path.display()))
            .collect();
        self.faults = faults;
        Ok(told)
    }
}

/// The objects of a file; the error says which is wrong, and how.
fn parse(text: &str) -> Result<Vec<Manifest>, String> {
    let documents: Vec<Value> =
        serde_saphyr::from_multiple(text).map_err(|error| error.to_string())?;
    let documents = documents.into_iter().filter(|document| !document.is_null());
    documents.map(manifest).collect()
}

fn manifest(mut object: Value) -> Result<Manifest, String> {
    let text = |pointer: &str| object.pointer(pointer).and_then(Value::as_str);
    let version = text("/apiVersion").unwrap_or_default();
    let kind = text("/kind").unwrap_or_default();
    let group = version.rsplit_once('/').map_or("", |(group, _)| group);
    let known = KINDS
        .iter()
        .find(|known| (known.0, known.1) == (group, kind));
    let Some(&(group, _, plural)) = known else {
        let kinds = KINDS.map(|(_, kind, _)| kind).join(", ");
        return Err(format!(
            "apiVersion `{version}`, kind `{kind}`: the demo has {kinds}"
        ));
    };
    let name = text("/metadata/name")
        .filter(|name| !name.is_empty() && !name.contains('/'))
        .ok_or_else(|| format!("{kind}: metadata.name is missing"))?
        .to_owned();
    let namespace = text("/metadata/namespace").unwrap_or(NAMESPACE);
    if namespace != NAMESPACE {
        return Err(format!(
            "{kind} {name}: metadata.namespace is `{namespace}`; leave it away, or make it `{NAMESPACE}`"
        ));
    }
    if !ApiServer::knows(&object) {
        return Err(format!("{kind} {name}: `{version}` is not served"));
    }
    object["metadata"]["namespace"] = json!(NAMESPACE);
    if let Some(object) = object.as_object_mut() {
        // Whoever runs it says how it is.
        object.remove("status");
    }
    Ok(Manifest {
        group,
        plural,
        name,
        object,
    })
}

/// A pod is told to end, and goes when it has.
fn delete(api: &ApiServer, manifest: &Manifest) {
    let (group, plural, name) = (manifest.group, manifest.plural, &manifest.name);
    let pod = api.get(group, plural, NAMESPACE, name);
    match pod.filter(|_| plural == "pods") {
        Some(mut pod) => {
            let now = Timestamp::now().strftime("%Y-%m-%dT%H:%M:%SZ").to_string();
            pod["metadata"]["deletionTimestamp"] = json!(now);
            api.put(pod);
        }
        None => api.delete(group, plural, NAMESPACE, name),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;

    const POD: &str = "apiVersion: v1\nkind: Pod\nmetadata: {name: a, labels: {app: x}}\n";
    const OBJECTIVE: &str = "apiVersion: llm-d.ai/v1alpha2\nkind: InferenceObjective\nmetadata: {name: o}\nspec: {poolRef: {name: p}}\n";

    #[test]
    fn the_api_is_what_the_files_say() {
        let folder = tempfile::tempdir().unwrap();
        let api = ApiServer::new(Duration::from_secs(1));
        let mut manifests = Manifests::of(folder.path());
        let write = |name: &str, text: &str| std::fs::write(folder.path().join(name), text);
        let mut apply = || manifests.apply(&api).unwrap();
        write("a.yaml", &format!("{POD}---\n{OBJECTIVE}")).unwrap();
        write("read.me", "no object").unwrap();
        assert_eq!(apply(), ["inferenceobjectives/o created", "pods/a created"]);
        assert_eq!(apply(), [""; 0]);

        // What cannot be read changes nothing, and is told once.
        write("a.yaml", "kind: [").unwrap();
        assert_eq!(apply().len(), 1);
        assert_eq!(apply(), [""; 0]);
        assert!(api.get("", "pods", NAMESPACE, "a").is_some());

        write("a.yaml", &OBJECTIVE.replace("p}", "q}")).unwrap();
        assert_eq!(apply(), ["inferenceobjectives/o changed", "pods/a deleted"]);
        let objective = api.get("llm-d.ai", "inferenceobjectives", NAMESPACE, "o");
        assert_eq!(objective.unwrap()["spec"]["poolRef"]["name"], "q");
        // The pod ends in its own time, and its name is taken until then.
        let pod = api.get("", "pods", NAMESPACE, "a").unwrap();
        assert!(pod["metadata"]["deletionTimestamp"].is_string());
        write("b.yaml", POD).unwrap();
        assert_eq!(apply(), [""; 0]);
        api.delete("", "pods", NAMESPACE, "a");
        assert_eq!(apply(), ["pods/a created"]);
        let pod = api.get("", "pods", NAMESPACE, "a").unwrap();
        assert!(pod["metadata"]["deletionTimestamp"].is_null());
    }

    #[test]
    fn what_cannot_be_applied_is_named() {
        let parse = |text: &str| parse(text).unwrap_err();
        let wrong = parse("apiVersion: apps/v1\nkind: Deployment\nmetadata: {name: d}\n");
        assert!(wrong.contains("kind `Deployment`: the demo has Pod, InferencePool"));
        let wrong = parse(&POD.replace("name: a", "namespace: other, name: a"));
        assert!(wrong.contains("metadata.namespace is `other`"), "{wrong}");
        let wrong = parse(&POD.replace("name: a, ", ""));
        assert!(wrong.contains("metadata.name is missing"), "{wrong}");
        let wrong = parse(&OBJECTIVE.replace("v1alpha2", "v1alpha1"));
        assert!(wrong.contains("is not served"), "{wrong}");
    }
}
