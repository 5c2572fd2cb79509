use proptest::prelude::*;

use super::*;

fn put(image: &mut [u8], at: usize, bytes: &[u8]) {
    image[at..at + bytes.len()].copy_from_slice(bytes);
}

fn qcow2() -> Vec<u8> {
    let mut image = vec![0; HEAD];
    put(&mut image, 0, b"QFI\xfb");
    put(&mut image, 4, &3_u32.to_be_bytes());
    put(&mut image, 20, &16_u32.to_be_bytes());
    put(&mut image, 100, &112_u32.to_be_bytes());
    // the feature name table that qemu-img writes
    put(&mut image, 112, &0x6803_f857_u32.to_be_bytes());
    put(&mut image, 116, &336_u32.to_be_bytes());
    image
}

fn vmdk(descriptor: &str) -> Vec<u8> {
    let mut image = vec![0; HEAD];
    put(&mut image, 0, b"KDMV");
    put(&mut image, 4, &1_u32.to_le_bytes());
    put(&mut image, 12, &2048_u64.to_le_bytes());
    put(&mut image, 28, &1_u64.to_le_bytes());
    put(&mut image, 36, &20_u64.to_le_bytes());
    put(&mut image, 512, descriptor.as_bytes());
    image
}

const DESCRIPTOR: &str = "# Disk DescriptorFile\nversion=1\nCID=7e8ae4f0\nparentCID=ffffffff\n\
    createType=\"monolithicSparse\"\n\nRW 2048 SPARSE \"disk.vmdk\"\n\nddb.adapterType = \"ide\"\n";

fn vdi(kind: u32) -> Vec<u8> {
    let mut image = vec![0; 1024];
    put(&mut image, 0x40, &0xBEDA_107F_u32.to_le_bytes());
    put(&mut image, 0x4C, &kind.to_le_bytes());
    image
}

fn is_refused(image: &[u8], why: &str) {
    match inspect(image) {
        Verdict::Refused(text) => assert!(text.contains(why), "{text}"),
        Verdict::Fine(format) => panic!("taken for a good {format:?}"),
    }
}

#[test]
fn images_that_refer_to_nothing_are_fine() {
    assert_eq!(inspect(&qcow2()), Verdict::Fine(ImageFormat::Qcow2));
    assert_eq!(inspect(&vmdk(DESCRIPTOR)), Verdict::Fine(ImageFormat::Vmdk));
    assert_eq!(inspect(&vdi(1)), Verdict::Fine(ImageFormat::Vdi));
    assert_eq!(inspect(&vdi(2)), Verdict::Fine(ImageFormat::Vdi));
    let mut vpc = vec![0; 512];
    put(&mut vpc, 0, b"conectix");
    put(&mut vpc, 60, &3_u32.to_be_bytes());
    assert_eq!(inspect(&vpc), Verdict::Fine(ImageFormat::Vpc));
    let mut iso = vec![0; HEAD];
    put(&mut iso, 32_769, b"CD001");
    assert_eq!(inspect(&iso), Verdict::Fine(ImageFormat::Iso));
    for raw in [&b""[..], b"x", &[0; 512], b"#!/bin/sh\necho version=1\n"] {
        assert_eq!(inspect(raw), Verdict::Fine(ImageFormat::Raw));
    }
}

#[test]
fn a_qcow2_that_names_another_file_is_refused() {
    let mut image = qcow2();
    put(&mut image, 8, &512_u64.to_be_bytes());
    put(&mut image, 16, &11_u32.to_be_bytes());
    is_refused(&image, "backing file");
    // one of the two alone is none that QEMU writes, and might be read by something else
    let mut image = qcow2();
    put(&mut image, 16, &11_u32.to_be_bytes());
    is_refused(&image, "backing file");
    let mut image = qcow2();
    put(&mut image, 72, &4_u64.to_be_bytes());
    is_refused(&image, "another file");
    let mut image = qcow2();
    put(&mut image, 112, &0x4441_5441_u32.to_be_bytes());
    is_refused(&image, "another file");
    let mut image = qcow2();
    put(&mut image, 112, &0xE279_2ACA_u32.to_be_bytes());
    is_refused(&image, "backing file");
}

#[test]
fn a_qcow2_that_is_damaged_or_of_version_1_is_refused() {
    let image = qcow2();
    for length in [4, 7, 19, 71, 103, 115] {
        assert!(matches!(inspect(&image[..length]), Verdict::Refused(_)), "{length}");
    }
    let mut image = qcow2();
    put(&mut image, 4, &1_u32.to_be_bytes());
    is_refused(&image, "version 1");
    let mut image = qcow2();
    put(&mut image, 100, &8_u32.to_be_bytes());
    is_refused(&image, "length");
}

#[test]
fn a_vmdk_with_a_parent_or_with_other_extents_is_refused() {
    let with = |from: &str, to: &str| vmdk(&DESCRIPTOR.replace(from, to));
    is_refused(&with("ffffffff", "7e8ae4f0"), "parent");
    is_refused(&with("createType", "parentFileNameHint=\"/etc/shadow\"\ncreateType"), "parent");
    is_refused(&with("monolithicSparse", "monolithicFlat"), "other files");
    is_refused(&with("SPARSE", "FLAT"), "extent");
    is_refused(&with("RW 2048", "RW 2048 SPARSE \"/etc/shadow\"\nRW 2048"), "extent");
    let mut image = vmdk(DESCRIPTOR);
    put(&mut image, 12, &0_u64.to_le_bytes());
    is_refused(&image, "descriptor");
    let mut image = vmdk(DESCRIPTOR);
    put(&mut image, 28, &u64::MAX.to_le_bytes());
    is_refused(&image, "64 KiB");
    is_refused(b"KDMV", "ends");
    is_refused(DESCRIPTOR.as_bytes(), "other files");
    is_refused(b"\n# a comment\n version=1\nRW 1 FLAT \"/etc/shadow\" 0\n", "other files");
}

#[test]
fn a_differencing_vdi_or_vhd_is_refused() {
    is_refused(&vdi(4), "parent");
    is_refused(&vdi(3), "parent");
    let mut image = vdi(1);
    image[0x1A8] = 1;
    is_refused(&image, "parent");
    let mut vpc = vec![0; 512];
    put(&mut vpc, 0, b"conectix");
    put(&mut vpc, 60, &4_u32.to_be_bytes());
    is_refused(&vpc, "parent");
}

#[test]
fn formats_that_nobody_asked_for_are_refused() {
    is_refused(b"QED\0 and so on", "QED");
    is_refused(b"OOOM", "COW");
    is_refused(b"COWD", "VMDK 3");
}

#[test]
fn a_cd_is_raw_and_nothing_else_is() {
    assert!(ImageFormat::Iso.is(ImageFormat::Raw));
    assert!(!ImageFormat::Qcow2.is(ImageFormat::Raw));
    assert!(!ImageFormat::Raw.is(ImageFormat::Iso));
    assert_eq!(ImageFormat::parse("vhd"), Some(ImageFormat::Vpc));
}

proptest! {
    #[test]
    fn no_bytes_make_it_panic(bytes in proptest::collection::vec(any::<u8>(), 0..4096)) {
        inspect(&bytes);
    }

    #[test]
    fn no_header_of_a_known_format_makes_it_panic(
        which in 0_usize..4,
        changes in proptest::collection::vec((0_usize..1024, any::<u8>()), 0..40),
        cut in 0_usize..=HEAD,
    ) {
        let mut image = [qcow2(), vmdk(DESCRIPTOR), vdi(1), vec![0; HEAD]][which].clone();
        for (at, byte) in changes {
            image[at] = byte;
        }
        image.truncate(cut);
        inspect(&image);
    }

    /// Whatever else a header says: with a backing file's offset it is never taken.
    #[test]
    fn a_backing_file_is_seen_whatever_else_is_there(
        offset in 1_u64..,
        rest in proptest::collection::vec((20_usize..600, any::<u8>()), 0..40),
    ) {
        let mut image = qcow2();
        for (at, byte) in rest {
            image[at] = byte;
        }
        put(&mut image, 8, &offset.to_be_bytes());
        prop_assert!(matches!(inspect(&image), Verdict::Refused(_)));
    }
}
