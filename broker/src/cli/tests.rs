//! Tests of the command line.

use clap::CommandFactory;

use super::config::password_of;
use super::reload::needs_restart;
use super::serve::ServeArguments;
use super::*;
use crate::config::{AclEffect, Config, LogLevel, Secret, Sources, UserConfig, load};

fn serve_arguments(flags: &[&str]) -> ServeArguments {
    let words = ["quorate", "serve"].iter().chain(flags);
    match Arguments::try_parse_from(words).unwrap().command {
        Some(Command::Serve(arguments)) => *arguments,
        other => panic!("{other:?}"),
    }
}

#[test]
fn the_definition_is_sound() {
    Arguments::command().debug_assert();
}

#[test]
fn every_flag_sets_a_key_that_exists() {
    let flags = [
        "--node-name=n9",
        "--data-dir=/d",
        "--mqtt-listen=127.0.0.1:1",
        "--ws-listen=127.0.0.1:2",
        "--admin-listen=127.0.0.1:3",
        "--cluster-name=c9",
        "--cluster-listen=127.0.0.1:4",
        "--cluster-advertise=host:5",
        "--bootstrap-expect=1",
        "--allow-anonymous",
        "--log-level=debug",
        "--log-format=json",
    ];
    let sources = Sources {
        environment: Vec::new(),
        ..serve_arguments(&flags).sources()
    };
    assert_eq!(sources.flags.len(), flags.len());
    let config = load(&sources).unwrap();
    assert_eq!(
        (config.node.name.as_str(), config.cluster.name.as_str()),
        ("n9", "c9")
    );
    assert_eq!(
        config
            .listener
            .iter()
            .map(|listener| listener.bind.port())
            .collect::<Vec<_>>(),
        [1, 2]
    );
    assert_eq!(
        (config.admin.bind.port(), config.cluster.listen.unwrap().port()),
        (3, 4)
    );
    assert_eq!(config.auth.allow_anonymous, Some(true));
    assert_eq!(config.log.level.as_str(), "debug");
    // What this version refuses is refused as the key it is, not as an unknown one.
    for flag in ["--mqtts-listen=127.0.0.1:1", "--wss-listen=127.0.0.1:1"] {
        let sources = Sources {
            environment: Vec::new(),
            ..serve_arguments(&[flag]).sources()
        };
        let errors = load(&sources).unwrap_err().to_string();
        assert!(
            errors.starts_with(&format!("flag {}: ", flag.split('=').next().unwrap())),
            "{errors}"
        );
        assert!(!errors.contains("unknown"), "{errors}");
    }
}

#[test]
fn a_password_is_one_line() {
    assert_eq!(password_of(b"pencil\n"), Ok(&b"pencil"[..]));
    assert_eq!(password_of(b"pencil\r\n"), Ok(&b"pencil"[..]));
    assert_eq!(password_of(b" pencil "), Ok(&b" pencil "[..]));
    for input in [&b""[..], b"\n", b"one\ntwo", &[b'a'; 1_025]] {
        assert!(password_of(input).is_err(), "{input:?}");
    }
}

#[test]
fn changes_that_wait_for_a_restart_are_named() {
    let running = Config::default();
    let mut read = running.clone();
    read.log.level = LogLevel::parse("debug").unwrap();
    assert_eq!(needs_restart(&running, &read), Vec::<&str>::new());
    read.limits.connections_max = 1;
    read.node.name = "other".to_owned();
    assert_eq!(needs_restart(&running, &read), ["node", "limits"]);
    let mut read = running.clone();
    read.auth.user.push(UserConfig {
        name: "ann".to_owned(),
        password: Secret::from(String::new()),
    });
    assert_eq!(
        needs_restart(&running, &read),
        ["auth"],
        "the first user closes loopback, at the next start"
    );
    assert_eq!(needs_restart(&read, &read), Vec::<&str>::new());

    let mut read = running.clone();
    read.acl.default = Some(AclEffect::Deny);
    assert_eq!(
        needs_restart(&running, &read),
        ["acl"],
        "without rules at the start nobody asks for them"
    );
    assert_eq!(
        needs_restart(&read, &running),
        Vec::<&str>::new(),
        "rules change while the process runs"
    );
    read.acl.tell_not_authorized = false;
    assert_eq!(needs_restart(&running, &read), ["acl"]);
}
