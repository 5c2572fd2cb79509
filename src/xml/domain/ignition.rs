//! What a definition says of the Ignition config that its guest is told.
//!
//! The config lies in a file that QEMU hands on by its firmware configuration device (fw_cfg), or, on
//! machines that have none, on a disk with the serial number that Ignition looks for. Vapor's metadata
//! says that it is Vapor's, and what can be known of it without reading it.

use crate::model::{Disk, IgnitionState};
use crate::xml::tree::Element;

use super::METADATA_URI;

/// The name under which Ignition looks for its config in fw_cfg.
pub const FW_CFG_NAME: &str = "opt/com.coreos/config";
/// The serial number of the disk that Ignition reads where there is no fw_cfg.
pub const DISK_SERIAL: &str = "ignition";

/// The file of the config in fw_cfg, whoever has put it there.
pub(super) fn file(domain: &Element<'_>) -> Option<String> {
    entries(domain).find_map(|entry| entry.attr("file").map(|file| file.into_owned()))
}

fn entries<'e, 'a: 'e>(domain: &'e Element<'a>) -> impl Iterator<Item = &'e Element<'a>> {
    domain
        .children("sysinfo")
        .filter(|info| is_fw_cfg(info))
        .flat_map(|info| info.elements().filter(|entry| is_config(entry)))
}

fn is_fw_cfg(element: &Element<'_>) -> bool {
    element.is("sysinfo") && element.attr("type").as_deref() == Some("fwcfg")
}

fn is_config(element: &Element<'_>) -> bool {
    element.is("entry") && element.attr("name").as_deref() == Some(FW_CFG_NAME)
}

/// What Vapor's metadata element says, as long as the config is where it should be.
pub(super) fn state(
    mark: &Element<'_>,
    domain: &Element<'_>,
    disks: &[Disk],
) -> Option<IgnitionState> {
    let attr = |name: &str| mark.attr(name).map(|value| value.into_owned());
    let version = attr("version").unwrap_or_default();
    match attr("target") {
        None => {
            let file = Some(file(domain)?);
            Some(IgnitionState { version, file, ..IgnitionState::default() })
        }
        Some(target) => {
            let disk = disks.iter().find(|disk| disk.target == target && disk.read_only)?;
            let (file, volume) = (disk.source.clone(), disk.volume.clone());
            Some(IgnitionState { version, file, volume, target: Some(target) })
        }
    }
}

/// Takes Vapor's config out of a definition, all but its disk, whose target is returned: another
/// machine is told its own.
pub(super) fn take(domain: &mut Element<'_>) -> Option<String> {
    let own = domain.child_mut("metadata")?.child_in_mut(METADATA_URI, "vm")?;
    let mark = own.child_in(METADATA_URI, "ignition")?;
    let target = mark.attr("target").map(|target| target.into_owned());
    own.retain_elements(|element| !element.is_in(METADATA_URI, "ignition"));
    if target.is_none() {
        for info in domain.elements_mut().filter(|element| is_fw_cfg(element)) {
            info.retain_elements(|entry| !is_config(entry));
        }
        // libvirt refuses one without entries.
        domain.retain_elements(|info| !is_fw_cfg(info) || info.elements().next().is_some());
    }
    target
}

#[cfg(test)]
mod tests {
    use super::super::view;
    use super::*;
    use crate::xml::tree::Document;

    const XML: &str = "<domain><name>a</name><metadata><vapor:vm xmlns:vapor='urn:vapor:vm:1'>\
<vapor:ignition version='3.4.0'/><vapor:owner>me</vapor:owner></vapor:vm></metadata>\
<sysinfo type='smbios'><system/></sysinfo><sysinfo type='fwcfg'>\
<entry name='opt/com.coreos/config' file='/p/a.ign'/></sysinfo></domain>";

    fn taken(xml: &str) -> String {
        let mut document = Document::parse(xml).unwrap();
        assert_eq!(take(document.root_mut()), None);
        document.to_xml().unwrap()
    }

    #[test]
    fn it_is_shown_as_long_as_it_is_there() {
        let shown = view::parse(XML).unwrap().ignition.unwrap();
        assert_eq!((shown.version.as_str(), shown.file.as_deref()), ("3.4.0", Some("/p/a.ign")));
        let gone = XML.replace("opt/com.coreos/config", "opt/other");
        assert_eq!(view::parse(&gone).unwrap().ignition, None);
        let foreign = XML.replace("<vapor:ignition version='3.4.0'/>", "");
        assert_eq!(view::parse(&foreign).unwrap().ignition, None);
        // Whoever has written it there, the file is read.
        assert_eq!(view::read(&foreign).unwrap().below.len(), 1);
    }

    #[test]
    fn taking_it_leaves_what_others_have_written() {
        let without = taken(XML);
        assert!(!without.contains("fwcfg") && !without.contains("ignition"), "{without}");
        assert!(without.contains("smbios") && without.contains("owner"), "{without}");
        let more =
            XML.replace("</sysinfo></domain>", "<entry name='opt/x'>1</entry></sysinfo></domain>");
        let without = taken(&more);
        assert!(without.contains("opt/x") && !without.contains("coreos"), "{without}");
        let foreign = XML.replace("<vapor:ignition version='3.4.0'/>", "");
        assert_eq!(taken(&foreign), foreign);
    }
}
