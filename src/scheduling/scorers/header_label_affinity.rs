//! `header-label-affinity-scorer`: prefers the endpoints whose label is what the request's header says.
//!
//! Formula: label = header 1; else, or without the header or the label, 0. Parameters: `headerName`, `labelKey`,
//! `stampResponseHeader` (true): tell the label of the endpoint that serves in the same header of the response, so that
//! a coordinator can prefer the same kind of endpoint for what follows. That needs the response to come by here: in the
//! decision-only profile nothing is stamped. Source: the llm-d picker. Use it for wishes that may be overruled: a zone, a
//! slice of a disaggregated set.

use bytes::Bytes;
use serde::{Deserialize, Serialize};

use super::super::per_endpoint::PerEndpoint;
use super::super::{Context, Follow, Follows, Scorer, Stamp};
use crate::config::{PluginUse, Problem};
use crate::pool::Member;

/// See the module.
#[derive(Debug)]
pub(in crate::scheduling) struct HeaderLabelAffinity {
    header: String,
    label: String,
    stamps: bool,
    values: PerEndpoint<Option<Box<str>>>,
}

#[derive(Debug, Deserialize, Serialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
struct Params {
    header_name: String,
    label_key: String,
    #[serde(default = "yes")]
    stamp_response_header: bool,
}

fn yes() -> bool {
    true
}

// === impl HeaderLabelAffinity ===

impl HeaderLabelAffinity {
    pub(in crate::scheduling) fn of(plugin: &PluginUse) -> Result<Self, Problem> {
        let params: Params = plugin.parameters.read()?;
        let header = super::super::header_name(plugin, "headerName", &params.header_name)?;
        if params.label_key.is_empty() {
            return Err(plugin.parameters.field_problem("labelKey", "is empty"));
        }
        Ok(Self {
            header,
            label: params.label_key,
            stamps: params.stamp_response_header,
            values: PerEndpoint::default(),
        })
    }
}

impl Scorer for HeaderLabelAffinity {
    fn score(&self, cx: &Context<'_>, candidates: &[u32], out: &mut [f32]) {
        let Some(wanted) = cx.request.headers.get(&self.header) else {
            return out.fill(0.0);
        };
        let values = self.values.of(cx.snapshot, |endpoint| {
            endpoint
                .labels
                .get(&self.label)
                .map(|value| value.as_str().into())
        });
        for (out, &candidate) in out.iter_mut().zip(candidates) {
            let value = values.1[candidate as usize].as_deref();
            *out = f32::from(u8::from(value == Some(wanted)));
        }
    }

    fn follow(&self) -> Option<&dyn Follow> {
        self.stamps.then_some(self)
    }
}

impl Follow for HeaderLabelAffinity {
    fn follows(&self) -> Follows<'_> {
        Follows::Destination
    }

    fn stamp(&self, served: &Member) -> Option<Stamp> {
        let value = served.endpoint.labels.get(&self.label)?;
        http::HeaderValue::from_str(value).ok()?;
        Some(Stamp {
            name: self.header.clone(),
            value: Bytes::copy_from_slice(value.as_bytes()),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::super::super::testing::{labelled, plugin, scores_for};
    use super::*;
    use crate::pool::LoadView;

    fn scorer(more: &str) -> HeaderLabelAffinity {
        let parameters = format!("{{headerName: X-Zone, labelKey: zone{more}}}");
        HeaderLabelAffinity::of(&plugin("header-label-affinity-scorer", &parameters)).unwrap()
    }

    #[test]
    fn the_label_that_the_header_names() {
        let snapshot = labelled(&[&[("zone", "a")], &[("zone", "b")], &[], &[("zone", "a")]]);
        for (headers, expected) in [
            (&[("x-zone", "a")][..], [1.0, 0.0, 0.0, 1.0]),
            (&[("x-zone", "b")], [0.0, 1.0, 0.0, 0.0]),
            (&[("x-zone", "c")], [0.0; 4]),
            (&[("x-zone", "")], [0.0; 4]),
            (&[("x-other", "a")], [0.0; 4]),
        ] {
            let got = scores_for(&scorer(""), &snapshot, &LoadView::default(), 0, headers);
            assert_eq!(got, expected, "{headers:?}");
        }
    }

    #[test]
    fn the_response_tells_the_label_of_what_served_it() {
        let snapshot = labelled(&[&[("zone", "a")], &[]]);
        let scorer_of_responses = scorer("");
        let follow = scorer_of_responses.follow().unwrap();
        let stamp = follow.stamp(snapshot.member(0)).unwrap();
        assert_eq!((stamp.name.as_str(), &*stamp.value), ("x-zone", &b"a"[..]));
        assert!(follow.stamp(snapshot.member(1)).is_none());
        assert!(scorer(", stampResponseHeader: false").follow().is_none());
    }
}
