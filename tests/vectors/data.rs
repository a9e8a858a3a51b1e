//! The cases, clients and configurations as they are written in the YAML files beside this one. Unknown fields are errors.

use std::collections::BTreeMap;
use std::fmt;
use std::net::SocketAddr;

use serde::Deserialize;
use serde_json::Value;

use super::clients::{Client, Config};
use super::expect::Expect;
use super::turns::Turn;

/// Files of cases: name for messages, text.
const FILES: [(&str, &str); 12] = [
    ("routing.yaml", include_str!("routing.yaml")),
    ("response.yaml", include_str!("response.yaml")),
    ("headers.yaml", include_str!("headers.yaml")),
    ("subset.yaml", include_str!("subset.yaml")),
    ("conformance.yaml", include_str!("conformance.yaml")),
    ("stream.yaml", include_str!("stream.yaml")),
    ("limits.yaml", include_str!("limits.yaml")),
    ("encoding.yaml", include_str!("encoding.yaml")),
    ("paths.yaml", include_str!("paths.yaml")),
    ("admission.yaml", include_str!("admission.yaml")),
    ("prefix.yaml", include_str!("prefix.yaml")),
    ("stages.yaml", include_str!("stages.yaml")),
];

/// One case, with one request.
#[derive(Clone, Debug)]
pub(crate) struct Case {
    pub(crate) id: String,
    pub(crate) title: String,
    /// What the reference does otherwise, and why we do not.
    pub(crate) differs: Option<String>,
    /// The name of a [`Config`].
    pub(crate) config: String,
    /// Names of the [`Client`]s that it is played by.
    pub(crate) clients: Vec<String>,
    pub(crate) pods: Vec<Pod>,
    /// Priorities by objective.
    pub(crate) objectives: BTreeMap<String, i32>,
    pub(crate) request: Request,
    pub(crate) response: Option<Response>,
    pub(crate) interrupt: Option<Interrupt>,
    /// Bytes of a body that another stream holds meanwhile.
    pub(crate) holding: Option<usize>,
    /// Random texts by name, of so many letters.
    pub(crate) texts: BTreeMap<String, usize>,
    /// Several requests, one after the other, in place of the one above.
    pub(crate) turns: Vec<Turn>,
    pub(crate) expect: Expect,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct File {
    /// Of cases that name none.
    clients: Vec<String>,
    cases: Vec<Entry>,
}

/// One case, with one request, several that are expected to fare alike, or several that come one after the other.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Entry {
    case: Value,
    title: String,
    differs: Option<String>,
    #[serde(default = "default_config")]
    config: String,
    clients: Option<Vec<String>>,
    #[serde(default = "default_pods")]
    pods: Vec<Pod>,
    #[serde(default)]
    objectives: BTreeMap<String, i32>,
    request: Option<Request>,
    #[serde(default)]
    requests: Vec<Request>,
    response: Option<Response>,
    interrupt: Option<Interrupt>,
    holding: Option<usize>,
    #[serde(default)]
    texts: BTreeMap<String, usize>,
    #[serde(default)]
    turns: Vec<Turn>,
    #[serde(default)]
    expect: Expect,
}

/// A model server and what its metrics page says.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Pod {
    #[serde(default)]
    pub(crate) queue: u32,
    #[serde(default)]
    pub(crate) kv: f64,
    #[serde(default)]
    pub(crate) running: u32,
    /// Adapters that run; none = the page has no line about adapters.
    pub(crate) loras: Option<Vec<String>>,
    #[serde(default)]
    pub(crate) waiting_loras: Vec<String>,
    /// Which of the machines, from 0; none = the pod's own number.
    pub(crate) host: Option<usize>,
    /// 0 = the first port of its machine, 1 = the second.
    #[serde(default)]
    pub(crate) port: usize,
    /// At `::1`.
    #[serde(default)]
    pub(crate) ipv6: bool,
    /// What it does of requests (label `llm-d.ai/role`); none = all.
    pub(crate) role: Option<String>,
    /// Its metrics page cannot be read.
    #[serde(default)]
    pub(crate) mute: bool,
}

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Request {
    /// What is special about it, where a case has several.
    pub(crate) note: Option<String>,
    #[serde(default = "default_method")]
    pub(crate) method: String,
    /// None = no `:path` at all.
    #[serde(default = "default_path")]
    pub(crate) path: Option<String>,
    /// `null` takes away one that is sent by default.
    #[serde(default)]
    pub(crate) headers: BTreeMap<String, Option<Values>>,
    /// Headers with `value` and `raw_value` as given.
    #[serde(default)]
    pub(crate) both_values: BTreeMap<String, Both>,
    /// Shorthand for the metadata of the subset hint.
    pub(crate) subset: Option<Value>,
    /// Dynamic metadata on the headers message, and on those of the body if they have none of their own.
    #[serde(default)]
    pub(crate) metadata: BTreeMap<String, Value>,
    /// Dynamic metadata on the messages of the body.
    pub(crate) body_metadata: Option<BTreeMap<String, Value>>,
    /// None = the headers end the request.
    pub(crate) body: Option<Body>,
    #[serde(default)]
    pub(crate) trailers: BTreeMap<String, String>,
    /// As the client does, if not given.
    pub(crate) end: Option<End>,
}

#[derive(Clone, Debug, Deserialize)]
#[serde(untagged)]
pub(crate) enum Values {
    One(String),
    Many(Vec<String>),
}

#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Both {
    pub(crate) value: String,
    pub(crate) raw_value: String,
}

/// Bytes, by exactly one of `text`, `chat`, `form` and `zeros`.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Body {
    pub(crate) text: Option<String>,
    /// A chat completion request of exactly so many bytes, with a random prompt.
    pub(crate) chat: Option<usize>,
    /// A multipart upload with so many random bytes of sound.
    pub(crate) form: Option<usize>,
    /// So many zero bytes.
    pub(crate) zeros: Option<usize>,
    pub(crate) coding: Option<Coding>,
    /// Cut at random places into so many pieces.
    pub(crate) pieces: Option<usize>,
    /// Cut into pieces of so many bytes; as the client does, if not given.
    pub(crate) piece_bytes: Option<usize>,
}

#[derive(Clone, Copy, Debug, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum Coding {
    Gzip,
    Deflate,
    Br,
    Zstd,
}

/// How the end of a body is told.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum End {
    LastChunk,
    EmptyChunk,
    /// Once with the last chunk and once again, as Envoy 1.35 does at times.
    Twice,
}

/// What the model server answers. Cases that say nothing of it get [`Response::bare`].
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Response {
    #[serde(default = "ok")]
    pub(crate) status: u16,
    #[serde(default)]
    pub(crate) headers: BTreeMap<String, String>,
    #[serde(default)]
    pub(crate) chunks: Vec<Chunk>,
    /// Data lines of an event stream, a chunk each.
    #[serde(default)]
    pub(crate) events: Vec<String>,
    #[serde(default)]
    pub(crate) trailers: BTreeMap<String, String>,
    /// The pod that served it, if the proxy says.
    pub(crate) served: Option<usize>,
    pub(crate) end: Option<End>,
    /// Each chunk comes back before the next one is sent.
    #[serde(default)]
    pub(crate) lockstep: bool,
}

#[derive(Clone, Debug, Deserialize)]
#[serde(untagged)]
pub(crate) enum Chunk {
    Text(String),
    Random { random: usize },
}

/// The client goes away.
#[derive(Clone, Copy, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Interrupt {
    pub(crate) at: At,
    pub(crate) how: How,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum At {
    /// All of the request's body is sent but its end.
    RequestBody,
    /// All of the response's body is sent but its end.
    ResponseBody,
    /// Everything is done.
    Done,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum How {
    HalfClose,
    Cancel,
}

/// All that the files hold.
#[derive(Debug)]
pub(crate) struct Suite {
    pub(crate) cases: Vec<Case>,
    pub(crate) clients: BTreeMap<String, Client>,
    pub(crate) configs: BTreeMap<String, Config>,
}

/// Reads all files; panics with the file and the line of what is wrong.
pub(crate) fn load() -> Suite {
    let clients: Vec<Client> = read("clients.yaml", include_str!("clients.yaml"));
    let configs: Vec<Config> = read("configs.yaml", include_str!("configs.yaml"));
    let mut cases = Vec::new();
    for (name, text) in FILES {
        let file: File = read(name, text);
        for entry in file.cases {
            cases.extend(entry.cases(&file.clients));
        }
    }
    Suite {
        cases,
        clients: clients.into_iter().map(|c| (c.name.clone(), c)).collect(),
        configs: configs.into_iter().map(|c| (c.name.clone(), c)).collect(),
    }
}

fn read<T: for<'de> Deserialize<'de>>(name: &str, text: &str) -> T {
    serde_saphyr::from_str(text).unwrap_or_else(|error| panic!("{name}: {error}"))
}

fn default_config() -> String {
    "default".to_owned()
}

/// Those of the reference's first case.
fn default_pods() -> Vec<Pod> {
    [(3, 0.2), (0, 0.1), (10, 0.2)]
        .map(|(queue, kv)| Pod {
            queue,
            kv,
            ..Default::default()
        })
        .into()
}

fn default_method() -> String {
    "POST".to_owned()
}

fn default_path() -> Option<String> {
    Some("/v1/completions".to_owned())
}

fn ok() -> u16 {
    200
}

/// Puts the addresses of the pods in the places of `$pod0`, `$ip0`, …
pub(crate) fn fill(text: &str, pods: &[SocketAddr]) -> String {
    let mut text = text.to_owned();
    for (number, pod) in pods.iter().enumerate() {
        text = text
            .replace(&format!("$pod{number}"), &pod.to_string())
            .replace(&format!("$ip{number}"), &pod.ip().to_string());
    }
    text
}

// === impl Entry ===

impl Entry {
    fn cases(self, clients: &[String]) -> Vec<Case> {
        let id = match &self.case {
            Value::String(id) => id.clone(),
            number => number.to_string(),
        };
        let several = !self.requests.is_empty();
        let turns = (!self.turns.is_empty()).then(Request::default);
        let requests = self.request.into_iter().chain(self.requests).chain(turns);
        let repeated = |turn: &Turn| std::iter::repeat_n(turn.clone(), turn.repeat);
        let turns: Vec<_> = self.turns.iter().flat_map(repeated).collect();
        let case = |request: Request| Case {
            id: id.clone(),
            title: match (several, &request.note, &request.path) {
                (true, Some(note), _) => format!("{}: {note}", self.title),
                (true, None, Some(path)) => format!("{}: {} {path}", self.title, request.method),
                _ => self.title.clone(),
            },
            differs: self.differs.clone(),
            config: self.config.clone(),
            clients: self.clients.clone().unwrap_or_else(|| clients.to_vec()),
            pods: self.pods.clone(),
            objectives: self.objectives.clone(),
            request,
            response: self.response.clone(),
            interrupt: self.interrupt,
            holding: self.holding,
            texts: self.texts.clone(),
            turns: turns.clone(),
            expect: self.expect.clone(),
        };
        requests.map(case).collect()
    }
}

// === impl Case ===

impl fmt::Display for Case {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "case {} ({})", self.id, self.title)
    }
}

// === impl Response ===

impl Response {
    /// 200 and nothing else.
    pub(crate) fn bare() -> Self {
        Self {
            status: ok(),
            headers: BTreeMap::new(),
            chunks: Vec::new(),
            events: Vec::new(),
            trailers: BTreeMap::new(),
            served: None,
            end: None,
            lockstep: false,
        }
    }
}

// === impl Values ===

impl Values {
    pub(crate) fn list(&self) -> &[String] {
        match self {
            Self::One(value) => std::slice::from_ref(value),
            Self::Many(values) => values,
        }
    }
}
