//! Producers, one file each: what other plugins, and the picker itself, need to know of a request.

mod approx_prefix;
mod inflight_load;
mod session;
mod token;

pub use approx_prefix::ApproxPrefix;
pub use inflight_load::InflightLoad;
pub(super) use session::{SESSION_ID, SessionSource};

use super::RequestHeaders;
use crate::config::{PickerConfig, PluginUse, Problem};

/// The producers of a configuration.
#[derive(Debug, Default)]
pub struct Producers {
    /// Has requests weighed, if there is one.
    pub inflight: Option<InflightLoad>,
    /// Has prompts looked up and remembered, if there is one.
    pub prefix: Option<ApproxPrefix>,
    agent: Option<SessionSource>,
    /// By the names that other plugins may call them.
    sessions: Vec<(String, SessionSource)>,
}

// === impl Producers ===

impl Producers {
    pub(super) fn of(config: &PickerConfig, problems: &mut Vec<Problem>) -> Self {
        let mut producers = Self::default();
        for plugin in &config.producers {
            if let Err(problem) = producers.add(plugin) {
                problems.push(problem);
            }
        }
        producers
    }

    fn add(&mut self, plugin: &PluginUse) -> Result<(), Problem> {
        match plugin.entry.name {
            "inflight-load-producer" => self.inflight = Some(InflightLoad::of(plugin)?),
            "approx-prefix-cache-producer" => self.prefix = Some(ApproxPrefix::of(plugin)?),
            "session-id-producer" => {
                let source = SessionSource::session_id(plugin)?;
                // What it produces is called so, whatever the plugin is called.
                self.sessions
                    .push(("session-id".to_owned(), source.clone()));
                self.sessions.push((plugin.name.clone(), source));
            }
            "agent-identity" => {
                let source = SessionSource::agent(plugin)?;
                self.agent = Some(source.clone());
                self.sessions
                    .push(("agent-identity".to_owned(), source.clone()));
                self.sessions.push((plugin.name.clone(), source));
            }
            "token-producer" | "tokenizer" => token::check(plugin)?,
            name => {
                let message = format!("plugin type `{name}` cannot be made");
                return Err(Problem::new(0, message));
            }
        }
        Ok(())
    }

    /// The flow of a request that names none.
    pub fn flow<'a>(&self, headers: &'a dyn RequestHeaders) -> Option<&'a str> {
        self.agent.as_ref()?.read(headers)
    }

    /// What a request calls its session: where the configuration says that it is, or else where clients and agents say so.
    pub fn session_of<'a>(&self, headers: &'a dyn RequestHeaders) -> Option<&'a str> {
        let configured = self
            .sessions
            .iter()
            .find_map(|(_, source)| source.read(headers));
        configured.or_else(|| SessionSource::usual(headers))
    }

    /// Whether the prefix cache producer is called `name`, as `plugin` says; whoever says nothing takes the one there is.
    pub(super) fn prefix_named(&self, plugin: &PluginUse, name: &str) -> Result<(), Problem> {
        let known = self.prefix.as_ref().map(|prefix| &*prefix.name);
        if name.is_empty() || known == Some(name) {
            return Ok(());
        }
        let message = match known {
            Some(known) => {
                format!("no prefix cache producer is called `{name}`; there is `{known}`")
            }
            None => format!("no prefix cache producer is called `{name}`"),
        };
        let field = "prefixMatchInfoProducerName";
        Err(plugin.parameters.field_problem(field, &message))
    }

    /// Where the session id is that is called `attribute`.
    pub(super) fn session(&self, attribute: &str) -> Option<&SessionSource> {
        let found = self.sessions.iter().find(|(name, _)| name == attribute);
        found.map(|(_, source)| source)
    }
}
