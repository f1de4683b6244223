//! What a client sends. Builders write what they are told, right or wrong; `flags` of [`fixed`] and
//! [`Property::Raw`] are for packets that must be refused.

use super::{Properties, Property, Version, put_binary, put_variable};

/// Something a client can send.
pub trait Encode {
    /// The bytes of the packet.
    fn encode(&self, version: Version) -> Vec<u8>;
}

impl Encode for quorate_proto::codec::Packet<'_> {
    fn encode(&self, version: Version) -> Vec<u8> {
        let mut out = Vec::new();
        Self::encode(self, version, &mut out);
        out
    }
}

impl Encode for [u8] {
    fn encode(&self, _: Version) -> Vec<u8> {
        self.to_vec()
    }
}

impl<const N: usize> Encode for [u8; N] {
    fn encode(&self, _: Version) -> Vec<u8> {
        self.to_vec()
    }
}

impl Encode for Vec<u8> {
    fn encode(&self, _: Version) -> Vec<u8> {
        self.clone()
    }
}

/// A packet of the given first byte and body, with the length between.
pub fn fixed(first_byte: u8, body: &[u8]) -> Vec<u8> {
    let mut out = vec![first_byte];
    put_variable(&mut out, body.len());
    out.extend_from_slice(body);
    out
}

/// Adds `property` and `properties` to a builder with a field `properties`.
macro_rules! with_properties {
    ($builder:ty) => {
        impl $builder {
            /// Adds a property; left out at 3.x.
            pub fn property(mut self, property: Property) -> Self {
                self.properties.0.push(property);
                self
            }
        }
    };
}

/// PUBLISH.
#[derive(Clone, Debug)]
pub struct PublishBuilder {
    topic: Vec<u8>,
    payload: Vec<u8>,
    pub(crate) qos: u8,
    pub(crate) id: Option<u16>,
    dup: bool,
    retain: bool,
    properties: Properties,
}

/// A PUBLISH of QoS 0.
pub fn publish(topic: &str, payload: impl AsRef<[u8]>) -> PublishBuilder {
    let payload = payload.as_ref().to_vec();
    let properties = Properties::default();
    PublishBuilder {
        topic: topic.into(),
        payload,
        qos: 0,
        id: None,
        dup: false,
        retain: false,
        properties,
    }
}

pub(super) use with_properties;

with_properties!(PublishBuilder);

impl PublishBuilder {
    /// Sets the QoS; the high-level client chooses the packet identifier.
    pub fn qos(mut self, qos: u8) -> Self {
        self.qos = qos;
        self
    }

    /// Sets the packet identifier.
    pub fn id(mut self, id: u16) -> Self {
        self.id = Some(id);
        self
    }

    /// Sets the DUP flag.
    pub fn dup(mut self) -> Self {
        self.dup = true;
        self
    }

    /// Sets the RETAIN flag.
    pub fn retain(mut self) -> Self {
        self.retain = true;
        self
    }

    /// Replaces the topic by bytes that need not be UTF-8.
    pub fn raw_topic(mut self, topic: &[u8]) -> Self {
        self.topic = topic.to_vec();
        self
    }
}

impl Encode for PublishBuilder {
    fn encode(&self, version: Version) -> Vec<u8> {
        let mut body = Vec::new();
        put_binary(&mut body, &self.topic);
        if let Some(id) = self.id {
            body.extend(id.to_be_bytes());
        }
        if version == Version::V5 {
            self.properties.write(&mut body);
        }
        body.extend_from_slice(&self.payload);
        fixed(
            0x30 | u8::from(self.dup) << 3 | self.qos << 1 | u8::from(self.retain),
            &body,
        )
    }
}

/// PUBACK, PUBREC, PUBREL or PUBCOMP.
#[derive(Clone, Debug)]
pub struct AckBuilder {
    first_byte: u8,
    id: u16,
    code: u8,
    properties: Properties,
}

with_properties!(AckBuilder);

macro_rules! acks {
    ($($name:ident = $first_byte:literal),*) => {
        $(#[doc = concat!("The packet ", stringify!($name), ", successful.")]
        pub fn $name(id: u16) -> AckBuilder {
            AckBuilder { first_byte: $first_byte, id, code: 0, properties: Properties::default() }
        })*
    };
}

acks!(puback = 0x40, pubrec = 0x50, pubrel = 0x62, pubcomp = 0x70);

impl AckBuilder {
    /// Sets the reason code.
    pub fn code(mut self, code: u8) -> Self {
        self.code = code;
        self
    }
}

impl Encode for AckBuilder {
    fn encode(&self, version: Version) -> Vec<u8> {
        let mut body = self.id.to_be_bytes().to_vec();
        if version == Version::V5 && (self.code != 0 || !self.properties.0.is_empty()) {
            body.push(self.code);
            self.properties.write(&mut body);
        }
        fixed(self.first_byte, &body)
    }
}

/// A topic filter with its options.
#[derive(Clone, Debug)]
pub struct Filter {
    filter: Vec<u8>,
    options: u8,
}

/// A topic filter of QoS 2.
pub fn filter(filter: &str) -> Filter {
    Filter {
        filter: filter.into(),
        options: 2,
    }
}

impl Filter {
    /// Replaces the filter by bytes that need not be UTF-8.
    pub fn raw(filter: &[u8]) -> Self {
        Self {
            filter: filter.to_vec(),
            options: 0,
        }
    }

    /// Sets the maximum QoS.
    pub fn qos(mut self, qos: u8) -> Self {
        self.options = self.options & !0b11 | qos;
        self
    }

    /// Sets No Local.
    pub fn no_local(mut self) -> Self {
        self.options |= 0b100;
        self
    }

    /// Sets Retain As Published.
    pub fn retain_as_published(mut self) -> Self {
        self.options |= 0b1000;
        self
    }

    /// Sets Retain Handling.
    pub fn retain_handling(mut self, handling: u8) -> Self {
        self.options |= handling << 4;
        self
    }

    /// Replaces the whole options byte.
    pub fn options(mut self, options: u8) -> Self {
        self.options = options;
        self
    }
}

/// SUBSCRIBE.
#[derive(Clone, Debug)]
pub struct SubscribeBuilder {
    pub(crate) id: u16,
    filters: Vec<Filter>,
    properties: Properties,
}

/// A SUBSCRIBE to these filters.
pub fn subscribe(id: u16, filters: impl IntoIterator<Item = Filter>) -> SubscribeBuilder {
    SubscribeBuilder {
        id,
        filters: filters.into_iter().collect(),
        properties: Properties::default(),
    }
}

with_properties!(SubscribeBuilder);

impl Encode for SubscribeBuilder {
    fn encode(&self, version: Version) -> Vec<u8> {
        let mut body = self.id.to_be_bytes().to_vec();
        if version == Version::V5 {
            self.properties.write(&mut body);
        }
        for filter in &self.filters {
            put_binary(&mut body, &filter.filter);
            body.push(filter.options);
        }
        fixed(0x82, &body)
    }
}

/// UNSUBSCRIBE.
#[derive(Clone, Debug)]
pub struct UnsubscribeBuilder {
    id: u16,
    filters: Vec<Vec<u8>>,
    properties: Properties,
}

/// An UNSUBSCRIBE from these filters.
pub fn unsubscribe<T: AsRef<[u8]>>(id: u16, filters: impl IntoIterator<Item = T>) -> UnsubscribeBuilder {
    let filters = filters
        .into_iter()
        .map(|filter| filter.as_ref().to_vec())
        .collect();
    UnsubscribeBuilder {
        id,
        filters,
        properties: Properties::default(),
    }
}

with_properties!(UnsubscribeBuilder);

impl Encode for UnsubscribeBuilder {
    fn encode(&self, version: Version) -> Vec<u8> {
        let mut body = self.id.to_be_bytes().to_vec();
        if version == Version::V5 {
            self.properties.write(&mut body);
        }
        self.filters
            .iter()
            .for_each(|filter| put_binary(&mut body, filter));
        fixed(0xA2, &body)
    }
}

/// DISCONNECT.
#[derive(Clone, Debug)]
pub struct DisconnectBuilder {
    code: u8,
    properties: Properties,
}

/// A normal DISCONNECT.
pub fn disconnect() -> DisconnectBuilder {
    DisconnectBuilder {
        code: 0,
        properties: Properties::default(),
    }
}

with_properties!(DisconnectBuilder);

impl DisconnectBuilder {
    /// Sets the reason code.
    pub fn code(mut self, code: u8) -> Self {
        self.code = code;
        self
    }
}

impl Encode for DisconnectBuilder {
    fn encode(&self, version: Version) -> Vec<u8> {
        let mut body = Vec::new();
        if version == Version::V5 && (self.code != 0 || !self.properties.0.is_empty()) {
            body.push(self.code);
            self.properties.write(&mut body);
        }
        fixed(0xE0, &body)
    }
}

/// AUTH.
#[derive(Clone, Debug)]
pub struct AuthBuilder {
    code: u8,
    properties: Properties,
}

/// An AUTH with this reason code.
pub fn auth(code: u8) -> AuthBuilder {
    AuthBuilder {
        code,
        properties: Properties::default(),
    }
}

with_properties!(AuthBuilder);

impl Encode for AuthBuilder {
    fn encode(&self, _: Version) -> Vec<u8> {
        let mut body = vec![self.code];
        self.properties.write(&mut body);
        fixed(0xF0, &body)
    }
}
