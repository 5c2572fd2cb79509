//! Definitions of VMs, kept small: the picture holds one or two of some KiB for every VM, and they
//! are read seldom. They resemble each other and every other domain XML, so they are packed with a
//! typical one as the dictionary; unpacking takes some microseconds.

use lz4_flex::block::{compress_with_dict, decompress_with_dict};

use crate::error::{Error, Result};

/// What domain XML looks like, stopped and running. It may be changed at will: nothing that was
/// packed outlives the process.
const TYPICAL: &[u8] = include_bytes!("typical.xml");

/// One definition, packed.
#[derive(Clone, PartialEq, Eq)]
pub struct Definition {
    length: usize,
    packed: Box<[u8]>,
}

impl Definition {
    pub fn new(xml: &str) -> Self {
        let packed = compress_with_dict(xml.as_bytes(), TYPICAL).into_boxed_slice();
        Definition { length: xml.len(), packed }
    }

    /// The text.
    ///
    /// # Errors
    /// `Internal`: what was packed can always be unpacked, so a failure is a defect.
    pub fn text(&self) -> Result<String> {
        let bytes = decompress_with_dict(&self.packed, self.length, TYPICAL).map_err(|error| {
            Error::internal("a definition cannot be unpacked").with_source(error)
        })?;
        String::from_utf8(bytes).map_err(Error::internal)
    }
}

impl std::fmt::Debug for Definition {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Definition({} bytes in {})", self.length, self.packed.len())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn what_is_packed_comes_back(text in "\\PC*", times in 0usize..200) {
            let text = text.repeat(times);
            prop_assert_eq!(Definition::new(&text).text().unwrap(), text);
        }
    }

    #[test]
    fn a_usual_definition_takes_a_fraction_of_its_size() {
        let xml = include_str!("../../../tests/corpus/virt-manager.xml");
        let packed = Definition::new(xml);
        assert!(packed.packed.len() * 2 < xml.len(), "{packed:?}");
        assert_eq!(packed.text().unwrap(), xml);
    }
}
