use std::io::Write;
use std::process::{Command, Stdio};

use proptest::prelude::*;

use super::*;
use crate::model::firmware::{TpmModel, TpmVersion};
use crate::model::vm_request::{
    Bandwidth, ClockOffset, CpuFeature, CpuTopology, DirectMode, DiskBus, DiskCache, DiskDiscard,
    DiskIo, FeaturePolicy, PciAddress, SoundModel, WatchdogAction, WatchdogModel,
};
use crate::model::{DiskDevice, NicSourceType};
use crate::model::{GuestAgentState, Tpm, VolumeRef};
use crate::xml::domain::view;

fn mode(word: &str) -> CpuSpec {
    CpuSpec { mode: Some(word.to_owned()), ..CpuSpec::default() }
}

fn spec() -> DomainSpec {
    DomainSpec {
        name: "web1".to_owned(),
        uuid: "3f0cb1e6-8a68-4a55-8d3f-5f6c1b1f4a11".parse().unwrap(),
        description: "a & b".to_owned(),
        memory_mib: 1024,
        max_memory_mib: 2048,
        vcpus: 2,
        max_vcpus: 4,
        domain_type: "qemu".to_owned(),
        architecture: "x86_64".to_owned(),
        machine: Some("q35".to_owned()),
        emulator: Some("/usr/bin/qemu-system-x86_64".to_owned()),
        cpu: mode("maximum"),
        os_type_word: Some("linux".to_owned()),
        variant: Some("http://debian.org/debian/12".to_owned()),
        boot: vec![BootDevice::Hd, BootDevice::Network],
        efi: None,
        direct_boot: None,
        disks: vec![disk("vda", "file"), empty_drive()],
        nics: vec![nic(NicSourceType::Network, Some("default"))],
        graphics: vec![GraphicsType::Vnc],
        video_model: Some("virtio".to_owned()),
        tpm: None,
        rng: true,
        labels: [("tier".to_owned(), "<web>".to_owned())].into(),
        owner: Some("unix:alice".to_owned()),
        created_at: "2026-11-21T01:02:03Z".parse().unwrap(),
        seed: None,
        ignition: None,
        spare_ports: 4,
        ..DomainSpec::default()
    }
}

fn disk(target: &str, r#type: &str) -> DiskSpec {
    DiskSpec {
        device: DiskDevice::Disk,
        bus: DiskBus::Virtio,
        target: target.to_owned(),
        format: Some("qcow2".to_owned()),
        source: DiskSource::Volume {
            pool: "default".to_owned(),
            volume: format!("web1-{target}.qcow2"),
            path: format!("/var/lib/libvirt/images/web1-{target}.qcow2"),
            r#type: r#type.to_owned(),
        },
        read_only: false,
        serial: Some("disk-1".to_owned()),
        boot_order: None,
        ..DiskSpec::default()
    }
}

fn empty_drive() -> DiskSpec {
    DiskSpec {
        device: DiskDevice::Cdrom,
        bus: DiskBus::Sata,
        target: "sda".to_owned(),
        format: Some("raw".to_owned()),
        source: DiskSource::Empty,
        read_only: false,
        serial: None,
        boot_order: None,
        ..DiskSpec::default()
    }
}

fn nic(source_type: NicSourceType, source: Option<&str>) -> NicSpec {
    NicSpec {
        source_type,
        source: source.map(str::to_owned),
        model: "virtio".to_owned(),
        mac: Some("52:54:00:aa:bb:cc".to_owned()),
        boot_order: None,
        link_up: true,
        ..NicSpec::default()
    }
}

/// Processors, memory, disks and NICs with everything that can be said of them.
fn tuned() -> DomainSpec {
    let mut tuned = spec();
    let feature = |name: &str, policy| CpuFeature { name: name.to_owned(), policy };
    tuned.cpu = CpuSpec {
        mode: Some("custom".to_owned()),
        model: Some("qemu64".to_owned()),
        features: vec![
            feature("aes", FeaturePolicy::Require),
            feature("svm", FeaturePolicy::Disable),
        ],
        topology: Some(CpuTopology { sockets: 2, dies: None, cores: 2, threads: Some(1) }),
        pins: vec![(0, "0-1".to_owned()), (1, "1".to_owned())],
        numa: vec![
            NumaSpec { cpus: "0-1".to_owned(), memory_mib: 1024 },
            NumaSpec { cpus: "2-3".to_owned(), memory_mib: 1024 },
        ],
    };
    tuned.memory =
        MemorySpec { hugepages: true, hugepage_kib: Some(2048), shared: true, fixed: true };
    tuned.clock = ClockSpec {
        offset: Some(ClockOffset::Timezone),
        timezone: Some("Europe/Berlin".to_owned()),
    };
    tuned.disks[0].cache = Some(DiskCache::None);
    tuned.disks[0].io = Some(DiskIo::Native);
    tuned.disks[0].discard = Some(DiskDiscard::Ignore);
    tuned.disks[0].iothread = Some(2);
    tuned.disks[0].shareable = true;
    tuned.disks[0].format = Some("raw".to_owned());
    let limit = Bandwidth { average: 100, peak: Some(200), burst: Some(50) };
    tuned.nics[0].inbound = Some(limit);
    tuned.nics[0].outbound = Some(Bandwidth { peak: None, burst: None, ..limit });
    tuned.nics[0].isolated = true;
    tuned.nics.push(NicSpec { vlan: Some(42), ..nic(NicSourceType::Network, Some("sriov")) });
    tuned
        .nics
        .push(NicSpec { mode: Some(DirectMode::Vepa), ..nic(NicSourceType::Direct, Some("eth0")) });
    tuned
}

fn with_devices() -> DomainSpec {
    let mut spec = spec();
    spec.memory.shared = true;
    spec.graphics.push(GraphicsType::EglHeadless);
    spec.devices = DeviceSpecs {
        sound: Some(SoundModel::Ich9),
        watchdog: Some((WatchdogModel::I6300esb, WatchdogAction::InjectNmi)),
        vsock: Some(VsockSpec { cid: None }),
        filesystems: vec![FilesystemSpec {
            source: "/srv/share".to_owned(),
            tag: "share".to_owned(),
            read_only: true,
        }],
        pci: vec![PciAddress { domain: 0, bus: 3, slot: 0x1f, function: 7 }],
    };
    spec
}

/// One of each kind of VM that the API can ask for.
/// With an Ignition config, on `vdb` where that is its disk.
fn told(by: IgnitionBy) -> DomainSpec {
    let mut told = spec();
    if let IgnitionBy::Disk(target) = &by {
        let serial = Some("ignition".to_owned());
        told.disks.push(DiskSpec { read_only: true, serial, ..disk(target, "file") });
    }
    told.ignition = Some(IgnitionSpec { version: "3.4.0".to_owned(), by });
    told
}

fn variants() -> Vec<(&'static str, DomainSpec)> {
    let mut everything = spec();
    everything.boot.clear();
    everything.graphics = vec![GraphicsType::Spice, GraphicsType::Vnc];
    everything.os_type_word = Some("Windows".to_owned());
    everything.domain_type = "kvm".to_owned();
    everything.cpu.mode = Some("host-passthrough".to_owned());
    everything.disks = ["file", "block", "network"]
        .into_iter()
        .zip(["vda", "vdb", "vdc"])
        .map(|(r#type, target)| disk(target, r#type))
        .collect();
    everything.disks[0].boot_order = Some(1);
    everything.disks.push(DiskSpec {
        bus: DiskBus::Scsi,
        read_only: true,
        source: DiskSource::File("/srv/x.raw".to_owned()),
        ..disk("sdb", "file")
    });
    everything.nics = vec![
        nic(NicSourceType::Network, Some("default")),
        nic(NicSourceType::Bridge, Some("br0")),
        nic(NicSourceType::Direct, Some("eth0")),
        nic(NicSourceType::User, None),
    ];
    everything.nics[0].boot_order = Some(2);
    everything.nics[1].link_up = false;
    everything.nics[1].mac = None;

    let mut direct = spec();
    direct.boot.clear();
    direct.graphics = vec![GraphicsType::None];
    direct.direct_boot = Some(VmDirectBoot {
        kernel: "/var/lib/libvirt/images/vmlinuz".to_owned(),
        initrd: Some("/var/lib/libvirt/images/initrd".to_owned()),
        cmdline: Some("console=ttyS0 quiet".to_owned()),
    });

    let mut bare = spec();
    bare.description.clear();
    bare.machine = None;
    bare.emulator = None;
    bare.cpu.mode = None;
    bare.os_type_word = None;
    bare.variant = None;
    bare.boot.clear();
    bare.disks.clear();
    bare.nics.clear();
    bare.graphics.clear();
    bare.video_model = None;
    bare.rng = false;
    bare.labels.clear();
    bare.owner = None;
    bare.spare_ports = 0;

    let mut efi = spec();
    efi.efi = Some(EfiSpec { secure_boot: false, enrolled_keys: false, smm: true });
    let mut secure = spec();
    secure.efi = Some(EfiSpec { secure_boot: true, enrolled_keys: true, smm: true });
    secure.tpm = Some(TpmSpec { model: TpmModel::TpmCrb, version: TpmVersion::V2 });
    let mut keyless = secure.clone();
    keyless.efi = Some(EfiSpec { secure_boot: true, enrolled_keys: false, smm: true });

    let mut arm = spec();
    arm.efi = Some(EfiSpec { secure_boot: false, enrolled_keys: false, smm: false });
    arm.tpm = Some(TpmSpec { model: TpmModel::TpmTis, version: TpmVersion::V2 });
    arm.architecture = "aarch64".to_owned();
    arm.machine = Some("virt".to_owned());
    arm.emulator = Some("/usr/bin/qemu-system-aarch64".to_owned());

    let mut test = spec();
    test.domain_type = "test".to_owned();
    test.architecture = "i686".to_owned();
    test.machine = None;
    test.emulator = None;
    test.cpu.mode = None;

    vec![
        ("usual", spec()),
        ("everything", everything),
        ("direct", direct),
        ("bare", bare),
        ("arm", arm),
        ("efi", efi),
        ("secure", secure),
        ("keyless", keyless),
        ("test", test),
        ("tuned", tuned()),
        ("devices", with_devices()),
        ("ignition", told(IgnitionBy::FwCfg("/p/<a>.ign".to_owned()))),
        ("ignition-disk", told(IgnitionBy::Disk("vdb".to_owned()))),
    ]
}

#[test]
fn what_is_authored_reads_as_what_was_specified() {
    let read = view::read(&author(&spec()).unwrap()).unwrap();
    let vm = read.vm;
    assert_eq!(vm.name, "web1");
    assert_eq!(vm.uuid, spec().uuid);
    assert_eq!(vm.description, "a & b");
    assert_eq!((vm.memory, vm.max_memory, vm.vcpus, vm.max_vcpus), (1024, 2048, 2, 4));
    assert_eq!(vm.os.boot, ["hd", "network"]);
    assert_eq!((vm.os.r#type.as_str(), vm.os.machine.as_str()), ("hvm", "q35"));
    assert_eq!((vm.os.firmware.as_str(), vm.os.domain_type.as_str()), ("bios", "qemu"));
    assert_eq!(vm.os.variant.as_deref(), Some("http://debian.org/debian/12"));
    assert_eq!(vm.labels, spec().labels);
    assert_eq!(vm.owner.as_deref(), Some("unix:alice"));
    assert_eq!(vm.created_at, Some(spec().created_at));
    assert_eq!(read.os_type_word.as_deref(), Some("linux"));
    assert_eq!(read.guest_agent, GuestAgentState::NotConnected);
    assert_eq!(vm.disks.len(), 2);
    assert_eq!(vm.disks[0].source.as_deref(), Some("/var/lib/libvirt/images/web1-vda.qcow2"));
    assert_eq!(vm.disks[0].serial.as_deref(), Some("disk-1"));
    assert_eq!((vm.disks[1].source.as_deref(), vm.disks[1].read_only), (None, true));
    assert_eq!(vm.networks[0].source.name.as_deref(), Some("default"));
    assert_eq!(vm.graphics[0].listen.as_deref(), Some("127.0.0.1"));
}

#[test]
fn an_ignition_config_reads_as_the_file_or_the_disk_that_it_is() {
    let read = |by| view::read(&author(&told(by)).unwrap()).unwrap();
    let file = read(IgnitionBy::FwCfg("/p/<a>.ign".to_owned()));
    let shown = file.vm.ignition.unwrap();
    assert_eq!((shown.file.as_deref(), shown.target), (Some("/p/<a>.ign"), None));
    assert_eq!((shown.version.as_str(), file.below.len()), ("3.4.0", 1));
    let on_disk = read(IgnitionBy::Disk("vdb".to_owned())).vm.ignition.unwrap();
    assert_eq!(on_disk.target.as_deref(), Some("vdb"));
    assert_eq!(on_disk.file.as_deref(), Some("/var/lib/libvirt/images/web1-vdb.qcow2"));
}

#[test]
fn a_volume_is_authored_as_its_type_needs() {
    let everything = &variants()[1].1;
    let vm = view::parse(&author(everything).unwrap()).unwrap();
    let types: Vec<_> = vm.disks.iter().map(|disk| disk.source_type.as_str()).collect();
    assert_eq!(types, ["file", "block", "volume", "file"]);
    let volume = VolumeRef { pool: "default".to_owned(), volume: "web1-vdc.qcow2".to_owned() };
    assert_eq!(vm.disks[2].volume, Some(volume));
    assert_eq!(vm.os.boot, ["hd", "network"]);
    assert!(!vm.networks[1].link_up);
}

#[test]
fn firmware_and_tpm_read_as_what_was_specified() {
    let read = |wanted: &str| {
        let (_, spec) = variants().into_iter().find(|(name, _)| *name == wanted).unwrap();
        let vm = view::parse(&author(&spec).unwrap()).unwrap();
        (vm.os.firmware.clone(), vm.os.secure_boot, vm.os.enrolled_keys, vm.tpm)
    };
    let tpm = Tpm {
        model: "tpm-crb".to_owned(),
        backend: "emulator".to_owned(),
        version: Some("2.0".to_owned()),
    };
    assert_eq!(read("usual"), ("bios".to_owned(), false, None, None));
    assert_eq!(read("efi"), ("efi".to_owned(), false, None, None));
    assert_eq!(read("secure"), ("efi".to_owned(), true, Some(true), Some(tpm.clone())));
    assert_eq!(read("keyless"), ("efi".to_owned(), true, Some(false), Some(tpm)));
    let xml = |wanted: &str| {
        let (_, spec) = variants().into_iter().find(|(name, _)| *name == wanted).unwrap();
        author(&spec).unwrap()
    };
    assert!(
        xml("secure").contains("<smm state=\"on\"/>")
            || xml("secure").contains("<smm state='on'/>")
    );
    // Said, because libvirt's first choice may be an image with Secure Boot in force.
    assert!(xml("efi").contains("secure-boot"));
    assert!(!xml("efi").contains("smm") && !xml("usual").contains("firmware"));
}

#[test]
fn there_is_a_root_port_for_each_device_and_the_spare_ones() {
    let ports = |spec: &DomainSpec| author(spec).unwrap().matches("pcie-root-port").count();
    // disk, NIC, random numbers, USB, virtio-serial, balloon
    assert_eq!(ports(&spec()), 6 + 4);
    assert_eq!(ports(&DomainSpec { spare_ports: 0, ..spec() }), 0);
    assert_eq!(ports(&DomainSpec { machine: Some("pc".to_owned()), ..spec() }), 0);
}

#[test]
fn two_kinds_of_boot_order_contradict_each_other() {
    let mut both = spec();
    both.disks[0].boot_order = Some(1);
    assert_eq!(author(&both).unwrap_err().kind(), Kind::Impossible);
}

#[test]
fn consoles_listen_on_loopback_alone() {
    for (name, spec) in variants() {
        let vm = view::parse(&author(&spec).unwrap()).unwrap();
        // What renders for another console listens nowhere.
        for graphics in vm.graphics.iter().filter(|graphics| graphics.r#type != "egl-headless") {
            assert_eq!(graphics.listen.as_deref(), Some("127.0.0.1"), "{name}");
        }
    }
}

#[test]
fn libvirts_schema_accepts_what_is_authored() {
    if Command::new("virt-xml-validate").arg("--version").output().is_err() {
        println!("skipped: needs virt-xml-validate");
        return;
    }
    for (name, spec) in variants() {
        let mut child = Command::new("virt-xml-validate")
            .args(["-", "domain"])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        let xml = author(&spec).unwrap();
        child.stdin.take().unwrap().write_all(xml.as_bytes()).unwrap();
        let output = child.wait_with_output().unwrap();
        let said = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success(), "{name}: {said}\n{xml}");
    }
}

proptest! {
    #[test]
    fn nothing_in_a_specification_can_become_markup(
        text in "[ -~äß🦀\n\t]{0,40}", key in "[a-z<>'\"&]{1,10}"
    ) {
        let mut hostile = spec();
        hostile.name = text.clone();
        hostile.description = text.clone();
        hostile.owner = Some(format!("x{text}x"));
        hostile.disks[0].source = DiskSource::File(format!("/{text}"));
        hostile.nics[0].source = Some(text.clone());
        hostile.labels = [(key, text.clone())].into();
        let xml = author(&hostile).unwrap();
        let vm = view::parse(&xml).unwrap();
        prop_assert_eq!(&vm.name, &text);
        prop_assert_eq!(&vm.description, &text);
        prop_assert_eq!(vm.owner, Some(format!("x{text}x")));
        prop_assert_eq!(vm.disks[0].source.clone(), Some(format!("/{text}")));
        prop_assert_eq!(&vm.labels, &hostile.labels);
        let tags = |xml: &str| xml.matches('<').count();
        let usual = tags(&author(&spec()).unwrap());
        // An empty description has no element.
        prop_assert_eq!(tags(&xml), if text.is_empty() { usual - 3 } else { usual });
    }
}

/// Defines each domain through virsh, and says what libvirt made of it.
fn defined(uri: &str, specs: &[(&str, DomainSpec)]) -> Option<Vec<String>> {
    let virsh =
        |arguments: &[&str]| Command::new("virsh").args(["-c", uri]).args(arguments).output();
    if !virsh(&["uri"]).is_ok_and(|output| output.status.success()) {
        println!("skipped: needs virsh and {uri}");
        return None;
    }
    let folder = tempfile::tempdir().unwrap();
    let define = |(name, spec): &(&str, DomainSpec)| {
        let file = folder.path().join(format!("{name}.xml"));
        std::fs::write(&file, author(spec).unwrap()).unwrap();
        let file = file.display();
        let commands = format!("define {file}; dumpxml web1 --inactive; undefine web1");
        let output = virsh(&["--quiet", &commands]).unwrap();
        let said = String::from_utf8_lossy(&output.stderr).into_owned();
        assert!(output.status.success(), "{name}: {said}");
        let said = String::from_utf8(output.stdout).unwrap();
        let (from, to) = (said.find("<domain").unwrap(), said.find("</domain>").unwrap());
        said[from..to + "</domain>".len()].to_owned()
    };
    Some(specs.iter().map(define).collect())
}

#[test]
fn the_test_driver_defines_what_is_authored() {
    let specs: Vec<_> = variants().into_iter().filter(|(name, _)| *name == "test").collect();
    let Some(defined) = defined("test:///default", &specs) else { return };
    let (ours, theirs) =
        (view::parse(&author(&specs[0].1).unwrap()).unwrap(), view::parse(&defined[0]).unwrap());
    assert_eq!((&ours.name, ours.uuid, &ours.labels), (&theirs.name, theirs.uuid, &theirs.labels));
    assert_eq!((ours.disks, ours.graphics), (theirs.disks, theirs.graphics));
}

#[test]
fn qemus_driver_defines_what_is_authored_and_leaves_the_spare_ports_free() {
    let root = tempfile::tempdir().unwrap();
    let uri = format!("qemu:///embed?root={}", root.path().display());
    let specs: Vec<_> = variants()
        .into_iter()
        // UEFI has tests of its own: not every host has an image of it.
        .filter(|(name, _)| !matches!(*name, "test" | "arm" | "efi" | "secure" | "keyless"))
        .map(|(name, mut spec)| {
            // What not every host's QEMU has, and a device that this host has not: libvirt would
            // take it for a conventional one.
            spec.devices.pci.clear();
            spec.domain_type = "qemu".to_owned();
            if spec.cpu.model.is_none() {
                spec.cpu.mode = spec.cpu.mode.map(|_| "maximum".to_owned());
            }
            spec.graphics
                .retain(|kind| !matches!(kind, GraphicsType::Spice | GraphicsType::EglHeadless));
            (name, spec)
        })
        .collect();
    let Some(defined) = defined(&uri, &specs) else { return };
    for ((name, spec), xml) in specs.iter().zip(defined) {
        let document = crate::xml::tree::Document::parse(&xml).unwrap();
        let devices: Vec<_> = document.root().child("devices").unwrap().elements().collect();
        let ports: Vec<_> = devices
            .iter()
            .filter(|device| device.attr("model").as_deref() == Some("pcie-root-port"))
            .filter_map(|port| port.attr("index")?.parse::<u32>().ok())
            .collect();
        let taken = |port: u32| {
            devices.iter().any(|device| {
                let bus = device.find_attr("address", "bus").unwrap_or_default();
                device.find_attr("address", "type").as_deref() == Some("pci")
                    && u32::from_str_radix(bus.trim_start_matches("0x"), 16) == Ok(port)
            })
        };
        let free = ports.iter().filter(|port| !taken(**port)).count();
        assert_eq!(free, usize::from(spec.spare_ports), "{name}:\n{xml}");
    }
}
