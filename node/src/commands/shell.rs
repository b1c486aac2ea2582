//! What a shell and a manual need to know of the command line.

use std::path::Path;

use clap::CommandFactory;

use crate::arguments::Cli;
use crate::error::CliError;
use crate::output::{Output, count};

/// Prints the completions of a shell.
pub(crate) fn completions(output: Output, shell: clap_complete::Shell) -> Result<(), CliError> {
    let mut script = Vec::new();
    clap_complete::generate(shell, &mut Cli::command(), "starling", &mut script);
    output.bytes(&script)
}

/// Prints the manual page, or writes one per command into a folder.
pub(crate) fn manual(output: Output, folder: Option<&Path>) -> Result<(), CliError> {
    let Some(folder) = folder else {
        let mut page = Vec::new();
        clap_mangen::Man::new(Cli::command())
            .render(&mut page)
            .map_err(|e| CliError::io("the manual page cannot be made", e))?;
        return output.bytes(&page);
    };
    let failed = |e| CliError::io(format!("the manual pages cannot be written to {}", folder.display()), e);
    std::fs::create_dir_all(folder).map_err(failed)?;
    clap_mangen::generate_to(Cli::command(), folder).map_err(failed)?;
    let pages = std::fs::read_dir(folder).map_err(failed)?.count();
    output.aside(&format!(
        "{} in {}",
        count(u64::try_from(pages).unwrap_or(u64::MAX), "page", "pages"),
        folder.display()
    ));
    Ok(())
}
