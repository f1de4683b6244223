//! What packets say, drawn from a fuzzer's input.

use super::super::*;
use crate::fuzz_input::Input;

/// Lengths around those at which the length field of a packet or of its properties grows.
const LENGTHS_AT_THE_EDGE: [u16; 4] = [100, 127, 16_300, 16_383];

/// What the packets of one case say.
#[derive(Debug, Default)]
pub(in crate::codec) struct Content {
    /// Seven.
    pub(in crate::codec) texts: Vec<Option<String>>,
    /// Two.
    pub(in crate::codec) binaries: Vec<Option<Vec<u8>>>,
    /// Three.
    pub(in crate::codec) integers: Vec<Option<u32>>,
    /// Four, none of them 0.
    pub(in crate::codec) shorts: Vec<u16>,
    /// Eight.
    pub(in crate::codec) flags: Vec<bool>,
    pub(in crate::codec) qos: QoS,
    pub(in crate::codec) topic: String,
    pub(in crate::codec) payload: Vec<u8>,
    pub(in crate::codec) payload_is_utf8: Option<bool>,
    pub(in crate::codec) response_topic: Option<String>,
    pub(in crate::codec) content_type: Option<String>,
    pub(in crate::codec) correlation: Option<Vec<u8>>,
    pub(in crate::codec) subscription_ids: Vec<u32>,
    pub(in crate::codec) user_properties: Vec<(String, String)>,
    /// At least one.
    pub(in crate::codec) requests: Vec<(String, SubscriptionOptions)>,
    /// At least one.
    pub(in crate::codec) filters: Vec<String>,
    /// Indexes into the codes that a SUBACK may carry, at least one; out of range they wrap around.
    pub(in crate::codec) suback_picks: Vec<u8>,
    /// The same of an UNSUBACK.
    pub(in crate::codec) unsuback_picks: Vec<u8>,
    pub(in crate::codec) pick: usize,
}

impl Content {
    /// What the input says.
    pub(super) fn draw(input: &mut Input<'_>) -> Self {
        let options = |input: &mut Input<'_>| SubscriptionOptions {
            qos: qos(input),
            no_local: input.flag(),
            retain_as_published: input.flag(),
            retain_handling: input.pick(&[
                RetainHandling::Send,
                RetainHandling::SendIfNew,
                RetainHandling::DoNotSend,
            ]),
        };
        Self {
            texts: many(7, || input.flag().then(|| text(input))),
            binaries: many(2, || input.flag().then(|| binary(input))),
            integers: many(3, || input.flag().then(|| integer(input))),
            shorts: many(4, || input.u16().max(1)),
            flags: many(8, || input.flag()),
            qos: qos(input),
            topic: topic(input),
            payload: binary(input),
            payload_is_utf8: input.flag().then(|| input.flag()),
            response_topic: input.flag().then(|| topic(input)),
            content_type: input.flag().then(|| text(input)),
            correlation: input.flag().then(|| binary(input)),
            subscription_ids: many(input.below(4), || input.u32() % 268_435_455 + 1),
            user_properties: many(input.below(4), || (text(input), text(input))),
            requests: many(input.below(4) + 1, || (text(input), options(input))),
            filters: many(input.below(4) + 1, || text(input)),
            suback_picks: many(input.below(4) + 1, || input.byte()),
            unsuback_picks: many(input.below(4) + 1, || input.byte()),
            pick: usize::from(input.byte()),
        }
    }
}

fn many<T>(count: u8, mut draw: impl FnMut() -> T) -> Vec<T> {
    (0..count).map(|_| draw()).collect()
}

/// Mostly small, for what depends on a default.
fn integer(input: &mut Input<'_>) -> u32 {
    if input.rarely() {
        input.u32()
    } else {
        u32::from(input.byte())
    }
}

fn qos(input: &mut Input<'_>) -> QoS {
    input.pick(&[QoS::AtMostOnce, QoS::AtLeastOnce, QoS::ExactlyOnce])
}

/// Mostly short, now and then as long as is interesting.
fn binary(input: &mut Input<'_>) -> Vec<u8> {
    if input.rarely() {
        let length = input.pick(&LENGTHS_AT_THE_EDGE) + u16::from(input.below(32));
        return vec![input.byte(); usize::from(length)];
    }
    let length = usize::from(input.below(12));
    input.take(length).to_vec()
}

fn text(input: &mut Input<'_>) -> String {
    String::from_utf8_lossy(&binary(input)).replace('\0', "")
}

fn topic(input: &mut Input<'_>) -> String {
    let topic = text(input).replace(['+', '#'], "");
    if topic.is_empty() { "t".into() } else { topic }
}
