//! Parameters of what is polled: one page of every endpoint, over HTTP.

use http::uri::PathAndQuery;
use serde::{Deserialize, Serialize};

use super::super::{Problem, units};
use super::Parameters;

/// Of `metrics-data-source`.
#[derive(Clone, Debug, Deserialize, Serialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase", default)]
pub struct MetricsSourceParams {
    /// `http`; https is not available yet.
    pub scheme: String,
    /// Path of the page; none = the engine's own.
    pub path: Option<String>,
    /// Port of the page; none = the endpoint's own.
    pub port: Option<u16>,
    /// Between two scrapes, in Go's syntax; none = `--refresh-metrics-interval`.
    pub interval: Option<String>,
    /// For https.
    pub insecure_skip_verify: bool,
    /// For https.
    pub ca_cert_path: Option<String>,
    /// For https.
    pub client_cert_path: Option<String>,
    /// For https.
    pub client_key_path: Option<String>,
}

/// Of `models-data-source`.
#[derive(Clone, Debug, Deserialize, Serialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase", default)]
pub struct ModelsSourceParams {
    /// `http`; https is not available yet.
    pub scheme: String,
    /// Path of the list.
    pub path: String,
    /// Port of the list; none = the endpoint's own.
    pub port: Option<u16>,
    /// Between two polls of an endpoint, in Go's syntax; at least a second. What a server serves changes when someone loads
    /// or unloads an adapter, so the default, a minute, is rare on purpose.
    pub interval: String,
    /// For https.
    pub insecure_skip_verify: bool,
    /// For https.
    pub ca_cert_path: Option<String>,
    /// For https.
    pub client_cert_path: Option<String>,
    /// For https.
    pub client_key_path: Option<String>,
}

fn check_scheme(parameters: &Parameters, scheme: &str) -> Result<(), Problem> {
    if scheme == "http" {
        return Ok(());
    }
    let message = format!("`{scheme}` is not supported yet; use http");
    Err(parameters.field_problem("scheme", &message))
}

fn check_path(parameters: &Parameters, path: &str, example: &str) -> Result<(), Problem> {
    if path.starts_with('/') && PathAndQuery::try_from(path).is_ok() {
        return Ok(());
    }
    let message = format!("`{path}` is not a path; write for instance {example}");
    Err(parameters.field_problem("path", &message))
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

impl MetricsSourceParams {
    pub(in crate::config) fn of(parameters: &Parameters) -> Result<Self, Problem> {
        let read: Self = parameters.read()?;
        check_scheme(parameters, &read.scheme)?;
        if let Some(path) = &read.path {
            check_path(parameters, path, "/metrics")?;
        }
        if let Some(interval) = &read.interval {
            units::duration(interval).map_err(|e| parameters.field_problem("interval", &e))?;
        }
        Ok(read)
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

impl ModelsSourceParams {
    pub(in crate::config) fn of(parameters: &Parameters) -> Result<Self, Problem> {
        let read: Self = parameters.read()?;
        check_scheme(parameters, &read.scheme)?;
        check_path(parameters, &read.path, "/v1/models")?;
        match units::duration(&read.interval) {
            Ok(interval) if interval.as_secs() >= 1 => Ok(read),
            Ok(_) => {
                let message = format!(
                    "`{}` is too short for a list that seldom changes; write 1s or more",
                    read.interval
                );
                Err(parameters.field_problem("interval", &message))
            }
            Err(error) => Err(parameters.field_problem("interval", &error)),
        }
    }
}
