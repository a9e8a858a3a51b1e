//! `pointsman check`: is this configuration right, and what does it come to?

use std::path::{Path, PathBuf};

use anyhow::Context as _;

use super::describe;
use super::plan::{Plan, no_endpoints};
use super::pools::{self, PoolAddress};
use crate::config::{ConfigErrors, LoadOptions, Problem};
use crate::pool::discovery::file;

/// Arguments of `check`.
#[derive(Debug, clap::Args)]
pub struct CheckArgs {
    /// An EndpointPickerConfig, or a pools file (`serve --pools-file`): then its pools and their configurations.
    file: PathBuf,
    /// Take plugins of alpha stability, as `serve` does with the same flag.
    #[arg(long)]
    allow_experimental_plugins: bool,
}

/// Prints what is wrong, a line each, or what was understood. `false` = something is wrong.
pub fn run(args: &CheckArgs) -> anyhow::Result<bool> {
    let options = LoadOptions {
        allow_experimental: args.allow_experimental_plugins,
    };
    let text = read(&args.file)?;
    if pools::is_pools_file(&text) {
        return check_pools(&args.file, &text, options);
    }
    check(&args.file, &text, options)
}

fn read(file: &Path) -> anyhow::Result<String> {
    std::fs::read_to_string(file).with_context(|| format!("reading {}", file.display()))
}

/// A pools file. Who starts `serve` may name a namespace for pools that have none.
fn check_pools(file: &Path, text: &str, options: LoadOptions) -> anyhow::Result<bool> {
    let pools = match pools::list(text, Some("NAMESPACE")) {
        Ok(pools) => pools,
        Err(problem) => {
            println!("{}: {}", place(file, &problem), problem.message);
            return Ok(false);
        }
    };
    let mut right = true;
    for pool in pools {
        let PoolAddress {
            namespace, service, ..
        } = &pool.address;
        println!("pool {} of {service}.{namespace}", pool.address.id());
        if let Some(file) = pool.config_file() {
            println!("configuration {}", file.display());
            right &= check(file, &read(file)?, options)?;
        }
        if let Some(file) = pool.endpoints_file() {
            right &= check_endpoints(file);
        }
    }
    Ok(right)
}

fn check_endpoints(file: &Path) -> bool {
    let endpoints = file::load(file);
    let path = file.display();
    match &endpoints {
        Ok(contents) => {
            println!("endpoints {} in {path}", contents.endpoints.len());
            if !contents.objectives.is_empty() {
                println!("objectives {} in {path}", contents.objectives.len());
            }
        }
        Err(error) => println!("endpoints {error}"),
    }
    endpoints.is_ok()
}

/// An EndpointPickerConfig.
fn check(file: &Path, text: &str, options: LoadOptions) -> anyhow::Result<bool> {
    match Plan::of(text, options) {
        Ok(plan) => {
            for warning in &plan.config.warnings {
                println!("{}: warning: {}", place(file, warning), warning.message);
            }
            print!("{}", describe::pipeline(&plan));
            let Some(discovery) = &plan.endpoints else {
                println!("endpoints none: {}", no_endpoints());
                return Ok(true);
            };
            Ok(check_endpoints(discovery.path.as_ref()))
        }
        Err(ConfigErrors(problems)) => {
            for problem in problems {
                println!("{}: {}", place(file, &problem), problem.message);
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
    fn a_pools_file_is_right_if_its_configurations_are() {
        let dir = tempfile::tempdir().unwrap();
        let at = |name: &str| dir.path().join(name);
        std::fs::write(
            at("good"),
            format!("{HEAD}plugins: [{{type: queue-scorer}}]\n"),
        )
        .unwrap();
        std::fs::write(
            at("bad"),
            format!("{HEAD}plugins: [{{type: quue-scorer}}]\n"),
        )
        .unwrap();
        let right = |rest: &str| {
            std::fs::write(
                at("pools"),
                format!("pools:\n- {{name: a, namespace: n{rest}}}\n"),
            )
            .unwrap();
            let args = CheckArgs {
                file: at("pools"),
                allow_experimental_plugins: false,
            };
            run(&args).unwrap()
        };
        assert!(right(""));
        assert!(right(&format!(", configFile: {}", at("good").display())));
        assert!(!right(&format!(", configFile: {}", at("bad").display())));
        assert!(!right(&format!(
            ", endpointsFile: {}",
            at("none").display()
        )));
        assert!(!right(", config: x"));
    }

    #[test]
    fn a_problem_without_a_line_has_only_a_file() {
        let of = |line| place(Path::new("f.yaml"), &Problem::new(line, "x"));
        assert_eq!((of(0), of(7)), ("f.yaml".to_owned(), "f.yaml:7".to_owned()));
    }
}
