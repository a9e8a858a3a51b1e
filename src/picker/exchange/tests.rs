use super::super::decide::tests::picker_of;
use super::*;

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
    let edits = exchange.response_headers(&response, &Metadata::default(), true);
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
