//! Tests of the rules, by example and against the definition over a small world of topics.

use proptest::prelude::*;
use quorate_proto::topic::matches;

use super::*;
use crate::auth::Identity;

fn client(client_id: &str, user: Option<&str>) -> ClientInfo {
    ClientInfo {
        client_id: client_id.into(),
        identity: Identity {
            user_name: user.map(Arc::from),
        },
        remote: ([127, 0, 0, 1], 1).into(),
    }
}

fn rule(effect: AclEffect, action: AclAction, filter: &str) -> AclRuleConfig {
    AclRuleConfig {
        effect,
        action,
        filter: filter.to_owned(),
        exact: false,
        user: None,
        client_id: None,
    }
}

fn allow(filter: &str) -> AclRuleConfig {
    rule(AclEffect::Allow, AclAction::All, filter)
}

fn deny(filter: &str) -> AclRuleConfig {
    rule(AclEffect::Deny, AclAction::All, filter)
}

fn rules(default: AclEffect, rule: Vec<AclRuleConfig>) -> AclRules {
    AclRules::new(&AclConfig {
        default: Some(default),
        tell_not_authorized: true,
        rule,
    })
}

fn allows(rules: &AclRules, client: &ClientInfo, action: Action, wanted: &str) -> bool {
    rules.authorize(client, action, wanted) == Decision::Allow
}

#[test]
fn the_first_rule_that_fits_decides() {
    let rules = rules(
        AclEffect::Deny,
        vec![deny("a/secret"), allow("a/#"), deny("b"), allow("b")],
    );
    let of = client("c", None);
    for (topic, expected) in [
        ("a", true),
        ("a/x", true),
        ("a/secret", false),
        ("a/secret/x", true),
        ("b", false),
        ("c", false),
    ] {
        assert_eq!(allows(&rules, &of, Action::Publish, topic), expected, "{topic}");
    }
    for (filter, expected) in [
        ("a/x", true),
        ("a/x/#", true),
        ("a/+/x", true),
        ("a/#", false),
        ("a/+", false),
        ("a/secret", false),
        ("#", false),
        ("+", false),
        ("$share/group/a/x", true),
        ("$share/group/a/#", false),
    ] {
        assert_eq!(
            allows(&rules, &of, Action::Subscribe, filter),
            expected,
            "{filter}"
        );
    }
}

#[test]
fn rules_are_for_one_action_user_or_client() {
    let mut for_ann = allow("a");
    for_ann.user = Some("ann".to_owned());
    let mut for_client = rule(AclEffect::Allow, AclAction::Publish, "b");
    for_client.client_id = Some("c1".to_owned());
    let rules = rules(AclEffect::Deny, vec![for_ann, for_client]);
    assert!(allows(&rules, &client("x", Some("ann")), Action::Publish, "a"));
    assert!(!allows(&rules, &client("x", Some("bob")), Action::Publish, "a"));
    assert!(!allows(&rules, &client("ann", None), Action::Publish, "a"));
    assert!(allows(&rules, &client("c1", None), Action::Publish, "b"));
    assert!(!allows(&rules, &client("c1", None), Action::Subscribe, "b"));
    assert!(!allows(&rules, &client("c2", Some("c1")), Action::Publish, "b"));
}

#[test]
fn names_fill_one_level() {
    let rules = rules(
        AclEffect::Deny,
        vec![allow("device/%c/#"), allow("user-%u/in"), allow("100%/%d")],
    );
    let of = client("d1", Some("ann"));
    for (topic, expected) in [
        ("device/d1", true),
        ("device/d1/state", true),
        ("device/d2/state", false),
        ("device/%c/state", false),
        ("user-ann/in", true),
        ("user-bob/in", false),
        ("100%/%d", true),
    ] {
        assert_eq!(allows(&rules, &of, Action::Publish, topic), expected, "{topic}");
    }
    assert!(!allows(&rules, &of, Action::Subscribe, "device/+/state"));
    assert!(
        !allows(&rules, &client("d1", None), Action::Publish, "user-/in"),
        "no user name, no topic"
    );
    // A placeholder within a name is text.
    let tricky = client("%u", Some("ann"));
    assert!(allows(&rules, &tricky, Action::Publish, "device/%u/x"));
    assert!(!allows(&rules, &tricky, Action::Publish, "device/ann/x"));
}

#[test]
fn a_name_cannot_widen_a_rule() {
    for effect in [AclEffect::Deny, AclEffect::Allow] {
        for name in ["#", "+", "a/b", "a/#", "", "+/+"] {
            let of = client(name, Some(name));
            let granted = rules(AclEffect::Deny, vec![allow("d/%c/#"), allow("u/%u")]);
            for wanted in [
                "d/#", "d/+/x", "d/a/b/c", "d/a", "d//x", "u/+", "u/x", "u/#", "u/",
            ] {
                assert!(
                    !allows(&granted, &of, Action::Subscribe, wanted),
                    "{name:?} {wanted}"
                );
                if !wanted.contains(['+', '#']) {
                    assert!(
                        !allows(&granted, &of, Action::Publish, wanted),
                        "{name:?} {wanted}"
                    );
                }
            }
            let taken = rules(effect, vec![deny("d/%c/#")]);
            assert!(!allows(&taken, &of, Action::Publish, "d/anything/x"), "{name:?}");
        }
    }
}

#[test]
fn system_topics_are_not_granted_by_a_wildcard() {
    let of = client("c", None);
    let granted = rules(AclEffect::Deny, vec![allow("#"), allow("+/x")]);
    assert!(allows(&granted, &of, Action::Subscribe, "#"));
    assert!(!allows(&granted, &of, Action::Subscribe, "$SYS/#"));
    assert!(!allows(&granted, &of, Action::Publish, "$SYS/x"));
    let taken = rules(AclEffect::Allow, vec![deny("#")]);
    assert!(!allows(&taken, &of, Action::Subscribe, "$SYS/#"));
    // What a wildcard does not reach, does not stand in its way.
    let hidden = rules(AclEffect::Allow, vec![deny("$SYS/#")]);
    assert!(allows(&hidden, &of, Action::Subscribe, "#"));
    assert!(allows(&hidden, &of, Action::Subscribe, "+/broker"));
    assert!(!allows(&hidden, &of, Action::Subscribe, "$SYS/+"));
}

#[test]
fn replacing_rules_changes_the_generation() {
    let of = client("c", None);
    let rules = rules(AclEffect::Allow, vec![]);
    assert!(rules.allows_everything());
    assert!(allows(&rules, &of, Action::Publish, "a"));
    let before = rules.generation();
    rules.clone().replace(&AclConfig {
        default: Some(AclEffect::Deny),
        tell_not_authorized: true,
        rule: vec![],
    });
    assert_ne!(rules.generation(), before);
    assert!(!rules.allows_everything());
    assert!(!allows(&rules, &of, Action::Publish, "a"));
}

#[test]
fn rules_at_hand_are_not_taken_for_others() {
    let of = client("c", None);
    let (open, shut) = (rules(AclEffect::Allow, vec![]), rules(AclEffect::Deny, vec![]));
    for _ in 0..2 {
        assert!(allows(&open, &of, Action::Publish, "a"));
        assert!(!allows(&shut, &of, Action::Publish, "a"));
    }
}

#[test]
fn broken_filters_are_refused() {
    for filter in ["a/#/b", "a#", "a/b+", "", "$share/g/a"] {
        assert!(check_rule_filter(filter).is_err(), "{filter}");
    }
    for filter in ["#", "+/%c/#", "a//b", "/", "$SYS/#"] {
        assert_eq!(check_rule_filter(filter), Ok(()), "{filter}");
    }
}

/// Every topic of up to four levels of the letters a, b and the empty level.
fn world() -> Vec<String> {
    let mut topics: Vec<String> = ["a", "b", ""].map(str::to_owned).to_vec();
    let mut longest = topics.clone();
    for _ in 1..4 {
        let longer = |topic: &String| ["a", "b", ""].map(|level| format!("{topic}/{level}"));
        longest = longest.iter().flat_map(longer).collect();
        topics.extend(longest.iter().cloned());
    }
    topics
}

fn filter() -> impl Strategy<Value = String> {
    let level = prop_oneof![Just("a"), Just("b"), Just("+"), Just("")];
    (proptest::collection::vec(level, 0..3), any::<bool>()).prop_map(|(mut levels, open)| {
        if open || levels.is_empty() {
            levels.push("#");
        }
        levels.join("/")
    })
}

proptest! {
    /// Filters here have at most three levels, so topics of four levels of two letters tell all of them apart.
    #[test]
    fn covers_and_overlaps_are_what_they_say(of_rule in filter(), wanted in filter()) {
        let of = client("c", None);
        let rule = Rule::new(&allow(&of_rule));
        let reached: Vec<String> = world().into_iter().filter(|topic| matches(&wanted, topic)).collect();
        prop_assert_eq!(
            rule.covers(&of, &wanted),
            reached.iter().all(|topic| matches(&of_rule, topic)),
            "{} covers {}", of_rule, wanted
        );
        prop_assert_eq!(
            rule.overlaps(&of, &wanted),
            reached.iter().any(|topic| matches(&of_rule, topic)),
            "{} overlaps {}", of_rule, wanted
        );
    }
}

#[test]
fn an_exact_rule_is_about_the_filter_as_written() {
    let of = client("c", None);
    let exact = AclRuleConfig {
        exact: true,
        ..deny("a/+")
    };
    let rules = rules(AclEffect::Allow, vec![exact]);
    assert!(!allows(&rules, &of, Action::Subscribe, "a/+"));
    assert!(!allows(&rules, &of, Action::Subscribe, "$share/s/a/+"));
    assert!(allows(&rules, &of, Action::Subscribe, "a/b"));
    assert!(allows(&rules, &of, Action::Subscribe, "#"));
    assert!(allows(&rules, &of, Action::Publish, "a/b"));
}
