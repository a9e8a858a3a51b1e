//! The API, as it is asked over HTTP.

use std::convert::Infallible;
use std::future::Future;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use axum::Json;
use axum::body::{Body, Bytes};
use axum::extract::Request;
use axum::http::{HeaderValue, Method, StatusCode, header};
use axum::response::{IntoResponse as _, Response};
use futures_util::stream;
use http_body_util::{BodyExt as _, Limited};
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use serde_json::{Value, json};
use tokio::net::TcpListener;
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep_until};

use super::reviews;
use super::store::{Refused, Selected, merge};
use super::types::{TYPES, Type};
use super::{ApiServer, Call};

/// The largest body taken.
const LARGEST_BODY: usize = 4 << 20;
/// How long a watch lasts that does not say.
const WATCH: Duration = Duration::from_secs(1800);

/// What a request is for.
struct Asked {
    selected: Selected,
    status: bool,
    query: Vec<(String, String)>,
}

/// Where a watch has got to.
struct Watching {
    server: Arc<ApiServer>,
    selected: Selected,
    version: u64,
    bookmarks: bool,
    ends: Instant,
    next_bookmark: Instant,
    newest: tokio::sync::watch::Receiver<u64>,
    breaks: tokio::sync::watch::Receiver<u64>,
    voice: Voice,
    over: bool,
}

/// Whether anything can be said on a connection.
#[derive(Clone)]
struct Voice {
    silent: tokio::sync::watch::Receiver<bool>,
    lost: tokio::sync::watch::Receiver<u64>,
    /// How often connections had been lost when it was opened.
    opened: u64,
}

pub(super) async fn serve(
    server: Arc<ApiServer>,
    listener: TcpListener,
    stop: impl Future<Output = ()>,
) {
    let mut stop = std::pin::pin!(stop);
    // Dropped with the server, and cut with it.
    let mut connections = JoinSet::new();
    loop {
        let accepted = tokio::select! {
            accepted = listener.accept() => accepted,
            _ = connections.join_next(), if !connections.is_empty() => continue,
            () = &mut stop => return,
        };
        let Ok((connection, _)) = accepted else {
            continue;
        };
        let server = Arc::clone(&server);
        let voice = Voice::of(&server);
        connections.spawn(async move {
            let answer = service_fn(|request: hyper::Request<hyper::body::Incoming>| {
                let (server, voice) = (Arc::clone(&server), voice.clone());
                async move {
                    voice.clone().speaks().await;
                    Ok::<_, Infallible>(answer(server, request.map(Body::new), voice).await)
                }
            });
            let connection = TokioIo::new(connection);
            let http = hyper::server::conn::http1::Builder::new();
            // A client that goes away is no concern of ours.
            let _ = http.serve_connection(connection, answer).await;
        });
    }
}

async fn answer(server: Arc<ApiServer>, request: Request, voice: Voice) -> Response {
    let (parts, body) = request.into_parts();
    let path: Vec<&str> = parts
        .uri
        .path()
        .split('/')
        .filter(|s| !s.is_empty())
        .collect();
    if let ["apis", group, version] = path[..] {
        return resources(&server, group, version);
    }
    let query = parts.uri.query().unwrap_or_default();
    let Some(asked) = asked(&path, query).filter(|asked| server.serves(asked.selected.of)) else {
        return not_served();
    };
    let verb = asked.verb(&parts.method);
    let status = if asked.status { "/status" } else { "" };
    let call = Call {
        verb: verb.to_owned(),
        group: asked.selected.of.group.to_owned(),
        resource: format!("{}{status}", asked.selected.of.plural),
    };
    if let Some(code) = server.called(call, asked.selected.name.as_deref()) {
        let reason = if code == 429 {
            "TooManyRequests"
        } else {
            "Refused"
        };
        return refusal(code, reason, "Refused, as told.");
    }
    let Ok(body) = Limited::new(body, LARGEST_BODY).collect().await else {
        return refusal(413, "RequestEntityTooLarge", "The body is too large.");
    };
    let body = body.to_bytes();
    let body = match body.is_empty() {
        true => Value::Null,
        false => match serde_json::from_slice(&body) {
            Ok(body) => body,
            Err(_) => return refusal(400, "BadRequest", "The body is not JSON."),
        },
    };
    match verb {
        "create" if asked.selected.of.is_review() => reviews::answer(&server, body),
        "watch" => watch(server, asked, voice),
        "list" => list(&server, &asked),
        _ => one(&server, &asked, verb, body),
    }
}

/// `None`: the path is of no type.
fn asked(path: &[&str], query: &str) -> Option<Asked> {
    let (group, version, rest) = match path {
        ["api", "v1", rest @ ..] => ("", "v1", rest),
        ["apis", group, version, rest @ ..] => (*group, *version, rest),
        _ => return None,
    };
    let (namespace, plural, rest) = match rest {
        ["namespaces", namespace, plural, rest @ ..] => (Some(*namespace), plural, rest),
        [plural, rest @ ..] => (None, plural, rest),
        [] => return None,
    };
    let (name, status) = match rest {
        [] => (None, false),
        [name] => (Some(*name), false),
        [name, "status"] => (Some(*name), true),
        _ => return None,
    };
    let uri = format!("/?{query}").parse().ok()?;
    let query = axum::extract::Query::<Vec<(String, String)>>::try_from_uri(&uri)
        .ok()?
        .0;
    let mut asked = Asked {
        selected: Selected {
            of: Type::at(group, version, plural, namespace.is_some())?,
            namespace: namespace.unwrap_or_default().to_owned(),
            labels: Vec::new(),
            node: None,
            name: name.map(str::to_owned),
        },
        status,
        query,
    };
    let labels = asked.query("labelSelector").unwrap_or_default().split(',');
    let labels = labels.filter_map(|label| label.split_once('='));
    asked.selected.labels = labels.map(|(k, v)| (k.to_owned(), v.to_owned())).collect();
    let fields = asked.query("fieldSelector").unwrap_or_default();
    let field = |name: &str| Some(fields.strip_prefix(name)?.to_owned());
    let (name, node) = (field("metadata.name="), field("spec.nodeName="));
    asked.selected.name = name.or(asked.selected.name);
    asked.selected.node = node;
    Some(asked)
}

fn list(server: &ApiServer, asked: &Asked) -> Response {
    let of = asked.selected.of;
    let store = server.store.lock();
    let all = store.select(&asked.selected);
    let number = |name: &str| asked.query(name).and_then(|number| number.parse().ok());
    let first = number("continue").unwrap_or(0).min(all.len());
    let last = number("limit").map_or(all.len(), |limit: usize| all.len().min(first + limit));
    let next = if last < all.len() {
        last.to_string()
    } else {
        String::new()
    };
    let version = store.version().to_string();
    Json(json!({
        "apiVersion": of.api_version(),
        "kind": format!("{}List", of.kind),
        "metadata": {"resourceVersion": version, "continue": next},
        "items": all[first..last],
    }))
    .into_response()
}

fn one(server: &ApiServer, asked: &Asked, verb: &str, body: Value) -> Response {
    let (of, namespace) = (asked.selected.of, asked.selected.namespace.as_str());
    let name = asked.selected.name.as_deref().unwrap_or_default();
    let mut store = server.store.lock();
    let done = match verb {
        "get" => store
            .get(of, namespace, name)
            .cloned()
            .ok_or(Refused::Missing),
        "create" => {
            let mut object = body;
            object["metadata"]["namespace"] = json!(namespace);
            store.create(of, object)
        }
        "update" => store.change(
            of,
            (namespace, name),
            (&body, |object| {
                if asked.status {
                    object["status"] = body["status"].clone();
                    return;
                }
                object["spec"] = body["spec"].clone();
                for field in ["labels", "annotations"] {
                    object["metadata"][field] = body["metadata"][field].clone();
                }
            }),
        ),
        "patch" => store.change(
            of,
            (namespace, name),
            (&body, |object| match asked.status {
                true => merge(&mut object["status"], &body["status"]),
                false => merge(object, &body),
            }),
        ),
        "delete" => store.end(of, (namespace, name), &body),
        _ => return refusal(405, "MethodNotAllowed", "That cannot be done."),
    };
    server.newest.send_replace(store.version());
    match done {
        Ok(object) => Json(object).into_response(),
        Err(Refused::Missing) => refusal(404, "NotFound", "It is not there."),
        Err(Refused::Exists) => refusal(409, "AlreadyExists", "It is there already."),
        Err(Refused::Conflict) => refusal(409, "Conflict", "It is another one by now."),
    }
}

fn watch(server: Arc<ApiServer>, asked: Asked, voice: Voice) -> Response {
    let now = Instant::now();
    let number = |name: &str| asked.query(name).and_then(|number| number.parse().ok());
    let lasts = number("timeoutSeconds").map_or(WATCH, Duration::from_secs);
    let longest = &server.longest_watch;
    longest.fetch_max(lasts.as_secs(), Ordering::Relaxed);
    let watching = Watching {
        version: number("resourceVersion").unwrap_or(0),
        bookmarks: asked.query("allowWatchBookmarks") == Some("true"),
        ends: now + lasts,
        next_bookmark: now + server.bookmarks,
        newest: server.newest.subscribe(),
        breaks: server.breaks.subscribe(),
        selected: asked.selected,
        server,
        voice,
        over: false,
    };
    let lines = stream::unfold(watching, async |mut watching| {
        let line = watching.next().await;
        watching.voice.speaks().await;
        Some((line?, watching))
    });
    let body = Body::from_stream(lines);
    let json = HeaderValue::from_static("application/json");
    ([(header::CONTENT_TYPE, json)], body).into_response()
}

fn resources(server: &ApiServer, group: &str, version: &str) -> Response {
    let ours = TYPES
        .iter()
        .filter(|of| (of.group, of.version) == (group, version));
    let served: Vec<Value> = ours
        .filter(|of| server.serves(of))
        .map(|of| json!({"name": of.plural, "singularName": "", "namespaced": of.is_namespaced(), "kind": of.kind, "verbs": ["get", "list", "watch"]}))
        .collect();
    if served.is_empty() {
        return not_served();
    }
    let group_version = format!("{group}/{version}");
    Json(json!({"kind": "APIResourceList", "apiVersion": "v1", "groupVersion": group_version, "resources": served}))
        .into_response()
}

/// As the real one says it: in plain text, of what it has no idea of.
fn not_served() -> Response {
    (StatusCode::NOT_FOUND, "404 page not found\n").into_response()
}

fn status(code: u16, reason: &str, message: &str) -> Value {
    json!({"kind": "Status", "apiVersion": "v1", "status": "Failure", "code": code, "reason": reason, "message": message})
}

fn refusal(code: u16, reason: &str, message: &str) -> Response {
    let known = StatusCode::from_u16(code).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
    (known, Json(status(code, reason, message))).into_response()
}

// === impl Asked ===

impl Asked {
    fn query(&self, name: &str) -> Option<&str> {
        let mut all = self.query.iter();
        all.find(|(key, _)| key == name)
            .map(|(_, value)| value.as_str())
    }

    fn verb(&self, method: &Method) -> &'static str {
        let watches = ["true", "1"].map(Some).contains(&self.query("watch"));
        let listed = self.query.iter().any(|(key, _)| key == "fieldSelector");
        match (method, &self.selected.name) {
            (&Method::GET, _) if watches => "watch",
            (&Method::GET, Some(_)) if !listed => "get",
            (&Method::GET, _) => "list",
            (&Method::POST, _) => "create",
            (&Method::PUT, _) => "update",
            (&Method::PATCH, _) => "patch",
            (&Method::DELETE, _) => "delete",
            _ => "",
        }
    }
}

// === impl Voice ===

impl Voice {
    fn of(server: &ApiServer) -> Self {
        let lost = server.lost.subscribe();
        let opened = *lost.borrow();
        Self {
            silent: server.silent.subscribe(),
            lost,
            opened,
        }
    }

    /// Waits until something can be said; for good, if the connection was lost.
    async fn speaks(&mut self) {
        let heard = self.silent.wait_for(|silent| !silent).await.is_ok();
        if !heard || *self.lost.borrow() != self.opened {
            std::future::pending().await
        }
    }
}

// === impl Watching ===

impl Watching {
    /// The next lines; `None`: it is over. An error cuts the connection.
    async fn next(&mut self) -> Option<Result<Bytes, std::io::Error>> {
        loop {
            if self.over {
                return None;
            }
            let seen = {
                let store = self.server.store.lock();
                let seen = store.since(self.version, &self.selected);
                self.version = store.version();
                seen
            };
            match seen {
                None => {
                    self.over = true;
                    let gone = status(410, "Expired", "too old resource version");
                    return Some(Ok(line(&json!({"type": "ERROR", "object": gone}))));
                }
                Some(events) if !events.is_empty() => {
                    let lines: Vec<u8> = events.iter().flat_map(line).collect();
                    return Some(Ok(lines.into()));
                }
                Some(_) => {}
            }
            let bookmarks = self.bookmarks;
            tokio::select! {
                _ = self.newest.changed() => {}
                _ = self.breaks.changed() => {
                    self.over = true;
                    return Some(Err(std::io::Error::other("cut, as told")));
                }
                () = sleep_until(self.next_bookmark), if bookmarks => {
                    self.next_bookmark = Instant::now() + self.server.bookmarks;
                    self.server.bookmarked.fetch_add(1, Ordering::Relaxed);
                    return Some(Ok(line(&self.bookmark())));
                }
                () = sleep_until(self.ends) => return None,
            }
        }
    }

    fn bookmark(&self) -> Value {
        let of = self.selected.of;
        let metadata = json!({"resourceVersion": self.version.to_string()});
        let object = json!({"apiVersion": of.api_version(), "kind": of.kind, "metadata": metadata});
        json!({"type": "BOOKMARK", "object": object})
    }
}

fn line(event: &Value) -> Bytes {
    Bytes::from(format!("{event}\n"))
}
