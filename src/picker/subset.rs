//! The gateway's subset hint: which endpoints a request may go to at all.
//!
//! A list of strings, or one string with commas; each `ip:port` or a bare `ip`, which means all its ports; IPv6 in
//! brackets or, without a port, bare. What names no endpoint of the pool is passed over. No hint: all of the pool. A
//! hint that leaves nothing: nothing.

use std::net::{IpAddr, SocketAddr};

use prost_types::value::Kind;

use crate::extproc::Metadata;
use crate::pool::Snapshot;

use super::control::{SUBSET, SUBSET_HINT};

/// Puts the positions that `metadata` allows into `out`, in the order of the pool, each once.
pub(super) fn candidates(metadata: &Metadata, snapshot: &Snapshot, out: &mut Vec<u32>) {
    out.clear();
    let hint = metadata
        .namespace(SUBSET_HINT)
        .and_then(|space| space.fields.get(SUBSET))
        .and_then(|value| value.kind.as_ref());
    match hint {
        Some(Kind::StringValue(text)) => add(text, snapshot, out),
        Some(Kind::ListValue(list)) => {
            for value in &list.values {
                if let Some(Kind::StringValue(text)) = &value.kind {
                    add(text, snapshot, out);
                }
            }
        }
        // Set, but to something that names no endpoint.
        Some(Kind::NumberValue(_) | Kind::BoolValue(_) | Kind::StructValue(_)) => {}
        Some(Kind::NullValue(_)) | None => {
            out.extend(0..snapshot.len() as u32);
            return;
        }
    }
    // A subset may be as long as the pool: looking each up in `out` would be quadratic.
    out.sort_unstable();
    out.dedup();
}

fn add(text: &str, snapshot: &Snapshot, out: &mut Vec<u32>) {
    for item in text.split(',').map(str::trim) {
        if let Ok(address) = item.parse::<SocketAddr>() {
            out.extend(snapshot.by_address(&address));
        } else if let Ok(ip) = item
            .trim_start_matches('[')
            .trim_end_matches(']')
            .parse::<IpAddr>()
        {
            out.extend(snapshot.by_ip(&ip));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::pool::{Endpoint, EndpointId, Pool};
    use crate::proto::envoy::config::core::v3 as core;
    use prost_types::{ListValue, Struct, Value};

    fn pool() -> Pool {
        let pool = Pool::default();
        let addresses = ["10.0.0.1:80", "10.0.0.2:80", "10.0.0.2:81", "[fd00::1]:80"];
        pool.replace(
            addresses
                .iter()
                .map(|address| {
                    let address: SocketAddr = address.parse().unwrap();
                    Endpoint {
                        id: EndpointId {
                            namespace: "default".into(),
                            name: address.to_string(),
                        },
                        address: address.ip(),
                        port: address.port(),
                        hardware: Default::default(),
                        labels: Default::default(),
                    }
                })
                .collect(),
        );
        pool
    }

    fn allowed(hint: Option<Value>) -> Vec<u32> {
        let mut metadata = core::Metadata::default();
        if let Some(value) = hint {
            let fields = [(SUBSET.to_owned(), value)].into();
            metadata
                .filter_metadata
                .insert(SUBSET_HINT.into(), Struct { fields });
        }
        let mut out = vec![99];
        candidates(&metadata.into(), &pool().snapshot(), &mut out);
        out
    }

    fn text(hint: &str) -> Option<Value> {
        Some(Value::from(hint.to_owned()))
    }

    fn list(items: Vec<Value>) -> Option<Value> {
        Some(Value {
            kind: Some(Kind::ListValue(ListValue { values: items })),
        })
    }

    #[test]
    fn hints() {
        assert_eq!(allowed(None), [0, 1, 2, 3]);
        assert_eq!(allowed(text("10.0.0.2:81 , 10.0.0.1:80")), [0, 2]);
        assert_eq!(allowed(text("10.0.0.2")), [1, 2]);
        assert_eq!(allowed(text("10.0.0.2,10.0.0.2:80")), [1, 2]);
        assert_eq!(allowed(text("10.0.0.1:3000")), [0u32; 0]);
        assert_eq!(allowed(text("")), [0u32; 0]);
        assert_eq!(allowed(text("[fd00::1]:80")), [3]);
        assert_eq!(allowed(text("[fd00::1]")), [3]);
        assert_eq!(allowed(text("fd00::1")), [3]);
        assert_eq!(allowed(list(vec![])), [0u32; 0]);
        assert_eq!(
            allowed(list(vec![
                Value::from("10.0.0.1:80".to_owned()),
                Value::from(12345.0)
            ])),
            [0]
        );
        assert_eq!(
            allowed(list(vec![Value::from(
                "10.0.0.1:80,10.0.0.2:80".to_owned()
            )])),
            [0, 1]
        );
        assert_eq!(allowed(Some(Value::from(7.0))), [0u32; 0]);
    }
}
