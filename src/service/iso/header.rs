//! The descriptors at the start of an optical file system (ECMA-119, section 8; ECMA-167, part 2).

use crate::model::IsoHeader;

/// Where the descriptors begin, bytes: sixteen sectors are the system's own.
pub const OFFSET: u64 = 32_768;

/// How many bytes of descriptors are looked at: more than any disc has.
pub const LENGTH: u64 = 64 * SECTOR as u64;

const SECTOR: usize = 2_048;

/// What the descriptors from [`OFFSET`] on say; `None` if they are none of an optical file system.
pub fn parse(bytes: &[u8]) -> Option<IsoHeader> {
    let mut header = IsoHeader::default();
    let (mut iso, mut udf, mut ended) = (false, false, false);
    for sector in bytes.chunks_exact(SECTOR) {
        match sector.get(1..6)? {
            // After their end only those of ECMA-167 follow.
            b"CD001" if !ended => match sector.first()? {
                0 => header.bootable |= sector.get(7..39)?.starts_with(b"EL TORITO SPECIFICATION"),
                1 if !iso => {
                    iso = true;
                    primary(sector, &mut header)?;
                }
                255 => ended = true,
                _ => {}
            },
            b"NSR02" | b"NSR03" => udf = true,
            b"BEA01" | b"TEA01" | b"BOOT2" | b"CD001" => {}
            _ => break,
        }
    }
    let format = match (iso, udf) {
        (true, _) => "iso9660",
        (false, true) => "udf",
        (false, false) => return None,
    };
    Some(IsoHeader { format: format.to_owned(), ..header })
}

/// The primary volume descriptor; its numbers stand there in both byte orders.
fn primary(sector: &[u8], header: &mut IsoHeader) -> Option<()> {
    let blocks = u32::from_le_bytes(sector.get(80..84)?.try_into().ok()?);
    let size = u16::from_le_bytes(sector.get(128..130)?.try_into().ok()?);
    header.volume_size_bytes = Some(u64::from(blocks) * u64::from(size));
    header.system_id = text(sector.get(8..40)?);
    header.volume_id = text(sector.get(40..72)?);
    header.publisher = text(sector.get(318..446)?);
    header.application = text(sector.get(574..702)?);
    Some(())
}

/// A padded text. What is no printable character becomes a replacement character: it is shown, and
/// matched with patterns.
fn text(bytes: &[u8]) -> Option<String> {
    let text: String = String::from_utf8_lossy(bytes)
        .trim_end_matches(['\0', ' '])
        .chars()
        .map(|c| if c.is_control() { '\u{FFFD}' } else { c })
        .collect();
    let text = text.trim();
    (!text.is_empty()).then(|| text.to_owned())
}

#[cfg(test)]
pub(super) mod tests {
    use proptest::prelude::*;

    use super::*;

    pub fn sector(kind: u8, id: &[u8; 5]) -> Vec<u8> {
        let mut sector = vec![0; SECTOR];
        sector[0] = kind;
        sector[1..6].copy_from_slice(id);
        sector
    }

    fn disc() -> Vec<u8> {
        let mut first = sector(1, b"CD001");
        for (at, length, value) in [
            (8, 32, "LINUX"),
            (40, 32, "Debian 11.5.0 amd64 n"),
            (318, 128, "A \u{7}publisher"),
            (574, 128, ""),
        ] {
            first[at..at + length].fill(b' ');
            first[at..at + value.len()].copy_from_slice(value.as_bytes());
        }
        first[80..84].copy_from_slice(&1000u32.to_le_bytes());
        first[128..130].copy_from_slice(&2048u16.to_le_bytes());
        first
    }

    #[test]
    fn a_disc_says_what_it_is() {
        let mut boot = sector(0, b"CD001");
        boot[7..30].copy_from_slice(b"EL TORITO SPECIFICATION");
        let header = parse(&[disc(), boot, sector(255, b"CD001")].concat()).unwrap();
        assert_eq!(header.format, "iso9660");
        assert_eq!(header.volume_id.as_deref(), Some("Debian 11.5.0 amd64 n"));
        assert_eq!(header.system_id.as_deref(), Some("LINUX"));
        assert_eq!(header.publisher.as_deref(), Some("A \u{FFFD}publisher"));
        assert_eq!(header.application, None);
        assert_eq!(header.volume_size_bytes, Some(2_048_000));
        assert!(header.bootable);
    }

    #[test]
    fn a_disc_of_both_kinds_is_told_by_the_older_one_and_a_newer_disc_alone_is_udf() {
        let udf = [sector(0, b"BEA01"), sector(0, b"NSR03"), sector(0, b"TEA01")].concat();
        assert_eq!(parse(&udf).unwrap().format, "udf");
        let both = [disc(), sector(255, b"CD001"), udf].concat();
        let header = parse(&both).unwrap();
        assert_eq!((header.format.as_str(), header.bootable), ("iso9660", false));
    }

    #[test]
    fn what_is_no_disc_is_none() {
        for bytes in [&[][..], b"CD001", &vec![0; 8192], &sector(0, b"TEA01"), &disc()[..2000]] {
            assert_eq!(parse(bytes), None);
        }
        let mut late = vec![0; SECTOR];
        late.extend(disc());
        assert_eq!(parse(&late), None, "descriptors begin at the first sector");
    }

    proptest! {
        #[test]
        fn any_bytes_are_taken_without_a_panic(
            bytes in proptest::collection::vec(any::<u8>(), 0..5000), mark: bool,
        ) {
            let mut bytes = bytes;
            if mark && bytes.len() >= 6 {
                bytes[..6].copy_from_slice(b"\x01CD001");
            }
            let header = parse(&bytes);
            prop_assert_eq!(header.is_some(), mark && bytes.len() >= SECTOR);
        }
    }
}
