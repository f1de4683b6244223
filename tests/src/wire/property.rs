//! MQTT 5 properties, as a list in the order of the wire.

use super::incoming::Kind;
use super::{Reader, put_binary, put_variable};

/// The wire types of property values.
macro_rules! wire_types {
    ($($name:ident: $owned:ty, |$out:ident, $value:ident| $write:expr, |$reader:ident| $read:expr;)*) => {
        $(mod $name {
            use super::*;
            pub(super) type Owned = $owned;
            pub(super) fn write($out: &mut Vec<u8>, $value: &Owned) { $write }
            pub(super) fn read($reader: &mut Reader<'_>) -> Result<Owned, String> { $read }
        })*
    };
}

wire_types! {
    byte: u8, |out, value| out.push(*value), |reader| reader.byte();
    short: u16, |out, value| out.extend_from_slice(&value.to_be_bytes()), |reader| reader.short();
    long: u32, |out, value| out.extend_from_slice(&value.to_be_bytes()), |reader| reader.long();
    variable: u32, |out, value| put_variable(out, *value as usize), |reader| reader.variable();
    binary: Vec<u8>, |out, value| put_binary(out, value), |reader| reader.binary();
    text: String, |out, value| put_binary(out, value.as_bytes()), |reader| reader.text();
    pair: (String, String), |out, value| {
        put_binary(out, value.0.as_bytes());
        put_binary(out, value.1.as_bytes());
    }, |reader| Ok((reader.text()?, reader.text()?));
}

macro_rules! properties {
    ($($accessor:ident $variant:ident = $id:literal $wire:ident in [$($kind:ident)*];)*) => {
        /// One property. The table says in which packets a *server* may send it.
        #[derive(Clone, Debug, PartialEq, Eq)]
        #[allow(missing_docs)]
        pub enum Property {
            $($variant($wire::Owned),)*
            /// Bytes that stand where a property stands, for what must be refused.
            Raw(Vec<u8>),
        }

        impl Property {
            pub(crate) fn write(&self, out: &mut Vec<u8>) {
                match self {
                    $(Self::$variant(value) => {
                        out.push($id);
                        $wire::write(out, value);
                    })*
                    Self::Raw(bytes) => out.extend_from_slice(bytes),
                }
            }

            fn read(reader: &mut Reader<'_>, kind: Kind) -> Result<Self, String> {
                match reader.byte()? {
                    $($id => {
                        let allowed: &[Kind] = &[$(Kind::$kind),*];
                        if !allowed.contains(&kind) {
                            return Err(format!("property {} does not belong into {kind:?}", stringify!($variant)));
                        }
                        Ok(Self::$variant($wire::read(reader)?))
                    })*
                    id => Err(format!("there is no property 0x{id:02X}")),
                }
            }
        }

        impl Properties {
            $(
                #[doc = concat!("Value of the first ", stringify!($variant), ".")]
                pub fn $accessor(&self) -> Option<$wire::Owned> {
                    self.0.iter().find_map(|property| match property {
                        Property::$variant(value) => Some(value.clone()),
                        _ => None,
                    })
                }
            )*
        }
    };
}

properties! {
    payload_format PayloadFormat = 0x01 byte in [Publish];
    message_expiry MessageExpiry = 0x02 long in [Publish];
    content_type ContentType = 0x03 text in [Publish];
    response_topic ResponseTopic = 0x08 text in [Publish];
    correlation_data CorrelationData = 0x09 binary in [Publish];
    subscription_id SubscriptionId = 0x0B variable in [Publish];
    session_expiry SessionExpiry = 0x11 long in [Connack];
    assigned_client_id AssignedClientId = 0x12 text in [Connack];
    server_keep_alive ServerKeepAlive = 0x13 short in [Connack];
    auth_method AuthMethod = 0x15 text in [Connack Auth];
    auth_data AuthData = 0x16 binary in [Connack Auth];
    request_problem_information RequestProblemInformation = 0x17 byte in [];
    will_delay WillDelay = 0x18 long in [];
    request_response_information RequestResponseInformation = 0x19 byte in [];
    response_information ResponseInformation = 0x1A text in [Connack];
    server_reference ServerReference = 0x1C text in [Connack Disconnect];
    reason_string ReasonString = 0x1F text in [Connack Puback Pubrec Pubrel Pubcomp Suback Unsuback Disconnect Auth];
    receive_maximum ReceiveMaximum = 0x21 short in [Connack];
    topic_alias_maximum TopicAliasMaximum = 0x22 short in [Connack];
    topic_alias TopicAlias = 0x23 short in [Publish];
    maximum_qos MaximumQos = 0x24 byte in [Connack];
    retain_available RetainAvailable = 0x25 byte in [Connack];
    user User = 0x26 pair in [Connack Publish Puback Pubrec Pubrel Pubcomp Suback Unsuback Disconnect Auth];
    maximum_packet_size MaximumPacketSize = 0x27 long in [Connack];
    wildcard_available WildcardAvailable = 0x28 byte in [Connack];
    subscription_ids_available SubscriptionIdsAvailable = 0x29 byte in [Connack];
    shared_available SharedAvailable = 0x2A byte in [Connack];
}

impl Property {
    /// A user property.
    pub fn user(name: &str, value: &str) -> Self {
        Self::User((name.into(), value.into()))
    }

    const fn may_repeat(&self) -> bool {
        matches!(self, Self::User(_) | Self::SubscriptionId(_))
    }
}

/// The properties of a packet, in the order of the wire.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Properties(pub Vec<Property>);

impl Properties {
    /// All user properties, in order.
    pub fn users(&self) -> Vec<(String, String)> {
        let user = |property: &Property| match property {
            Property::User(pair) => Some(pair.clone()),
            _ => None,
        };
        self.0.iter().filter_map(user).collect()
    }

    /// All subscription identifiers, sorted: their order has no meaning [MQTT-3.3.4-4].
    pub fn subscription_ids(&self) -> Vec<u32> {
        let id = |property: &Property| match property {
            Property::SubscriptionId(id) => Some(*id),
            _ => None,
        };
        let mut ids: Vec<u32> = self.0.iter().filter_map(id).collect();
        ids.sort_unstable();
        ids
    }

    pub(crate) fn write(&self, out: &mut Vec<u8>) {
        let mut block = Vec::new();
        self.0.iter().for_each(|property| property.write(&mut block));
        put_variable(out, block.len());
        out.extend_from_slice(&block);
    }

    pub(crate) fn read(reader: &mut Reader<'_>, kind: Kind) -> Result<Self, String> {
        let length = reader.variable()?;
        let mut block = Reader {
            rest: reader.take(length as usize)?,
        };
        let mut properties = Vec::new();
        while !block.rest.is_empty() {
            let property = Property::read(&mut block, kind)?;
            let same = |other: &Property| std::mem::discriminant(other) == std::mem::discriminant(&property);
            if !property.may_repeat() && properties.iter().any(same) {
                return Err(format!("{property:?} stands twice in {kind:?}"));
            }
            properties.push(property);
        }
        Ok(Self(properties))
    }
}
