//! An open file of the faulty disk.

use std::io;
use std::path::PathBuf;

use super::countdown::Countdown;
use super::{FaultyDisk, Inner, injected};
use crate::disk::DiskFile;

#[derive(Debug)]
pub(super) struct FaultyFile {
    pub(super) disk: FaultyDisk,
    pub(super) inode: u64,
    pub(super) epoch: u64,
    pub(super) path: PathBuf,
}

impl FaultyFile {
    fn inner(&self) -> io::Result<parking_lot::MutexGuard<'_, Inner>> {
        let inner = self.disk.0.lock();
        if inner.epoch != self.epoch || inner.down {
            return Err(injected("handle of a machine that is gone"));
        }
        Ok(inner)
    }
}

impl DiskFile for FaultyFile {
    fn write_at(&self, offset: u64, data: &[u8]) -> io::Result<()> {
        let mut guard = self.inner()?;
        let inner = &mut *guard;
        inner.step()?;
        let used = inner.used();
        let grows = (offset + data.len() as u64).saturating_sub(inner.inode(self.inode)?.size());
        if inner.capacity.is_some_and(|capacity| used + grows > capacity) {
            return Err(io::ErrorKind::StorageFull.into());
        }
        if Countdown::strikes(&mut inner.write_fault, &self.path) {
            let kept = inner.random.below(data.len() as u64 + 1) as usize;
            inner.inode(self.inode)?.write(offset, &data[..kept]);
            return Err(injected("write error"));
        }
        inner.inode(self.inode)?.write(offset, data);
        inner.outcome(())
    }

    fn read_at(&self, offset: u64, buffer: &mut [u8]) -> io::Result<usize> {
        Ok(self.inner()?.inode(self.inode)?.read(offset, buffer))
    }

    fn size(&self) -> io::Result<u64> {
        Ok(self.inner()?.inode(self.inode)?.size())
    }

    fn truncate(&self, length: u64) -> io::Result<()> {
        let mut inner = self.inner()?;
        inner.step()?;
        inner.inode(self.inode)?.truncate(length);
        inner.outcome(())
    }

    fn sync_data(&self) -> io::Result<()> {
        let delay = self.inner()?.sync_delay;
        if !delay.is_zero() {
            std::thread::sleep(delay);
        }
        let mut guard = self.inner()?;
        let inner = &mut *guard;
        inner.step()?;
        if FaultyDisk::sync_strikes(inner, &self.path) {
            let random = &mut inner.random;
            if let Some(inode) = inner.inodes.get_mut(&self.inode) {
                inode.fail_sync(random);
            }
            return Err(injected("sync error"));
        }
        // Power that goes off during a sync leaves it undone; what it had written by then is drawn by the crash.
        if !inner.ignore_syncs && !inner.down {
            inner.inode(self.inode)?.sync();
            inner.syncs += 1;
        }
        inner.outcome(())
    }
}
