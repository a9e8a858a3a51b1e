//! Headers and dynamic metadata as they came in.

use prost_types::Struct;
use prost_types::value::Kind;

use crate::proto::envoy::config::core::v3 as core;

/// The headers of a request or a response, pseudo-headers included, in the order in which they came.
#[derive(Debug, Default)]
pub struct Headers(Vec<core::HeaderValue>);

/// Dynamic metadata: a structure for each namespace.
#[derive(Debug, Default)]
pub struct Metadata(core::Metadata);

// === impl Headers ===

impl Headers {
    /// The first value of `name`, which must be given in lower case. A value that is not UTF-8 reads as absent:
    /// none of the headers that we act on may be anything else.
    pub fn get(&self, name: &str) -> Option<&str> {
        self.0
            .iter()
            .find(|h| h.key.eq_ignore_ascii_case(name))
            .and_then(value_of)
    }

    /// All values of `name`, as [`Self::get`] reads the first.
    pub fn all(&self, name: &str) -> impl Iterator<Item = &str> {
        let named = move |h: &&core::HeaderValue| h.key.eq_ignore_ascii_case(name);
        self.0.iter().filter(named).filter_map(value_of)
    }

    /// Whether `name` (in lower case) is there at all.
    pub fn contains(&self, name: &str) -> bool {
        self.0.iter().any(|h| h.key.eq_ignore_ascii_case(name))
    }

    /// The value of the first of `names` that is there and not empty.
    pub fn first_of(&self, names: &[&str]) -> Option<&str> {
        names
            .iter()
            .find_map(|name| self.get(name).filter(|v| !v.is_empty()))
    }
}

/// Envoy sends `raw_value`; agentgateway sends pseudo-headers in `value`.
fn value_of(header: &core::HeaderValue) -> Option<&str> {
    if header.raw_value.is_empty() {
        Some(&header.value)
    } else {
        std::str::from_utf8(&header.raw_value).ok()
    }
}

impl From<Option<core::HeaderMap>> for Headers {
    fn from(map: Option<core::HeaderMap>) -> Self {
        Self(map.map(|m| m.headers).unwrap_or_default())
    }
}

impl<K: Into<String>, V: Into<bytes::Bytes>> FromIterator<(K, V)> for Headers {
    fn from_iter<I: IntoIterator<Item = (K, V)>>(pairs: I) -> Self {
        Self(
            pairs
                .into_iter()
                .map(|(key, value)| core::HeaderValue {
                    key: key.into(),
                    raw_value: value.into(),
                    ..Default::default()
                })
                .collect(),
        )
    }
}

// === impl Metadata ===

impl Metadata {
    /// The structure of one namespace.
    pub fn namespace(&self, name: &str) -> Option<&Struct> {
        self.0.filter_metadata.get(name)
    }

    /// A string in a namespace.
    pub fn string(&self, namespace: &str, key: &str) -> Option<&str> {
        match &self.namespace(namespace)?.fields.get(key)?.kind {
            Some(Kind::StringValue(text)) => Some(text),
            _ => None,
        }
    }

    /// Nothing in it.
    pub fn is_empty(&self) -> bool {
        self.0.filter_metadata.is_empty()
    }

    /// Takes over the namespaces of `later`, which win over those already here.
    pub fn merge(&mut self, later: Metadata) {
        if self.is_empty() {
            *self = later;
        } else {
            self.0.filter_metadata.extend(later.0.filter_metadata);
        }
    }
}

impl From<core::Metadata> for Metadata {
    fn from(metadata: core::Metadata) -> Self {
        Self(metadata)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn header(key: &str, value: &str, raw: &str) -> core::HeaderValue {
        core::HeaderValue {
            key: key.into(),
            value: value.into(),
            raw_value: raw.to_owned().into(),
        }
    }

    #[test]
    fn raw_value_wins_and_keys_have_no_case() {
        let headers = Headers(vec![
            header("X-Both", "value", "raw"),
            header(":path", "/v1/models", ""),
        ]);
        assert_eq!(headers.get("x-both"), Some("raw"));
        assert_eq!(headers.get(":path"), Some("/v1/models"));
        assert_eq!(headers.get("x-none"), None);
    }

    #[test]
    fn the_first_name_with_a_value_wins() {
        let headers = Headers(vec![header("old", "", "o"), header("new", "", "")]);
        assert_eq!(headers.first_of(&["new", "old"]), Some("o"));
    }

    #[test]
    fn later_metadata_overrules_by_namespace() {
        let space = |v: &str| Struct {
            fields: [("k".to_owned(), prost_types::Value::from(v.to_owned()))].into(),
        };
        let mut first = core::Metadata::default();
        first.filter_metadata.insert("a".into(), space("1"));
        first.filter_metadata.insert("b".into(), space("1"));
        let mut second = core::Metadata::default();
        second.filter_metadata.insert("a".into(), space("2"));
        let mut merged = Metadata::from(first);
        merged.merge(second.into());
        assert_eq!(merged.string("a", "k"), Some("2"));
        assert_eq!(merged.string("b", "k"), Some("1"));
    }
}
