//! `starling`: runs the peer of a device, and talks to it.

mod api;
mod arguments;
mod client;
mod commands;
mod daemon;
mod data_directory;
mod demo;
mod derived;
mod error;
mod indexer;
mod indexing;
mod library;
mod names;
mod output;
mod progress;
mod signals;

use std::ffi::OsString;
use std::io::IsTerminal;
use std::process::ExitCode;

use clap::Parser;
use clap::error::ErrorKind as UsageKind;

use crate::arguments::{Cli, Command, Global, When};
use crate::client::Client;
use crate::commands::Session;
use crate::data_directory::DataDirectory;
use crate::error::{CliError, ErrorKind};
use crate::output::Output;
use crate::signals::Signals;

// A program that people run must have nothing in it by which tests interfere. Cargo gives every package of one build the
// features that any of them asks for, so a release is built without the tests: `cargo build --release`.
#[cfg(not(debug_assertions))]
const _: () = assert!(!starling::rig::RIGGED, "a release is built without the package starling-tests");

fn main() -> ExitCode {
    let arguments: Vec<OsString> = std::env::args_os().collect();
    let cli = match Cli::try_parse_from(&arguments) {
        Ok(cli) => cli,
        Err(error) => return misused(&arguments, &error),
    };
    let output = Output::new(&cli.global);
    log_to_stderr(&cli.global);
    match run(cli, output) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            output.error(&error);
            ExitCode::from(error.kind.exit())
        }
    }
}

fn run(cli: Cli, output: Output) -> Result<(), CliError> {
    let Cli { global, command } = cli;
    match command {
        Command::Completions { shell } => commands::completions(output, shell),
        Command::Man { out } => commands::manual(output, out.as_deref()),
        Command::Up(up) => daemon::run(up, DataDirectory::choose(global.data.as_deref())?, output),
        Command::Demo(demo) => alone(demo::run(demo, output)),
        command => {
            let peer = Client::new(DataDirectory::choose(global.data.as_deref())?);
            let session = Session { peer, output };
            interruptible(commands::run(&session, command))
        }
    }
}

/// Runs to its end, or to Ctrl-C.
fn interruptible(work: impl Future<Output = Result<(), CliError>>) -> Result<(), CliError> {
    alone(async { Signals::new()?.unless_told(work).await? })
}

/// Runs on this thread.
fn alone(work: impl Future<Output = Result<(), CliError>>) -> Result<(), CliError> {
    tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .map_err(|e| CliError::io("the command cannot be started", e))?
        .block_on(work)
}

/// Says what is wrong with the command line, in the form that it asks for.
fn misused(arguments: &[OsString], error: &clap::Error) -> ExitCode {
    let asked = matches!(error.kind(), UsageKind::DisplayHelp | UsageKind::DisplayVersion);
    if !asked && arguments.iter().any(|argument| argument == "--json") {
        let rendered = error.render().to_string();
        let message = rendered.lines().next().unwrap_or_default().trim_start_matches("error: ");
        let global = Global { data: None, json: true, quiet: false, verbose: 0, color: When::Never };
        Output::new(&global)
            .error(&CliError::new(ErrorKind::Usage, message).hint("`starling --help` lists what there is"));
    } else {
        // When it cannot be written there is nobody to tell.
        error.print().ok();
    }
    ExitCode::from(if asked { 0 } else { ErrorKind::Usage.exit() })
}

/// Logs go to standard error, from warnings on; `-v` shows more, `STARLING_LOG` chooses exactly.
fn log_to_stderr(global: &Global) {
    let level = match (global.quiet, global.verbose) {
        (true, _) => "error",
        (false, 0) => "warn",
        (false, 1) => "info,libp2p=warn",
        (false, 2) => "debug,libp2p=info",
        (false, _) => "trace",
    };
    let filter = tracing_subscriber::EnvFilter::try_from_env("STARLING_LOG")
        .unwrap_or_else(|_| tracing_subscriber::EnvFilter::new(level));
    let colored = match global.color {
        When::Auto => {
            std::env::var_os("NO_COLOR").is_none_or(|value| value.is_empty()) && std::io::stderr().is_terminal()
        }
        When::Always => true,
        When::Never => false,
    };
    tracing_subscriber::fmt().with_env_filter(filter).with_writer(std::io::stderr).with_ansi(colored).init();
}
