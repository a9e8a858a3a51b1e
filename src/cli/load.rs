//! tmp
#[derive(Debug, clap::Args)]
pub struct LoadArgs {}
pub async fn run(_: LoadArgs) -> anyhow::Result<()> { Ok(()) }
