//! `header-based-testing-filter`: keeps the endpoints that the request's header `test-epp-endpoint-selection` names.
//!
//! A comma list of `ip` or `ip:port`; a bare IP keeps one endpoint of that address. No header, no endpoints: unless the
//! request has no body either, when any will do. Source: the Gateway API Inference Extension's conformance tests, which steer
//! requests by it, and send some that have neither and must be served. For nothing else.

use std::net::{IpAddr, SocketAddr};

use super::super::{Context, Filter, Reason};

const HEADER: &str = "test-epp-endpoint-selection";

/// See the module.
#[derive(Debug)]
pub(in crate::scheduling) struct HeaderBasedTesting;

impl Filter for HeaderBasedTesting {
    fn filter(&self, cx: &Context<'_>, candidates: &mut Vec<u32>) {
        let named = cx.request.headers.get(HEADER).unwrap_or_default();
        // The llm-d picker asks its filters nothing about such requests.
        if named.is_empty() && !cx.request.has_body {
            return;
        }
        let mut kept = Vec::new();
        for item in named.split(',') {
            let item = item.trim();
            let named = if let Ok(address) = item.parse::<SocketAddr>() {
                cx.snapshot.by_address(&address)
            } else if let Ok(ip) = item.parse::<IpAddr>() {
                let mut at_ip = cx.snapshot.by_ip(&ip).iter().copied();
                at_ip.find(|position| candidates.contains(position))
            } else {
                None
            };
            if let Some(position) = named
                && candidates.contains(&position)
                && !kept.contains(&position)
            {
                kept.push(position);
            }
        }
        *candidates = kept;
    }

    fn is_of_kind(&self) -> bool {
        true
    }

    fn reason(&self) -> Option<Reason> {
        Some(Reason::Named)
    }
}

#[cfg(test)]
mod tests {
    use super::super::super::testing::snapshot;
    use super::super::super::{PrefixView, RequestHeaders, RequestView};
    use super::*;
    use crate::pool::LoadView;

    struct Named(Option<&'static str>);

    impl RequestHeaders for Named {
        fn get(&self, name: &str) -> Option<&str> {
            self.0.filter(|_| name == HEADER)
        }
    }

    #[test]
    fn keeps_what_is_named() {
        for (header, has_body, expected) in [
            (None, true, vec![]),
            (Some(""), true, vec![]),
            (None, false, vec![0, 1, 2]),
            (Some(""), false, vec![0, 1, 2]),
            (Some("10.0.0.1"), true, vec![1]),
            (Some("10.0.0.1"), false, vec![1]),
            (Some("10.0.0.2:8000, 10.0.0.0"), true, vec![2, 0]),
            (Some("10.0.0.1:9"), true, vec![]),
            (Some("10.0.0.1:9"), false, vec![]),
            (Some("10.0.0.1,10.0.0.1:8000"), true, vec![1]),
        ] {
            let snapshot = snapshot(3);
            let request = RequestView {
                model: "",
                adapter: "",
                prompt_bytes: 0,
                has_body,
                multimodal: false,
                headers: &Named(header),
            };
            let cx = Context {
                request: &request,
                snapshot: &snapshot,
                load: &LoadView::default(),
                prefix: PrefixView::default(),
                failed: &[],
                earlier: None,
                now_ms: 1,
            };
            let mut candidates = vec![0, 1, 2];
            HeaderBasedTesting.filter(&cx, &mut candidates);
            assert_eq!(candidates, expected, "{header:?} {has_body}");
        }
    }
}
