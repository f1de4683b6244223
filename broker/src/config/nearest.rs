//! The nearest known key to an unknown one.

use super::Config;
use super::schema::{Field, Section, Shape};

/// The end of the sentence "unknown key": the nearest sibling, else the same key in another section, else nothing.
pub(super) fn hint<'a>(key: &str, at: &str, siblings: impl Iterator<Item = &'a str>) -> String {
    let parent = at.strip_suffix(key).unwrap_or_default();
    if let Some(near) = nearest(key, siblings) {
        return format!(", did you mean {parent}{near}?");
    }
    let mut paths = Vec::new();
    collect(&Config::default().fields(), "", &mut paths);
    match paths.iter().find(|path| path.rsplit('.').next() == Some(key)) {
        Some(path) => format!(", did you mean {path}?"),
        None => String::new(),
    }
}

/// The candidate of the least edit distance, where that is small for the length.
pub(super) fn nearest<'a>(key: &str, candidates: impl Iterator<Item = &'a str>) -> Option<&'a str> {
    let distance_max = (key.len() / 3).max(2);
    candidates
        .map(|candidate| (edit_distance(key, candidate), candidate))
        .filter(|(distance, candidate)| *distance <= distance_max && *distance < candidate.len())
        .min_by_key(|(distance, _)| *distance)
        .map(|(_, candidate)| candidate)
}

/// Dotted paths of all keys.
pub(super) fn collect(fields: &[Field], prefix: &str, paths: &mut Vec<String>) {
    for field in fields {
        let path = format!("{prefix}{}", field.key);
        match &field.shape {
            Shape::Value { .. } => {}
            Shape::Table { fields, .. } | Shape::Array { fields, .. } => {
                collect(fields, &format!("{path}."), paths);
            }
        }
        paths.push(path);
    }
}

/// Edits (insert, remove, replace, swap neighbours) that lead from one text to the other.
fn edit_distance(from: &str, to: &str) -> usize {
    let (from, to): (Vec<char>, Vec<char>) = (from.chars().collect(), to.chars().collect());
    let mut before: Vec<usize> = Vec::new();
    let mut last: Vec<usize> = (0..=to.len()).collect();
    for (row, &have) in from.iter().enumerate() {
        let mut next = vec![row + 1];
        for (column, &want) in to.iter().enumerate() {
            let replaced = last[column] + usize::from(have != want);
            let mut best = replaced.min(last[column + 1] + 1).min(next[column] + 1);
            let swapped = row > 0 && column > 0 && from[row - 1] == want && to[column - 1] == have;
            if swapped && have != want {
                best = best.min(before[column - 1] + 1);
            }
            next.push(best);
        }
        before = std::mem::replace(&mut last, next);
    }
    last[to.len()]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn edit_distance_counts_edits() {
        for (from, to, edits) in [
            ("", "", 0),
            ("a", "", 1),
            ("bind", "bind", 0),
            ("bnid", "bind", 1),
            ("kitten", "sitting", 3),
        ] {
            assert_eq!(edit_distance(from, to), edits, "{from} {to}");
            assert_eq!(edit_distance(to, from), edits, "{to} {from}");
        }
    }

    #[test]
    fn far_keys_are_not_suggested() {
        assert_eq!(nearest("bnd", ["bind", "path"].into_iter()), Some("bind"));
        assert_eq!(nearest("colour", ["bind", "path"].into_iter()), None);
    }
}
