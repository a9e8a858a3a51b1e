//! What a decision changes about its request: headers, and metadata for the gateway.

use std::fmt::{self, Write as _};
use std::net::SocketAddr;

use bytes::Bytes;
use prost_types::{Struct, Value};

use super::control::{
    CONTROL, DATA_PARALLEL, DESTINATION, ENCODE, LB, PREFILL, REQUEST_ID, SCORES,
};
use crate::extproc::{HeaderEdits, Headers};
use crate::pool::{Member, Snapshot};
use crate::scheduling::Decision;

/// The destination, and out with what only concerns us.
pub(super) fn edits(
    headers: &Headers,
    snapshot: &Snapshot,
    decision: &Decision,
    request_id: Option<String>,
) -> HeaderEdits {
    let at = |position: u32| snapshot.member(position);
    let destination = match decision.primary_port {
        None => list(decision.endpoints.iter().map(|&p| &*at(p).address)),
        Some(port) => list(decision.endpoints.iter().map(|&p| sent_to(at(p), port))),
    };
    let mut set = vec![(DESTINATION.into(), Bytes::from(destination))];
    if let (Some(_), Some(&rank)) = (decision.primary_port, decision.endpoints.first()) {
        set.push((DATA_PARALLEL.into(), address(at(rank))));
    }
    if let Some(prefill) = decision.prefill {
        set.push((PREFILL.into(), address(at(prefill))));
    }
    if !decision.encode.is_empty() {
        let encode = list(decision.encode.iter().map(|&p| &*at(p).address));
        set.push((ENCODE.into(), encode.into()));
    }
    if let Some(id) = request_id {
        set.push((REQUEST_ID.into(), id.into()));
    }
    let mut remove = control_headers(headers);
    remove.retain(|name| !set.iter().any(|(set, _)| set == name));
    HeaderEdits { set, remove }
}

/// The address of `endpoint` with another port.
pub(super) fn sent_to(member: &Member, port: u16) -> SocketAddr {
    SocketAddr::new(member.endpoint.address, port)
}

fn address(member: &Member) -> Bytes {
    Bytes::copy_from_slice(member.address.as_bytes())
}

/// With commas between them.
fn list<T: fmt::Display>(addresses: impl Iterator<Item = T>) -> String {
    let mut list = String::new();
    for address in addresses {
        let comma = if list.is_empty() { "" } else { "," };
        // Writing to a string does not fail.
        let _ = write!(list, "{comma}{address}");
    }
    list
}

/// The control headers that are there.
pub(super) fn control_headers(headers: &Headers) -> Vec<&'static str> {
    CONTROL
        .into_iter()
        .filter(|name| headers.contains(name))
        .collect()
}

/// The same destination once more, where no client can write it.
pub(super) fn metadata_of(
    snapshot: &Snapshot,
    decision: &Decision,
    edits: &HeaderEdits,
    emit_scores: bool,
) -> Struct {
    let destination = String::from_utf8_lossy(&edits.set[0].1).into_owned();
    let mut lb = Struct::default();
    lb.fields
        .insert(DESTINATION.to_owned(), Value::from(destination));
    if emit_scores {
        let mut scores = Struct::default();
        for &(position, score) in &decision.scores {
            let address = snapshot.member(position).address.to_string();
            scores.fields.insert(address, Value::from(f64::from(score)));
        }
        lb.fields.insert(SCORES.to_owned(), nested(scores));
    }
    let mut namespaces = Struct::default();
    namespaces.fields.insert(LB.to_owned(), nested(lb));
    namespaces
}

/// A structure as a value of another.
pub(super) fn nested(fields: Struct) -> Value {
    Value {
        kind: Some(prost_types::value::Kind::StructValue(fields)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::pool::{Endpoint, EndpointId, Pool};
    use std::borrow::Cow;
    use std::sync::Arc;

    fn snapshot() -> Arc<Snapshot> {
        let addresses = [
            "10.0.0.1:8001",
            "10.0.0.2:8000",
            "[fd00::1]:8002",
            "[fd00::2]:8000",
        ];
        let endpoints = addresses.map(|address| {
            let at: SocketAddr = address.parse().unwrap();
            Endpoint {
                id: EndpointId {
                    namespace: "default".into(),
                    name: address.into(),
                },
                address: at.ip(),
                port: at.port(),
                hardware: Default::default(),
                labels: Default::default(),
            }
        });
        Pool::default().replace(endpoints.to_vec())
    }

    /// The headers set, destination and metadata aside, and those removed, for a client that sends all of them.
    fn of(decision: &Decision) -> (String, Vec<(&'static str, String)>, Vec<&'static str>) {
        let sent = [PREFILL, ENCODE, DATA_PARALLEL, "x-prefiller-url", "x-other"];
        let headers: Headers = sent.map(|name| (name, "evil:80")).into_iter().collect();
        let snapshot = snapshot();
        let edits = edits(&headers, &snapshot, decision, None);
        let mut set = edits.set.iter().map(|(name, value)| {
            let Cow::Borrowed(name) = *name else {
                panic!("{name} is made up");
            };
            let value = std::str::from_utf8(value).unwrap();
            (name, value.to_owned())
        });
        let (name, destination) = set.next().unwrap();
        assert_eq!(name, DESTINATION);
        let set = set.collect();
        let metadata = metadata_of(&snapshot, decision, &edits, false);
        assert!(format!("{metadata:?}").contains(&destination));
        (destination, set, edits.remove)
    }

    #[test]
    fn a_client_never_names_the_endpoints_of_the_stages() {
        let (destination, set, remove) = of(&Decision {
            endpoints: vec![0, 2],
            ..Default::default()
        });
        assert_eq!(destination, "10.0.0.1:8001,[fd00::1]:8002");
        assert!(set.is_empty(), "{set:?}");
        assert_eq!(remove, [PREFILL, "x-prefiller-url", ENCODE, DATA_PARALLEL]);
    }

    #[test]
    fn the_stages_are_named_in_place_of_what_a_client_sent() {
        // Cases 92 to 94.
        let (destination, set, remove) = of(&Decision {
            endpoints: vec![1],
            prefill: Some(2),
            encode: vec![3, 0],
            ..Default::default()
        });
        assert_eq!(destination, "10.0.0.2:8000");
        assert_eq!(
            set,
            [
                (PREFILL, "[fd00::1]:8002".to_owned()),
                (ENCODE, "[fd00::2]:8000,10.0.0.1:8001".to_owned())
            ]
        );
        assert_eq!(remove, ["x-prefiller-url", DATA_PARALLEL]);
    }

    #[test]
    fn a_rank_is_reached_by_its_pods_first() {
        let (destination, set, remove) = of(&Decision {
            endpoints: vec![2, 0],
            primary_port: Some(8000),
            ..Default::default()
        });
        assert_eq!(destination, "[fd00::1]:8000,10.0.0.1:8000");
        assert_eq!(set, [(DATA_PARALLEL, "[fd00::1]:8002".to_owned())]);
        assert_eq!(remove, [PREFILL, "x-prefiller-url", ENCODE]);
    }
}
