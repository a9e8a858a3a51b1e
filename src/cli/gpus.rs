//! `pointsman gpus`: what a picker, or a node's agent, knows of GPUs, as a table.

use std::io::{IsTerminal as _, Write as _};
use std::time::Duration;

use anyhow::Context as _;

use super::http::Http;
use super::serve::asked_to_stop;
use super::units::duration;
use crate::pool::gpu::agents::{self, check_address};
use crate::pool::gpu::page::{GpuPage, GpusPage, SourcePage, of_report};

/// Characters of a UUID that tell one GPU from another.
const UUID: usize = 12;
const COLUMNS: [&str; 10] = [
    "NODE", "GPU", "UUID", "MODEL", "PODS", "HEALTH", "MEMORY", "CLOCK", "POWER", "TEMP",
];

/// Arguments of `gpus`.
#[derive(Debug, clap::Args)]
pub struct GpusArgs {
    /// The picker's metrics port, host:port.
    #[arg(long, default_value = "127.0.0.1:9090", value_parser = address)]
    picker: String,
    /// Of a picker of several pools, whose: <namespace>/<name>.
    #[arg(long)]
    pool: Option<String>,
    /// Ask a node's agent instead, host:port: it knows no endpoints, and so no health.
    #[arg(long, value_parser = address, conflicts_with_all = ["picker", "pool"])]
    agent: Option<String>,
    /// Until Ctrl-C, again and again.
    #[arg(long)]
    watch: bool,
    /// Between two looks.
    #[arg(long, value_parser = duration, default_value = "1s", requires = "watch")]
    interval: Duration,
}

fn address(text: &str) -> Result<String, String> {
    check_address(text).map(|()| text.to_owned())
}

/// Prints the table, once or until the process is asked to stop.
pub async fn run(args: GpusArgs) -> anyhow::Result<()> {
    let http = Http::new();
    if !args.watch {
        print(&table(&ask(&args, &http).await?), false);
        return Ok(());
    }
    let terminal = std::io::stdout().is_terminal();
    let watch = async {
        loop {
            // Whoever watches wants to see it come back.
            let text = match ask(&args, &http).await {
                Ok(page) => table(&page),
                Err(error) => format!("{error:#}\n"),
            };
            print(&text, terminal);
            tokio::time::sleep(args.interval).await;
        }
    };
    tokio::select! {
        stopped = asked_to_stop() => Ok(stopped?),
        () = watch => Ok(()),
    }
}

async fn ask(args: &GpusArgs, http: &Http) -> anyhow::Result<GpusPage> {
    if let Some(agent) = &args.agent {
        let report = agents::ask(agent).await;
        let report = report.with_context(|| format!("the agent at {agent}"))?;
        return Ok(of_report(agent, &report));
    }
    let picker = &args.picker;
    let of_pool = args.pool.iter().map(|pool| format!("?pool={pool}"));
    let path: String = ["/debug/gpus".to_owned()]
        .into_iter()
        .chain(of_pool)
        .collect();
    let page = http.page(picker, &path).await;
    let page =
        page.with_context(|| format!("the picker at {picker}: is that its --metrics-port?"))?;
    serde_json::from_str(&page).with_context(|| format!("http://{picker}/debug/gpus"))
}

/// A closed standard output ends nothing.
fn print(text: &str, terminal: bool) {
    let home = if terminal { "\x1b[H\x1b[2J" } else { "" };
    let _ = std::io::stdout().write_all(format!("{home}{text}").as_bytes());
    let _ = std::io::stdout().flush();
}

fn table(page: &GpusPage) -> String {
    let mut rows = vec![COLUMNS.map(str::to_owned)];
    rows.extend(page.gpus.iter().map(row));
    let mut out = String::new();
    if page.gpus.is_empty() {
        out.push_str("No GPUs are known.\n");
    } else {
        out.push_str(&aligned(&rows));
    }
    if page.not_shown > 0 {
        out.push_str(&format!("… and {} more\n", page.not_shown));
    }
    for line in page.sources.iter().filter_map(trouble) {
        out.push_str(&line);
    }
    out
}

/// What is wrong with a source, as a line.
fn trouble(source: &SourcePage) -> Option<String> {
    let what = match (source.age_ms, source.silent) {
        (None, _) => "was never heard".to_owned(),
        (Some(age), true) => format!("was last heard {} ago", age_of(age)),
        (Some(_), false) if source.problem.is_empty() => return None,
        (Some(_), false) => source.problem.clone(),
    };
    let SourcePage { kind, address, .. } = source;
    Some(format!("{kind} {address}: {what}\n"))
}

/// By [`COLUMNS`].
pub(super) fn row(gpu: &GpuPage) -> [String; 10] {
    let gb = |bytes: u64| format!("{:.1}", bytes as f64 / f64::from(1 << 30));
    let of = |value: Option<String>, most: Option<String>, unit: &str| match (value, most) {
        (None, _) => "-".to_owned(),
        (Some(value), None) => format!("{value} {unit}"),
        (Some(value), Some(most)) => format!("{value}/{most} {unit}"),
    };
    let whole = |value: Option<f64>| value.map(|value| format!("{value:.0}"));
    let mut clock = of(
        gpu.sm_clock.map(|mhz| mhz.to_string()),
        gpu.sm_clock_max.map(|mhz| mhz.to_string()),
        "MHz",
    );
    for reason in gpu.clock_reasons.iter().filter(|reason| *reason != "idle") {
        clock.push_str(&format!(" {reason}"));
    }
    let mut memory = of(gpu.memory_used.map(gb), gpu.memory_total.map(gb), "GiB");
    if gpu.foreign_processes > 0 {
        memory.push_str(&format!(" +{} foreign", gpu.foreign_processes));
    }
    let index = match gpu.parent.is_empty() {
        true => gpu.index.to_string(),
        false => format!("{} {}", gpu.index, gpu.mig_profile),
    };
    let uuid = gpu
        .uuid
        .char_indices()
        .nth(UUID)
        .map_or(&*gpu.uuid, |(end, _)| &gpu.uuid[..end]);
    let model = gpu.name.strip_prefix("NVIDIA ").unwrap_or(&gpu.name);
    [
        known(&gpu.node),
        index,
        uuid.to_owned(),
        known(model),
        pods(gpu),
        health(gpu),
        memory,
        clock,
        of(whole(gpu.power), whole(gpu.power_limit), "W"),
        of(whole(gpu.temperature), None, "C"),
    ]
}

fn known(text: &str) -> String {
    if text.is_empty() { "-" } else { text }.to_owned()
}

/// Endpoints, or whoever else it was given to.
fn pods(gpu: &GpuPage) -> String {
    let endpoints: Vec<&str> = gpu.endpoints.iter().map(|e| &*e.name).collect();
    if endpoints.is_empty() {
        let owners: Vec<&str> = gpu.owners.iter().map(|owner| &**owner).collect();
        return known(&owners.join(","));
    }
    endpoints.join(",")
}

/// The worst that is known, and since when.
fn health(gpu: &GpuPage) -> String {
    let mut words = Vec::new();
    if gpu.lost {
        words.push("lost".to_owned());
    }
    for endpoint in gpu
        .endpoints
        .iter()
        .filter(|endpoint| endpoint.health != "ok")
    {
        let causes = endpoint.causes.iter();
        let causes: Vec<_> = causes
            .map(|c| format!("{} {}", c.cause, age_of(c.age_ms)))
            .collect();
        let word = format!("{} ({})", endpoint.health, causes.join(", "));
        if !words.contains(&word) {
            words.push(word);
        }
    }
    // Nobody judges it, or it is over: what happened is still worth knowing.
    if words.is_empty()
        && let Some(event) = gpu.events.last()
    {
        let ok = if gpu.endpoints.is_empty() { "-" } else { "ok" };
        words.push(format!("{ok}, {} {} ago", event.what, age_of(event.age_ms)));
    }
    match (words.is_empty(), gpu.endpoints.is_empty()) {
        (true, true) => "-".to_owned(),
        (true, false) => "ok".to_owned(),
        (false, _) => words.join("; "),
    }
}

/// As `340ms`, `12s`, `7m`, `3h`.
fn age_of(ms: u64) -> String {
    match ms {
        0..1_000 => format!("{ms}ms"),
        1_000..120_000 => format!("{}s", ms / 1_000),
        120_000..7_200_000 => format!("{}m", ms / 60_000),
        _ => format!("{}h", ms / 3_600_000),
    }
}

/// Columns as wide as what is in them, two spaces between.
fn aligned(rows: &[[String; 10]]) -> String {
    let width = |column: usize| {
        let cells = rows.iter().map(|row| row[column].chars().count());
        cells.max().unwrap_or(0)
    };
    let widths: Vec<usize> = (0..COLUMNS.len()).map(width).collect();
    let mut out = String::new();
    for row in rows {
        let cells = row.iter().zip(&widths);
        let line: String = cells
            .map(|(cell, width)| format!("{cell:<width$}  "))
            .collect();
        out.push_str(line.trim_end());
        out.push('\n');
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::pool::gpu::page::{CausePage, EndpointPage, EventPage};

    #[test]
    fn a_table() {
        let endpoint = |health: &str, causes: &[(&str, u64)]| EndpointPage {
            name: "ml/vllm-0".to_owned(),
            health: health.to_owned(),
            causes: causes
                .iter()
                .map(|&(cause, age_ms)| CausePage {
                    cause: cause.to_owned(),
                    age_ms,
                })
                .collect(),
        };
        let event = || EventPage {
            age_ms: 500,
            what: "XID 63: row remapped".to_owned(),
            source: "nvml".to_owned(),
        };
        let page = GpusPage {
            gpus: vec![
                GpuPage {
                    node: "n1".to_owned(),
                    uuid: "GPU-5b3c7a10-1111".to_owned(),
                    name: "NVIDIA H100".to_owned(),
                    endpoints: vec![endpoint("ejected", &[("gpu-fatal", 12_000)])],
                    memory_used: Some(70 << 30),
                    memory_total: Some(80 << 30),
                    foreign_processes: 2,
                    sm_clock: Some(990),
                    sm_clock_max: Some(1980),
                    clock_reasons: vec!["hw-thermal".to_owned()],
                    power: Some(411.7),
                    power_limit: Some(700.0),
                    temperature: Some(61.0),
                    events: vec![event()],
                    ..Default::default()
                },
                GpuPage {
                    index: 1,
                    uuid: "MIG-a".to_owned(),
                    parent: "GPU-b".to_owned(),
                    mig_profile: "1g.10gb".to_owned(),
                    endpoints: vec![endpoint("ok", &[])],
                    events: vec![event()],
                    ..Default::default()
                },
                GpuPage {
                    owners: vec!["ml/other-0".to_owned()],
                    ..Default::default()
                },
            ],
            sources: vec![SourcePage {
                kind: "agent".to_owned(),
                address: "10.0.0.7:9401".to_owned(),
                node: "n1".to_owned(),
                age_ms: Some(4_000),
                silent: true,
                gpus: 1,
                problem: String::new(),
            }],
            not_shown: 0,
        };
        let expected = "\
NODE  GPU        UUID          MODEL  PODS        HEALTH                               MEMORY                   CLOCK                    POWER      TEMP
n1    0          GPU-5b3c7a10  H100   ml/vllm-0   ejected (gpu-fatal 12s)              70.0/80.0 GiB +2 foreign  990/1980 MHz hw-thermal  412/700 W  61 C
-     1 1g.10gb  MIG-a         -      ml/vllm-0   ok, XID 63: row remapped 500ms ago   -                        -                        -          -
-     0                        -      ml/other-0  -                                    -                        -                        -          -
agent 10.0.0.7:9401: was last heard 4s ago
";
        let squeezed = |text: &str| {
            let lines = text
                .lines()
                .map(|line| line.split_whitespace().collect::<Vec<_>>().join(" "));
            lines.collect::<Vec<_>>()
        };
        assert_eq!(squeezed(&table(&page)), squeezed(expected));
        // Columns begin where their headings do.
        let text = table(&page);
        let at = |line: usize, what: &str| text.lines().nth(line).unwrap().find(what);
        assert_eq!(
            (at(0, "HEALTH"), at(0, "TEMP")),
            (at(1, "ejected"), at(1, "61 C"))
        );
        assert!(table(&GpusPage::default()).starts_with("No GPUs are known."));
    }
}
