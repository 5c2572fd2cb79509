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

/// The domain `new` with the console passwords and the cookies that `old`, read with its secrets,
/// has and `new` leaves out: whoever edits a definition read without secrets means to keep them. A
/// console is the same if it is of the same type, a disk if it has the same target and source name.
pub fn keep_secrets(new: &str, old: &str) -> Result<String> {
    let before = Document::parse(old)?;
    let mut after = Document::parse(new)?;
    let Some(known) = before.root().child("devices") else { return after.to_xml() };
    let Some(devices) = after.root_mut().child_mut("devices") else { return after.to_xml() };
    for device in devices.elements_mut() {
        match device.name() {
            "graphics" if device.attr("passwd").is_none() => {
                let kind = device.attr("type").map(|kind| kind.into_owned());
                let password = known
                    .children("graphics")
                    .find(|graphics| graphics.attr("type").as_deref() == kind.as_deref())
                    .and_then(|graphics| graphics.attr("passwd"));
                if let Some(password) = password {
                    device.set_attr("passwd", password);
                }
            }
            "disk" => {
                let place = |disk: &Element<'_>| {
                    (disk.find_attr("target", "dev"), disk.find_attr("source", "name"))
                };
                let here = place(device);
                let cookies = known
                    .children("disk")
                    .find(|disk| place(disk) == here)
                    .and_then(|disk| disk.find("source/cookies"));
                if let (Some(cookies), Some(source)) = (cookies, device.child_mut("source"))
                    && source.child("cookies").is_none()
                {
                    source.push_child(cookies.clone());
                }
            }
            _ => {}
        }
    }
    after.to_xml()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_edited_without_its_secrets_keeps_them() {
        let old = "<domain><name>a</name><devices>\
<disk><source protocol='https' name='x'><cookies><cookie name='c'>1</cookie></cookies></source>\
<target dev='vda'/></disk><graphics type='vnc' passwd='pw'/></devices></domain>";
        let edited = redact(old).unwrap().replace("<name>a</name>", "<name>b</name>");
        let kept = keep_secrets(&edited, old).unwrap();
        assert!(kept.contains("passwd=") && kept.contains("pw"), "{kept}");
        assert!(kept.contains("<cookie name='c'>1</cookie>") && kept.contains("<name>b</name>"));
    }

    #[test]
    fn a_new_secret_replaces_the_old_one_and_a_removed_console_takes_its_own_along() {
        let old = "<domain><devices><graphics type='vnc' passwd='pw'/></devices></domain>";
        let new = "<domain><devices><graphics type='vnc' passwd='new'/></devices></domain>";
        assert_eq!(keep_secrets(new, old).unwrap(), new);
        let none = "<domain><devices><graphics type='spice'/></devices></domain>";
        assert_eq!(keep_secrets(none, old).unwrap(), none);
    }

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
