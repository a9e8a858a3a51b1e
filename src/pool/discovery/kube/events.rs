//! Watches that never end: kube's watcher lists, watches, and begins again after whatever goes wrong, with more and more time
//! between two tries (0.8 to 30 s).

use std::fmt::Debug;

use futures_util::StreamExt as _;
use futures_util::stream::BoxStream;
use kube::api::Api;
use kube::discovery::ApiResource;
use kube::runtime::WatchStreamExt as _;
use kube::runtime::watcher::{self, Config, Event, watcher};
use kube::{Client, Resource};
use serde::de::DeserializeOwned;

use super::counts::Counts;

/// Events of objects as they are kept, with their names.
pub(super) type Events<V> = BoxStream<'static, Event<(String, V)>>;

/// Follows the objects of one type in `namespace`. `view` keeps of each what is used.
pub(super) fn follow<K, V>(
    client: &Client,
    namespace: &str,
    resource: &ApiResource,
    what: (&'static str, Config),
    counts: &Counts,
    view: fn(K) -> (String, V),
) -> Events<V>
where
    K: Resource<DynamicType = ApiResource, Scope = kube::core::DynamicResourceScope>
        + Clone
        + Debug
        + DeserializeOwned
        + Send
        + 'static,
    V: Send + 'static,
{
    let api = Api::<K>::namespaced_with(client.clone(), namespace, resource);
    let (plural, config) = what;
    let counts = counts.clone();
    let mut failing = false;
    let events = watcher(api, config).default_backoff();
    let events = events.filter_map(move |event| {
        let kept = match event {
            Ok(event) => {
                if std::mem::take(&mut failing) {
                    tracing::info!("{plural} are followed again.");
                }
                Some(keep(event, view))
            }
            Err(error) => {
                counts.watch_failed(plural);
                // One line for a spell of failures, unless somebody looks closely.
                if failing || is_usual(&error) {
                    tracing::debug!(%error, "{plural} cannot be followed.");
                } else {
                    failing = true;
                    tracing::warn!(%error, "{plural} cannot be followed; what was known last stays.");
                }
                None
            }
        };
        std::future::ready(kept)
    });
    events.boxed()
}

/// The server keeps changes for some minutes only: who asks for older ones is told to list again.
fn is_usual(error: &watcher::Error) -> bool {
    match error {
        watcher::Error::WatchError(status) => status.code == 410,
        watcher::Error::WatchStartFailed(kube::Error::Api(status)) => status.code == 410,
        _ => false,
    }
}

fn keep<K, V>(event: Event<K>, view: fn(K) -> (String, V)) -> Event<(String, V)> {
    match event {
        Event::Apply(object) => Event::Apply(view(object)),
        Event::Delete(object) => Event::Delete(view(object)),
        Event::Init => Event::Init,
        Event::InitApply(object) => Event::InitApply(view(object)),
        Event::InitDone => Event::InitDone,
    }
}
