//! Rules that were broken in the code on purpose, and the tests that failed: what says that these tests can fail.
//!
//! `conformance/broken_rules.toml` is the list. `full/broken_rules` breaks each rule again in a copy of the code and
//! runs its tests, which takes too long for every change; here is checked that the list still fits the code.

use std::collections::BTreeSet;
use std::fmt::Write as _;
use std::fs;

use serde::Deserialize;

use crate::catalogue::{Binds, Standard, Statement, workspace};

/// The list.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct BrokenRules {
    /// Seed of the draw.
    pub seed: u64,
    /// Statements of the draw that no change of the code can break.
    pub passed_over: Vec<PassedOver>,
    /// The others, in the order of the draw.
    pub broken: Vec<BrokenRule>,
}

/// A statement that no change of the code can break.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct PassedOver {
    /// Name of the standard.
    pub standard: String,
    /// Identifier of the statement.
    pub statement: String,
    /// Why.
    pub because: String,
}

/// A statement, and a change of the code that breaks it.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct BrokenRule {
    /// Name of the standard.
    pub standard: String,
    /// Identifier of the statement.
    pub statement: String,
    /// What the changed code does wrong.
    pub broken: String,
    /// The file that is changed, from the root of the workspace.
    pub file: String,
    /// Text that the file holds once.
    pub find: String,
    /// What stands in its place while the rule is broken.
    pub replace: String,
    /// Tests that fail then, each named by the statement.
    pub fails: Vec<String>,
}

/// Reads the list.
pub fn broken_rules() -> BrokenRules {
    let path = workspace().join("tests/conformance/broken_rules.toml");
    let text = fs::read_to_string(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
    toml::from_str(&text).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
}

/// What is wrong with the list: statements that do not exist or bind no server, or stand twice; tests that the
/// statement does not name; text that is not in its file exactly once. `read` gives a file of the workspace.
pub fn faults(
    rules: &BrokenRules,
    standards: &[Standard],
    read: impl Fn(&str) -> Option<String>,
) -> Vec<String> {
    let mut faults = Vec::new();
    let mut seen = BTreeSet::new();
    let listed = rules
        .broken
        .iter()
        .map(|rule| (&rule.standard, &rule.statement))
        .chain(
            rules
                .passed_over
                .iter()
                .map(|rule| (&rule.standard, &rule.statement)),
        );
    for (standard, id) in listed {
        if !seen.insert((standard, id)) {
            faults.push(format!("{standard} {id} stands twice"));
        }
        if statement(standards, standard, id).is_none_or(|statement| statement.binds != Binds::Server) {
            faults.push(format!("{standard} {id} is no statement that binds a server"));
        }
    }
    for rule in &rules.broken {
        let name = format!("{} {}", rule.standard, rule.statement);
        let tests = statement(standards, &rule.standard, &rule.statement)
            .map_or(&[][..], |statement| &statement.tests[..]);
        if rule.fails.is_empty() {
            faults.push(format!("{name}: no test fails"));
        }
        let foreign = rule.fails.iter().filter(|test| !tests.contains(test));
        faults.extend(foreign.map(|test| format!("{name} does not name {test}")));
        let places = read(&rule.file).map_or(0, |text| text.matches(&rule.find[..]).count());
        if places != 1 {
            faults.push(format!(
                "{name}: {} holds {places} times, not once: {}",
                rule.file, rule.find
            ));
        }
        if rule.find == rule.replace {
            faults.push(format!("{name}: nothing is changed"));
        }
    }
    faults
}

fn statement<'a>(standards: &'a [Standard], standard: &str, id: &str) -> Option<&'a Statement> {
    standards
        .iter()
        .filter(|known| known.name == standard)
        .flat_map(|known| &known.statements)
        .find_map(|(known, statement)| (known == id).then_some(statement))
}

/// The part of `docs/conformance.md` about the list.
pub fn section(rules: &BrokenRules) -> String {
    let mut section = String::new();
    write(rules, &mut section).expect("strings take writes");
    section
}

fn write(rules: &BrokenRules, section: &mut String) -> std::fmt::Result {
    writeln!(
        section,
        "\n## Rules broken on purpose\n\n\
         A test is worth what it finds. {} statements were drawn by chance, each rule was broken in the code, and tests\n\
         that the statement names failed. `tests/full/broken_rules` does it all again, from\n\
         `tests/conformance/broken_rules.toml`, which holds each change of the code.\n\n\
         The draw: all statements that bind a server, sorted by standard and number, shuffled by Python's\n\
         `random.Random({}).shuffle`, taken from the front. Passed over, since no change of the code can break them:\n",
        rules.broken.len(),
        rules.seed
    )?;
    for rule in &rules.passed_over {
        writeln!(
            section,
            "- {} {}: {}",
            rule.standard, rule.statement, rule.because
        )?;
    }
    writeln!(
        section,
        "\n| statement | what was broken | failed |\n|---|---|---|"
    )?;
    for rule in &rules.broken {
        let failed: Vec<String> = rule.fails.iter().map(|test| format!("`{test}`")).collect();
        writeln!(
            section,
            "| {} {} | {} | {} |",
            rule.standard.trim_start_matches("MQTT "),
            rule.statement,
            rule.broken,
            failed.join("<br>")
        )?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn standards() -> Vec<Standard> {
        let statement = |binds| Statement {
            binds,
            says: String::new(),
            tests: vec!["a::b".into()],
        };
        vec![Standard {
            name: "MQTT",
            statements: vec![
                ("MQTT-1.0.0-1".into(), statement(Binds::Server)),
                ("MQTT-1.0.0-2".into(), statement(Binds::Client)),
            ],
        }]
    }

    fn rules(id: &str, find: &str, fails: &[&str]) -> BrokenRules {
        BrokenRules {
            seed: 1,
            passed_over: Vec::new(),
            broken: vec![BrokenRule {
                standard: "MQTT".into(),
                statement: id.into(),
                broken: String::new(),
                file: "code.rs".into(),
                find: find.into(),
                replace: "three".into(),
                fails: fails.iter().map(ToString::to_string).collect(),
            }],
        }
    }

    fn faults_of(rules: &BrokenRules) -> usize {
        faults(rules, &standards(), |file| {
            (file == "code.rs").then(|| "one two two three".into())
        })
        .len()
    }

    #[test]
    fn an_entry_fits_its_statement_and_its_file() {
        assert_eq!(faults_of(&rules("MQTT-1.0.0-1", "one", &["a::b"])), 0);
        assert_eq!(
            faults_of(&rules("MQTT-1.0.0-1", "two", &["a::b"])),
            1,
            "stands twice"
        );
        assert_eq!(
            faults_of(&rules("MQTT-1.0.0-1", "four", &["a::b"])),
            1,
            "not there"
        );
        assert_eq!(
            faults_of(&rules("MQTT-1.0.0-1", "three", &["a::b"])),
            1,
            "changes nothing"
        );
        assert_eq!(
            faults_of(&rules("MQTT-1.0.0-1", "one", &["a::c"])),
            1,
            "another's test"
        );
        assert_eq!(faults_of(&rules("MQTT-1.0.0-1", "one", &[])), 1, "no test");
        assert_eq!(
            faults_of(&rules("MQTT-1.0.0-2", "one", &["a::b"])),
            1,
            "binds clients"
        );
        assert_eq!(
            faults_of(&rules("MQTT-1.0.0-3", "one", &["a::b"])),
            2,
            "no statement"
        );
    }

    #[test]
    fn a_statement_stands_once() {
        let mut twice = rules("MQTT-1.0.0-1", "one", &["a::b"]);
        twice.passed_over.push(PassedOver {
            standard: "MQTT".into(),
            statement: "MQTT-1.0.0-1".into(),
            because: String::new(),
        });
        assert_eq!(faults_of(&twice), 1);
    }
}
