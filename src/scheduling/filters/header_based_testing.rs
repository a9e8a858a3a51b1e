//! `header-based-testing-filter`: keeps the endpoints that the request's header `test-epp-endpoint-selection` names.
//!
//! A comma list of `ip` or `ip:port`; a bare IP keeps one endpoint of that address. No header, no endpoints. Source: the
//! Gateway API Inference Extension's conformance tests, which steer requests by it. For nothing else.

use std::net::{IpAddr, SocketAddr};

use super::super::{Context, Filter, Reason};

const HEADER: &str = "test-epp-endpoint-selection";

/// See the module.
#[derive(Debug)]
pub(in crate::scheduling) struct HeaderBasedTesting;

impl Filter for HeaderBasedTesting {
    fn filter(&self, cx: &Context<'_>, candidates: &mut Vec<u32>) {
        let mut kept = Vec::new();
        for item in cx
            .request
            .headers
            .get(HEADER)
            .unwrap_or_default()
            .split(',')
        {
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
        for (header, expected) in [
            (None, vec![]),
            (Some("10.0.0.1"), vec![1]),
            (Some("10.0.0.2:8000, 10.0.0.0"), vec![2, 0]),
            (Some("10.0.0.1:9"), vec![]),
            (Some("10.0.0.1,10.0.0.1:8000"), vec![1]),
        ] {
            let snapshot = snapshot(3);
            let request = RequestView {
                model: "",
                adapter: "",
                prompt_bytes: 0,
                body_bytes: 0,
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
            assert_eq!(candidates, expected, "{header:?}");
        }
    }
}
