//! Whose the firmware's variables are.
//!
//! libvirt keeps the state of an emulated TPM by the VM's UUID, but names the file of the firmware's
//! variables (NVRAM) after the VM when it first sees its definition, and the file keeps that name
//! when the VM is renamed. A VM of that name made later would share the file, and one made after
//! `virsh undefine --keep-nvram` would inherit it. So Vapor names the file after the UUID, in the
//! folder that libvirt chose.

use uuid::Uuid;

use crate::error::Result;
use crate::xml::tree::{Document, Element};

/// The definition of a new VM with variables that are its own alone; `None` if libvirt has not
/// chosen a file for them, as for BIOS, or has chosen such a one.
pub fn own_variables(xml: &str, uuid: Uuid) -> Result<Option<String>> {
    let mut document = Document::parse(xml)?;
    let Some(os) = document.root_mut().child_mut("os") else { return Ok(None) };
    if !rename_file(os, uuid) {
        return Ok(None);
    }
    document.to_xml().map(Some)
}

/// Names the file after the UUID; false if there is no file, or it is named so.
fn rename_file(os: &mut Element<'_>, uuid: Uuid) -> bool {
    if let Some(store) = os.child_mut("varstore") {
        let renamed = store.attr("path").and_then(|path| renamed(&path, uuid));
        let known = renamed.is_some();
        if let Some(path) = renamed {
            store.set_attr("path", path);
        }
        return known;
    }
    let Some(nvram) = os.child_mut("nvram") else { return false };
    match nvram.child_mut("source") {
        Some(source) => {
            let renamed = source.attr("file").and_then(|path| renamed(&path, uuid));
            let known = renamed.is_some();
            if let Some(path) = renamed {
                source.set_attr("file", path);
            }
            known
        }
        None => {
            let renamed = renamed(nvram.text().trim(), uuid);
            let known = renamed.is_some();
            if let Some(path) = renamed {
                nvram.set_text(path);
            }
            known
        }
    }
}

/// A file of the same folder and kind that is named after the UUID.
fn renamed(path: &str, uuid: Uuid) -> Option<String> {
    let (folder, file) = path.rsplit_once('/')?;
    let kind = file.rsplit_once('.').map_or("fd", |(_, kind)| kind);
    let renamed = format!("{folder}/{uuid}_VARS.{kind}");
    (renamed != path).then_some(renamed)
}

#[cfg(test)]
mod tests {
    use super::*;

    const UUID: Uuid = Uuid::from_u128(0x3f0c_b1e6_8a68_4a55_8d3f_5f6c_1b1f_4a11);
    const FILE: &str = "3f0cb1e6-8a68-4a55-8d3f-5f6c1b1f4a11_VARS";

    fn domain(os: &str) -> String {
        ["<domain><os>", os, "</os><devices/></domain>"].concat()
    }

    #[test]
    fn variables_are_named_after_the_uuid_in_libvirts_folder_and_the_template_stays() {
        let xml = domain("<nvram template='/t.fd' format='raw'>/n/web1_VARS.fd</nvram>");
        let own = own_variables(&xml, UUID).unwrap().unwrap();
        let path = format!("/n/{FILE}.fd");
        assert_eq!(own, xml.replace("/n/web1_VARS.fd", &path));
        assert_eq!(own_variables(&own, UUID).unwrap(), None);
        let file = domain("<nvram type='file'><source file='/n/a.qcow2'/></nvram>");
        let own = own_variables(&file, UUID).unwrap().unwrap();
        assert!(own.contains(&format!("/n/{FILE}.qcow2")), "{own}");
        let store = domain("<varstore template='/t.json' path='/n/a.json'/>");
        let own = own_variables(&store, UUID).unwrap().unwrap();
        assert!(own.contains(&format!("/n/{FILE}.json")), "{own}");
    }

    #[test]
    fn where_libvirt_chose_no_file_nothing_is_changed() {
        for os in ["<type>hvm</type>", "<nvram template='/t.fd'/>", ""] {
            assert_eq!(own_variables(&domain(os), UUID).unwrap(), None);
        }
        assert_eq!(own_variables("<domain/>", UUID).unwrap(), None);
    }
}
