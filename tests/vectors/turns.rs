//! Cases of several requests, one after the other: what the picker remembers of one shows in the next.
//!
//! In the headers and bodies of a turn, and in the headers that it expects, `$name` stands for a text of the case, new for
//! every play, and `$0.header` for what the first turn's request had in that header as the model server got it, else
//! the response to it as the client got it.

use std::collections::BTreeMap;
use std::net::SocketAddr;

use rand::rngs::SmallRng;
use rand::{RngExt as _, SeedableRng as _};
use serde::Deserialize;
use xxhash_rust::xxh3::xxh3_64_with_seed;

use super::bodies;
use super::clients::Client;
use super::data::{Case, Request, Response, Values};
use super::expect::{Expect, Pods};
use super::player::Outcome;

const DESTINATION: &str = "x-gateway-destination-endpoint";

/// A request, what its answer is, and what must come of it.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Turn {
    /// How often; once if not given.
    #[serde(default = "once")]
    pub(crate) repeat: usize,
    #[serde(default)]
    pub(crate) request: Request,
    pub(crate) response: Option<Response>,
    pub(crate) expect: Expect,
}

fn once() -> usize {
    1
}

/// The turns so far.
pub(crate) struct Past {
    texts: BTreeMap<String, String>,
    turns: Vec<Happened>,
}

struct Happened {
    /// The pod that it went to.
    pod: Option<usize>,
    /// Of the request at the model server, then of the response at the client.
    headers: Vec<(String, String)>,
}

// === impl Past ===

impl Past {
    /// Before the first turn of `case`.
    pub(crate) fn new(case: &Case, client: &Client) -> Self {
        // What was said in one play, the picker may still know in the next.
        let play = format!("{case} {}", client.name);
        let mut rng = SmallRng::seed_from_u64(xxh3_64_with_seed(play.as_bytes(), bodies::seed()));
        let texts = case.texts.iter().map(|(name, &letters)| {
            let text = (0..letters).map(|_| char::from(rng.random_range(b'a'..=b'z')));
            (name.clone(), text.collect())
        });
        Self {
            texts: texts.collect(),
            turns: Vec::new(),
        }
    }

    /// The turn as a case of its own.
    pub(crate) fn turn(&self, case: &Case, number: usize) -> Case {
        let turn = &case.turns[number];
        let mut one = Case {
            title: format!("{}, turn {number}", case.title),
            request: turn.request.clone(),
            response: turn.response.clone(),
            turns: Vec::new(),
            expect: turn.expect.clone(),
            ..case.clone()
        };
        for values in one.request.headers.values_mut().flatten() {
            match values {
                Values::One(value) => self.fill(value),
                Values::Many(values) => values.iter_mut().for_each(|value| self.fill(value)),
            }
        }
        if let Some(text) = one
            .request
            .body
            .as_mut()
            .and_then(|body| body.text.as_mut())
        {
            self.fill(text);
        }
        let expect = &mut one.expect;
        for seen in [&mut expect.at_server, &mut expect.at_client] {
            let values = seen.headers.values_mut().chain(&mut seen.body);
            values.for_each(|value| self.fill(value));
        }
        if let Some(earlier) = expect.follow {
            let pod = self.turns[earlier].pod;
            expect.route = Some(Pods::One(pod.expect("the earlier turn went somewhere")));
        }
        one
    }

    /// A turn is over.
    pub(crate) fn remember(&mut self, outcome: &Outcome, pods: &[SocketAddr]) {
        let headers = [&outcome.request.headers, &outcome.response.headers];
        let headers: Vec<_> = headers.into_iter().flatten().cloned().collect();
        let destination = headers.iter().find(|(name, _)| name == DESTINATION);
        let pod = |address: &String| pods.iter().position(|pod| pod.to_string() == *address);
        self.turns.push(Happened {
            pod: destination.and_then(|(_, address)| pod(address)),
            headers,
        });
    }

    fn fill(&self, text: &mut String) {
        let texts = self.texts.iter();
        let texts = texts.map(|(name, content)| (format!("${name}"), content.clone()));
        let turns = self.turns.iter().enumerate().flat_map(|(number, turn)| {
            let of_turn = move |(name, value): &(String, String)| {
                (format!("${number}.{name}"), value.clone())
            };
            turn.headers.iter().map(of_turn)
        });
        let mut all: Vec<_> = texts.chain(turns).collect();
        // One name may be the beginning of another.
        all.sort_by_key(|(name, _)| std::cmp::Reverse(name.len()));
        for (name, value) in all {
            *text = text.replace(&name, &value);
        }
    }
}
