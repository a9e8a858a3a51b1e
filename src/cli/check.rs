//! `pointsman check`: is this configuration right, and what does it come to?

use std::path::PathBuf;

use anyhow::Context as _;

use crate::config::{self, ConfigErrors, Discovery, LoadOptions, PickerConfig};
use crate::pool::discovery::file;
use crate::scheduling::registry;

/// Arguments of `check`.
#[derive(Debug, clap::Args)]
pub struct CheckArgs {
    /// An EndpointPickerConfig.
    file: PathBuf,
    /// Take plugins of alpha stability, as `serve` does with the same flag.
    #[arg(long)]
    allow_experimental_plugins: bool,
}

/// Prints what is wrong, a line each, or what was understood. `false` = something is wrong.
pub fn run(args: &CheckArgs) -> anyhow::Result<bool> {
    let name = args.file.display();
    let text = std::fs::read_to_string(&args.file).with_context(|| format!("reading {name}"))?;
    let options = LoadOptions {
        allow_experimental: args.allow_experimental_plugins,
    };
    let checked = config::load(&text, options).and_then(|config| {
        registry::build(&config)?;
        super::serve::engines(&config)?;
        Ok(config)
    });
    match checked {
        Ok(config) => {
            for warning in &config.warnings {
                println!("{name}:{}: warning: {}", warning.line, warning.message);
            }
            Ok(describe(&config))
        }
        Err(ConfigErrors(problems)) => {
            for problem in problems {
                println!("{name}:{}: {}", problem.line, problem.message);
            }
            Ok(false)
        }
    }
}

fn describe(config: &PickerConfig) -> bool {
    let profile = &config.profile;
    println!("profile {}", profile.name);
    for filter in &profile.filters {
        println!("  filter {} {}", filter.name, filter.parameters.to_json());
    }
    for scorer in &profile.scorers {
        println!(
            "  scorer {} weight {} {}",
            scorer.name,
            scorer.weight,
            scorer.parameters.to_json()
        );
    }
    println!(
        "  picker {} {}",
        profile.picker.name,
        profile.picker.parameters.to_json()
    );
    println!("parsers {:?}", config.parsers);
    match &config.sources {
        Some(sources) => println!(
            "metrics {} every {}, engine {} unless label {} says otherwise",
            sources.source.path.as_deref().unwrap_or("/metrics"),
            sources
                .source
                .interval
                .as_deref()
                .unwrap_or("--refresh-metrics-interval"),
            sources.extractor.default_engine,
            sources.extractor.engine_label_key,
        ),
        None => println!("metrics none"),
    }
    let mut right = true;
    match &config.discovery {
        Some(Discovery::File(params)) => match file::load(params.path.as_ref()) {
            Ok(endpoints) => println!("endpoints {} in {}", endpoints.len(), params.path),
            Err(error) => {
                println!("endpoints {error}");
                right = false;
            }
        },
        None => println!("endpoints from the command line (--pool-name or --endpoint-selector)"),
    }
    for injected in &config.injected {
        println!("added {injected}");
    }
    right
}
