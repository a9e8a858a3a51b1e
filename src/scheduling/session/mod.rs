//! What `session-affinity-filter` and `session-affinity-scorer` share: where a session was before.
//!
//! Two strategies:
//!
//! - `encoded_endpoint_header` (the default): the response carries a [`token`] of the endpoint that served in
//!   `encodedEndpointHeaderConfig.header` (`x-session-token`); the client sends it back. Nothing is kept here. It needs the
//!   response to come by here: in the decision-only profile no token is written.
//! - `session_id`: the client names its session; the endpoint that it was sent to is kept for
//!   `sessionIdConfig.evictionTtlSeconds` (300) after the last request, in [`bindings`]. `sessionIdConfig.sources` says
//!   where the name is, in the order in which it is looked for: each is a `header` or an `attribute` that
//!   `session-id-producer` or `agent-identity` produces; by default the header `x-session-id`. `evictionSweepSeconds`
//!   (10) is how long a dead binding takes room.
//!
//! What a session comes back to is the request's destination, or what the profile `profileName` chose, if it ran: a prefill
//! profile has a plugin of its own, with its own `profileName` and header.
//!
//! A session that was nowhere, whose endpoint is gone, or whose token is not ours wants nothing; under `session_id` it is
//! bound to where it goes then. Source: the llm-d picker, whose token is the endpoint's name in base64 **[bug]**:
//! anyone can read and make it.

use bytes::Bytes;
use serde::{Deserialize, Serialize};

use super::per_endpoint::PerEndpoint;
use super::producers::{Producers, SESSION_ID, SessionSource};
use super::{Context, Follow, Follows, Stamp, header_name};
use crate::config::{PickerConfig, PluginUse, Problem, did_you_mean};
use crate::pool::{EndpointId, Member};

mod bindings;
mod token;

use bindings::Bindings;
use token::TokenKey;

/// More places than anyone has session ids in.
const MOST_SOURCES: usize = 16;

/// Where sessions were before.
#[derive(Debug)]
pub(super) struct Sessions {
    way: Way,
    /// The profile whose endpoint a session comes back to, if it is not the destination.
    profile: Option<String>,
}

/// How that is known.
#[derive(Debug)]
enum Way {
    Token {
        header: String,
        key: Box<TokenKey>,
        tokens: PerEndpoint<u128>,
    },
    Id {
        sources: Vec<SessionSource>,
        bindings: Bindings,
        names: PerEndpoint<u64>,
        /// Clients choose session ids: none may know which of them are one to us.
        seed: u64,
    },
}

#[derive(Debug, Default, Deserialize, Serialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase", default)]
struct Params {
    strategy: Strategy,
    profile_name: String,
    encoded_endpoint_header_config: HeaderParams,
    session_id_config: IdParams,
}

#[derive(Clone, Copy, Debug, Default, Deserialize, Serialize)]
#[serde(rename_all = "snake_case")]
enum Strategy {
    #[default]
    EncodedEndpointHeader,
    SessionId,
}

#[derive(Debug, Deserialize, Serialize)]
#[serde(deny_unknown_fields, default)]
struct HeaderParams {
    header: String,
}

#[derive(Debug, Deserialize, Serialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase", default)]
struct IdParams {
    sources: Vec<SourceParams>,
    eviction_ttl_seconds: f64,
    eviction_sweep_seconds: f64,
}

#[derive(Debug, Default, Deserialize, Serialize)]
#[serde(deny_unknown_fields, default)]
struct SourceParams {
    header: String,
    attribute: String,
}

impl Default for HeaderParams {
    fn default() -> Self {
        Self {
            header: "x-session-token".to_owned(),
        }
    }
}

impl Default for IdParams {
    fn default() -> Self {
        Self {
            sources: Vec::new(),
            eviction_ttl_seconds: 300.0,
            eviction_sweep_seconds: 10.0,
        }
    }
}

// === impl Sessions ===

impl Sessions {
    pub(super) fn of(
        plugin: &PluginUse,
        config: &PickerConfig,
        producers: &Producers,
    ) -> Result<Self, Problem> {
        let params: Params = plugin.parameters.read()?;
        let profile = Some(params.profile_name).filter(|name| !name.is_empty());
        if let Some(name) = &profile
            && !config.profiles.iter().any(|known| known.name == *name)
        {
            let known = config.profiles.iter().map(|known| known.name.as_str());
            let hint = did_you_mean(name, known);
            let message = format!("no scheduling profile is called `{name}`{hint}");
            return Err(plugin.parameters.field_problem("profileName", &message));
        }
        let way = match params.strategy {
            Strategy::EncodedEndpointHeader => {
                let (field, header) = (
                    "encodedEndpointHeaderConfig.header",
                    params.encoded_endpoint_header_config.header,
                );
                let problem = |error: String| plugin.parameters.field_problem("strategy", &error);
                Way::Token {
                    header: header_name(plugin, field, &header)?,
                    key: Box::new(TokenKey::shared().map_err(problem)?),
                    tokens: PerEndpoint::default(),
                }
            }
            Strategy::SessionId => Self::id(plugin, &params.session_id_config, producers)?,
        };
        Ok(Self { way, profile })
    }

    fn id(plugin: &PluginUse, params: &IdParams, producers: &Producers) -> Result<Way, Problem> {
        let problem = |field: &str, message: &str| {
            let field = format!("sessionIdConfig.{field}");
            plugin.parameters.field_problem(&field, message)
        };
        if params.sources.len() > MOST_SOURCES {
            let message = format!("has more than {MOST_SOURCES} entries");
            return Err(problem("sources", &message));
        }
        let mut sources = Vec::new();
        for (n, source) in params.sources.iter().enumerate() {
            let field = format!("sources[{n}]");
            sources.push(match (source.header.as_str(), source.attribute.as_str()) {
                (header, "") if !header.is_empty() => {
                    let field = format!("sessionIdConfig.{field}.header");
                    SessionSource::Headers(vec![header_name(plugin, &field, header)?])
                }
                ("", attribute) if !attribute.is_empty() => match producers.session(attribute) {
                    Some(source) => source.clone(),
                    None => {
                        let message = format!(
                            "nothing produces `{attribute}`; declare a session-id-producer or agent-identity of that name"
                        );
                        return Err(problem(&format!("{field}.attribute"), &message));
                    }
                },
                _ => return Err(problem(&field, "give one of header and attribute")),
            });
        }
        if sources.is_empty() {
            sources.push(SessionSource::Headers(vec![SESSION_ID.to_owned()]));
        }
        let millis = |field: &str, seconds: f64| match seconds {
            seconds if seconds > 0.0 && seconds <= 1e9 => Ok((seconds * 1000.0).ceil() as u64),
            _ => Err(problem(field, "is not a positive number of seconds")),
        };
        Ok(Way::Id {
            sources,
            bindings: Bindings::new(
                millis("evictionTtlSeconds", params.eviction_ttl_seconds)?,
                millis("evictionSweepSeconds", params.eviction_sweep_seconds)?,
            ),
            names: PerEndpoint::default(),
            seed: rand::random(),
        })
    }

    /// The candidate that the request's session was at.
    pub(super) fn pinned(&self, cx: &Context<'_>, candidates: &[u32]) -> Option<u32> {
        let mut candidates = candidates.iter().copied();
        match &self.way {
            Way::Token {
                header,
                key,
                tokens,
            } => {
                let wanted = token::read(cx.request.headers.get(header)?)?;
                let tokens = tokens.of(cx.snapshot, |endpoint| key.token(header, &endpoint.id));
                candidates.find(|&candidate| tokens.1[candidate as usize] == wanted)
            }
            Way::Id {
                bindings, names, ..
            } => {
                let wanted = bindings.get(self.session(cx)?, cx.now_ms)?;
                let names = names.of(cx.snapshot, |endpoint| name_of(&endpoint.id));
                candidates.find(|&candidate| names.1[candidate as usize] == wanted)
            }
        }
    }

    fn session(&self, cx: &Context<'_>) -> Option<u64> {
        let Way::Id { sources, seed, .. } = &self.way else {
            return None;
        };
        let mut sources = sources.iter();
        let id = sources.find_map(|source| source.read(cx.request.headers))?;
        Some(xxhash_rust::xxh3::xxh3_64_with_seed(id.as_bytes(), *seed))
    }
}

impl Follow for Sessions {
    fn follows(&self) -> Follows<'_> {
        let named = self.profile.as_deref().map(Follows::Profile);
        named.unwrap_or(Follows::Destination)
    }

    fn picked(&self, cx: &Context<'_>, endpoint: u32) {
        if let (Way::Id { bindings, .. }, Some(session)) = (&self.way, self.session(cx)) {
            let name = name_of(&cx.snapshot.member(endpoint).endpoint.id);
            bindings.bind(session, name, cx.now_ms);
        }
    }

    fn stamp(&self, served: &Member) -> Option<Stamp> {
        let Way::Token { header, key, .. } = &self.way else {
            return None;
        };
        let token = token::write(key.token(header, &served.endpoint.id));
        Some(Stamp {
            name: header.clone(),
            value: Bytes::from(token),
        })
    }

    fn state(&self) -> Option<serde_json::Value> {
        match &self.way {
            Way::Token { .. } => None,
            Way::Id { bindings, .. } => {
                Some(serde_json::json!({ "session_bindings": bindings.count() }))
            }
        }
    }
}

fn name_of(id: &EndpointId) -> u64 {
    let mut hasher = xxhash_rust::xxh3::Xxh3Default::new();
    for part in [&id.namespace, &id.name] {
        hasher.update(part.as_bytes());
        hasher.update(&[0]);
    }
    hasher.digest()
}

#[cfg(test)]
mod tests;
