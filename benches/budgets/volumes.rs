//! Lists of volumes: a host with many of them, on libvirt's test driver, which is all that a list
//! needs.

use std::fmt::Write as _;
use std::path::Path;

use super::client::Failure;
use super::host::Vapord;
use super::report::{Report, Times};

/// Pools, and volumes in each.
const POOLS: usize = 20;
const EACH: usize = 100;

/// One VM for ten volumes, and every tenth volume on top of another one.
fn node() -> String {
    let mut text = "<node><cpu><mhz>2400</mhz><model>x86_64</model><active>4</active>\
        <nodes>1</nodes><sockets>1</sockets><cores>4</cores><threads>1</threads></cpu>\
        <memory>8388608</memory>"
        .to_owned();
    for vm in 0..POOLS * EACH / 10 {
        let (pool, volume) = (vm % POOLS, vm / POOLS * 10);
        let _ = write!(
            text,
            "<domain type='test' xmlns:test='http://libvirt.org/schemas/domain/test/1.0'>\
             <name>vm-{vm:04}</name><uuid>4dea22b3-1d52-d8f3-2516-{vm:012}</uuid>\
             <memory>65536</memory><vcpu>1</vcpu><os><type>hvm</type></os><devices>\
             <disk type='file' device='disk'><driver name='qemu' type='qcow2'/>\
             <source file='/pools/{pool:02}/volume-{volume:03}.qcow2'/>\
             <target dev='vda' bus='virtio'/></disk></devices>\
             <test:runstate>5</test:runstate></domain>"
        );
    }
    for pool in 0..POOLS {
        let _ = write!(
            text,
            "<pool type='dir'><name>pool-{pool:02}</name>\
             <uuid>dfe224cb-28fb-8dd0-c4b2-{pool:012}</uuid>\
             <target><path>/pools/{pool:02}</path></target>"
        );
        for volume in 0..EACH {
            let backing = if volume % 10 == 0 {
                format!(
                    "<backingStore><path>/pools/{pool:02}/volume-{:03}.qcow2</path>\
                     <format type='qcow2'/></backingStore>",
                    volume + 1
                )
            } else {
                String::new()
            };
            let _ = write!(
                text,
                "<volume type='file'><name>volume-{volume:03}.qcow2</name>\
                 <capacity>21474836480</capacity><allocation>200704</allocation><target>\
                 <path>/pools/{pool:02}/volume-{volume:03}.qcow2</path><format type='qcow2'/>\
                 <permissions><mode>0600</mode><owner>0</owner><group>0</group></permissions>\
                 </target>{backing}</volume>"
            );
        }
        text.push_str("</pool>");
    }
    text.push_str("</node>");
    text
}

/// The list of all of them, and the same when nothing has changed.
pub fn lists(report: &mut Report, folder: &Path) -> Result<(), Failure> {
    let folder = folder.join("volumes");
    std::fs::create_dir_all(&folder)?;
    let file = folder.join("node.xml");
    std::fs::write(&file, node())?;
    let vapord = Vapord::start(&folder, &format!("test://{}", file.display()))?;
    let mut client = vapord.client()?;
    let total = POOLS * EACH;
    let list = format!("/api/v1/virtualization/volumes?limit={total}");
    let whole = client.get(&list)?.expect(200)?;
    let (etag, size) = (whole.etag.clone(), whole.body.len());
    let data = whole.json()?;
    let volumes = data["data"]["volumes"].as_array().ok_or("no list of volumes")?;
    let used = volumes.iter().filter(|volume| volume["used_by"][0].is_string()).count();
    // Each VM's disk, and the volume below it.
    if (volumes.len(), used) != (total, total / 5) {
        return Err(format!("{} volumes, {used} of them used", volumes.len()).into());
    }
    for _ in 0..20 {
        client.get(&list)?.expect(200)?;
    }
    let mut full = Times::default();
    for _ in 0..300 {
        full.add(client.get(&list)?.expect(200)?.took);
    }
    let more = format!("{}; {} KiB", full.summary(), size / 1024);
    let what = format!("GET list of {total} volumes in {POOLS} pools, p99");
    report.at_most(&what, 5.0, "ms", full.percentile(99.0), &more);
    let headers = format!("if-none-match: {etag}\r\n");
    let mut unchanged = Times::default();
    for _ in 0..2_000 {
        unchanged.add(client.send("GET", &list, &headers, "")?.expect(304)?.took);
    }
    let (p99, more) = (unchanged.percentile(99.0), unchanged.summary());
    report.at_most("that list with If-None-Match: 304, p99", 0.5, "ms", p99, &more);
    vapord.stop()
}
