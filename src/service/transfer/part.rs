//! A part of a resumable upload, and the checksum that it may come with.

use sha1::Sha1;
use sha2::{Digest, Sha256};

/// The checksum of a part.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Checksum {
    Sha1([u8; 20]),
    Sha256([u8; 32]),
}

/// A part of an upload, but for its bytes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Part {
    pub offset: u64,
    /// How many bytes, where the request says so.
    pub length: Option<u64>,
    pub checksum: Option<Checksum>,
}

/// A checksum while its part arrives.
pub(super) enum Check {
    Sha1(Sha1, [u8; 20]),
    Sha256(Sha256, [u8; 32]),
}

impl Check {
    pub(super) fn new(checksum: Checksum) -> Self {
        match checksum {
            Checksum::Sha1(expected) => Check::Sha1(Sha1::new(), expected),
            Checksum::Sha256(expected) => Check::Sha256(Sha256::new(), expected),
        }
    }

    pub(super) fn update(&mut self, data: &[u8]) {
        match self {
            Check::Sha1(hash, _) => hash.update(data),
            Check::Sha256(hash, _) => hash.update(data),
        }
    }

    pub(super) fn fits(self) -> bool {
        match self {
            Check::Sha1(hash, expected) => <[u8; 20]>::from(hash.finalize()) == expected,
            Check::Sha256(hash, expected) => <[u8; 32]>::from(hash.finalize()) == expected,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_checksum_fits_its_bytes_alone() {
        let sha1 = Checksum::Sha1(Sha1::digest(b"hello").into());
        let mut check = Check::new(sha1.clone());
        check.update(b"hel");
        check.update(b"lo");
        assert!(check.fits());
        let mut check = Check::new(sha1);
        check.update(b"hello!");
        assert!(!check.fits());
    }
}
