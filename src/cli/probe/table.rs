//! What `--once` prints.

use std::fmt::Write as _;

use gpu_probes::telemetry::{Gpu, Owner, Snapshot};

/// Columns, with the width that all but the last are padded to.
const COLUMNS: [(&str, usize); 8] = [
    ("GPU", 46),
    ("MEMORY GiB", 13),
    ("UTIL", 6),
    ("SM MHz", 11),
    ("REASONS", 9),
    ("POWER W", 11),
    ("TEMP C", 8),
    ("OWNERS", 0),
];
const GIB: f64 = (1 << 30) as f64;
/// What is not known.
const UNKNOWN: &str = "-";

/// A line a GPU, what is missing of each, the last events, and what is wrong.
pub(super) fn table(snapshot: &Snapshot) -> String {
    let mut out = String::new();
    line(&mut out, &COLUMNS.map(|(name, _)| name.to_owned()));
    for gpu in &snapshot.gpus {
        line(&mut out, &row(gpu));
    }
    // Writing to a String cannot fail.
    for gpu in &snapshot.gpus {
        for missing in &gpu.missing {
            let _ = writeln!(out, "{} {}: {}", gpu.uuid, missing.field, missing.why);
        }
    }
    for event in &snapshot.events {
        let kind = event.kind().as_str_name();
        let (uuid, value, age) = (&event.uuid, event.value, event.age_ms / 1000);
        let _ = writeln!(out, "{uuid} {kind} {value}, {age} s ago");
    }
    if !snapshot.problem.is_empty() {
        let _ = writeln!(out, "problem: {}", snapshot.problem);
    }
    out
}

fn line(out: &mut String, cells: &[String; COLUMNS.len()]) {
    let mut line = String::new();
    for (cell, (_, width)) in cells.iter().zip(COLUMNS) {
        let _ = write!(line, "{cell:width$} ");
    }
    out.push_str(line.trim_end());
    out.push('\n');
}

fn row(gpu: &Gpu) -> [String; COLUMNS.len()] {
    let indent = if gpu.parent.is_empty() { "" } else { "  " };
    let name = format!("{indent}{} {}", gpu.index, gpu.uuid);
    let known = |value: Option<String>| value.unwrap_or_else(|| UNKNOWN.to_owned());
    // Of two, the second may be missing.
    let of = |value: Option<f64>, most: Option<f64>| {
        let most = most.map(|most| format!("/{most:.0}")).unwrap_or_default();
        known(value.map(|value| format!("{value:.0}{most}")))
    };
    let memory = gpu.memory.map(|memory| {
        let (used, total) = (memory.used as f64 / GIB, memory.total as f64 / GIB);
        format!("{used:.1}/{total:.1}")
    });
    let utilization = gpu.utilization.and_then(|utilization| utilization.gpu);
    let clocks = gpu.clocks.unwrap_or_default();
    let power = gpu.power.unwrap_or_default();
    let temperature = gpu.temperature.unwrap_or_default();
    let owners = gpu.owners.iter().map(|owner| {
        let Owner {
            namespace,
            pod,
            container,
            ..
        } = owner;
        format!("{namespace}/{pod}/{container}")
    });
    let owners: Vec<String> = owners.collect();
    let reasons = match gpu.lost {
        true => Some("LOST".to_owned()),
        false => clocks.event_reasons.map(|bits| format!("{bits:#x}")),
    };
    [
        name,
        known(memory),
        known(utilization.map(|share| format!("{:.0} %", share * 100.0))),
        of(clocks.sm.map(f64::from), clocks.sm_max.map(f64::from)),
        known(reasons),
        of(power.draw, power.limit),
        of(temperature.gpu, temperature.slowdown),
        match owners.is_empty() {
            true => UNKNOWN.to_owned(),
            false => owners.join(", "),
        },
    ]
}

#[cfg(test)]
mod tests {
    use gpu_probes::telemetry::{Event, EventKind, Memory, Missing, Power, Utilization};

    use super::*;

    #[test]
    fn what_is_not_known_is_a_dash_and_not_0() {
        let known = Gpu {
            uuid: "GPU-a".into(),
            memory: Some(Memory {
                total: 80 << 30,
                used: 8 << 30,
                ..Memory::default()
            }),
            utilization: Some(Utilization {
                gpu: Some(0.0),
                ..Utilization::default()
            }),
            power: Some(Power {
                draw: Some(70.0),
                limit: Some(700.0),
                ..Power::default()
            }),
            owners: vec![Owner {
                namespace: "default".into(),
                pod: "a".into(),
                container: "server".into(),
                replica: None,
            }],
            ..Gpu::default()
        };
        let instance = Gpu {
            uuid: "MIG-b".into(),
            parent: "GPU-a".into(),
            missing: vec![Missing {
                field: "utilization".into(),
                why: "not supported".into(),
            }],
            ..Gpu::default()
        };
        let event = Event {
            uuid: "GPU-a".into(),
            kind: EventKind::Xid.into(),
            value: 94,
            age_ms: 3_500,
            ..Event::default()
        };
        let table = table(&Snapshot {
            gpus: vec![known, instance],
            problem: "something".into(),
            events: vec![event],
        });
        let words: Vec<Vec<&str>> = table
            .lines()
            .map(|line| line.split_whitespace().collect())
            .collect();
        assert_eq!(
            words[1],
            [
                "0",
                "GPU-a",
                "8.0/80.0",
                "0",
                "%",
                "-",
                "-",
                "70/700",
                "-",
                "default/a/server"
            ]
        );
        assert_eq!(words[2], ["0", "MIG-b", "-", "-", "-", "-", "-", "-", "-"]);
        assert_eq!(words[3].join(" "), "MIG-b utilization: not supported");
        assert_eq!(words[4].join(" "), "GPU-a XID 94, 3 s ago");
        assert_eq!(words[5].join(" "), "problem: something");
    }
}
