//! `pointsman replay`: a trace through a cluster in virtual time, under one profile or several.

mod args;
mod describe;
mod run;

pub use args::ReplayArgs;
pub use run::{Cluster, Picks, compare};

/// Runs it.
pub fn run(args: &ReplayArgs) -> anyhow::Result<()> {
    if args.describe {
        return describe::run(args);
    }
    // What is wrong with a profile is told even so.
    run::picks(args)?;
    anyhow::bail!(
        "the virtual cluster is not in this build, so nothing can be replayed yet; --describe says what a trace is"
    )
}
