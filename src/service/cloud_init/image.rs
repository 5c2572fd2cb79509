//! The image that NoCloud looks for: a FAT file system labelled CIDATA with a file for each document,
//! made and read in memory.

use std::io::{Cursor, ErrorKind, Read, Write};

use fatfs::{FileSystem, FormatVolumeOptions, FsOptions};

use super::Documents;
use crate::error::{Error, Kind, Result};

const MIB: usize = 1 << 20;
/// Room beside the documents: tables, folders, and half a cluster for each file.
const BESIDE: usize = 128 << 10;
/// No image of Vapor's is larger; what is there is not read beyond that.
pub const LARGEST: usize = 4 * MIB;

const USER_DATA: &str = "user-data";
const META_DATA: &str = "meta-data";
const NETWORK_CONFIG: &str = "network-config";
const VENDOR_DATA: &str = "vendor-data";

/// The image with these documents, whole MiB.
///
/// # Errors
/// [`Kind::PayloadTooLarge`] if they do not fit into [`LARGEST`].
pub fn image(documents: &Documents) -> Result<Vec<u8>> {
    let files = [
        (USER_DATA, Some(&documents.user_data)),
        (META_DATA, Some(&documents.meta_data)),
        (NETWORK_CONFIG, documents.network_config.as_ref()),
        (VENDOR_DATA, documents.vendor_data.as_ref()),
    ];
    let bytes: usize = files.iter().filter_map(|(_, text)| text.map(String::len)).sum();
    let size = (bytes + BESIDE).div_ceil(MIB) * MIB;
    if size > LARGEST {
        return Err(Error::new(
            Kind::PayloadTooLarge,
            format!("the documents of cloud_init have {bytes} bytes, which is too much"),
        ));
    }
    let mut disk = vec![0; size];
    let options = FormatVolumeOptions::new().volume_label(*b"CIDATA     ").bytes_per_cluster(2048);
    fatfs::format_volume(Cursor::new(&mut disk), options).map_err(Error::internal)?;
    {
        let volume =
            FileSystem::new(Cursor::new(&mut disk), FsOptions::new()).map_err(Error::internal)?;
        for (name, text) in files {
            let Some(text) = text else { continue };
            let mut file = volume.root_dir().create_file(name).map_err(Error::internal)?;
            file.write_all(text.as_bytes()).map_err(Error::internal)?;
        }
        volume.unmount().map_err(Error::internal)?;
    }
    Ok(disk)
}

/// The documents in an image.
///
/// # Errors
/// [`Kind::Impossible`] if it is none of Vapor's: another hand has changed it.
pub fn read_image(mut disk: Vec<u8>) -> Result<Documents> {
    let strange = |error: std::io::Error| {
        Error::new(Kind::Impossible, "the VM's seed image can no longer be read as one")
            .with_hint("give all documents of cloud_init anew, or make the VM anew")
            .with_source(error)
    };
    let volume = FileSystem::new(Cursor::new(&mut disk), FsOptions::new()).map_err(strange)?;
    let read = |name: &str| match volume.root_dir().open_file(name) {
        Ok(mut file) => {
            let mut text = String::new();
            file.read_to_string(&mut text).map_err(strange).map(|_| Some(text))
        }
        Err(error) if error.kind() == ErrorKind::NotFound => Ok(None),
        Err(error) => Err(strange(error)),
    };
    Ok(Documents {
        user_data: read(USER_DATA)?.unwrap_or_default(),
        meta_data: read(META_DATA)?.unwrap_or_default(),
        network_config: read(NETWORK_CONFIG)?,
        vendor_data: read(VENDOR_DATA)?,
    })
}
