//! `pointsman replay`: a trace through a cluster in virtual time, under one profile or several.

mod args;
mod describe;

pub use args::ReplayArgs;

/// Runs it.
pub fn run(args: &ReplayArgs) -> anyhow::Result<()> {
    if args.describe {
        return describe::run(args);
    }
    anyhow::bail!(
        "the virtual cluster is not in this build, so nothing can be replayed yet; --describe says what a trace is"
    )
}
