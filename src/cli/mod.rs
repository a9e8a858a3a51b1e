//! The command line: one file a subcommand.

use clap::{Parser, Subcommand};

pub mod check;
pub mod children;
pub mod demo;
mod describe;
mod discovery;
mod go_flags;
pub mod gpus;
mod http;
pub mod load;
mod metrics_port;
pub mod options;
mod plan;
mod polling;
mod pools;
pub mod probe;
mod reload;
pub mod replay;
mod reviews;
pub mod serve;
pub mod sim;
mod units;

/// Wrong flags or a wrong configuration, as `sysexits.h` has it.
const EXIT_USAGE: u8 = 64;
const EXIT_FAILURE: u8 = 1;

/// An endpoint picker for inference gateways.
#[derive(Debug, Parser)]
#[command(
    name = "pointsman",
    version,
    about,
    subcommand_required = true,
    arg_required_else_help = true
)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// The endpoint picker: an Envoy ext_proc server.
    Serve(Box<options::ServeOptions>),
    /// Check an EndpointPickerConfig and show what it comes to.
    Check(check::CheckArgs),
    /// Simulated model servers.
    Sim(Box<sim::SimArgs>),
    /// The node agent: what the GPUs of a node do, for pickers and Prometheus.
    Probe(Box<probe::ProbeArgs>),
    /// What a picker, or a node's agent, knows of GPUs.
    Gpus(gpus::GpusArgs),
    /// Load for any ext_proc endpoint picker.
    Load(load::LoadArgs),
    /// Traffic from a file, through a simulated cluster.
    Replay(Box<replay::ReplayArgs>),
    /// Simulated model servers, the picker and a real Envoy, with a stream of requests.
    Demo(demo::DemoArgs),
}

/// Runs the program with the process's arguments; returns its exit code.
pub fn run() -> u8 {
    let arguments = match go_flags::normalise(std::env::args().collect()) {
        Ok(arguments) => arguments,
        Err(message) => return usage(&message),
    };
    let cli = match Cli::try_parse_from(arguments) {
        Ok(cli) => cli,
        Err(error) => {
            // Help and version are "errors" that succeed.
            let code = if error.use_stderr() { EXIT_USAGE } else { 0 };
            // A closed standard output is no reason to panic.
            let _ = error.print();
            return code;
        }
    };
    let workers = match cli.command {
        // It serves few, and a GPU node has many cores.
        Command::Probe(_) => 1,
        // One more than there are cores: decisions leave it alone, see `picker::Desk`.
        _ => serve::cores() + serve::SPARE_WORKERS,
    };
    let runtime = match runtime(workers) {
        Ok(runtime) => runtime,
        Err(error) => return failure(&error.into()),
    };
    let ended = match cli.command {
        Command::Serve(options) => match options.check() {
            Ok(settings) => runtime.block_on(serve::run(settings)),
            Err(message) => return usage(&message),
        },
        Command::Check(args) => match check::run(&args) {
            Ok(true) => Ok(()),
            Ok(false) => return EXIT_USAGE,
            Err(error) => Err(error),
        },
        Command::Sim(args) => runtime.block_on(sim::run(*args)),
        Command::Probe(args) => match args.check() {
            Ok(args) => runtime.block_on(probe::run(args)),
            Err(message) => return usage(&message),
        },
        Command::Gpus(args) => runtime.block_on(gpus::run(args)),
        Command::Load(args) => runtime.block_on(load::run(args)),
        Command::Replay(args) => replay::run(&args),
        Command::Demo(args) => runtime.block_on(demo::run(args)),
    };
    // What still blocks (a plugin that hangs) must not keep the process.
    runtime.shutdown_background();
    match ended {
        Ok(()) => 0,
        Err(error) if error.is::<crate::config::ConfigErrors>() => usage(&format!("{error:#}")),
        Err(error) => failure(&error),
    }
}

fn runtime(workers: usize) -> std::io::Result<tokio::runtime::Runtime> {
    tokio::runtime::Builder::new_multi_thread()
        .worker_threads(workers)
        .enable_all()
        .build()
}

fn usage(message: &str) -> u8 {
    eprintln!("pointsman: {message}");
    EXIT_USAGE
}

fn failure(error: &anyhow::Error) -> u8 {
    eprintln!("pointsman: {error:#}");
    EXIT_FAILURE
}
