//! Small text files: one `name=value` a line, the last line `checksum=<CRC-32C of all before, 8 hex digits>`.

use std::fmt::Display;

/// Longest file.
pub(super) const BYTES_MAX: usize = 4096;

/// The lines of a file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Fields(Vec<(String, String)>);

impl Fields {
    pub(super) fn new(format: u32) -> Self {
        let mut fields = Self(Vec::new());
        fields.set("format", format);
        fields
    }

    pub(super) fn set(&mut self, name: &str, value: impl Display) {
        self.0.retain(|(field, _)| field != name);
        self.0.push((name.to_owned(), value.to_string()));
    }

    /// Takes out all fields whose names begin so.
    pub(super) fn remove(&mut self, prefix: &str) {
        self.0.retain(|(name, _)| !name.starts_with(prefix));
    }

    pub(super) fn encode(&self) -> Vec<u8> {
        let mut text: String = self
            .0
            .iter()
            .map(|(name, value)| format!("{name}={value}\n"))
            .collect();
        let checksum = crc32c::crc32c(text.as_bytes());
        text.push_str(&format!("checksum={checksum:08x}\n"));
        text.into_bytes()
    }

    /// Reads a file; `None` where it is damaged.
    pub(super) fn parse(data: &[u8]) -> Option<Self> {
        let text = std::str::from_utf8(data).ok()?;
        let (body, end) = text.split_at(text.rfind("checksum=")?);
        if end != format!("checksum={:08x}\n", crc32c::crc32c(body.as_bytes())) {
            return None;
        }
        let line = |line: &str| {
            line.split_once('=')
                .map(|(name, value)| (name.to_owned(), value.to_owned()))
        };
        body.lines().map(line).collect::<Option<_>>().map(Self)
    }

    pub(super) fn text(&self, name: &str) -> Option<&str> {
        self.0
            .iter()
            .find(|(field, _)| field == name)
            .map(|(_, value)| value.as_str())
    }

    pub(super) fn number(&self, name: &str) -> Option<u64> {
        self.text(name)?.parse().ok()
    }

    /// A number of 16 bytes in hexadecimal.
    pub(super) fn id(&self, name: &str) -> Option<[u8; 16]> {
        let text = self.text(name)?;
        if text.len() != 32 || !text.bytes().all(|byte| byte.is_ascii_hexdigit()) {
            return None;
        }
        u128::from_str_radix(text, 16).ok().map(u128::to_be_bytes)
    }
}
