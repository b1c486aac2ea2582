//! Whether this device's file is sound, and whether another device holds the same.

use starling::{Finding, PeerHandle, VerifyError};

use super::devices;
use crate::api::{Difference, Verified};
use crate::error::{CliError, ErrorKind};

/// Checks the file, and compares with the device of that name or id when one is given.
pub(crate) async fn verify(peer: &PeerHandle, with: Option<&str>) -> Result<Verified, CliError> {
    let mut differences: Vec<Difference> = peer.verify().await?.into_iter().map(row).collect();
    if let Some(text) = with {
        let device = devices::named(peer, text).await?;
        differences.extend(peer.verify_with(device.id).await?.into_iter().map(row));
    }
    Ok(Verified { ok: differences.is_empty(), differences })
}

fn row(finding: Finding) -> Difference {
    let Finding { model, record, problem } = finding;
    Difference { model, id: record, problem }
}

impl From<VerifyError> for CliError {
    fn from(error: VerifyError) -> Self {
        let message = error.to_string();
        match error {
            VerifyError::Query(error) => error.into(),
            VerifyError::NotConnected(_) => {
                Self::new(ErrorKind::Failed, message).hint("`starling peers` shows who is connected")
            }
            VerifyError::Unequal => {
                Self::new(ErrorKind::Busy, message).hint("`starling wait --converged` waits until they are")
            }
            _ => Self::new(ErrorKind::Failed, message),
        }
    }
}
