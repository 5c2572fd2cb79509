//! What changes in a clone's definition, and that nothing else does.

use super::*;

const XML: &str = "<domain type='kvm' xmlns:qemu='http://libvirt.org/schemas/domain/qemu/1.0'>
  <name>web1</name>
  <uuid>4dea22b3-1d52-d8f3-2516-782e98ab3fa0</uuid>
  <genid>11111111-2222-3333-4444-555555555555</genid>
  <title>the first</title>
  <description>by hand</description>
  <metadata>
    <other:thing xmlns:other='http://other.example/1.0' kept='yes'/>
    <vapor:vm xmlns:vapor='urn:vapor:vm:1'>
      <vapor:label key='tier' value='web'/>
      <vapor:owner>unix:ann</vapor:owner>
      <vapor:created>2020-01-01T00:00:00Z</vapor:created>
    </vapor:vm>
  </metadata>
  <memory unit='KiB'>262144</memory>
  <vcpu>1</vcpu>
  <sysinfo type='smbios'>
    <system>
      <entry name='uuid'>4dea22b3-1d52-d8f3-2516-782e98ab3fa0</entry>
      <entry name='product'>kept</entry>
    </system>
  </sysinfo>
  <os firmware='efi'>
    <type arch='x86_64' machine='q35'>hvm</type>
    <nvram template='/usr/share/OVMF/VARS.fd'>/var/lib/libvirt/qemu/nvram/web1_VARS.fd</nvram>
  </os>
  <!-- kept -->
  <devices>
    <disk type='volume' device='disk'>
      <driver name='qemu' type='qcow2' cache='none'/>
      <source pool='default' volume='web1.qcow2'/>
      <backingStore/>
      <target dev='vda' bus='virtio'/>
      <serial>DATA</serial>
    </disk>
    <disk type='file' device='cdrom'>
      <source file='/isos/a.iso'/>
      <target dev='sda' bus='sata'/>
      <readonly/>
    </disk>
    <interface type='network'>
      <mac address='52:54:00:00:00:01'/>
      <source network='default'/>
      <target dev='tap-web1'/>
      <model type='virtio'/>
    </interface>
    <channel type='unix'>
      <source mode='bind' path='/run/web1.agent'/>
      <target type='virtio' name='org.qemu.guest_agent.0'/>
    </channel>
    <graphics type='vnc' port='5901' autoport='no' listen='127.0.0.1'>
      <listen type='address' address='127.0.0.1'/>
    </graphics>
    <tpm model='tpm-crb'>
      <backend type='emulator' version='2.0'>
        <source type='dir' path='/srv/tpm/web1'/>
      </backend>
    </tpm>
    <vsock model='virtio'>
      <cid auto='no' address='7'/>
    </vsock>
    <sound model='ich9'/>
  </devices>
  <qemu:commandline>
    <qemu:env name='KEPT' value='yes'/>
  </qemu:commandline>
</domain>
";

fn identity() -> NewIdentity {
    NewIdentity {
        name: "web2".to_owned(),
        uuid: Uuid::from_u128(7),
        description: None,
        labels: None,
        owner: "unix:bob".to_owned(),
        created_at: Timestamp::UNIX_EPOCH,
    }
}

fn disks(target: &str) -> BTreeMap<String, Medium> {
    let medium = placed("images", "web2&.raw", "/images/web2&.raw", "file", "raw");
    BTreeMap::from([(target.to_owned(), medium)])
}

#[test]
fn what_two_vms_cannot_share_is_new_and_the_rest_keeps_its_bytes() {
    let new = apply(XML, &identity(), &disks("vda")).unwrap();
    let uuid = Uuid::from_u128(7).to_string();
    let wanted = XML
        .replace("<name>web1</name>", "<name>web2</name>")
        .replace("4dea22b3-1d52-d8f3-2516-782e98ab3fa0", &uuid)
        .replace("<genid>11111111-2222-3333-4444-555555555555</genid>", "<genid></genid>")
        .replace("  <title>the first</title>\n", "")
        .replace("unix:ann", "unix:bob")
        .replace("2020-01-01T00:00:00Z", "1970-01-01T00:00:00Z")
        .replace("/var/lib/libvirt/qemu/nvram/web1_VARS.fd", "")
        .replace("type='volume' device='disk'", "type='file' device='disk'")
        .replace("type='qcow2' cache", "type='raw' cache")
        .replace(
            "<source pool='default' volume='web1.qcow2'/>\n      <backingStore/>",
            "<source file='/images/web2&amp;.raw'/>",
        )
        .replace("      <mac address='52:54:00:00:00:01'/>\n", "")
        .replace("      <target dev='tap-web1'/>\n", "")
        .replace("      <source mode='bind' path='/run/web1.agent'/>\n", "")
        .replace("port='5901' autoport='no'", "port='-1' autoport='yes'")
        .replace(
            "version='2.0'>\n        <source type='dir' path='/srv/tpm/web1'/>\n      </backend>",
            "version='2.0'/>",
        )
        .replace("<cid auto='no' address='7'/>", "<cid auto='yes'/>");
    assert_eq!(new, wanted);
}

#[test]
fn description_and_labels_are_the_clones_own_where_they_are_given() {
    let identity = NewIdentity {
        description: Some("<b>".to_owned()),
        labels: Some(BTreeMap::from([("env".to_owned(), "test".to_owned())])),
        ..identity()
    };
    let vm = view::parse(&apply(XML, &identity, &disks("vda")).unwrap()).unwrap();
    assert_eq!(vm.description, "<b>");
    assert_eq!(vm.labels, BTreeMap::from([("env".to_owned(), "test".to_owned())]));
    assert_eq!(vm.owner.as_deref(), Some("unix:bob"));
}

#[test]
fn a_disk_that_is_not_there_is_an_error() {
    let error = apply(XML, &identity(), &disks("vdz")).unwrap_err();
    assert_eq!(error.kind(), Kind::InvalidDefinition);
    assert!(error.message().contains("vdz"), "{error}");
    assert!(with_disks(XML, &disks("vdz")).is_err());
    assert!(apply("<pool/>", &identity(), &BTreeMap::new()).is_err());
}

#[test]
fn a_vm_whose_disks_move_stays_who_it_is() {
    let new = with_disks(XML, &disks("vda")).unwrap();
    let wanted = XML
        .replace("type='volume' device='disk'", "type='file' device='disk'")
        .replace("type='qcow2' cache", "type='raw' cache")
        .replace(
            "<source pool='default' volume='web1.qcow2'/>\n      <backingStore/>",
            "<source file='/images/web2&amp;.raw'/>",
        );
    assert_eq!(new, wanted);
    assert_eq!(with_disks(XML, &BTreeMap::new()).unwrap(), XML);
}

#[test]
fn every_definition_of_the_corpus_can_be_cloned_and_keeps_its_devices() {
    let folder = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/corpus");
    let mut seen = 0;
    for entry in std::fs::read_dir(folder).unwrap() {
        let text = std::fs::read_to_string(entry.unwrap().path()).unwrap_or_default();
        let Ok(before) = view::parse(&text) else { continue };
        let after = view::parse(&apply(&text, &identity(), &BTreeMap::new()).unwrap()).unwrap();
        assert_eq!((after.name.as_str(), after.uuid), ("web2", Uuid::from_u128(7)));
        assert_eq!(after.disks, before.disks);
        assert_eq!(after.devices.len(), before.devices.len());
        assert_eq!(after.networks.len(), before.networks.len());
        assert!(after.networks.iter().all(|nic| nic.mac.is_empty()), "{after:?}");
        seen += 1;
    }
    assert!(seen > 3, "{seen}");
}

#[test]
fn what_ignition_told_the_source_stays_with_it() {
    let mark = |mark: &str| {
        XML.replace("      <vapor:owner>", &["      ", mark, "\n      <vapor:owner>"].concat())
    };
    let by_file = mark("<vapor:ignition version='3.4.0'/>").replace(
        "<genid>",
        "<sysinfo type='fwcfg'><entry name='opt/com.coreos/config' file='/p/a.ign'/></sysinfo>\n  <genid>",
    );
    let by_disk = mark("<vapor:ignition version='3.4.0' target='vdb'/>").replace(
        "    <interface ",
        "    <disk type='file' device='disk'><source file='/p/a.ign'/><target dev='vdb'/>\
<readonly/><serial>ignition</serial></disk>\n    <interface ",
    );
    for told in [by_file, by_disk] {
        assert!(told.contains("/p/a.ign"), "{told}");
        let clone = apply(&told, &identity(), &disks("vda")).unwrap();
        for gone in ["ignition", "coreos", "a.ign", "vdb"] {
            assert!(!clone.contains(gone), "{gone} is in {clone}");
        }
        assert_eq!(clone, apply(XML, &identity(), &disks("vda")).unwrap());
    }
}

#[test]
fn what_cloud_init_told_the_source_stays_with_it() {
    let told = XML
        .replace(
            "      <vapor:owner>",
            "      <vapor:seed target='vdb' instance-id='i-1'/>\n      <vapor:owner>",
        )
        .replace(
            "    <interface ",
            "    <disk type='file' device='disk'><source file='/p/seed.img'/><target dev='vdb'/>\
<readonly/></disk>\n    <interface ",
        );
    let clone = apply(&told, &identity(), &BTreeMap::new()).unwrap();
    assert!(!clone.contains("seed"), "{clone}");
    for kept in ["dev='vda'", "dev='sda'", "vapor:label"] {
        assert!(clone.contains(kept), "{kept} is not in {clone}");
    }
}
