//! What the program says of its own configuration: the defaults as a file, and the reference page.
//!
//! Both are made from the declarations of the sections alone.

use std::fmt::Write;

use super::Config;
use super::schema::{Field, Reload, Section, Shape};

/// Width of comment lines in the file of defaults.
const COMMENT_WIDTH: usize = 100;

/// The defaults as a TOML file with a comment on every key. Reading it back gives the defaults.
pub fn defaults() -> String {
    let mut out = String::from("# Every key of the configuration with its default.\n");
    for field in Config::default().fields() {
        write_section(&mut out, &field, field.key, false);
    }
    out
}

/// One table or array with what is below it; `absent` where it is not there by default and stands as a comment.
fn write_section(out: &mut String, field: &Field, path: &str, absent: bool) {
    match &field.shape {
        Shape::Value { .. } => {}
        Shape::Table {
            doc,
            fields,
            optional,
        } => {
            let absent = absent || *optional;
            out.push('\n');
            write_comment(out, &flatten(doc));
            line(out, absent, &format!("[{path}]"));
            write_keys(out, fields, path, absent);
        }
        Shape::Array { doc, fields, items } => {
            out.push('\n');
            write_comment(out, &flatten(doc));
            for (index, item) in items.iter().enumerate() {
                let separator = if index > 0 { "\n" } else { "" };
                out.push_str(separator);
                line(out, false, &format!("[[{path}]]"));
                if index == 0 {
                    write_keys(out, item, path, false);
                } else {
                    write_values(out, item);
                }
            }
            if items.is_empty() {
                line(out, true, &format!("[[{path}]]"));
                write_keys(out, fields, path, true);
            }
        }
    }
}

/// Keys with comments, values first, as TOML wants it.
fn write_keys(out: &mut String, fields: &[Field], path: &str, absent: bool) {
    for field in fields {
        let Shape::Value { allowed, default } = &field.shape else {
            continue;
        };
        write_comment(out, &format!("{} {}", flatten(field.doc), facts(field, allowed)));
        let unset = default.is_none();
        let value = default.as_deref().unwrap_or_default();
        line(
            out,
            absent || unset,
            format!("{} = {value}", field.key).trim_end(),
        );
    }
    for field in fields {
        write_section(out, field, &format!("{path}.{}", field.key), absent);
    }
}

fn write_values(out: &mut String, fields: &[Field]) {
    for field in fields {
        if let Shape::Value {
            default: Some(value), ..
        } = &field.shape
        {
            line(out, false, &format!("{} = {value}", field.key));
        }
    }
}

fn facts(field: &Field, allowed: &str) -> String {
    let unit = if field.traits.unit.is_empty() {
        String::new()
    } else {
        format!(" ({})", field.traits.unit)
    };
    let required = if field.traits.required { " Required." } else { "" };
    format!("Allowed: {}{unit}.{required}", allowed.replace('`', ""))
}

fn line(out: &mut String, absent: bool, text: &str) {
    let comment = if absent { "# " } else { "" };
    let _ = writeln!(out, "{comment}{text}");
}

fn write_comment(out: &mut String, text: &str) {
    let mut width = usize::MAX;
    for word in text.split_whitespace() {
        if width.saturating_add(word.len()) > COMMENT_WIDTH {
            let start = if width == usize::MAX { "#" } else { "\n#" };
            out.push_str(start);
            width = 1;
        }
        let _ = write!(out, " {word}");
        width += word.len() + 1;
    }
    out.push('\n');
}

/// The reference page in Markdown.
pub fn reference() -> String {
    let mut out = String::from(INTRODUCTION);
    for field in Config::default().fields() {
        reference_section(&mut out, &field, field.key);
    }
    out
}

const INTRODUCTION: &str = "\
# Configuration

<!-- Made by `quorate config reference`; change the declarations in broker/src/config instead. -->

`quorate serve --config FILE` reads one TOML file. Later sources win over earlier ones: the defaults, the file, the
environment, the flags. `quorate config check --config FILE` tells everything that is wrong, each with its line;
`quorate config defaults` prints a file with every default.

The environment variable of a key is `QUORATE_`, then the section, two underscores, and the key, in upper case:
`QUORATE_CLUSTER__JOIN` is `join` in `[cluster]`. The item of a list is addressed by its name, with underscores for
dashes and dots: `QUORATE_LISTENER__MQTT__BIND`. Lists in variables and flags are separated by commas. Unknown keys and
unknown variables are errors.

A change of a key marked \"SIGHUP\" takes effect when the process gets that signal, any other at the next start.
";

fn reference_section(out: &mut String, field: &Field, path: &str) {
    let (doc, fields, heading) = match &field.shape {
        Shape::Value { .. } => return,
        Shape::Table { doc, fields, .. } => (doc, fields, format!("`[{path}]`")),
        Shape::Array { doc, fields, .. } => (doc, fields, format!("`[[{path}]]`")),
    };
    let _ = write!(out, "\n## {heading}\n\n{}\n", flatten(doc));
    if let Shape::Array { items, .. } = &field.shape {
        let _ = write!(out, "\n{}\n", default_items(items));
    }
    if fields
        .iter()
        .any(|field| matches!(field.shape, Shape::Value { .. }))
    {
        out.push_str("\n| key | meaning | allowed | default | changes |\n|---|---|---|---|---|\n");
    }
    for field in fields {
        if let Shape::Value { allowed, default } = &field.shape {
            reference_key(out, field, allowed, default.as_deref());
        }
    }
    for field in fields {
        reference_section(out, field, &format!("{path}.{}", field.key));
    }
}

fn default_items(items: &[Vec<Field>]) -> String {
    if items.is_empty() {
        return "By default there are none.".to_owned();
    }
    let item = |fields: &Vec<Field>| {
        let values = fields
            .iter()
            .filter(|field| field.traits.required)
            .filter_map(|field| match &field.shape {
                Shape::Value {
                    default: Some(value), ..
                } => Some(format!("{} = {value}", field.key)),
                _ => None,
            });
        format!("`{}`", values.collect::<Vec<_>>().join(", "))
    };
    format!(
        "By default: {}.",
        items.iter().map(item).collect::<Vec<_>>().join("; ")
    )
}

fn reference_key(out: &mut String, field: &Field, allowed: &str, default: Option<&str>) {
    let default = match default {
        _ if field.traits.required => "required".to_owned(),
        Some(value) => format!("`{value}`"),
        None => "unset".to_owned(),
    };
    let unit = if field.traits.unit.is_empty() {
        String::new()
    } else {
        format!(" ({})", field.traits.unit)
    };
    let changes = match field.traits.reload {
        Reload::Live => "SIGHUP",
        Reload::Restart => "restart",
    };
    let cells = [
        format!("`{}`", field.key),
        flatten(field.doc),
        format!("{allowed}{unit}"),
        default,
        changes.to_owned(),
    ];
    let _ = writeln!(
        out,
        "| {} |",
        cells.map(|cell| cell.replace('|', "\\|")).join(" | ")
    );
}

/// A doc comment as one paragraph.
fn flatten(doc: &str) -> String {
    doc.split_whitespace().collect::<Vec<_>>().join(" ")
}
