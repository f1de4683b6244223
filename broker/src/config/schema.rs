//! The one declarative place of the configuration: [`section!`] and [`choice!`].
//!
//! A section states each field once, with meaning, default, unit, bounds and whether it can be reloaded. From that
//! come the struct, its defaults, parsing of every layer (file, environment, flags), bounds checks, the answer of
//! `quorate config defaults`, the reference page and the nearest-key suggestions. Nothing about a key is said twice.
//!
//! Invariant: [`Node::apply`] never stops at the first error; it reports and goes on, so that all come at once.

use toml::Spanned;
use toml::de::DeValue;

use super::report::Report;

/// When a change of a key takes effect.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Reload {
    /// On SIGHUP.
    Live,
    /// At the next start.
    Restart,
}

/// What values a key allows beyond its type.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Bounds {
    /// Whatever the type allows.
    Any,
    /// An integer from the first to the second, both included.
    Range(u64, u64),
    /// Text of this many bytes, both included.
    Length(usize, usize),
    /// Letters, digits, `.`, `_` and `-`, beginning with a letter or digit, 1 to 63 bytes.
    Name,
}

/// One value on its way into the configuration.
#[derive(Clone, Copy)]
pub(crate) enum Input<'a> {
    /// From the file.
    Toml(&'a Spanned<DeValue<'a>>),
    /// From the environment or a flag: the keys still to follow down, and the text.
    Text {
        /// Keys below the present one.
        rest: &'a [String],
        /// The value, to be read as the type of the key asks.
        text: &'a str,
    },
}

/// What the reference and the suggestions know of one key.
#[derive(Clone, Debug)]
pub(crate) struct Field {
    /// Key within its section.
    pub key: &'static str,
    /// Meaning.
    pub doc: &'static str,
    /// Unit, bounds and the like.
    pub traits: Traits,
    /// The value or the keys below.
    pub shape: Shape,
}

/// What a section declares of a key beside its meaning, type and default.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Traits {
    /// Unit of the value; empty where it has none.
    pub unit: &'static str,
    /// Values allowed beyond the type.
    pub bounds: Bounds,
    /// When a change takes effect.
    pub reload: Reload,
    /// Has to be given.
    pub required: bool,
}

/// What stands at a key.
#[derive(Clone, Debug)]
pub(crate) enum Shape {
    /// A value.
    Value {
        /// Type and bounds as an operator reads them.
        allowed: String,
        /// The default in TOML; `None` where the key is unset by default.
        default: Option<String>,
    },
    /// `[table]`.
    Table {
        /// Meaning of the table.
        doc: &'static str,
        /// Its keys.
        fields: Vec<Field>,
        /// Absent unless written.
        optional: bool,
    },
    /// `[[array of tables]]`.
    Array {
        /// Meaning of one item.
        doc: &'static str,
        /// Keys of one item.
        fields: Vec<Field>,
        /// The items there are by default, each with its values as defaults.
        items: Vec<Vec<Field>>,
    },
}

/// Whatever can stand at a key: a value, a table or an array of tables.
pub(crate) trait Node {
    /// Takes a value over, or reports why it cannot be.
    fn apply(&mut self, input: Input<'_>, bounds: Bounds, at: &str, report: &mut Report<'_>);

    /// What the reference says of it; `self` is the default.
    fn shape(&self, bounds: Bounds) -> Shape;
}

/// A table with a fixed set of keys; implemented by [`section!`] only.
pub(crate) trait Section: Clone + Default {
    /// Meaning of the table.
    const DOC: &'static str;

    /// The keys in the order declared, `self` being the defaults to show.
    fn fields(&self) -> Vec<Field>;

    /// Applies a value to one key; false where there is no such key.
    fn apply_field(&mut self, key: &str, input: Input<'_>, at: &str, report: &mut Report<'_>) -> bool;

    /// The item's `name`, by which the environment and flags address an item of an array.
    fn item_name(&self) -> Option<&str> {
        None
    }
}

/// Declares a section. One field reads
/// `/// meaning` then `key: Type = default, "unit", bounds, Reload[, required];`,
/// and a table within a section `key: Type = default;`.
macro_rules! section {
    (
        $(#[doc = $doc:literal])+
        pub struct $name:ident $(named by $item_name:ident)? {
            $(
                $(#[doc = $field_doc:literal])+
                $field:ident : $type:ty = $default:expr
                    $(, $unit:literal, $bounds:expr, $reload:ident $(, $required:ident)?)? ;
            )*
        }
    ) => {
        $(#[doc = $doc])+
        #[derive(Clone, Debug, PartialEq)]
        pub struct $name {
            $(
                $(#[doc = $field_doc])+
                $(#[doc = concat!("\n\nUnit: ", $unit, ".")])?
                pub $field: $type,
            )*
        }

        impl Default for $name {
            fn default() -> Self {
                Self { $($field: $default,)* }
            }
        }

        impl $crate::config::schema::Section for $name {
            const DOC: &'static str = concat!($($doc, "\n"),+);

            fn fields(&self) -> Vec<$crate::config::schema::Field> {
                vec![$($crate::config::schema::Field {
                    key: stringify!($field),
                    doc: concat!($($field_doc, "\n"),+),
                    shape: $crate::config::schema::Node::shape(
                        &self.$field,
                        $crate::config::schema::traits!($($unit, $bounds, $reload $(, $required)?)?).bounds,
                    ),
                    traits: $crate::config::schema::traits!($($unit, $bounds, $reload $(, $required)?)?),
                }),*]
            }

            fn apply_field(
                &mut self,
                key: &str,
                input: $crate::config::schema::Input<'_>,
                at: &str,
                report: &mut $crate::config::report::Report<'_>,
            ) -> bool {
                match key {
                    $(stringify!($field) => {
                        let traits = $crate::config::schema::traits!($($unit, $bounds, $reload $(, $required)?)?);
                        $crate::config::schema::Node::apply(&mut self.$field, input, traits.bounds, at, report);
                    })*
                    _ => return false,
                }
                true
            }

            $(
                fn item_name(&self) -> Option<&str> {
                    Some(&self.$item_name)
                }
            )?
        }

        impl $crate::config::schema::Node for $name {
            fn apply(
                &mut self,
                input: $crate::config::schema::Input<'_>,
                _: $crate::config::schema::Bounds,
                at: &str,
                report: &mut $crate::config::report::Report<'_>,
            ) {
                $crate::config::table::apply_section(self, input, at, report);
            }

            fn shape(&self, _: $crate::config::schema::Bounds) -> $crate::config::schema::Shape {
                use $crate::config::schema::{Section, Shape};
                Shape::Table { doc: Self::DOC, fields: self.fields(), optional: false }
            }
        }
    };
}

/// The [`Traits`] of one field; those of a table are empty.
macro_rules! traits {
    () => {
        $crate::config::schema::traits!("", Any, Restart)
    };
    ($unit:literal, $bounds:expr, $reload:ident) => {{
        #[allow(unused_imports, reason = "a bound can be any expression over the variants")]
        use $crate::config::schema::Bounds::*;
        $crate::config::schema::Traits {
            unit: $unit,
            bounds: $bounds,
            reload: $crate::config::schema::Reload::$reload,
            required: false,
        }
    }};
    ($unit:literal, $bounds:expr, $reload:ident, required) => {
        $crate::config::schema::Traits {
            required: true,
            ..$crate::config::schema::traits!($unit, $bounds, $reload)
        }
    };
}

/// Declares a value that is one of a few words.
macro_rules! choice {
    (
        $(#[$meta:meta])*
        pub enum $name:ident {
            $($(#[$variant_meta:meta])* $variant:ident = $word:literal,)+
        }
    ) => {
        $(#[$meta])*
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
        pub enum $name {
            $($(#[$variant_meta])* $variant,)+
        }

        impl $name {
            /// The word that stands for it in the configuration.
            pub const fn as_str(self) -> &'static str {
                match self {
                    $(Self::$variant => $word,)+
                }
            }
        }

        impl $crate::config::value::Scalar for $name {
            fn read(raw: $crate::config::value::Raw<'_>, _: $crate::config::schema::Bounds) -> Result<Self, String> {
                match raw.text()?.as_ref() {
                    $($word => Ok(Self::$variant),)+
                    other => Err(format!("{other:?} is not one of the words allowed here")),
                }
            }

            fn allowed(_: $crate::config::schema::Bounds) -> String {
                [$(concat!("`\"", $word, "\"`")),+].join(", ")
            }

            fn render(&self) -> Option<String> {
                Some(format!("{:?}", self.as_str()))
            }
        }

        $crate::config::value::scalar_node!($name);
    };
}

pub(crate) use {choice, section, traits};
