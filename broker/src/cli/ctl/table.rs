//! Answers of the admin interface as tables for people.

use serde_json::Value;

/// Columns that are as wide as what stands in them.
pub(super) fn table(head: &[&str], rows: &[Vec<String>]) -> String {
    let width = |column: usize| {
        let cells = rows.iter().map(|row| row[column].chars().count());
        cells.chain([head[column].len()]).max().unwrap_or(0)
    };
    let widths: Vec<usize> = (0..head.len()).map(width).collect();
    let line = |cells: Vec<&str>| {
        let cells = cells.iter().zip(&widths);
        let line: Vec<String> = cells.map(|(cell, width)| format!("{cell:width$}")).collect();
        format!("{}\n", line.join("  ").trim_end())
    };
    let mut text = line(head.to_vec());
    for row in rows {
        text += &line(row.iter().map(String::as_str).collect());
    }
    text
}

/// A value as a cell.
pub(super) fn cell(value: &Value) -> String {
    match value {
        Value::Null => "-".to_owned(),
        Value::String(text) => text.clone(),
        Value::Bool(true) => "yes".to_owned(),
        Value::Bool(false) => "no".to_owned(),
        other => other.to_string(),
    }
}

fn rows(list: &Value, columns: &[&str]) -> Vec<Vec<String>> {
    let items = list["items"].as_array().map_or(&[][..], Vec::as_slice);
    let row = |item: &Value| columns.iter().map(|column| cell(&item[*column])).collect();
    items.iter().map(row).collect()
}

pub(super) fn status(answer: &Value) -> String {
    let cluster = &answer["cluster"];
    let mut lines: Vec<(&str, &Value)> = ["node", "version", "commit", "uptime_secs", "connections", "ready"]
        .map(|key| (key, &answer[key]))
        .to_vec();
    let of_cluster = [
        ("cluster", "id"),
        ("node_id", "node_id"),
        ("nodes", "nodes"),
        ("serving", "serving"),
        ("meta_leader", "meta_leader"),
        ("has_lease", "has_lease"),
        ("feature_level", "feature_level"),
        ("draining", "draining"),
    ];
    lines.extend(of_cluster.map(|(name, key)| (name, &cluster[key])));
    let lines = lines.into_iter();
    lines
        .map(|(name, value)| format!("{name:12} {}\n", cell(value)))
        .collect()
}

pub(super) fn nodes(answer: &Value) -> String {
    let columns = [
        "node", "id", "state", "draining", "leaving", "clients", "votes", "leads", "address",
    ];
    let head = [
        "NODE", "ID", "STATE", "DRAINING", "LEAVING", "CLIENTS", "VOTES", "LEADS", "ADDRESS",
    ];
    table(&head, &rows(answer, &columns))
}

/// One line for each replica.
pub(super) fn groups(answer: &Value) -> String {
    let head = [
        "GROUP",
        "LEADER",
        "TERM",
        "COMMITTED",
        "REPLICA",
        "ROLE",
        "VOTES",
        "ALIVE",
        "APPLIED",
        "LAG",
    ];
    let mut lines = Vec::new();
    for group in answer["items"].as_array().map_or(&[][..], Vec::as_slice) {
        for replica in group["replicas"].as_array().map_or(&[][..], Vec::as_slice) {
            let of_group = ["group", "leader", "term", "committed"].map(|key| cell(&group[key]));
            let of_replica =
                ["node", "role", "voter", "alive", "applied", "lag"].map(|key| cell(&replica[key]));
            lines.push(of_group.into_iter().chain(of_replica).collect());
        }
    }
    table(&head, &lines)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn columns_are_as_wide_as_what_stands_in_them() {
        let answer = serde_json::json!({ "items": [
            { "node": "a-long-name", "id": 1, "state": "serving", "draining": false, "clients": 12 },
            { "node": "b", "id": 2, "state": "down", "draining": true, "clients": null },
        ]});
        let text = nodes(&answer);
        let lines: Vec<&str> = text.lines().collect();
        assert_eq!(lines[0].split_whitespace().count(), 9);
        assert!(lines[1].starts_with("a-long-name  1   serving  no"), "{text}");
        assert!(lines[2].starts_with("b            2   down     yes"), "{text}");
    }
}
