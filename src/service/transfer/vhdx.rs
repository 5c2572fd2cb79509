//! Hyper-V's VHDX, which libvirt's storage driver does not know: as much of it as reading takes.
//!
//! Pure: offsets in, tables out; whoever calls reads the bytes, through a stream of libvirt. After
//! Microsoft's specification of the format (MS-VHDX). What depends on a parent, or was not closed
//! cleanly so that its log would have to be replayed, is refused.

use uuid::{Uuid, uuid};

const MIB: u64 = 1 << 20;
/// Where the two headers are, the region table and its copy; and how much of each is read.
pub const HEADERS: [u64; 2] = [64 << 10, 128 << 10];
pub const HEADER: u64 = 4 << 10;
pub const REGIONS: [u64; 2] = [192 << 10, 256 << 10];
pub const REGION_TABLE: u64 = 64 << 10;
/// How much of the metadata region is read: its table, and the items that follow it.
pub const METADATA: u64 = 128 << 10;

const BAT: Uuid = uuid!("2DC27766-F623-4200-9D64-115E9BFD4A08");
const METADATA_REGION: Uuid = uuid!("8B7CA206-4790-4B9A-B8FE-575F050F886E");
const FILE_PARAMETERS: Uuid = uuid!("CAA16737-FA36-4D43-B3B6-33F0AA44E76B");
const DISK_SIZE: Uuid = uuid!("2FA54224-CD1B-4876-B211-5DBED83BF4B8");
const SECTOR_SIZE: Uuid = uuid!("8141BF1D-A96F-4709-BA47-F233A8FAAB5F");
const PARENT_LOCATOR: Uuid = uuid!("A8D35F2D-B30B-454D-ABF7-D3D84834AB0C");

/// Why an image cannot be read: goes on after "the image ".
pub type Refusal = &'static str;

fn array<const N: usize>(bytes: &[u8], at: usize) -> Option<[u8; N]> {
    bytes.get(at..at.checked_add(N)?)?.try_into().ok()
}

fn word(bytes: &[u8], at: usize) -> Option<u32> {
    array(bytes, at).map(u32::from_le_bytes)
}

fn long(bytes: &[u8], at: usize) -> Option<u64> {
    array(bytes, at).map(u64::from_le_bytes)
}

fn guid(bytes: &[u8], at: usize) -> Option<Uuid> {
    array(bytes, at).map(Uuid::from_bytes_le)
}

/// CRC-32C of a structure whose own checksum, at byte 4, counts as zero.
fn checksum(bytes: &[u8]) -> u32 {
    let mut crc = !0_u32;
    for (at, byte) in bytes.iter().enumerate() {
        crc ^= u32::from(if (4..8).contains(&at) { 0 } else { *byte });
        for _ in 0..8 {
            crc = (crc >> 1) ^ (0x82F6_3B78 & 0_u32.wrapping_sub(crc & 1));
        }
    }
    !crc
}

fn is_sound(bytes: &[u8], signature: &[u8], length: u64) -> bool {
    bytes.len() as u64 == length
        && bytes.starts_with(signature)
        && word(bytes, 4) == Some(checksum(bytes))
}

/// Checks the newer of the two headers.
///
/// # Errors
/// Neither is sound, or the log has to be replayed.
pub fn check_headers(headers: [&[u8]; 2]) -> Result<(), Refusal> {
    let newest = headers
        .into_iter()
        .filter(|header| is_sound(header, b"head", HEADER))
        .max_by_key(|header| long(header, 8))
        .ok_or("is a VHDX without a sound header")?;
    if array::<16>(newest, 48) != Some([0; 16]) {
        return Err("was not closed cleanly: its log has to be replayed first");
    }
    if array(newest, 66).map(u16::from_le_bytes) != Some(1) {
        return Err("is a VHDX of an unknown version");
    }
    Ok(())
}

/// A region: offset and length.
pub type Region = (u64, u64);

/// Finds the block table and the metadata, in the first region table that is sound.
///
/// # Errors
/// None is, or one asks for a region that is not known.
pub fn regions(tables: [&[u8]; 2]) -> Result<(Region, Region), Refusal> {
    let table = tables
        .into_iter()
        .find(|table| is_sound(table, b"regi", REGION_TABLE))
        .ok_or("is a VHDX without a sound region table")?;
    let count = word(table, 8).unwrap_or(0).min(2047) as usize;
    let (mut bat, mut metadata) = (None, None);
    for at in (0..count).map(|index| 16 + index * 32) {
        let region = long(table, at + 16).zip(word(table, at + 24).map(u64::from));
        match guid(table, at) {
            Some(BAT) => bat = region,
            Some(METADATA_REGION) => metadata = region,
            _ if word(table, at + 28).unwrap_or(1) & 1 == 0 => {}
            _ => return Err("is a VHDX with a region that is not known"),
        }
    }
    bat.zip(metadata).ok_or("is a VHDX without a block table or without metadata")
}

/// What the metadata tells.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Layout {
    /// What a guest sees, bytes.
    pub size: u64,
    /// Bytes.
    pub block: u64,
    /// Blocks between two entries of sector bitmaps in the block table.
    chunk: u64,
}

/// Reads the beginning of the metadata region.
///
/// # Errors
/// The image has a parent, or says what cannot be.
pub fn layout(metadata: &[u8]) -> Result<Layout, Refusal> {
    const DAMAGED: Refusal = "is a VHDX with damaged metadata";
    if !metadata.starts_with(b"metadata") {
        return Err(DAMAGED);
    }
    let count = array(metadata, 10).map_or(0, u16::from_le_bytes).min(2047);
    let (mut parameters, mut size, mut sector) = (None, None, None);
    for at in (0..usize::from(count)).map(|index| 32 + index * 32) {
        let offset = word(metadata, at + 16).unwrap_or(0) as usize;
        match guid(metadata, at) {
            Some(FILE_PARAMETERS) => {
                parameters = word(metadata, offset).zip(word(metadata, offset + 4));
            }
            Some(DISK_SIZE) => size = long(metadata, offset),
            Some(SECTOR_SIZE) => sector = word(metadata, offset),
            Some(PARENT_LOCATOR) => return Err("has a parent image"),
            _ => {}
        }
    }
    let (block, flags) = parameters.ok_or(DAMAGED)?;
    if flags & 2 != 0 {
        return Err("has a parent image");
    }
    let (size, sector) = (size.ok_or(DAMAGED)?, sector.ok_or(DAMAGED)?);
    let fits = matches!(sector, 512 | 4096)
        && block.is_power_of_two()
        && (MIB..=256 * MIB).contains(&u64::from(block))
        && (1..=64 << 40).contains(&size);
    if !fits {
        return Err(DAMAGED);
    }
    let block = u64::from(block);
    Ok(Layout { size, block, chunk: (u64::from(sector) << 23) / block })
}

impl Layout {
    /// How many blocks there are.
    pub fn blocks(&self) -> u64 {
        self.size.div_ceil(self.block)
    }

    /// How many entries the block table must have.
    pub fn entries(&self) -> u64 {
        match self.blocks() {
            0 => 0,
            blocks => self.entry(blocks - 1) + 1,
        }
    }

    /// Where a block's entry is in the block table.
    pub fn entry(&self, block: u64) -> u64 {
        block + block / self.chunk
    }

    /// How many bytes a block has: the last one may be cut.
    pub fn length(&self, block: u64) -> u64 {
        self.block.min(self.size.saturating_sub(block * self.block))
    }
}

/// Where a block lies in the file; none if it is all zeros.
///
/// # Errors
/// It is part of a parent's, or of a state that is not known.
pub fn place(entry: u64) -> Result<Option<u64>, Refusal> {
    match entry & 7 {
        0..=3 => Ok(None),
        6 => Ok(Some(entry & !(MIB - 1))),
        7 => Err("has a parent image"),
        _ => Err("is a VHDX with a damaged block table"),
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn sealed(mut bytes: Vec<u8>) -> Vec<u8> {
        let sum = checksum(&bytes);
        bytes[4..8].copy_from_slice(&sum.to_le_bytes());
        bytes
    }

    fn header(sequence: u64, log: u8) -> Vec<u8> {
        let mut bytes = vec![0; 4096];
        bytes[..4].copy_from_slice(b"head");
        bytes[8..16].copy_from_slice(&sequence.to_le_bytes());
        bytes[48] = log;
        bytes[66] = 1;
        sealed(bytes)
    }

    fn table(entries: &[(Uuid, u64, u32, u32)]) -> Vec<u8> {
        let mut bytes = vec![0; 64 << 10];
        bytes[..4].copy_from_slice(b"regi");
        bytes[8] = u8::try_from(entries.len()).unwrap();
        for (index, (id, offset, length, required)) in entries.iter().enumerate() {
            let at = 16 + index * 32;
            bytes[at..at + 16].copy_from_slice(&id.to_bytes_le());
            bytes[at + 16..at + 24].copy_from_slice(&offset.to_le_bytes());
            bytes[at + 24..at + 28].copy_from_slice(&length.to_le_bytes());
            bytes[at + 28..at + 32].copy_from_slice(&required.to_le_bytes());
        }
        sealed(bytes)
    }

    fn metadata(flags: u32, block: u32, size: u64) -> Vec<u8> {
        let mut bytes = vec![0; 128 << 10];
        bytes[..8].copy_from_slice(b"metadata");
        bytes[10] = 3;
        let items = [
            (FILE_PARAMETERS, [block.to_le_bytes(), flags.to_le_bytes()].concat()),
            (DISK_SIZE, size.to_le_bytes().to_vec()),
            (SECTOR_SIZE, 512_u32.to_le_bytes().to_vec()),
        ];
        for (index, (id, value)) in items.into_iter().enumerate() {
            let (at, offset) = (32 + index * 32, (64 << 10) + index * 64);
            bytes[at..at + 16].copy_from_slice(&id.to_bytes_le());
            bytes[at + 16..at + 20].copy_from_slice(&u32::try_from(offset).unwrap().to_le_bytes());
            bytes[offset..offset + value.len()].copy_from_slice(&value);
        }
        bytes
    }

    #[test]
    fn the_checksum_is_crc32c() {
        // by an independent implementation that gives 0xE3069283 for "123456789"
        assert_eq!(checksum(b"1234"), 0xf63af4ee);
        assert_eq!(checksum(b"1234....9"), 0x6d901313);
    }

    #[test]
    fn the_newer_sound_header_decides() {
        check_headers([&header(1, 0), &header(2, 0)]).unwrap();
        check_headers([&header(1, 9), &header(2, 0)]).unwrap();
        assert!(check_headers([&header(3, 9), &header(2, 0)]).is_err());
        let mut broken = header(3, 9);
        broken[100] = 1;
        check_headers([&broken, &header(2, 0)]).unwrap();
        assert!(check_headers([&broken, &[]]).is_err());
    }

    #[test]
    fn regions_are_found_and_unknown_ones_that_matter_are_refused() {
        let known = [(BAT, 3 << 20, 1 << 20, 1), (METADATA_REGION, 2 << 20, 1 << 20, 1)];
        let found = regions([&table(&known), &[]]).unwrap();
        assert_eq!(found, ((3 << 20, 1 << 20), (2 << 20, 1 << 20)));
        let more = [known[0], known[1], (Uuid::max(), 0, 0, 1)];
        assert!(regions([&table(&more), &[]]).is_err());
        let optional = [known[0], known[1], (Uuid::max(), 0, 0, 0)];
        assert!(regions([&table(&optional), &[]]).is_ok());
        assert!(regions([&table(&known[..1]), &[]]).is_err());
    }

    #[test]
    fn an_image_with_a_parent_is_refused() {
        assert!(layout(&metadata(2, 1 << 20, 1 << 30)).is_err());
        assert!(place(7).is_err());
        let layout = layout(&metadata(0, 32 << 20, (1 << 30) + 512)).unwrap();
        assert_eq!((layout.blocks(), layout.chunk), (33, 128));
        assert_eq!((layout.length(0), layout.length(32)), (32 << 20, 512));
        assert_eq!((layout.entry(127), layout.entry(128)), (127, 129));
        assert_eq!(place(6 | 5 << 20).unwrap(), Some(5 << 20));
        assert_eq!(place(2).unwrap(), None);
        assert!(place(5).is_err());
    }

    proptest! {
        #[test]
        fn no_bytes_make_it_panic(
            bytes in proptest::collection::vec(any::<u8>(), 0..2048),
            changes in proptest::collection::vec((0_usize..70_000, any::<u8>()), 0..60),
        ) {
            let _ = layout(&bytes);
            let _ = check_headers([&bytes, &bytes]);
            let _ = regions([&bytes, &bytes]);
            let mut changed = metadata(0, 1 << 20, 1 << 30);
            for (at, byte) in changes {
                changed[at] = byte;
            }
            if let Ok(layout) = layout(&changed) {
                let last = layout.blocks() - 1;
                prop_assert!(layout.length(last) > 0 && layout.entry(last) < layout.entries());
            }
        }
    }
}
