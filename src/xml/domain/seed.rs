//! What a definition's metadata says of the disk that a guest's cloud-init reads.

use crate::error::Result;
use crate::xml::tree::Document;

use super::{METADATA_URI, view};

/// The definition with another instance-id and host name of its seed; one without a seed comes back
/// as it is. `InvalidDefinition` if `xml` is not a domain.
pub fn set_seed(xml: &str, instance_id: &str, hostname: Option<&str>) -> Result<String> {
    let mut document = Document::parse(xml)?;
    mark(&mut document, instance_id, hostname)?;
    document.to_xml()
}

/// Vapor's metadata element of a domain with another instance-id and host name of its seed, in the
/// form of [`super::edit::vapor_metadata`]; none if it has no seed.
pub fn seed_metadata(
    xml: &str,
    instance_id: &str,
    hostname: Option<&str>,
) -> Result<Option<String>> {
    let mut document = Document::parse(xml)?;
    mark(&mut document, instance_id, hostname)?;
    let metadata = document.root().child("metadata");
    let own = metadata.and_then(|metadata| metadata.child_in(METADATA_URI, "vm"));
    own.map(|own| own.clone().without_namespace(METADATA_URI).into_xml()).transpose()
}

fn mark(document: &mut Document<'_>, instance_id: &str, hostname: Option<&str>) -> Result<()> {
    let domain = document.root_mut();
    view::expect_domain(domain)?;
    let seed = domain
        .child_mut("metadata")
        .and_then(|metadata| metadata.child_in_mut(METADATA_URI, "vm"))
        .and_then(|own| own.child_in_mut(METADATA_URI, "seed"));
    let Some(seed) = seed else { return Ok(()) };
    seed.set_attr("instance-id", instance_id);
    match hostname {
        Some(hostname) => seed.set_attr("hostname", hostname),
        None => seed.remove_attr("hostname"),
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    const XML: &str = "<domain><name>a</name><metadata><vapor:vm xmlns:vapor='urn:vapor:vm:1'>\
<vapor:seed target='vdb' instance-id='i-1' hostname='a'/><vapor:owner>me</vapor:owner></vapor:vm>\
</metadata></domain>";

    #[test]
    fn a_seed_is_renamed_and_nothing_else() {
        let changed = set_seed(XML, "i-2", None).unwrap();
        assert_eq!(changed, XML.replace("'i-1' hostname='a'", "'i-2'"));
        let live = seed_metadata(XML, "i-2", Some("b")).unwrap().unwrap();
        assert!(live.contains("i-2") && live.contains("'b'") && !live.contains("xmlns"), "{live}");
        let none = "<domain><name>a</name></domain>";
        assert_eq!(set_seed(none, "i", None).unwrap(), none);
        assert_eq!(seed_metadata(none, "i", None).unwrap(), None);
    }
}
