//! Every statement of the standards that binds a server is shown by a test, and the page says so.

use std::fs;

use quorate_tests::broken_rules::{self, broken_rules};
use quorate_tests::catalogue::{faults, page, standards, test_functions, workspace};

#[test]
fn every_server_statement_names_a_test_that_exists() {
    let faults = faults(&standards(), &test_functions());
    assert!(
        faults.is_empty(),
        "{} faults:\n{}",
        faults.len(),
        faults.join("\n")
    );
}

/// 30 rules, each of which can be broken by the change that is listed, and tests of its statement that fail then.
#[test]
fn the_rules_broken_on_purpose_fit_the_code() {
    let rules = broken_rules();
    assert!(rules.broken.len() >= 30, "{} rules", rules.broken.len());
    let faults = broken_rules::faults(&rules, &standards(), |file| {
        fs::read_to_string(workspace().join(file)).ok()
    });
    assert!(
        faults.is_empty(),
        "{} faults:\n{}",
        faults.len(),
        faults.join("\n")
    );
}

/// `QUORATE_WRITE_PAGES=1` writes the page instead.
#[test]
fn the_page_is_up_to_date() {
    let path = workspace().join("docs/conformance.md");
    let page = page(&standards()) + &broken_rules::section(&broken_rules());
    if std::env::var_os("QUORATE_WRITE_PAGES").is_some() {
        return fs::write(path, page).expect("docs is writable");
    }
    let written = fs::read_to_string(&path).unwrap_or_default();
    assert!(
        written == page,
        "docs/conformance.md is out of date; run this test with QUORATE_WRITE_PAGES=1"
    );
}
