use super::*;
use crate::error::Error;
use crate::model::vm_request::{
    Bandwidth, ClockOffset, CpuTopology, DiskBus, DiskDiscard, DiskIo, PciAddress, WatchdogAction,
    WatchdogModel,
};
use crate::model::{GraphicsType, VmDirectBoot};
use crate::xml::diff::unified;
use crate::xml::domain::author::{ClockSpec, EfiSpec, FilesystemSpec, MemorySpec, NumaSpec};

macro_rules! corpus {
    ($name:literal) => {
        include_str!(concat!(env!("CARGO_MANIFEST_DIR"), "/tests/corpus/", $name, ".xml"))
    };
}

/// The lines that an edit removes and adds, without their indentation.
fn changed(xml: &str, edit: DomainEdit) -> Vec<String> {
    let edited = apply(xml, &edit).unwrap();
    unified(xml, &edited)
        .lines()
        .filter(|line| !line.starts_with("---") && !line.starts_with("+++"))
        .filter(|line| line.starts_with(['-', '+']))
        .map(|line| format!("{}{}", &line[..1], line[1..].trim()))
        .collect()
}

fn refusal(xml: &str, edit: DomainEdit) -> Error {
    let error = apply(xml, &edit).unwrap_err();
    assert_eq!(error.kind(), Kind::Impossible);
    error
}

fn domain(inner: &str) -> String {
    format!("<domain>{inner}</domain>")
}

fn labels(pairs: &[(&str, &str)]) -> DomainEdit {
    let labels = pairs.iter().map(|(key, value)| ((*key).to_owned(), (*value).to_owned()));
    DomainEdit { labels: Some(labels.collect()), ..DomainEdit::default() }
}

#[test]
fn a_description_is_added_changed_and_removed() {
    let edit = |text: &str| DomainEdit { description: Some(text.into()), ..DomainEdit::default() };
    assert_eq!(
        changed(corpus!("virt-manager"), edit("a\nb")),
        ["+<description>a", "+b</description>"]
    );
    assert_eq!(
        changed(corpus!("comments"), edit("<x>")),
        [
            "-<description><![CDATA[<b>markup</b> & more]]> and &lt;text&gt; ]] &gt;</description>",
            "+<description>&lt;x&gt;</description>"
        ]
    );
    assert_eq!(
        changed(corpus!("windows-crlf"), edit("")),
        ["-<description>two", "-lines</description>"]
    );
}

#[test]
fn memory_keeps_its_comments_and_changes_its_unit() {
    let edit = |memory, max| DomainEdit {
        memory_mib: memory,
        max_memory_mib: max,
        ..DomainEdit::default()
    };
    let xml = corpus!("comments");
    let before = "<!-- 1 GiB --><memory unit='GiB'><!-- was 2 -->1</memory> <!-- enough -->";
    assert_eq!(
        changed(xml, edit(Some(512), None)),
        ["+<currentMemory unit='KiB'>524288</currentMemory>"]
    );
    assert_eq!(
        changed(xml, edit(None, Some(2048))),
        [
            format!("-{before}"),
            "+<!-- 1 GiB --><memory unit='KiB'><!-- was 2 -->2097152</memory> <!-- enough -->"
                .to_owned(),
            // What the guest has now does not grow with what it could have.
            "+<currentMemory unit='KiB'>1048576</currentMemory>".to_owned(),
        ]
    );
    // No unit is KiB already.
    assert_eq!(
        changed(corpus!("xen-pv"), edit(Some(64), None)),
        ["-<currentMemory>403900</currentMemory>", "+<currentMemory>65536</currentMemory>"]
    );
}

#[test]
fn memory_that_cannot_be_is_refused() {
    let edit = |memory, max| DomainEdit {
        memory_mib: memory,
        max_memory_mib: max,
        ..DomainEdit::default()
    };
    refusal(corpus!("virt-manager"), edit(Some(5000), None));
    refusal(corpus!("virt-manager"), edit(None, Some(1000)));
    refusal(corpus!("numa-big"), edit(None, Some(2_000_000)));
    let ceiling = domain("<maxMemory slots='1' unit='MiB'>100</maxMemory><memory>1024</memory>");
    assert!(refusal(&ceiling, edit(None, Some(101))).message().contains("maxMemory of 100 MiB"));
    assert!(apply(&ceiling, &edit(None, Some(100))).is_ok());
    // A NUMA guest's balloon can be set like any other's.
    assert!(apply(corpus!("numa-big"), &edit(Some(1000), None)).is_ok());
}

#[test]
fn virtual_cpus_move_within_their_maximum() {
    let edit = |vcpus, max| DomainEdit { vcpus, max_vcpus: max, ..DomainEdit::default() };
    assert_eq!(
        changed(corpus!("libvirt-live-inactive"), edit(Some(2), None)),
        [
            "-<vcpu placement='static' current='1'>2</vcpu>",
            "+<vcpu placement='static' current='2'>2</vcpu>"
        ]
    );
    assert_eq!(
        changed(corpus!("test-driver"), edit(None, Some(8))),
        ["-<vcpu placement='static'>2</vcpu>", "+<vcpu placement='static' current='2'>8</vcpu>"]
    );
    refusal(corpus!("test-driver"), edit(Some(3), None));
    refusal(corpus!("test-driver"), edit(Some(0), None));
    refusal(corpus!("test-driver"), edit(None, Some(1)));
    refusal(corpus!("numa-big"), edit(None, Some(256)));
    assert_eq!(
        apply(&domain("<os/>"), &edit(None, Some(2))).unwrap(),
        domain("<vcpu current='1'>2</vcpu><os/>")
    );
}

#[test]
fn sockets_make_up_for_more_virtual_cpus() {
    let edit = |max| DomainEdit { vcpus: Some(max), max_vcpus: Some(max), ..DomainEdit::default() };
    assert_eq!(
        changed(corpus!("virt-manager"), edit(8)),
        [
            "-<vcpu placement='static'>4</vcpu>",
            "+<vcpu placement='static'>8</vcpu>",
            "-<topology sockets='1' dies='1' cores='2' threads='2'/>",
            "+<topology sockets='2' dies='1' cores='2' threads='2'/>"
        ]
    );
    let error = refusal(corpus!("virt-manager"), edit(6));
    assert!(error.message().contains("whole sockets"));
    let zero = domain("<vcpu>1</vcpu><cpu><topology sockets='1' cores='0' threads='1'/></cpu>");
    refusal(&zero, edit(2));
}

#[test]
fn a_list_of_single_virtual_cpus_stays_true() {
    let edit = |vcpus, max| DomainEdit { vcpus, max_vcpus: max, ..DomainEdit::default() };
    assert_eq!(
        changed(corpus!("windows-crlf"), edit(Some(1), Some(3))),
        [
            "-<vcpu placement='static' current='2'>4</vcpu>",
            "+<vcpu placement='static' current='1'>3</vcpu>",
            "-<vcpu id='0' enabled='yes' hotpluggable='no' order='1'/>",
            "-<vcpu id='1' enabled='yes' hotpluggable='yes' order='2'/>",
            "+<vcpu id='0' enabled='yes' hotpluggable='no'/>",
            "+<vcpu id='1' enabled='no' hotpluggable='yes'/>",
            "-<vcpu id='3' enabled='no' hotpluggable='yes'/>",
        ]
    );
    assert_eq!(
        changed(corpus!("windows-crlf"), edit(None, Some(5))),
        [
            "-<vcpu placement='static' current='2'>4</vcpu>",
            "+<vcpu placement='static' current='2'>5</vcpu>",
            "+<vcpu id='4' enabled='no' hotpluggable='yes'/>",
        ]
    );
    let more = apply(corpus!("windows-crlf"), &edit(Some(4), None)).unwrap();
    assert_eq!(more.matches("enabled='yes'").count(), 4);
}

#[test]
fn boot_devices_replace_the_list_or_the_numbers() {
    use BootDevice::{Cdrom, Fd, Hd, Network};
    let edit =
        |boot: &[BootDevice]| DomainEdit { boot: Some(boot.to_vec()), ..DomainEdit::default() };
    assert_eq!(
        changed(corpus!("comments"), edit(&[Hd, Network])),
        [
            "-<boot dev='network'/>   <!-- then that -->",
            "-<boot dev='hd'></boot>",
            "+<boot dev='hd'/>   <!-- then that -->",
            "+<boot dev='network'></boot>"
        ]
    );
    assert_eq!(changed(corpus!("windows-crlf"), edit(&[Cdrom])), ["-<boot dev='hd'/>"]);
    assert_eq!(
        changed(corpus!("test-driver"), edit(&[Hd, Cdrom, Fd])),
        ["+<boot dev='cdrom'/>", "+<boot dev='fd'/>"]
    );
    assert_eq!(
        changed(corpus!("virt-manager"), edit(&[Hd])),
        ["+<boot dev='hd'/>", "-<boot order='2'/>", "-<boot order='1'/>", "-<boot order='3'/>"]
    );
    // The numbers say this already.
    assert_eq!(changed(corpus!("virt-manager"), edit(&[Cdrom, Hd, Network])), Vec::<String>::new());
    refusal(&domain("<devices/>"), edit(&[Hd]));
}

#[test]
fn labels_change_beside_what_else_vapor_keeps() {
    assert_eq!(
        changed(corpus!("windows-crlf"), labels(&[("new", "'<1>'"), ("tier", "lab")])),
        [
            "-<vapor:label key=\"os\" value=\"windows\"/>",
            "-<vapor:label key=\"tier\" value=\"desk\"/>",
            "+<vapor:label key=\"tier\" value=\"lab\"/>",
            "+<vapor:label key='new' value='&apos;&lt;1&gt;&apos;'/>",
        ]
    );
    assert_eq!(
        changed(corpus!("virt-manager"), labels(&[("a", "1")])),
        [
            "+<vapor:vm xmlns:vapor='urn:vapor:vm:1'>",
            "+<vapor:label key='a' value='1'/>",
            "+</vapor:vm>"
        ]
    );
    assert_eq!(
        changed(corpus!("xen-pv"), labels(&[("a", "1")])),
        [
            "+<metadata>",
            "+<vapor:vm xmlns:vapor='urn:vapor:vm:1'>",
            "+<vapor:label key='a' value='1'/>",
            "+</vapor:vm>",
            "+</metadata>"
        ]
    );
    assert_eq!(changed(corpus!("xen-pv"), labels(&[])), Vec::<String>::new());
}

#[test]
fn labels_take_the_prefix_that_is_there() {
    assert_eq!(
        changed(corpus!("prefixes"), labels(&[("a", "1"), ("b", "2")])),
        [
            "-<vm xmlns=\"urn:vapor:vm:1\"><label key=\"a\" value=\"1\"/><owner>unix:carol</owner></vm>",
            "+<vm xmlns=\"urn:vapor:vm:1\"><label key=\"a\" value=\"1\"/><label key='b' value='2'/><owner>unix:carol</owner></vm>",
        ]
    );
}

#[test]
fn metadata_for_libvirt_has_no_namespace_and_loses_nothing() {
    let wanted = [("tier".to_owned(), "lab".to_owned())].into();
    assert_eq!(
        vapor_metadata(corpus!("windows-crlf"), &wanted).unwrap().replace("\r\n", "\n"),
        "<vm>
      <label key=\"tier\" value=\"lab\"/>
      <future attribute=\"kept\">and its text</future>
      <owner>unix:bob</owner>
      <created>2026-01-02T03:04:05Z</created>
      <os-type>windows</os-type>
    </vm>
"
    );
    assert_eq!(
        vapor_metadata(corpus!("prefixes"), &wanted).unwrap(),
        "<vm>\n  <label key='tier' value='lab'/>\n  <owner>unix:carol</owner>\n</vm>\n"
    );
    assert_eq!(vapor_metadata(corpus!("xen-pv"), &BTreeMap::new()).unwrap(), "<vm/>\n");
}

#[test]
fn a_character_that_xml_cannot_carry_is_the_requests_fault() {
    let edit = DomainEdit { description: Some("\u{1}".to_owned()), ..DomainEdit::default() };
    let error = apply(corpus!("xen-pv"), &edit).unwrap_err();
    assert_eq!(error.kind(), Kind::InvalidRequest);
    assert!(error.message().contains("<description>"));
}

#[test]
fn what_is_no_domain_is_not_edited() {
    for edit in [DomainEdit::default(), labels(&[("a", "1")])] {
        assert_eq!(apply("<pool/>", &edit).unwrap_err().kind(), Kind::InvalidDefinition);
    }
    assert!(set_identity("<pool/>", Uuid::nil(), "x").is_err());
    assert!(identity("<pool/>").is_err());
    assert!(vapor_metadata("<pool/>", &BTreeMap::new()).is_err());
}

#[test]
fn a_disk_and_a_nic_change_in_their_places() {
    let xml = "<domain><devices>\
        <disk device='disk'><target dev='vda'/></disk>\
        <disk device='disk'><target dev='vdb'/><readonly/><serial>old</serial></disk>\
        <interface type='network'><mac address='52:54:00:AA:00:01'/>\
        <source network='a' portgroup='b'/><virtualport/><model type='virtio'/></interface>\
        <interface type='user'><mac address='52:54:00:aa:00:02'/><link state='down'/></interface>\
        </devices></domain>";
    let disk = |target: &str, edit| DomainEdit {
        disks: BTreeMap::from([(target.to_owned(), edit)]),
        ..DomainEdit::default()
    };
    let serial =
        DiskEdit { read_only: Some(true), serial: Some("<1>".into()), ..DiskEdit::default() };
    let edited = apply(xml, &disk("vda", serial)).unwrap();
    assert!(
        edited.contains("<target dev='vda'/><readonly/><serial>&lt;1&gt;</serial>"),
        "{edited}"
    );
    let none =
        DiskEdit { read_only: Some(false), serial: Some(String::new()), ..DiskEdit::default() };
    let edited = apply(xml, &disk("vdb", none.clone())).unwrap();
    assert!(edited.contains("<target dev='vdb'/></disk>"), "{edited}");
    refusal(xml, disk("vdc", none));

    let nic = |mac: &str, edit| DomainEdit {
        nics: BTreeMap::from([(mac.to_owned(), edit)]),
        ..DomainEdit::default()
    };
    let plug = NicEdit {
        source: Some((crate::model::NicSourceType::Bridge, Some("br0".into()))),
        link_up: Some(false),
        model: Some("e1000".into()),
        ..NicEdit::default()
    };
    let edited = apply(xml, &nic("52:54:00:aa:00:01", plug.clone())).unwrap();
    let whole = "<interface type='bridge'><mac address='52:54:00:AA:00:01'/><source bridge='br0'/>\
        <model type='e1000'/><link state='down'/></interface>";
    assert!(edited.replace('"', "'").contains(whole), "{edited}");
    let up = NicEdit { link_up: Some(true), ..NicEdit::default() };
    let edited = apply(xml, &nic("52:54:00:aa:00:02", up.clone())).unwrap();
    assert!(edited.contains("<link state='up'/></interface>"), "{edited}");
    let alone = nic_alone(xml, "52:54:00:aa:00:02", &up).unwrap();
    assert!(alone.starts_with("<interface type='user'>"), "{alone}");
    refusal(xml, nic("52:54:00:aa:00:03", plug));
}

#[test]
fn how_disks_and_nics_are_driven_is_set_and_taken_away() {
    let xml = "<domain><os><type>hvm</type><boot dev='hd'/></os><devices>\
        <disk device='disk'><driver name='qemu' cache='none' iothread='1'/>\
        <target dev='vda' bus='virtio'/><boot order='2'/><address type='pci'/></disk>\
        <interface type='bridge'><mac address='52:54:00:aa:00:01'/><source bridge='b'/>\
        <bandwidth><inbound average='1'/></bandwidth><port isolated='yes'/></interface>\
        </devices></domain>";
    let tuned = DomainEdit {
        disks: BTreeMap::from([(
            "vda".to_owned(),
            DiskEdit {
                io: Some(DiskIo::Native),
                discard: Some(DiskDiscard::Unmap),
                iothread: Some(3),
                boot_order: Some(1),
                ..DiskEdit::default()
            },
        )]),
        nics: BTreeMap::from([(
            "52:54:00:aa:00:01".to_owned(),
            NicEdit {
                inbound: Some(None),
                outbound: Some(Some(Bandwidth { average: 5, peak: Some(9), burst: None })),
                vlan: Some(Some(7)),
                isolated: Some(false),
                boot_order: Some(2),
                ..NicEdit::default()
            },
        )]),
        ..DomainEdit::default()
    };
    let edited = apply(xml, &tuned).unwrap();
    for part in [
        "<iothreads>3</iothreads><os><type>hvm</type></os>",
        "<driver name='qemu' cache='none' iothread='3' io='native' discard='unmap'/>",
        "<boot order='1'/>",
        "<bandwidth><outbound average='5' peak='9'/></bandwidth><vlan><tag id='7'/></vlan>",
        "<boot order='2'/></interface>",
    ] {
        assert!(edited.contains(part), "{part} is not in {edited}");
    }
    assert!(!edited.contains("isolated"), "{edited}");
    let mut gone = tuned;
    let disk = gone.disks.get_mut("vda").unwrap();
    *disk = DiskEdit {
        iothread: Some(0),
        boot_order: Some(0),
        bus: Some((DiskBus::Scsi, "sda".to_owned())),
        ..DiskEdit::default()
    };
    let nic = gone.nics.values_mut().next().unwrap();
    *nic = NicEdit {
        outbound: Some(None),
        vlan: Some(None),
        boot_order: Some(0),
        ..NicEdit::default()
    };
    let edited = apply(&edited, &gone).unwrap();
    assert!(edited.contains("<target dev='sda' bus='scsi'/></disk>"), "{edited}");
    assert!(edited.contains("<controller type='scsi' model='virtio-scsi'/>"), "{edited}");
    assert!(edited.contains("<source bridge='b'/></interface>"), "{edited}");
}

#[test]
fn the_machine_its_memory_and_its_devices_are_exchanged_where_they_stand() {
    let xml = "<domain><memory>262144</memory><vcpu>4</vcpu><os><type machine='pc-q35-9.0'>hvm</type>\
        <loader type='rom'>/seabios</loader></os>\
        <cpu mode='host-passthrough' migratable='on'><topology sockets='4' cores='1' threads='1'/>\
        <cache mode='passthrough'/><feature policy='require' name='a'/></cpu>\
        <clock offset='variable' adjustment='60'><timer name='rtc'/></clock><devices>\
        <graphics type='spice'/><channel type='spicevmc'/><audio id='1' type='spice'/>\
        <video><model type='qxl' ram='65536'/><address type='pci'/></video>\
        <watchdog model='itco' action='reset'/><sound model='ac97'><alias name='s'/></sound>\
        <memballoon model='virtio'><address type='pci'/></memballoon></devices></domain>";
    let edit = DomainEdit {
        cpu: CpuEdit {
            mode: Some(("custom".to_owned(), Some("qemu64".to_owned()))),
            features: Some(Vec::new()),
            topology: Some(CpuTopology { sockets: 1, dies: None, cores: 4, threads: None }),
            pins: Some(vec![(0, "0-1".to_owned())]),
            numa: Some(vec![NumaSpec { cpus: "0-3".to_owned(), memory_mib: 512 }]),
        },
        max_memory_mib: Some(512),
        hardware: HardwareEdit {
            machine: Some("pc-q35-10.0".to_owned()),
            efi: Some(EfiSpec { secure_boot: true, enrolled_keys: true, smm: true }),
            memory: Some(MemorySpec {
                hugepages: true,
                hugepage_kib: Some(2048),
                shared: true,
                fixed: true,
            }),
            clock: Some(ClockSpec { offset: Some(ClockOffset::Localtime), timezone: None }),
            sound: Some(None),
            watchdog: Some(Some((WatchdogModel::I6300esb, WatchdogAction::Pause))),
            rng: Some(true),
            graphics: Some(vec![GraphicsType::Vnc]),
            video: Some("vga".to_owned()),
            ..HardwareEdit::default()
        },
        ..DomainEdit::default()
    };
    let edited = apply(xml, &edit).unwrap();
    for part in [
        "<cpu mode='custom' match='exact'><model fallback='forbid'>qemu64</model>",
        "<topology sockets='1' dies='1' cores='4' threads='1'/><cache mode='passthrough'/><numa>",
        "<vcpupin vcpu='0' cpuset='0-1'/>",
        "machine='pc-q35-10.0'",
        "<os firmware='efi'>",
        "<feature enabled='yes' name='enrolled-keys'/>",
        "<features><smm state='on'/></features>",
        "<page size='2048' unit='KiB'/>",
        "<clock offset='localtime'><timer name='rtc'/></clock>",
        "<video><model type='vga' heads='1'/></video>",
        "<watchdog model='itco' action='pause'/><watchdog model='i6300esb' action='pause'/>",
        "<memballoon model='none'/>",
        "<rng model='virtio'>",
        "type='vnc'",
    ] {
        assert!(edited.contains(part), "{part} is not in {edited}");
    }
    for gone in ["migratable", "loader", "spice", "ac97", "qxl", "adjustment"] {
        assert!(!edited.contains(gone), "{gone} is in {edited}");
    }
    let back = DomainEdit {
        cpu: CpuEdit { pins: Some(Vec::new()), numa: Some(Vec::new()), ..CpuEdit::default() },
        hardware: HardwareEdit {
            memory: Some(MemorySpec::default()),
            graphics: Some(vec![GraphicsType::None]),
            ..HardwareEdit::default()
        },
        ..DomainEdit::default()
    };
    let edited = apply(&edited, &back).unwrap();
    for gone in ["cputune", "numa", "memoryBacking", "<video>", "<graphics"] {
        assert!(!edited.contains(gone), "{gone} is in {edited}");
    }
    assert!(edited.contains("<memballoon model='virtio'/>"), "{edited}");
}

#[test]
fn what_is_booted_shared_and_passed_through_is_replaced_and_what_is_there_stays() {
    let xml = "<domain><metadata><other xmlns='urn:o'/></metadata><os><type>hvm</type>\
        <kernel>/old</kernel><initrd>/old-initrd</initrd><boot dev='hd'/></os><devices>\
        <filesystem type='mount'><driver type='virtiofs' queue='1024'/><source dir='/a'/>\
        <target dir='a'/></filesystem><filesystem type='mount'><source dir='/9p'/>\
        <target dir='b'/></filesystem>\
        <hostdev mode='subsystem' type='pci' managed='no'><source><address domain='0x0000' bus='0x03' \
        slot='0x00' function='0x0'/></source></hostdev>\
        <hostdev mode='subsystem' type='usb'><source/></hostdev></devices></domain>";
    let pci = |text: &str| PciAddress::try_from(text.to_owned()).unwrap();
    let share = |source: &str, tag: &str| FilesystemSpec {
        source: source.to_owned(),
        tag: tag.to_owned(),
        read_only: false,
    };
    let edit = |filesystems, pci, kernel: Option<VmDirectBoot>, variant: Option<&str>| DomainEdit {
        hardware: HardwareEdit {
            filesystems: Some(filesystems),
            pci: Some(pci),
            direct_boot: Some(kernel),
            variant: Some(variant.map(str::to_owned)),
            ..HardwareEdit::default()
        },
        ..DomainEdit::default()
    };
    let kernel =
        VmDirectBoot { kernel: "/new".to_owned(), initrd: None, cmdline: Some("a=<b>".to_owned()) };
    let more = edit(
        vec![share("/a", "a"), share("/c", "c")],
        vec![pci("0000:03:00.0"), pci("0000:04:00.1")],
        Some(kernel),
        Some("http://debian.org/debian/12"),
    );
    let edited = apply(xml, &more).unwrap();
    for part in [
        "queue='1024'",
        "<source dir='/c'/><target dir='c'/>",
        "managed='no'",
        "bus='0x04' slot='0x00' function='0x1'",
        "<kernel>/new</kernel><cmdline>a=&lt;b&gt;</cmdline><boot dev='hd'/>",
        "id='http://debian.org/debian/12'",
        "<source dir='/9p'/>",
        "type='usb'",
        "<other xmlns='urn:o'/>",
    ] {
        assert!(edited.contains(part), "{part} is not in {edited}");
    }
    assert!(!edited.contains("/old"), "{edited}");
    let less = edit(Vec::new(), vec![pci("0000:04:00.1")], None, None);
    let edited = apply(&edited, &less).unwrap();
    for gone in ["virtiofs", "bus='0x03'", "kernel", "cmdline", "debian"] {
        assert!(!edited.contains(gone), "{gone} is in {edited}");
    }
    for kept in ["<source dir='/9p'/>", "type='usb'", "bus='0x04'", "<boot dev='hd'/>"] {
        assert!(edited.contains(kept), "{kept} is not in {edited}");
    }
}
