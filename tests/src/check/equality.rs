//! Whether devices hold the same: byte for byte the same canonical dump, and the same conflicts.

use starling::{Registry, canonical};

use crate::sim::Node;

/// How much of a line is shown.
const SHOWN_MAX: usize = 600;

/// Every replicated fact that a device holds, one line each, in key order.
pub async fn dump(node: &Node) -> Vec<String> {
    let read = |c: &mut diesel::SqliteConnection| {
        let mut lines = Vec::new();
        canonical::dump(c, &Registry::default(), &mut |_, line| lines.push(line.to_owned()))?;
        Ok(lines)
    };
    node.peer().query(read).await.unwrap_or_else(|error| panic!("{}: {error}", node.name()))
}

async fn digest(node: &Node) -> String {
    let digest = node.peer().query(|c| canonical::digest(c, &Registry::default())).await;
    digest.unwrap_or_else(|error| panic!("{}: {error}", node.name())).0
}

/// Which of these devices is not in sync by what it says itself, and why; none when all are.
pub async fn lagging(nodes: &[Node]) -> Option<String> {
    for node in nodes {
        let status = node.status().await;
        if !status.verdict.in_sync {
            let (name, state, verdict) = (node.name(), status.library.state, status.verdict);
            return Some(format!("{name} is not in sync: {}\n{state:?}, {:?}", verdict.reason, status.queues));
        }
    }
    None
}

/// Whether these devices hold the same.
pub async fn are_equal(nodes: &[Node]) -> bool {
    let Some((first, others)) = nodes.split_first() else { return true };
    let expected = (digest(first).await, first.conflicts().await);
    for other in others {
        if (digest(other).await, other.conflicts().await) != expected {
            return false;
        }
    }
    true
}

/// Where devices differ; none when they are equal.
pub async fn difference(nodes: &[Node]) -> Option<String> {
    for pair in nodes.windows(2) {
        if let Some(difference) = first_difference(&pair[0], &pair[1]).await {
            return Some(difference);
        }
        let conflicts = (pair[0].conflicts().await, pair[1].conflicts().await);
        if conflicts.0 != conflicts.1 {
            return Some(format!("conflicts of {} and {} differ:\n{conflicts:#?}", pair[0].name(), pair[1].name()));
        }
    }
    None
}

/// The first line of the dumps of two devices that differs, and how many there are on each side; none when equal.
pub async fn first_difference(a: &Node, b: &Node) -> Option<String> {
    let (left, right) = (dump(a).await, dump(b).await);
    let at = left.iter().zip(&right).position(|(left, right)| left != right);
    let at = at.or_else(|| (left.len() != right.len()).then_some(left.len().min(right.len())))?;
    let shown = |lines: &[String]| {
        lines.get(at).map_or("nothing".to_owned(), |line| line.chars().take(SHOWN_MAX).collect::<String>())
    };
    let (names, counts) = ([a.name(), b.name()], [left.len(), right.len()]);
    Some(format!(
        "{} and {} differ at line {at} ({} and {} lines):\n{}: {}\n{}: {}",
        names[0],
        names[1],
        counts[0],
        counts[1],
        names[0],
        shown(&left),
        names[1],
        shown(&right)
    ))
}

/// Asserts that devices hold the same, whether or not they say that they are in sync.
pub async fn assert_equal(nodes: &[&Node]) {
    for pair in nodes.windows(2) {
        if let Some(difference) = first_difference(pair[0], pair[1]).await {
            panic!("{difference}");
        }
        assert_eq!(pair[0].conflicts().await, pair[1].conflicts().await, "conflicts");
    }
}
