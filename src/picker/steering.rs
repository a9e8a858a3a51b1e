//! What a request says of itself beside its body: objective, flow, tenant, model to ask for instead.
//!
//! By default its headers say it, which a client may have written. With strict headers only the gateway says it: in the dynamic
//! metadata namespace [`VERIFIED`], by the headers' names.

use crate::extproc::{Headers, Metadata};
use crate::scheduling::RequestHeaders;

/// The metadata namespace of what the gateway has verified.
pub(super) const VERIFIED: &str = "pointsman";

/// What is believed.
#[derive(Clone, Copy, Debug)]
pub(super) enum Steering<'a> {
    /// Headers, whoever wrote them.
    Headers(&'a Headers),
    /// The gateway alone.
    Verified(&'a Metadata),
}

// === impl Steering ===

impl<'a> Steering<'a> {
    /// The value of `name`, which must be given in lower case.
    pub(super) fn get(self, name: &str) -> Option<&'a str> {
        match self {
            Self::Headers(headers) => headers.get(name),
            Self::Verified(metadata) => metadata.string(VERIFIED, name),
        }
    }

    /// The value of the first of `names` that is there and not empty.
    pub(super) fn first_of(self, names: &[&str]) -> Option<&'a str> {
        let mut values = names.iter().filter_map(|name| self.get(name));
        values.find(|value| !value.is_empty())
    }
}

impl RequestHeaders for Steering<'_> {
    fn get(&self, name: &str) -> Option<&str> {
        Steering::get(*self, name)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::proto::envoy::config::core::v3 as core;
    use prost_types::{Struct, Value};

    #[test]
    fn with_strict_headers_the_gateway_alone_is_believed() {
        let headers: Headers = [("a", "client"), ("b", "client")].into_iter().collect();
        let space = |fields: &[(&str, Value)]| Struct {
            fields: fields
                .iter()
                .map(|(key, value)| ((*key).to_owned(), value.clone()))
                .collect(),
        };
        let text = |text: &str| Value::from(text.to_owned());
        let verified = space(&[("b", text("gateway")), ("c", text("")), ("d", 1.0.into())]);
        let metadata = core::Metadata {
            filter_metadata: [
                (VERIFIED.to_owned(), verified),
                ("envoy.lb".to_owned(), space(&[("a", text("another"))])),
            ]
            .into(),
        }
        .into();
        let lax = Steering::Headers(&headers);
        let strict = Steering::Verified(&metadata);
        for (names, of_headers, of_gateway) in [
            (&["a"][..], Some("client"), None),
            (&["a", "b"], Some("client"), Some("gateway")),
            (&["c", "b"], Some("client"), Some("gateway")),
            (&["d"], None, None),
        ] {
            assert_eq!(lax.first_of(names), of_headers, "{names:?}");
            assert_eq!(strict.first_of(names), of_gateway, "{names:?}");
        }
    }
}
