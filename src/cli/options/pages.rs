//! The flags for TLS of a port with pages: of `serve`, and of the node agent.

use std::path::PathBuf;

use crate::extproc::tls::TlsOptions;

/// TLS of the metrics port.
#[derive(Clone, Debug, clap::Args)]
pub(in crate::cli) struct PagesTlsArgs {
    /// A directory with tls.crt and tls.key, read again when they change: TLS on the metrics port.
    #[arg(long, default_value = "", hide_default_value = true)]
    metrics_cert_dir: String,
    /// A PEM file of CAs: readers of the metrics port must present a certificate of one of them.
    #[arg(long, default_value = "", hide_default_value = true)]
    metrics_client_ca_file: String,
}

// === impl PagesTlsArgs ===

impl PagesTlsArgs {
    /// `None` = clear text. The error names the flag and the remedy.
    pub(in crate::cli) fn check(&self) -> Result<Option<TlsOptions>, String> {
        let of = |path: &str| (!path.is_empty()).then(|| PathBuf::from(path));
        let client_ca = of(&self.metrics_client_ca_file);
        match of(&self.metrics_cert_dir) {
            None if client_ca.is_some() => {
                // Clear text was asked for: nothing may suggest that it is protected.
                Err("--metrics-client-ca-file needs --metrics-cert-dir".to_owned())
            }
            None => Ok(None),
            cert_dir => Ok(Some(TlsOptions {
                cert_dir,
                client_ca,
                ..TlsOptions::default()
            })),
        }
    }
}
