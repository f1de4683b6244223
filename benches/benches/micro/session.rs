//! One connection's session: a publish that comes in until its last acknowledgement is written, a message that goes out
//! until its last acknowledgement is read. The host answers at once; nothing is queued.

use std::hint::black_box;
use std::sync::Arc;

use divan::Bencher;
use quorate_proto::codec::{Connect, Frame, Packet, PacketId, ProtocolVersion, QoS};
use quorate_proto::message::Message;
use quorate_proto::session::{
    Action, Connection, ConnectionSettings, Decision, DeliverResult, Delivery, Instant, Opened,
    PublishOutcome,
};

use crate::SAMPLE;
use crate::codec::{TOPIC, publish_bytes};

const NOW: Instant = Instant(1_000);
const PAYLOAD: [u8; 64] = [7; 64];
const QUALITIES: [QoS; 3] = [QoS::AtMostOnce, QoS::AtLeastOnce, QoS::ExactlyOnce];
const VERSION: ProtocolVersion = ProtocolVersion::V3_1_1;

fn frame(bytes: &[u8]) -> Frame<'_> {
    Frame::parse(bytes, u32::MAX)
        .ok()
        .flatten()
        .expect("a whole frame")
}

/// A connection behind its CONNACK, of a session that ends with it.
fn connected() -> Connection {
    let mut connection = Connection::new(Arc::new(ConnectionSettings::default()), NOW);
    let (mut bytes, mut out) = (Vec::new(), Vec::new());
    Packet::Connect(Connect::new(VERSION, "fleet-17-device-4711")).encode(VERSION, &mut bytes);
    let asks = connection
        .handle_frame(frame(&bytes), NOW, &mut out)
        .expect("CONNECT");
    assert!(matches!(asks, Action::Authenticate(_)));
    let accept = Decision::Accept {
        data: None,
        assigned_client_id: None,
    };
    connection
        .handle_authenticated(accept, NOW, &mut out)
        .expect("accepted");
    connection
        .handle_opened(Opened::default(), NOW, &mut out)
        .expect("CONNACK");
    assert!(connection.is_connected());
    connection
}

/// PUBLISH in; at QoS 1 PUBACK out; at QoS 2 PUBREC out, PUBREL in, PUBCOMP out.
#[divan::bench(args = QUALITIES, sample_size = SAMPLE)]
fn publish(bencher: Bencher<'_, '_>, qos: QoS) {
    let mut connection = connected();
    let packet_id = (qos > QoS::AtMostOnce).then_some(PacketId::MIN);
    let bytes = publish_bytes(VERSION, qos, packet_id, &[], &PAYLOAD);
    let pubrel = [0x62, 2, 0, 1];
    let mut out = Vec::with_capacity(4096);
    bencher.bench_local(|| {
        out.clear();
        let action = connection.handle_frame(frame(black_box(&bytes)), NOW, &mut out);
        let Ok(Action::Publish(request)) = action else {
            panic!("a publish is handed on");
        };
        black_box(&request);
        if let Some(token) = request.token {
            let accepted = PublishOutcome::Accepted { matched: true };
            connection
                .handle_publish_outcome(token, accepted, &mut out)
                .expect("acknowledged");
        }
        if qos == QoS::ExactlyOnce {
            let action = connection.handle_frame(frame(&pubrel), NOW, &mut out);
            if let Ok(Action::Release { packet_id }) = action {
                connection.handle_released(packet_id, true, &mut out);
            }
        }
        debug_assert_eq!(out.len(), 4 * qos as usize);
    });
}

/// PUBLISH out; at QoS 1 PUBACK in; at QoS 2 PUBREC in, PUBREL out, PUBCOMP in.
#[divan::bench(args = QUALITIES, sample_size = SAMPLE)]
fn deliver(bencher: Bencher<'_, '_>, qos: QoS) {
    let mut connection = connected();
    let message = Message::new(TOPIC, &[], &PAYLOAD, qos, false, None);
    let mut out = Vec::with_capacity(4096);
    // Behind the fixed header of two bytes and the topic with its length.
    let id_at = 2 + 2 + TOPIC.len();
    bencher.bench_local(|| {
        out.clear();
        let delivery = Delivery::of(black_box(&message), qos);
        let result = connection.deliver(&delivery, &mut || message.clone(), NOW, &mut out);
        assert_eq!(result, DeliverResult::Sent);
        let acknowledgements: &[u8] = match qos {
            QoS::AtMostOnce => &[],
            QoS::AtLeastOnce => &[0x40],
            QoS::ExactlyOnce => &[0x50, 0x70],
        };
        for first_byte in acknowledgements {
            let bytes = [*first_byte, 2, out[id_at], out[id_at + 1]];
            let action = connection.handle_frame(frame(&bytes), NOW, &mut out);
            black_box(action.is_ok());
        }
        debug_assert_eq!(connection.in_flight(), 0);
    });
}
