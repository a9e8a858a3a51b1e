//! `pointsman replay`: a trace through a cluster in virtual time, under one profile or several.

mod args;
mod cluster;
mod describe;
mod run;

pub use args::ReplayArgs;
pub use run::{Cluster, Done, Picks, compare};

/// Runs it.
pub fn run(args: &ReplayArgs) -> anyhow::Result<()> {
    if args.describe {
        return describe::run(args);
    }
    compare(args, &cluster::Virtual::of(args)?).map(drop)
}
