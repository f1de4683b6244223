//! Packets of usual sizes, both ways.

use std::borrow::Cow;
use std::fmt;
use std::hint::black_box;

use divan::Bencher;
use quorate_proto::codec::{
    Connect, Frame, OutboundPublish, Packet, PacketId, ProtocolVersion, QoS, Subscribe, SubscriptionOptions,
    SubscriptionRequests, UserProperties, Will,
};

use crate::SAMPLE;

pub(crate) const TOPIC: &str = "fleet/17/device/4711/telemetry";

/// A packet as it comes off the wire.
#[derive(Clone, Copy)]
enum Case {
    /// QoS 1, 64 bytes of payload, no properties.
    Publish,
    /// QoS 1, 1,024 bytes of payload, no properties.
    PublishLarge,
    /// QoS 1, 64 bytes of payload; content type, correlation data and two user properties.
    PublishProperties,
    /// Four filters.
    Subscribe,
    /// User name, password and a will.
    Connect,
}

/// A case at a version.
#[derive(Clone, Copy)]
struct Sample(Case, ProtocolVersion);

impl fmt::Display for Sample {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let case = match self.0 {
            Case::Publish => "PUBLISH 64 B",
            Case::PublishLarge => "PUBLISH 1 KiB",
            Case::PublishProperties => "PUBLISH 64 B with properties",
            Case::Subscribe => "SUBSCRIBE 4 filters",
            Case::Connect => "CONNECT with will",
        };
        let version = match self.1 {
            ProtocolVersion::V3_1 => "3.1",
            ProtocolVersion::V3_1_1 => "3.1.1",
            ProtocolVersion::V5 => "5",
        };
        write!(formatter, "{case}, {version}")
    }
}

const SAMPLES: [Sample; 9] = [
    Sample(Case::Publish, ProtocolVersion::V3_1_1),
    Sample(Case::Publish, ProtocolVersion::V5),
    Sample(Case::PublishLarge, ProtocolVersion::V3_1_1),
    Sample(Case::PublishLarge, ProtocolVersion::V5),
    Sample(Case::PublishProperties, ProtocolVersion::V5),
    Sample(Case::Subscribe, ProtocolVersion::V3_1_1),
    Sample(Case::Subscribe, ProtocolVersion::V5),
    Sample(Case::Connect, ProtocolVersion::V3_1_1),
    Sample(Case::Connect, ProtocolVersion::V5),
];

/// The bytes of a PUBLISH to [`TOPIC`].
pub(crate) fn publish_bytes(
    version: ProtocolVersion,
    qos: QoS,
    packet_id: Option<PacketId>,
    forwardable: &[u8],
    payload: &[u8],
) -> Vec<u8> {
    let mut bytes = Vec::new();
    let publish = OutboundPublish {
        topic: TOPIC,
        payload,
        forwardable,
        qos,
        dup: false,
        retain: false,
        packet_id,
        message_expiry_secs: None,
        topic_alias: None,
        subscription_ids: &[],
    };
    publish.encode(version, &mut bytes);
    bytes
}

/// Content type, correlation data and two user properties, as a property block.
fn properties() -> Vec<u8> {
    let mut block = b"\x03\x00\x10application/json\x09\x00\x08\x01\x02\x03\x04\x05\x06\x07\x08".to_vec();
    UserProperties::encode_into(
        [("site", "hamburg"), ("trace", "00-4bf92f3577b34da6")],
        &mut block,
    );
    block
}

fn connect(version: ProtocolVersion) -> Connect<'static> {
    Connect {
        keep_alive_secs: 60,
        user_name: Some("device-4711"),
        password: Some(b"correct horse battery staple"),
        will: Some(Will {
            forwardable: Cow::Borrowed(&[]),
            ..Will::new("fleet/17/device/4711/status", b"offline", QoS::AtLeastOnce, true)
        }),
        session_expiry_secs: Some(3600),
        ..Connect::new(version, "fleet-17-device-4711")
    }
}

/// The bytes of a SUBSCRIBE with four filters.
fn subscribe_bytes(version: ProtocolVersion) -> Vec<u8> {
    let filters = [
        "fleet/17/device/4711/command/#",
        "fleet/17/broadcast/+",
        "fleet/all/broadcast/+",
        "$share/workers/fleet/+/device/+/telemetry",
    ];
    let options = SubscriptionOptions::new(QoS::AtLeastOnce);
    let (mut payload, mut bytes) = (Vec::new(), Vec::new());
    SubscriptionRequests::encode_into(filters.map(|filter| (filter, options)), &mut payload);
    let subscribe = Subscribe {
        packet_id: PacketId::MIN,
        subscription_id: None,
        user_properties: UserProperties::default(),
        requests: SubscriptionRequests::from_payload(&payload).expect("valid filters"),
    };
    subscribe.encode(version, &mut bytes);
    bytes
}

impl Sample {
    fn bytes(self) -> Vec<u8> {
        let Self(case, version) = self;
        let publish = |forwardable: &[u8], payload: &[u8]| {
            publish_bytes(
                version,
                QoS::AtLeastOnce,
                Some(PacketId::MIN),
                forwardable,
                payload,
            )
        };
        match case {
            Case::Publish => publish(&[], &[7; 64]),
            Case::PublishLarge => publish(&[], &[7; 1024]),
            Case::PublishProperties => publish(&properties(), &[7; 64]),
            Case::Subscribe => subscribe_bytes(version),
            Case::Connect => {
                let mut bytes = Vec::new();
                connect(version).encode(version, &mut bytes);
                bytes
            }
        }
    }
}

fn decode_packet(bytes: &[u8], version: ProtocolVersion) -> Packet<'_> {
    let frame = Frame::parse(bytes, u32::MAX)
        .ok()
        .flatten()
        .expect("a whole frame");
    Packet::decode(frame, version).expect("a valid packet")
}

/// The frame and the packet in it; the lists of a SUBSCRIBE are walked as well.
#[divan::bench(args = SAMPLES, sample_size = SAMPLE)]
fn decode(bencher: Bencher<'_, '_>, sample: Sample) {
    let bytes = sample.bytes();
    bencher.bench_local(|| match black_box(&decode_packet(black_box(&bytes), sample.1)) {
        Packet::Subscribe(subscribe) => subscribe.requests.iter().count(),
        _ => 0,
    });
}

/// Into a buffer that has room.
#[divan::bench(args = SAMPLES, sample_size = SAMPLE)]
fn encode(bencher: Bencher<'_, '_>, sample: Sample) {
    let bytes = sample.bytes();
    let packet = decode_packet(&bytes, sample.1);
    let mut out = Vec::with_capacity(4096);
    bencher.bench_local(|| {
        out.clear();
        black_box(&packet).encode(sample.1, &mut out);
        black_box(out.as_ptr());
    });
}

/// As a message is written to a subscriber.
#[divan::bench(args = [ProtocolVersion::V3_1_1, ProtocolVersion::V5], sample_size = SAMPLE)]
fn encode_outbound_publish(bencher: Bencher<'_, '_>, version: ProtocolVersion) {
    let publish = OutboundPublish {
        topic: TOPIC,
        payload: &[7; 64],
        forwardable: &[],
        qos: QoS::AtLeastOnce,
        dup: false,
        retain: false,
        packet_id: Some(PacketId::MIN),
        message_expiry_secs: None,
        topic_alias: None,
        subscription_ids: &[],
    };
    let mut out = Vec::with_capacity(4096);
    bencher.bench_local(|| {
        out.clear();
        black_box(&publish).encode(version, &mut out);
        black_box(out.as_ptr());
    });
}
