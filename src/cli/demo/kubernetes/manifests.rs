//! A folder of objects, applied to the API as it changes: what is in no file any more is deleted.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use anyhow::Context as _;
use serde_json::{Value, json};

use super::NAMESPACE;
use super::objects::{Kind, OBJECTIVES, Objects, PODS, POOLS, REWRITES, Written};
use crate::config::file;

/// Files that are read; more are left out, and that is said.
const MOST_FILES: usize = 256;
/// What is followed.
static KINDS: [&Kind; 4] = [&PODS, &POOLS, &OBJECTIVES, &REWRITES];
/// The node that runs all pods that name none.
const NODE: &str = "demo";

/// One object of a file.
#[derive(Clone, Debug, PartialEq)]
struct Manifest {
    kind: &'static Kind,
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
    applied: BTreeMap<Key, Manifest>,
    /// What the API server did not take, and why.
    refused: BTreeMap<Key, (Manifest, String)>,
}

/// The plural of a kind, and a name.
type Key = (&'static str, String);

/// What was done for an object.
struct Step {
    done: &'static str,
    written: Written,
    /// It is what it should be.
    last: bool,
}

// === impl Manifests ===

impl Manifests {
    pub(super) fn of(folder: &Path) -> Self {
        Self {
            folder: folder.to_owned(),
            files: BTreeMap::new(),
            faults: BTreeMap::new(),
            applied: BTreeMap::new(),
            refused: BTreeMap::new(),
        }
    }

    /// What the API server did not take, by name, and why.
    pub(super) fn refused(&self) -> impl Iterator<Item = (&'static Kind, &str, &str)> {
        let refused = self.refused.values();
        refused.map(|(manifest, why)| (manifest.kind, &*manifest.name, &**why))
    }

    /// Makes `objects` what the files say; returns what was done, for people. An error if the folder cannot be read, or the API
    /// not be asked.
    pub(super) async fn apply(&mut self, objects: &Objects) -> anyhow::Result<Vec<String>> {
        let mut events = self.read()?;
        let wanted = self.files.values().flatten();
        let wanted: BTreeMap<Key, Manifest> = wanted
            .map(|manifest| (manifest.key(), manifest.clone()))
            .collect();
        self.refused.retain(|key, _| wanted.contains_key(key));
        for (key, manifest) in &wanted {
            if !self.is_new(manifest) {
                continue;
            }
            let Some(step) = self.write(objects, manifest).await? else {
                continue;
            };
            let shown = format!("{}/{}", key.0, key.1);
            match step.written {
                Written::Done => {
                    self.refused.remove(key);
                    if step.last {
                        self.applied.insert(key.clone(), manifest.clone());
                    } else {
                        self.applied.remove(key);
                    }
                    events.push(format!("{shown} {}", step.done));
                }
                Written::Refused(why) => {
                    events.push(format!("{shown} refused: {why}"));
                    self.refused.insert(key.clone(), (manifest.clone(), why));
                }
                Written::Outrun => {}
            }
        }
        let gone: Vec<_> = self.applied.keys().cloned().collect();
        for key in gone.into_iter().filter(|key| !wanted.contains_key(key)) {
            if let Some(manifest) = self.applied.remove(&key) {
                let deleted = objects.delete(manifest.kind, &manifest.name).await?;
                events.push(match deleted.refusal() {
                    None => format!("{}/{} deleted", key.0, key.1),
                    Some(why) => format!("{}/{} not deleted: {why}", key.0, key.1),
                });
            }
        }
        Ok(events)
    }

    /// Whether the API server was not told it yet, or something else since.
    fn is_new(&self, wanted: &Manifest) -> bool {
        let key = wanted.key();
        let refused = self.refused.get(&key).map(|(manifest, _)| manifest);
        match refused {
            Some(refused) => refused != wanted,
            None => self.applied.get(&key) != Some(wanted),
        }
    }

    /// Takes the next step for an object; none, while one of that name ends.
    async fn write(&self, objects: &Objects, manifest: &Manifest) -> anyhow::Result<Option<Step>> {
        let step = |done, written, last| {
            Ok(Some(Step {
                done,
                written,
                last,
            }))
        };
        let (kind, name) = (manifest.kind, &manifest.name);
        let Some(mut before) = objects.get(kind, name).await? else {
            let created = objects.create(kind, &manifest.object).await?;
            return step("created", created, true);
        };
        if !before["metadata"]["deletionTimestamp"].is_null() {
            return Ok(None);
        }
        let applied = self.applied.get(&manifest.key());
        let same = applied.is_some_and(|applied| applied.object["spec"] == manifest.object["spec"]);
        if *kind == PODS && !same {
            // What a pod runs cannot be changed.
            let deleted = objects.delete(kind, name).await?;
            return step("changed: it ends, and another begins", deleted, false);
        }
        for field in ["labels", "annotations"] {
            before["metadata"][field] = manifest.object["metadata"][field].clone();
        }
        if *kind != PODS {
            before["spec"] = manifest.object["spec"].clone();
        }
        let replaced = objects.replace(kind, before).await?;
        step("changed", replaced, true)
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
    let name = text("/kind").unwrap_or_default();
    let group = version.rsplit_once('/').map_or("", |(group, _)| group);
    let mut known = KINDS.into_iter();
    let Some(kind) = known.find(|kind| (kind.group, kind.name) == (group, name)) else {
        let kinds = KINDS.map(|kind| kind.name).join(", ");
        return Err(format!(
            "apiVersion `{version}`, kind `{name}`: the demo has {kinds}"
        ));
    };
    let served = kind.api_version();
    let kind_name = kind.name;
    let name = text("/metadata/name")
        .filter(|name| !name.is_empty())
        .ok_or_else(|| format!("{kind_name}: metadata.name is missing"))?
        .to_owned();
    let allowed = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || "-.".contains(c);
    if !name.starts_with(|c: char| c.is_ascii_alphanumeric()) || !name.chars().all(allowed) {
        return Err(format!(
            "{kind_name}: metadata.name is `{name}`; it takes a-z, 0-9, `-` and `.`"
        ));
    }
    let namespace = text("/metadata/namespace").unwrap_or(NAMESPACE);
    if namespace != NAMESPACE {
        return Err(format!(
            "{kind_name} {name}: metadata.namespace is `{namespace}`; leave it away, or make it `{NAMESPACE}`"
        ));
    }
    if version != served {
        return Err(format!(
            "{kind_name} {name}: apiVersion `{version}` is not served; make it `{served}`"
        ));
    }
    object["metadata"]["namespace"] = json!(NAMESPACE);
    if *kind == PODS && object["spec"].is_object() && object["spec"]["nodeName"].is_null() {
        object["spec"]["nodeName"] = json!(NODE);
    }
    if let Some(object) = object.as_object_mut() {
        // Whoever runs it says how it is.
        object.remove("status");
    }
    Ok(Manifest { kind, name, object })
}

// === impl Manifest ===

impl Manifest {
    fn key(&self) -> Key {
        (self.kind.plural, self.name.clone())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;

    use tokio::net::TcpListener;
    use tokio::task::JoinSet;

    use crate::cli::demo::apiserver;
    use crate::sim::kube::ApiServer;

    const POD: &str = "apiVersion: v1\nkind: Pod\nmetadata: {name: a, labels: {app: x}}\nspec: {containers: [{name: s, args: [sim]}]}\n";
    const OBJECTIVE: &str = "apiVersion: llm-d.ai/v1alpha2\nkind: InferenceObjective\nmetadata: {name: o}\nspec: {poolRef: {name: p}}\n";
    const NOTHING: [&str; 0] = [];

    #[tokio::test]
    async fn the_api_is_what_the_files_say() {
        let folder = tempfile::tempdir().unwrap();
        let (objects, _serving) = double(folder.path()).await;
        let mut manifests = Manifests::of(folder.path());
        let write = |name: &str, text: &str| std::fs::write(folder.path().join(name), text);
        let mut apply = async || manifests.apply(&objects).await.unwrap();
        let pod = async || objects.get(&PODS, "a").await.unwrap();
        let end = async || {
            let pod = pod().await.unwrap();
            assert!(pod["metadata"]["deletionTimestamp"].is_string(), "{pod}");
            let uid = pod["metadata"]["uid"].as_str().unwrap();
            let other = objects.remove("a", "other").await.unwrap();
            assert_eq!(other, Written::Outrun, "one of that name, but not it");
            assert_eq!(objects.remove("a", uid).await.unwrap(), Written::Done);
        };
        write("a.yaml", &format!("{POD}---\n{OBJECTIVE}")).unwrap();
        write("read.me", "no object").unwrap();
        let created = ["inferenceobjectives/o created", "pods/a created"];
        assert_eq!(apply().await, created);
        assert_eq!(apply().await, NOTHING);

        // What cannot be read changes nothing, and is told once.
        write("a.yaml", "kind: [").unwrap();
        assert_eq!(apply().await.len(), 1);
        assert_eq!(apply().await, NOTHING);
        assert!(pod().await.is_some());

        // Labels change while a pod runs, but not what it runs.
        write("a.yaml", &POD.replace("app: x", "app: z")).unwrap();
        let changed = ["pods/a changed", "inferenceobjectives/o deleted"];
        assert_eq!(apply().await, changed);
        assert_eq!(pod().await.unwrap()["metadata"]["labels"]["app"], "z");
        let other = POD.replace("[sim]", "[sim, --tp=2]");
        write("a.yaml", &format!("{other}---\n{OBJECTIVE}")).unwrap();
        let replaced = "pods/a changed: it ends, and another begins";
        assert_eq!(apply().await, [created[0], replaced]);
        assert_eq!(apply().await, NOTHING);
        end().await;
        assert_eq!(apply().await, ["pods/a created"]);
        assert_eq!(
            pod().await.unwrap()["spec"]["containers"][0]["args"][1],
            "--tp=2"
        );

        write("a.yaml", &OBJECTIVE.replace("p}", "q}")).unwrap();
        let changed = ["inferenceobjectives/o changed", "pods/a deleted"];
        assert_eq!(apply().await, changed);
        let objective = objects.get(&OBJECTIVES, "o").await.unwrap().unwrap();
        assert_eq!(objective["spec"]["poolRef"]["name"], "q");
        // The pod ends in its own time, and its name is taken until then.
        write("b.yaml", POD).unwrap();
        assert_eq!(apply().await, NOTHING);
        end().await;
        assert_eq!(apply().await, ["pods/a created"]);
        let pod = pod().await.unwrap();
        assert!(pod["metadata"]["deletionTimestamp"].is_null());
    }

    #[tokio::test]
    async fn what_is_refused_is_told_once_and_stops_nothing() {
        let folder = tempfile::tempdir().unwrap();
        let (objects, _serving) = double(folder.path()).await;
        let mut manifests = Manifests::of(folder.path());
        let write = |text: &str| std::fs::write(folder.path().join("a.yaml"), text).unwrap();
        let bad = POD.replace("app: x", "app: 1");
        write(&format!("{bad}---\n{OBJECTIVE}"));
        let events = manifests.apply(&objects).await.unwrap();
        let why = "metadata.labels.app: invalid type: integer `1`, expected a string";
        let refused = format!("pods/a refused: {why}");
        assert_eq!(events, ["inferenceobjectives/o created", &*refused]);
        assert_eq!(manifests.apply(&objects).await.unwrap(), NOTHING);
        assert_eq!(manifests.refused().collect::<Vec<_>>(), [(&PODS, "a", why)]);
        write(&format!("{POD}---\n{OBJECTIVE}"));
        assert_eq!(manifests.apply(&objects).await.unwrap(), ["pods/a created"]);
        assert_eq!(manifests.refused().count(), 0);
    }

    /// Its objects; it is there as long as the other.
    async fn double(folder: &Path) -> (Objects, JoinSet<()>) {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let kubeconfig = folder.join("kubeconfig");
        let address = format!("http://{}", listener.local_addr().unwrap());
        apiserver::kubeconfig(&kubeconfig, &address, None, NAMESPACE).unwrap();
        let mut serving = JoinSet::new();
        let api = ApiServer::new(Duration::from_secs(1));
        serving.spawn(api.serve(listener, std::future::pending()));
        let client = apiserver::client(&kubeconfig).await.unwrap();
        (Objects::new(client), serving)
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
        for name in ["../a", "A", "\"a b\"", "..", "a/b"] {
            let wrong = parse(&POD.replace("name: a", &format!("name: {name}")));
            assert!(wrong.contains("it takes a-z, 0-9"), "{wrong}");
        }
        let wrong = parse(&OBJECTIVE.replace("v1alpha2", "v1alpha1"));
        assert!(wrong.contains("is not served"), "{wrong}");
    }
}
