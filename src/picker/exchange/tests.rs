use super::super::decide::tests::picker_of;
use super::*;
use crate::proto::envoy::config::core::v3 as core;
use prost_types::Value;

const CONFIG: &str = "\
apiVersion: llm-d.ai/v1alpha1
kind: EndpointPickerConfig
plugins:
- type: session-affinity-filter
- type: agent-identity
- {type: inflight-load-producer, name: p}
";

fn headers(pairs: &[(&'static str, &str)]) -> Headers {
    pairs.iter().map(|&(k, v)| (k, v.to_owned())).collect()
}

/// A request with `token`, if it is given: where it went, and what the response said in that header.
async fn exchange(
    picker: &Arc<Picker>,
    token: Option<&str>,
    status: &str,
) -> (Bytes, Option<String>) {
    let mut exchange = PickExchange::new(Arc::clone(picker));
    let mut request = vec![(":path", "/x"), ("session-id", "agent")];
    request.extend(token.map(|token| ("x-session-token", token)));
    exchange.request_headers(headers(&request), false);
    let verdict = exchange.decide(RequestBody::None).await.unwrap();
    let page = picker.metrics.encode().unwrap();
    let counted = r#"producer_name="p",fairness_id="agent",priority="0"} 1"#;
    assert!(page.contains(counted), "{page}");
    let response = headers(&[(":status", status)]);
    let edits = exchange.response_headers(&response, &Metadata::default(), ResponseBody::Editable);
    exchange.response_ended();
    let page = picker.metrics.encode().unwrap();
    assert!(!page.contains(counted), "{page}");
    let stamped = edits
        .set
        .into_iter()
        .find(|(name, _)| name == "x-session-token");
    let token = stamped.map(|(_, value)| String::from_utf8(value.to_vec()).unwrap());
    let (_, destination) = verdict.headers.set.into_iter().next().unwrap();
    (destination, token)
}

#[tokio::test]
async fn a_session_comes_back_by_what_its_response_said() {
    let picker = Arc::new(picker_of(CONFIG));
    for _ in 0..5 {
        let (first, token) = exchange(&picker, None, "200").await;
        let token = token.unwrap();
        for _ in 0..5 {
            let (again, same) = exchange(&picker, Some(&token), "200").await;
            assert_eq!((again, same.as_ref()), (first.clone(), Some(&token)));
        }
    }
    assert_eq!(exchange(&picker, None, "503").await.1, None);
}

#[test]
fn where_a_request_was_served_is_told_as_the_gateway_says() {
    let told = |namespace: &str, key: &str| {
        let value = Value::from("10.0.0.1:80".to_owned());
        let space = Struct {
            fields: [(key.to_owned(), value)].into(),
        };
        let metadata = core::Metadata {
            filter_metadata: [(namespace.to_owned(), space)].into(),
        };
        told_served(&metadata.into()).to_owned()
    };
    assert_eq!(told(LB, SERVED), "10.0.0.1:80");
    assert_eq!(
        told(LB, DESTINATION),
        "fail: missing destination endpoint served metadata"
    );
    assert_eq!(told("x", SERVED), "fail: missing envoy lb metadata");
}

#[test]
fn the_head_of_an_observed_stream_counts_until_bodies_are_seen() {
    let picker = Arc::new(picker_of(CONFIG));
    let snapshot = picker.pool.snapshot();
    let member = snapshot.member(0);
    let space = Struct {
        fields: [(SERVED.to_owned(), Value::from(member.address.to_string()))].into(),
    };
    let served = Metadata::from(core::Metadata {
        filter_metadata: [(LB.to_owned(), space)].into(),
    });
    let begin = || {
        let mut exchange = PickExchange::new(Arc::clone(&picker));
        exchange.request_headers(headers(&[(":path", "/x")]), true);
        let head = headers(&[(":status", "200"), ("content-type", "text/event-stream")]);
        exchange.response_headers(&head, &served, ResponseBody::Untold);
        exchange
    };
    let pieces = || member.slot.marks().seen().0;
    let token = Bytes::from_static(b"data: {\"choices\":[{\"text\":\"x\"}]}\n\n");
    let mut first = begin();
    assert_eq!(pieces(), 1);
    first.response_chunk(token.clone(), false, &mut Vec::new());
    let mut second = begin();
    assert_eq!(pieces(), 1);
    second.response_chunk(token, false, &mut Vec::new());
    assert_eq!(pieces(), 2);
}
