//! VMs and changes by other hands: seen like Vapor's own, and never robbed of what Vapor does not
//! know.

use serde_json::json;

use crate::support::{SOON, Settings, V, World, eventually, guest};

/// So seldom that whatever a test sees is there because of an event.
const HARDLY_EVER: u64 = 3600;

/// The lines of an XML text whose content an edit may not change: all but those with these words.
fn lines_without(xml: &str, words: &[&str]) -> Vec<String> {
    let kept = |line: &&str| !words.iter().any(|word| line.contains(word));
    xml.lines()
        .map(str::trim)
        .filter(|line| !line.is_empty())
        .filter(kept)
        .map(Into::into)
        .collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn what_others_make_and_change_is_seen_by_its_events() {
    let adjust = |settings: &mut Settings| settings.reconcile_seconds = HARDLY_EVER;
    let Some(world) = World::with("foreign", adjust).await else { return };
    let (client, lab) = (&world.client, &world.lab);
    let seen = async |what: &str, probe: &dyn Fn(&serde_json::Value) -> bool| {
        eventually(what, SOON, async || {
            let reply = client.get(format!("{V}/hand")).await;
            (reply.status == 200 && probe(reply.data())).then(|| reply.data().clone())
        })
        .await
    };
    lab.define(&guest::foreign_xml(lab, "hand"));
    let vm = seen("the VM is listed", &|_| true).await;
    assert_eq!((&vm["state"], &vm["owner"]), (&json!("shutoff"), &json!(null)));
    assert!(client.vms().await.iter().any(|vm| vm["name"] == "hand"));
    lab.virsh(&["start", "hand"]);
    seen("it runs", &|vm| vm["state"] == "running").await;
    world.booted("hand").await;

    lab.virsh(&["setmem", "hand", "192M", "--live"]);
    // The balloon's event comes when the guest has given the memory back.
    eventually("its memory is 192 MiB", SOON, async || {
        (client.vm("hand").await["memory"] == 192).then_some(())
    })
    .await;
    lab.virsh(&["desc", "hand", "--config", "--live", "--new-desc", "by virsh"]);
    seen("its description", &|vm| vm["description"] == "by virsh").await;
    lab.virsh(&["vol-create-as", "lab", "extra.raw", "16M"]);
    lab.virsh(&["pool-refresh", "lab"]);
    let file = lab.pool_file("extra.raw");
    lab.virsh(&["attach-disk", "hand", &file, "vdb", "--targetbus", "virtio", "--live"]);
    let vm = seen("its new disk", &|vm| {
        vm["disks"].as_array().is_some_and(|disks| disks.iter().any(|disk| disk["target"] == "vdb"))
    })
    .await;
    assert_eq!(vm["disks"][0]["source"], json!(file));
    eventually("the disk is known as a volume", SOON, async || {
        let vm = client.vm("hand").await;
        (vm["disks"][0]["volume"] == json!({"pool": "lab", "volume": "extra.raw"})).then_some(())
    })
    .await;
    lab.virsh(&["suspend", "hand"]);
    seen("it is paused", &|vm| vm["state"] == "paused").await;
    lab.virsh(&["destroy", "hand"]);
    seen("it is off", &|vm| vm["state"] == "shutoff" && vm["runtimeDetails"].is_null()).await;
    lab.virsh(&["undefine", "hand"]);
    eventually("it is gone", SOON, async || {
        (client.get(format!("{V}/hand")).await.status == 404).then_some(())
    })
    .await;
    world.finish().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_no_event_tells_is_found_by_the_reconcile() {
    let adjust = |settings: &mut Settings| settings.reconcile_seconds = 1;
    let Some(world) = World::with("silent", adjust).await else { return };
    let (client, lab) = (&world.client, &world.lab);
    world.make("one", false).await;
    lab.virsh(&["setmem", "one", "192M", "--config"]);
    eventually("its memory is known", SOON, async || {
        (client.vm("one").await["memory"] == 192).then_some(())
    })
    .await;
    lab.virsh(&["autostart", "one"]);
    eventually("it starts with the host", SOON, async || {
        (client.vm("one").await["autostart"] == true).then_some(())
    })
    .await;
    lab.virsh(&["snapshot-create-as", "one", "first"]);
    eventually("its snapshot is counted", SOON, async || {
        (client.vm("one").await["snapshot_count"] == 1).then_some(())
    })
    .await;
    lab.virsh(&["snapshot-delete", "one", "first"]);
    eventually("its snapshot is gone", SOON, async || {
        (client.vm("one").await["snapshot_count"] == 0).then_some(())
    })
    .await;
    let vm = client.patch(format!("{V}/one"), &json!({"autostart": false})).await;
    assert_eq!(vm.data()["autostart"], json!(false));
    assert!(!lab.virsh(&["list", "--all", "--name", "--autostart"]).contains("one"));
    world.finish().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_update_of_a_foreign_vm_keeps_every_element_of_it() {
    let Some(world) = World::start("lossless").await else { return };
    let (client, lab) = (&world.client, &world.lab);
    lab.define(&guest::foreign_xml(lab, "hand"));
    eventually("the VM is listed", SOON, async || {
        (client.get(format!("{V}/hand")).await.status == 200).then_some(())
    })
    .await;
    let before = lab.virsh(&["dumpxml", "hand", "--inactive"]);
    for part in ["other:deep", "a &amp; b", "qemu:env", "tickpolicy", "itco", "<title>by hand"] {
        assert!(before.contains(part), "the test's own definition lacks {part}: {before}");
    }
    let change = json!({"memory": 192, "vcpus": 2, "description": "new", "labels": {"k": "v"}});
    let reply = client.patch(format!("{V}/hand"), &change).await;
    assert_eq!(reply.status, 200, "{reply:?}");
    let after = lab.virsh(&["dumpxml", "hand", "--inactive"]);
    let ours = ["emory", "vcpu", "description", "vapor:"];
    assert_eq!(lines_without(&before, &ours), lines_without(&after, &ours));
    assert!(after.contains("<description>new</description>"), "{after}");

    // The definition as a whole: one word changed, all else as it was.
    let path = format!("{V}/hand/xml");
    let xml = client.call("GET", &path).header("accept", "application/xml").send().await.text;
    assert!(xml.contains("qemu:commandline") && xml.contains("other:deep"), "{xml}");
    let edited = xml
        .replace("value='kept'", "value='changed'")
        .replace("value=\"kept\"", "value=\"changed\"");
    assert_ne!(xml, edited);
    let reply = client.call("PUT", &path).xml(&edited).send().await;
    assert_eq!(reply.status, 200, "{reply:?}");
    let last = lab.virsh(&["dumpxml", "hand", "--inactive"]);
    let changed = |xml: &str| lines_without(xml, &["VAPOR_TEST"]);
    assert_eq!(changed(&after), changed(&last));
    assert!(last.contains("changed"), "{last}");

    let other = edited.replace("<name>hand</name>", "<name>foot</name>");
    let reply = client.call("PUT", &path).xml(&other).send().await;
    assert_eq!(reply.status, 422, "{reply:?}");
    for bad in ["<domain", "<network/>", "<!DOCTYPE x [<!ENTITY y 'z'>]><domain>&y;</domain>"] {
        let reply = client.call("PUT", &path).xml(bad).send().await;
        assert!(matches!(reply.status, 400 | 422), "{bad}: {reply:?}");
    }
    let bad = edited.replace("<vcpu", "<vcpux").replace("</vcpu>", "</vcpux>");
    let reply = client.call("PUT", &path).xml(&bad).send().await;
    assert_eq!(reply.status, 422, "{reply:?}");
    assert_eq!(lab.virsh(&["dumpxml", "hand", "--inactive"]), last, "refused ones change nothing");
    world.finish().await;
}
