//! What the simulated links are like: a value that a test changes as it goes.

use std::collections::{BTreeMap, BTreeSet};
use std::ops::RangeInclusive;

use super::NodeNo;

/// What one direction of a link does to messages.
#[derive(Clone, Debug, PartialEq)]
pub struct Link {
    /// How long a message takes, in milliseconds. Each is drawn anew, so a wide range reorders.
    pub delay_ms: RangeInclusive<u64>,
    /// How likely a message is lost.
    pub loss: f64,
    /// How likely a message arrives twice.
    pub duplication: f64,
}

impl Default for Link {
    /// A local network: quick, and nothing is lost.
    fn default() -> Self {
        Self { delay_ms: 1..=5, loss: 0.0, duplication: 0.0 }
    }
}

/// What all links are like now.
#[derive(Clone, Debug, PartialEq)]
pub struct Conditions {
    /// Every link that is not named in `links`.
    pub link: Link,
    /// Links of their own, by who sends and who receives.
    pub links: BTreeMap<(NodeNo, NodeNo), Link>,
    /// Partitions: a message passes between nodes of one group. Nodes of no group reach everybody.
    pub groups: Vec<BTreeSet<NodeNo>>,
    /// One-way cuts, by who sends and who would receive.
    pub cuts: BTreeSet<(NodeNo, NodeNo)>,
    /// Pairs that were never linked, the lower number first. Healing does not link them.
    pub unlinked: BTreeSet<(NodeNo, NodeNo)>,
    /// Nodes whose cable is pulled.
    pub down: BTreeSet<NodeNo>,
    /// Nodes whose connections hang: they look alive and carry nothing. Healing does not wake them.
    pub hung: BTreeSet<NodeNo>,
    /// Nodes whose process was killed: they say nothing more. Healing does not bring them back.
    pub dead: BTreeSet<NodeNo>,
    /// Nodes that just died: what is under way arrives, and nothing more is taken from them.
    pub mute: BTreeSet<NodeNo>,
    /// Whether broadcasts are carried at all.
    pub gossip: bool,
    /// Whether nodes that can reach each other find each other by themselves, as on a local network.
    pub discovery: bool,
}

impl Default for Conditions {
    fn default() -> Self {
        Self {
            link: Link::default(),
            links: BTreeMap::new(),
            groups: Vec::new(),
            cuts: BTreeSet::new(),
            unlinked: BTreeSet::new(),
            down: BTreeSet::new(),
            hung: BTreeSet::new(),
            dead: BTreeSet::new(),
            mute: BTreeSet::new(),
            gossip: true,
            discovery: true,
        }
    }
}

impl Conditions {
    /// Whether anything that `from` sends can reach `to`.
    #[must_use]
    pub fn passes(&self, from: NodeNo, to: NodeNo) -> bool {
        self.looks_open(from, to) && !self.hung.contains(&from) && !self.hung.contains(&to)
    }

    fn looks_open(&self, from: NodeNo, to: NodeNo) -> bool {
        let group = |node: NodeNo| self.groups.iter().position(|group| group.contains(&node));
        let apart = matches!((group(from), group(to)), (Some(a), Some(b)) if a != b);
        let unlinked = self.unlinked.contains(&(from.min(to), from.max(to)));
        let down = [from, to].iter().any(|node| self.down.contains(node) || self.dead.contains(node));
        !(apart || unlinked || down || self.cuts.contains(&(from, to)))
    }

    /// Whether two nodes can connect: each hears the other, or seems to.
    #[must_use]
    pub fn connects(&self, a: NodeNo, b: NodeNo) -> bool {
        self.looks_open(a, b) && self.looks_open(b, a)
    }

    /// What the link from one node to another does.
    #[must_use]
    pub fn link(&self, from: NodeNo, to: NodeNo) -> &Link {
        self.links.get(&(from, to)).unwrap_or(&self.link)
    }

    /// Splits the nodes into groups that do not hear each other.
    pub fn partition(&mut self, groups: &[&[NodeNo]]) {
        self.groups = groups.iter().map(|group| group.iter().copied().collect()).collect();
    }

    /// Takes every partition, cut and pulled cable back.
    pub fn heal(&mut self) {
        self.groups.clear();
        self.cuts.clear();
        self.down.clear();
    }

    /// Links the nodes as a chain in this order and no other way.
    pub fn line(&mut self, chain: &[NodeNo]) {
        for (at, a) in chain.iter().enumerate() {
            for b in chain.iter().skip(at + 2) {
                self.unlinked.insert((*a.min(b), *a.max(b)));
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_links_neighbours_only_and_healing_keeps_it() {
        let mut conditions = Conditions::default();
        conditions.line(&[0, 1, 2]);
        conditions.heal();
        assert!(conditions.connects(0, 1) && conditions.connects(1, 2));
        assert!(!conditions.connects(0, 2));
    }

    #[test]
    fn what_hangs_looks_connected_and_carries_nothing_and_healing_does_not_wake_it() {
        let mut conditions = Conditions::default();
        conditions.hung.insert(1);
        conditions.heal();
        assert!(conditions.connects(0, 1) && conditions.connects(1, 2));
        assert!(!conditions.passes(0, 1) && !conditions.passes(1, 0) && conditions.passes(0, 2));
    }

    #[test]
    fn a_one_way_cut_lets_the_other_way_pass() {
        let mut conditions = Conditions::default();
        conditions.cuts.insert((0, 1));
        assert!(!conditions.passes(0, 1) && conditions.passes(1, 0));
        assert!(!conditions.connects(0, 1));
    }

    #[test]
    fn a_partition_parts_groups_and_nobody_else() {
        let mut conditions = Conditions::default();
        conditions.partition(&[&[0, 1], &[2]]);
        assert!(conditions.connects(0, 1) && !conditions.connects(1, 2));
        assert!(conditions.connects(3, 2) && conditions.connects(3, 0));
    }
}
