//! Which session a request belongs to: `session-id-producer` and `agent-identity`.
//!
//! `session-id-producer` takes it from one header (`headerName`) or one cookie (`cookieName`); exactly one of the two.
//! `agent-identity` (alpha) takes it from the first of these headers that is there and not empty: the names in
//! `additionalSessionHeaders`, then those that agents send on their own: `x-claude-code-session-id`,
//! `x-session-affinity`, `session-id`, `session_id`. It is also the flow (fairness id) of a request that names none, so
//! that all turns of an agent share one. Source: the llm-d picker. Both serve `session-affinity-*`, as `attribute`.

use serde::{Deserialize, Serialize};

use super::super::{RequestHeaders, header_name};
use crate::config::{PluginUse, Problem};

/// Headers that agents send on their own.
const AGENTS: [&str; 4] = [
    "x-claude-code-session-id",
    "x-session-affinity",
    "session-id",
    "session_id",
];
/// The header that clients name their session in, if they were told no other.
pub(in crate::scheduling) const SESSION_ID: &str = "x-session-id";
/// More headers than anyone's agents use.
const MOST_HEADERS: usize = 32;

/// Where a session's id is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(in crate::scheduling) enum SessionSource {
    /// In the first of these headers that is there and not empty.
    Headers(Vec<String>),
    Cookie(String),
}

#[derive(Debug, Default, Deserialize, Serialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase", default)]
struct SessionIdParams {
    header_name: String,
    cookie_name: String,
}

#[derive(Debug, Default, Deserialize, Serialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase", default)]
struct AgentParams {
    additional_session_headers: Vec<String>,
}

// === impl SessionSource ===

impl SessionSource {
    /// `session-id-producer`.
    pub(super) fn session_id(plugin: &PluginUse) -> Result<Self, Problem> {
        let params: SessionIdParams = plugin.parameters.read()?;
        match (params.header_name.as_str(), params.cookie_name.as_str()) {
            (header, "") if !header.is_empty() => {
                let header = header_name(plugin, "headerName", header)?;
                Ok(Self::Headers(vec![header]))
            }
            ("", cookie) if !cookie.is_empty() => Ok(Self::Cookie(cookie.to_owned())),
            _ => {
                let message = "give one of headerName and cookieName";
                Err(plugin.parameters.field_problem("", message))
            }
        }
    }

    /// `agent-identity`.
    pub(super) fn agent(plugin: &PluginUse) -> Result<Self, Problem> {
        let params: AgentParams = plugin.parameters.read()?;
        let more = params.additional_session_headers;
        let field = "additionalSessionHeaders";
        if more.len() > MOST_HEADERS {
            let message = format!("has more than {MOST_HEADERS} names");
            return Err(plugin.parameters.field_problem(field, &message));
        }
        let more = more.iter().map(|name| header_name(plugin, field, name));
        let known = AGENTS.iter().map(|name| Ok((*name).to_owned()));
        more.chain(known)
            .collect::<Result<_, _>>()
            .map(Self::Headers)
    }

    /// The session's id where nothing is configured.
    pub(super) fn usual(headers: &dyn RequestHeaders) -> Option<&str> {
        let names = std::iter::once(SESSION_ID).chain(AGENTS);
        let mut ids = names.filter_map(|name| headers.get(name));
        ids.find(|id| !id.is_empty())
    }

    /// The session's id.
    pub(in crate::scheduling) fn read<'a>(
        &self,
        headers: &'a dyn RequestHeaders,
    ) -> Option<&'a str> {
        match self {
            Self::Headers(names) => names
                .iter()
                .find_map(|name| headers.get(name).filter(|value| !value.is_empty())),
            Self::Cookie(wanted) => {
                let pairs = headers.get("cookie")?.split(';');
                pairs
                    .filter_map(|pair| pair.trim().split_once('='))
                    .find(|(name, _)| name == wanted)
                    .map(|(_, value)| value.trim_matches('"'))
                    .filter(|value| !value.is_empty())
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::super::testing::{Given, producer};
    use super::*;

    #[test]
    fn headers_and_cookies() {
        let header =
            SessionSource::session_id(&producer("session-id-producer", "{headerName: X-S}"));
        let cookie =
            SessionSource::session_id(&producer("session-id-producer", "{cookieName: sid}"));
        let agent = SessionSource::agent(&producer(
            "agent-identity",
            "{additionalSessionHeaders: [X-Mine]}",
        ));
        let (header, cookie, agent) = (header.unwrap(), cookie.unwrap(), agent.unwrap());
        for (source, headers, expected) in [
            (&header, &[("x-s", "1")][..], Some("1")),
            (&header, &[("x-s", "")], None),
            (&header, &[("cookie", "sid=1")], None),
            (&cookie, &[("cookie", "a=b; sid=\"1\"; c")], Some("1")),
            (&cookie, &[("cookie", "xsid=1; sid=")], None),
            (
                &agent,
                &[("session_id", "4"), ("session-id", "3")],
                Some("3"),
            ),
            (
                &agent,
                &[("session_id", "4"), ("x-session-affinity", "2")],
                Some("2"),
            ),
            (
                &agent,
                &[("x-claude-code-session-id", ""), ("session_id", "4")],
                Some("4"),
            ),
            (
                &agent,
                &[("x-claude-code-session-id", "1"), ("x-mine", "0")],
                Some("0"),
            ),
            (&agent, &[("x-s", "1")], None),
        ] {
            assert_eq!(
                source.read(&Given(headers)),
                expected,
                "{source:?} {headers:?}"
            );
        }
    }

    #[test]
    fn a_session_is_found_without_configuration() {
        for (headers, expected) in [
            (&[("x-session-id", "1"), ("session-id", "2")][..], Some("1")),
            (&[("x-session-id", ""), ("session-id", "2")], Some("2")),
            (&[("x-s", "1")], None),
        ] {
            assert_eq!(SessionSource::usual(&Given(headers)), expected);
        }
    }

    #[test]
    fn one_place_is_needed() {
        for parameters in [
            "{}",
            "{headerName: a, cookieName: b}",
            "{headerName: 'a b'}",
        ] {
            let plugin = producer("session-id-producer", parameters);
            assert!(SessionSource::session_id(&plugin).is_err(), "{parameters}");
        }
    }
}
