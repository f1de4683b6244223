//! What the unit tests of several modules need.

mod simulation;

use std::time::Duration;

use quorate_proto::codec::{ProtocolVersion, QoS};

use super::options::{Fault, Options};

/// A run as the command line gives it without arguments, but short.
pub(super) fn options() -> Options {
    Options {
        targets: vec!["127.0.0.1:1883".to_owned()],
        duration: Duration::from_secs(1),
        qos: vec![QoS::AtLeastOnce, QoS::ExactlyOnce],
        publishers: 8,
        subscribers: 4,
        fan_out: false,
        payload_bytes: 128,
        in_flight: 50,
        rate: None,
        backlog: 5_000,
        retained: 4,
        wills: 4,
        shared: 1,
        faults: Vec::new(),
        version: ProtocolVersion::V5,
        user: None,
        password: None,
        admin: Vec::new(),
        seed: 1,
        setup_wait: Duration::from_secs(1),
        drain_wait: Duration::from_secs(1),
        quiet_time: Duration::ZERO,
        silence: Duration::from_secs(1),
    }
}

#[test]
fn options_that_contradict_each_other_are_refused() {
    assert_eq!(options().check(), Ok(()));
    let late = Fault {
        at: Duration::from_secs(1),
        command: "true".to_owned(),
    };
    let options_with = |change: &dyn Fn(&mut Options)| {
        let mut changed = options();
        change(&mut changed);
        changed.check()
    };
    assert!(options_with(&|options| options.faults.push(late.clone())).is_err());
    assert!(options_with(&|options| options.password = Some(Vec::new())).is_err());
}

#[test]
fn large_messages_may_not_fill_a_queue() {
    let backlog = |payload_bytes| {
        Options {
            payload_bytes,
            ..options()
        }
        .backlog_max()
    };
    assert_eq!(backlog(128), 5_000);
    assert_eq!(backlog(1 << 20), 32);
    assert_eq!(backlog(1 << 28), 1);
}
