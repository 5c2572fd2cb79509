//! Updates of disks and NICs of a running guest, seen by the guest and by the host.

use serde_json::{Value, json};

use crate::support::{BOOT, NETWORKS, SOON, V, World, eventually, guest};

const GIB: u64 = 1 << 30;
const MAC: &str = "52:54:00:77:00:01";

/// What a file holds in the guest, read by its agent.
async fn in_guest(world: &World, file: &str) -> String {
    let ask = |command: Value| -> Value {
        let text = world.lab.virsh(&["qemu-agent-command", "one", &command.to_string()]);
        serde_json::from_str::<Value>(&text).expect("JSON of the agent")["return"].clone()
    };
    let started = ask(json!({"execute": "guest-exec", "arguments":
        {"path": "/bin/busybox", "arg": ["cat", file], "capture-output": true}}));
    let status = json!({"execute": "guest-exec-status", "arguments": {"pid": started["pid"]}});
    let ended = eventually("the guest has read the file", SOON, async || {
        let status = ask(status.clone());
        (status["exited"] == true).then_some(status)
    })
    .await;
    let text = ended["out-data"].as_str().unwrap_or_default();
    let bytes = decode(text);
    String::from_utf8_lossy(&bytes).trim().to_owned()
}

/// Base64, as the agent writes it.
fn decode(text: &str) -> Vec<u8> {
    const WORDS: &[u8] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    let (mut bits, mut held, mut bytes) = (0_u32, 0_u32, Vec::new());
    for digit in text.bytes().filter_map(|byte| WORDS.iter().position(|word| *word == byte)) {
        bits = (bits << 6) | u32::try_from(digit).expect("six bits");
        held += 6;
        if held >= 8 {
            held -= 8;
            bytes.push(u8::try_from((bits >> held) & 0xFF).expect("eight bits"));
        }
    }
    bytes
}

fn both_definitions(world: &World) -> (String, String) {
    let live = world.lab.virsh(&["dumpxml", "one", "--security-info"]);
    (live, world.lab.virsh(&["dumpxml", "one", "--security-info", "--inactive"]))
}

/// The bridge that the tap is plugged into, as the kernel has it.
fn master(world: &World, tap: &str) -> String {
    let text = world.lab.exec(&["ip", "-o", "link", "show", "dev", tap]);
    let master = text.split(" master ").nth(1).and_then(|rest| rest.split(' ').next());
    master.unwrap_or_else(|| panic!("no master: {text}")).to_owned()
}

async fn changed(world: &World, body: Value) -> Value {
    let reply = world.client.patch(format!("{V}/one"), &body).await;
    assert_eq!(reply.status, 200, "{body}: {reply:?}");
    reply.data().clone()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_running_guest_sees_its_disk_grow_and_its_cable_plugged() {
    let Some(world) = World::on_one_host("devices").await else { return };
    let (client, lab) = (&world.client, &world.lab);
    let path = format!("{V}/one");
    let wire = json!({"name": "wire", "bridge": "vwire0", "ips": [{"address": "10.207.9.1/24"}]});
    let made = client.post(NETWORKS, &wire).await;
    assert_eq!(made.status, 201, "{made:?}");
    let mut body = guest::body("one");
    body["networks"] = json!([{"type": "network", "source": "lab", "mac": MAC}]);
    body["start"] = json!(true);
    let made = client.post(V, &body).await;
    assert_eq!(made.status, 201, "{made:?}");
    world.booted("one").await;

    // The disk: planned, grown, seen by the guest.
    assert_eq!(in_guest(&world, "/sys/block/vda/size").await, (GIB / 512).to_string());
    let grow = json!({"disks": [{"target": "vda", "size": 2}]});
    let plan = client.call("PATCH", format!("{path}?dry_run=true")).json(&grow).send().await;
    let plan = plan.data();
    assert_eq!(plan["changes"][0]["field"], "disks.vda.size", "{plan}");
    assert_eq!((&plan["changes"][0]["from"], &plan["changes"][0]["to"]), (&json!(1), &json!(2)));
    assert_eq!((&plan["changes"][0]["effect"], &plan["blockers"]), (&json!("live"), &json!([])));
    assert!(plan["side_effects"][0].as_str().expect("a side effect").contains("guest"), "{plan}");
    assert_eq!(in_guest(&world, "/sys/block/vda/size").await, (GIB / 512).to_string());
    let vm = changed(&world, grow).await;
    assert_eq!(vm["disks"][0]["capacity_bytes"], 2 * GIB, "{vm}");
    eventually("the guest sees the disk grown", BOOT, async || {
        (in_guest(&world, "/sys/block/vda/size").await == (2 * GIB / 512).to_string()).then_some(())
    })
    .await;

    // The cable: out and in again, in both definitions and in the guest.
    for (up, word) in [(false, "down"), (true, "up")] {
        let vm = changed(&world, json!({"networks": [{"mac": MAC, "link_up": up}]})).await;
        assert_eq!((&vm["networks"][0]["link_up"], &vm["pending"]), (&json!(up), &json!(null)));
        for config in
            [&["domif-getlink", "one", MAC][..], &["domif-getlink", "one", MAC, "--config"]]
        {
            assert!(lab.virsh(config).ends_with(word), "{config:?}");
        }
        eventually(&format!("the guest's carrier is {word}"), BOOT, async || {
            let carrier = in_guest(&world, "/sys/class/net/eth0/carrier").await;
            (carrier == if up { "1" } else { "0" }).then_some(())
        })
        .await;
    }

    // Another network.
    let tap = client.vm("one").await["networks"][0]["target"].as_str().expect("a tap").to_owned();
    assert_eq!(master(&world, &tap), "labbr0");
    let vm =
        changed(&world, json!({"networks": [{"mac": MAC.to_uppercase(), "source": "wire"}]})).await;
    assert_eq!(vm["networks"][0]["source"], json!({"type": "network", "name": "wire"}), "{vm}");
    assert_eq!(vm["pending"], json!(null), "{vm}");
    assert_eq!(master(&world, &tap), "vwire0");
    let (live, stored) = both_definitions(&world);
    assert!(live.contains("network='wire'") && stored.contains("network='wire'"), "{live}{stored}");

    // The last of several live changes is refused: the VM is as it was.
    let before = (guest::without_runtime(&client.vm("one").await), both_definitions(&world));
    let wrong = json!({"description": "never", "labels": {"never": "so"}, "memory": 192,
        "networks": [{"mac": MAC, "type": "bridge", "source": "nobridge9"}]});
    let refused = client.patch(&path, &wrong).await;
    assert!(!refused.is_success(), "{refused:?}");
    eventually("the balloon is back", BOOT, async || {
        let now = (guest::without_runtime(&client.vm("one").await), both_definitions(&world));
        (now == before).then_some(())
    })
    .await;
    assert_eq!(master(&world, &tap), "vwire0");

    // What is wrong is said with its field, and changes nothing.
    for (body, field) in [
        (json!({"disks": [{"target": "vda", "size": 1}]}), "disks.vda.size"),
        (json!({"disks": [{"target": "vdb", "size": 3}]}), "disks[0].target"),
        (json!({"networks": [{"mac": "52:54:00:77:00:02", "link_up": true}]}), "networks[0].mac"),
        (json!({"networks": [{"mac": MAC, "type": "bridge"}]}), "networks[0].source"),
    ] {
        let refused = client.patch(&path, &body).await.refused(422, "IMPOSSIBLE");
        assert!(format!("{refused:?}").contains(field), "{field}: {refused:?}");
    }
    let unknown = json!({"networks": [{"mac": MAC, "source": "nowhere"}]});
    client.patch(&path, &unknown).await.refused(404, "NETWORK_NOT_FOUND");

    // What waits for the next boot is shown until then.
    let next = json!({"networks": [{"mac": MAC, "model": "e1000e"}],
        "disks": [{"target": "vda", "serial": "VAPOR-1"}]});
    let vm = changed(&world, next).await;
    let pending: Vec<&str> = vm["pending"]["changes"]
        .as_array()
        .into_iter()
        .flatten()
        .filter_map(|change| change["field"].as_str())
        .collect();
    assert_eq!(pending, ["disks.vda.serial", &format!("networks.{MAC}.model")], "{vm}");
    client.act("one", "force-stop").await;
    let vm = changed(&world, json!({"disks": [{"target": "vda", "size": 3}]})).await;
    assert_eq!(vm["disks"][0]["capacity_bytes"], 3 * GIB, "{vm}");
    assert_eq!((&vm["disks"][0]["serial"], &vm["pending"]), (&json!("VAPOR-1"), &json!(null)));
    world.finish().await;
}
