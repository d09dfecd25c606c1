//! The order of members in tables, and the tree of who replicates from whom.

use model::{ClusterView, Member};

use crate::output::Format;

/// Indices into `view.members` with the text of the column `Member`. A list is sorted by name; a topology is a tree:
/// the leader, below it everyone who replicates from it, and so on.
pub fn order(view: &ClusterView, format: Format) -> Vec<(usize, String)> {
    if format != Format::Topology {
        return view.members.iter().enumerate().map(|(index, member)| (index, member.name.clone())).collect();
    }
    let mut rows = Vec::with_capacity(view.members.len());
    let roots: Vec<usize> = (0..view.members.len()).filter(|index| parent(view, *index).is_none()).collect();
    let mut seen = vec![false; view.members.len()];
    for root in roots {
        let depth = usize::from(!is_leader(view, &view.members[root]));
        descend(view, root, depth, &mut seen, &mut rows);
    }
    // Members in a circle hang below nobody; they are shown all the same.
    for index in 0..view.members.len() {
        descend(view, index, 1, &mut seen, &mut rows);
    }
    rows
}

fn is_leader(view: &ClusterView, member: &Member) -> bool {
    view.leader_name() == Some(member.name.as_str())
}

/// Whom a member replicates from: the member named by its tag if there is one, else the leader.
fn parent(view: &ClusterView, index: usize) -> Option<usize> {
    let member = view.members.get(index)?;
    if is_leader(view, member) {
        return None;
    }
    let find = |name: &str| view.members.iter().position(|other| other.name == name);
    member.tags.replicatefrom().and_then(find).or_else(|| view.leader_name().and_then(find))
}

fn descend(view: &ClusterView, index: usize, depth: usize, seen: &mut [bool], rows: &mut Vec<(usize, String)>) {
    if std::mem::replace(&mut seen[index], true) {
        return;
    }
    let name = &view.members[index].name;
    let label = if depth == 0 { name.clone() } else { format!("{}+ {name}", "  ".repeat(depth - 1)) };
    rows.push((index, label));
    for child in 0..view.members.len() {
        if parent(view, child) == Some(index) {
            descend(view, child, depth + 1, seen, rows);
        }
    }
}
