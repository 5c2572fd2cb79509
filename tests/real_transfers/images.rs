//! Images as qemu-img makes them, and what the tests ask of them.

use std::path::Path;
use std::process::Command;

use sha2::{Digest, Sha256};

use super::support::World;
use super::support::lab::run;

/// The pool's path in the API.
pub const POOL: &str = "/api/v1/virtualization/storages/pools/lab";

/// Bytes that do not repeat.
pub fn bytes(seed: u64, length: usize) -> Vec<u8> {
    let mut state = seed.wrapping_mul(0x9E37_79B9_7F4A_7C15) | 1;
    let mut all = Vec::with_capacity(length + 8);
    while all.len() < length {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        all.extend_from_slice(&state.to_le_bytes());
    }
    all.truncate(length);
    // no format begins so
    all[..4].copy_from_slice(b"data");
    all
}

pub fn sha256(bytes: &[u8]) -> String {
    Sha256::digest(bytes).iter().map(|byte| format!("{byte:02x}")).collect()
}

/// An image of `mib` MiB whose first MiB is `pattern`, as qemu-img writes it.
pub fn image(folder: &Path, format: &str, mib: u64, options: &[&str]) -> Vec<u8> {
    let raw = folder.join(format!("{format}.raw"));
    let made = folder.join(format!("image.{format}"));
    let mut content = bytes(mib, 1 << 20);
    content.resize(usize::try_from(mib << 20).unwrap(), 0);
    std::fs::write(&raw, content).unwrap();
    let mut command = Command::new("qemu-img");
    command.args(["convert", "-f", "raw", "-O", format]).args(options).arg(&raw).arg(&made);
    run(&mut command);
    std::fs::read(made).unwrap()
}

/// What the first MiB of an image's content must be, after [`image`].
pub fn assert_content(world: &World, name: &str, format: &str, mib: u64) {
    let path = world.lab.pool_file(name);
    let raw = world.daemon.settings().folder.join(format!("{name}.check"));
    let mut command = Command::new("qemu-img");
    run(command.args(["convert", "-f", format, "-O", "raw", &path]).arg(&raw));
    let content = std::fs::read(&raw).unwrap();
    assert_eq!(content.len() as u64, mib << 20, "{name}");
    assert!(content[..1 << 20] == bytes(mib, 1 << 20)[..], "{name} has another content");
    assert!(content[1 << 20..].iter().all(|byte| *byte == 0), "{name} has another content");
}
