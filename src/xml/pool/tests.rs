//! Pools read, written and changed; what is written is held to libvirt's own schema.

use std::io::Write;
use std::process::{Command, Stdio};

use super::*;

#[test]
fn a_pool_is_read_with_its_sizes() {
    let pool = parse_pool(
        "<pool type='dir'>
  <name>a &amp; b</name>
  <uuid>dfe224cb-28fb-8dd0-c4b2-64eb3f0f4566</uuid>
  <capacity unit='bytes'>107374182400</capacity>
  <allocation unit='KiB'>4</allocation>
  <available>107374178304</available>
  <source>
  </source>
  <target>
<path>/var/lib/libvirt/images</path>
<permissions><mode>0711</mode></permissions>
  </target>
</pool>",
    )
    .unwrap();
    assert_eq!((pool.name.as_str(), pool.r#type.as_str()), ("a & b", "dir"));
    assert_eq!(pool.uuid.to_string(), "dfe224cb-28fb-8dd0-c4b2-64eb3f0f4566");
    assert_eq!(
        (pool.capacity_bytes, pool.allocation_bytes, pool.available_bytes),
        (107_374_182_400, 4096, 107_374_178_304)
    );
    assert_eq!(pool.target_path.as_deref(), Some("/var/lib/libvirt/images"));
}

#[test]
fn a_pool_without_a_place_on_the_host_has_none() {
    let pool = parse_pool(
        "<pool type='rbd'><name>p</name><source><host name='h'/><name>rbd</name></source></pool>",
    )
    .unwrap();
    assert_eq!((pool.name.as_str(), pool.target_path), ("p", None));
    assert_eq!(pool.capacity_bytes, 0);
}

#[test]
fn another_document_is_refused() {
    assert!(parse_pool("<volume/>").is_err());
}

/// One definition of each type, with everything that it can have.
fn specs() -> Vec<PoolSpec> {
    let uuid = "dfe224cb-28fb-8dd0-c4b2-64eb3f0f4566".parse().unwrap();
    let host = |name: &str, port| PoolHost { name: name.to_owned(), port };
    let device = |path: &str| PoolDevice { path: path.to_owned() };
    let text = |text: &str| Some(text.to_owned());
    let target = |path: &str| PoolTarget { path: text(path), permissions: None };
    let auth = |r#type, secret| Some(PoolAuth { r#type, username: "<u&>".to_owned(), secret });
    let usage = SecretRef { uuid: None, usage: text("it's \"mine\"") };
    let iqn = "iqn.2013-06.com.example:iscsi-pool";
    let of = |r#type, source, target| PoolSpec {
        uuid,
        name: "<a> & 'b'".to_owned(),
        r#type,
        source,
        target,
        features: PoolFeatures::default(),
    };
    let none = PoolSource::default;
    let owned = PoolTarget {
        path: text("/srv/a & b"),
        permissions: Some(PoolPermissions { mode: text("0711"), owner: Some(107), group: Some(0) }),
    };
    let hosts = vec![host("server.example.org", None)];
    let mut dir = of(PoolType::Dir, none(), owned);
    dir.features.cow = Some(false);
    vec![
        dir,
        of(
            PoolType::Fs,
            PoolSource { devices: vec![device("/dev/vdb1")], format: text("ext4"), ..none() },
            target("/srv/fs"),
        ),
        of(
            PoolType::Netfs,
            PoolSource {
                hosts: vec![host("192.0.2.1", Some(2049))],
                dir: text("/srv/<vms>"),
                format: text("nfs"),
                protocol_version: text("4.2"),
                ..none()
            },
            target("/srv/nas"),
        ),
        of(
            PoolType::Logical,
            PoolSource {
                devices: vec![device("/dev/vdb"), device("/dev/vdc")],
                name: text("vg0"),
                format: text("lvm2"),
                ..none()
            },
            target("/dev/vg0"),
        ),
        of(
            PoolType::Disk,
            PoolSource { devices: vec![device("/dev/vdb")], format: text("gpt"), ..none() },
            target("/dev"),
        ),
        of(
            PoolType::Iscsi,
            PoolSource {
                hosts: vec![host("fd00::1", Some(3260))],
                devices: vec![device(iqn)],
                initiator: text("iqn.2013-06.com.example:me"),
                auth: auth(AuthType::Chap, usage.clone()),
                ..none()
            },
            target("/dev/disk/by-path"),
        ),
        of(
            PoolType::IscsiDirect,
            PoolSource {
                hosts: hosts.clone(),
                devices: vec![device(iqn)],
                initiator: text("iqn.2013-06.com.example:me"),
                auth: auth(AuthType::Chap, usage),
                ..none()
            },
            PoolTarget::default(),
        ),
        of(
            PoolType::Scsi,
            PoolSource {
                adapter: Some(PoolAdapter { name: text("scsi_host1"), ..PoolAdapter::default() }),
                ..none()
            },
            target("/dev/disk/by-path"),
        ),
        of(
            PoolType::Scsi,
            PoolSource {
                adapter: Some(PoolAdapter {
                    r#type: AdapterType::FcHost,
                    name: None,
                    parent: text("scsi_host3"),
                    managed: Some(true),
                    wwnn: text("5001a4a93526d0a1"),
                    wwpn: text("5001a4ace3ee047d"),
                }),
                ..none()
            },
            target("/dev/disk/by-path"),
        ),
        of(PoolType::Mpath, none(), target("/dev/mapper")),
        of(
            PoolType::Rbd,
            PoolSource {
                hosts: vec![host("mon1", Some(6789)), host("mon2", None)],
                name: text("vms"),
                auth: auth(AuthType::Ceph, SecretRef { uuid: Some(uuid), usage: None }),
                ..none()
            },
            PoolTarget::default(),
        ),
        of(
            PoolType::Sheepdog,
            PoolSource { hosts: hosts.clone(), name: text("sheep"), ..none() },
            PoolTarget::default(),
        ),
        of(
            PoolType::Gluster,
            PoolSource { hosts, name: text("volume"), dir: text("/deep"), ..none() },
            PoolTarget::default(),
        ),
        of(
            PoolType::Zfs,
            PoolSource { name: text("tank"), devices: vec![device("/dev/vdb")], ..none() },
            PoolTarget::default(),
        ),
        of(
            PoolType::Vstorage,
            PoolSource { name: text("cluster"), ..none() },
            target("/srv/cluster"),
        ),
    ]
}

#[test]
fn an_authored_pool_reads_as_it_was_specified() {
    for spec in specs() {
        let pool = parse_pool(&author_pool(&spec).unwrap()).unwrap();
        assert_eq!((&pool.name, pool.uuid), (&spec.name, spec.uuid));
        assert_eq!(pool.r#type, spec.r#type.as_str());
        assert_eq!(pool.source, spec.source, "{}", pool.r#type);
        assert_eq!(pool.target, spec.target, "{}", pool.r#type);
        assert_eq!(pool.features, spec.features, "{}", pool.r#type);
        assert_eq!(pool.target_path, spec.target.path);
    }
}

#[test]
fn libvirts_schema_accepts_every_type_as_it_is_authored() {
    if Command::new("virt-xml-validate").arg("--version").output().is_err() {
        println!("skipped: needs virt-xml-validate");
        return;
    }
    let specs = specs();
    for r#type in PoolType::ALL {
        assert!(specs.iter().any(|spec| spec.r#type == r#type), "{type:?} is not held to it");
    }
    for spec in specs {
        let xml = author_pool(&spec).unwrap();
        validate(&xml);
        // And after a change of what can be changed.
        let source = PoolSource { format: spec.source.format.clone(), ..PoolSource::default() };
        validate(&edit_pool(&xml, Some(&source), Some(&spec.target), None).unwrap());
    }
}

#[track_caller]
fn validate(xml: &str) {
    let mut child = Command::new("virt-xml-validate")
        .args(["-", "storagepool"])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    child.stdin.take().unwrap().write_all(xml.as_bytes()).unwrap();
    let output = child.wait_with_output().unwrap();
    assert!(output.status.success(), "{output:?}\n{xml}");
}

#[test]
fn an_edit_touches_only_what_it_names() {
    let xml = "<pool type='netfs' xmlns:fs='http://libvirt.org/schemas/storagepool/fs/1.0'>
  <name>nas</name>
  <!-- somebody's note -->
  <source>
    <host name='old'/>
    <dir path='/x'/>
    <format type='nfs'/>
    <vendor name='Acme'/>
  </source>
  <target>
    <path>/srv/nas</path>
    <permissions>
      <mode>0711</mode>
      <owner>5</owner>
    </permissions>
  </target>
  <fs:mount_opts>
    <fs:option name='sync'/>
  </fs:mount_opts>
</pool>
";
    let source = PoolSource {
        hosts: vec![PoolHost { name: "n&w".to_owned(), port: None }],
        ..PoolSource::default()
    };
    let permissions = PoolPermissions { mode: Some("0700".to_owned()), owner: None, group: None };
    let target = PoolTarget { path: None, permissions: Some(permissions) };
    let edited = edit_pool(xml, Some(&source), Some(&target), None).unwrap();
    let wanted = xml.replace("'old'", "\"n&amp;w\"").replace("0711", "0700");
    let unquoted = |text: &str| text.replace('"', "'");
    assert_eq!(unquoted(&edited), unquoted(&wanted));
    assert_eq!(edit_pool(xml, None, None, None).unwrap(), xml);
    assert!(edit_pool("<network/>", None, None, None).is_err());
}

#[test]
fn volume_groups_are_read_from_what_libvirt_found() {
    let found = "<sources>
  <source>
    <device path='/dev/sda20'/>
    <name>vg0</name>
    <format type='lvm2'/>
  </source>
  <source><name>vg1</name></source>
</sources>";
    assert_eq!(source_names(found).unwrap(), ["vg0", "vg1"]);
    assert!(source_names("<sources/>").unwrap().is_empty());
}
