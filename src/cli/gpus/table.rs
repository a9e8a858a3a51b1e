//! What is known of GPUs, as a table.

use crate::pool::gpu::page::{GpuPage, GpusPage, SourcePage};

/// Characters of a UUID that are shown at least; as many more as it takes to tell one from another.
const UUID: usize = 12;
const COLUMNS: [&str; 10] = [
    "NODE", "GPU", "UUID", "MODEL", "PODS", "HEALTH", "MEMORY", "CLOCK", "POWER", "TEMP",
];

/// All that `page` has.
pub(super) fn table(page: &GpusPage) -> String {
    let mut rows = vec![COLUMNS.map(str::to_owned)];
    let shown = uuid_length(page.gpus.iter().map(|gpu| &*gpu.uuid));
    rows.extend(page.gpus.iter().map(|gpu| row(gpu, shown)));
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

/// How many characters of these UUIDs tell each from all others.
fn uuid_length<'a>(uuids: impl Iterator<Item = &'a str>) -> usize {
    let mut all: Vec<&str> = uuids.collect();
    all.sort_unstable();
    // Two that are the same cannot be told apart, by any number.
    all.dedup();
    let alike = |pair: &[&str]| {
        let pairs = pair[0].chars().zip(pair[1].chars());
        pairs.take_while(|(a, b)| a == b).count() + 1
    };
    // Whatever two have in common, neighbours have too.
    all.windows(2).map(alike).fold(UUID, usize::max)
}

/// By [`COLUMNS`], with so many characters of its UUID.
pub(in crate::cli) fn row(gpu: &GpuPage, shown: usize) -> [String; 10] {
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
        .nth(shown)
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
    fn uuids_are_as_long_as_it_takes() {
        for (uuids, expected) in [
            (&["GPU-5b3c7a10-1111", "GPU-5b3c7a10-1112"][..], 17),
            (&["GPU-5b3c7a10-1111", "GPU-77d1c0aa-1111"], 12),
            (
                &[
                    "GPU-00000000-01",
                    "MIG-00000000-01",
                    "GPU-00000000-11",
                    "MIG-00000000-02",
                ],
                15,
            ),
            (&["GPU-5b3c7a10-1111", "GPU-5b3c7a10-1111"], 12),
            (&["GPU-5b3c7a10", "GPU-5b3c7a10-1"], 13),
            (&["x"], 12),
            (&[], 12),
        ] {
            assert_eq!(uuid_length(uuids.iter().copied()), expected, "{uuids:?}");
        }
    }

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
