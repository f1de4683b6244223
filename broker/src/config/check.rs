//! Checks across keys, on a configuration whose single values are all within their bounds.

use std::collections::HashSet;

use super::report::Report;
use super::{Config, ListenerConfig};

/// Reports everything that does not fit together.
pub(super) fn check(config: &Config, report: &mut Report<'_>) {
    check_cluster(config, report);
    check_listeners(config, report);
}

/// One node only in this version: what asks for more must not start as less.
fn check_cluster(config: &Config, report: &mut Report<'_>) {
    const NOT_YET: &str = "more than one node is not yet supported in this version";
    if !config.cluster.join.is_empty() {
        report.check("cluster.join", NOT_YET, "[]");
    }
    if config.cluster.bootstrap_expect.is_some_and(|nodes| nodes > 1) {
        report.check("cluster.bootstrap_expect", NOT_YET, "1");
    }
}

fn check_listeners(config: &Config, report: &mut Report<'_>) {
    let mut names = HashSet::new();
    for listener in &config.listener {
        if !names.insert(listener.name.as_str()) {
            report.check(
                &key(listener, "name"),
                "two listeners have this name",
                "a name of its own",
            );
        }
    }
}

fn key(listener: &ListenerConfig, key: &str) -> String {
    format!("listener[{}].{key}", listener.name)
}
