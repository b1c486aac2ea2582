//! Quiet: on a healed network, within bounded virtual time, nothing waits anywhere any more and every log is empty.
//!
//! Not verified here: what the devices hold.

use crate::sim::Node;

/// What a device still waits for, or keeps; none when it is quiet.
pub async fn unrest(node: &Node) -> Option<String> {
    let status = match node.peer().status().await {
        Ok(status) => status,
        Err(error) => return Some(format!("{}: {error}", node.name())),
    };
    let (name, queues) = (node.name(), status.queues);
    if !status.verdict.in_sync {
        return Some(format!("{name} is not in sync: {} ({queues:?})", status.verdict.reason));
    }
    if queues.retry + queues.dead_letters + queues.buffered + queues.parked > 0 {
        return Some(format!("{name}: {queues:?}"));
    }
    (status.log.entries > 0).then(|| format!("{name} keeps {} log entries", status.log.entries))
}
