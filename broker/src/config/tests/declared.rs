//! Tests of what follows from the declarations: defaults, reference page, bounds.

use std::collections::BTreeSet;

use super::super::schema::{Field, Section, Shape};
use super::*;

#[test]
fn the_printed_defaults_are_the_defaults() {
    let text = defaults();
    assert_eq!(load_all(&text, &[], &[]), Ok(Config::default()), "{text}");
    // What is commented out because it is unset is right too, once it has a value.
    let keys = text
        .lines()
        .filter(|line| line.contains(" =") && !line.starts_with("# "))
        .count();
    assert!(keys > 50, "{keys} keys");
}

#[test]
fn the_reference_page_is_up_to_date() {
    let path = concat!(env!("CARGO_MANIFEST_DIR"), "/../docs/configuration.md");
    let page = std::fs::read_to_string(path).unwrap_or_default();
    assert!(
        page == reference(),
        "write it again: quorate config reference > docs/configuration.md"
    );
}

#[test]
fn the_reference_names_every_key() {
    fn visit(fields: &[Field], page: &str) {
        for field in fields {
            assert!(!field.doc.trim().is_empty(), "{}", field.key);
            match &field.shape {
                Shape::Value { .. } => {
                    assert!(page.contains(&format!("| `{}` |", field.key)), "{}", field.key)
                }
                Shape::Table { fields, .. } | Shape::Array { fields, .. } => visit(fields, page),
            }
        }
    }
    visit(&Config::default().fields(), &reference());
}

#[test]
fn every_bound_is_within_its_type_and_every_default_within_its_bound() {
    fn visit(fields: &[Field], count: &mut usize) {
        for field in fields {
            match &field.shape {
                Shape::Value { allowed, default } => {
                    let Some(bounds) = allowed.strip_prefix("integer from ") else {
                        continue;
                    };
                    let (min, max) = bounds.split_once(" to ").unwrap();
                    let (min, max): (u64, u64) = (min.parse().unwrap(), max.parse().unwrap());
                    assert!(min < max && max <= i64::MAX as u64, "{}", field.key);
                    if let Some(default) = default {
                        let default: u64 = default.parse().unwrap();
                        assert!((min..=max).contains(&default), "{}", field.key);
                    }
                    *count += 1;
                }
                Shape::Table { fields, .. } | Shape::Array { fields, .. } => visit(fields, count),
            }
        }
    }
    let mut count = 0;
    visit(&Config::default().fields(), &mut count);
    assert!(count > 20, "{count} integers");
}

#[test]
fn keys_are_unique_in_their_section() {
    fn visit(fields: &[Field]) {
        let keys: BTreeSet<_> = fields.iter().map(|field| field.key).collect();
        assert_eq!(keys.len(), fields.len());
        for field in fields {
            if let Shape::Table { fields, .. } | Shape::Array { fields, .. } = &field.shape {
                visit(fields);
            }
        }
    }
    visit(&Config::default().fields());
}
