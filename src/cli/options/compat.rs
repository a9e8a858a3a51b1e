//! Flags of the reference that set nothing here.

/// Flags of Go's klog, which mean nothing here.
#[derive(Debug, clap::Args)]
pub(super) struct Klog {
    #[arg(long, hide = true, num_args = 0..=1, require_equals = true, default_missing_value = "true")]
    logtostderr: Option<String>,
    #[arg(long, hide = true, num_args = 0..=1, require_equals = true, default_missing_value = "true")]
    alsologtostderr: Option<String>,
    #[arg(long = "add_dir_header", hide = true, num_args = 0..=1, require_equals = true, default_missing_value = "true")]
    add_dir_header: Option<String>,
    #[arg(long = "one_output", hide = true, num_args = 0..=1, require_equals = true, default_missing_value = "true")]
    one_output: Option<String>,
    #[arg(long = "skip_headers", hide = true, num_args = 0..=1, require_equals = true, default_missing_value = "true")]
    skip_headers: Option<String>,
    #[arg(long = "skip_log_headers", hide = true, num_args = 0..=1, require_equals = true, default_missing_value = "true")]
    skip_log_headers: Option<String>,
    #[arg(long = "log_backtrace_at", hide = true)]
    log_backtrace_at: Option<String>,
    #[arg(long = "log_dir", hide = true)]
    log_dir: Option<String>,
    #[arg(long = "log_file", hide = true)]
    log_file: Option<String>,
    #[arg(long = "log_file_max_size", hide = true)]
    log_file_max_size: Option<String>,
    #[arg(long, hide = true)]
    stderrthreshold: Option<String>,
    #[arg(long, hide = true)]
    vmodule: Option<String>,
}

/// Flags that the reference refuses: what they set is set in the configuration now.
#[derive(Debug, clap::Args)]
pub(super) struct Gone {
    #[arg(long, hide = true)]
    total_queued_requests_metric: Option<String>,
    #[arg(long, hide = true)]
    total_running_requests_metric: Option<String>,
    #[arg(long, hide = true)]
    kv_cache_usage_percentage_metric: Option<String>,
    #[arg(long, hide = true)]
    lora_info_metric: Option<String>,
    #[arg(long, hide = true)]
    cache_info_metric: Option<String>,
}

// === impl Gone ===

impl Gone {
    pub(super) fn check(&self) -> Result<(), String> {
        for (flag, value) in [
            (
                "total-queued-requests-metric",
                &self.total_queued_requests_metric,
            ),
            (
                "total-running-requests-metric",
                &self.total_running_requests_metric,
            ),
            (
                "kv-cache-usage-percentage-metric",
                &self.kv_cache_usage_percentage_metric,
            ),
            ("lora-info-metric", &self.lora_info_metric),
            ("cache-info-metric", &self.cache_info_metric),
        ] {
            if value.is_some() {
                return Err(format!(
                    "--{flag} is gone; name the metric in the engineConfigs of a core-metrics-extractor"
                ));
            }
        }
        Ok(())
    }
}
