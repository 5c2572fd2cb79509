//! What an image's first bytes say it is, and whether it may be used.
//!
//! QEMU and libvirt find out an image's format by its content and follow what it refers to: a
//! backing file, a data file, extents, a parent. An image from outside that names a file of the
//! host would hand that file to a guest. Such an image is refused before its first byte is in a
//! volume, and so is one whose content is not of the format it is declared to have.
//!
//! Pure, bounded by [`HEAD`], and without a panic for any input. After the formats' documents and
//! QEMU's own tests of them (`block/*.c`, `*_probe`).

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

/// How many of an image's first bytes are looked at: enough for each header that decides.
pub const HEAD: usize = 64 << 10;

/// The format of an image.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "lowercase")]
pub enum ImageFormat {
    Raw,
    Qcow2,
    Vmdk,
    Vdi,
    Vhdx,
    /// Virtual PC's, also called VHD.
    Vpc,
    /// ISO 9660, a raw image of a CD.
    Iso,
}

impl ImageFormat {
    /// The word in the API.
    pub const fn as_str(self) -> &'static str {
        match self {
            ImageFormat::Raw => "raw",
            ImageFormat::Qcow2 => "qcow2",
            ImageFormat::Vmdk => "vmdk",
            ImageFormat::Vdi => "vdi",
            ImageFormat::Vhdx => "vhdx",
            ImageFormat::Vpc => "vpc",
            ImageFormat::Iso => "iso",
        }
    }

    /// The format with this word; `vhd` is another word for `vpc`.
    pub fn parse(word: &str) -> Option<Self> {
        match word {
            "raw" => Some(ImageFormat::Raw),
            "qcow2" => Some(ImageFormat::Qcow2),
            "vmdk" => Some(ImageFormat::Vmdk),
            "vdi" => Some(ImageFormat::Vdi),
            "vhdx" => Some(ImageFormat::Vhdx),
            "vpc" | "vhd" => Some(ImageFormat::Vpc),
            "iso" => Some(ImageFormat::Iso),
            _ => None,
        }
    }

    /// Whether content of this format may be declared as `declared`. A CD is a raw image.
    pub fn is(self, declared: ImageFormat) -> bool {
        self == declared || (self == ImageFormat::Iso && declared == ImageFormat::Raw)
    }
}

/// What the first bytes say.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// It refers to nothing but itself.
    Fine(ImageFormat),
    /// It must not be used, and why: goes on after "the image ".
    Refused(String),
}

fn refused(why: impl Into<String>) -> Verdict {
    Verdict::Refused(why.into())
}

/// Looks at an image's first bytes: [`HEAD`] of them, or all if there are fewer.
pub fn inspect(head: &[u8]) -> Verdict {
    let head = head.get(..HEAD).unwrap_or(head);
    if head.starts_with(b"QFI\xfb") {
        return qcow(head);
    }
    if head.starts_with(b"KDMV") {
        return vmdk(head);
    }
    if is_vmdk_descriptor(head) {
        return refused("is a VMDK descriptor, whose data lies in other files");
    }
    if head.starts_with(b"vhdxfile") {
        return Verdict::Fine(ImageFormat::Vhdx);
    }
    if head.starts_with(b"conectix") {
        return vpc(head);
    }
    if word_le(head, 0x40) == Some(0xBEDA_107F) {
        return vdi(head);
    }
    for (magic, name) in [
        (&b"QED\0"[..], "QED"),
        (b"OOOM", "COW"),
        (b"COWD", "VMDK 3"),
        (b"WithoutFreeSpace", "Parallels"),
        (b"WithouFreSpacExt", "Parallels"),
        (b"Bochs Virtual HD Image", "Bochs"),
        (b"#!/bin/sh\n#V2.0 Format\nmodprobe cloop", "cloop"),
    ] {
        if head.starts_with(magic) {
            return refused(format!("has the format {name}, which is not taken"));
        }
    }
    if head.get(32_769..32_774) == Some(b"CD001") {
        return Verdict::Fine(ImageFormat::Iso);
    }
    Verdict::Fine(ImageFormat::Raw)
}

fn array<const N: usize>(bytes: &[u8], at: usize) -> Option<[u8; N]> {
    bytes.get(at..at.checked_add(N)?)?.try_into().ok()
}

fn word_le(bytes: &[u8], at: usize) -> Option<u32> {
    array(bytes, at).map(u32::from_le_bytes)
}

fn word_be(bytes: &[u8], at: usize) -> Option<u32> {
    array(bytes, at).map(u32::from_be_bytes)
}

fn long_le(bytes: &[u8], at: usize) -> Option<u64> {
    array(bytes, at).map(u64::from_le_bytes)
}

fn long_be(bytes: &[u8], at: usize) -> Option<u64> {
    array(bytes, at).map(u64::from_be_bytes)
}

/// <https://www.qemu.org/docs/master/interop/qcow2.html>
fn qcow(head: &[u8]) -> Verdict {
    const EXTERNAL_DATA_FILE: u64 = 1 << 2;
    const DATA_FILE_NAME: u32 = 0x4441_5441;
    const BACKING_FORMAT: u32 = 0xE279_2ACA;
    let cut = || refused("is a qcow2 that ends within its header");
    let Some(version) = word_be(head, 4) else { return cut() };
    if !matches!(version, 2 | 3) {
        return refused(format!("is a qcow of version {version}, and 2 or 3 is taken"));
    }
    let (Some(backing), Some(backing_length)) = (long_be(head, 8), word_be(head, 16)) else {
        return cut();
    };
    if backing != 0 || backing_length != 0 {
        return refused("has a backing file");
    }
    if head.len() < 72 {
        return cut();
    }
    let mut at = 72;
    if version == 3 {
        let (Some(features), Some(length)) = (long_be(head, 72), word_be(head, 100)) else {
            return cut();
        };
        if features & EXTERNAL_DATA_FILE != 0 {
            return refused("keeps its data in another file");
        }
        at = length as usize;
        if at < 104 {
            return refused("is a qcow2 whose header has an impossible length");
        }
    }
    // The extensions: type, length, content padded to 8 bytes; a type of 0 ends them.
    while let Some(kind) = word_be(head, at) {
        match kind {
            0 => return Verdict::Fine(ImageFormat::Qcow2),
            DATA_FILE_NAME => return refused("names another file for its data"),
            BACKING_FORMAT => return refused("names the format of a backing file"),
            _ => {}
        }
        let Some(length) = word_be(head, at.saturating_add(4)) else { break };
        at = at.saturating_add(8).saturating_add((length as usize).next_multiple_of(8));
    }
    // An image without an end of its extensions where they must be is none that QEMU writes.
    refused("is a qcow2 whose header extensions do not end")
}

/// The embedded descriptor decides for a sparse VMDK: one extent, in this very file, no parent.
fn vmdk(head: &[u8]) -> Verdict {
    const SECTOR: u64 = 512;
    let (Some(capacity), Some(offset), Some(sectors)) =
        (long_le(head, 12), long_le(head, 28), long_le(head, 36))
    else {
        return refused("is a VMDK that ends within its header");
    };
    if capacity == 0 || offset == 0 || sectors == 0 {
        return refused("is a VMDK without a descriptor of its own");
    }
    let whole = || {
        let from = usize::try_from(offset.checked_mul(SECTOR)?).ok()?;
        let length = usize::try_from(sectors.checked_mul(SECTOR)?).ok()?;
        head.get(from..from.checked_add(length)?)
    };
    let Some(descriptor) = whole() else {
        return refused("is a VMDK whose descriptor lies outside its first 64 KiB");
    };
    if contains(head, b"parentFileNameHint") {
        return refused("has a parent image");
    }
    let text = String::from_utf8_lossy(descriptor);
    let text = text.split('\0').next().unwrap_or_default();
    let mut extents = 0;
    let mut sparse = false;
    for line in text.lines().map(str::trim) {
        let mut words = line.split_ascii_whitespace();
        if words.next().is_some_and(|word| {
            ["RW", "RDONLY", "NOACCESS"].iter().any(|access| word.eq_ignore_ascii_case(access))
        }) {
            extents += 1;
            sparse = words.nth(1).is_some_and(|kind| kind.eq_ignore_ascii_case("SPARSE"));
        }
        let Some((key, value)) = line.split_once('=') else { continue };
        let value = value.trim().trim_matches('"');
        match key.trim().to_ascii_lowercase().as_str() {
            "parentcid" if !value.eq_ignore_ascii_case("ffffffff") => {
                return refused("has a parent image");
            }
            "createtype"
                if !["monolithicSparse", "streamOptimized"]
                    .iter()
                    .any(|kind| value.eq_ignore_ascii_case(kind)) =>
            {
                return refused("is a VMDK whose data lies in other files");
            }
            _ => {}
        }
    }
    if extents != 1 || !sparse {
        return refused("is a VMDK that does not consist of one sparse extent");
    }
    Verdict::Fine(ImageFormat::Vmdk)
}

/// As QEMU tells a descriptor: comments and empty lines, then a version.
fn is_vmdk_descriptor(head: &[u8]) -> bool {
    for line in head.split(|byte| *byte == b'\n').take(1024) {
        let line = line.trim_ascii();
        if line.is_empty() || line.starts_with(b"#") {
            if contains(line, b"Disk DescriptorFile") {
                return true;
            }
            continue;
        }
        let lower = line.to_ascii_lowercase();
        return lower.starts_with(b"version=");
    }
    false
}

fn contains(bytes: &[u8], wanted: &[u8]) -> bool {
    bytes.windows(wanted.len()).any(|window| window.eq_ignore_ascii_case(wanted))
}

/// VirtualBox's: the kind of image, and the identities of a parent.
fn vdi(head: &[u8]) -> Verdict {
    const LINK: usize = 0x1A8;
    let Some(kind) = word_le(head, 0x4C) else {
        return refused("is a VDI that ends within its header");
    };
    if !matches!(kind, 1 | 2) {
        return refused("is a VDI that depends on a parent image");
    }
    // Two UUIDs, of the image it is linked to and of that image's last change.
    match head.get(LINK..LINK + 32) {
        None => refused("is a VDI that ends within its header"),
        Some(parents) if parents.iter().any(|byte| *byte != 0) => {
            refused("is a VDI that depends on a parent image")
        }
        Some(_) => Verdict::Fine(ImageFormat::Vdi),
    }
}

/// Virtual PC's: the footer's copy stands first in an image that grows.
fn vpc(head: &[u8]) -> Verdict {
    match word_be(head, 60) {
        Some(2 | 3) => Verdict::Fine(ImageFormat::Vpc),
        Some(_) => refused("is a VHD that depends on a parent image"),
        None => refused("is a VHD that ends within its header"),
    }
}

#[cfg(test)]
#[path = "image_tests.rs"]
mod tests;
