//! `pointsman check`: is this configuration right, and what does it come to?

use std::path::{Path, PathBuf};

use anyhow::Context as _;

use super::describe;
use super::plan::{Plan, no_endpoints};
use crate::config::{ConfigErrors, LoadOptions, Problem};
use crate::pool::discovery::file;

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
    match Plan::of(&text, options) {
        Ok(plan) => {
            for warning in &plan.config.warnings {
                println!(
                    "{}: warning: {}",
                    place(&args.file, warning),
                    warning.message
                );
            }
            print!("{}", describe::pipeline(&plan));
            let Some(discovery) = &plan.endpoints else {
                println!("endpoints none: {}", no_endpoints());
                return Ok(true);
            };
            let path = &discovery.path;
            let endpoints = file::load(path.as_ref());
            match &endpoints {
                Ok(contents) => {
                    println!("endpoints {} in {path}", contents.endpoints.len());
                    if !contents.objectives.is_empty() {
                        println!("objectives {} in {path}", contents.objectives.len());
                    }
                }
                Err(error) => println!("endpoints {error}"),
            }
            Ok(endpoints.is_ok())
        }
        Err(ConfigErrors(problems)) => {
            for problem in problems {
                println!("{}: {}", place(&args.file, &problem), problem.message);
            }
            Ok(false)
        }
    }
}

/// `file:line`, as editors know it; without the line where there is none.
fn place(file: &Path, problem: &Problem) -> String {
    match problem.line {
        0 => file.display().to_string(),
        line => format!("{}:{line}", file.display()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const HEAD: &str = "apiVersion: llm-d.ai/v1alpha1\nkind: EndpointPickerConfig\n";

    #[test]
    fn a_file_is_right_if_all_that_is_in_it_can_be_used() {
        let dir = tempfile::tempdir().unwrap();
        let endpoints = dir.path().join("endpoints.yaml");
        let file = dir.path().join("config.yaml");
        let right = |rest: &str| {
            std::fs::write(&file, format!("{HEAD}{rest}")).unwrap();
            let args = CheckArgs {
                file: file.clone(),
                allow_experimental_plugins: false,
            };
            run(&args).unwrap()
        };
        let with = |parameters: &str| {
            let path = endpoints.display();
            format!(
                "plugins:\n- {{type: file-discovery, parameters: {{path: {path}}}}}\n{parameters}dataLayer: {{discovery: {{pluginRef: file-discovery}}}}\n"
            )
        };
        assert!(!right(&with("")), "the endpoints file is not there");
        std::fs::write(&endpoints, "endpoints: []").unwrap();
        assert!(right(&with("")));
        // Pods are found elsewhere: the file is right, and says what is missing.
        assert!(right("plugins: [{type: queue-scorer}]\n"));
        let metrics = "- {type: metrics-data-source, parameters: {path: metrics}}\n";
        assert!(!right(&with(metrics)));
        let engine = "- {type: core-metrics-extractor, parameters: {defaultEngine: x}}\n";
        assert!(!right(&with(engine)));
    }

    #[test]
    fn a_problem_without_a_line_has_only_a_file() {
        let of = |line| place(Path::new("f.yaml"), &Problem::new(line, "x"));
        assert_eq!((of(0), of(7)), ("f.yaml".to_owned(), "f.yaml:7".to_owned()));
    }
}
