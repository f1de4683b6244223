//! Every packet comes back from its encoding, at every version, as far as the version knows it.

use proptest::prelude::*;

use super::samples::parts;
use super::*;
use crate::fuzz_input::cases;

proptest! {
    #![proptest_config(ProptestConfig::with_cases(cases(256)))]

    #[test]
    fn a_packet_arrives_as_it_was_sent(parts in parts()) {
        for version in EVERY_VERSION {
            for (sent, arrives) in parts.packets(version) {
                let bytes = encode(&sent, version);
                prop_assert_eq!(sent.encoded_len(version), bytes.len(), "{:?}", sent);
                prop_assert_eq!(decode(&bytes, version), Ok(arrives), "{:?} from {:02X?}", version, bytes);
            }
        }
    }

    #[test]
    fn a_stream_of_packets_arrives_in_order(parts in parts()) {
        for version in EVERY_VERSION {
            let mut stream = Vec::new();
            let packets = parts.packets(version);
            for (sent, _) in &packets {
                sent.encode(version, &mut stream);
            }
            let mut rest = &stream[..];
            for (_, arrives) in &packets {
                let frame = Frame::parse(rest, u32::MAX).unwrap().unwrap();
                prop_assert_eq!(frame.packet_type, arrives.packet_type());
                prop_assert_eq!(&Packet::decode(frame, version).unwrap(), arrives);
                rest = &rest[frame.size..];
            }
            prop_assert!(rest.is_empty());
        }
    }

    #[test]
    fn outbound_publish_writes_what_publish_writes(parts in parts()) {
        for version in EVERY_VERSION {
            for (sent, _) in parts.packets(version) {
                let Packet::Publish(publish) = sent else { continue };
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
                    subscription_ids: parts.subscription_ids(),
                };
                let mut bytes = Vec::new();
                outbound.encode(version, &mut bytes);
                prop_assert_eq!(outbound.encoded_len(version), bytes.len());
                prop_assert_eq!(bytes, encode(&Packet::Publish(publish), version));
            }
        }
    }

    #[test]
    fn what_is_forwarded_is_borrowed_from_between_the_rest(parts in parts()) {
        // An order the encoder would not choose: what is forwarded stands between what is not.
        let properties = [&hex("02 00000007")[..], parts.forwardable(), &hex("23 0001")].concat();
        let body = [text("t"), block(&properties), parts.payload().to_vec()].concat();
        let bytes = packet(0x30, &body);
        let decoded = decode(&bytes, V5);
        let Ok(Packet::Publish(publish)) = &decoded else { panic!("{decoded:?}") };
        prop_assert_eq!(&publish.forwardable[..], parts.forwardable());
        prop_assert!(matches!(publish.forwardable, std::borrow::Cow::Borrowed(_)));
        prop_assert_eq!(publish.payload, parts.payload());
    }
}
