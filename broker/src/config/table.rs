//! Tables and arrays of tables: finds the key that a value is for, wherever the value comes from.
//!
//! A table of the file is walked key by key in the order of its lines; a variable or flag brings its path of keys
//! along. An array given by the file replaces the default one; a variable or flag changes one item, by its name.

use toml::Spanned;
use toml::de::DeValue;

use super::report::Report;
use super::schema::{Bounds, Input, Node, Section, Shape};

/// Applies a table or a longer path to a section.
pub(super) fn apply_section<S: Section>(target: &mut S, input: Input<'_>, at: &str, report: &mut Report<'_>) {
    let below = |key: &str| {
        if at.is_empty() {
            key.to_owned()
        } else {
            format!("{at}.{key}")
        }
    };
    match input {
        Input::Toml(value) => {
            let DeValue::Table(table) = value.get_ref() else {
                let problem = format!(
                    "is of type {} where a table is expected",
                    value.get_ref().type_str()
                );
                return report.error(Some(value.span().start), at, problem, "");
            };
            let mut entries: Vec<_> = table.iter().collect();
            entries.sort_by_key(|(key, _)| key.span().start);
            for (key, value) in entries {
                let path = below(key.get_ref());
                if !target.apply_field(key.get_ref(), Input::Toml(value), &path, report) {
                    report.unknown_key(Some(key.span().start), target, &path, key.get_ref());
                }
            }
        }
        Input::Text {
            rest: [key, rest @ ..],
            text,
        } => {
            let path = below(key);
            if !target.apply_field(key, Input::Text { rest, text }, &path, report) {
                report.unknown_key(None, target, &path, key);
            }
        }
        Input::Text { rest: [], .. } => report.error(None, at, "is a section, not a value", ""),
    }
}

/// Reports the required keys that one written table leaves out.
fn check_required<S: Section>(value: &Spanned<DeValue<'_>>, at: &str, report: &mut Report<'_>) {
    let DeValue::Table(table) = value.get_ref() else {
        return;
    };
    for field in S::default().fields().iter().filter(|field| field.traits.required) {
        if !table.iter().any(|(key, _)| key.get_ref() == field.key) {
            let allowed = match &field.shape {
                Shape::Value { allowed, .. } => allowed.replace('`', ""),
                Shape::Table { .. } | Shape::Array { .. } => String::new(),
            };
            report.error(
                Some(value.span().start),
                &format!("{at}.{}", field.key),
                "is missing",
                allowed,
            );
        }
    }
}

impl<S: Section> Node for Option<Box<S>> {
    fn apply(&mut self, input: Input<'_>, _: Bounds, at: &str, report: &mut Report<'_>) {
        if let Input::Toml(value) = input {
            check_required::<S>(value, at, report);
            report.was_set(at, Some(value.span().start));
        }
        apply_section(&mut **self.get_or_insert_with(Box::default), input, at, report);
    }

    fn shape(&self, _: Bounds) -> Shape {
        Shape::Table {
            doc: S::DOC,
            fields: S::default().fields(),
            optional: true,
        }
    }
}

impl<S: Section> Node for Vec<S> {
    fn apply(&mut self, input: Input<'_>, _: Bounds, at: &str, report: &mut Report<'_>) {
        match input {
            Input::Toml(value) => {
                let DeValue::Array(items) = value.get_ref() else {
                    let problem = format!("is of type {}; write [[{at}]]", value.get_ref().type_str());
                    return report.error(Some(value.span().start), at, problem, "");
                };
                report.was_set(at, Some(value.span().start));
                self.clear();
                for (index, item) in items.iter().enumerate() {
                    let path = item_path(at, item, index);
                    let mut section = S::default();
                    report.was_set(&path, Some(item.span().start));
                    check_required::<S>(item, &path, report);
                    apply_section(&mut section, Input::Toml(item), &path, report);
                    self.push(section);
                }
            }
            Input::Text {
                rest: [name, rest @ ..],
                text,
            } => {
                let fits = |item: &&mut S| item.item_name().is_some_and(|known| same_name(known, name));
                let Some(item) = self.iter_mut().find(fits) else {
                    let known: Vec<&str> = self.iter().filter_map(Section::item_name).collect();
                    let problem = format!("there is no {at} of the name {name:?} to change");
                    return report.error(None, at, problem, known.join(", "));
                };
                let path = format!("{at}[{}]", item.item_name().unwrap_or(name));
                apply_section(item, Input::Text { rest, text }, &path, report);
            }
            Input::Text { rest: [], .. } => {
                report.error(None, at, "is a list of tables; only the file can give it", "");
            }
        }
    }

    fn shape(&self, _: Bounds) -> Shape {
        Shape::Array {
            doc: S::DOC,
            fields: S::default().fields(),
            items: self.iter().map(Section::fields).collect(),
        }
    }
}

/// How errors call an item of an array: by its name where it has one, by its number from 1 otherwise.
fn item_path(at: &str, item: &Spanned<DeValue<'_>>, index: usize) -> String {
    match item
        .get_ref()
        .get("name")
        .and_then(|name| name.get_ref().as_str())
    {
        Some(name) => format!("{at}[{name}]"),
        None => format!("{at}[#{}]", index + 1),
    }
}

/// Variables are upper case and have no dashes or dots: `QUORATE_LISTENER__TLS_PUBLIC__BIND` is listener `tls-public`.
fn same_name(known: &str, given: &str) -> bool {
    let fold = |text: &str| text.to_ascii_lowercase().replace(['-', '.'], "_");
    fold(known) == fold(given)
}
