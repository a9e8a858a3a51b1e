//! Cases as an HTTP client has them: for tests that put a real proxy between client, picker and model servers.

use std::net::SocketAddr;

use bytes::Bytes;
use xxhash_rust::xxh3::xxh3_64;

use super::bodies;
use super::clients::BodyMode;
use super::data::{self, Case, Suite};

/// Headers that an HTTP client or a proxy makes itself.
const MADE: [&str; 4] = [
    "content-length",
    "connection",
    "upgrade",
    "transfer-encoding",
];

/// A request and what must come of it.
#[derive(Clone, Debug)]
pub(crate) struct HttpCase {
    /// Number and title.
    pub(crate) name: String,
    /// The picker's configuration.
    pub(crate) config: String,
    /// It holds where one filter sees request and response in full duplex.
    pub(crate) full_duplex: bool,
    /// It holds where the picking filter sees the request alone.
    pub(crate) decision_only: bool,
    pub(crate) method: String,
    pub(crate) path: String,
    pub(crate) headers: Vec<(String, String)>,
    pub(crate) body: Bytes,
    pub(crate) expected: HttpExpected,
}

/// What an HTTP client and the model servers can see.
#[derive(Clone, Debug)]
pub(crate) enum HttpExpected {
    /// The picker answers.
    Refused {
        status: u16,
        /// In the body.
        says: String,
        /// `x-llm-d-request-dropped-reason`.
        dropped: Option<String>,
    },
    /// A model server answers.
    Served {
        /// The pods, one of which gets it.
        route: Vec<usize>,
        /// Of the body that arrives there.
        body_bytes: usize,
        body_xxh3: u64,
        /// Headers that arrive there; `*` stands for anything, `$uuid` for a UUID.
        headers: Vec<(String, String)>,
        /// Headers that do not.
        absent: Vec<String>,
        status: u16,
        /// The body that the client gets, if the response is scripted.
        client_body: Option<Bytes>,
    },
}

// === impl Case ===

impl Case {
    /// The case for an HTTP client, with the pods at `addresses` ([`super::pods::Net::show`] puts them there); none if HTTP cannot express it: metadata, several
    /// endpoints at once, wire details, streams that break off.
    pub(crate) fn as_http(&self, suite: &Suite, addresses: &[SocketAddr]) -> Option<HttpCase> {
        let request = &self.request;
        let on_the_wire = self.interrupt.is_some()
            || self.holding.is_some()
            || !self.turns.is_empty()
            || request.end.is_some()
            || !request.trailers.is_empty()
            || !request.both_values.is_empty()
            || !request.metadata.is_empty()
            || request.body_metadata.is_some()
            || request.subset.is_some();
        let plays = |observer: bool| {
            let mut clients = self.clients.iter().map(|name| &suite.clients[name]);
            clients.any(|client| {
                client.request_body == BodyMode::FullDuplexStreamed && client.observer == observer
            })
        };
        let (full_duplex, decision_only) = (plays(false), plays(true));
        let made = |name: &String| MADE.contains(&name.to_ascii_lowercase().as_str());
        if on_the_wire || !(full_duplex || decision_only) || request.headers.keys().any(made) {
            return None;
        }
        let body = bodies::request_body(self).unwrap_or_default();
        let headers = request.headers.iter().flat_map(|(name, values)| {
            let values = values.iter().flat_map(|values| values.list());
            values.map(|value| (name.clone(), data::fill(value, addresses)))
        });
        let mut headers: Vec<_> = headers.collect();
        let typed = headers
            .iter()
            .any(|(name, _)| name.eq_ignore_ascii_case("content-type"));
        if request.body.is_some() && !typed {
            headers.push(("content-type".to_owned(), "application/json".to_owned()));
        }
        Some(HttpCase {
            name: self.to_string(),
            config: self.config.clone(),
            full_duplex,
            decision_only,
            method: request.method.clone(),
            path: request.path.clone()?,
            headers,
            expected: self.http_expected(addresses, &body)?,
            body,
        })
    }

    fn http_expected(&self, addresses: &[SocketAddr], sent: &Bytes) -> Option<HttpExpected> {
        let expect = &self.expect;
        if let Some(refusal) = &expect.refuse {
            return Some(HttpExpected::Refused {
                status: refusal.status,
                says: refusal.says.clone(),
                dropped: refusal.dropped.clone(),
            });
        }
        let arriving = expect
            .at_server
            .body
            .clone()
            .map_or(sent.clone(), Bytes::from);
        let scripted = self.response.as_ref().map(|response| {
            let sent = bodies::response_chunks(self, response).concat().into();
            expect.at_client.body.clone().map_or(sent, Bytes::from)
        });
        let fill = |(name, value): (&String, &String)| (name.clone(), data::fill(value, addresses));
        Some(HttpExpected::Served {
            route: expect.route.as_ref()?.list().to_vec(),
            body_bytes: arriving.len(),
            body_xxh3: xxh3_64(&arriving),
            headers: expect.at_server.headers.iter().map(fill).collect(),
            absent: expect.at_server.absent.clone(),
            status: self
                .response
                .as_ref()
                .map_or(200, |response| response.status),
            client_body: scripted,
        })
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use http_body_util::{BodyExt as _, Full};

    use super::super::pods::Net;
    use super::*;
    use crate::support::http;

    /// What pods say of the requests that they get is what cases say of them.
    #[tokio::test]
    async fn pods_and_cases_agree() {
        let (suite, net) = (data::load(), Net::start().await);
        let mut played = BTreeSet::new();
        for case in &suite.cases {
            let addresses = net.show(case);
            let Some(http) = case.as_http(&suite, &addresses) else {
                continue;
            };
            assert!(http.name.contains(&case.title) && suite.configs.contains_key(&http.config));
            played.insert(case.id.as_str());
            assert!(http.full_duplex || http.decision_only, "{case}");
            agree(case, http, &addresses).await;
        }
        let number = |case: &&str| case.chars().all(|c| c.is_ascii_digit());
        let numbers: Vec<&str> = played.into_iter().filter(number).collect();
        assert_eq!(
            numbers.join(" "),
            "1 13 14 15 16 17 18 19 2 20 21 22 23 24 25 26 27 28 29 3 30 31 32 33 34 35 36 39 4 40 5 54 56 57 58 59 6 60 62 69 7 78 79 8 83 9 92 94"
        );
    }

    async fn agree(case: &Case, sent: HttpCase, addresses: &[SocketAddr]) {
        let HttpExpected::Served {
            route,
            body_bytes,
            body_xxh3,
            headers,
            absent,
            status,
            client_body,
        } = sent.expected
        else {
            let HttpExpected::Refused {
                status,
                says,
                dropped,
            } = sent.expected
            else {
                unreachable!()
            };
            assert!(status >= 400 && !says.is_empty(), "{case}");
            assert!(
                dropped.is_none_or(|reason| reason.starts_with("rejected-")),
                "{case}"
            );
            return;
        };
        assert!(
            headers.iter().all(|(name, _)| !absent.contains(name)),
            "{case}"
        );
        let uri = format!("http://{}{}", addresses[route[0]], sent.path);
        let mut request = hyper::Request::builder()
            .method(sent.method.as_str())
            .uri(uri);
        for (name, value) in sent.headers {
            request = request.header(name, value);
        }
        let request = request.body(Full::new(sent.body)).unwrap();
        let (head, body) = http().request(request).await.unwrap().into_parts();
        let body = body.collect().await.unwrap().to_bytes();
        assert_eq!(
            head.headers["x-inference-pod"],
            route[0].to_string().as_str(),
            "{case}"
        );
        assert_eq!(head.status, status, "{case}");
        match client_body {
            Some(wanted) if case.expect.at_client.body.is_none() => {
                assert_eq!(body, wanted, "{case}")
            }
            Some(_) => {}
            None if sent.method == "HEAD" || case.expect.at_server.body.is_some() => {}
            None => {
                let told: serde_json::Value = serde_json::from_slice(&body).unwrap();
                assert_eq!(told["body_bytes"], body_bytes, "{case}");
                assert_eq!(told["body_xxh3"], format!("{body_xxh3:016x}"), "{case}");
                assert_eq!(told["path"], sent.path.as_str(), "{case}");
            }
        }
    }
}
