//! MQTT 5 properties that packets lend out in encoded form: user properties and subscription identifiers.
//!
//! Both are views of a checked property block; iterating skips whatever else stands in it. Two views are equal when
//! they say the same, wherever they stand.

use super::DecodeError;
use super::primitive::{Reader, VARIABLE_MAX};
use super::property::PropertyId;
use super::sink::Sink;

const UNKNOWN: DecodeError = DecodeError::malformed("property identifier is not known [MQTT5 2.2.2.2]");
const ID_OUT_OF_RANGE: DecodeError =
    DecodeError::protocol_error("subscription identifier is 0 [MQTT5 3.3.2.3.8]");

/// User properties, in order, borrowed in encoded form.
#[derive(Clone, Copy, Default)]
pub struct UserProperties<'a> {
    /// The property block they stand in (other properties in it are skipped when iterating).
    pub(crate) block: &'a [u8],
}

impl<'a> UserProperties<'a> {
    /// The user properties in a property block (without its length), for instance in
    /// [`Publish::forwardable`](super::Publish::forwardable) or as [`UserProperties::encode_into`] wrote it.
    ///
    /// # Errors
    ///
    /// 0x81 when the block is not a run of whole, well-formed properties.
    pub fn from_block(block: &'a [u8]) -> Result<Self, DecodeError> {
        check_block(block)?;
        Ok(Self { block })
    }

    /// A block that has been checked.
    pub(super) const fn from_checked(block: &'a [u8]) -> Self {
        Self { block }
    }

    /// Appends the pairs to a block for [`UserProperties::from_block`].
    pub fn encode_into<'b>(pairs: impl IntoIterator<Item = (&'b str, &'b str)>, block: &mut Vec<u8>) {
        for (name, value) in pairs {
            block.put_u8(PropertyId::UserProperty as u8);
            block.put_string(name);
            block.put_string(value);
        }
    }

    /// The (name, value) pairs in order; a name may stand more than once [MQTT5 1.5.7].
    pub fn iter(&self) -> UserPropertiesIter<'a> {
        UserPropertiesIter {
            entries: Entries::new(self.block),
        }
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.raw().next().is_none()
    }

    /// The pairs as they stand on the wire, each without its identifier.
    fn raw(&self) -> impl Iterator<Item = &'a [u8]> + use<'a> {
        Entries::new(self.block).values_of(PropertyId::UserProperty)
    }

    pub(super) fn put<S: Sink>(&self, sink: &mut S) {
        for pair in self.raw() {
            sink.put_u8(PropertyId::UserProperty as u8);
            sink.put(pair);
        }
    }
}

impl PartialEq for UserProperties<'_> {
    fn eq(&self, other: &Self) -> bool {
        self.raw().eq(other.raw())
    }
}

impl Eq for UserProperties<'_> {}

impl std::fmt::Debug for UserProperties<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_list().entries(self.iter()).finish()
    }
}

impl<'a> IntoIterator for UserProperties<'a> {
    type Item = (&'a str, &'a str);
    type IntoIter = UserPropertiesIter<'a>;

    fn into_iter(self) -> Self::IntoIter {
        self.iter()
    }
}

/// Iterates over [`UserProperties`].
#[derive(Clone)]
pub struct UserPropertiesIter<'a> {
    entries: Entries<'a>,
}

impl<'a> Iterator for UserPropertiesIter<'a> {
    type Item = (&'a str, &'a str);

    fn next(&mut self) -> Option<Self::Item> {
        let pair = self.entries.next_of(PropertyId::UserProperty)?;
        let mut reader = Reader::new(pair);
        Some((reader.string().ok()?, reader.string().ok()?))
    }
}

/// The subscription identifiers of a PUBLISH, borrowed in encoded form.
#[derive(Clone, Copy, Default)]
pub struct SubscriptionIds<'a> {
    /// The property block they stand in.
    pub(crate) block: &'a [u8],
}

impl<'a> SubscriptionIds<'a> {
    /// The subscription identifiers in a property block (without its length), as [`SubscriptionIds::encode_into`]
    /// wrote it.
    ///
    /// # Errors
    ///
    /// 0x81 when the block is not a run of whole, well-formed properties; 0x82 for an identifier of 0.
    pub fn from_block(block: &'a [u8]) -> Result<Self, DecodeError> {
        check_block(block)?;
        let ids = Self { block };
        if ids.iter().any(|id| id == 0) {
            Err(ID_OUT_OF_RANGE)
        } else {
            Ok(ids)
        }
    }

    /// A block that has been checked.
    pub(super) const fn from_checked(block: &'a [u8]) -> Self {
        Self { block }
    }

    /// Appends the identifiers, each 1 to 268,435,455, to a block for [`SubscriptionIds::from_block`].
    pub fn encode_into(ids: impl IntoIterator<Item = u32>, block: &mut Vec<u8>) {
        for id in ids {
            debug_assert!(
                (1..=VARIABLE_MAX).contains(&id),
                "subscription identifier {id} is out of range"
            );
            block.put_u8(PropertyId::SubscriptionIdentifier as u8);
            block.put_variable(id);
        }
    }

    /// The identifiers in order; the same one may stand more than once [MQTT5 3.3.2.3.8].
    pub fn iter(&self) -> SubscriptionIdsIter<'a> {
        SubscriptionIdsIter {
            entries: Entries::new(self.block),
        }
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.iter().next().is_none()
    }

    pub(super) fn put<S: Sink>(&self, sink: &mut S) {
        for id in self.iter() {
            sink.property_variable(PropertyId::SubscriptionIdentifier, Some(id));
        }
    }
}

impl PartialEq for SubscriptionIds<'_> {
    fn eq(&self, other: &Self) -> bool {
        self.iter().eq(other.iter())
    }
}

impl Eq for SubscriptionIds<'_> {}

impl std::fmt::Debug for SubscriptionIds<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_list().entries(self.iter()).finish()
    }
}

impl<'a> IntoIterator for SubscriptionIds<'a> {
    type Item = u32;
    type IntoIter = SubscriptionIdsIter<'a>;

    fn into_iter(self) -> Self::IntoIter {
        self.iter()
    }
}

/// Iterates over [`SubscriptionIds`].
#[derive(Clone)]
pub struct SubscriptionIdsIter<'a> {
    entries: Entries<'a>,
}

impl Iterator for SubscriptionIdsIter<'_> {
    type Item = u32;

    fn next(&mut self) -> Option<u32> {
        let value = self.entries.next_of(PropertyId::SubscriptionIdentifier)?;
        Reader::new(value).variable().ok()
    }
}

/// The properties of a block one by one. The block has been checked; would it end in a broken property nevertheless,
/// the iteration ends before it.
#[derive(Clone)]
struct Entries<'a> {
    reader: Reader<'a>,
}

impl<'a> Entries<'a> {
    const fn new(block: &'a [u8]) -> Self {
        Self {
            reader: Reader::new(block),
        }
    }

    /// The encoded value of the next property with this identifier.
    fn next_of(&mut self, wanted: PropertyId) -> Option<&'a [u8]> {
        while !self.reader.is_empty() {
            let id = PropertyId::from_byte(self.reader.u8().ok()?)?;
            let value = self.reader.rest();
            id.skip_value(&mut self.reader).ok()?;
            if id == wanted {
                return value.get(..value.len() - self.reader.rest().len());
            }
        }
        None
    }

    fn values_of(mut self, wanted: PropertyId) -> impl Iterator<Item = &'a [u8]> + use<'a> {
        std::iter::from_fn(move || self.next_of(wanted))
    }
}

fn check_block(block: &[u8]) -> Result<(), DecodeError> {
    let mut reader = Reader::new(block);
    while !reader.is_empty() {
        let id = PropertyId::from_byte(reader.u8()?).ok_or(UNKNOWN)?;
        id.skip_value(&mut reader)?;
    }
    Ok(())
}
