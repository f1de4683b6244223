//! The file `initialised`, beside the store: says that a store with content is expected, which one, and how new.
//!
//! sled drops what it cannot read at its end and goes on, and creates what is not there; either would start a node
//! with old or no state behind a log that was purged. The marker's sequence is raised after each change of the store
//! is synced, so a store with a lower one has lost something.
//!
//! Text, one `key=value` a line: `format=1`, `store=<16 hex>`, `sequence=<decimal>`, `checksum=<8 hex>` (CRC-32C of
//! the lines before).

use std::io;
use std::path::Path;

use crate::disk::{self, Disk};

const NAME: &str = "initialised";
const BYTES_MAX: usize = 4096;

/// What the marker says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Marker {
    pub(super) store: u64,
    pub(super) sequence: u64,
}

impl Marker {
    /// Replaces the marker; the directory is synced, with all changes of names before.
    pub(super) fn write(self, disk: &dyn Disk, dir: &Path) -> io::Result<()> {
        let mut text = format!(
            "format=1\nstore={:016x}\nsequence={}\n",
            self.store, self.sequence
        );
        let checksum = crc32c::crc32c(text.as_bytes());
        text.push_str(&format!("checksum={checksum:08x}\n"));
        disk::write_atomically(disk, dir, NAME, text.as_bytes())
    }

    /// Reads the marker: `None` where there is none, and within, `None` where it is damaged.
    pub(super) fn read(disk: &dyn Disk, dir: &Path) -> io::Result<Option<Option<Self>>> {
        let data = match disk::read_small(disk, &dir.join(NAME), BYTES_MAX) {
            Err(error) if error.kind() == io::ErrorKind::InvalidData => return Ok(Some(None)),
            other => other?,
        };
        Ok(data.map(|data| Self::parse(&data)))
    }

    fn parse(data: &[u8]) -> Option<Self> {
        let text = std::str::from_utf8(data).ok()?;
        let at = text.find("checksum=")?;
        let (body, end) = text.split_at(at);
        if end != format!("checksum={:08x}\n", crc32c::crc32c(body.as_bytes())) {
            return None;
        }
        let mut lines = body.lines();
        if lines.next()? != "format=1" {
            return None;
        }
        let store = u64::from_str_radix(lines.next()?.strip_prefix("store=")?, 16).ok()?;
        let sequence = lines.next()?.strip_prefix("sequence=")?.parse().ok()?;
        lines.next().is_none().then_some(Self { store, sequence })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::faulty::FaultyDisk;

    #[test]
    fn a_marker_is_read_back_and_damage_is_noticed() {
        let disk = FaultyDisk::new(1);
        let dir = Path::new("/");
        assert_eq!(Marker::read(&disk, dir).unwrap(), None);
        let marker = Marker {
            store: 0xab,
            sequence: 12,
        };
        marker.write(&disk, dir).unwrap();
        assert_eq!(Marker::read(&disk, dir).unwrap(), Some(Some(marker)));
        let size = disk.open(&dir.join(NAME)).unwrap().size().unwrap();
        for offset in 0..size {
            disk.flip_bit(&dir.join(NAME), offset, 0).unwrap();
            assert_eq!(Marker::read(&disk, dir).unwrap(), Some(None), "byte {offset}");
            disk.flip_bit(&dir.join(NAME), offset, 0).unwrap();
        }
    }
}
