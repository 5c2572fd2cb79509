//! Which pools are refused before libvirt is asked.

use serde_json::{Value, json};
use uuid::Uuid;

use super::*;
use crate::model::host::PoolTypeCapabilities;

fn request(r#type: &str, source: Value, path: Option<&str>) -> CreatePool {
    let mut body = json!({"name": "p", "type": r#type, "source": source});
    if let Some(path) = path {
        body["target"] = json!({"path": path});
    }
    serde_json::from_value(body).unwrap()
}

fn spec(r#type: &str, source: Value, path: Option<&str>) -> Result<PoolSpec> {
    spec_of(&request(r#type, source, path), Uuid::nil())
}

/// One good source of each type, and the target that it needs.
pub(crate) fn good() -> Vec<(&'static str, Value, Option<&'static str>)> {
    let iqn = json!([{"path": "iqn.2013-06.com.example:iscsi-pool"}]);
    let host = json!([{"name": "server.example.org"}]);
    vec![
        ("dir", json!({}), Some("/srv/p")),
        ("fs", json!({"devices": [{"path": "/dev/vdb1"}], "format": "ext4"}), Some("/srv/p")),
        ("netfs", json!({"hosts": host, "dir": "/x", "format": "nfs"}), Some("/srv/p")),
        ("logical", json!({"name": "vg0", "devices": [{"path": "/dev/vdb"}]}), None),
        ("disk", json!({"devices": [{"path": "/dev/vdb"}], "format": "gpt"}), None),
        ("iscsi", json!({"hosts": host, "devices": iqn}), None),
        (
            "iscsi-direct",
            json!({"hosts": host, "devices": iqn, "initiator": "iqn.2013-06.com.example:me"}),
            None,
        ),
        ("scsi", json!({"adapter": {"name": "scsi_host1"}}), None),
        ("mpath", json!({}), None),
        ("rbd", json!({"hosts": [{"name": "a"}, {"name": "b", "port": 6789}], "name": "r"}), None),
        ("sheepdog", json!({"hosts": host, "name": "s"}), None),
        ("gluster", json!({"hosts": host, "name": "g", "dir": "/x"}), None),
        ("zfs", json!({"name": "tank/vms"}), None),
        ("vstorage", json!({"name": "cluster"}), Some("/srv/p")),
    ]
}

fn fields(error: &Error) -> Vec<String> {
    let fields = error.details()["fields"].as_array().unwrap();
    fields.iter().map(|entry| entry["field"].as_str().unwrap().to_owned()).collect()
}

#[test]
fn every_type_takes_its_own_members() {
    let good = good();
    assert_eq!(good.len(), PoolType::ALL.len());
    for (r#type, source, path) in good {
        let spec = spec(r#type, source, path).unwrap_or_else(|error| panic!("{type}: {error:?}"));
        assert_eq!(spec.r#type.as_str(), r#type);
    }
}

#[test]
fn no_type_goes_without_what_it_needs() {
    for (r#type, source, path) in good() {
        let optional: &[&str] = match r#type {
            "fs" | "disk" => &["format"],
            "netfs" => &["format"],
            "logical" => &["name", "devices"],
            "gluster" => &["dir"],
            _ => &[],
        };
        for key in source.as_object().unwrap().keys() {
            let mut less = source.clone();
            less.as_object_mut().unwrap().remove(key);
            let result = spec(r#type, less, path);
            assert_eq!(result.is_ok(), optional.contains(&key.as_str()), "{type} without {key}");
            if let Err(error) = result {
                assert_eq!(fields(&error), [format!("source.{key}")], "{type}");
            }
        }
        if path.is_some() {
            let error = spec(r#type, source, None).unwrap_err();
            assert_eq!(fields(&error), ["target.path"], "{type}");
        }
    }
}

#[test]
fn no_type_takes_what_it_does_not_know() {
    let all = json!({
        "dir": "/x", "name": "n", "format": "ext4", "adapter": {"name": "scsi_host1"},
        "initiator": "iqn.2013-06.com.example:me", "protocol_version": "4",
        "hosts": [{"name": "h"}], "devices": [{"path": "/dev/vdc"}],
        "auth": {"type": "chap", "username": "u", "secret": {"usage": "s"}},
    });
    for (r#type, source, path) in good() {
        let known: &[&str] = match r#type {
            "fs" | "disk" => &["format"],
            "netfs" => &["format", "protocol_version"],
            "logical" => &["name", "format", "devices"],
            "iscsi" => &["initiator", "auth"],
            "iscsi-direct" => &["auth"],
            // Ceph's own kind of it.
            "rbd" => &[],
            "gluster" => &["dir"],
            "zfs" => &["devices"],
            _ => &[],
        };
        for (key, value) in all.as_object().unwrap() {
            if source.get(key).is_some() {
                continue;
            }
            let mut more = source.clone();
            more[key] = value.clone();
            let result = spec(r#type, more, path);
            assert_eq!(result.is_ok(), known.contains(&key.as_str()), "{type} with {key}");
        }
    }
}

#[test]
fn paths_are_absolute_and_normalised_and_not_the_systems() {
    for good in ["/srv/p", "/var/lib/libvirt/images", "/home/ann/vms", "/a b/ä", "/usrlocal"] {
        assert!(spec("dir", json!({}), Some(good)).is_ok(), "{good}");
    }
    for bad in [
        "",
        "x",
        "./x",
        "/",
        "//",
        "/x/",
        "/x//y",
        "/x/./y",
        "/x/../y",
        "/..",
        "/etc",
        "/usr/x",
        "/proc/self/root",
        "/dev/shm/x",
        "/var",
    ] {
        let error = spec("dir", json!({}), Some(bad)).err().unwrap_or_else(|| panic!("{bad}"));
        assert_eq!(fields(&error), ["target.path"], "{bad}");
    }
    for bad in ["vdb", "/dev/../etc/passwd", "/etc/passwd", "/dev/vdb/", "/devices"] {
        for (r#type, path) in [("disk", None), ("fs", Some("/srv/p")), ("logical", None)] {
            let source = json!({"devices": [{"path": bad}]});
            let error = spec(r#type, source, path).unwrap_err();
            assert_eq!(fields(&error), ["source.devices[0].path"], "{type}: {bad}");
        }
    }
    for bad in ["a/b", "..", "-x", "a:b"] {
        let error = spec("logical", json!({"name": bad}), None).unwrap_err();
        assert_eq!(fields(&error), ["source.name"], "{bad}");
    }
    assert!(spec("zfs", json!({"name": "tank/../other"}), None).is_err());
}

#[test]
fn what_the_type_implies_needs_not_be_said() {
    let disk = spec("disk", json!({"devices": [{"path": "/dev/vdb"}]}), None).unwrap();
    assert_eq!(disk.target.path.as_deref(), Some("/dev"));
    let logical = spec("logical", json!({}), None).unwrap();
    assert_eq!((logical.source.name.as_deref(), logical.target.path), (Some("p"), None));
}

#[test]
fn what_is_built_is_said_and_devices_are_overwritten_by_order_alone() {
    let of = |r#type: &str, source: Value, path, build: Option<bool>, overwrite| {
        let mut request = request(r#type, source, path);
        (request.build, request.overwrite) = (build, overwrite);
        making(&request, &spec_of(&request, Uuid::nil()).unwrap())
    };
    for (r#type, source, path) in good() {
        let folder = matches!(r#type, "dir" | "netfs" | "vstorage" | "fs");
        let wanted = folder.then_some(BuildMode::Folder);
        let as_it_is = of(r#type, source.clone(), path, None, false);
        if r#type == "logical" {
            // A volume group that is there is found by its name.
            assert_eq!(as_it_is.unwrap_err().kind(), Kind::Impossible);
        } else {
            assert_eq!(as_it_is.unwrap(), wanted, "{type}");
        }
        let built = of(r#type, source.clone(), path, Some(true), false);
        let wanted = match r#type {
            "dir" | "netfs" | "vstorage" => Some(BuildMode::Folder),
            "fs" | "logical" | "disk" => Some(BuildMode::Careful),
            // Nothing to build on.
            _ => None,
        };
        assert_eq!(built.ok().flatten(), wanted, "{type}");
        let over = of(r#type, source.clone(), path, Some(true), true);
        let can = matches!(r#type, "fs" | "logical" | "disk");
        assert_eq!(over.ok().flatten(), can.then_some(BuildMode::Overwrite), "{type}");
        assert!(of(r#type, source, path, None, true).is_err(), "{type}: overwrite without build");
    }
    let tank = json!({"name": "tank", "devices": [{"path": "/dev/vdb"}]});
    assert_eq!(of("zfs", tank, None, Some(true), false).unwrap(), Some(BuildMode::Folder));
}

#[test]
fn what_the_host_cannot_do_is_refused_with_the_reason() {
    let fs = spec("fs", json!({"devices": [{"path": "/dev/a"}], "format": "ext4"}), Some("/srv/p"))
        .unwrap();
    let logical = spec("logical", json!({}), None).unwrap();
    let known = |r#type: &str, supported| PoolTypeCapabilities {
        r#type: r#type.to_owned(),
        supported,
        source_formats: vec!["auto".to_owned(), "xfs".to_owned()],
        ..PoolTypeCapabilities::default()
    };
    let mut capabilities = Capabilities::default();
    assert!(supported(None, &fs).is_ok() && supported(Some(&capabilities), &fs).is_ok());
    capabilities.storage_pools = vec![known("fs", true), known("logical", false)];
    let error = supported(Some(&capabilities), &logical).unwrap_err();
    assert_eq!(error.kind(), Kind::NotSupported);
    assert_eq!(error.details()["supported"], json!(["fs"]));
    assert!(error.hint().contains("libvirt-daemon-driver-storage-logical"), "{}", error.hint());
    let error = supported(Some(&capabilities), &fs).unwrap_err();
    assert_eq!(fields(&error), ["source.format"]);
    capabilities.storage_pools[0].source_formats.push("ext4".to_owned());
    assert!(supported(Some(&capabilities), &fs).is_ok());
}
