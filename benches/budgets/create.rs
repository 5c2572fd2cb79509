//! From nothing to a running VM: one request to vapord, beside a script of `virsh` that does the same
//! and beside the same calls of libvirt by python-libvirt.
//!
//! All three end in the same definition, which is the one that vapord makes, and in volumes of the
//! same sizes. The VM is bare: QEMU's own start is in all of the times. What a script would have to do
//! before (writing the definition) is not counted against it. virt-install, where it is installed, makes
//! a definition of its own for the same disks and documents; virt-clone makes neither linked clones nor
//! seeds.

use std::path::Path;
use std::process::Command;
use std::time::Instant;

use serde_json::{Value, json};

use super::client::Failure;
use super::host::{Lab, Python, Vapord, run};
use super::report::{Report, Times, number};

const VMS: &str = "/api/v1/virtualization/virtualmachines";
const VOLUMES: &str = "/api/v1/virtualization/storages/pools/lab/volumes";
/// The volume that linked clones stand on.
const BASE: &str = "bench-base.qcow2";
const ROUNDS: usize = 10;
/// Of what takes seconds.
const LONG_ROUNDS: usize = 4;

/// The definition's own words, made by a script.
const SCRIPT: &str = r#"set -e
virsh() { command virsh -q -c "$URI" "$@" >/dev/null; }
if [ "$KIND" = new ]; then
    virsh vol-create-as lab "$NAME.qcow2" 1G --format qcow2
else
    virsh vol-create-as lab "$NAME.qcow2" 1G --format qcow2 \
        --backing-vol "$BASE" --backing-vol-format qcow2
    printf 'instance-id: %s\nlocal-hostname: %s\n' "$NAME" "$NAME" >meta-data
    printf '#cloud-config\nruncmd: [[touch, /ran]]\n' >user-data
    genisoimage -quiet -o seed.iso -V CIDATA -r -J user-data meta-data
    truncate -s 1M seed.iso
    virsh vol-create-as lab "$NAME-cloud-init.img" 1M --format raw
    virsh vol-upload --pool lab "$NAME-cloud-init.img" seed.iso
fi
virsh define domain.xml
virsh start "$NAME"
"#;

/// The same by virt-install, which writes the definition itself. It is run where libvirtd runs, because
/// it puts its seed into a folder of libvirt's, and tells by itself how long it took.
const INSTALLER: &str = r#"set -e
cd "$(mktemp -d)"
options=()
if [ "$KIND" != new ]; then
    printf 'instance-id: %s\nlocal-hostname: %s\n' "$NAME" "$NAME" >meta-data
    printf '#cloud-config\nruncmd: [[touch, /ran]]\n' >user-data
    options=(--cloud-init user-data=user-data,meta-data=meta-data)
    BACKING=,backing_store=$BACKING,backing_format=qcow2
fi
mkdir -p /var/lib/libvirt/boot
begun=$(date +%s%N)
virt-install -q --connect "$URI" --name "$NAME" --memory 32 --vcpus 1 --osinfo linux2022 --import \
    --virt-type qemu --disk "path=$POOL/$NAME.qcow2,size=1,format=qcow2,bus=virtio$BACKING" \
    "${options[@]}" --network none --graphics none --noautoconsole >&2
ended=$(date +%s%N)
rm -rf "$PWD"
echo $(((ended - begun) / 1000000))
"#;

/// One way to have a VM.
struct Kind {
    word: &'static str,
    what: &'static str,
}

/// Both kinds, each in turn through vapord, by the script and by libvirt's calls.
pub fn creations(
    report: &mut Report,
    vapord: &Vapord,
    lab: &Lab,
    python: &mut Python,
) -> Result<(), Failure> {
    vapord.client()?.post(VOLUMES, &json!({"name": BASE, "size": 1}).to_string())?.expect(201)?;
    let base = run(virsh(lab).args(["vol-path", "--pool", "lab", BASE]))?;
    let kinds = [
        Kind { word: "new", what: "a new disk of 1 GiB" },
        Kind { word: "linked", what: "a linked clone with cloud-init" },
    ];
    for kind in &kinds {
        measure(report, vapord, lab, python, kind, &base)?;
    }
    // virsh has removed what was based on it, of which libvirt tells nobody.
    let refresh = VOLUMES.replace("/volumes", "/refresh");
    vapord.client()?.send("POST", &refresh, "", "")?.expect(200)?;
    vapord.client()?.send("DELETE", &format!("{VOLUMES}/{BASE}"), "", "")?.expect(204)?;
    if !there("virt-install") {
        report.note("virt-install is not installed, and was not measured");
    }
    Ok(())
}

fn measure(
    report: &mut Report,
    vapord: &Vapord,
    lab: &Lab,
    python: &mut Python,
    kind: &Kind,
    base: &str,
) -> Result<(), Failure> {
    let folder = tempfile::tempdir()?;
    // What all of them are to come to.
    let model = format!("bench-{}-model", kind.word);
    vapord.client()?.post(VMS, &body(kind, &model, false))?.expect(201)?;
    let xml = run(virsh(lab).args(["dumpxml", "--inactive", &model]))?;
    let (before, rest) = xml.split_once("<uuid>").ok_or("no UUID in the definition")?;
    let (_, after) = rest.split_once("</uuid>").ok_or("no UUID in the definition")?;
    let xml = [before, after].concat();
    let (mut ours, mut script, mut calls) = (Times::default(), Times::default(), Times::default());
    for round in 0..=ROUNDS {
        let way = |way: &str| format!("bench-{}-{way}-{round}", kind.word);
        // The first round warms the caches; the order changes, so that none is always after another.
        let add = |times: &mut Times, took: f64| {
            if round > 0 {
                times.add_ms(took);
            }
        };
        for turn in 0..3 {
            match (round + turn) % 3 {
                0 => {
                    let name = way("vapor");
                    // One that was idle during the other turns may have been closed.
                    let mut client = vapord.client()?;
                    let made = client.post(VMS, &body(kind, &name, true))?.expect(201)?;
                    if made.json()?["data"]["state"] != "running" {
                        return Err(format!("{name} does not run").into());
                    }
                    add(&mut ours, made.took.as_secs_f64() * 1e3);
                    remove(lab, &name)?;
                }
                1 => {
                    let name = way("virsh");
                    let took = by_script(lab, folder.path(), kind, &name, &xml, &model)?;
                    add(&mut script, took);
                    remove(lab, &name)?;
                }
                _ => {
                    let name = way("python");
                    let volumes = volumes(kind, &name, base);
                    let order = json!(["make", "lab", volumes, xml.replace(&model, &name)]);
                    add(&mut calls, python.number(order, "ms")?);
                    remove(lab, &name)?;
                }
            }
        }
    }
    remove(lab, &model)?;
    if there("virt-install") {
        let mut installer = Times::default();
        for round in 0..=LONG_ROUNDS {
            let name = format!("bench-{}-installer-{round}", kind.word);
            let took = by_installer(lab, kind, &name, base)?;
            if round > 0 {
                installer.add_ms(took);
            }
            remove(lab, &name)?;
        }
        let what = format!("create to running, {}: virt-install's time over vapord's", kind.what);
        let more = format!("median {} ms, n {}", number(installer.median()), installer.len());
        report.shown(&what, "times", installer.median() / ours.median(), &more);
    }
    let more = format!(
        "medians {} ms through vapord, {} ms by the script, {} ms by python-libvirt's calls alone; \
         n {} each",
        number(ours.median()),
        number(script.median()),
        number(calls.median()),
        ours.len()
    );
    let what = format!("create to running, {}: a virsh script's time over vapord's", kind.what);
    report.shown(&what, "times", script.median() / ours.median(), &more);
    let what = format!("create to running, {}: what Vapor adds to libvirt's calls", kind.what);
    report.shown(&what, "ms", ours.median() - calls.median(), "");
    Ok(())
}

fn body(kind: &Kind, name: &str, start: bool) -> String {
    let mut body = json!({"name": name, "memory": 32, "vcpus": 1, "start": start,
        "networks": [], "graphics": [{"type": "none"}]});
    if kind.word == "new" {
        body["disk_size"] = json!(1);
        body["pool"] = json!("lab");
    } else {
        body["storage"] = json!({"default_pool": "lab", "disks": [{"action": "clone",
            "source": {"pool": "lab", "volume": BASE}, "linked": true}]});
        body["cloud_init"] = json!({"hostname": name, "runcmd": [["touch", "/ran"]]});
    }
    body.to_string()
}

/// The volumes of one VM: name, definition, and bytes to be written into it.
fn volumes(kind: &Kind, name: &str, base: &str) -> Value {
    let disk = format!("{name}.qcow2");
    let capacity = 1_u64 << 30;
    let backing = match kind.word {
        "new" => String::new(),
        _ => format!("<backingStore><path>{base}</path><format type='qcow2'/></backingStore>"),
    };
    let xml = format!(
        "<volume><name>{disk}</name><capacity>{capacity}</capacity><allocation>0</allocation>\
         <target><format type='qcow2'/></target>{backing}</volume>"
    );
    let mut all = vec![json!([disk, xml, 0])];
    if kind.word != "new" {
        let (seed, size) = (format!("{name}-cloud-init.img"), 1 << 20);
        let xml = format!("<volume><name>{seed}</name><capacity>{size}</capacity></volume>");
        all.push(json!([seed, xml, size]));
    }
    json!(all)
}

/// Milliseconds that the script takes.
fn by_script(
    lab: &Lab,
    folder: &Path,
    kind: &Kind,
    name: &str,
    xml: &str,
    model: &str,
) -> Result<f64, Failure> {
    std::fs::write(folder.join("domain.xml"), xml.replace(model, name))?;
    let begun = Instant::now();
    run(Command::new("bash")
        .args(["-c", SCRIPT])
        .current_dir(folder)
        .env("URI", &lab.uri)
        .env("NAME", name)
        .env("KIND", kind.word)
        .env("BASE", BASE))?;
    Ok(begun.elapsed().as_secs_f64() * 1e3)
}

/// Milliseconds that virt-install takes.
fn by_installer(lab: &Lab, kind: &Kind, name: &str, base: &str) -> Result<f64, Failure> {
    let backing = if kind.word == "new" { "" } else { base.trim() };
    let told = [
        ("URI", lab.uri.as_str()),
        ("NAME", name),
        ("KIND", kind.word),
        ("BACKING", backing),
        ("POOL", &lab.pool().display().to_string()),
    ];
    let told: Vec<String> = told.iter().map(|(key, value)| format!("{key}={value}")).collect();
    let mut words = vec!["env"];
    words.extend(told.iter().map(String::as_str));
    words.extend(["bash", "-c", INSTALLER]);
    Ok(lab.exec(&words)?.trim().parse()?)
}

fn there(program: &str) -> bool {
    std::env::var_os("PATH").is_some_and(|path| {
        std::env::split_paths(&path).any(|folder| folder.join(program).exists())
    })
}

/// Takes a VM away with its volumes, whoever has made it.
fn remove(lab: &Lab, name: &str) -> Result<(), Failure> {
    // Not every one of them runs.
    let _ = run(virsh(lab).args(["destroy", name]));
    run(virsh(lab).args(["undefine", name, "--remove-all-storage"])).map(drop)
}

fn virsh(lab: &Lab) -> Command {
    let mut command = Command::new("virsh");
    command.args(["-q", "-c", &lab.uri]);
    command
}
