//! A VHDX read block by block through one stream of libvirt, and written through another.

use super::intake::Pace;
use super::{TransferService, vhdx};
use crate::error::{Error, Kind, Result};
use crate::libvirt::{Lane, VolumeReader, volume};
use crate::model::VolumeRef;
use crate::model::vm_request::DiskFormat;
use crate::service::operation::SLOW_CALL;
use crate::service::task::TaskHandle;
use crate::xml;

/// Bytes of the block table that are read at once.
const TABLE: u64 = 64 << 10;

fn refused(why: vhdx::Refusal) -> Error {
    Error::new(Kind::ImageRefused, format!("the image {why}"))
}

/// The tables of a VHDX: its layout, and where its block table is.
///
/// # Errors
/// `ImageRefused`.
pub(super) async fn open(reader: &mut VolumeReader) -> Result<(vhdx::Layout, vhdx::Region)> {
    let [first, second] = vhdx::HEADERS;
    let first = reader.read(first, vhdx::HEADER).await?;
    let second = reader.read(second, vhdx::HEADER).await?;
    vhdx::check_headers([&first, &second]).map_err(refused)?;
    let [first, second] = vhdx::REGIONS;
    let first = reader.read(first, vhdx::REGION_TABLE).await?;
    let second = reader.read(second, vhdx::REGION_TABLE).await?;
    let (table, metadata) = vhdx::regions([&first, &second]).map_err(refused)?;
    let metadata = reader.read(metadata.0, metadata.1.min(vhdx::METADATA)).await?;
    let layout = vhdx::layout(&metadata).map_err(refused)?;
    let missing = table.0.saturating_add(layout.entries() * 8) > reader.size();
    if missing || table.1 < layout.entries() * 8 {
        return Err(refused("is a VHDX with a damaged block table"));
    }
    Ok((layout, table))
}

impl TransferService {
    /// Makes the raw volume `target` of the VHDX in `source`; blocks of zeros stay holes.
    pub(super) async fn unpack(
        &self,
        task: &TaskHandle,
        source: &VolumeRef,
        target: &VolumeRef,
    ) -> Result<()> {
        let mut reader = self.reader(source).await?;
        let (layout, table) = open(&mut reader).await?;
        let record = self.tools.inventory.picture().pool(&target.pool)?;
        // A full disk in the middle of a stream is the end of libvirtd: the file's bytes are the
        // most that there can be to write.
        let most = reader.size().min(layout.size);
        if most > record.pool.available_bytes {
            return Err(Error::new(
                Kind::InsufficientSpace,
                format!("the pool {:?} has not the {most} bytes that this may take", target.pool),
            ));
        }
        let text = xml::volume::author_volume(&xml::volume::VolumeSpec {
            name: target.volume.clone(),
            capacity_bytes: layout.size,
            format: DiskFormat::Raw,
            sparse: record.pool.r#type != "logical",
            backing: None,
        })?;
        let made = target.clone();
        self.tools
            .hypervisor
            .run_to_end(Lane::Slow, SLOW_CALL, move |session| {
                volume::create(session, &made.pool, &made.volume, &text)
            })
            .await?;
        self.copy_blocks(task, &mut reader, target, layout, table.0).await
    }

    async fn copy_blocks(
        &self,
        task: &TaskHandle,
        reader: &mut VolumeReader,
        target: &VolumeRef,
        layout: vhdx::Layout,
        table: u64,
    ) -> Result<()> {
        let mut writer = self.tools.hypervisor.write_volume(target, 0, layout.size).await?;
        let mut pace = Pace::new("unpacking", 0, layout.size);
        let (mut at, mut known, mut entries) = (0, 0..0, Vec::new());
        for block in 0..layout.blocks() {
            let entry = layout.entry(block) * 8;
            if !known.contains(&entry) {
                let length = TABLE.min(layout.entries() * 8 - entry);
                entries = reader.read(table + entry, length).await?;
                known = entry..entry + entries.len() as u64;
            }
            let from = usize::try_from(entry - known.start).unwrap_or(usize::MAX);
            let entry = entries.get(from..from.saturating_add(8)).and_then(|e| e.try_into().ok());
            let entry = entry.map(u64::from_le_bytes);
            let entry = entry.ok_or_else(|| refused("is a VHDX with a damaged block table"))?;
            let Some(place) = vhdx::place(entry).map_err(refused)? else { continue };
            let (begin, length) = (block * layout.block, layout.length(block));
            if at != begin {
                writer.seek(begin).await?;
                at = begin;
            }
            if place.saturating_add(length) > reader.size() {
                return Err(refused("is a VHDX that ends before its blocks do"));
            }
            reader.ask(place, length).await?;
            loop {
                let piece = reader.next().await?;
                if piece.is_empty() {
                    break;
                }
                at += piece.len() as u64;
                writer.write(piece).await?;
                if let Some(progress) = pace.at(at) {
                    task.progress(progress);
                }
            }
        }
        writer.sync().await
    }
}
