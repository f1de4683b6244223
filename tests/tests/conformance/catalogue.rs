//! Every statement of the standards that binds a server is shown by a test, and the page says so.

use std::fs;

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

/// `QUORATE_WRITE_PAGES=1` writes the page instead.
#[test]
fn the_page_is_up_to_date() {
    let path = workspace().join("docs/conformance.md");
    let page = page(&standards());
    if std::env::var_os("QUORATE_WRITE_PAGES").is_some() {
        return fs::write(path, page).expect("docs is writable");
    }
    let written = fs::read_to_string(&path).unwrap_or_default();
    assert!(
        written == page,
        "docs/conformance.md is out of date; run this test with QUORATE_WRITE_PAGES=1"
    );
}
