//! sim
#[derive(Debug, clap::Args)]
pub struct SimArgs {}
pub async fn run(_: SimArgs) -> anyhow::Result<()> { Ok(()) }
