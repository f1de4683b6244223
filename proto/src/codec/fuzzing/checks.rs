//! What is asserted of a packet.

use super::EVERY_VERSION;
use crate::codec::{Frame, OutboundPublish, Packet, ProtocolVersion, QoS, UserProperties};

/// The packet at the front of `bytes`.
pub(super) fn whole_frame<'a>(bytes: &'a [u8], packet: &Packet<'_>) -> Frame<'a> {
    match Frame::parse(bytes, u32::MAX) {
        Ok(Some(frame)) => frame,
        other => panic!("{packet:?} encodes to {bytes:02X?}, which is no frame: {other:?}"),
    }
}

/// Asserts that a frame is found as soon as its last byte is there, and that a limit is kept to the byte.
pub(super) fn assert_framed(bytes: &[u8], frame: Frame<'_>) {
    let size = frame.size;
    for length in (0..size.min(6)).chain([size - 1]) {
        assert_eq!(
            Frame::parse(&bytes[..length], u32::MAX),
            Ok(None),
            "{length} of {size} bytes"
        );
    }
    let size = u32::try_from(size).expect("a frame is shorter than 256 MiB");
    assert_eq!(Frame::parse(bytes, size), Ok(Some(frame)));
    assert!(
        Frame::parse(bytes, size - 1).is_err(),
        "a limit of {size} less one"
    );
    assert_eq!(Frame::needed(bytes), Some(frame.size));
}

/// Asserts what no decoded packet may lack, whatever the bytes were, and reads all that is read on demand.
pub(super) fn assert_sound(packet: &Packet<'_>) {
    let is_text = |text: &str| assert!(!text.contains('\0'), "U+0000 [MQTT-1.5.4-2]");
    let are_texts = |properties: UserProperties<'_>| {
        properties.iter().for_each(|(name, value)| {
            is_text(name);
            is_text(value);
        });
    };
    let forwards =
        |block: &[u8]| are_texts(UserProperties::from_block(block).expect("what is forwarded is checked"));
    match packet {
        Packet::Publish(publish) => {
            is_text(publish.topic);
            assert!(!publish.topic.contains(['+', '#']), "[MQTT-3.3.2-2]");
            assert!(!publish.topic.is_empty() || publish.topic_alias.is_some());
            assert!(publish.topic_alias != Some(0), "[MQTT-3.3.2-8]");
            assert_eq!(publish.packet_id.is_some(), publish.qos > QoS::AtMostOnce);
            assert!(!publish.dup || publish.qos > QoS::AtMostOnce, "[MQTT-3.3.1-2]");
            assert!(
                publish
                    .subscription_ids
                    .iter()
                    .all(|id| (1..=268_435_455).contains(&id))
            );
            forwards(&publish.forwardable);
            assert_outbound_is_the_same(packet);
        }
        Packet::Connect(connect) => {
            is_text(connect.client_id);
            are_texts(connect.user_properties);
            assert!(connect.receive_maximum > 0 && connect.maximum_packet_size != Some(0));
            assert!(
                connect.version == ProtocolVersion::V5
                    || connect.password.is_none()
                    || connect.user_name.is_some()
            );
            if let Some(will) = &connect.will {
                is_text(will.topic);
                forwards(&will.forwardable);
            }
        }
        Packet::Subscribe(subscribe) => {
            assert!(subscribe.requests.iter().next().is_some(), "[MQTT-3.8.3-2]");
            assert_eq!(subscribe.requests.iter().count(), subscribe.requests.len());
            subscribe.requests.iter().for_each(|(filter, _)| is_text(filter));
            assert_ne!(subscribe.subscription_id, Some(0));
        }
        Packet::Unsubscribe(unsubscribe) => {
            assert!(unsubscribe.filters.iter().next().is_some(), "[MQTT-3.10.3-2]");
            assert_eq!(unsubscribe.filters.iter().count(), unsubscribe.filters.len());
            unsubscribe.filters.iter().for_each(is_text);
        }
        Packet::Puback(ack) | Packet::Pubrec(ack) | Packet::Pubrel(ack) | Packet::Pubcomp(ack) => {
            ack.reason_string.into_iter().for_each(is_text);
            are_texts(ack.user_properties);
        }
        Packet::Suback(suback) => assert!(!suback.reasons.is_empty(), "[MQTT-3.8.4-6]"),
        _ => {}
    }
}

/// Asserts that the way out which a message takes, [`OutboundPublish`], writes what [`Publish`](super::Publish) does.
fn assert_outbound_is_the_same(packet: &Packet<'_>) {
    let Packet::Publish(publish) = packet else { return };
    let subscription_ids: Vec<u32> = publish.subscription_ids.iter().collect();
    let outbound = OutboundPublish {
        topic: publish.topic,
        payload: publish.payload,
        forwardable: &publish.forwardable,
        qos: publish.qos,
        dup: publish.dup,
        retain: publish.retain,
        packet_id: publish.packet_id,
        message_expiry_secs: publish.message_expiry_secs,
        topic_alias: publish.topic_alias,
        subscription_ids: &subscription_ids,
    };
    for version in EVERY_VERSION {
        let (mut bytes, mut expected) = (Vec::new(), Vec::new());
        outbound.encode(version, &mut bytes);
        publish.encode(version, &mut expected);
        assert_eq!(bytes, expected, "{publish:?} at {version:?}");
        assert_eq!(outbound.encoded_len(version), bytes.len());
    }
}

/// Asserts that the packet comes back from its own encoding.
pub(super) fn assert_survives(packet: &Packet<'_>, version: ProtocolVersion) {
    let mut bytes = Vec::new();
    packet.encode(version, &mut bytes);
    assert_eq!(
        packet.encoded_len(version),
        bytes.len(),
        "announced and written length of {packet:?}"
    );
    let frame = whole_frame(&bytes, packet);
    assert_eq!(frame.size, bytes.len(), "frame of {packet:?}");
    assert_eq!(
        Packet::decode(frame, version).as_ref(),
        Ok(packet),
        "decoded again at {version:?}"
    );
}

/// Asserts that what a packet becomes at the other versions is a packet there, of the same type and identifier.
pub(super) fn assert_lowers(packet: &Packet<'_>, version: ProtocolVersion) {
    let only_by_alias = matches!(packet, Packet::Publish(publish) if publish.topic.is_empty());
    if only_by_alias || matches!(packet, Packet::Auth(_) | Packet::Connect(_)) {
        return;
    }
    for lower in EVERY_VERSION.into_iter().filter(|lower| *lower < version) {
        let mut bytes = Vec::new();
        packet.encode(lower, &mut bytes);
        assert_eq!(packet.encoded_len(lower), bytes.len(), "{packet:?} at {lower:?}");
        let frame = whole_frame(&bytes, packet);
        match Packet::decode(frame, lower) {
            Ok(decoded) => assert_eq!(decoded.packet_type(), packet.packet_type()),
            Err(error) => panic!("{packet:?} at {lower:?} is {bytes:02X?}: {error}"),
        }
        assert_eq!(frame.size, bytes.len(), "{packet:?} at {lower:?}");
    }
}

/// Asserts that a packet made to fit a client's maximum fits it, if that is possible at all, and is still a packet.
pub(super) fn assert_shrinks(packet: &Packet<'_>, version: ProtocolVersion, maximum: usize) {
    let (Some(shrunk), Some(bare)) = (shrink(packet, version, maximum), bare(packet)) else {
        return;
    };
    let mut bytes = Vec::new();
    shrunk.encode(version, &mut bytes);
    assert!(
        bytes.len() <= maximum.max(bare.encoded_len(version)),
        "{shrunk:?} for {maximum} bytes"
    );
    let frame = whole_frame(&bytes, &shrunk);
    assert!(
        Packet::decode(frame, version).is_ok(),
        "{shrunk:?} for {maximum} bytes"
    );
    if packet.encoded_len(version) <= maximum {
        assert_eq!(&shrunk, packet, "it fits {maximum} bytes");
    }
}

/// The packet for a client that takes `maximum` bytes; `None` for types of which nothing can be left out.
fn shrink<'a>(packet: &Packet<'a>, version: ProtocolVersion, maximum: usize) -> Option<Packet<'a>> {
    let maximum = maximum as u32;
    Some(match packet.clone() {
        Packet::Connack(connack) => Packet::Connack(connack.shrink_to(version, maximum)),
        Packet::Puback(ack) => Packet::Puback(ack.shrink_to(version, maximum)),
        Packet::Pubrec(ack) => Packet::Pubrec(ack.shrink_to(version, maximum)),
        Packet::Pubrel(ack) => Packet::Pubrel(ack.shrink_to(version, maximum)),
        Packet::Pubcomp(ack) => Packet::Pubcomp(ack.shrink_to(version, maximum)),
        Packet::Suback(suback) => Packet::Suback(suback.shrink_to(version, maximum)),
        Packet::Unsuback(unsuback) => Packet::Unsuback(unsuback.shrink_to(version, maximum)),
        Packet::Disconnect(disconnect) => Packet::Disconnect(disconnect.shrink_to(version, maximum)),
        Packet::Auth(auth) => Packet::Auth(auth.shrink_to(version, maximum)),
        _ => return None,
    })
}

/// The packet without what can be left out.
fn bare<'a>(packet: &Packet<'a>) -> Option<Packet<'a>> {
    let mut bare = packet.clone();
    let (reason_string, user_properties) = match &mut bare {
        Packet::Connack(it) => (&mut it.reason_string, &mut it.user_properties),
        Packet::Puback(it) | Packet::Pubrec(it) | Packet::Pubrel(it) | Packet::Pubcomp(it) => {
            (&mut it.reason_string, &mut it.user_properties)
        }
        Packet::Suback(it) => (&mut it.reason_string, &mut it.user_properties),
        Packet::Unsuback(it) => (&mut it.reason_string, &mut it.user_properties),
        Packet::Disconnect(it) => (&mut it.reason_string, &mut it.user_properties),
        Packet::Auth(it) => (&mut it.reason_string, &mut it.user_properties),
        _ => return None,
    };
    (*reason_string, *user_properties) = (None, UserProperties::default());
    Some(bare)
}
