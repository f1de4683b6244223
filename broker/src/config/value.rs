//! Values of the configuration: how each type is read from TOML, from the text of a variable or flag, and shown.
//!
//! A type that can stand at a key implements [`Scalar`] and is made a [`Node`] by `scalar_node!`; tables and arrays of
//! tables are in [`super::table`].

use std::borrow::Cow;
use std::net::SocketAddr;
use std::path::PathBuf;

use toml::de::DeValue;

use super::report::Report;
use super::schema::{Bounds, Input, Shape};

/// A value before its type is known.
#[derive(Clone, Copy)]
pub(crate) enum Raw<'a> {
    /// Typed by TOML.
    Toml(&'a DeValue<'a>),
    /// From the environment or a flag: any type.
    Untyped(&'a str),
}

impl<'a> Raw<'a> {
    /// The value as text.
    pub(super) fn text(self) -> Result<Cow<'a, str>, String> {
        match self {
            Self::Toml(DeValue::String(text)) => Ok(Cow::Borrowed(text.as_ref())),
            Self::Toml(other) => Err(self.wrong_type(other, "text in quotes")),
            Self::Untyped(text) => Ok(Cow::Borrowed(text)),
        }
    }

    fn integer(self) -> Result<i128, String> {
        match self {
            Self::Toml(DeValue::Integer(integer)) => i128::from_str_radix(integer.as_str(), integer.radix())
                .map_err(|_| format!("{} is out of bounds", integer.as_str())),
            Self::Toml(other) => Err(self.wrong_type(other, "an integer")),
            Self::Untyped(text) => text
                .trim()
                .replace('_', "")
                .parse()
                .map_err(|_| format!("{text:?} is not an integer")),
        }
    }

    fn boolean(self) -> Result<bool, String> {
        match self {
            Self::Toml(DeValue::Boolean(value)) => Ok(*value),
            Self::Toml(other) => Err(self.wrong_type(other, "true or false")),
            Self::Untyped("true") => Ok(true),
            Self::Untyped("false") => Ok(false),
            Self::Untyped(text) => Err(format!("{text:?} is neither true nor false")),
        }
    }

    fn list(self) -> Result<Vec<Raw<'a>>, String> {
        match self {
            Self::Toml(DeValue::Array(items)) => {
                Ok(items.iter().map(|item| Raw::Toml(item.get_ref())).collect())
            }
            Self::Toml(other) => Err(self.wrong_type(other, "a list in square brackets")),
            Self::Untyped(text) => {
                let items = text.split(',').map(str::trim).filter(|item| !item.is_empty());
                Ok(items.map(Raw::Untyped).collect())
            }
        }
    }

    fn wrong_type(self, found: &DeValue<'_>, expected: &str) -> String {
        format!("is of type {} where {expected} is expected", found.type_str())
    }
}

/// A single value.
pub(crate) trait Scalar: Sized {
    /// Reads it; the error says what is wrong.
    fn read(raw: Raw<'_>, bounds: Bounds) -> Result<Self, String>;

    /// Type and bounds as an operator reads them, in Markdown.
    fn allowed(bounds: Bounds) -> String;

    /// The value in TOML; `None` where unset.
    fn render(&self) -> Option<String>;
}

/// Makes scalars nodes. A blanket implementation would overlap with the one for arrays of tables.
macro_rules! scalar_node {
    ($($type:ty),+ $(,)?) => {
        $(impl $crate::config::schema::Node for $type {
            fn apply(
                &mut self,
                input: $crate::config::schema::Input<'_>,
                bounds: $crate::config::schema::Bounds,
                at: &str,
                report: &mut $crate::config::report::Report<'_>,
            ) {
                $crate::config::value::apply_scalar(self, input, bounds, at, report);
            }

            fn shape(&self, bounds: $crate::config::schema::Bounds) -> $crate::config::schema::Shape {
                $crate::config::value::scalar_shape(self, bounds)
            }
        }

        impl $crate::config::schema::Node for Option<$type> {
            fn apply(
                &mut self,
                input: $crate::config::schema::Input<'_>,
                bounds: $crate::config::schema::Bounds,
                at: &str,
                report: &mut $crate::config::report::Report<'_>,
            ) {
                $crate::config::value::apply_scalar(self, input, bounds, at, report);
            }

            fn shape(&self, bounds: $crate::config::schema::Bounds) -> $crate::config::schema::Shape {
                $crate::config::value::scalar_shape(self, bounds)
            }
        })+
    };
}

pub(crate) use scalar_node;

pub(super) fn apply_scalar<T: Scalar>(
    target: &mut T,
    input: Input<'_>,
    bounds: Bounds,
    at: &str,
    report: &mut Report<'_>,
) {
    let (raw, offset) = match input {
        Input::Toml(value) => (Raw::Toml(value.get_ref()), Some(value.span().start)),
        Input::Text { rest: [], text } => (Raw::Untyped(text), None),
        Input::Text { rest, .. } => {
            return report.error(
                None,
                at,
                format!("is a value, there is no {} below it", rest.join(".")),
                "",
            );
        }
    };
    match T::read(raw, bounds) {
        Ok(value) => {
            *target = value;
            report.was_set(at, offset);
        }
        Err(problem) => report.error(offset, at, problem, T::allowed(bounds).replace('`', "")),
    }
}

pub(super) fn scalar_shape<T: Scalar>(default: &T, bounds: Bounds) -> Shape {
    Shape::Value {
        allowed: T::allowed(bounds),
        default: default.render(),
    }
}

impl<T: Scalar> Scalar for Option<T> {
    fn read(raw: Raw<'_>, bounds: Bounds) -> Result<Self, String> {
        T::read(raw, bounds).map(Some)
    }

    fn allowed(bounds: Bounds) -> String {
        T::allowed(bounds)
    }

    fn render(&self) -> Option<String> {
        self.as_ref().and_then(Scalar::render)
    }
}

macro_rules! integers {
    ($($type:ty),+) => {
        $(impl Scalar for $type {
            fn read(raw: Raw<'_>, bounds: Bounds) -> Result<Self, String> {
                let value = raw.integer()?;
                let (min, max) = range::<Self>(bounds);
                if value < i128::from(min) {
                    return Err(format!("{value} is too small"));
                }
                match Self::try_from(value) {
                    Ok(small) if value <= i128::from(max) => Ok(small),
                    _ => Err(format!("{value} is too large")),
                }
            }

            fn allowed(bounds: Bounds) -> String {
                let (min, max) = range::<Self>(bounds);
                format!("integer from {min} to {max}")
            }

            fn render(&self) -> Option<String> {
                Some(self.to_string())
            }
        })+
        scalar_node!($($type),+);
    };
}

integers!(u8, u16, u32, u64, usize);

/// Bounds of an integer; TOML integers end at `i64::MAX`, so no bound is above.
fn range<T>(bounds: Bounds) -> (u64, u64) {
    let bits = 8 * size_of::<T>() as u32;
    let type_max = if bits >= 64 {
        i64::MAX as u64
    } else {
        (1 << bits) - 1
    };
    match bounds {
        Bounds::Range(min, max) => (min, max.min(type_max)),
        _ => (0, type_max),
    }
}

impl Scalar for bool {
    fn read(raw: Raw<'_>, _: Bounds) -> Result<Self, String> {
        raw.boolean()
    }

    fn allowed(_: Bounds) -> String {
        "`true` or `false`".to_owned()
    }

    fn render(&self) -> Option<String> {
        Some(self.to_string())
    }
}

impl Scalar for String {
    fn read(raw: Raw<'_>, bounds: Bounds) -> Result<Self, String> {
        let text = raw.text()?.into_owned();
        match bounds {
            Bounds::Length(min, _) if text.len() < min => Err(format!("{text:?} is too short")),
            Bounds::Length(_, max) if text.len() > max => Err(format!("is too long ({} bytes)", text.len())),
            Bounds::Name if !is_name(&text) => Err(format!("{text:?} is not a name")),
            _ => Ok(text),
        }
    }

    fn allowed(bounds: Bounds) -> String {
        match bounds {
            Bounds::Length(min, max) => format!("text of {min} to {max} bytes"),
            Bounds::Name => {
                "1 to 63 letters, digits, `.`, `_` and `-`, beginning with a letter or digit".to_owned()
            }
            Bounds::Any | Bounds::Range(..) => "text".to_owned(),
        }
    }

    fn render(&self) -> Option<String> {
        Some(quote(self))
    }
}

fn is_name(text: &str) -> bool {
    let inner = |byte: u8| byte.is_ascii_alphanumeric() || b"._-".contains(&byte);
    text.len() <= 63
        && text
            .bytes()
            .next()
            .is_some_and(|byte| byte.is_ascii_alphanumeric())
        && text.bytes().all(inner)
}

/// Text as a TOML string.
pub(super) fn quote(text: &str) -> String {
    toml::Value::String(text.to_owned()).to_string()
}

impl Scalar for PathBuf {
    fn read(raw: Raw<'_>, _: Bounds) -> Result<Self, String> {
        let text = raw.text()?;
        if text.is_empty() {
            Err("is empty".to_owned())
        } else {
            Ok(Self::from(text.as_ref()))
        }
    }

    fn allowed(_: Bounds) -> String {
        "path of a file or directory".to_owned()
    }

    fn render(&self) -> Option<String> {
        Some(quote(&self.to_string_lossy()))
    }
}

impl Scalar for SocketAddr {
    fn read(raw: Raw<'_>, _: Bounds) -> Result<Self, String> {
        let text = raw.text()?;
        text.parse().map_err(|_| format!("{text:?} is not an address"))
    }

    fn allowed(_: Bounds) -> String {
        "IP address and port, such as `127.0.0.1:1883`, `0.0.0.0:1883` or `[::]:1883`".to_owned()
    }

    fn render(&self) -> Option<String> {
        Some(quote(&self.to_string()))
    }
}

/// A host name or IP address and a port, resolved when it is used.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct HostPort(String);

impl HostPort {
    /// `host:port`, as [`std::net::ToSocketAddrs`] takes it.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl Scalar for HostPort {
    fn read(raw: Raw<'_>, _: Bounds) -> Result<Self, String> {
        let text = raw.text()?;
        let fits = text.rsplit_once(':').is_some_and(|(host, port)| {
            let bare = host.strip_prefix('[').and_then(|host| host.strip_suffix(']'));
            let host_fits = match bare {
                Some(address) => address.parse::<std::net::Ipv6Addr>().is_ok(),
                None => {
                    let allowed = |byte: u8| byte.is_ascii_alphanumeric() || b".-_".contains(&byte);
                    !host.is_empty() && host.len() <= 253 && host.bytes().all(allowed)
                }
            };
            host_fits && port.parse::<u16>().is_ok_and(|port| port > 0)
        });
        if fits {
            Ok(Self(text.into_owned()))
        } else {
            Err(format!("{text:?} is not host:port"))
        }
    }

    fn allowed(_: Bounds) -> String {
        "host name or IP address and port, such as `node2.example:7946`".to_owned()
    }

    fn render(&self) -> Option<String> {
        Some(quote(&self.0))
    }
}

impl Scalar for Vec<HostPort> {
    fn read(raw: Raw<'_>, bounds: Bounds) -> Result<Self, String> {
        raw.list()?
            .into_iter()
            .map(|item| HostPort::read(item, bounds))
            .collect()
    }

    fn allowed(bounds: Bounds) -> String {
        format!("list of: {}", HostPort::allowed(bounds))
    }

    fn render(&self) -> Option<String> {
        let items: Vec<String> = self.iter().filter_map(Scalar::render).collect();
        Some(format!("[{}]", items.join(", ")))
    }
}

/// Text that no log line, error or page shows.
#[derive(Clone, PartialEq, Eq)]
pub struct Secret(String);

impl Secret {
    /// The text.
    pub fn expose(&self) -> &str {
        &self.0
    }
}

impl From<String> for Secret {
    fn from(text: String) -> Self {
        Self(text)
    }
}

impl std::fmt::Debug for Secret {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Secret(..)")
    }
}

impl Scalar for Secret {
    fn read(raw: Raw<'_>, _: Bounds) -> Result<Self, String> {
        raw.text().map(|text| Self(text.into_owned()))
    }

    fn allowed(_: Bounds) -> String {
        "`SCRAM-SHA-256$iterations:salt$stored-key:server-key`, as `quorate config hash-password` prints it"
            .to_owned()
    }

    fn render(&self) -> Option<String> {
        Some(quote(&self.0))
    }
}

scalar_node!(bool, String, PathBuf, SocketAddr, HostPort, Vec<HostPort>, Secret);
