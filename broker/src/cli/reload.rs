//! SIGHUP: the configuration is read again, and what can change while the process runs, changes.

use clap::Parser;

use super::serve::ServeArguments;
use super::{Arguments, Command};
use crate::auth::{AclRules, ConfiguredAuthenticator};
use crate::config::{self, Config};
use crate::logging;

/// Reads the configuration again from where it was read at the start, and takes over users, rules and the log level.
/// A configuration with errors changes nothing. What happened is logged; `running` is what the process started with.
///
/// Reads files: not for a worker.
pub fn reload(running: &Config, users: &ConfiguredAuthenticator, rules: &AclRules) {
    // The arguments were parsed once, so they parse.
    let arguments = match Arguments::try_parse().map(|arguments| arguments.command) {
        Ok(Some(Command::Serve(arguments))) => *arguments,
        _ => ServeArguments::default(),
    };
    let read = match config::load(&arguments.sources()) {
        Ok(read) => read,
        Err(errors) => {
            for error in &errors.0 {
                tracing::error!(%error, "configuration error");
            }
            tracing::error!(
                errors = errors.0.len(),
                "the configuration was not reloaded; the running one stays"
            );
            return;
        }
    };
    take_over(&read, users, rules);
    let waiting = needs_restart(running, &read);
    if waiting.is_empty() {
        tracing::info!("configuration reloaded");
    } else {
        tracing::warn!(
            sections = waiting.join(", "),
            "configuration reloaded; some changes need a restart"
        );
    }
}

fn take_over(read: &Config, users: &ConfiguredAuthenticator, rules: &AclRules) {
    users.replace_users(&read.auth);
    rules.replace(&read.acl);
    if let Err(error) = logging::set_level(&read.log.level) {
        tracing::error!(%error, "the log level stays");
    }
}

/// Sections that differ in keys which take effect at a start only.
pub(super) fn needs_restart(running: &Config, read: &Config) -> Vec<&'static str> {
    let mut read = read.clone();
    // Whether loopback is open to everybody follows from whether there are users, and is settled at the start.
    let opens = |config: &Config| {
        running
            .listener
            .iter()
            .map(|one| config.allows_anonymous(one))
            .collect::<Vec<_>>()
    };
    let auth_differs = opens(running) != opens(&read);
    // Without anything to ask at the start, nobody asks later.
    let acl_differs = read.acl.tell_not_authorized != running.acl.tell_not_authorized
        || (AclRules::new(&running.acl).allows_everything() && !AclRules::new(&read.acl).allows_everything());
    read.auth.user.clone_from(&running.auth.user);
    read.log.level.clone_from(&running.log.level);
    let differs = [
        ("node", read.node != running.node),
        ("listener", read.listener != running.listener),
        ("cluster", read.cluster != running.cluster),
        ("admin", read.admin != running.admin),
        ("session", read.session != running.session),
        ("limits", read.limits != running.limits),
        ("auth", read.auth != running.auth || auth_differs),
        ("acl", acl_differs),
        ("log", read.log != running.log),
        ("durability", read.durability != running.durability),
    ];
    differs
        .into_iter()
        .filter(|(_, differs)| *differs)
        .map(|(section, _)| section)
        .collect()
}
