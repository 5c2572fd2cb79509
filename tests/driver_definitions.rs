//! The history of definitions through HTTP, on libvirt's test driver: who made which version, what
//! differs between two, and the way back with what stands against it.

#[path = "support/driver.rs"]
mod driver;

use driver::journal::{intended, journal, unfinished};
use driver::{NODE, POOLS, Reply, VMS, WEB2, World, text};
use http::Method;
use serde_json::{Value, json};
use vapor::model::Task;
use vapor::service::inventory::definition_hash;
use vapor::store::DefinitionChange;

fn path(vm: &str, rest: &str) -> String {
    format!("{VMS}/{vm}/definitions{rest}")
}

async fn versions(world: &World, vm: &str) -> Vec<Value> {
    let data = world.get(&path(vm, "")).await.expect(200);
    let versions = data["definitions"].as_array().expect("versions").clone();
    assert_eq!(data["count"], versions.len(), "{data:#}");
    versions
}

fn numbers(versions: &[Value]) -> Vec<u64> {
    versions.iter().map(|version| version["number"].as_u64().expect("a number")).collect()
}

async fn version(world: &World, vm: &str, number: u64) -> Value {
    world.get(&path(vm, &format!("/{number}"))).await.expect(200)
}

async fn diff(world: &World, vm: &str, which: &str) -> Value {
    world.get(&path(vm, &format!("/{which}"))).await.expect(200)
}

async fn describe(world: &World, vm: &str, words: &str) -> Reply {
    let reply = world.patch(&format!("{VMS}/{vm}"), &json!({"description": words})).await;
    reply.expect(200);
    reply
}

async fn rollback(world: &World, vm: &str, number: u64, query: &str) -> Reply {
    let path = path(vm, &format!("/{number}/rollback{query}"));
    world.send(Method::POST, &path, &[], None).await
}

/// libvirt does not keep the space between elements of metadata.
fn without_space(xml: &str) -> String {
    xml.split_whitespace().collect()
}

/// The stored definition as the API shows it.
async fn xml(world: &World, vm: &str) -> String {
    let reply = world.get(&format!("{VMS}/{vm}/xml?inactive=true")).await;
    assert_eq!(reply.status, 200, "{reply}");
    String::from_utf8(reply.body.to_vec()).expect("text")
}

async fn replace(world: &World, vm: &str, xml: String) {
    let path = format!("{VMS}/{vm}/xml");
    world.request(Method::PUT, &path, &[], Some(("application/xml", xml))).await.expect(200);
}

#[tokio::test(flavor = "multi_thread")]
async fn every_change_is_a_version_with_who_and_when() {
    let world = World::new().await;
    let first = versions(&world, "web2").await;
    assert_eq!(numbers(&first), [1]);
    let outside = ["by", "task", "operation"].map(|field| first[0][field].clone());
    assert_eq!(outside, [Value::Null, Value::Null, Value::Null], "{first:#?}");

    let reply = describe(&world, "web2", "one").await;
    let task = world.get(&format!("/api/v1/tasks/{}", reply.header("x-task-id"))).await.data();
    let all = versions(&world, "web2").await;
    assert_eq!(numbers(&all), [2, 1], "{all:#?}");
    assert_eq!(all[0]["by"], task["principal"]);
    assert_eq!((&all[0]["task"], &all[0]["operation"]), (&task["id"], &json!("vm.update")));
    assert!(text(&all[0]["at"]) > text(&all[1]["at"]), "{all:#?}");
    assert_eq!(all[1], first[0], "an earlier version stays what it was");
    let content = version(&world, "web2", 2).await;
    assert_eq!(text(&content["xml"]), xml(&world, "web2").await);
    assert_eq!(content["bytes"], text(&content["xml"]).len());
    let mut alone = content.clone();
    alone.as_object_mut().expect("an object").remove("xml");
    assert_eq!(alone, all[0]);

    // What changes nothing in the definition is no version.
    describe(&world, "web2", "one").await;
    world.patch(&format!("{VMS}/web2"), &json!({"autostart": true})).await.expect(200);
    world.act("web2", &json!({"action": "start"})).await.expect(200);
    world.act("web2", &json!({"action": "pause"})).await.expect(200);
    world.act("web2", &json!({"action": "resume"})).await.expect(200);
    world.act("web2", &json!({"action": "force-stop"})).await.expect(200);
    assert_eq!(numbers(&versions(&world, "web2").await), [2, 1]);

    replace(&world, "web2", xml(&world, "web2").await.replace(">one<", ">two<")).await;
    assert_eq!(versions(&world, "web2").await[0]["operation"], "vm.define");
    let body = json!({"action": "insert", "volume": {"pool": "default", "volume": "cd.iso"}});
    world.post(&format!("{VMS}/web2/media"), &body).await.expect(200);
    assert_eq!(versions(&world, "web2").await[0]["operation"], "vm.media.insert");

    let body = json!({"name": "new1", "memory": 64, "vcpus": 1, "disk_size": 1, "pool": "images"});
    world.post(VMS, &body).await.expect(201);
    let made = versions(&world, "new1").await;
    assert_eq!((numbers(&made), &made[0]["operation"]), (vec![1], &json!("vm.create")));
    world.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn versions_are_paged_and_tagged() {
    let world = World::new().await;
    for words in ["one", "two", "three", "four"] {
        describe(&world, "web2", words).await;
    }
    let page = world.get(&path("web2", "?limit=2&fields=number,by")).await;
    let data = page.expect(200);
    assert_eq!((&data["total"], &data["next"]), (&json!(5), &json!("4")), "{data:#}");
    let fields: Vec<&String> =
        data["definitions"][0].as_object().expect("a version").keys().collect();
    assert_eq!(fields, ["number", "by"]);
    let data = world.get(&path("web2", "?limit=2&cursor=4")).await.expect(200);
    assert_eq!(data["definitions"][0]["number"], 3, "{data:#}");
    let data = world.get(&path("web2", "?limit=2&cursor=2&sort=-number")).await.expect(200);
    assert_eq!((&data["count"], &data["next"]), (&json!(1), &Value::Null), "{data:#}");
    let tag = page.header("etag");
    for rest in ["?limit=2&fields=number,by", "/1"] {
        let tag = world.get(&path("web2", rest)).await.header("etag");
        let headers = [("if-none-match", tag.as_str())];
        assert_eq!(world.send(Method::GET, &path("web2", rest), &headers, None).await.status, 304);
    }
    describe(&world, "web2", "five").await;
    let headers = [("if-none-match", tag.as_str())];
    let again = world.send(Method::GET, &path("web2", "?limit=2"), &headers, None).await;
    assert_eq!(again.status, 200);
    for query in
        ["?limit=0", "?limit=1001", "?cursor=0", "?cursor=x", "?sort=number", "?fields=xml"]
    {
        world.get(&path("web2", query)).await.refused(400, "INVALID_REQUEST");
    }
    world.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn two_versions_are_compared_in_either_direction() {
    let world = World::new().await;
    describe(&world, "web2", "one").await;
    describe(&world, "web2", "two").await;
    let told = diff(&world, "web2", "2/diff?to=3").await;
    assert_eq!((&told["from"], &told["to"]), (&json!(2), &json!(3)));
    let lines = text(&told["diff"]);
    assert!(lines.contains("-  <description>one</description>"), "{lines}");
    assert!(lines.contains("+  <description>two</description>"), "{lines}");
    let back = text(&diff(&world, "web2", "3/diff?to=2").await["diff"]);
    assert!(back.contains("-  <description>two</description>"), "{back}");
    let present = diff(&world, "web2", "2/diff").await;
    assert_eq!((&present["to"], &present["diff"]), (&Value::Null, &told["diff"]));
    assert_eq!(diff(&world, "web2", "3/diff").await["diff"], "");
    world.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_rollback_is_planned_done_and_a_version_itself() {
    let world = World::new().await;
    let first = xml(&world, "web2").await;
    let body = json!({"description": "more", "memory": 2048, "labels": {"new": "yes"}});
    world.patch(&format!("{VMS}/web2"), &body).await.expect(200);
    let before = world.vm("web2").await;
    let plan = rollback(&world, "web2", 1, "?dry_run=true").await.expect(200);
    assert_eq!((&plan["operation"], &plan["blockers"]), (&json!("vm.rollback"), &json!([])));
    assert!(text(&plan["xml_diff"]).contains("-  <description>more"), "{plan:#}");
    let fields: Vec<&Value> =
        plan["changes"].as_array().expect("changes").iter().map(|c| &c["field"]).collect();
    assert!(fields.contains(&&json!("max_memory")), "{fields:?}");
    assert_eq!(world.vm("web2").await, before, "a plan changes nothing");

    let headers = [("idempotency-key", "back-1")];
    let send =
        async || world.send(Method::POST, &path("web2", "/1/rollback"), &headers, None).await;
    let reply = send().await;
    let vm = reply.expect(200);
    assert_eq!((&vm["memory"], &vm["description"]), (&json!(1024), &json!("")), "{vm:#}");
    assert_eq!(vm["labels"], json!({"env": "prod", "tier": "web"}));
    assert_eq!(reply.header("etag"), world.get(&format!("{VMS}/web2")).await.header("etag"));
    assert_eq!(without_space(&xml(&world, "web2").await), without_space(&first));
    assert_eq!(send().await.header("x-task-id"), reply.header("x-task-id"), "not a second time");
    let all = versions(&world, "web2").await;
    assert_eq!(numbers(&all), [3, 2, 1]);
    assert_eq!(all[0]["operation"], "vm.rollback");
    assert_eq!(all[0]["task"], reply.header("x-task-id"));
    let [third, first] = [3, 1].map(|number| version(&world, "web2", number));
    let texts = [third.await["xml"].clone(), first.await["xml"].clone()];
    assert_eq!(without_space(&text(&texts[0])), without_space(&text(&texts[1])));

    // And back from there; and to what is there already, which is no version.
    rollback(&world, "web2", 2, "").await.expect(200);
    assert_eq!(world.vm("web2").await["memory"], 2048);
    rollback(&world, "web2", 2, "").await.expect(200);
    assert_eq!(numbers(&versions(&world, "web2").await), [4, 3, 2, 1]);
    world.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_running_vm_takes_an_old_definition_up_with_its_next_boot() {
    let world = World::new().await;
    let change = json!({"max_vcpus": 4});
    world.patch(&format!("{VMS}/web1"), &change).await.expect(200);
    world.act("web1", &json!({"action": "force-stop"})).await.expect(200);
    world.act("web1", &json!({"action": "start"})).await.expect(200);
    assert_eq!(world.vm("web1").await["max_vcpus"], 4);
    let plan = rollback(&world, "web1", 1, "?dry_run=true").await.expect(200);
    assert!(text(&plan["side_effects"][0]).contains("next boot"), "{plan:#}");
    assert_eq!(plan["changes"][0]["effect"], "next_boot", "{plan:#}");
    let vm = rollback(&world, "web1", 1, "").await.expect(200);
    assert_eq!((&vm["state"], &vm["max_vcpus"]), (&json!("running"), &json!(4)), "{vm:#}");
    assert!(vm["pending"]["changes"].to_string().contains("max_vcpus"), "{vm:#}");
    world.act("web1", &json!({"action": "force-stop"})).await.expect(200);
    world.act("web1", &json!({"action": "start"})).await.expect(200);
    let vm = world.vm("web1").await;
    assert_eq!((&vm["max_vcpus"], &vm["pending"]), (&json!(2), &Value::Null), "{vm:#}");
    world.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_there_is_not_and_what_has_changed_since_is_refused() {
    let world = World::new().await;
    let stale = world.get(&format!("{VMS}/web2")).await.header("etag");
    describe(&world, "web2", "one").await;
    for rest in ["/3", "/9007199254740991", "/3/diff", "/1/diff?to=3"] {
        world.get(&path("web2", rest)).await.refused(404, "DEFINITION_NOT_FOUND");
    }
    rollback(&world, "web2", 3, "").await.refused(404, "DEFINITION_NOT_FOUND");
    rollback(&world, "web2", 3, "?dry_run=true").await.refused(404, "DEFINITION_NOT_FOUND");
    for rest in ["", "/1", "/1/diff"] {
        world.get(&path("none", rest)).await.refused(404, "VM_NOT_FOUND");
    }
    rollback(&world, "none", 1, "").await.refused(404, "VM_NOT_FOUND");
    for rest in ["/0", "/-1", "/x", "/1.5", "/9007199254740992", "/1/diff?to=0"] {
        world.get(&path("web2", rest)).await.refused(400, "INVALID_REQUEST");
    }
    world.get(&path("templates", "/1")).await.refused(404, "ROUTE_NOT_FOUND");
    let at = path("web2", "/1/rollback");
    let headers = [("if-match", stale.as_str())];
    world.send(Method::POST, &at, &headers, None).await.refused(412, "PRECONDITION_FAILED");
    world
        .send(Method::POST, &at, &[], Some(&json!({"to": 1})))
        .await
        .refused(400, "INVALID_REQUEST");
    assert_eq!(numbers(&versions(&world, "web2").await), [2, 1]);
    let present = world.get(&format!("{VMS}/web2")).await.header("etag");
    let headers = [("if-match", present.as_str())];
    world.send(Method::POST, &at, &headers, None).await.expect(200);
    assert_eq!(numbers(&versions(&world, "web2").await), [3, 2, 1]);
    world.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_rename_keeps_the_history_and_a_deletion_ends_it() {
    let world = World::new().await;
    describe(&world, "web2", "one").await;
    world.patch(&format!("{VMS}/web2"), &json!({"name": "shop1"})).await.expect(200);
    let all = versions(&world, "shop1").await;
    assert_eq!((numbers(&all), &all[0]["operation"]), (vec![3, 2, 1], &json!("vm.update")));
    // The name is the present one, whatever it was then.
    let vm = rollback(&world, "shop1", 1, "").await.expect(200);
    assert_eq!((&vm["name"], &vm["description"]), (&json!("shop1"), &json!("")), "{vm:#}");
    assert!(xml(&world, "shop1").await.contains("<name>shop1</name>"));
    assert_eq!(numbers(&versions(&world, "shop1").await), [4, 3, 2, 1]);

    let uuid = text(&world.vm("shop1").await["uuid"]);
    let definition = xml(&world, "shop1").await;
    world.delete(&format!("{VMS}/shop1")).await.expect(204);
    world.get(&path("shop1", "")).await.refused(404, "VM_NOT_FOUND");
    let body = json!({"name": "shop1", "memory": 64, "vcpus": 1,
        "custom_xml": "<domain><title>again</title></domain>"});
    let vm = world.post(VMS, &body).await.expect(201);
    assert_ne!(text(&vm["uuid"]), uuid);
    assert_eq!(numbers(&versions(&world, "shop1").await), [1]);
    assert!(!text(&version(&world, "shop1", 1).await["xml"]).contains(&uuid), "{definition}");
    world.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_oldest_versions_are_pruned_and_none_are_kept_if_that_is_wanted() {
    let world = World::with(NODE, "[limits]\ndefinition_versions = 3").await;
    for words in ["one", "two", "three", "four"] {
        describe(&world, "web2", words).await;
    }
    assert_eq!(numbers(&versions(&world, "web2").await), [5, 4, 3]);
    world.get(&path("web2", "/2")).await.refused(404, "DEFINITION_NOT_FOUND");
    assert_eq!(numbers(&versions(&world, "web1").await), [1]);
    // Gone back to, the oldest one makes room for itself.
    rollback(&world, "web2", 3, "").await.expect(200);
    assert_eq!(numbers(&versions(&world, "web2").await), [6, 5, 4]);
    assert_eq!(world.vm("web2").await["description"], "two");

    let world = world.restarted("[limits]\ndefinition_versions = 0").await;
    assert_eq!(versions(&world, "web2").await, Vec::<Value>::new());
    describe(&world, "web2", "five").await;
    assert_eq!(versions(&world, "web2").await, Vec::<Value>::new());
    rollback(&world, "web2", 6, "").await.refused(404, "DEFINITION_NOT_FOUND");
    let world = world.restarted("").await;
    assert_eq!(numbers(&versions(&world, "web2").await), [1], "it begins anew");
    world.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_restart_makes_no_version_of_what_has_not_changed() {
    let world = World::new().await;
    let mut before = Vec::new();
    for vm in ["web1", "web2", "db1"] {
        before.push(versions(&world, vm).await);
    }
    let world = world.restarted("").await;
    for (vm, before) in ["web1", "web2", "db1"].into_iter().zip(&before) {
        assert_eq!(versions(&world, vm).await, *before, "{vm}");
    }
    // A fresh libvirt of the same node file has lost the change: others have changed it back.
    describe(&world, "web2", "one").await;
    let world = world.restarted("").await;
    let all = versions(&world, "web2").await;
    assert_eq!(numbers(&all), [3, 2, 1]);
    assert_eq!((&all[0]["by"], &all[0]["operation"]), (&Value::Null, &Value::Null));
    assert_eq!(version(&world, "web2", 3).await["xml"], version(&world, "web2", 1).await["xml"]);
    world.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_way_back_to_what_is_gone_or_anothers_by_now_is_refused_with_names() {
    let world = World::new().await;
    let volume = json!({"name": "data.qcow2", "size": 1, "format": "qcow2"});
    world.post(&format!("{POOLS}/images/volumes"), &volume).await.expect(201);
    let without = xml(&world, "web2").await;
    let with = without.replace(
        "</disk>",
        "</disk><disk type='file' device='disk'><driver name='qemu' type='qcow2'/>\
         <source file='/pool/images/data.qcow2'/><target dev='vdb' bus='virtio'/></disk>\
         <interface type='network'><mac address='52:54:00:00:bb:01'/><source network='lab'/>\
         </interface>",
    );
    replace(&world, "web2", with.clone()).await;
    let attached = numbers(&versions(&world, "web2").await)[0];
    let plan = rollback(&world, "web2", 1, "?dry_run=true").await.expect(200);
    assert_eq!(plan["side_effects"], json!(["detach vdb; images/data.qcow2 stays as it is"]));
    rollback(&world, "web2", 1, "").await.expect(200);
    let plan = rollback(&world, "web2", attached, "?dry_run=true").await.expect(200);
    assert_eq!(plan["side_effects"], json!(["attach images/data.qcow2 as vdb again"]));
    assert_eq!(plan["blockers"], json!([]), "{plan:#}");

    // Another VM has the disk and the MAC address now.
    let body = json!({"name": "other1", "memory": 64, "vcpus": 1,
        "networks": [{"source": "lab", "mac": "52:54:00:00:bb:01"}],
        "storage": {"disks": [{"action": "attach", "pool": "images", "volume": "data.qcow2"}]}});
    world.post(VMS, &body).await.expect(201);
    let plan = rollback(&world, "web2", attached, "?dry_run=true").await.expect(200);
    let codes: Vec<&Value> =
        plan["blockers"].as_array().expect("blockers").iter().map(|b| &b["code"]).collect();
    assert_eq!(codes, ["VOLUME_IN_USE", "MAC_IN_USE"], "{plan:#}");
    let reply = rollback(&world, "web2", attached, "").await;
    assert_eq!(reply.refused(409, "VOLUME_IN_USE")["details"]["vms"], json!(["other1"]));

    // The disk and the network are gone.
    world.delete(&format!("{VMS}/other1?remove_disks=true")).await.expect(204);
    world.delete("/api/v1/virtualization/networks/lab?force=true").await.expect(204);
    let before = xml(&world, "web2").await;
    let reply = rollback(&world, "web2", attached, "").await;
    let error = reply.refused(422, "IMPOSSIBLE");
    let gone = json!(["the volume images/data.qcow2", "the network \"lab\""]);
    assert_eq!(error["details"]["gone"], gone, "{reply}");
    assert_eq!(reply.fields(), ["vdb", "52:54:00:00:bb:01"]);
    let plan = rollback(&world, "web2", attached, "?dry_run=true").await.expect(200);
    assert!(text(&plan["blockers"][0]["message"]).contains("images/data.qcow2"), "{plan:#}");
    assert_eq!(xml(&world, "web2").await, before, "refused, it changes nothing");
    world.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_consoles_password_is_none_of_a_versions_and_stays_what_it_is() {
    let world = World::new().await;
    let with = |password: &str, words: &str, xml: &str| {
        xml.replace(
            "</disk>",
            &format!("</disk><graphics type='vnc' port='-1' autoport='yes' passwd='{password}'/>"),
        )
        .replace("<metadata>", &format!("<description>{words}</description><metadata>"))
    };
    let plain = xml(&world, "web2").await;
    replace(&world, "web2", with("hush-1", "one", &plain)).await;
    let first = numbers(&versions(&world, "web2").await)[0];
    replace(&world, "web2", with("hush-2", "two", &plain)).await;
    for number in numbers(&versions(&world, "web2").await) {
        let content = version(&world, "web2", number).await.to_string();
        assert!(!content.contains("hush"), "{content}");
    }
    let vm = rollback(&world, "web2", first, "").await.expect(200);
    assert_eq!(vm["description"], "one");
    let database = std::fs::read(world.folder().join("vapor.db")).expect("the database");
    let log = std::fs::read(world.folder().join("vapor.db-wal")).unwrap_or_default();
    for bytes in [database, log] {
        assert!(!bytes.windows(5).any(|window| window == b"hush-"), "a secret was written down");
    }
    world.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_rollback_that_was_cut_off_is_judged_by_what_stands() {
    let world = World::new().await;
    let hash = definition_hash(&xml(&world, "web2").await);
    let [web1, web2] = [world.vm("web1").await, world.vm("web2").await];
    let done = unfinished("vm.rollback", "web2", &text(&web2["uuid"]));
    let other = unfinished("vm.rollback", "web1", &text(&web1["uuid"]));
    let never = unfinished("vm.rollback", "db1", &text(&world.vm("db1").await["uuid"]));
    let world = world
        .restarted_after(async |folder| {
            let store = journal(folder).await;
            for (task, steps) in [(&done, 1), (&other, 1), (&never, 0)] {
                store.begin_task(task, None, vec![]).await.expect("it is written");
                let step = ("rollback", json!({"number": 1, "hash": hash}));
                let steps = intended(vec![step; steps]);
                store.save_steps(task.id, &steps).await.expect("it is written");
            }
            // As if the daemon had been killed before the first version of web2 was written down.
            let gone = vec![DefinitionChange::Gone(WEB2.parse().expect("a UUID"))];
            store.save_definitions(gone, 50).await.expect("it is written");
            store.close().await;
        })
        .await;
    let ended = async |task: &Task| world.ended(task.id).await;
    let task = ended(&done).await;
    assert_eq!((&task["status"], &task["result"]["name"]), (&json!("succeeded"), &json!("web2")));
    let task = ended(&other).await;
    assert_eq!(task["status"], "interrupted", "{task:#}");
    assert!(text(&task["error"]["message"]).contains("not that of version 1"), "{task:#}");
    let task = ended(&never).await;
    assert_eq!(task["status"], "interrupted", "{task:#}");
    assert!(text(&task["error"]["message"]).contains("never begun"), "{task:#}");
    // What it stored is known as its work, though the daemon that did it is gone.
    let all = versions(&world, "web2").await;
    assert_eq!((&all[0]["by"], &all[0]["task"]), (&json!("unix:ann"), &json!(done.id)), "{all:#?}");
    world.stop().await;
}
