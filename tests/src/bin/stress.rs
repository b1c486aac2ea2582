//! The binary `stress`: puts peers under load from the command line.

use std::process::ExitCode;

use clap::{Parser, Subcommand};
use starling_tests::{bench, mutants, power_cuts, processes, rig, scale};

/// Puts Starling under load and measures it.
#[derive(Debug, Parser)]
#[command(name = "stress", version, arg_required_else_help = true)]
struct Cli {
    /// Print JSON; the last line is the result
    #[arg(long, global = true)]
    json: bool,
    /// What to do.
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Run one benchmark with its reference beside it
    Bench(bench::Arguments),
    /// Run simulated clusters under random work and trouble, from seeds
    Sim(rig::Arguments),
    /// Plant each known bug in turn, and see that simulated clusters find it
    Mutants(mutants::Arguments),
    /// Put real peers under load and faults, and see whether they lose anything
    Processes(processes::Arguments),
    /// Fail the power under a real peer at many moments, and see whether anything acknowledged is gone
    PowerCuts(power_cuts::Arguments),
    /// Reckon what gossip and heartbeats cost in libraries of many members
    Scale(scale::Arguments),
    /// A peer that a benchmark drives through its standard input
    #[command(hide = true)]
    BenchPeer(bench::PeerArguments),
}

/// Simulations spend a sixth of their time on allocation with the system's allocator.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn main() -> ExitCode {
    let cli = Cli::parse();
    tracing_subscriber::fmt()
        .with_env_filter(tracing_subscriber::EnvFilter::try_from_default_env().unwrap_or_else(|_| "error".into()))
        .with_writer(std::io::stderr)
        .init();
    let done = match cli.command {
        Command::Bench(arguments) => bench::run(&arguments, cli.json),
        Command::Sim(arguments) => rig::command(&arguments, cli.json),
        Command::Mutants(arguments) => mutants::run(&arguments, cli.json),
        Command::Processes(arguments) => processes::run(&arguments, cli.json),
        Command::PowerCuts(arguments) => power_cuts::run(&arguments, cli.json),
        Command::Scale(arguments) => scale::run(&arguments, cli.json),
        Command::BenchPeer(arguments) => bench::serve_peer(&arguments),
    };
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) if cli.json => {
            let error =
                serde_json::json!({ "error": { "kind": "failed", "message": format!("{error:#}"), "hint": null } });
            eprintln!("{error}");
            ExitCode::FAILURE
        }
        Err(error) => {
            eprintln!("stress: {error:#}");
            ExitCode::FAILURE
        }
    }
}
