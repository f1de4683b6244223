//! The file `starts`: which start of the node on this volume its cluster took last, and which were offered to it since.
//!
//! A number alone does not tell a volume from its copy: both count on from the same one. So each start has a random
//! identifier too, and names those that came before it here (R46). The one that was taken is known only once the
//! cluster has said so, while an offer may be taken and its answer lost; so offers are noted before they are made, and
//! kept until a later one is known to be taken.

use std::path::PathBuf;
use std::sync::Arc;

use super::fields::Fields;
use super::{FORMAT_VERSION, Opening, STARTS, Volume, VolumeError, random_id};
use crate::disk::Disk;

/// Offers that are kept apart; what starts behind that many without being taken goes by the identifier of the last.
pub const OFFERED_STARTS_MAX: usize = 16;

/// This start's identifier, those before it as the volume had them when it was opened, and where they are noted. Clones
/// write the same file: only one at a time may.
#[derive(Clone, Debug)]
pub struct StartsFile {
    disk: Arc<dyn Disk>,
    dir: PathBuf,
    start: [u8; 16],
    accepted: Option<(u64, [u8; 16])>,
    offered: Vec<[u8; 16]>,
}

impl Volume {
    /// The starts on this volume. Nothing may be written once it is closed.
    ///
    /// # Errors
    /// The file is damaged, or cannot be read.
    pub fn starts_file(&self) -> Result<StartsFile, VolumeError> {
        let (accepted, offered) = read(&self.opening())?;
        let start = match offered.last() {
            Some(last) if offered.len() >= OFFERED_STARTS_MAX => *last,
            _ => random_id(),
        };
        Ok(StartsFile {
            disk: Arc::clone(&self.disk),
            dir: self.dir.clone(),
            start,
            accepted,
            offered,
        })
    }
}

type Noted = (Option<(u64, [u8; 16])>, Vec<[u8; 16]>);

fn read(opening: &Opening<'_>) -> Result<Noted, VolumeError> {
    let Some(fields) = opening.read(STARTS)? else {
        return Ok((None, Vec::new()));
    };
    let broken = || opening.corrupt(STARTS, "a field is missing");
    let accepted = match fields.number("accepted_incarnation") {
        Some(incarnation) => Some((incarnation, fields.id("accepted").ok_or_else(broken)?)),
        None => None,
    };
    let count = fields.number("offered").ok_or_else(broken)?;
    let offered = (0..count.min(OFFERED_STARTS_MAX as u64)).map(|at| fields.id(&offered_name(at as usize)));
    let offered = offered.collect::<Option<_>>().ok_or_else(broken)?;
    Ok((accepted, offered))
}

fn offered_name(at: usize) -> String {
    format!("offered_{at}")
}

fn hex(id: &[u8; 16]) -> String {
    format!("{:032x}", u128::from_be_bytes(*id))
}

impl StartsFile {
    /// Random identifier of this start.
    pub fn start(&self) -> [u8; 16] {
        self.start
    }

    /// The incarnation and identifier of the last start that the cluster is known to have taken.
    pub fn accepted(&self) -> Option<(u64, [u8; 16])> {
        self.accepted
    }

    /// The starts behind it of which this is not known, oldest first; [`OFFERED_STARTS_MAX`] at most.
    pub fn offered(&self) -> &[[u8; 16]] {
        &self.offered
    }

    /// Notes, durably, that this start is about to be offered to the cluster.
    ///
    /// # Errors
    /// The file cannot be written.
    pub fn note_offered(&self) -> Result<(), VolumeError> {
        let mut offered = self.offered.clone();
        if !offered.contains(&self.start) {
            offered.push(self.start);
        }
        self.write(self.accepted, &offered)
    }

    /// Notes, durably, that the cluster has taken this start.
    ///
    /// # Errors
    /// The file cannot be written.
    pub fn note_accepted(&self, incarnation: u64) -> Result<(), VolumeError> {
        self.write(Some((incarnation, self.start)), &[])
    }

    fn write(&self, accepted: Option<(u64, [u8; 16])>, offered: &[[u8; 16]]) -> Result<(), VolumeError> {
        let mut fields = Fields::new(FORMAT_VERSION);
        if let Some((incarnation, start)) = accepted {
            fields.set("accepted_incarnation", incarnation);
            fields.set("accepted", hex(&start));
        }
        fields.set("offered", offered.len());
        for (at, start) in offered.iter().enumerate() {
            fields.set(&offered_name(at), hex(start));
        }
        let opening = Opening {
            disk: &*self.disk,
            dir: &self.dir,
        };
        opening.write(STARTS, fields)
    }
}
