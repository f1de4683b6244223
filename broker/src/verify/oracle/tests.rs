//! The oracle as a whole: each thing that a broker may do wrong, and what it may do.

use super::*;

const RUN: u64 = 42;

fn millis(millis: u64) -> Duration {
    Duration::from_millis(millis)
}

fn oracle() -> Oracle {
    Oracle::new(RUN, 1_000)
}

fn payload(source: Source, number: u64) -> Vec<u8> {
    let mut payload = Vec::new();
    let message = Message {
        run: RUN,
        source,
        number,
    };
    message.encode(64, &mut payload);
    payload
}

fn arrive_as(oracle: &mut Oracle, reader: Reader, source: Source, number: u64, qos: QoS) {
    let arrived = Arrived {
        topic: &source.topic(RUN),
        payload: &payload(source, number),
        qos,
        is_dup: false,
        connection: 1,
    };
    oracle.arrive(reader, &arrived);
}

fn arrive(oracle: &mut Oracle, reader: Reader, source: Source, number: u64) {
    let qos = match source {
        Source::Will(_) => Oracle::will_qos(number),
        source => oracle.qos(source),
    };
    arrive_as(oracle, reader, source, number, qos);
}

fn send_and_acknowledge(oracle: &mut Oracle, source: Source, count: u64) {
    for _ in 0..count {
        let number = oracle.send(source);
        oracle.acknowledge(source, number, millis(0), millis(1));
    }
}

fn violations(oracle: &Oracle) -> Vec<(&'static str, u64)> {
    oracle.figures().violations().collect()
}

#[test]
fn what_all_got_is_held() {
    let mut oracle = oracle();
    let stream = oracle.add_stream(QoS::ExactlyOnce, [0, 1]);
    send_and_acknowledge(&mut oracle, stream, 3);
    assert_eq!(oracle.outstanding(), 6);
    for number in 1..=3 {
        arrive(&mut oracle, Reader::Stream(0), stream, number);
        arrive(&mut oracle, Reader::Stream(1), stream, number);
    }
    let figures = oracle.figures();
    assert_eq!((figures.acknowledged, figures.delivered, figures.sent), (3, 6, 3));
    assert_eq!((violations(&oracle), oracle.outstanding()), (vec![], 0));
    assert_eq!(oracle.describe_violations(), Vec::<String>::new());
}

#[test]
fn loss_doubling_and_disorder_are_seen() {
    let mut oracle = oracle();
    let stream = oracle.add_stream(QoS::ExactlyOnce, [0]);
    send_and_acknowledge(&mut oracle, stream, 4);
    for number in [1, 4, 2, 2] {
        arrive(&mut oracle, Reader::Stream(0), stream, number);
    }
    let expected = [("lost", 1), ("duplicates_qos2", 1), ("order_violations", 1)];
    assert_eq!(violations(&oracle), expected);
    assert_eq!(oracle.describe_violations().len(), 3);
}

#[test]
fn at_qos_1_what_comes_again_is_counted_but_allowed() {
    let mut oracle = oracle();
    let stream = oracle.add_stream(QoS::AtLeastOnce, [0]);
    send_and_acknowledge(&mut oracle, stream, 2);
    for number in [1, 2, 1, 2] {
        arrive(&mut oracle, Reader::Stream(0), stream, number);
    }
    assert_eq!(
        (violations(&oracle), oracle.figures().duplicates_qos1),
        (vec![], 2)
    );
}

#[test]
fn a_refused_message_may_come_or_not() {
    let mut oracle = oracle();
    let stream = oracle.add_stream(QoS::ExactlyOnce, [0]);
    for _ in 0..2 {
        oracle.send(stream);
        oracle.refuse(stream, ReasonCode::QUOTA_EXCEEDED);
    }
    arrive(&mut oracle, Reader::Stream(0), stream, 2);
    let figures = oracle.figures();
    assert_eq!((violations(&oracle), oracle.outstanding()), (vec![], 0));
    assert_eq!(figures.refused_by_reason["0x97"], 2);
    assert_eq!((figures.refused, figures.acknowledged), (2, 0));
}

#[test]
fn a_message_of_unknown_fate_may_come_once() {
    let mut oracle = oracle();
    let stream = oracle.add_stream(QoS::ExactlyOnce, [0]);
    for number in [oracle.send(stream), oracle.send(stream)] {
        oracle.give_up(stream, number);
    }
    arrive(&mut oracle, Reader::Stream(0), stream, 2);
    assert_eq!((violations(&oracle), oracle.figures().unknown), (vec![], 2));
    arrive(&mut oracle, Reader::Stream(0), stream, 2);
    assert_eq!(violations(&oracle), [("duplicates_qos2", 1)]);
}

#[test]
fn what_nobody_sent_there_is_corrupted() {
    let mut oracle = oracle();
    let streams = [
        oracle.add_stream(QoS::AtLeastOnce, [0]),
        oracle.add_stream(QoS::AtLeastOnce, [1]),
    ];
    let shared = oracle.add_shared(1, QoS::AtLeastOnce);
    send_and_acknowledge(&mut oracle, streams[0], 1);
    send_and_acknowledge(&mut oracle, shared, 1);
    arrive(&mut oracle, Reader::Stream(0), streams[0], 1);
    arrive(&mut oracle, Reader::Shared { group: 1 }, shared, 1);
    assert_eq!(violations(&oracle), []);

    arrive(&mut oracle, Reader::Stream(0), streams[0], 2);
    arrive(&mut oracle, Reader::Stream(0), streams[0], 0);
    arrive(&mut oracle, Reader::Stream(1), streams[0], 1);
    arrive(&mut oracle, Reader::Shared { group: 0 }, shared, 1);
    arrive(&mut oracle, Reader::Wills, shared, 1);
    let swapped = Arrived {
        topic: &streams[1].topic(RUN),
        payload: &payload(streams[0], 1),
        qos: QoS::AtLeastOnce,
        is_dup: false,
        connection: 1,
    };
    oracle.arrive(Reader::Stream(0), &swapped);
    oracle.arrive(
        Reader::Stream(0),
        &Arrived {
            payload: b"something else",
            ..swapped
        },
    );
    assert_eq!(violations(&oracle), [("corrupted", 7)]);
}

#[test]
fn another_qos_than_published_is_an_error() {
    let mut oracle = oracle();
    let stream = oracle.add_stream(QoS::ExactlyOnce, [0]);
    send_and_acknowledge(&mut oracle, stream, 1);
    arrive_as(&mut oracle, Reader::Stream(0), stream, 1, QoS::AtLeastOnce);
    assert_eq!(violations(&oracle), [("protocol_errors", 1)]);
}

#[test]
fn a_shared_message_reaches_one_member_once() {
    let mut oracle = oracle();
    let (one, two) = (
        oracle.add_shared(0, QoS::AtLeastOnce),
        oracle.add_shared(0, QoS::ExactlyOnce),
    );
    let reader = Reader::Shared { group: 0 };
    for source in [one, two] {
        send_and_acknowledge(&mut oracle, source, 2);
        arrive(&mut oracle, reader, source, 2);
        arrive(&mut oracle, reader, source, 2);
    }
    assert_eq!(
        violations(&oracle),
        [("shared_lost", 2), ("shared_duplicates_qos2", 1)]
    );
    assert_eq!(oracle.figures().shared_duplicates_qos1, 1);
    arrive(&mut oracle, reader, one, 1);
    arrive(&mut oracle, reader, two, 1);
    assert_eq!(violations(&oracle), [("shared_duplicates_qos2", 1)]);
}

#[test]
fn a_reader_gets_the_newest_value_that_was_acknowledged() {
    let mut oracle = oracle();
    let topic = oracle.add_retained();
    assert_eq!(oracle.retained_floor(0), None);
    send_and_acknowledge(&mut oracle, topic, 2);
    oracle.send(topic);
    assert_eq!(oracle.retained_floor(0), Some(2));
    let mut look = |number, retain| {
        let arrived = Arrived {
            topic: &topic.topic(RUN),
            payload: &payload(topic, number),
            qos: QoS::AtLeastOnce,
            is_dup: false,
            connection: 1,
        };
        oracle.judge_read(0, 2, &arrived, retain)
    };
    assert_eq!(look(2, true), Look::Fresh);
    assert_eq!(look(3, true), Look::Fresh);
    assert_eq!(look(1, false), Look::Nothing);
    assert_eq!(look(1, true), Look::Stale);
    assert_eq!(look(4, true), Look::Nothing, "nobody sent it");
    oracle.read_in_vain(0, 2);
    assert_eq!(violations(&oracle), [("stale_retained", 2), ("corrupted", 1)]);
    assert_eq!(oracle.figures().retained_reads, 4);
}

#[test]
fn wills_come_as_their_clients_left() {
    let mut oracle = oracle();
    let source = oracle.add_will_client();
    for fate in [Fate::Due, Fate::Never, Fate::Due, Fate::Due] {
        let number = oracle.begin_will(0).unwrap();
        oracle.settle_will(0, number, fate);
    }
    for number in [1, 1, 2, 4] {
        arrive(&mut oracle, Reader::Wills, source, number);
    }
    assert_eq!(
        violations(&oracle),
        [("wills_missing", 1), ("wills_doubled", 1), ("wills_unwanted", 1)]
    );
    assert_eq!(oracle.describe_violations().len(), 3);
    assert_eq!(oracle.outstanding(), 1);
}

#[test]
fn publishers_wait_while_a_subscriber_misses_too_much() {
    let mut oracle = Oracle::new(RUN, 2);
    let streams = [
        oracle.add_stream(QoS::AtLeastOnce, [0]),
        oracle.add_stream(QoS::AtLeastOnce, [0, 1]),
        oracle.add_stream(QoS::AtLeastOnce, [1]),
    ];
    send_and_acknowledge(&mut oracle, streams[0], 1);
    send_and_acknowledge(&mut oracle, streams[1], 1);
    let may_send = |oracle: &Oracle| streams.map(|stream| oracle.may_send(stream));
    assert_eq!(may_send(&oracle), [false, false, true]);
    arrive(&mut oracle, Reader::Stream(0), streams[0], 1);
    assert_eq!(may_send(&oracle), [true, true, true]);
}

#[test]
fn the_longest_wait_is_of_the_main_stream() {
    let mut oracle = oracle();
    let stream = oracle.add_stream(QoS::AtLeastOnce, [0]);
    let retained = oracle.add_retained();
    let number = oracle.send(retained);
    oracle.acknowledge(retained, number, millis(0), millis(900));
    let number = oracle.send(stream);
    oracle.acknowledge(stream, number, millis(100), millis(140));
    oracle.wait(millis(150), millis(180));
    let figures = oracle.figures();
    assert_eq!((figures.longest_wait_ms, figures.longest_wait_at_ms), (40, 100));
}

#[test]
fn a_lost_session_is_a_violation() {
    let mut oracle = oracle();
    oracle.session_lost("c");
    assert_eq!(violations(&oracle), [("sessions_lost", 1)]);
}
