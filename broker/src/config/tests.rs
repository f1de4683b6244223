//! Tests of the configuration as a whole.

mod checks;
mod declared;
mod layers;

use std::io::Write;

use super::*;

fn sources(file: &str, environment: &[(&str, &str)], flags: &[Flag]) -> (Sources, tempfile::NamedTempFile) {
    let mut written = tempfile::NamedTempFile::new().unwrap();
    written.write_all(file.as_bytes()).unwrap();
    let environment = environment
        .iter()
        .map(|(name, value)| ((*name).to_owned(), (*value).to_owned()))
        .collect();
    (
        Sources {
            file: Some(written.path().to_owned()),
            environment,
            flags: flags.to_vec(),
        },
        written,
    )
}

fn load_all(file: &str, environment: &[(&str, &str)], flags: &[Flag]) -> Result<Config, ConfigErrors> {
    let (sources, _written) = sources(file, environment, flags);
    load(&sources)
}

/// The errors of a file, the file's path shown as `F`.
fn errors(file: &str) -> Vec<String> {
    errors_of(file, &[], &[])
}

fn errors_of(file: &str, environment: &[(&str, &str)], flags: &[Flag]) -> Vec<String> {
    let (sources, written) = sources(file, environment, flags);
    let path = written.path().display().to_string();
    match load(&sources) {
        Ok(_) => Vec::new(),
        Err(ConfigErrors(errors)) => errors
            .iter()
            .map(|error| error.to_string().replace(&path, "F"))
            .collect(),
    }
}

fn flag(name: &'static str, key: &'static str, value: &str) -> Flag {
    Flag {
        name,
        key,
        value: value.to_owned(),
    }
}

#[track_caller]
fn assert_one_error(file: &str, parts: &[&str]) {
    let errors = errors(file);
    assert_eq!(errors.len(), 1, "{errors:#?}");
    for part in parts {
        assert!(errors[0].contains(part), "{part:?} is not in {:?}", errors[0]);
    }
}

const LISTENER: &str = "[[listener]]\nname = 'a'\nkind = 'mqtt'\nbind = '127.0.0.1:1'\n";

fn verifier() -> String {
    crate::auth::Verifier::derive(b"pencil", b"salt", crate::auth::ITERATIONS_MIN).to_string()
}

#[test]
fn without_sources_there_are_defaults() {
    assert_eq!(load(&Sources::default()), Ok(Config::default()));
    assert_eq!(load_all("", &[], &[]), Ok(Config::default()));
}

#[test]
fn all_errors_come_at_once_with_their_lines() {
    let file =
        "[node]\nname = 'bad name'\nworker = 3\n\n[limits]\nreceive_maximum = 0\nconnections_max = 'x'\n";
    assert_eq!(
        errors(file),
        [
            "F:2: node.name: \"bad name\" is not a name; allowed: 1 to 63 letters, digits, ., _ and -, beginning with \
             a letter or digit",
            "F:3: node.worker: unknown key, did you mean node.workers?",
            "F:6: limits.receive_maximum: 0 is too small; allowed: integer from 1 to 65535",
            "F:7: limits.connections_max: is of type string where an integer is expected; allowed: integer from 1 to \
             100000000",
        ]
    );
}

#[test]
fn unknown_keys_name_the_nearest() {
    assert_one_error("[limts]\n", &["F:1: limts: unknown key", "did you mean limits?"]);
    assert_one_error(
        "[limits]\nqueue_messages_max = 1",
        &["F:2: ", "did you mean session.queue_messages_max?"],
    );
    assert_one_error("[node]\ncolour = 1", &["F:2: node.colour: unknown key"]);
    assert_one_error(
        &format!("{LISTENER}tls = {{ cert = 'c', key = 'k', clientca = 'x' }}"),
        &[
            "F:5: listener[a].tls.clientca",
            "did you mean listener[a].tls.client_ca?",
        ],
    );
}

#[test]
fn syntax_errors_have_a_line_and_stand_alone() {
    let errors = errors("[node]\nname = 'a'\nworkers = = 3\ncolour = 1\n");
    assert!(
        errors.iter().all(|error| error.starts_with("F:3: ")),
        "{errors:#?}"
    );
    assert!(!errors.is_empty());
    assert_one_error("[node]\nname = 'a'\nname = 'b'", &["F:3: ", "duplicate key"]);
}

#[test]
fn a_file_that_cannot_be_read_is_named() {
    let sources = Sources {
        file: Some("/nowhere/quorate.toml".into()),
        ..Sources::default()
    };
    let errors = load(&sources).unwrap_err();
    assert!(errors.to_string().contains("/nowhere/quorate.toml"), "{errors}");
    assert!(errors.to_string().contains("cannot be read"), "{errors}");
}

#[test]
fn integers_keep_their_bounds() {
    for (value, fits) in [
        ("1", true),
        ("65_535", true),
        ("0xFFFF", true),
        ("65536", false),
        ("-1", false),
    ] {
        let file = format!("[limits]\nreceive_maximum = {value}");
        assert_eq!(load_all(&file, &[], &[]).is_ok(), fits, "{value}");
    }
    for value in [
        "9223372036854775807",
        "-9223372036854775808",
        "99999999999999999999",
    ] {
        assert!(
            !errors(&format!("[limits]\nretained_bytes_max = {value}")).is_empty(),
            "{value}"
        );
    }
}

#[test]
fn log_levels_are_not_taken_for_targets() {
    for (text, normal) in [
        ("WARN", "warn"),
        ("debug,quorate::router=trace", "debug,quorate::router=trace"),
        ("quorate::router=trace", "info,quorate::router=trace"),
    ] {
        assert_eq!(
            LogLevel::parse(text).map(|level| level.as_str().to_owned()),
            Ok(normal.to_owned())
        );
    }
    for text in [
        "",
        "inof",
        "info,",
        "info,debug",
        "=debug",
        "a b=debug",
        "quorate=loud",
    ] {
        assert!(LogLevel::parse(text).is_err(), "{text:?}");
    }
}

#[test]
fn host_and_port_are_both_there() {
    for (text, fits) in [
        ("node-1.example:7946", true),
        ("10.0.0.1:7946", true),
        ("[::1]:7946", true),
        ("node1", false),
        (":7946", false),
        ("node1:0", false),
        ("node1:70000", false),
        ("::1:7946", false),
        ("no de:1", false),
    ] {
        let file = format!("[cluster]\nadvertise = '{text}'");
        assert_eq!(load_all(&file, &[], &[]).is_ok(), fits, "{text}");
    }
    let config = load_all("", &[("QUORATE_CLUSTER__JOIN", "a:1, b:2")], &[]).expect("a list of nodes");
    assert_eq!(config.cluster.join.len(), 2);
}

#[test]
fn a_listener_overrides_the_limits() {
    let file = format!("{LISTENER}maximum_qos = 1\nreceive_maximum = 5\n[limits]\ntopic_alias_maximum = 9");
    let config = load_all(&file, &[], &[]).unwrap();
    let offered = config.capabilities(&config.listener[0]);
    assert_eq!(offered.maximum_qos, quorate_proto::codec::QoS::AtLeastOnce);
    assert_eq!((offered.receive_maximum, offered.topic_alias_maximum), (5, 9));
    assert_eq!(offered.maximum_packet_size, 1_048_576);
}
