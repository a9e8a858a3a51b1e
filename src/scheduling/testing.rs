//! What tests of plugins share.

use std::sync::Arc;

use super::{Context, Filter, PrefixView, RequestHeaders, RequestView, Scorer};
use crate::config::{LoadOptions, PickerConfig, PluginUse, load};
use crate::pool::gpu::GpuMemory;
use crate::pool::slab::{Scrape, attribute_key};
use crate::pool::{Endpoint, EndpointId, LoadView, Pool, Snapshot};

/// Headers by name.
pub(super) struct Given<'a>(pub(super) &'a [(&'a str, &'a str)]);

impl RequestHeaders for Given<'_> {
    fn get(&self, name: &str) -> Option<&str> {
        let found = self.0.iter().find(|(known, _)| *known == name);
        found.map(|(_, value)| *value)
    }
}

/// A plugin as a configuration gives it, which must be right; `name` is its type.
pub(super) fn plugin(name: &str, parameters: &str) -> PluginUse {
    let profile = config(name, parameters).profiles.remove(0);
    let mut all = profile.filters.into_iter().chain(profile.scorers);
    all.find(|plugin| plugin.name == name).unwrap()
}

/// A configuration of one plugin, which must be right; `name` is its type.
pub(super) fn config(name: &str, parameters: &str) -> PickerConfig {
    let text = format!(
        "apiVersion: llm-d.ai/v1alpha1\nkind: EndpointPickerConfig\nplugins:\n- type: {name}\n  parameters: {parameters}\n"
    );
    let options = LoadOptions {
        allow_experimental: true,
    };
    load(&text, options).unwrap()
}

/// A producer as a configuration gives it, which must be right; `name` is its type.
pub(super) fn producer(name: &str, parameters: &str) -> PluginUse {
    config(name, parameters).producers.remove(0)
}

/// So many endpoints without labels: `e0` at 10.0.0.0, and so on.
pub(super) fn snapshot(endpoints: usize) -> Arc<Snapshot> {
    labelled(&vec![&[][..]; endpoints])
}

/// One endpoint for each set of labels: `e0` at 10.0.0.0, and so on.
pub(super) fn labelled(labels: &[&[(&str, &str)]]) -> Arc<Snapshot> {
    let endpoints = (0u8..).zip(labels).map(|(n, labels)| Endpoint {
        id: EndpointId {
            namespace: "default".into(),
            name: format!("e{n}"),
        },
        address: [10, 0, 0, n].into(),
        port: 8000,
        hardware: Default::default(),
        labels: labels
            .iter()
            .map(|(key, value)| ((*key).to_owned(), (*value).to_owned()))
            .collect(),
    });
    Pool::default().replace(endpoints.collect())
}

/// Endpoints with these values of one attribute, just scraped, and what is known of them.
pub(super) fn attributed(name: &str, values: &[Option<f32>]) -> (Arc<Snapshot>, LoadView) {
    let snapshot = snapshot(values.len());
    for (member, value) in snapshot.members().iter().zip(values) {
        let mut page = Scrape::default();
        if let Some(value) = value {
            page.attributes.put(attribute_key(name), *value);
        }
        member.slot.record(&page, 0, 1);
    }
    let mut load = LoadView::default();
    load.gather(&snapshot, 1, 1);
    (snapshot, load)
}

/// Puts what is known of GPU memory, as of `at_ms`, into the cells of all endpoints of `snapshot`.
pub(super) fn held(snapshot: &Snapshot, memories: &[Option<GpuMemory>], at_ms: u64) {
    for ((s, i), memory) in snapshot.cells().zip(memories) {
        s.gpu_cells.put_memory(i, *memory, at_ms);
    }
}

/// Puts domain, share and node of all endpoints of `snapshot` into their cells.
pub(super) fn placed(snapshot: &Snapshot, places: &[[u32; 3]]) {
    for ((s, i), place) in snapshot.cells().zip(places) {
        s.gpu_cells.put_place(i, *place);
    }
}

/// Calls `run` for a request with `prompt_bytes` and `headers`.
pub(super) fn with_context<T>(
    snapshot: &Snapshot,
    load: &LoadView,
    prompt_bytes: usize,
    headers: &[(&str, &str)],
    run: impl FnOnce(&Context<'_>) -> T,
) -> T {
    let request = RequestView {
        model: "m",
        adapter: "m",
        prompt_bytes,
        has_body: true,
        multimodal: false,
        headers: &Given(headers),
    };
    run(&Context {
        request: &request,
        snapshot,
        load,
        prefix: PrefixView::default(),
        failed: &[],
        earlier: None,
        now_ms: 1,
    })
}

/// What `filter` keeps of all endpoints, for a request that says nothing.
pub(super) fn kept(filter: &dyn Filter, snapshot: &Snapshot) -> Vec<u32> {
    kept_for(filter, snapshot, &LoadView::default(), 0, &[])
}

/// What `filter` keeps of all endpoints.
pub(super) fn kept_for(
    filter: &dyn Filter,
    snapshot: &Snapshot,
    load: &LoadView,
    prompt_bytes: usize,
    headers: &[(&str, &str)],
) -> Vec<u32> {
    with_context(snapshot, load, prompt_bytes, headers, |cx| {
        let mut candidates = (0..snapshot.len() as u32).collect();
        filter.filter(cx, &mut candidates);
        candidates
    })
}

/// What `scorer` says of all endpoints.
pub(super) fn scores_for(
    scorer: &dyn Scorer,
    snapshot: &Snapshot,
    load: &LoadView,
    prompt_bytes: usize,
    headers: &[(&str, &str)],
) -> Vec<f32> {
    with_context(snapshot, load, prompt_bytes, headers, |cx| {
        scored(scorer, cx)
    })
}

/// Scores all endpoints of `snapshot` for a request for `model`, which is an adapter.
pub(super) fn scores(
    scorer: &dyn Scorer,
    snapshot: &Snapshot,
    load: &LoadView,
    model: &str,
) -> Vec<f32> {
    with_context(snapshot, load, 0, &[], |cx| {
        let request = RequestView {
            model,
            adapter: model,
            ..*cx.request
        };
        let cx = Context {
            request: &request,
            ..*cx
        };
        scored(scorer, &cx)
    })
}

/// Calls `run` where the endpoints of `snapshot` have so many of the `total` tokens of a prompt.
pub(super) fn with_prefix<T>(
    snapshot: &Snapshot,
    load: &LoadView,
    (matched_tokens, total_tokens): (&[u32], u32),
    run: impl FnOnce(&Context<'_>) -> T,
) -> T {
    with_context(snapshot, load, 4 * total_tokens as usize, &[], |cx| {
        run(&Context {
            prefix: PrefixView {
                matched_tokens,
                total_tokens,
            },
            ..*cx
        })
    })
}

/// What `scorer` says of so many endpoints that have `matched` of `total` tokens.
pub(super) fn scores_with_prefix(
    scorer: &dyn Scorer,
    endpoints: usize,
    matched: &[u32],
    total: u32,
) -> Vec<f32> {
    let (snapshot, load) = (snapshot(endpoints), LoadView::default());
    with_prefix(&snapshot, &load, (matched, total), |cx| scored(scorer, cx))
}

/// What `filter` keeps of endpoints that have `matched` of `total` tokens, and `tokens` to work through.
pub(super) fn kept_with_prefix(
    filter: &dyn Filter,
    matched: &[u32],
    total: u32,
    tokens: &[u64],
) -> Vec<u32> {
    let snapshot = snapshot(matched.len());
    let load = LoadView {
        tokens: tokens.to_vec(),
        ..Default::default()
    };
    with_prefix(&snapshot, &load, (matched, total), |cx| {
        let mut candidates = (0..snapshot.len() as u32).collect();
        filter.filter(cx, &mut candidates);
        candidates
    })
}

pub(super) fn scored(scorer: &dyn Scorer, cx: &Context<'_>) -> Vec<f32> {
    let candidates: Vec<u32> = (0..cx.snapshot.len() as u32).collect();
    let mut out = vec![f32::NAN; candidates.len()];
    scorer.score(cx, &candidates, &mut out);
    out
}
