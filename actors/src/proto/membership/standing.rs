//! Which statements count: the pure function from a set of membership statements to its members.
//!
//! Three rules, and what follows from them when they contradict each other:
//!
//! 1. *Support.* The founding statement counts. Any other counts only if its author is the founder or was admitted by
//!    a statement that counts.
//! 2. *Voiding.* A removal that counts voids every statement of its target that it does not list, whatever that
//!    statement names as seen. It never voids itself, nor the founding statement.
//! 3. *Being out.* The target of a removal that counts is no member, however often it was or will be admitted.
//!
//! Rule 2 makes this a logic program with negation. It is solved by its well-founded model (Van Gelder, Ross and
//! Schlipf 1991), computed as an alternating fixpoint: assume no removal counts and see what could possibly count;
//! assume all of those and see what surely counts; and so on until neither changes. What is supported only by itself
//! never counts.
//!
//! What is left undecided are removals that void each other, directly or by way of somebody's admission. Each group of
//! undecided statements that depend on one another and on no other undecided one is settled in favour of its removals:
//! they all count (so two that remove each other are both out), and the model is computed again. Statements further
//! down, such as the other late removals of a removed device, are then decided by it, usually as void. Last, a removal
//! whose author was removed by its target counts too, even if a third device voided it: who removes somebody may be
//! removed by them, so "they removed each other" never depends on who else joined in.
//!
//! Each round decides at least one more removal for good, so there are at most as many rounds as removals. Every round
//! is a function of the set alone, so the order of arrival cannot matter.

use std::collections::{BTreeMap, BTreeSet};

use starling_schema::key::DeviceKey;
use starling_schema::signed::{Statement, StatementBody, StatementId};

/// What a set of statements amounts to.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub(super) struct Standing {
    /// The statements that count.
    pub(super) counting: BTreeSet<StatementId>,
    /// Every key that was admitted, removed since or not.
    pub(super) admitted: BTreeSet<DeviceKey>,
    /// Every key that was removed, admitted before or not.
    pub(super) removed: BTreeSet<DeviceKey>,
}

/// The statements by number, with who admits and who voids whom worked out.
struct Graph<'a> {
    statements: Vec<(&'a StatementId, &'a Statement)>,
    by_author: BTreeMap<DeviceKey, Vec<usize>>,
    /// For each key the statements that admit it.
    admits: BTreeMap<DeviceKey, Vec<usize>>,
    /// The removals, each with the statements that it voids if it counts.
    removals: BTreeMap<usize, Vec<usize>>,
}

/// Works out what a set of statements amounts to.
pub(super) fn standing(statements: &BTreeMap<StatementId, Statement>) -> Standing {
    let graph = Graph::new(statements);
    let mut settled = BTreeSet::new();
    loop {
        let (surely, possibly) = graph.well_founded(&settled);
        let mut newly = graph.deadlocked(&surely, &possibly);
        if newly.is_empty() {
            newly = graph.answered(&surely);
        }
        let before = settled.len();
        settled.extend(newly);
        if settled.len() == before {
            return graph.standing(&surely);
        }
    }
}

impl<'a> Graph<'a> {
    fn new(set: &'a BTreeMap<StatementId, Statement>) -> Self {
        let statements: Vec<_> = set.iter().collect();
        let mut by_author: BTreeMap<_, Vec<usize>> = BTreeMap::new();
        let mut admits: BTreeMap<_, Vec<usize>> = BTreeMap::new();
        for (i, (_, statement)) in statements.iter().enumerate() {
            by_author.entry(statement.author).or_default().push(i);
            if let Some(key) = admitted_key(statement) {
                admits.entry(key).or_default().push(i);
            }
        }
        let mut removals = BTreeMap::new();
        for (i, (_, statement)) in statements.iter().enumerate() {
            if let StatementBody::Remove { key, counts } = &statement.body {
                let counts: BTreeSet<_> = counts.iter().collect();
                let is_voided = |s: &usize| {
                    let (id, other) = statements[*s];
                    *s != i && !counts.contains(id) && !matches!(other.body, StatementBody::Found { .. })
                };
                let of_target = by_author.get(key).map(Vec::as_slice).unwrap_or_default();
                removals.insert(i, of_target.iter().copied().filter(is_voided).collect());
            }
        }
        Self { statements, by_author, admits, removals }
    }

    /// What counts if exactly the removals in `assumed` void what they void; `settled` ones count in any case.
    fn supported(&self, assumed: &BTreeSet<usize>, settled: &BTreeSet<usize>) -> BTreeSet<usize> {
        let mut is_void = vec![false; self.statements.len()];
        for victim in assumed.iter().filter_map(|r| self.removals.get(r)).flatten() {
            is_void[*victim] = !settled.contains(victim);
        }
        let is_found = |i: &usize| matches!(self.statements[*i].1.body, StatementBody::Found { .. });
        let mut counting = settled.clone();
        counting.extend((0..self.statements.len()).filter(is_found));
        let mut admitted = BTreeSet::new();
        let mut unread: Vec<usize> = counting.iter().copied().collect();
        while let Some(i) = unread.pop() {
            let Some(key) = admitted_key(self.statements[i].1) else { continue };
            if admitted.insert(key) {
                let own = self.by_author.get(&key).into_iter().flatten().copied();
                unread.extend(own.filter(|s| !is_void[*s] && counting.insert(*s)));
            }
        }
        counting
    }

    /// What surely counts, and what is not ruled out: the alternating fixpoint.
    fn well_founded(&self, settled: &BTreeSet<usize>) -> (BTreeSet<usize>, BTreeSet<usize>) {
        let mut surely = settled.clone();
        loop {
            let possibly = self.supported(&surely, settled);
            let more = self.supported(&possibly, settled);
            assert!(surely.is_subset(&more) && more.is_subset(&possibly), "the fixpoint closes in from both sides");
            if more == surely {
                return (surely, possibly);
            }
            surely = more;
        }
    }

    /// The undecided removals that wait for one another and for nothing else undecided.
    fn deadlocked(&self, surely: &BTreeSet<usize>, possibly: &BTreeSet<usize>) -> BTreeSet<usize> {
        let undecided: BTreeSet<usize> = possibly.difference(surely).copied().collect();
        let mut waits_for: BTreeMap<usize, BTreeSet<usize>> = BTreeMap::new();
        for &i in &undecided {
            let supports = self.admits.get(&self.statements[i].1.author).into_iter().flatten();
            waits_for.insert(i, supports.copied().filter(|s| undecided.contains(s)).collect());
        }
        for &removal in &undecided {
            for victim in self.removals.get(&removal).into_iter().flatten() {
                if let Some(waits) = waits_for.get_mut(victim) {
                    waits.insert(removal);
                }
            }
        }
        let groups = components(&waits_for);
        let depends_on_nothing_else = |group: &&BTreeSet<usize>| {
            group.iter().all(|i| waits_for.get(i).is_none_or(|waits| waits.is_subset(group)))
        };
        let removals = groups.iter().filter(depends_on_nothing_else).flatten();
        removals.copied().filter(|i| self.removals.contains_key(i)).collect()
    }

    /// The voided removals of an admitted device against one whose removal of it counts, and those that they answer.
    fn answered(&self, surely: &BTreeSet<usize>) -> BTreeSet<usize> {
        let pair = |i: usize| removed_key(self.statements[i].1).map(|target| (self.statements[i].1.author, target));
        let mut counting: BTreeMap<_, Vec<usize>> = BTreeMap::new();
        for (i, pair) in surely.iter().filter_map(|i| pair(*i).map(|pair| (*i, pair))) {
            counting.entry(pair).or_default().push(i);
        }
        let is_admitted = |key| self.admits.get(&key).is_some_and(|by| by.iter().any(|a| surely.contains(a)));
        let mut both = BTreeSet::new();
        for &answer in self.removals.keys().filter(|i| !surely.contains(i)) {
            let Some((author, target)) = pair(answer) else { continue };
            if let Some(answered) = counting.get(&(target, author)).filter(|_| is_admitted(author)) {
                both.insert(answer);
                both.extend(answered);
            }
        }
        both
    }

    fn standing(&self, counting: &BTreeSet<usize>) -> Standing {
        let mut standing = Standing::default();
        for (id, statement) in counting.iter().map(|i| self.statements[*i]) {
            standing.counting.insert(*id);
            standing.admitted.extend(admitted_key(statement));
            standing.removed.extend(removed_key(statement));
        }
        standing
    }
}

fn admitted_key(statement: &Statement) -> Option<DeviceKey> {
    match statement.body {
        StatementBody::Found { .. } => Some(statement.author),
        StatementBody::Admit { key, .. } => Some(key),
        StatementBody::Remove { .. } | StatementBody::Rename { .. } => None,
    }
}

fn removed_key(statement: &Statement) -> Option<DeviceKey> {
    if let StatementBody::Remove { key, .. } = statement.body { Some(key) } else { None }
}

/// The strongly connected components of a graph (Kosaraju and Sharir), without recursion: a chain of statements can be
/// longer than a stack is deep.
fn components(edges: &BTreeMap<usize, BTreeSet<usize>>) -> Vec<BTreeSet<usize>> {
    let mut reverse: BTreeMap<usize, BTreeSet<usize>> = edges.keys().map(|i| (*i, BTreeSet::new())).collect();
    for (from, to) in edges.iter().flat_map(|(from, tos)| tos.iter().map(move |to| (*from, *to))) {
        reverse.entry(to).or_default().insert(from);
    }
    let mut seen = BTreeSet::new();
    let finished: Vec<usize> = edges.keys().flat_map(|root| finish_order(edges, *root, &mut seen)).collect();
    seen.clear();
    let groups = finished.into_iter().rev().map(|root| finish_order(&reverse, root, &mut seen));
    groups.filter(|group| !group.is_empty()).map(BTreeSet::from_iter).collect()
}

/// What is reachable from `root` and not seen yet, each after all that was reached by way of it.
fn finish_order(edges: &BTreeMap<usize, BTreeSet<usize>>, root: usize, seen: &mut BTreeSet<usize>) -> Vec<usize> {
    let next_of = |i: usize| edges.get(&i).into_iter().flatten();
    let mut finished = Vec::new();
    let mut path = Vec::new();
    if seen.insert(root) {
        path.push((root, next_of(root)));
    }
    while let Some((i, nexts)) = path.last_mut() {
        let i = *i;
        if let Some(&next) = nexts.find(|next| !seen.contains(next)) {
            seen.insert(next);
            path.push((next, next_of(next)));
        } else {
            finished.push(i);
            path.pop();
        }
    }
    finished
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn components_are_found_and_chains_are_not() {
        let edges = [(1, vec![2]), (2, vec![3]), (3, vec![1]), (4, vec![1, 5]), (5, vec![])];
        let edges = edges.into_iter().map(|(from, to)| (from, BTreeSet::from_iter(to))).collect();
        let mut groups = components(&edges);
        groups.sort();
        assert_eq!(groups, [BTreeSet::from([1, 2, 3]), BTreeSet::from([4]), BTreeSet::from([5])]);
    }
}
