//! Definitions of VMs, kept small: the picture holds one or two of some KiB for every VM, and they
//! are read seldom. They resemble each other and every other domain XML, so they are packed with a
//! typical one as the dictionary; unpacking takes some microseconds.

use lz4_flex::block::{compress_with_dict, decompress_with_dict};

use crate::error::{Error, Result};
use crate::service::page::stable_hash;

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

/// A 64-bit hash of what a definition says. Space between elements says nothing: libvirt writes that of
/// metadata in one way after a change and in another after it was restarted.
pub fn definition_hash(xml: &str) -> u64 {
    let mut said = Vec::with_capacity(xml.len());
    let mut rest = xml.as_bytes();
    while let Some(end) = rest.iter().position(|byte| *byte == b'>') {
        let (tag, after) = rest.split_at(end + 1);
        said.extend_from_slice(tag);
        let next = after.trim_ascii_start();
        rest = if matches!(next.first(), None | Some(b'<')) { next } else { after };
    }
    said.extend_from_slice(rest);
    stable_hash(&said)
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
    fn space_between_elements_says_nothing_and_all_else_does() {
        let hash = definition_hash("<a>\n  <b c='d'/>\n</a>\n");
        assert_eq!(hash, definition_hash("<a><b c='d'/></a>"));
        for other in ["<a><b c='d '/></a>", "<a> x<b c='d'/></a>", "<a><b c='e'/></a>", "<a/>", ""]
        {
            assert_ne!(hash, definition_hash(other), "{other}");
        }
        assert_ne!(definition_hash("<a>x y</a>"), definition_hash("<a>x  y</a>"));
        assert_ne!(definition_hash("<a>x</a>"), definition_hash("<a> x</a>"));
    }

    #[test]
    fn a_usual_definition_takes_a_fraction_of_its_size() {
        let xml = include_str!("../../../tests/corpus/virt-manager.xml");
        let packed = Definition::new(xml);
        assert!(packed.packed.len() * 2 < xml.len(), "{packed:?}");
        assert_eq!(packed.text().unwrap(), xml);
    }
}
