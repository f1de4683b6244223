//! Tests of the checks across keys.

use super::*;

#[test]
fn addresses_others_can_reach_need_users_or_a_word() {
    let open = LISTENER.replace("127.0.0.1:1", "0.0.0.0:1");
    assert_one_error(
        &open,
        &[
            "F:4: listener[a].bind",
            "anybody could connect",
            "--allow-anonymous",
        ],
    );
    assert!(errors(&format!("{open}allow_anonymous = true")).is_empty());
    assert!(errors(&format!("{open}[auth]\nallow_anonymous = true")).is_empty());
    assert_one_error(
        &format!("{open}allow_anonymous = false\n[auth]\nallow_anonymous = true"),
        &["listener[a].bind"],
    );
    let users = format!("{open}[[auth.user]]\nname = 'ann'\npassword = '{}'", verifier());
    let config = load_all(&users, &[], &[]).unwrap();
    assert!(!config.allows_anonymous(&config.listener[0]));
    assert_one_error(
        "[auth]\nallow_anonymous = false",
        &["F:2: auth.allow_anonymous", "nobody could connect"],
    );
}

#[test]
fn loopback_is_open_until_there_is_a_user() {
    let config = Config::default();
    assert!(
        config
            .listener
            .iter()
            .all(|listener| config.allows_anonymous(listener))
    );
    let config = load_all(
        &format!("[[auth.user]]\nname = 'ann'\npassword = '{}'", verifier()),
        &[],
        &[],
    )
    .unwrap();
    assert!(
        !config
            .listener
            .iter()
            .any(|listener| config.allows_anonymous(listener))
    );
}

#[test]
fn what_this_version_cannot_do_does_not_start() {
    assert_one_error(
        &(LISTENER.replace("'mqtt'", "'mqtts'") + "tls = { cert = 'c', key = 'k' }"),
        &["F:3: listener[a].kind", "not yet supported in this version"],
    );
}

#[test]
fn other_nodes_are_told_an_address() {
    assert_one_error(
        "[cluster]\nlisten = '0.0.0.0:7946'",
        &["F:2: cluster.listen", "cluster.advertise"],
    );
    assert!(
        load_all(
            "[cluster]\nlisten = '0.0.0.0:7946'\nadvertise = 'node-1:7946'",
            &[],
            &[]
        )
        .is_ok()
    );
}

#[test]
fn listeners_are_checked_as_a_whole() {
    assert_one_error(
        &LISTENER.replace("'mqtt'", "'tcp'"),
        &[
            "F:3: listener[a].kind: \"tcp\"",
            "\"mqtt\", \"mqtts\", \"ws\", \"wss\"",
        ],
    );
    assert_one_error(
        "[[listener]]\nname = 'a'\nkind = 'mqtt'",
        &["F:1: listener[a].bind: is missing"],
    );
    assert_one_error("listener = []", &["no listener"]);
    assert_one_error("[listener]\nname = 'a'", &["write [[listener]]"]);
    assert_one_error(
        &format!("{LISTENER}{}", LISTENER.replace(":1'", ":2'")),
        &["listener[a].name", "another"],
    );
    assert_one_error(
        &format!("{LISTENER}{}", LISTENER.replace("'a'", "'b'")),
        &["F:8: listener[b].bind", "taken by listener[a].bind"],
    );
    assert_one_error(
        "[admin]\nbind = '0.0.0.0:1883'",
        &["F:2: admin.bind", "taken by listener[mqtt].bind"],
    );
    assert_one_error(
        &format!("{LISTENER}path = '/x'"),
        &["F:5: listener[a].path", "has no path"],
    );
    assert_one_error(
        &(LISTENER.replace("'mqtt'", "'ws'") + "path = 'x'"),
        &["F:5: listener[a].path", "not a path"],
    );
    assert_one_error(
        &format!("{LISTENER}tls = {{ cert = 'c', key = 'k' }}"),
        &["F:5: listener[a].tls", "no tls"],
    );
    assert_one_error(
        &format!("{LISTENER}maximum_qos = 3"),
        &["F:5: listener[a].maximum_qos: 3 is too large"],
    );
}

#[test]
fn a_queue_holds_the_largest_packet() {
    let small = "[session]\nqueue_bytes_max = 65536\n";
    assert!(
        errors(small)[0].contains("F:2: session.queue_bytes_max"),
        "{:?}",
        errors(small)
    );
    assert!(errors(&format!("{small}[limits]\nmaximum_packet_size = 65536")).is_empty());
}

/// A publish of any size that a client may send has to fit an entry of the log, with its targets.
#[test]
fn the_largest_packet_fits_an_entry_of_the_log() {
    let max = 15 << 20;
    let queue = "[session]\nqueue_bytes_max = 33554432\n";
    for section in ["[limits]\n", LISTENER] {
        let file = |size: u32| format!("{queue}{section}maximum_packet_size = {size}");
        assert_eq!(errors(&file(max)), Vec::<String>::new());
        assert_one_error(&file(max + 1), &["maximum_packet_size: 15728641 is too large"]);
    }
}

#[test]
fn passwords_are_checked_and_never_shown() {
    let file = "[[auth.user]]\nname = 'ann'\npassword = 'hunter2'";
    assert_one_error(
        file,
        &[
            "F:3: auth.user[ann].password",
            "plain passwords are not taken",
            "hash-password",
        ],
    );
    let user = format!("[[auth.user]]\nname = 'ann'\npassword = '{}'\n", verifier());
    assert_one_error(
        &format!("{user}{user}"),
        &["F:5: auth.user[ann].name", "another user"],
    );
    let config = load_all(&user, &[], &[]).unwrap();
    assert!(!format!("{config:?}").contains("SCRAM"));
    assert!(!errors(file)[0].contains("hunter2"));
}

#[test]
fn rules_are_checked() {
    let user = format!("[[auth.user]]\nname = 'ann'\npassword = '{}'\n", verifier());
    let rule = "[[acl.rule]]\neffect = 'allow'\nfilter = 'a/%c/#'\n";
    assert_one_error(rule, &["F:1: acl.rule", "acl.default"]);
    let rule = format!("[acl]\ndefault = 'deny'\n{rule}");
    assert!(errors(&rule).is_empty());
    assert_one_error(
        &rule.replace("/#", "/#/b"),
        &["F:5: acl.rule[#1].filter", "not the whole last level"],
    );
    assert_one_error(
        &format!("{rule}user = 'bob'"),
        &["F:6: acl.rule[#1].user", "no user \"bob\""],
    );
    assert_one_error(&format!("{rule}user = 'an'\n{user}"), &["did you mean ann?"]);
    assert!(errors(&format!("{rule}user = 'ann'\n{user}")).is_empty());
    assert_one_error(
        &rule.replace("'allow'", "'permit'"),
        &["F:4: acl.rule[#1].effect", "\"allow\", \"deny\""],
    );
    assert_one_error(
        "[[durability]]\nfilter = 'a#'\nclass = 'quorum'",
        &["F:2: durability[#1].filter"],
    );
}
