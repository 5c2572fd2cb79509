//! Partial updates: live, with the next boot, or not at all.

use serde_json::{Value, json};

use crate::support::{BOOT, SOON, V, World, eventually, guest};

fn number(text: &str, word: &str) -> u64 {
    let line = text.lines().find(|line| line.starts_with(word)).unwrap_or_else(|| panic!("{text}"));
    let digits = line.split_whitespace().find_map(|part| part.parse().ok());
    digits.unwrap_or_else(|| panic!("{line}"))
}

/// The balloon's size in MiB, as libvirt tells it.
fn balloon(world: &World, name: &str) -> u64 {
    number(&world.lab.virsh(&["dommemstat", name]), "actual") / 1024
}

fn pending(vm: &Value) -> Vec<&str> {
    let changes = vm["pending"]["changes"].as_array();
    let mut fields: Vec<&str> =
        changes.into_iter().flatten().filter_map(|change| change["field"].as_str()).collect();
    fields.sort_unstable();
    fields
}

#[tokio::test(flavor = "multi_thread")]
async fn a_running_guest_takes_up_what_it_can_and_the_rest_with_its_next_boot() {
    let Some(world) = World::start("update").await else { return };
    let (client, lab) = (&world.client, &world.lab);
    let path = format!("{V}/one");
    let mut body = guest::body("one");
    body["max_vcpus"] = json!(3);
    body["start"] = json!(true);
    let made = client.post(V, &body).await;
    assert_eq!(made.status, 201, "{made:?}");
    world.booted("one").await;

    // The balloon goes down and up again, within what the guest booted with.
    for memory in [192, 256] {
        let vm = client.patch(&path, &json!({"memory": memory})).await;
        assert_eq!(vm.status, 200, "{vm:?}");
        eventually(&format!("the guest has {memory} MiB"), BOOT, async || {
            (balloon(&world, "one") == memory).then_some(())
        })
        .await;
        eventually("the API says so", SOON, async || {
            let vm = client.vm("one").await;
            (vm["memory"] == memory && vm["pending"].is_null()).then_some(())
        })
        .await;
    }
    let vm = client.patch(&path, &json!({"vcpus": 2})).await.data().clone();
    assert_eq!((&vm["vcpus"], &vm["pending"]), (&json!(2), &json!(null)), "{vm}");
    let counts = lab.virsh(&["vcpucount", "one"]);
    let current: Vec<&str> = counts.lines().filter(|line| line.starts_with("current")).collect();
    assert!(current.iter().all(|line| line.ends_with(" 2")), "{counts}");

    let words = json!({"description": "new\nlines & <more>", "labels": {"a": "1", "b": "x=y"}});
    let before = client.vm("one").await["generation"].as_u64();
    let vm = client.patch(&path, &words).await.data().clone();
    assert_eq!((&vm["description"], &vm["labels"]), (&words["description"], &words["labels"]));
    assert_eq!(vm["pending"], json!(null), "{vm}");
    assert!(vm["generation"].as_u64() > before);
    for which in [&["dumpxml", "one"][..], &["dumpxml", "one", "--inactive"]] {
        let xml = lab.virsh(which);
        assert!(xml.contains("new\nlines &amp; &lt;more&gt;"), "{xml}");
        assert!(xml.contains("value='x=y'") || xml.contains("value=\"x=y\""), "{xml}");
    }

    // What cannot be live is promised for the next boot, and shown until then.
    let more = json!({"memory": 320, "max_vcpus": 4, "boot": ["cdrom", "hd"]});
    let plan = client.call("PATCH", format!("{path}?dry_run=true")).json(&more).send().await;
    let changes = plan.data()["changes"].as_array().expect("changes").clone();
    assert!(!changes.is_empty());
    assert!(changes.iter().all(|change| change["effect"] == "next_boot"), "{changes:?}");
    assert!(changes.iter().all(|change| change["reason"].is_string()), "{changes:?}");
    let vm = client.patch(&path, &more).await.data().clone();
    assert_eq!((&vm["memory"], &vm["max_vcpus"]), (&json!(256), &json!(3)), "{vm}");
    let fields = pending(&vm);
    for field in ["memory", "max_memory", "max_vcpus", "boot"] {
        assert!(fields.iter().any(|known| known.ends_with(field)), "{field} is not in {fields:?}");
    }
    let running = vm["pending"]["changes"].as_array().expect("changes").iter();
    for change in running {
        assert_ne!(change["running"], change["next_boot"], "{change}");
    }
    // Fewer vCPUs than it booted with: not live.
    let plan = client.call("PATCH", format!("{path}?dry_run=true")).json(&json!({"vcpus": 1}));
    let plan = plan.send().await;
    assert_eq!(plan.data()["changes"][0]["effect"], "next_boot", "{plan:?}");

    let restart = client.act_with("one", json!({"action": "restart", "timeout": 60})).await;
    let task = client.finished(&restart.task().expect("a task"), BOOT).await;
    assert_eq!(task["status"], "succeeded", "{task}");
    let vm = client.vm("one").await;
    assert_eq!(vm["pending"], json!(null), "{vm}");
    assert_eq!((&vm["memory"], &vm["max_memory"]), (&json!(320), &json!(320)), "{vm}");
    assert_eq!((&vm["vcpus"], &vm["max_vcpus"]), (&json!(2), &json!(4)), "{vm}");
    assert_eq!(vm["os"]["boot"], json!(["cdrom", "hd"]));
    assert_eq!(number(&lab.virsh(&["dominfo", "one"]), "Max memory"), 320 * 1024);

    let bad = json!({"memory": 512, "max_memory": 256});
    client.patch(&path, &bad).await.refused(422, "IMPOSSIBLE");
    client.patch(&path, &json!({"memory": 0})).await.refused(400, "INVALID_REQUEST");
    client.patch(&path, &json!({"mem": 128})).await.refused(400, "INVALID_REQUEST");
    let after = guest::without_runtime(&client.vm("one").await);
    assert_eq!(after, guest::without_runtime(&vm), "a refused update changes nothing");
    world.finish().await;
}
