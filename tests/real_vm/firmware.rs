//! UEFI, Secure Boot and TPM: as the guest sees them, and what is left of them on the host.

use std::process::Command;
use std::time::Duration;

use serde_json::{Value, json};

use crate::support::lab::{run, script};
use crate::support::{Lab, SOON, V, World, eventually, guest};

/// What takes a guest that boots by UEFI in emulation, where every firmware variable costs a round
/// through System Management Mode.
const FIRMWARE_BOOT: Duration = Duration::from_secs(240);

/// A VM whose only disk is the lab's signed system.
fn signed_body(lab: &Lab, name: &str, os: Value) -> Value {
    let image = run(Command::new("bash").arg(script("secureboot/build.sh")));
    run(Command::new("cp").args(["--reflink=auto", &image, &lab.pool_file("secureboot.img")]));
    lab.virsh(&["pool-refresh", "lab"]);
    json!({
        "name": name, "memory": 512, "vcpus": 1, "os": os, "tpm": true,
        "graphics": [{"type": "none"}], "start": true,
        "storage": {"disks": [
            {"action": "attach", "pool": "lab", "volume": "secureboot.img"},
        ]},
    })
}

/// Makes a VM of a volume that Vapor may not have seen yet.
async fn make(world: &World, body: &Value) -> Value {
    let refresh = "/api/v1/virtualization/storages/pools/lab/refresh";
    let reply = world.client.post(refresh, &json!({})).await;
    assert!(reply.is_success(), "{reply:?}");
    let reply = world.client.call("POST", V).header("prefer", "wait=60").json(body).send().await;
    assert_eq!(reply.status, 201, "{reply:?}");
    reply.data().clone()
}

async fn agent_answers(lab: &Lab, vm: &str) {
    let ping = json!({"execute": "guest-ping"}).to_string();
    eventually("the guest's agent answers", FIRMWARE_BOOT, async || {
        lab.try_virsh(&["qemu-agent-command", vm, &ping]).ok()
    })
    .await;
}

/// What a shell in the guest prints.
async fn in_guest(lab: &Lab, vm: &str, words: &str) -> String {
    let ask = |request: Value| -> Value {
        let said = lab.virsh(&["qemu-agent-command", vm, &request.to_string()]);
        serde_json::from_str::<Value>(&said).expect("JSON")["return"].clone()
    };
    let exec = json!({"execute": "guest-exec", "arguments":
        {"path": "/bin/sh", "arg": ["-c", words], "capture-output": true}});
    let pid = ask(exec)["pid"].clone();
    let status = json!({"execute": "guest-exec-status", "arguments": {"pid": pid}});
    let done = eventually("the shell in the guest ends", SOON, async || {
        let now = ask(status.clone());
        (now["exited"] == true).then_some(now)
    })
    .await;
    let data = done["out-data"].as_str().unwrap_or_default();
    run(Command::new("sh").args(["-c", "printf %s \"$1\" | base64 -d", "sh", data]))
}

/// What the firmware tells the guest: `SecureBoot`, `SetupMode`, the TPM's version, and what became
/// of the kernel whose signature does not fit.
async fn seen_by_the_guest(lab: &Lab, vm: &str) -> Vec<String> {
    let said = in_guest(
        lab,
        vm,
        "mount -t efivarfs efivarfs /sys/firmware/efi/efivars
         for name in SecureBoot SetupMode; do
             tail -c 1 /sys/firmware/efi/efivars/$name-8be4df61-* | hexdump -e '1/1 \"%d\\n\"'
         done
         cat /sys/class/tpm/tpm0/tpm_version_major
         grep -o 'vapor.unsigned=[a-z]*' /proc/cmdline",
    )
    .await;
    said.lines().map(str::to_owned).collect()
}

/// The files of variables and of TPMs that the host keeps.
fn kept(lab: &Lab) -> String {
    lab.exec(&[
        "sh",
        "-c",
        "find /var/lib/libvirt/qemu/nvram /var/lib/libvirt/swtpm -type f 2>/dev/null || true",
    ])
}

fn skipped() -> bool {
    let missing = ["swtpm", "mformat"].into_iter().find(|tool| !crate::support::lab::there(tool));
    if let Some(tool) = missing {
        crate::support::lab::skip(tool);
    }
    missing.is_some()
}

#[tokio::test(flavor = "multi_thread")]
async fn secure_boot_is_in_force_in_the_guest_and_nothing_of_it_outlives_the_vm() {
    if skipped() {
        return;
    }
    let Some(world) = World::start("secure").await else { return };
    let (client, lab) = (&world.client, &world.lab);
    let body = signed_body(lab, "secure", json!({"secure_boot": true}));
    let vm = make(&world, &body).await;
    let uuid = vm["uuid"].as_str().expect("a UUID").to_owned();
    let os = &vm["os"];
    assert_eq!((&os["firmware"], &os["secure_boot"]), (&json!("efi"), &json!(true)), "{os}");
    assert_eq!(os["enrolled_keys"], true, "{os}");
    let nvram = os["nvram"].as_str().expect("a file of variables");
    assert!(nvram.ends_with(&format!("/{uuid}_VARS.fd")), "{nvram}");
    let tpm = json!({"model": "tpm-crb", "backend": "emulator", "version": "2.0"});
    assert_eq!(vm["tpm"], tpm);

    agent_answers(lab, "secure").await;
    let seen = seen_by_the_guest(lab, "secure").await;
    assert_eq!(seen, ["1", "0", "2", "vapor.unsigned=refused"]);
    let files = kept(lab);
    assert!(files.contains(nvram) && files.contains(&format!("/{uuid}/tpm2/")), "{files}");

    // Variables and TPM stay with the VM, whatever it is called.
    client.done("secure", "force-stop").await;
    lab.virsh(&["domrename", "secure", "renamed"]);
    let renamed = eventually("the new name is seen", SOON, async || {
        let reply = client.get(format!("{V}/renamed")).await;
        reply.is_success().then(|| reply.data().clone())
    })
    .await;
    assert_eq!((&renamed["os"]["nvram"], &renamed["tpm"]), (&json!(nvram), &tpm));
    assert_eq!(kept(lab), files);

    let plan = client.delete(format!("{V}/renamed?dry_run=true")).await;
    let effects = plan.data()["side_effects"].to_string();
    assert!(
        effects.contains("firmware's variables") && effects.contains("TPM's state"),
        "{effects}"
    );
    let gone = client.delete(format!("{V}/renamed?remove_disks=true")).await;
    assert_eq!(gone.status, 204, "{gone:?}");
    assert_eq!(kept(lab), "");
    world.finish().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn without_keys_the_firmware_waits_for_some_and_boots_anything() {
    if skipped() {
        return;
    }
    let Some(world) = World::start("keyless").await else { return };
    let lab = &world.lab;
    let mut body =
        signed_body(lab, "keyless", json!({"secure_boot": true, "enrolled_keys": false}));
    body["tpm"] = json!({"model": "tpm-tis", "version": "2.0"});
    let vm = make(&world, &body).await;
    assert_eq!(vm["os"]["enrolled_keys"], false, "{}", vm["os"]);
    assert_eq!(vm["tpm"]["model"], "tpm-tis");
    agent_answers(lab, "keyless").await;
    let seen = seen_by_the_guest(lab, "keyless").await;
    assert_eq!(seen, ["0", "1", "2", "vapor.unsigned=booted"]);
    world.finish().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn uefi_boots_a_kernel_and_what_fails_leaves_no_variables() {
    if skipped() {
        return;
    }
    let Some(world) = World::start("uefi").await else { return };
    let (client, lab) = (&world.client, &world.lab);
    // Defined, its TPM and its variables made, and then not started by QEMU.
    let mut body = guest::body("efi");
    body["os"]["firmware"] = json!("uefi");
    body["tpm"] = json!(true);
    body["memory"] = json!(67_108_864);
    body["start"] = json!(true);
    client.post(V, &body).await.refused(422, "LIBVIRT_REFUSED");
    assert_eq!(kept(lab), "");

    // libvirt says only when it sees the definition that no image fits.
    let mut unfit = guest::empty_body("unfit");
    unfit["os"] = json!({"firmware": "efi", "machine": "isapc"});
    let reply = client.post(V, &unfit).await.refused(422, "NOT_SUPPORTED");
    assert!(reply.json["error"]["hint"].as_str().is_some_and(|hint| hint.contains("ovmf")));
    assert!(lab.names(&["list", "--all", "--name"]).is_empty());
    for (os, field) in [
        (json!({"secure_boot": true, "firmware": "bios"}), "os.secure_boot"),
        (json!({"secure_boot": true, "machine": "pc"}), "os.secure_boot"),
        (json!({"firmware": "efi", "enrolled_keys": true}), "os.enrolled_keys"),
    ] {
        let mut wrong = guest::empty_body("wrong");
        wrong["os"] = os;
        let reply = client.post(V, &wrong).await.refused(422, "IMPOSSIBLE");
        assert_eq!(reply.details()["fields"][0]["field"], field, "{reply:?}");
    }

    body["memory"] = json!(256);
    let reply = client.post(V, &body).await;
    assert_eq!(reply.status, 201, "{reply:?}");
    let os = &reply.data()["os"];
    assert_eq!((&os["firmware"], &os["secure_boot"]), (&json!("efi"), &json!(false)), "{os}");
    agent_answers(lab, "efi").await;
    let said = in_guest(lab, "efi", "ls -d /sys/firmware/efi; ls /sys/class/tpm").await;
    assert_eq!(said, "/sys/firmware/efi\ntpm0");
    let gone = client.delete(format!("{V}/efi?force=true&remove_disks=true")).await;
    assert_eq!(gone.status, 204, "{gone:?}");
    assert_eq!(kept(lab), "");
    world.finish().await;
}
