//! PUBACK leaves after the message is on disk, seen from below: in the system calls of the process.

use std::fs;
use std::path::Path;
use std::process::{Command, Stdio};

use quorate_tests::Version;
use quorate_tests::wire::{Encode, puback, publish};

use crate::start;
use crate::trace::{Call, calls};

/// Messages published, one after the other.
const MESSAGES: u16 = 20;

/// [MQTT-4.3.2-4]: between reading a PUBLISH and writing its PUBACK, the message is written to a log file and a
/// following fdatasync of that file returns.
#[tokio::test]
async fn sync_before_ack() {
    let has_strace = Command::new("strace").arg("-V").stdout(Stdio::null()).status();
    assert!(
        has_strace.is_ok(),
        "this test needs the program strace; install the package strace"
    );
    let directory = tempfile::tempdir().expect("a temporary directory");
    let trace = directory.path().join("trace");
    let mut broker = start(directory.path(), &traced(&trace));
    let mut subscriber = broker.durable(Version::V5, "offline").await;
    subscriber.subscribe("x", 1).await;
    subscriber.disconnect().await;

    let mut publisher = broker
        .raw_client(Version::V3_1_1, &quorate_tests::wire::connect("p"))
        .await;
    for id in 1..=MESSAGES {
        publisher.send(&publish("x", payload(id)).qos(1).id(id)).await;
        assert_eq!(publisher.expect_puback().await.id, id);
    }
    assert!(broker.stop().success());
    let text = fs::read_to_string(&trace).unwrap_or_else(|error| {
        panic!("no trace: {error}; is strace allowed, and QUORATE_BINARY, which would replace it, not set?")
    });
    let calls = calls(&text);
    let faults: Vec<String> = (1..=MESSAGES).filter_map(|id| check(&calls, id).err()).collect();
    assert!(faults.is_empty(), "{}", faults.join("\n"));
}

/// A payload that nothing else in the process looks like.
fn payload(id: u16) -> String {
    format!("<payload of the message {id}>")
}

/// The beginning of a command that runs under strace, as the same process.
fn traced(trace: &Path) -> String {
    format!(
        "strace -D -f -tt -xx -s 4096 -y -o '{}' -e \
         trace=fdatasync,fsync,read,recvfrom,readv,write,pwrite64,pwritev,writev,sendto,sendmsg",
        trace.display()
    )
}

/// Looks for PUBLISH, write, fdatasync and PUBACK of this message, in this order.
fn check(calls: &[Call], id: u16) -> Result<(), String> {
    let first = |what: &str, is_it: &dyn Fn(&Call) -> bool| {
        let found = calls.iter().find(|call| call.result >= 0 && is_it(call));
        found.ok_or(format!("message {id}: no {what} in the trace"))
    };
    let payload = payload(id);
    let holds_payload = |call: &Call| holds(&call.bytes, payload.as_bytes());
    let reads = ["read", "recvfrom", "readv"];
    let read = first("read of PUBLISH", &|call| {
        reads.contains(&&call.name[..]) && call.file.starts_with("socket:") && holds_payload(call)
    })?;
    let puback = puback(id).encode(Version::V3_1_1);
    let acknowledgement = first("write of PUBACK", &|call| {
        call.file == read.file
            && call.began > read.ended
            && !reads.contains(&&call.name[..])
            && call.bytes == puback
    })?;
    let logged = first("write of the message to a file", &|call| {
        call.file.starts_with('/') && call.began > read.ended && holds_payload(call)
    })?;
    let synced = first("fdatasync after the write", &|call| {
        call.name == "fdatasync" && call.file == logged.file && call.began > logged.ended
    })?;
    if synced.ended < acknowledgement.began {
        Ok(())
    } else {
        Err(format!(
            "message {id}: PUBACK was written before fdatasync had returned\n  {read:?}\n  {logged:?}\n  \
             {acknowledgement:?}\n  {synced:?}"
        ))
    }
}

fn holds(bytes: &[u8], part: &[u8]) -> bool {
    bytes.windows(part.len()).any(|window| window == part)
}

/// The check sees an acknowledgement before the sync, and a sync that began before the write.
#[test]
fn the_check_sees_an_early_acknowledgement() {
    let call = |name: &str, file: &str, bytes: &[u8], at: (usize, usize)| Call {
        name: name.into(),
        file: file.into(),
        bytes: bytes.into(),
        result: 0,
        began: at.0,
        ended: at.1,
    };
    let packet = publish("x", payload(1)).qos(1).id(1).encode(Version::V3_1_1);
    let trace = |sync: (usize, usize)| {
        [
            call("recvfrom", "socket:[1]", &packet, (0, 0)),
            call("pwrite64", "/log", &packet, (2, 3)),
            call("fdatasync", "/log", &[], sync),
            call("sendto", "socket:[1]", &[0x40, 2, 0, 1], (6, 6)),
        ]
    };
    assert_eq!(check(&trace((4, 5)), 1), Ok(()));
    assert!(check(&trace((4, 7)), 1).is_err());
    assert!(check(&trace((1, 5)), 1).is_err());
}
