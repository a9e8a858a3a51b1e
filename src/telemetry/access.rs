//! Who may read the pages of the metrics port, where not everybody may.
//!
//! Whoever asks shows a bearer token; whose it is, and whether he may read that page, an [`Authority`] says. What it said holds
//! for a minute, a refusal for ten seconds. Tokens are kept as digests alone, and no more than [`MOST`] of them with a page.
//! Whoever makes up tokens can neither have us flood the authority nor keep out who was let in before: of those that are not known
//! [`STRANGERS`] a second are asked about, and those that were permitted wait in a line of their own.
//!
//! | Answer | When |
//! |---|---|
//! | 401 | there is no token, or it is nobody's |
//! | 403 | its owner may not read that page |
//! | 429 | too many come with tokens that are not known |
//! | 503 | the authority cannot be asked |

use std::collections::HashMap;
use std::fmt;
use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use aws_lc_rs::digest;
use axum::extract::{Request, State};
use axum::http::{HeaderMap, StatusCode, header};
use axum::middleware::Next;
use axum::response::{IntoResponse as _, Response};
use parking_lot::Mutex;
use tokio::sync::Semaphore;
use tokio::time::{Instant, timeout};

/// Answers of the authority that are kept.
const MOST: usize = 1024;
/// How long a permission holds, and a refusal.
const PERMITTED: Duration = Duration::from_secs(60);
const REFUSED: Duration = Duration::from_secs(10);
/// How often the authority is asked at a time, about each of the two kinds.
const ASKED_AT_ONCE: usize = 4;
/// How many in a second it is asked about that are not known.
const STRANGERS: u32 = 20;
/// How long whoever asks waits for its answer.
const PATIENCE: Duration = Duration::from_secs(10);
/// No page's path: with it a token is known that was permitted to read some page.
const ANYWHERE: &str = "";
/// Bytes of a token.
const LONGEST: usize = 16 << 10;

/// What an authority says of a token and a page.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Access {
    /// Its owner may read it.
    Permitted,
    /// It is nobody's.
    Unknown,
    /// Its owner, who is called so, may not.
    Forbidden(String),
}

/// An authority's answer to come; the error says why there is none.
pub type Answer<'a> = Pin<Box<dyn Future<Output = Result<Access, String>> + Send + 'a>>;

/// Knows whose tokens are, and who may read what.
pub trait Authority: Send + Sync + 'static {
    /// Whether the owner of `token` may read the page at `path`.
    fn ask<'a>(&'a self, token: &'a str, path: &'a str) -> Answer<'a>;
}

/// Lets nobody past whom an authority does not permit.
pub struct Gate {
    authority: Box<dyn Authority>,
    known: Mutex<HashMap<Key, Known>>,
    /// About those that were permitted before.
    renewing: Semaphore,
    asking: Semaphore,
    /// Strangers of this second, and when it began.
    strangers: Mutex<(Instant, u32)>,
    /// It could not be asked the last time.
    failing: AtomicBool,
}

/// The digest of a token and a page.
type Key = [u8; digest::SHA256_OUTPUT_LEN];

struct Known {
    access: Access,
    until: Instant,
}

/// What is known of who asks.
enum Before {
    /// What holds still.
    Holds(Access),
    /// It was permitted a while ago.
    Permitted,
    Nothing,
}

/// Why there is no answer.
#[derive(Debug, PartialEq, Eq)]
enum Unanswered {
    TooMany,
    Failed(String),
}

// === impl Gate ===

impl Gate {
    /// As `authority` says.
    pub fn new(authority: impl Authority) -> Self {
        Self {
            authority: Box::new(authority),
            known: Mutex::default(),
            renewing: Semaphore::new(ASKED_AT_ONCE),
            asking: Semaphore::new(ASKED_AT_ONCE),
            strangers: Mutex::new((Instant::now(), 0)),
            failing: AtomicBool::new(false),
        }
    }

    /// The answer in the page's place, if there is to be one.
    async fn refusal(&self, headers: &HeaderMap, path: &str) -> Option<Response> {
        let Some(token) = bearer(headers).filter(|token| token.len() <= LONGEST) else {
            let text = "there is no token: send `Authorization: Bearer TOKEN`\n";
            return Some(unauthorized(text));
        };
        let access = match timeout(PATIENCE, self.access(token, path)).await {
            Ok(access) => access,
            Err(_) => Err(Unanswered::Failed("there is no answer in time".to_owned())),
        };
        match access {
            Ok(access) => {
                self.failing.store(false, Ordering::Relaxed);
                match access {
                    Access::Permitted => None,
                    Access::Unknown => Some(unauthorized("the token is not valid\n")),
                    Access::Forbidden(user) => {
                        let text = format!("{user} has no right to get {path}\n");
                        Some((StatusCode::FORBIDDEN, text).into_response())
                    }
                }
            }
            Err(Unanswered::TooMany) => {
                let text = "too many come with tokens that are not known; try again in a second\n";
                Some((StatusCode::TOO_MANY_REQUESTS, text).into_response())
            }
            Err(Unanswered::Failed(error)) => {
                // One line for a spell of failures.
                if !self.failing.swap(true, Ordering::Relaxed) {
                    tracing::warn!(error, "Who may read the metrics cannot be found out.");
                }
                let text = format!("who may read {path} cannot be found out: {error}\n");
                Some((StatusCode::SERVICE_UNAVAILABLE, text).into_response())
            }
        }
    }

    async fn access(&self, token: &str, path: &str) -> Result<Access, Unanswered> {
        let (key, anywhere) = (key(token, path), key(token, ANYWHERE));
        let before = match self.known(&key) {
            Before::Nothing if !matches!(self.known(&anywhere), Before::Nothing) => {
                Before::Permitted
            }
            before => before,
        };
        let line = match before {
            Before::Holds(access) => return Ok(access),
            Before::Permitted => &self.renewing,
            Before::Nothing if self.is_one_too_many() => return Err(Unanswered::TooMany),
            Before::Nothing => &self.asking,
        };
        let closed = |_| Unanswered::Failed("the process ends".to_owned());
        let _permit = line.acquire().await.map_err(closed)?;
        // Another may have asked the same meanwhile.
        if let Before::Holds(access) = self.known(&key) {
            return Ok(access);
        }
        let asked = self.authority.ask(token, path).await;
        let access = asked.map_err(Unanswered::Failed)?;
        match access {
            Access::Permitted => self.keep(anywhere, Access::Permitted),
            // Whose token is taken back is a stranger again.
            Access::Unknown => drop(self.known.lock().remove(&anywhere)),
            Access::Forbidden(_) => {}
        }
        self.keep(key, access.clone());
        Ok(access)
    }

    fn known(&self, key: &Key) -> Before {
        match self.known.lock().get(key) {
            Some(known) if Instant::now() < known.until => Before::Holds(known.access.clone()),
            Some(known) if known.access == Access::Permitted => Before::Permitted,
            _ => Before::Nothing,
        }
    }

    /// Counts a stranger.
    fn is_one_too_many(&self) -> bool {
        let mut strangers = self.strangers.lock();
        let now = Instant::now();
        if now.duration_since(strangers.0) >= Duration::from_secs(1) {
            *strangers = (now, 0);
        }
        strangers.1 += 1;
        strangers.1 > STRANGERS
    }

    fn keep(&self, key: Key, access: Access) {
        let now = Instant::now();
        let until = now
            + match access {
                Access::Permitted => PERMITTED,
                Access::Unknown | Access::Forbidden(_) => REFUSED,
            };
        let mut known = self.known.lock();
        let is_permitted = |known: &Known| known.access == Access::Permitted;
        let holds = |known: &Known| now < known.until;
        // Those who were refused come again and again; they must not drive out those who were not.
        if known.len() >= MOST {
            known.retain(|_, known| is_permitted(known) || holds(known));
        }
        if known.len() >= MOST {
            known.retain(|_, known| is_permitted(known));
        }
        if known.len() >= MOST {
            if access != Access::Permitted {
                return;
            }
            known.retain(|_, known| holds(known));
        }
        if known.len() >= MOST {
            known.clear();
        }
        known.insert(key, Known { access, until });
    }
}

impl fmt::Debug for Gate {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Gate").finish_non_exhaustive()
    }
}

/// The page, or why not.
pub(super) async fn check(State(gate): State<Arc<Gate>>, request: Request, next: Next) -> Response {
    match gate.refusal(request.headers(), request.uri().path()).await {
        Some(refusal) => refusal,
        None => next.run(request).await,
    }
}

fn unauthorized(text: &'static str) -> Response {
    let challenge = [(header::WWW_AUTHENTICATE, "Bearer")];
    (StatusCode::UNAUTHORIZED, challenge, text).into_response()
}

fn bearer(headers: &HeaderMap) -> Option<&str> {
    let value = headers.get(header::AUTHORIZATION)?.to_str().ok()?;
    let (scheme, token) = value.split_once(' ')?;
    let token = token.trim();
    (scheme.eq_ignore_ascii_case("bearer") && !token.is_empty()).then_some(token)
}

fn key(token: &str, path: &str) -> Key {
    let mut context = digest::Context::new(&digest::SHA256);
    context.update(token.as_bytes());
    // No header has it, so no other token and path are alike.
    context.update(&[0]);
    context.update(path.as_bytes());
    let mut key = Key::default();
    key.copy_from_slice(context.finish().as_ref());
    key
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::atomic::AtomicUsize;

    /// Knows `prometheus`, who may read `/metrics`, and `admin`, who may read all.
    #[derive(Clone, Default)]
    struct Office {
        asked: Arc<AtomicUsize>,
        closed: Arc<AtomicBool>,
    }

    impl Authority for Office {
        fn ask<'a>(&'a self, token: &'a str, path: &'a str) -> Answer<'a> {
            self.asked.fetch_add(1, Ordering::Relaxed);
            Box::pin(async move {
                if self.closed.load(Ordering::Relaxed) {
                    return Err("it is closed".to_owned());
                }
                Ok(match (token, path) {
                    ("admin", _) | ("prometheus", "/metrics") => Access::Permitted,
                    ("prometheus", _) => Access::Forbidden(token.to_owned()),
                    _ => Access::Unknown,
                })
            })
        }
    }

    async fn status(gate: &Gate, authorization: Option<&str>, path: &str) -> u16 {
        let mut headers = HeaderMap::new();
        if let Some(value) = authorization {
            headers.insert(header::AUTHORIZATION, value.parse().unwrap());
        }
        let refusal = gate.refusal(&headers, path).await;
        refusal.map_or(200, |refusal| refusal.status().as_u16())
    }

    #[tokio::test]
    async fn who_is_permitted_reads() {
        let gate = Gate::new(Office::default());
        let long = format!("Bearer {}", "x".repeat(LONGEST + 1));
        for (authorization, path, expected) in [
            (None, "/metrics", 401),
            (Some("Basic admin"), "/metrics", 401),
            (Some("Bearer"), "/metrics", 401),
            (Some("Bearer  "), "/metrics", 401),
            (Some(&*long), "/metrics", 401),
            (Some("Bearer stranger"), "/metrics", 401),
            (Some("Bearer prometheus"), "/metrics", 200),
            (Some("bearer prometheus"), "/debug/gpus", 403),
            (Some("BEARER admin"), "/debug/gpus", 200),
        ] {
            assert_eq!(
                status(&gate, authorization, path).await,
                expected,
                "{authorization:?} {path}"
            );
        }
    }

    #[tokio::test(start_paused = true)]
    async fn an_answer_holds_for_a_while() {
        let office = Office::default();
        let gate = Gate::new(office.clone());
        let asked = || office.asked.load(Ordering::Relaxed);
        let ask = async |token: &str| status(&gate, Some(token), "/metrics").await;
        for _ in 0..3 {
            assert_eq!(ask("Bearer admin").await, 200);
            assert_eq!(ask("Bearer stranger").await, 401);
        }
        assert_eq!(asked(), 2);
        tokio::time::advance(REFUSED).await;
        assert_eq!(ask("Bearer admin").await, 200);
        assert_eq!(ask("Bearer stranger").await, 401);
        assert_eq!(asked(), 3);
        tokio::time::advance(PERMITTED - REFUSED).await;
        office.closed.store(true, Ordering::Relaxed);
        assert_eq!(ask("Bearer admin").await, 503);
        assert_eq!(asked(), 4);
        office.closed.store(false, Ordering::Relaxed);
        assert_eq!(ask("Bearer admin").await, 200);
    }

    #[tokio::test(start_paused = true)]
    async fn strangers_do_not_drive_out_who_is_known() {
        let office = Office::default();
        let gate = Gate::new(office.clone());
        assert_eq!(status(&gate, Some("Bearer admin"), "/metrics").await, 200);
        tokio::time::advance(Duration::from_secs(1)).await;
        for n in 0..3 * MOST {
            let stranger = format!("Bearer {n}");
            assert_eq!(status(&gate, Some(&stranger), "/metrics").await, 401);
            assert!(gate.known.lock().len() <= MOST);
            tokio::time::advance(Duration::from_secs(1) / STRANGERS).await;
        }
        let asked = office.asked.load(Ordering::Relaxed);
        tokio::time::advance(Duration::from_secs(1)).await;
        for n in 0..2 * STRANGERS {
            let expected = if n < STRANGERS { 401 } else { 429 };
            let stranger = format!("Bearer stranger {n}");
            assert_eq!(
                status(&gate, Some(&stranger), "/metrics").await,
                expected,
                "{n}"
            );
        }
        assert_eq!(
            office.asked.load(Ordering::Relaxed),
            asked + STRANGERS as usize
        );
        // Who was permitted is no stranger, long after that and whatever else he reads.
        assert_eq!(status(&gate, Some("Bearer admin"), "/metrics").await, 200);
        for n in 0..2 * MOST {
            let path = format!("/debug/decisions/{n}");
            assert_eq!(status(&gate, Some("Bearer admin"), &path).await, 200);
            assert!(gate.known.lock().len() <= MOST);
        }
    }
}
