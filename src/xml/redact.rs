//! Definitions without their secrets, for logs, diffs and everybody who may not see them.
//!
//! libvirt leaves these out of XML that is read without `VIR_DOMAIN_XML_SECURE`; a definition that
//! a client sends, or that was read to be edited, has them.

use crate::error::Result;

use super::tree::{Document, Element};

/// The same document without passwords of consoles and cookies of network disks. References to
/// libvirt secrets stay: they are names. A document without secrets comes back byte for byte.
pub fn redact(xml: &str) -> Result<String> {
    let mut document = Document::parse(xml)?;
    remove_secrets(document.root_mut());
    document.to_xml()
}

/// At any depth: a snapshot holds whole domains, a disk holds its backing chain.
fn remove_secrets(element: &mut Element<'_>) {
    match element.name() {
        "graphics" => element.remove_attr("passwd"),
        "source" | "mirror" => {
            element.remove_child("cookies");
        }
        _ => {}
    }
    element.elements_mut().for_each(remove_secrets);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn passwords_and_cookies_are_removed_and_nothing_else() {
        let xml = "<domainsnapshot><domain><devices>
  <graphics type='vnc' passwd='pw1' passwdValidTo='2030-01-01T00:00:00'/>
  <disk><source protocol='https' name='x'>
    <host name='h'/>
    <cookies>
      <cookie name='c'>pw2</cookie>
    </cookies>
  </source><auth username='u'><secret type='ceph' uuid='1'/></auth></disk>
</devices></domain></domainsnapshot>";
        let redacted = redact(xml).unwrap();
        assert!(!redacted.contains("pw1") && !redacted.contains("pw2"), "{redacted}");
        assert_eq!(
            redacted,
            xml.replace(" passwd='pw1'", "").replace(
                "\n    <cookies>\n      <cookie name='c'>pw2</cookie>\n    </cookies>",
                ""
            )
        );
    }

    #[test]
    fn a_document_without_secrets_is_not_touched() {
        let xml = "<a  passwd = \"x\"><passwd>y</passwd><!-- z --></a>\n";
        assert_eq!(redact(xml).unwrap(), xml);
    }
}
