//! Hashes of passwords, as a guest's `/etc/shadow` holds them.

use sha_crypt::{PasswordHasher, ShaCrypt};

use crate::error::{Error, Result};
use crate::model::Secret;

/// SHA-512 crypt with a salt of its own, which every guest's C library understands.
pub(super) fn hash(password: &Secret) -> Result<String> {
    ShaCrypt::default()
        .hash_password(password.reveal().as_bytes())
        .map(|hash| hash.as_str().to_owned())
        .map_err(|_| Error::internal("a password could not be hashed"))
}

#[cfg(test)]
mod tests {
    use sha_crypt::{PasswordHash, PasswordVerifier};

    use super::*;

    #[test]
    fn a_hash_fits_its_password_and_no_other() {
        let hashed = hash(&Secret::from("sesame".to_owned())).unwrap();
        assert!(hashed.starts_with("$6$"), "{hashed}");
        let parsed = PasswordHash::new(&hashed).unwrap();
        assert!(ShaCrypt::default().verify_password(b"sesame", &parsed).is_ok());
        assert!(ShaCrypt::default().verify_password(b"other", &parsed).is_err());
        assert_ne!(hash(&Secret::from("sesame".to_owned())).unwrap(), hashed, "a salt each");
    }
}
