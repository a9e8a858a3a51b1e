//! A Kubernetes API server that is not there: the objects that a picker reads, in memory, over HTTP.
//!
//! It serves list (paged), watch (bookmarks, 410 for a past that is forgotten), get, create, update, patch, delete and status of
//! pods, InferencePools, objectives, rewrites, leases and ResourceSlices, says which groups it has, and can be told to fail: to
//! refuse, to break watches, to forget its history, to fall silent. It says of bearer tokens whose they are and what their owners
//! may read (TokenReview, SubjectAccessReview), as it was told.
//!
//! It proves nothing of what only the real one does: no schema is checked and nothing defaulted, every patch is merged (of
//! conditions those of other types stay) and creates nothing, field ownership is not kept, selectors are `k=v,…` alone, nobody is
//! authenticated, and there is no TLS, no admission, no priority and fairness. A pod on a node that is deleted has time to end, but
//! what it runs may be changed while it runs; types do not go and take their objects with them; a list is of now on every page;
//! and of what clients ask to find their way (`/api`, `/version`, OpenAPI) there is only the list of a group's resources.
//!
//! `tests/kubernetes/live.rs` holds both to the same cases, the real one where `KUBEBUILDER_ASSETS` has it.

mod http;
mod reviews;
mod store;
mod types;

use std::collections::BTreeSet;
use std::future::Future;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use parking_lot::Mutex;
use serde_json::Value;
use tokio::net::TcpListener;
use tokio::sync::watch;

use store::{Selected, Store};
use types::{TYPES, Type};

/// What it has and how it behaves; it outlives the listener through which it is asked.
#[derive(Debug)]
pub struct ApiServer {
    store: Mutex<Store>,
    /// The version of the newest change.
    newest: watch::Sender<u64>,
    /// Rises when watches are broken.
    breaks: watch::Sender<u64>,
    /// Whether it says anything.
    silent: watch::Sender<bool>,
    /// Rises when connections are lost; those from before say nothing any more.
    lost: watch::Sender<u64>,
    readers: Mutex<Vec<Reader>>,
    /// Groups, or versions of them: `group/version`.
    groups: Mutex<BTreeSet<String>>,
    refusing: Mutex<Option<(u16, u32)>>,
    forbidden: Mutex<BTreeSet<Call>>,
    /// Calls about one object that are refused, with the status and how many more times.
    spited: Mutex<Vec<(Call, String, u16, u32)>>,
    calls: Mutex<BTreeSet<Call>>,
    lists: AtomicU64,
    bookmarked: AtomicU64,
    longest_watch: AtomicU64,
    bookmarks: Duration,
}

/// What a caller must have the right to: as RBAC has it.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Call {
    /// `get`, `list`, `watch`, `create`, `update`, `patch` or `delete`.
    pub verb: String,
    /// The API group; empty for the core.
    pub group: String,
    /// The resource, with `/status` if it is that.
    pub resource: String,
}

/// Whose a token is, and what he may read.
#[derive(Clone, Debug)]
pub struct Reader {
    /// The bearer token.
    pub token: String,
    /// The user's name.
    pub user: String,
    /// Paths that he may get, of no resource.
    pub paths: Vec<String>,
}

// === impl ApiServer ===

impl ApiServer {
    /// An empty one that serves all groups it knows; watches that ask for bookmarks get one each `bookmarks`.
    pub fn new(bookmarks: Duration) -> Arc<Self> {
        Arc::new(Self {
            store: Mutex::default(),
            newest: watch::Sender::new(0),
            breaks: watch::Sender::new(0),
            silent: watch::Sender::new(false),
            lost: watch::Sender::new(0),
            readers: Mutex::default(),
            groups: Mutex::new(TYPES.iter().map(|t| t.group.to_owned()).collect()),
            refusing: Mutex::default(),
            forbidden: Mutex::default(),
            spited: Mutex::default(),
            calls: Mutex::default(),
            lists: AtomicU64::new(0),
            bookmarked: AtomicU64::new(0),
            longest_watch: AtomicU64::new(0),
            bookmarks,
        })
    }

    /// Answers at `listener` until `stop`; then it is away, and all connections are cut.
    pub async fn serve(self: Arc<Self>, listener: TcpListener, stop: impl Future<Output = ()>) {
        http::serve(self, listener, stop).await;
    }

    /// Creates the object or makes it like this. Its status, if it says one, is taken too. False: of no known type.
    pub fn put(&self, object: Value) -> bool {
        let Some(of) = Type::of(&object) else {
            return false;
        };
        let version = self.store.lock().put(of, object);
        self.newest.send_replace(version);
        true
    }

    /// Removes the object, if it is there, at once.
    pub fn delete(&self, group: &str, plural: &str, namespace: &str, name: &str) {
        let Some(of) = Type::named(group, plural) else {
            return;
        };
        let version = self.store.lock().delete(of, namespace, name);
        if let Some(version) = version {
            self.newest.send_replace(version);
        }
    }

    /// The object as it is now.
    pub fn get(&self, group: &str, plural: &str, namespace: &str, name: &str) -> Option<Value> {
        let of = Type::named(group, plural)?;
        self.store.lock().get(of, namespace, name).cloned()
    }

    /// All objects of a type in a namespace, by name.
    pub fn list(&self, group: &str, plural: &str, namespace: &str) -> Vec<Value> {
        let Some(of) = Type::named(group, plural) else {
            return Vec::new();
        };
        let selected = Selected {
            of,
            namespace: namespace.to_owned(),
            labels: Vec::new(),
            node: None,
            name: None,
        };
        self.store
            .lock()
            .select(&selected)
            .into_iter()
            .cloned()
            .collect()
    }

    /// Serves these groups, or versions of them (`group/version`), from now on, and no others, beside the core.
    pub fn serve_groups(&self, groups: &[&str]) {
        *self.groups.lock() = groups.iter().map(|&group| group.to_owned()).collect();
    }

    /// Answers the next `count` requests with `status`.
    pub fn refuse(&self, status: u16, count: u32) {
        *self.refusing.lock() = Some((status, count));
    }

    /// Refuses `call` with 403 from now on.
    pub fn forbid(&self, call: Call) {
        self.forbidden.lock().insert(call);
    }

    /// Answers `call` with `status` the next `count` times that it is about the object `name`.
    pub fn refuse_object(&self, call: Call, name: &str, status: u16, count: u32) {
        let mut spited = self.spited.lock();
        spited.push((call, name.to_owned(), status, count));
    }

    /// From now on `reader`'s token is known, with that user and those rights alone.
    pub fn admit(&self, reader: Reader) {
        let mut readers = self.readers.lock();
        readers.retain(|known| known.token != reader.token);
        readers.push(reader);
    }

    /// While `silent`, it takes connections and requests, and says nothing: as a process that is stopped.
    pub fn hush(&self, silent: bool) {
        self.silent.send_replace(silent);
    }

    /// All connections that are open are lost, and nobody is told: nothing comes by them any more.
    pub fn lose_connections(&self) {
        self.lost.send_modify(|lost| *lost += 1);
    }

    /// Cuts all watches that are open.
    pub fn break_watches(&self) {
        self.breaks.send_modify(|breaks| *breaks += 1);
    }

    /// Forgets all changes so far: who watches from before is told 410.
    pub fn forget(&self) {
        self.store.lock().forget();
    }

    /// What it was asked for so far, each once.
    pub fn calls(&self) -> BTreeSet<Call> {
        self.calls.lock().clone()
    }

    /// Lists that it answered so far, each page of them.
    pub fn lists(&self) -> u64 {
        self.lists.load(Ordering::Relaxed)
    }

    /// Bookmarks that it sent so far, over all watches.
    pub fn bookmarked(&self) -> u64 {
        self.bookmarked.load(Ordering::Relaxed)
    }

    /// How long the longest watch that it was asked for lasts, in seconds.
    pub fn longest_watch(&self) -> u64 {
        self.longest_watch.load(Ordering::Relaxed)
    }

    fn serves(&self, of: &Type) -> bool {
        let groups = self.groups.lock();
        of.group.is_empty() || groups.contains(of.group) || groups.contains(&of.api_version())
    }

    /// Takes down the call, which is about `name` if it is about one object. The status by which it is refused, if it is.
    fn called(&self, call: Call, name: Option<&str>) -> Option<u16> {
        let forbidden = self.forbidden.lock().contains(&call);
        let spited = self
            .spited
            .lock()
            .iter_mut()
            .find_map(|(of, about, status, left)| {
                let meant = *left > 0 && *of == call && Some(about.as_str()) == name;
                *left -= u32::from(meant);
                meant.then_some(*status)
            });
        if call.verb == "list" {
            self.lists.fetch_add(1, Ordering::Relaxed);
        }
        self.calls.lock().insert(call);
        if forbidden {
            return Some(403);
        }
        if spited.is_some() {
            return spited;
        }
        let mut refusing = self.refusing.lock();
        let (status, count) = (*refusing)?;
        *refusing = (count > 1).then(|| (status, count - 1));
        Some(status)
    }
}
