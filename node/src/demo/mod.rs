//! stub
use crate::{arguments::Demo, error::CliError, output::Output};
pub(crate) async fn run(_: Demo, _: Output) -> Result<(), CliError> { Ok(()) }
