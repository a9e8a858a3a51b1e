//! Parameters of what is polled: one page of every endpoint, over HTTP or HTTPS.

use std::time::Duration;

use http::uri::PathAndQuery;
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

use super::super::{Problem, units};
use super::Parameters;

/// Of `metrics-data-source`.
#[derive(Clone, Debug, Deserialize, Serialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase", default)]
pub struct MetricsSourceParams {
    /// `http` or `https`.
    pub scheme: String,
    /// Path of the page; none = the engine's own.
    pub path: Option<String>,
    /// Port of the page; none = the endpoint's own.
    pub port: Option<u16>,
    /// Between two scrapes, in Go's syntax; none = `--refresh-metrics-interval`.
    pub interval: Option<String>,
    /// For https: take any certificate for the server's. The llm-d picker's default, because engines make their own.
    pub insecure_skip_verify: bool,
    /// For https: a PEM file with the CAs that servers' certificates must come from; none = the system's.
    pub ca_cert_path: Option<String>,
    /// For https: a PEM file with the certificate that the picker shows, and those between it and its CA.
    pub client_cert_path: Option<String>,
    /// For https: a PEM file with its key.
    pub client_key_path: Option<String>,
}

/// Of `models-data-source`.
#[derive(Clone, Debug, Deserialize, Serialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase", default)]
pub struct ModelsSourceParams {
    /// `http` or `https`.
    pub scheme: String,
    /// Path of the list.
    pub path: String,
    /// Port of the list; none = the endpoint's own.
    pub port: Option<u16>,
    /// Between two polls of an endpoint, in Go's syntax; at least a second. What a server serves changes when someone loads
    /// or unloads an adapter, so the default, a minute, is rare on purpose.
    pub interval: String,
    /// For https: take any certificate for the server's. The llm-d picker's default, because engines make their own.
    pub insecure_skip_verify: bool,
    /// For https: a PEM file with the CAs that servers' certificates must come from; none = the system's.
    pub ca_cert_path: Option<String>,
    /// For https: a PEM file with the certificate that the picker shows, and those between it and its CA.
    pub client_cert_path: Option<String>,
    /// For https: a PEM file with its key.
    pub client_key_path: Option<String>,
}

/// Of `dcgm-data-source`.
#[derive(Clone, Debug, Deserialize, Serialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase", default)]
pub struct DcgmSourceParams {
    /// `http` or `https`.
    pub scheme: String,
    /// Path of the page.
    pub path: String,
    /// Port of the exporter.
    pub port: u16,
    /// Between two polls of an exporter, in Go's syntax; at least 100ms.
    pub interval: String,
    /// For https: take any certificate for the exporter's.
    pub insecure_skip_verify: bool,
    /// The exporter is reached at the address of the endpoint's node (a DaemonSet's), not at the endpoint's own (a sidecar's).
    pub use_node_address: bool,
}

/// How a source does TLS.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TlsParams {
    /// Take any certificate.
    pub insecure_skip_verify: bool,
    /// A file of CAs; none = the system's.
    pub ca_cert_path: Option<String>,
    /// A certificate and its key, each in a file; none = the picker shows none.
    pub client: Option<(String, String)>,
}

/// What all kinds of source have alike.
pub(crate) trait SourceParams: DeserializeOwned + Serialize {
    /// How to connect, by its fields.
    fn connecting(&self) -> Connecting<'_>;

    /// Checks what is its own; `parameters` are those that it was read from.
    fn check(&self, parameters: &Parameters) -> Result<(), Problem>;

    /// Reads it, and checks all of it.
    fn of(parameters: &Parameters) -> Result<Self, Problem> {
        let read: Self = parameters.read()?;
        read.connecting().check(parameters)?;
        read.check(parameters)?;
        Ok(read)
    }

    /// How to do TLS; `None`: it is done without.
    fn tls(&self) -> Option<TlsParams> {
        self.connecting().tls()
    }

    /// What in it has no effect.
    fn warning(&self, parameters: &Parameters) -> Option<Problem> {
        self.connecting().warning(parameters)
    }
}

/// What the fields of a source come to; all kinds of source have the same ones, or some of them.
pub(crate) struct Connecting<'a> {
    scheme: &'a str,
    insecure_skip_verify: bool,
    ca_cert_path: Option<&'a str>,
    client_cert_path: Option<&'a str>,
    client_key_path: Option<&'a str>,
}

fn check_path(parameters: &Parameters, path: &str, example: &str) -> Result<(), Problem> {
    if path.starts_with('/') && PathAndQuery::try_from(path).is_ok() {
        return Ok(());
    }
    let message = format!("`{path}` is not a path; write for instance {example}");
    Err(parameters.field_problem("path", &message))
}

// === impl Connecting ===

impl<'a> Connecting<'a> {
    fn new(
        scheme: &'a str,
        insecure_skip_verify: bool,
        [ca, cert, key]: [&'a Option<String>; 3],
    ) -> Self {
        // As with Go's strings, and as templates write what they were not given.
        let given = |path: &'a Option<String>| path.as_deref().filter(|path| !path.is_empty());
        Self {
            scheme,
            insecure_skip_verify,
            ca_cert_path: given(ca),
            client_cert_path: given(cert),
            client_key_path: given(key),
        }
    }

    fn check(&self, parameters: &Parameters) -> Result<(), Problem> {
        if !["http", "https"].contains(&self.scheme) {
            let message = format!("`{}` is not a scheme; use http or https", self.scheme);
            return Err(parameters.field_problem("scheme", &message));
        }
        let (given, missing) = match (self.client_cert_path, self.client_key_path) {
            (Some(_), None) => ("clientCertPath", "clientKeyPath"),
            (None, Some(_)) => ("clientKeyPath", "clientCertPath"),
            _ => return Ok(()),
        };
        let message = format!("needs parameters.{missing} beside it: give both or neither");
        Err(parameters.field_problem(given, &message))
    }

    fn tls(&self) -> Option<TlsParams> {
        let owned = |path: Option<&str>| path.map(str::to_owned);
        (self.scheme == "https").then(|| TlsParams {
            insecure_skip_verify: self.insecure_skip_verify,
            ca_cert_path: owned(self.ca_cert_path),
            client: owned(self.client_cert_path).zip(owned(self.client_key_path)),
        })
    }

    /// What was written and does nothing, which the llm-d picker does not tell either.
    fn warning(&self, parameters: &Parameters) -> Option<Problem> {
        let files = [
            ("caCertPath", self.ca_cert_path),
            ("clientCertPath", self.client_cert_path),
        ];
        let (field, message) = match self.scheme {
            "http" => {
                let (field, _) = files.into_iter().find(|(_, path)| path.is_some())?;
                (field, "has no effect: scheme is http")
            }
            _ if self.insecure_skip_verify && self.ca_cert_path.is_some() => (
                "caCertPath",
                "has no effect: insecureSkipVerify is true, which is the default, so no server is verified; set it to false",
            ),
            _ => return None,
        };
        Some(parameters.field_problem(field, message))
    }
}

// === impl MetricsSourceParams ===

impl Default for MetricsSourceParams {
    fn default() -> Self {
        Self {
            scheme: "http".to_owned(),
            path: None,
            port: None,
            interval: None,
            insecure_skip_verify: true,
            ca_cert_path: None,
            client_cert_path: None,
            client_key_path: None,
        }
    }
}

impl SourceParams for MetricsSourceParams {
    fn check(&self, parameters: &Parameters) -> Result<(), Problem> {
        if let Some(path) = &self.path {
            check_path(parameters, path, "/metrics")?;
        }
        if let Some(interval) = &self.interval {
            units::duration(interval).map_err(|e| parameters.field_problem("interval", &e))?;
        }
        Ok(())
    }

    fn connecting(&self) -> Connecting<'_> {
        let files = [
            &self.ca_cert_path,
            &self.client_cert_path,
            &self.client_key_path,
        ];
        Connecting::new(&self.scheme, self.insecure_skip_verify, files)
    }
}

// === impl DcgmSourceParams ===

impl Default for DcgmSourceParams {
    fn default() -> Self {
        Self {
            scheme: "http".to_owned(),
            path: "/metrics".to_owned(),
            port: 9400,
            interval: "1s".to_owned(),
            insecure_skip_verify: true,
            use_node_address: false,
        }
    }
}

impl DcgmSourceParams {
    /// For how long a page is believed: three intervals, of which two pages are late or lost, and a second.
    pub fn staleness(&self) -> Duration {
        let interval = units::duration(&self.interval).unwrap_or_default();
        3 * interval + Duration::from_secs(1)
    }
}

impl SourceParams for DcgmSourceParams {
    fn check(&self, parameters: &Parameters) -> Result<(), Problem> {
        check_path(parameters, &self.path, "/metrics")?;
        let problem = |field, message: &str| Err(parameters.field_problem(field, message));
        if self.port == 0 {
            return problem("port", "is 0; an exporter has a port of its own, as 9400");
        }
        match units::duration(&self.interval) {
            Ok(interval) if interval.as_millis() >= 100 => Ok(()),
            Ok(_) => {
                let message = format!(
                    "`{}` is too short for an exporter that looks at its GPUs once a second at best; write 100ms or more",
                    self.interval
                );
                problem("interval", &message)
            }
            Err(error) => problem("interval", &error),
        }
    }

    fn connecting(&self) -> Connecting<'_> {
        Connecting::new(
            &self.scheme,
            self.insecure_skip_verify,
            [&None, &None, &None],
        )
    }
}

// === impl ModelsSourceParams ===

impl Default for ModelsSourceParams {
    fn default() -> Self {
        Self {
            scheme: "http".to_owned(),
            path: "/v1/models".to_owned(),
            port: None,
            interval: "60s".to_owned(),
            insecure_skip_verify: true,
            ca_cert_path: None,
            client_cert_path: None,
            client_key_path: None,
        }
    }
}

impl SourceParams for ModelsSourceParams {
    fn check(&self, parameters: &Parameters) -> Result<(), Problem> {
        check_path(parameters, &self.path, "/v1/models")?;
        match units::duration(&self.interval) {
            Ok(interval) if interval.as_secs() >= 1 => Ok(()),
            Ok(_) => {
                let message = format!(
                    "`{}` is too short for a list that seldom changes; write 1s or more",
                    self.interval
                );
                Err(parameters.field_problem("interval", &message))
            }
            Err(error) => Err(parameters.field_problem("interval", &error)),
        }
    }

    fn connecting(&self) -> Connecting<'_> {
        let files = [
            &self.ca_cert_path,
            &self.client_cert_path,
            &self.client_key_path,
        ];
        Connecting::new(&self.scheme, self.insecure_skip_verify, files)
    }
}
