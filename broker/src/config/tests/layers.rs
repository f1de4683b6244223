//! Tests of the layers: file, environment, flags.

use super::*;

#[test]
fn later_layers_win() {
    let file =
        format!("{LISTENER}[cluster]\nname = 'file'\n[limits]\nreceive_maximum = 7\n[node]\nname = 'file'");
    let environment = [
        ("QUORATE_CLUSTER__NAME", "environment"),
        ("QUORATE_NODE__NAME", "environment"),
    ];
    let config = load_all(&file, &environment, &[flag("--node-name", "node.name", "flag")]).unwrap();
    assert_eq!(config.limits.receive_maximum, 7);
    assert_eq!(config.cluster.name, "environment");
    assert_eq!(config.node.name, "flag");
    assert_eq!(config.session, SessionConfig::default());
}

#[test]
fn the_environment_reaches_every_kind_of_key() {
    let environment = [
        ("QUORATE_LISTENER__MQTT__BIND", "127.0.0.1:2883"),
        ("QUORATE_LISTENER__WS__RETAIN_AVAILABLE", "false"),
        ("QUORATE_LISTENER__WS__SERVER_KEEP_ALIVE_SECS", "30"),
        ("QUORATE_LIMITS__CONNECTIONS_MAX", "5"),
        ("QUORATE_LOG__LEVEL", "debug"),
        ("HOME", "/root"),
    ];
    let config = load_all("", &environment, &[]).unwrap();
    assert_eq!(config.listener[0].bind, "127.0.0.1:2883".parse().unwrap());
    assert!(!config.listener[1].retain_available && config.listener[0].retain_available);
    assert_eq!(config.listener[1].server_keep_alive_secs, Some(30));
    assert_eq!(config.limits.connections_max, 5);
    assert_eq!(config.log.level, LogLevel::parse("debug").unwrap());
}

#[test]
fn wrong_variables_are_errors() {
    for (name, value, part) in [
        (
            "QUORATE_LIMITS__CONNECTION_MAX",
            "5",
            "did you mean limits.connections_max?",
        ),
        (
            "QUORATE_LIMITS__CONNECTIONS_MAX",
            "many",
            "\"many\" is not an integer",
        ),
        (
            "QUORATE_LIMITS_CONNECTIONS_MAX",
            "5",
            "did you mean QUORATE_LIMITS__CONNECTIONS_MAX?",
        ),
        (
            "QUORATE_LISTENER__TCP__BIND",
            "127.0.0.1:1",
            "no listener of the name \"tcp\"",
        ),
        ("QUORATE_LISTENER", "x", "unknown variable"),
        ("QUORATE_NODE__NAME__X", "x", "is a value"),
        ("QUORATE_AUTH__USER", "x", "only the file"),
        ("QUORATE_ADMIN__BIND", "8080", "is not an address"),
    ] {
        let errors = errors_of("", &[(name, value)], &[]);
        assert_eq!(errors.len(), 1, "{name}: {errors:#?}");
        assert!(
            errors[0].contains(name) && errors[0].contains(part),
            "{name}: {}",
            errors[0]
        );
    }
}

#[test]
fn variables_of_kubernetes_services_are_not_configuration() {
    let links = [
        "QUORATE_PORT",
        "QUORATE_SERVICE_HOST",
        "QUORATE_SERVICE_PORT",
        "QUORATE_SERVICE_PORT_MQTT",
        "QUORATE_PORT_1883_TCP",
        "QUORATE_PORT_1883_TCP_ADDR",
        "QUORATE_MQTT_PORT_1883_TCP_PROTO",
        "QUORATE_HEADLESS_SERVICE_HOST",
        "QUORATE_ADMIN_URL",
    ];
    let environment: Vec<_> = links.iter().map(|name| (*name, "tcp://10.0.0.1:1883")).collect();
    assert_eq!(load_all("", &environment, &[]), Ok(Config::default()));
}

#[test]
fn flags_change_or_create_the_listener_of_their_name() {
    let file = LISTENER;
    let mqtt = flag("--mqtt-listen", "listener.mqtt.bind", "127.0.0.1:2");
    let config = load_all(file, &[], std::slice::from_ref(&mqtt)).unwrap();
    let found: Vec<_> = config
        .listener
        .iter()
        .map(|listener| (listener.name.as_str(), listener.bind.port()))
        .collect();
    assert_eq!(found, [("a", 1), ("mqtt", 2)]);
    let config = load_all("", &[], &[mqtt]).unwrap();
    assert_eq!((config.listener.len(), config.listener[0].bind.port()), (2, 2));
    let errors = errors_of(
        "",
        &[],
        &[flag("--mqtts-listen", "listener.mqtts.bind", "127.0.0.1:2")],
    );
    assert!(
        errors[0].starts_with("flag --mqtts-listen: ") && errors[0].contains("certificate"),
        "{errors:?}"
    );
}
