//! A published message as the router, the queues and the log hold it: one contiguous allocation, cheap to share.

use bytes::Bytes;

use crate::codec::{Publish, QoS};

/// A published message. Cloning shares the bytes.
///
/// Layout of `data`: topic, then forwardable properties, then payload.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Message {
    data: Bytes,
    topic_len: u16,
    properties_len: u32,
    /// Quality of service it was published with.
    pub qos: QoS,
    /// The publisher's RETAIN flag.
    pub retain: bool,
    /// Message expiry interval the publisher gave, in seconds.
    pub expiry_secs: Option<u32>,
}

impl Message {
    /// Joins the parts of a message; `forwardable` is an encoded MQTT 5 property block (see [`Publish::forwardable`]).
    ///
    /// `topic` must be at most 65,535 bytes, as every topic from the wire is.
    pub fn new(
        topic: &str,
        forwardable: &[u8],
        payload: &[u8],
        qos: QoS,
        retain: bool,
        expiry_secs: Option<u32>,
    ) -> Self {
        let mut data = Vec::with_capacity(topic.len() + forwardable.len() + payload.len());
        data.extend_from_slice(topic.as_bytes());
        data.extend_from_slice(forwardable);
        data.extend_from_slice(payload);
        Self::from_parts(
            data.into(),
            topic.len(),
            forwardable.len(),
            qos,
            retain,
            expiry_secs,
        )
        .expect("parts of a message add up")
    }

    /// Copies a decoded PUBLISH whose topic (its alias resolved) is `topic`.
    pub fn from_publish(publish: &Publish<'_>, topic: &str) -> Self {
        Self::new(
            topic,
            &publish.forwardable,
            publish.payload,
            publish.qos,
            publish.retain,
            publish.message_expiry_secs,
        )
    }

    /// Takes a joined buffer back apart; `None` where the lengths do not fit it or the topic is not UTF-8.
    pub fn from_parts(
        data: Bytes,
        topic_len: usize,
        properties_len: usize,
        qos: QoS,
        retain: bool,
        expiry_secs: Option<u32>,
    ) -> Option<Self> {
        if topic_len.checked_add(properties_len)? > data.len()
            || std::str::from_utf8(&data[..topic_len]).is_err()
        {
            return None;
        }
        Some(Self {
            topic_len: u16::try_from(topic_len).ok()?,
            properties_len: u32::try_from(properties_len).ok()?,
            data,
            qos,
            retain,
            expiry_secs,
        })
    }

    /// Topic name.
    pub fn topic(&self) -> &str {
        std::str::from_utf8(&self.data[..self.topic_len as usize]).expect("checked when the message was made")
    }

    /// Encoded MQTT 5 properties a subscriber gets unaltered.
    pub fn forwardable(&self) -> &[u8] {
        &self.data[self.topic_len as usize..][..self.properties_len as usize]
    }

    /// Payload.
    pub fn payload(&self) -> &[u8] {
        &self.data[self.topic_len as usize + self.properties_len as usize..]
    }

    /// Topic, properties and payload in one piece, as [`Message::from_parts`] takes them.
    pub fn data(&self) -> &Bytes {
        &self.data
    }

    /// Bytes that queues and limits count for this message.
    pub fn size(&self) -> usize {
        self.data.len() + std::mem::size_of::<Self>()
    }
}
