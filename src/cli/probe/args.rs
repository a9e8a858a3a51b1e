//! The flags of `probe`.

use std::net::{Ipv6Addr, SocketAddr};
use std::path::PathBuf;
use std::time::Duration;

use clap::ArgAction;
use gpu_probes::agent::Periods;
use gpu_probes::kubelet::KubeletOptions;
use gpu_probes::probe::Class;

use super::super::options::pages::PagesTlsArgs;
use super::super::units::{boolean, duration};
use crate::extproc::tls::TlsOptions;

const KUBELET: &str = "/var/lib/kubelet/pod-resources/kubelet.sock";
/// Between two questions to the kubelet: it allows more, but pods do not come faster.
const ASK: Duration = Duration::from_secs(5);
/// The environment variable that names the node: Kubernetes' downward API fills it.
const NODE_NAME: &str = "NODE_NAME";

/// Flags of `probe`.
#[derive(Clone, Debug, clap::Args)]
pub struct ProbeArgs {
    /// Where pickers get their streams (gRPC).
    #[arg(long, default_value_t = SocketAddr::from((Ipv6Addr::UNSPECIFIED, 9401)))]
    pub(super) listen: SocketAddr,
    /// Where /metrics is.
    #[arg(long, default_value_t = SocketAddr::from((Ipv6Addr::UNSPECIFIED, 9400)))]
    pub(super) metrics: SocketAddr,
    /// The NVIDIA library to load [default: libnvidia-ml.so.1, as the loader finds it].
    #[arg(long)]
    pub(super) nvml_library: Option<PathBuf>,
    /// The kernel's log, for the processes behind XIDs; one that may not be read is done without.
    #[arg(long, default_value = "/dev/kmsg")]
    pub(super) kernel_log: PathBuf,
    /// This node's name [default: the environment's NODE_NAME, else the host's name].
    #[arg(long)]
    node_name: Option<String>,

    // --- owners ---
    /// The kubelet's PodResources socket; empty = it is not asked [default:
    /// /var/lib/kubelet/pod-resources/kubelet.sock, without --gpu-map].
    #[arg(long)]
    pod_resources_socket: Option<String>,
    /// Who has which GPU, in a file that is followed as it changes: without Kubernetes, or where the kubelet does not know.
    #[arg(long)]
    pub(super) gpu_map: Option<PathBuf>,
    /// Resources, besides those that begin with nvidia.com/, whose devices are GPUs, comma separated.
    #[arg(long, value_delimiter = ',')]
    gpu_resources: Vec<String>,
    /// Ask the Kubernetes API server which GPUs claims (dynamic resource allocation) are for: it takes a service account that
    /// may list and watch resourceslices. Without it claims are taken by their devices' names.
    #[arg(long, value_parser = boolean, num_args = 0..=1, require_equals = true, default_value = "false", default_missing_value = "true", action = ArgAction::Set)]
    pub(super) resource_slices: bool,
    /// Where the kubelet keeps the pods' logs: the names of the directories tell the pods' UIDs.
    #[arg(long, default_value = "/var/log/pods")]
    pod_logs: PathBuf,
    /// Where the host's /proc is: it tells whose the processes on a GPU are.
    #[arg(long, default_value = "/proc")]
    pub(super) proc: PathBuf,

    // --- TLS ---
    /// TLS on the gRPC port.
    #[arg(long, value_parser = boolean, num_args = 0..=1, require_equals = true, default_value = "false", default_missing_value = "true", action = ArgAction::Set)]
    pub(super) secure_serving: bool,
    /// A directory with tls.crt and tls.key, read again when they change; without it the certificate is self-signed.
    #[arg(long)]
    cert_path: Option<PathBuf>,
    /// A PEM file of CAs: pickers must present a certificate of one of them.
    #[arg(long)]
    client_ca_file: Option<PathBuf>,
    /// DNS names or URIs, comma separated, of which a picker's certificate must carry one.
    #[arg(long, value_delimiter = ',')]
    client_allowed_sans: Vec<String>,
    #[command(flatten)]
    metrics_tls: PagesTlsArgs,

    // --- periods ---
    /// Between two readings of memory, as all periods from 100ms to 5s.
    #[arg(long, value_parser = period, default_value = "1s")]
    memory_period: Duration,
    /// Of the processes.
    #[arg(long, value_parser = period, default_value = "5s")]
    processes_period: Duration,
    /// Of the utilisation.
    #[arg(long, value_parser = period, default_value = "1s")]
    utilization_period: Duration,
    /// Of the clocks, and of why they are not higher.
    #[arg(long, value_parser = period, default_value = "500ms")]
    clocks_period: Duration,
    /// Of the power draw.
    #[arg(long, value_parser = period, default_value = "1s")]
    power_period: Duration,
    /// Of temperatures.
    #[arg(long, value_parser = period, default_value = "1s")]
    temperature_period: Duration,
    /// Of error counters. Events do not wait for it.
    #[arg(long, value_parser = period, default_value = "1s")]
    errors_period: Duration,
    /// Of what the GPU's own counters say of memory and tensor cores.
    #[arg(long, value_parser = period, default_value = "1s")]
    profile_period: Duration,

    // --- instead of serving ---
    /// Print what every call into the driver answers, and exit.
    #[arg(long, conflicts_with = "once")]
    pub(super) self_test: bool,
    /// Print what is known after the first reading, and exit.
    #[arg(long)]
    pub(super) once: bool,
}

fn period(text: &str) -> Result<Duration, String> {
    let period = duration(text)?;
    if (Periods::SHORTEST..=Periods::LONGEST).contains(&period) {
        return Ok(period);
    }
    let (shortest, longest) = (Periods::SHORTEST, Periods::LONGEST);
    Err(format!("write a duration from {shortest:?} to {longest:?}"))
}

// === impl ProbeArgs ===

impl ProbeArgs {
    /// Checks what clap cannot; the error names the flag and the remedy.
    pub fn check(self) -> Result<Self, String> {
        if !self.secure_serving {
            // Clear text was asked for: nothing may suggest that it is protected.
            for (flag, given) in [
                ("--cert-path", self.cert_path.is_some()),
                ("--client-ca-file", self.client_ca_file.is_some()),
                (
                    "--client-allowed-sans",
                    !self.client_allowed_sans.is_empty(),
                ),
            ] {
                if given {
                    return Err(format!("{flag} needs --secure-serving"));
                }
            }
        }
        if !self.client_allowed_sans.is_empty() && self.client_ca_file.is_none() {
            return Err("--client-allowed-sans needs --client-ca-file".to_owned());
        }
        self.metrics_tls.check()?;
        Ok(self)
    }

    pub(super) fn node_name(&self) -> String {
        let named = self.node_name.clone();
        let named = named.or_else(|| std::env::var(NODE_NAME).ok());
        named.filter(|name| !name.is_empty()).unwrap_or_else(|| {
            let name = std::fs::read_to_string("/proc/sys/kernel/hostname");
            name.unwrap_or_default().trim().to_owned()
        })
    }

    pub(super) fn kubelet(&self) -> Option<(PathBuf, KubeletOptions)> {
        let socket = match (&self.pod_resources_socket, &self.gpu_map) {
            (Some(socket), _) if socket.is_empty() => return None,
            (Some(socket), _) => PathBuf::from(socket),
            (None, None) => PathBuf::from(KUBELET),
            (None, Some(_)) => return None,
        };
        let options = KubeletOptions {
            resources: self.gpu_resources.clone(),
            pod_logs: self.pod_logs.clone(),
            every: ASK,
        };
        Some((socket, options))
    }

    pub(super) fn tls(&self) -> Option<TlsOptions> {
        self.secure_serving.then(|| TlsOptions {
            cert_dir: self.cert_path.clone(),
            client_ca: self.client_ca_file.clone(),
            client_sans: self.client_allowed_sans.clone(),
            ..TlsOptions::default()
        })
    }

    /// Of the pages; `None` = clear text.
    pub(super) fn pages_tls(&self) -> Result<Option<TlsOptions>, String> {
        self.metrics_tls.check()
    }

    pub(super) fn periods(&self) -> Periods {
        [
            (Class::Memory, self.memory_period),
            (Class::Processes, self.processes_period),
            (Class::Utilization, self.utilization_period),
            (Class::Clocks, self.clocks_period),
            (Class::Power, self.power_period),
            (Class::Temperature, self.temperature_period),
            (Class::Errors, self.errors_period),
            (Class::Profile, self.profile_period),
        ]
        .into_iter()
        .fold(Periods::default(), |periods, (class, period)| {
            periods.with(class, period)
        })
    }
}

#[cfg(test)]
mod tests {
    use clap::Parser as _;

    use super::*;

    #[derive(Debug, clap::Parser)]
    struct Cli {
        #[command(flatten)]
        args: ProbeArgs,
    }

    fn parse(flags: &[&str]) -> Result<ProbeArgs, String> {
        let cli = Cli::try_parse_from([&["probe"], flags].concat());
        let args = cli.map(|cli| cli.args).map_err(|error| error.to_string());
        args?.check()
    }

    #[test]
    fn what_makes_no_sense_is_refused_with_the_remedy() {
        for (flags, words) in [
            (&["--memory-period=50ms"][..], "--memory-period"),
            (&["--clocks-period=6s"], "write a duration from 100ms to 5s"),
            (&["--errors-period=soon"], "is not a duration"),
            (&["--listen=9401"], "--listen"),
            (&["--cert-path=/tls"], "--cert-path needs --secure-serving"),
            (
                &["--secure-serving", "--client-allowed-sans=a"],
                "--client-allowed-sans needs --client-ca-file",
            ),
            (
                &["--metrics-client-ca-file=a"],
                "--metrics-client-ca-file needs --metrics-cert-dir",
            ),
            (&["--once", "--self-test"], "cannot be used with"),
        ] {
            let error = parse(flags).unwrap_err();
            assert!(error.contains(words), "{flags:?}: {error}");
        }
    }

    #[test]
    fn the_defaults_are_those_of_the_agent() {
        assert_eq!(parse(&[]).unwrap().periods(), Periods::default());
    }

    #[test]
    fn the_kubelet_is_asked_unless_a_map_tells() {
        let socket = |flags: &[&str]| {
            let kubelet = parse(flags).unwrap().kubelet();
            kubelet.map(|(socket, _)| socket.display().to_string())
        };
        assert_eq!(socket(&[]).as_deref(), Some(KUBELET));
        assert_eq!(socket(&["--gpu-map=m"]), None);
        assert_eq!(socket(&["--pod-resources-socket="]), None);
        let both = ["--gpu-map=m", "--pod-resources-socket=s"];
        assert_eq!(socket(&both).as_deref(), Some("s"));
    }
}
