//! The process itself, by the names that all Prometheus clients have for it: `process_cpu_seconds_total` and so on.

use std::fmt;
use std::fs;

use prometheus_client::collector::Collector;
use prometheus_client::encoding::{DescriptorEncoder, EncodeMetric};
use prometheus_client::metrics::counter::ConstCounter;
use prometheus_client::metrics::gauge::ConstGauge;
use rustix::process::{Resource, getrlimit};

/// Ticks a second in `/proc`: a constant of Linux's interface, whatever the kernel's own clock.
const TICKS: f64 = 100.0;

/// Reads `/proc/self` when it is asked. What cannot be read is left out.
#[derive(Debug)]
pub(super) struct ProcessMetrics;

#[derive(Clone, Copy, Debug, PartialEq)]
struct Process {
    cpu_seconds: f64,
    /// Since 1970.
    start_seconds: Option<f64>,
    virtual_bytes: f64,
    resident_bytes: Option<f64>,
    open_fds: Option<f64>,
    max_fds: Option<f64>,
}

// === impl ProcessMetrics ===

impl Collector for ProcessMetrics {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> fmt::Result {
        let Some(process) = Process::read() else {
            return Ok(());
        };
        let cpu = ConstCounter::new(process.cpu_seconds);
        let help = "Total user and system CPU time spent in seconds";
        let kind = cpu.metric_type();
        cpu.encode(encoder.encode_descriptor("process_cpu_seconds", help, None, kind)?)?;
        for (name, help, value) in [
            (
                "process_start_time_seconds",
                "Start time of the process since unix epoch in seconds",
                process.start_seconds,
            ),
            (
                "process_virtual_memory_bytes",
                "Virtual memory size in bytes",
                Some(process.virtual_bytes),
            ),
            (
                "process_resident_memory_bytes",
                "Resident memory size in bytes",
                process.resident_bytes,
            ),
            (
                "process_open_fds",
                "Number of open file descriptors",
                process.open_fds,
            ),
            (
                "process_max_fds",
                "Maximum number of open file descriptors",
                process.max_fds,
            ),
        ] {
            let Some(value) = value else { continue };
            let gauge = ConstGauge::new(value);
            let kind = gauge.metric_type();
            gauge.encode(encoder.encode_descriptor(name, help, None, kind)?)?;
        }
        Ok(())
    }
}

// === impl Process ===

impl Process {
    fn read() -> Option<Self> {
        let stat = fs::read_to_string("/proc/self/stat").ok()?;
        let status = fs::read_to_string("/proc/self/status").unwrap_or_default();
        let system = fs::read_to_string("/proc/stat").unwrap_or_default();
        let fds = fs::read_dir("/proc/self/fd");
        Some(Self {
            // One of them is the list itself.
            open_fds: fds.ok().map(|fds| fds.count().saturating_sub(1) as f64),
            max_fds: getrlimit(Resource::Nofile).current.map(|most| most as f64),
            ..Self::parse(&stat, &status, &system)?
        })
    }

    fn parse(stat: &str, status: &str, system: &str) -> Option<Self> {
        // The second field is a name in brackets, which may hold anything.
        let fields: Vec<&str> = stat.rsplit_once(')')?.1.split_whitespace().collect();
        let number = |at: usize| fields.get(at)?.parse::<f64>().ok();
        let of = |text: &str, key: &str| {
            let line = text.lines().find_map(|line| line.strip_prefix(key))?;
            line.split_whitespace().next()?.parse::<f64>().ok()
        };
        let started = number(19)? / TICKS;
        Some(Self {
            cpu_seconds: (number(11)? + number(12)?) / TICKS,
            start_seconds: of(system, "btime ").map(|booted| booted + started),
            virtual_bytes: number(20)?,
            resident_bytes: of(status, "VmRSS:").map(|kib| kib * 1024.0),
            open_fds: None,
            max_fds: None,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn fields() {
        let stat = "7 (a) b) S 1 1 1 0 -1 4194560 100 0 0 0 250 50 0 0 20 0 4 0 1000 4096 200";
        let process = Process::parse(stat, "Name: x\nVmRSS:\t  2048 kB\n", "cpu 1\nbtime 50\n");
        let expected = Process {
            cpu_seconds: 3.0,
            start_seconds: Some(60.0),
            virtual_bytes: 4096.0,
            resident_bytes: Some(2_097_152.0),
            open_fds: None,
            max_fds: None,
        };
        assert_eq!(process, Some(expected));
        let here = Process::read().unwrap();
        assert!(here.resident_bytes.is_some() && here.open_fds.unwrap() > 0.0);
    }
}
