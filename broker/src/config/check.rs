//! Checks across keys, on a configuration whose single values are all within their bounds.
//!
//! Each error points at the line of one of the keys it is about, and says what to write instead.

use std::collections::HashSet;
use std::net::SocketAddr;

use super::report::Report;
use super::{Config, ListenerConfig, nearest};
use crate::auth::{Verifier, check_rule_filter};

/// Whether this version serves TLS. Until it does, a listener that asks for it must not start as anything less.
const TLS_IS_SERVED: bool = false;

/// Reports everything that does not fit together.
pub(super) fn check(config: &Config, report: &mut Report<'_>) {
    check_cluster(config, report);
    check_listeners(config, report);
    check_addresses(config, report);
    check_sizes(config, report);
    check_users(config, report);
    check_rules(config, report);
    for (index, rule) in config.durability.iter().enumerate() {
        if let Err(error) = check_rule_filter(&rule.filter) {
            report.check(
                &format!("durability[#{}].filter", index + 1),
                error.to_string(),
                "a topic filter",
            );
        }
    }
}

/// What other nodes are told to connect to has to be an address.
fn check_cluster(config: &Config, report: &mut Report<'_>) {
    let cluster = &config.cluster;
    let listens_everywhere = cluster
        .listen_address()
        .is_some_and(|address| address.ip().is_unspecified());
    if listens_everywhere && cluster.advertise.is_none() {
        report.check(
            "cluster.listen",
            "is every address of this machine, and the other nodes have to be told one",
            "one address here, or cluster.advertise",
        );
    }
}

fn check_listeners(config: &Config, report: &mut Report<'_>) {
    if config.listener.is_empty() {
        report.check(
            "listener",
            "there is no listener, so no client can connect",
            "at least one [[listener]]",
        );
    }
    let mut names = HashSet::new();
    for listener in &config.listener {
        if !names.insert(listener.name.as_str()) {
            report.check(
                &key(listener, "name"),
                "is the name of another listener too",
                "a name of its own",
            );
        }
        check_path(listener, report);
        check_tls(listener, report);
        check_anonymous(config, listener, report);
    }
}

fn check_path(listener: &ListenerConfig, report: &mut Report<'_>) {
    let path = key(listener, "path");
    if !listener.path.starts_with('/') || listener.path.contains(|letter: char| !letter.is_ascii_graphic()) {
        report.check(
            &path,
            format!("{:?} is not a path", listener.path),
            "a path such as /mqtt",
        );
    }
    if !listener.kind.is_websocket() && listener.path != ListenerConfig::default().path {
        report.check(
            &path,
            format!("a listener of kind {:?} has no path", listener.kind.as_str()),
            "kind ws or wss",
        );
    }
}

fn check_tls(listener: &ListenerConfig, report: &mut Report<'_>) {
    let kind = listener.kind.as_str();
    match &listener.tls {
        None if listener.kind.is_tls() => {
            report.check(
                &key(listener, "kind"),
                format!("a listener of kind {kind:?} needs a certificate"),
                "tls = { cert = \"FILE\", key = \"FILE\" }",
            );
        }
        Some(_) if !listener.kind.is_tls() => {
            report.check(
                &key(listener, "tls"),
                format!("a listener of kind {kind:?} has no tls"),
                "kind mqtts or wss",
            );
        }
        _ => {}
    }
    if listener.kind.is_tls() && !TLS_IS_SERVED {
        report.check(
            &key(listener, "kind"),
            format!("{kind:?} is not yet supported in this version"),
            "mqtt and ws, behind a proxy that ends TLS",
        );
    }
}

fn check_anonymous(config: &Config, listener: &ListenerConfig, report: &mut Report<'_>) {
    if !config.auth.user.is_empty() || config.allows_anonymous(listener) {
        return;
    }
    let refused = key(listener, "allow_anonymous");
    if listener.bind.ip().is_loopback() {
        let key = if listener.allow_anonymous.is_some() {
            refused.as_str()
        } else {
            "auth.allow_anonymous"
        };
        report.check(
            key,
            "no user is configured and clients without user name are refused, so nobody could connect",
            "true, or a user",
        );
    } else {
        report.check(
            &key(listener, "bind"),
            format!("{} can be reached from other machines, and anybody could connect", listener.bind),
            "a loopback address; or users in [[auth.user]]; or allow_anonymous = true (--allow-anonymous) to say \
             that this is meant",
        );
    }
}

/// Two sockets on one port: whichever is bound second would fail.
fn check_addresses(config: &Config, report: &mut Report<'_>) {
    let mut taken: Vec<(String, SocketAddr)> = Vec::new();
    let listeners = config
        .listener
        .iter()
        .map(|listener| (key(listener, "bind"), listener.bind));
    let cluster = config.cluster.listen_address();
    let others = cluster
        .map(|address| ("cluster.listen".to_owned(), address))
        .into_iter()
        .chain([("admin.bind".to_owned(), config.admin.bind)]);
    for (key, address) in listeners.chain(others) {
        if let Some((other, _)) = taken.iter().find(|(_, other)| collide(*other, address)) {
            report.check(
                &key,
                format!("{address} is taken by {other}"),
                "an address or port of its own",
            );
        }
        taken.push((key, address));
    }
}

fn collide(one: SocketAddr, other: SocketAddr) -> bool {
    let overlap = one.ip() == other.ip() || one.ip().is_unspecified() || other.ip().is_unspecified();
    one.port() != 0 && one.port() == other.port() && overlap
}

/// A bound that no allowed packet fits would refuse what another key allows.
fn check_sizes(config: &Config, report: &mut Report<'_>) {
    for listener in &config.listener {
        let packet = u64::from(config.capabilities(listener).maximum_packet_size);
        if packet > config.session.queue_bytes_max {
            report.check(
                "session.queue_bytes_max",
                format!(
                    "no queue could hold the largest packet ({packet} bytes) that listener {} takes",
                    listener.name
                ),
                format!("at least {packet}, or a smaller maximum_packet_size"),
            );
        }
    }
}

fn check_users(config: &Config, report: &mut Report<'_>) {
    let mut names = HashSet::new();
    for user in &config.auth.user {
        let path = format!("auth.user[{}]", user.name);
        if !names.insert(user.name.as_str()) {
            report.check(
                &format!("{path}.name"),
                "is the name of another user too",
                "a name of its own",
            );
        }
        if let Err(error) = user.password.expose().parse::<Verifier>() {
            report.check(
                &format!("{path}.password"),
                error.to_string(),
                "the output of: quorate config hash-password",
            );
        }
    }
}

fn check_rules(config: &Config, report: &mut Report<'_>) {
    if config.acl.default.is_none() && !config.acl.rule.is_empty() {
        report.check(
            "acl.rule",
            "there are rules, and acl.default does not say what holds where none fits",
            "default = \"deny\" or default = \"allow\" in [acl]",
        );
    }
    let users = || config.auth.user.iter().map(|user| user.name.as_str());
    for (index, rule) in config.acl.rule.iter().enumerate() {
        let path = format!("acl.rule[#{}]", index + 1);
        if let Err(error) = check_rule_filter(&rule.filter) {
            report.check(
                &format!("{path}.filter"),
                error.to_string(),
                "a topic filter, with %c and %u in it",
            );
        }
        if let Some(user) = rule
            .user
            .as_deref()
            .filter(|user| !users().any(|known| known == *user))
        {
            let hint = nearest::nearest(user, users());
            let hint = hint
                .map(|near| format!(", did you mean {near}?"))
                .unwrap_or_default();
            report.check(
                &format!("{path}.user"),
                format!("there is no user {user:?}{hint}"),
                "a name from [[auth.user]]",
            );
        }
    }
}

fn key(listener: &ListenerConfig, key: &str) -> String {
    format!("listener[{}].{key}", listener.name)
}
