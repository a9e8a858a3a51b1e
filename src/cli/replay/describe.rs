//! `pointsman replay --describe`: what a trace is.

use std::path::Path;
use std::sync::Arc;

use serde_json::{Value, json};

use super::ReplayArgs;
use crate::sim::workload::{self, Description};

pub(super) fn run(args: &ReplayArgs) -> anyhow::Result<()> {
    let mut all = Vec::new();
    for path in &args.traces {
        let trace = Arc::new(workload::read(path, &args.read_options())?);
        all.push((path, Description::of(&trace)));
    }
    let text = if args.json {
        let described: Vec<_> = all.iter().map(|(path, it)| describe(path, it)).collect();
        format!("{}\n", json!({"version": 1, "traces": described}))
    } else {
        let tables: Vec<_> = all.iter().map(|(path, it)| table(path, it)).collect();
        tables.join("\n")
    };
    print!("{text}");
    Ok(())
}

fn table(path: &Path, it: &Description) -> String {
    format!("{}\n{it}", path.display())
}

fn describe(path: &Path, it: &Description) -> Value {
    json!({"trace": path.display().to_string(), "description": it})
}
