//! Small volumes as a whole: written and read within one call of a lane, on its connection. What is
//! large or waits for a client is a [stream](super::stream) with a thread of its own.

use virt::storage_vol::StorageVol;
use virt::stream::Stream;

use super::error::What;
use super::session::Session;
use super::stream::WRITTEN;
use super::{ffi, volume};
use crate::error::{Error, Result};

/// Writes `content` to the front of a volume. `virStorageVolUpload`.
///
/// # Errors
/// `PoolNotFound`, `VolumeNotFound`, and what libvirt refuses with; part of it may be written then.
pub fn write(session: &Session, pool: &str, name: &str, content: &[u8]) -> Result<()> {
    let found = volume::find(session, pool, name)?;
    let failed = |error| session.failed("write to", What::Volume { pool, name })(error);
    transfer(session, failed, |stream| {
        found.upload(stream, 0, content.len() as u64, 0).map_err(failed)?;
        for piece in content.chunks(WRITTEN) {
            ffi::stream::send_all(stream, piece).map_err(failed)?;
        }
        Ok(())
    })
}

/// The first `most` bytes of a volume; fewer where it ends. `virStorageVolDownload`.
///
/// # Errors
/// `PoolNotFound`, `VolumeNotFound`, and what libvirt refuses with.
pub fn read(session: &Session, pool: &str, name: &str, most: usize) -> Result<Vec<u8>> {
    let found: StorageVol = volume::find(session, pool, name)?;
    let failed = |error| session.failed("download", What::Volume { pool, name })(error);
    let mut content = Vec::new();
    transfer(session, failed, |stream| {
        found.download(stream, 0, most as u64, 0).map_err(failed)?;
        ffi::stream::receive(stream, &mut content, most).map_err(failed)?;
        Ok(())
    })?;
    Ok(content)
}

/// Opens a stream for `work`, finishes it if that went well and aborts it if not.
fn transfer(
    session: &Session,
    failed: impl Fn(virt::error::Error) -> Error,
    work: impl FnOnce(&Stream) -> Result<()>,
) -> Result<()> {
    let stream = Stream::new(session.connect(), 0).map_err(&failed)?;
    match work(&stream) {
        Ok(()) => stream.finish().map_err(failed),
        Err(error) => {
            if let Err(aborting) = stream.abort() {
                tracing::debug!(error = %aborting, "a stream could not be aborted");
            }
            Err(error)
        }
    }
}
