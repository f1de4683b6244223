//! Tells the program which commit it was built from.
//!
//! The environment variable `QUORATE_COMMIT` decides where it is set, as when an image is built without the
//! repository. Otherwise optimised builds ask git and are built anew after each commit; other builds say "unknown",
//! since a rebuild per commit would cost more than the answer is worth there, and a stale answer is worse than none.

use std::path::Path;
use std::process::Command;

fn main() {
    println!("cargo:rerun-if-changed=build.rs");
    println!("cargo:rerun-if-env-changed=QUORATE_COMMIT");
    let given = std::env::var("QUORATE_COMMIT")
        .ok()
        .filter(|commit| !commit.is_empty());
    let optimised = std::env::var("PROFILE").is_ok_and(|profile| profile == "release");
    let commit = given.or_else(|| if optimised { commit_of_repository() } else { None });
    println!(
        "cargo:rustc-env=QUORATE_COMMIT={}",
        commit.as_deref().unwrap_or("unknown")
    );
}

fn commit_of_repository() -> Option<String> {
    let commit = git(&["rev-parse", "--short=12", "HEAD"])?;
    let branch = git(&["symbolic-ref", "--quiet", "HEAD"]);
    for name in ["HEAD", "packed-refs"].into_iter().chain(branch.as_deref()) {
        // A path that does not exist would count as changed at every build.
        if let Some(path) = git(&["rev-parse", "--git-path", name]).filter(|path| Path::new(path).exists()) {
            println!("cargo:rerun-if-changed={path}");
        }
    }
    Some(commit)
}

fn git(arguments: &[&str]) -> Option<String> {
    let output = Command::new("git")
        .args(arguments)
        .output()
        .ok()
        .filter(|output| output.status.success())?;
    let text = String::from_utf8(output.stdout).ok()?;
    Some(text.trim().to_owned()).filter(|text| !text.is_empty())
}
