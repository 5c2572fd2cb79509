//! The XML of a backup: which disks of a running domain are copied to where.

use std::collections::BTreeMap;

use crate::error::Result;
use crate::xml::tree::{Document, Element};

use super::author::DiskSource;
use super::media::Medium;

/// What `virDomainBackupBegin` takes to copy the disks with these targets, and none of the others.
pub fn author(all: &[String], copied: &BTreeMap<String, Medium>) -> Result<String> {
    let disk = |target: &String| {
        let element = Element::new("disk").with_attr("name", target);
        match copied.get(target) {
            None => element.with_attr("backup", "no"),
            Some(medium) => {
                let (r#type, attribute, path) = match &medium.source {
                    DiskSource::Volume { path, r#type, .. } if r#type == "block" => {
                        ("block", "dev", path.as_str())
                    }
                    DiskSource::Volume { path, .. } | DiskSource::File(path) => {
                        ("file", "file", path.as_str())
                    }
                    DiskSource::Empty => ("file", "file", ""),
                };
                element
                    .with_attr("backup", "yes")
                    .with_attr("type", r#type)
                    .with_child(Element::new("driver").with_attr("type", &medium.format))
                    .with_child(Element::new("target").with_attr(attribute, path))
            }
        }
    };
    Element::new("domainbackup")
        .with_attr("mode", "push")
        .with_child(Element::new("disks").with_children(all.iter().map(disk)))
        .into_xml()
}

/// The files that a backup under way writes to.
pub fn targets(xml: &str) -> Result<Vec<String>> {
    let document = Document::parse(xml)?;
    let disks = document.expect("domainbackup")?.child("disks");
    let targets = disks.into_iter().flat_map(|disks| disks.children("disk"));
    let path = |disk: &Element<'_>| {
        let target = disk.child("target")?;
        target.attr("file").or_else(|| target.attr("dev")).map(|path| path.into_owned())
    };
    Ok(targets.filter_map(path).collect())
}

#[cfg(test)]
mod tests {
    use super::super::clone::placed;
    use super::*;

    #[test]
    fn the_disks_that_are_not_copied_are_named_as_well() {
        let copied = BTreeMap::from([
            ("vda".to_owned(), placed("p", "a", "/p/a&b", "file", "qcow2")),
            ("vdc".to_owned(), placed("lvm", "c", "/dev/vg/c", "block", "raw")),
        ]);
        let all = ["vda", "sda", "vdc"].map(str::to_owned);
        let xml = author(&all, &copied).unwrap();
        assert_eq!(targets(&xml).unwrap(), ["/p/a&b", "/dev/vg/c"]);
        let document = Document::parse(&xml).unwrap();
        let disks: Vec<_> = document.root().child("disks").unwrap().elements().collect();
        assert_eq!(disks[1].attr("backup").as_deref(), Some("no"));
        assert_eq!(disks[0].find_attr("driver", "type").as_deref(), Some("qcow2"));
        assert_eq!(disks[2].attr("type").as_deref(), Some("block"));
    }
}
