//! The normative statements of MQTT 3.1.1 and MQTT 5 and the tests that show them.
//!
//! `conformance/statements/*.toml` lists every statement identifier of a standard. A statement that binds a server
//! names at least one test, and every test it names is a test function of this workspace. From the lists comes
//! `docs/conformance.md`.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write as _;
use std::fs;
use std::path::{Path, PathBuf};

use serde::Deserialize;

/// Test functions in this folder are named without it: `connect::first_packet_is_connect`.
const HOME: &str = "tests/tests/conformance/";

/// Whom a statement binds.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Binds {
    /// A server, perhaps among others.
    #[default]
    Server,
    /// Clients alone. What this server does when one breaks it may be shown all the same.
    Client,
    /// Servers that connect to other servers as a client, which this one does not.
    Bridge,
}

/// One normative statement.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Statement {
    /// Whom it binds.
    #[serde(default)]
    pub binds: Binds,
    /// What it says, in our words.
    pub says: String,
    /// The tests that show it, as [`test_functions`] names them.
    #[serde(default)]
    pub tests: Vec<String>,
}

/// The statements of one standard, by identifier.
pub struct Standard {
    /// Its name.
    pub name: &'static str,
    /// The statements in the order of the standard.
    pub statements: Vec<(String, Statement)>,
}

/// The root of the workspace.
pub fn workspace() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR"))
        .parent()
        .expect("the package lies in the workspace")
        .into()
}

/// Reads both standards.
pub fn standards() -> Vec<Standard> {
    [("MQTT 5.0", "mqtt-5.0.toml"), ("MQTT 3.1.1", "mqtt-3.1.1.toml")]
        .map(|(name, file)| standard(name, file))
        .into()
}

fn standard(name: &'static str, file: &str) -> Standard {
    let path = workspace().join("tests/conformance/statements").join(file);
    let text = fs::read_to_string(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
    let statements: BTreeMap<String, Statement> =
        toml::from_str(&text).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
    let mut statements: Vec<_> = statements.into_iter().collect();
    statements.sort_by_key(|(id, _)| numbers(id));
    Standard { name, statements }
}

/// The numbers in an identifier, for sorting: `MQTT-3.1.2-10` is 3, 1, 2, 10.
fn numbers(id: &str) -> Vec<u32> {
    id.split(|character: char| !character.is_ascii_digit())
        .filter_map(|part| part.parse().ok())
        .collect()
}

/// The names of all test functions of the workspace: the file's path from the root without `.rs`, and the function,
/// as in `proto/src/topic/trie::matches_nothing_when_empty`.
pub fn test_functions() -> BTreeSet<String> {
    let root = workspace();
    let mut names = BTreeSet::new();
    for package in ["broker", "cluster", "storage", "proto", "tests"] {
        scan_folder(&root, &root.join(package), &mut names);
    }
    names
}

fn scan_folder(root: &Path, folder: &Path, names: &mut BTreeSet<String>) {
    let entries = fs::read_dir(folder).unwrap_or_else(|error| panic!("{}: {error}", folder.display()));
    for entry in entries {
        let path = entry.expect("the folder is readable").path();
        if path.is_dir() {
            scan_folder(root, &path, names);
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            let file = path
                .strip_prefix(root)
                .expect("below the root")
                .with_extension("");
            let file = file.to_str().expect("our file names are ASCII");
            let text = fs::read_to_string(&path).expect("the file is readable");
            let functions = functions_of(&text).into_iter();
            names.extend(
                functions.map(|function| format!("{}::{function}", file.strip_prefix(HOME).unwrap_or(file))),
            );
        }
    }
}

/// Functions behind a test attribute, and those handed to `each_version!`.
fn functions_of(text: &str) -> Vec<&str> {
    let mut functions = Vec::new();
    let mut is_test = false;
    for line in text.lines().map(str::trim) {
        if let Some(rest) = line.strip_prefix("each_version!(") {
            functions.extend(rest.split([':', ')']).next());
        } else if line.starts_with("#[test]") || line.starts_with("#[tokio::test") {
            is_test = true;
        } else if let Some(rest) = line.strip_prefix("async fn ").or(line.strip_prefix("fn ")) {
            if is_test {
                functions.extend(rest.split('(').next());
            }
            is_test = false;
        }
    }
    functions
}

/// What is wrong with the lists: server-binding statements without test, tests that do not exist, and gaps.
pub fn faults(standards: &[Standard], functions: &BTreeSet<String>) -> Vec<String> {
    let mut faults = Vec::new();
    for standard in standards {
        faults.extend(
            gaps(standard)
                .into_iter()
                .map(|gap| format!("{} {gap} is missing", standard.name)),
        );
        for (id, statement) in &standard.statements {
            if statement.binds == Binds::Server && statement.tests.is_empty() {
                faults.push(format!("{} {id} binds a server and names no test", standard.name));
            }
            let missing = statement.tests.iter().filter(|test| !functions.contains(*test));
            faults.extend(
                missing.map(|test| format!("{} {id} names {test}, which is not a test", standard.name)),
            );
        }
    }
    faults
}

/// Statements that are missing: both standards number them without gaps within a section, but for one.
fn gaps(standard: &Standard) -> Vec<String> {
    const NEVER_GIVEN: (&str, &str) = ("MQTT 5.0", "MQTT-2.2.1-1");
    let mut gaps = Vec::new();
    for (id, _) in &standard.statements {
        let (section, number) = id.rsplit_once('-').expect("section and number");
        let number: u32 = number.parse().expect("a number");
        let before = format!("{section}-{}", number - 1);
        let is_there = number == 1 || standard.statements.iter().any(|(other, _)| *other == before);
        if !is_there && (standard.name, &before[..]) != NEVER_GIVEN {
            gaps.push(before);
        }
    }
    gaps
}

/// The page `docs/conformance.md`.
pub fn page(standards: &[Standard]) -> String {
    let folder = workspace().join("tests/conformance");
    let head = fs::read_to_string(folder.join("head.md")).expect("tests/conformance/head.md");
    let mut page = head;
    for standard in standards {
        table(standard, &mut page).expect("strings take writes");
    }
    page
}

fn table(standard: &Standard, page: &mut String) -> std::fmt::Result {
    let all = standard.statements.len();
    let server = standard
        .statements
        .iter()
        .filter(|(_, statement)| statement.binds == Binds::Server)
        .count();
    writeln!(page, "\n## {}\n", standard.name)?;
    writeln!(page, "{all} statements, {server} of which bind a server.\n")?;
    writeln!(page, "| statement | what it says | shown by |\n|---|---|---|")?;
    for (id, statement) in &standard.statements {
        let binds = match statement.binds {
            Binds::Server => None,
            Binds::Client => Some("(binds clients)".to_owned()),
            Binds::Bridge => Some("(binds servers that connect to others; this one does not)".to_owned()),
        };
        let tests = statement.tests.iter().map(|test| format!("`{test}`"));
        let shown: Vec<String> = binds.into_iter().chain(tests).collect();
        writeln!(page, "| {id} | {} | {} |", statement.says, shown.join("<br>"))?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn statement(binds: Binds, tests: &[&str]) -> Standard {
        let tests = tests.iter().map(ToString::to_string).collect();
        let statement = Statement {
            binds,
            says: String::new(),
            tests,
        };
        Standard {
            name: "MQTT",
            statements: vec![("MQTT-1.0.0-1".into(), statement)],
        }
    }

    #[test]
    fn functions_are_found_behind_attributes_and_in_each_version() {
        let text = "#[test]\nfn plain() {}\nfn helper() {}\n#[tokio::test(flavor = \"x\")]\nasync fn slow() {}\n\
                    async fn both(version: Version) {}\neach_version!(both: v3_1_1, v5);\neach_version!(all);\n";
        assert_eq!(functions_of(text), ["plain", "slow", "both", "all"]);
    }

    #[test]
    fn a_server_statement_needs_a_test_that_exists() {
        let functions = BTreeSet::from(["a::b".to_owned()]);
        assert_eq!(
            faults(&[statement(Binds::Server, &["a::b"])], &functions),
            Vec::<String>::new()
        );
        assert_eq!(
            faults(&[statement(Binds::Client, &[])], &functions),
            Vec::<String>::new()
        );
        assert_eq!(faults(&[statement(Binds::Server, &[])], &functions).len(), 1);
        assert_eq!(
            faults(&[statement(Binds::Server, &["a::b", "a::c"])], &functions).len(),
            1
        );
    }

    #[test]
    fn a_missing_number_is_a_fault() {
        let mut standard = statement(Binds::Client, &[]);
        standard.statements[0].0 = "MQTT-1.0.0-2".into();
        assert_eq!(gaps(&standard), ["MQTT-1.0.0-1"]);
    }

    #[test]
    fn identifiers_sort_by_number() {
        assert!(numbers("MQTT-3.1.2-9") < numbers("MQTT-3.1.2-10"));
    }
}
