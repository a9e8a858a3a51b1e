//! The flags that say where node agents are, and how they are reached.

use std::path::PathBuf;
use std::sync::Arc;

use clap::ArgAction;

use super::super::units::boolean;
use super::settings::selector;
use crate::pool::discovery::kube::AgentPods;
use crate::pool::gpu::agents::tls::{AgentTls, AgentTlsOptions};
use crate::pool::gpu::agents::{MOST_AGENTS, check_address};

/// Flags of `serve`.
#[derive(Clone, Debug, clap::Args)]
pub(super) struct AgentArgs {
    /// Agents of nodes (pointsman probe) that tell of GPUs, host:port, comma separated; may be repeated. A name may stand for
    /// many, as that of a headless Service does.
    #[arg(long, value_delimiter = ',')]
    gpu_agents: Vec<String>,
    /// Agents that are pods with these labels, of which those on nodes of endpoints are asked. In Kubernetes only.
    #[arg(long, default_value = "", hide_default_value = true)]
    gpu_agents_selector: String,
    /// The namespace of those pods [default: the pool's].
    #[arg(long, default_value = "", hide_default_value = true)]
    gpu_agents_namespace: String,
    /// Where those pods serve.
    #[arg(long, default_value_t = 9401, value_parser = clap::value_parser!(u16).range(1..))]
    gpu_agents_port: u16,
    #[command(flatten)]
    tls: AgentTlsArgs,
}

/// Flags of whoever asks agents.
#[derive(Clone, Debug, clap::Args)]
pub(in crate::cli) struct AgentTlsArgs {
    /// TLS to agents of nodes, which are verified.
    #[arg(long, value_parser = boolean, num_args = 0..=1, require_equals = true, default_value = "false", default_missing_value = "true", action = ArgAction::Set)]
    gpu_agents_tls: bool,
    /// A PEM file of the CAs that sign for agents, read again when agents are connected to [default: the system's].
    #[arg(long)]
    gpu_agents_ca_file: Option<PathBuf>,
    /// The name in agents' certificates [default: the one that an agent was looked up by, else its address].
    #[arg(long)]
    gpu_agents_server_name: Option<String>,
    /// Take any certificate of agents.
    #[arg(long, value_parser = boolean, num_args = 0..=1, require_equals = true, default_value = "false", default_missing_value = "true", action = ArgAction::Set)]
    gpu_agents_insecure_skip_verify: bool,
    /// A directory with the tls.crt and tls.key that agents are shown, read again when agents are connected to.
    #[arg(long)]
    gpu_agents_cert_path: Option<PathBuf>,
}

/// What the flags of `serve` come to.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct AgentSettings {
    /// Those that are listed, `host:port`, each once.
    pub listed: Vec<String>,
    /// Those that are to be found.
    pub pods: Option<AgentPods>,
    /// How all are reached; `None` = in clear text.
    pub tls: Option<AgentTlsOptions>,
}

// === impl AgentSettings ===

impl AgentSettings {
    /// Whether there are to be any.
    pub(in crate::cli) fn any(&self) -> bool {
        !self.listed.is_empty() || self.pods.is_some()
    }

    /// TLS to agents, if there is to be any: reads its files.
    pub(in crate::cli) fn tls(&self) -> anyhow::Result<Option<Arc<AgentTls>>> {
        tls(self.tls.as_ref())
    }
}

/// The same of what [`AgentTlsArgs::check`] returned.
pub(in crate::cli) fn tls(
    options: Option<&AgentTlsOptions>,
) -> anyhow::Result<Option<Arc<AgentTls>>> {
    let tls = options.map(|options| AgentTls::new(options).map(Arc::new));
    tls.transpose()
        .map_err(|error| anyhow::anyhow!("TLS to GPU agents (--gpu-agents-tls): {error}"))
}

// === impl AgentArgs ===

impl AgentArgs {
    /// Checks what clap cannot; the error names the flag and the remedy.
    pub(super) fn check(self) -> Result<AgentSettings, String> {
        let settings = AgentSettings {
            listed: listed(&self.gpu_agents)?,
            pods: self.pods()?,
            tls: self.tls.check()?,
        };
        if settings.tls.is_some() && !settings.any() {
            return Err("--gpu-agents-tls needs --gpu-agents or --gpu-agents-selector".to_owned());
        }
        Ok(settings)
    }

    fn pods(&self) -> Result<Option<AgentPods>, String> {
        let namespace = &self.gpu_agents_namespace;
        if self.gpu_agents_selector.is_empty() {
            if !namespace.is_empty() {
                return Err("--gpu-agents-namespace needs --gpu-agents-selector".to_owned());
            }
            return Ok(None);
        }
        Ok(Some(AgentPods {
            selector: selector("--gpu-agents-selector", &self.gpu_agents_selector)?,
            namespace: (!namespace.is_empty()).then(|| namespace.clone()),
            port: self.gpu_agents_port,
        }))
    }
}

/// Agents, each once; what is left empty between commas is none.
fn listed(given: &[String]) -> Result<Vec<String>, String> {
    let given = given.iter().map(|agent| agent.trim());
    let mut agents: Vec<String> = given.filter(|a| !a.is_empty()).map(str::to_owned).collect();
    agents.sort();
    agents.dedup();
    if agents.len() > MOST_AGENTS {
        let count = agents.len();
        return Err(format!(
            "--gpu-agents: there are {count}; keep to {MOST_AGENTS}"
        ));
    }
    for agent in &agents {
        check_address(agent).map_err(|error| format!("--gpu-agents: {error}"))?;
    }
    Ok(agents)
}

// === impl AgentTlsArgs ===

impl AgentTlsArgs {
    /// `None` = clear text.
    pub(in crate::cli) fn check(&self) -> Result<Option<AgentTlsOptions>, String> {
        if !self.gpu_agents_tls {
            // Clear text was asked for: nothing may suggest that it is protected.
            for (flag, given) in [
                ("--gpu-agents-ca-file", self.gpu_agents_ca_file.is_some()),
                (
                    "--gpu-agents-server-name",
                    self.gpu_agents_server_name.is_some(),
                ),
                (
                    "--gpu-agents-insecure-skip-verify",
                    self.gpu_agents_insecure_skip_verify,
                ),
                (
                    "--gpu-agents-cert-path",
                    self.gpu_agents_cert_path.is_some(),
                ),
            ] {
                if given {
                    return Err(format!("{flag} needs --gpu-agents-tls"));
                }
            }
            return Ok(None);
        }
        self.options().map(Some)
    }

    /// TLS, whether it was asked for or goes without saying.
    pub(in crate::cli) fn options(&self) -> Result<AgentTlsOptions, String> {
        if self.gpu_agents_insecure_skip_verify
            && (self.gpu_agents_ca_file.is_some() || self.gpu_agents_server_name.is_some())
        {
            return Err("--gpu-agents-insecure-skip-verify takes any certificate: give it, or --gpu-agents-ca-file and --gpu-agents-server-name".to_owned());
        }
        Ok(AgentTlsOptions {
            ca: self.gpu_agents_ca_file.clone(),
            insecure: self.gpu_agents_insecure_skip_verify,
            server_name: self.gpu_agents_server_name.clone(),
            cert_dir: self.gpu_agents_cert_path.clone(),
        })
    }
}
