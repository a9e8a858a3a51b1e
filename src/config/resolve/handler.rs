//! Which profiles run for a request: the profile handler, its deciders, and what used to stand beside it.

use super::super::catalog::Kind;
use super::super::document::Document;
use super::super::params::{
    DataParallelParams, DisaggHeadersParams, DisaggParams, HeaderProfileParams, Parameters,
    PdProfileParams, StageOrder,
};
use super::super::{Problem, did_you_mean};
use super::{PluginUse, ProfileSpec, Resolver, use_of};

/// The handler of a configuration that declares none.
const SINGLE: &str = "single-profile-handler";

/// The profile handler, with everything that it refers to found.
#[derive(Clone, Debug)]
pub struct HandlerUse {
    /// Its name in this file.
    pub name: String,
    /// Its type.
    pub r#type: &'static str,
    /// What it does. Profiles are positions in [`super::PickerConfig::profiles`].
    pub spec: HandlerSpec,
}

/// What a profile handler does.
#[derive(Clone, Debug)]
pub enum HandlerSpec {
    /// Runs the only profile.
    Single,
    /// Runs the profile that a header names.
    Header {
        /// The header, in lower case.
        header: String,
        /// For requests that name none.
        default: usize,
    },
    /// Runs a profile for each stage of a request.
    Disagg(Box<DisaggSpec>),
    /// Runs the only profile, and sends requests to the first rank of what it picks.
    DataParallel {
        /// The port of the first rank.
        primary_port: u16,
    },
}

/// The stages of a disaggregated request.
#[derive(Clone, Debug)]
pub struct DisaggSpec {
    /// Which comes first.
    pub order: StageOrder,
    /// The profile of the destination.
    pub decode: usize,
    /// The profile of prefill and what it depends on, if there is such a stage. Without a decider it always runs.
    pub prefill: Option<(usize, Option<PluginUse>)>,
    /// The profile of encode and what it depends on, if there is such a stage.
    pub encode: Option<(usize, PluginUse)>,
    /// The port of the first rank, where requests go whichever rank was picked.
    pub primary_port: Option<u16>,
}

// === impl Resolver ===

impl Resolver {
    pub(super) fn handler(
        &mut self,
        document: &Document,
        profiles: &[ProfileSpec],
    ) -> Option<HandlerUse> {
        self.pre_request();
        let handlers = self.of_kind(Kind::ProfileHandler);
        if let Some(second) = handlers.get(1) {
            let line = self.declared[*second].line;
            self.problem(line, "plugins: more than one profile handler; keep one");
        }
        let Some(&at) = handlers.first() else {
            self.one_profile(document, SINGLE);
            self.injected
                .push(format!("{SINGLE}: no profile handler is declared"));
            return Some(HandlerUse {
                name: SINGLE.to_owned(),
                r#type: SINGLE,
                spec: HandlerSpec::Single,
            });
        };
        let (name, r#type) = (self.declared[at].name.clone(), self.declared[at].entry.name);
        let (parameters, line) = (self.declared[at].parameters.clone(), self.declared[at].line);
        let spec = match r#type {
            "header-profile-handler" => self.header_profile(&parameters, profiles)?,
            "disagg-profile-handler" => {
                let params = self.read(parameters.read())?;
                HandlerSpec::Disagg(Box::new(self.disagg(&params, &parameters, profiles)?))
            }
            "pd-profile-handler" => HandlerSpec::Disagg(Box::new(self.prefill_decode(
                &parameters,
                line,
                profiles,
            )?)),
            "data-parallel-profile-handler" => {
                self.one_profile(document, r#type);
                let params: DataParallelParams = self.read(parameters.read())?;
                HandlerSpec::DataParallel {
                    primary_port: self.primary_port(params.primary_port, &parameters)?,
                }
            }
            _ => {
                self.one_profile(document, r#type);
                self.read(parameters.read::<super::super::params::NoParams>())?;
                HandlerSpec::Single
            }
        };
        Some(HandlerUse { name, r#type, spec })
    }

    /// A handler of one profile has one.
    fn one_profile(&mut self, document: &Document, handler: &str) {
        if let [_, second, ..] = document.scheduling_profiles.as_slice() {
            let count = document.scheduling_profiles.len();
            let message = format!(
                "schedulingProfiles: {handler} runs one profile and there are {count}; declare a disagg-profile-handler or a header-profile-handler, or keep one profile"
            );
            self.problem(second.name.referenced.line(), message);
        }
    }

    /// What set the headers of a disaggregated request before its profile handler did: nothing is left for it to do, but
    /// what it says must be right.
    fn pre_request(&mut self) {
        for at in self.of_kind(Kind::PreRequest) {
            let parameters = self.declared[at].parameters.clone();
            self.read(parameters.read::<DisaggHeadersParams>());
        }
    }

    fn header_profile(
        &mut self,
        parameters: &Parameters,
        profiles: &[ProfileSpec],
    ) -> Option<HandlerSpec> {
        let params: HeaderProfileParams = self.read(parameters.read())?;
        let header = params.header_name.to_ascii_lowercase();
        if http::HeaderName::try_from(header.as_str()).is_err() {
            let message = format!("`{}` is not the name of a header", params.header_name);
            self.problems
                .push(parameters.field_problem("headerName", &message));
        }
        let default = match profiles.len() {
            // Nothing to choose between.
            1 => 0,
            _ => self.stage(
                &params.default_profile,
                "defaultProfile",
                parameters,
                profiles,
            )?,
        };
        Some(HandlerSpec::Header { header, default })
    }

    fn disagg(
        &mut self,
        params: &DisaggParams,
        parameters: &Parameters,
        profiles: &[ProfileSpec],
    ) -> Option<DisaggSpec> {
        let names = &params.profiles;
        let decode = self.stage(&names.decode, "profiles.decode", parameters, profiles);
        let given = |decider: &'_ Option<String>| decider.clone().filter(|name| !name.is_empty());
        let prefill = given(&params.deciders.prefill).map(|decider| {
            let profile = self.stage(&names.prefill, "profiles.prefill", parameters, profiles);
            let decider = self.decider(&decider, "deciders.prefill", parameters);
            profile.zip(decider)
        });
        let encode = given(&params.deciders.encode).map(|decider| {
            let profile = self.stage(&names.encode, "profiles.encode", parameters, profiles);
            let decider = self.decider(&decider, "deciders.encode", parameters);
            profile.zip(decider)
        });
        let first = params.stage_order == StageOrder::PrefillFirst;
        if let Some(Some((_, decider))) = &prefill
            && first
            && decider.entry.name == "prefix-based-pd-decider"
        {
            let message = format!(
                "`{}` looks at the decode endpoint, which is not chosen yet with stageOrder: prefill-first; remove it, and prefill always runs, or write decode-first",
                decider.name
            );
            self.problems
                .push(parameters.field_problem("deciders.prefill", &message));
        }
        let prefill = match prefill {
            Some(stage) => Some(stage.map(|(profile, decider)| (profile, Some(decider)))),
            None if first => position(&names.prefill, profiles).map(|at| Some((at, None))),
            None => None,
        };
        // Where a stage was not found there is a problem, and the configuration is not used.
        let (prefill, encode) = (prefill.flatten(), encode.flatten());
        for (name, runs) in [
            (&names.prefill, prefill.is_some()),
            (&names.encode, encode.is_some()),
        ] {
            if !runs && position(name, profiles).is_some() {
                let message = format!(
                    "profile `{name}` never runs: `{}` has no decider for it",
                    parameters.plugin()
                );
                self.warnings.push(Problem::new(parameters.at(), message));
            }
        }
        Some(DisaggSpec {
            order: params.stage_order,
            decode: decode?,
            prefill,
            encode,
            primary_port: None,
        })
    }

    /// `pd-profile-handler`: a decode-first [`Self::disagg`] of two stages.
    fn prefill_decode(
        &mut self,
        parameters: &Parameters,
        line: u64,
        profiles: &[ProfileSpec],
    ) -> Option<DisaggSpec> {
        let params: PdProfileParams = self.read(parameters.read())?;
        for (field, given) in [
            ("prefixPluginType", params.prefix_plugin_type),
            ("prefixPluginName", params.prefix_plugin_name),
        ] {
            if given.is_some() {
                let message = format!("{field}: deprecated; it has no effect");
                self.warnings.push(Problem::new(line, message));
            }
        }
        let primary_port = match params.primary_port {
            0 => None,
            port => Some(self.primary_port(port, parameters)?),
        };
        let decode = self.stage(
            &params.decode_profile,
            "decodeProfile",
            parameters,
            profiles,
        );
        let prefill = self.stage(
            &params.prefill_profile,
            "prefillProfile",
            parameters,
            profiles,
        );
        let decider = &params.decider_plugin_name;
        let decider = self.decider(decider, "deciderPluginName", parameters);
        Some(DisaggSpec {
            order: StageOrder::DecodeFirst,
            decode: decode?,
            prefill: Some((prefill?, Some(decider?))),
            encode: None,
            primary_port,
        })
    }

    fn primary_port(&mut self, port: u16, parameters: &Parameters) -> Option<u16> {
        if port == 0 {
            let problem = parameters.field_problem("primaryPort", "0 is not a port");
            self.problems.push(problem);
            return None;
        }
        Some(port)
    }

    /// The profile that `field` names.
    fn stage(
        &mut self,
        name: &str,
        field: &str,
        parameters: &Parameters,
        profiles: &[ProfileSpec],
    ) -> Option<usize> {
        let found = position(name, profiles);
        if found.is_none() {
            let hint = did_you_mean(name, profiles.iter().map(|profile| profile.name.as_str()));
            let message = format!("no profile is called `{name}`{hint}");
            self.problems
                .push(parameters.field_problem(field, &message));
        }
        found
    }

    /// The decider that `field` names, wherever in the file it is declared.
    fn decider(&mut self, name: &str, field: &str, parameters: &Parameters) -> Option<PluginUse> {
        let found = self.declared.iter().find(|known| known.name == name);
        let message = match found {
            Some(found) if found.entry.kind == Kind::Decider => return Some(use_of(found)),
            Some(found) => format!("`{name}` is a {}, not a decider", found.entry.kind.noun()),
            None if self.refused.iter().any(|known| known == name) => return None,
            None => {
                let deciders = self.declared.iter().map(|known| known.name.as_str());
                let hint = did_you_mean(name, deciders);
                format!("no plugin is called `{name}`{hint}; declare it under `plugins`")
            }
        };
        self.problems
            .push(parameters.field_problem(field, &message));
        None
    }
}

fn position(name: &str, profiles: &[ProfileSpec]) -> Option<usize> {
    profiles.iter().position(|profile| profile.name == name)
}
