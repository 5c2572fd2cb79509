//! Each noun from its creation to its end, as the API shows it.

#[path = "support/driver.rs"]
mod driver;

use driver::{POOLS, VMS, World, text};
use http::Method;
use serde_json::{Value, json};

const TASKS: &str = "/api/v1/tasks";

#[tokio::test(flavor = "multi_thread")]
async fn a_vm_lives_from_the_flat_body_to_its_deletion() {
    let world = World::new().await;
    let body = json!({"name": "new1", "memory": 256, "vcpus": 1, "disk_size": 2, "os_type": "linux",
        "network": {"type": "network", "source": "default", "model": "virtio"}, "labels": {"a": "b"}});
    let plan = world.post(&format!("{VMS}?dry_run=true"), &body).await.expect(200);
    assert_eq!(plan["operation"], "vm.create");
    assert_eq!(plan["blockers"], json!([]));
    world.get(&format!("{VMS}/new1")).await.refused(404, "VM_NOT_FOUND");

    let reply = world.post(VMS, &body).await;
    let vm = reply.expect(201);
    assert_eq!(
        (&vm["name"], &vm["memory"], &vm["labels"]),
        (&json!("new1"), &json!(256), &json!({"a": "b"}))
    );
    assert_eq!(vm["disks"][0]["volume"]["pool"], "default", "{vm:#}");
    let location = reply.header("location");
    assert_eq!(location, format!("{VMS}/{}", text(&vm["uuid"])));
    assert_eq!(world.get(&location).await.expect(200)["name"], "new1");
    assert_eq!(
        world.get(&format!("{TASKS}/{}", reply.header("x-task-id"))).await.expect(200)["kind"],
        "vm.create"
    );
    world.post(VMS, &body).await.refused(409, "VM_ALREADY_EXISTS");

    world.act("new1", &json!({"action": "start"})).await.expect(200);
    world.delete(&format!("{VMS}/new1")).await.refused(409, "VM_RUNNING");
    let disk = text(&vm["disks"][0]["volume"]["volume"]);
    let gone = world.delete(&format!("{VMS}/new1?force=true&remove_disks=true")).await;
    assert_eq!((gone.status, gone.body.len()), (204, 0), "{gone}");
    world.get(&location).await.refused(404, "VM_NOT_FOUND");
    world.get(&format!("{POOLS}/default/volumes/{disk}")).await.refused(404, "VOLUME_NOT_FOUND");
    world.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_full_body_makes_a_vm_on_its_own_path() {
    let world = World::new().await;
    let body = json!({"name": "new2", "memory": 512, "max_memory": 1024, "vcpus": 1, "max_vcpus": 2,
        "storage": {"default_pool": "default", "disks": [
            {"action": "create", "size": 1}, {"action": "clone", "source": {"pool": "default", "volume": "base.qcow2"}}]},
        "networks": [{"source": "default"}, {"source": "default", "mac": "52:54:00:aa:bb:cc"}]});
    let vm = world.post(&format!("{VMS}/create-enhanced"), &body).await.expect(201);
    assert_eq!(vm["disks"].as_array().map(Vec::len), Some(2), "{vm:#}");
    assert_eq!(vm["networks"][1]["mac"], "52:54:00:aa:bb:cc");
    assert_eq!((&vm["max_memory"], &vm["max_vcpus"]), (&json!(1024), &json!(2)));
    // the flat form's words are unknown to it
    let flat = json!({"name": "new3", "memory": 64, "vcpus": 1, "disk_size": 1});
    let reply = world.post(&format!("{VMS}/create-enhanced"), &flat).await;
    reply.refused(400, "INVALID_REQUEST");
    assert_eq!(reply.fields(), ["disk_size"]);
    // both forms of one thing contradict each other
    let both =
        json!({"name": "new3", "memory": 64, "vcpus": 1, "disk_size": 1, "storage": {"disks": []}});
    world.post(VMS, &both).await.refused(422, "IMPOSSIBLE");
    world.get(&format!("{VMS}/create-enhanced")).await.refused(405, "METHOD_NOT_ALLOWED");
    world.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn put_and_patch_leave_alone_what_is_absent() {
    let world = World::new().await;
    let path = format!("{VMS}/web2");
    let before = world.vm("web2").await;
    for (method, body) in [
        (Method::PATCH, json!({"description": "patched"})),
        (Method::PUT, json!({"autostart": true})),
    ] {
        let reply = world.send(method, &path, &[], Some(&body)).await;
        let vm = reply.expect(200);
        assert_eq!(reply.header("etag"), world.get(&path).await.header("etag"));
        for (field, value) in body.as_object().expect("an object") {
            assert_eq!(&vm[field], value);
        }
        for field in ["name", "uuid", "memory", "vcpus", "labels", "disks"] {
            assert_eq!(vm[field], before[field], "{field}");
        }
    }
    let vm = world.vm("web2").await;
    assert_eq!((&vm["description"], &vm["autostart"]), (&json!("patched"), &json!(true)));
    let plan =
        world.patch(&format!("{path}?dry_run=true"), &json!({"memory": 512})).await.expect(200);
    assert_eq!(plan["operation"], "vm.update");
    let changes = plan["changes"].as_array().expect("changes");
    assert!(changes.iter().any(|change| change["field"] == "memory"), "{plan:#}");
    assert_eq!(world.vm("web2").await["memory"], before["memory"]);
    world.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_definition_is_replaced_as_xml_and_within_json() {
    let world = World::new().await;
    let path = format!("{VMS}/web2/xml");
    let xml = world.get(&path).await;
    assert_eq!(xml.header("content-type"), "application/xml");
    let old = String::from_utf8(xml.body.to_vec()).expect("UTF-8");
    let new = old
        .replace("<memory unit='KiB'>1048576</memory>", "<memory unit='KiB'>524288</memory>")
        .replace(
            "<currentMemory unit='KiB'>1048576</currentMemory>",
            "<currentMemory unit='KiB'>524288</currentMemory>",
        );
    assert_ne!(old, new);
    let reply = world.request(Method::PUT, &path, &[], Some(("application/xml", new))).await;
    assert_eq!(reply.expect(200)["memory"], 512);
    let reply = world.send(Method::PUT, &path, &[], Some(&json!({"xml": old}))).await;
    assert_eq!(reply.expect(200)["memory"], 1024);
    for broken in ["<domain", "<network/>", "<!DOCTYPE x [<!ENTITY a 'b'>]><domain>&a;</domain>"] {
        let reply = world
            .request(Method::PUT, &path, &[], Some(("application/xml", broken.to_owned())))
            .await;
        reply.refused(422, "INVALID_DEFINITION");
    }
    assert_eq!(world.vm("web2").await["memory"], 1024);
    world.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_volume_lives_from_its_creation_to_its_deletion() {
    let world = World::new().await;
    let path = format!("{POOLS}/images/volumes");
    let body = json!({"name": "new.qcow2", "size": 3});
    let reply = world.post(&path, &body).await;
    let volume = reply.expect(201);
    assert_eq!(volume["capacity_bytes"], 3_u64 << 30, "{volume:#}");
    let own = reply.header("location");
    assert_eq!(own, format!("{path}/new.qcow2"));
    assert_eq!(reply.header("etag"), world.get(&own).await.header("etag"));
    assert_eq!(world.get(&own).await.expect(200), volume);
    world.post(&path, &body).await.refused(409, "VOLUME_ALREADY_EXISTS");
    let reply = world.post(&format!("{POOLS}/nowhere/volumes"), &body).await;
    reply.refused(404, "POOL_NOT_FOUND");
    let used = world.delete(&format!("{POOLS}/default/volumes/web2.qcow2")).await;
    assert_eq!(used.refused(409, "VOLUME_IN_USE")["details"]["vms"], json!(["web2"]));
    assert_eq!(world.delete(&own).await.status, 204);
    world.get(&own).await.refused(404, "VOLUME_NOT_FOUND");
    world.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_host_and_its_capabilities_are_shown() {
    let world = World::new().await;
    let host = world.get("/api/v1/host").await.expect(200);
    assert_eq!((&host["libvirt"]["connected"], &host["vms"]), (&json!(true), &json!(3)));
    assert!(host["vitals"]["uptime_seconds"].as_u64() > Some(0), "{host:#}");
    assert!(host["vitals"]["memory_total_bytes"].as_u64() > Some(1 << 20), "{host:#}");
    assert_eq!(host["vitals"]["load"].as_array().map(Vec::len), Some(3));
    assert!(host["hardware"]["numa"].is_array(), "{host:#}");
    let path = "/api/v1/virtualization/capabilities";
    let reply = world.get(path).await;
    let all = reply.expect(200);
    assert_eq!(all["guests"][0]["domain_types"], json!(["test"]));
    assert_eq!(all["hardware"], host["hardware"]);
    assert!(!reply.header("etag").is_empty());
    world.get(&format!("{path}?machine=")).await.refused(400, "INVALID_REQUEST");
    let one = world.get(&format!("{path}?machine=q35")).await.expect(200);
    assert_eq!((&one["preferred"]["machine"], &one["guests"]), (&json!("q35"), &all["guests"]));
    world.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn tasks_are_listed_followed_and_logged() {
    let world = World::new().await;
    let headers = [("prefer", "respond-async")];
    let path = format!("{VMS}/web2/action");
    let reply = world.send(Method::POST, &path, &headers, Some(&json!({"action": "start"}))).await;
    let task = world.finished(&reply).await;
    assert_eq!((&task["status"], &task["kind"]), (&json!("succeeded"), &json!("vm.start")));
    assert_eq!(reply.header("location"), format!("{TASKS}/{}", text(&task["id"])));
    world.act("web2", &json!({"action": "pause"})).await.expect(200);

    let kinds = |reply: &driver::Reply| reply.column("tasks", "kind");
    assert_eq!(kinds(&world.get(&format!("{TASKS}?subject=web2")).await), ["vm.pause", "vm.start"]);
    assert_eq!(kinds(&world.get(&format!("{TASKS}?kind=vm.st*&fields=kind")).await), ["vm.start"]);
    assert_eq!(kinds(&world.get(&format!("{TASKS}?status=failed")).await), [] as [Value; 0]);
    let first = world.get(&format!("{TASKS}?limit=1")).await;
    assert_eq!((kinds(&first), &first.data()["total"]), (vec![json!("vm.pause")], &json!(2)));
    let next = text(&first.data()["next"]);
    assert_eq!(kinds(&world.get(&format!("{TASKS}?limit=1&cursor={next}")).await), ["vm.start"]);

    let log = world.get(&format!("{TASKS}/{}/log", text(&task["id"]))).await.expect(200);
    assert!(log["lines"].is_array());
    world.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_has_finished_cannot_be_cancelled() {
    let world = World::new().await;
    let reply = world.act("web1", &json!({"action": "pause"})).await;
    let path = format!("{TASKS}/{}/cancel", reply.header("x-task-id"));
    let again = world.send(Method::POST, &path, &[], None).await;
    again.refused(409, "TASK_FINISHED");
    let with_body = world.post(&path, &json!({"force": true})).await;
    with_body.refused(400, "INVALID_REQUEST");
    let none = format!("{TASKS}/00000000-0000-7000-8000-000000000000/cancel");
    world.send(Method::POST, &none, &[], None).await.refused(404, "TASK_NOT_FOUND");
    world.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn events_come_as_pages_as_long_polls_and_as_a_stream() {
    let world = World::new().await;
    let start = world.get("/api/v1/events?limit=1000").await.expect(200);
    let since = text(&start["next"]);
    let poll = format!("/api/v1/events?since={since}&wait=20&kind=vm.*&subject=web2");
    let mut stream = world.stream(&format!("?since={since}&kind=vm.*"), &[]).await;
    let (polled, _) = tokio::join!(world.get(&poll), async {
        tokio::time::sleep(std::time::Duration::from_millis(100)).await;
        world.act("web2", &json!({"action": "start"})).await.expect(200)
    });
    let page = polled.expect(200);
    let started = page["events"]
        .as_array()
        .expect("events")
        .iter()
        .find(|event| event["kind"] == "vm.started");
    let started = started.unwrap_or_else(|| panic!("{page:#}"));
    assert_eq!(started["subject"]["name"], "web2");

    let sent = stream.find(|sent| sent.event == "vm.started").await;
    assert_eq!(sent.id, started["seq"].as_u64());
    assert_eq!(&sent.data, started);
    let back = [("last-event-id", since.as_str())];
    let mut again = world.stream("?kind=vm.started", &back).await;
    assert_eq!(again.next().await.id, sent.id, "nothing is missed by who comes back");

    world.act("web1", &json!({"action": "pause"})).await.expect(200);
    let labelled = format!("/api/v1/events?since={since}&kind=vm.*&label=tier:web");
    let page = world.get(&labelled).await;
    let names: Vec<Value> =
        page.column("events", "subject").iter().map(|subject| subject["name"].clone()).collect();
    assert!(!names.is_empty() && names.iter().all(|name| name == "web2"), "{page}");
    let none = world.get(&format!("/api/v1/events?since={since}&label=tier:none")).await;
    assert_eq!(none.column("events", "seq"), [] as [Value; 0]);

    let future = world.get("/api/v1/events?since=9007199254740991").await.expect(200);
    assert_eq!(future["gap"]["to"], 9_007_199_254_740_991_u64, "{future}");
    let bad = [("last-event-id", "x")];
    world.send(Method::GET, "/api/v1/events", &bad, None).await.refused(400, "INVALID_REQUEST");

    let stopping = tokio::spawn(world.stop());
    assert!(again.ends().await, "a stream ends when the daemon stops");
    stopping.await.expect("it stops");
}

/// A name that the text format has to escape, and every line of the format as a parser reads it.
#[tokio::test(flavor = "multi_thread")]
async fn metrics_are_well_formed_whatever_a_vm_is_called() {
    let node = driver::NODE.replace("<name>db1</name>", r#"<name>d"b\1{}</name>"#);
    let world = World::on(&node).await;
    let reply = world.get("/metrics").await;
    assert_eq!(reply.header("content-type"), "text/plain; version=0.0.4; charset=utf-8");
    let page = String::from_utf8(reply.body.to_vec()).expect("UTF-8");
    assert!(page.ends_with('\n'));
    let (mut family, mut families, mut samples) = ("", Vec::new(), Vec::new());
    for line in page.lines() {
        if let Some(help) = line.strip_prefix("# HELP ") {
            family = help.split(' ').next().expect("a name");
            assert!(!families.contains(&family), "{family} stands there twice");
            families.push(family);
            continue;
        }
        if let Some(kind) = line.strip_prefix("# TYPE ") {
            let (name, kind) = kind.split_once(' ').expect("a type");
            assert_eq!(name, family);
            assert!(["gauge", "counter", "histogram"].contains(&kind), "{line}");
            continue;
        }
        let (series, value) = line.rsplit_once(' ').expect("a value");
        assert!(value.parse::<f64>().is_ok(), "{line}");
        let name = series.split('{').next().expect("a name");
        assert!(name.starts_with(family) && !family.is_empty(), "{line}");
        assert!(name.bytes().all(|byte| byte.is_ascii_lowercase() || byte == b'_'), "{line}");
        assert!(!samples.contains(&series), "{series} stands there twice");
        samples.push(series);
    }
    assert!(page.contains(r#"name="d\"b\\1{}",state="paused"} 1"#), "{page}");
    assert!(page.contains("vapor_vms{state=\"running\"} 1\n"));
    world.stop().await;
}

/// The dashboard that packages install, and the alerts that operators are told of.
#[tokio::test(flavor = "multi_thread")]
async fn every_metric_that_the_dashboard_and_the_manual_name_is_served() {
    let world = World::new().await;
    // Requests are counted from the first one on.
    world.get("/api/v1/health").await.expect(200);
    let reply = world.get("/metrics").await;
    let page = String::from_utf8(reply.body.to_vec()).expect("UTF-8");
    let served: Vec<&str> = page
        .lines()
        .filter(|line| !line.starts_with('#'))
        .filter_map(|line| line.split(['{', ' ']).next())
        .collect();
    let root = std::path::Path::new(env!("CARGO_MANIFEST_DIR"));
    for (file, at_least) in [("packaging/grafana/vapor.json", 15), ("docs/operations.md", 5)] {
        let text = std::fs::read_to_string(root.join(file)).expect("it is there");
        let word = |c: char| c.is_ascii_lowercase() || c == '_';
        let mut named: Vec<&str> =
            text.split(|c| !word(c)).filter(|word| word.starts_with("vapor_")).collect();
        named.sort_unstable();
        named.dedup();
        assert!(named.len() >= at_least, "{file} names only {named:?}");
        for name in named {
            assert!(served.contains(&name), "{name} of {file} is not served");
        }
    }
    let text = std::fs::read_to_string(root.join("packaging/grafana/vapor.json")).expect("it is");
    let dashboard: Value = serde_json::from_str(&text).expect("it is JSON");
    let panels = dashboard["panels"].as_array().expect("panels");
    let mut ids: Vec<u64> = panels.iter().filter_map(|panel| panel["id"].as_u64()).collect();
    ids.sort_unstable();
    ids.dedup();
    assert_eq!(ids.len(), panels.len(), "each panel has an id of its own");
    world.stop().await;
}

/// What the host's own database says, or that there is none.
#[tokio::test(flavor = "multi_thread")]
async fn operating_systems_are_listed_and_filtered() {
    let world = World::new().await;
    let path = "/api/v1/virtualization/os-variants";
    let reply = world.get(path).await;
    let all = reply.expect(200);
    let tag = reply.header("etag");
    let again = world.send(Method::GET, path, &[("if-none-match", tag.as_str())], None).await;
    assert_eq!(again.status, 304);
    world.get(&format!("{path}?family=")).await.refused(400, "INVALID_REQUEST");
    world.get(&format!("{path}?sort=vendor")).await.refused(400, "INVALID_REQUEST");
    world.get(&format!("{path}?release_status=old")).await.refused(400, "INVALID_REQUEST");
    world.get(&format!("{path}?cursor=x")).await.refused(400, "INVALID_CURSOR");
    if !std::path::Path::new("/usr/share/osinfo/os").is_dir() {
        assert_eq!((&all["os_variants"], &all["count"]), (&json!([]), &json!(0)));
        assert!(text(&all["hint"]).contains("osinfo-db"), "{all}");
        assert!(std::env::var_os("VAPOR_TEST_NO_SKIP").is_none(), "needs osinfo-db");
        println!("skipped: needs osinfo-db");
        return world.stop().await;
    }
    assert_eq!(all["hint"], Value::Null);
    assert!(all["total"].as_u64() > Some(300), "{}", all["total"]);
    let one = world.get(&format!("{path}?name=debian11")).await.expect(200);
    let debian = &one["os_variants"][0];
    assert_eq!(debian["id"], "http://debian.org/debian/11", "{one:#}");
    assert_eq!((&debian["family"], &debian["distro"]), (&json!("linux"), &json!("debian")));
    assert_eq!(debian["resources"][0]["minimum"]["memory"], 1024, "{debian:#}");
    let devices = debian["devices"].as_array().expect("devices");
    assert!(devices.iter().any(|device| device == "virtio1.0-net"), "{devices:?}");
    let windows = world.get(&format!("{path}?name=win11&fields=short_id,firmware")).await;
    let windows = windows.expect(200)["os_variants"][0].clone();
    assert_eq!(windows.as_object().map(|members| members.len()), Some(2));
    let efi = json!({"architecture": "x86_64", "type": "efi", "supported": true});
    assert!(windows["firmware"].as_array().is_some_and(|all| all.contains(&efi)), "{windows}");
    for (filter, field, value) in [
        ("family=winnt", "family", "winnt"),
        ("distro=fedora", "distro", "fedora"),
        ("release_status=rolling", "release_status", "rolling"),
    ] {
        let found = world.get(&format!("{path}?{filter}")).await.expect(200);
        let found = found["os_variants"].as_array().expect("a list").clone();
        assert!(!found.is_empty(), "{filter}");
        assert!(found.iter().all(|os| os[field] == value), "{filter}");
    }
    let page = world.get(&format!("{path}?architecture=s390x&limit=1")).await.expect(200);
    assert_eq!(page["count"], 1);
    let next = text(&page["next"]);
    let second = world.get(&format!("{path}?architecture=s390x&limit=1&cursor={next}")).await;
    assert_ne!(second.expect(200)["os_variants"][0]["id"], page["os_variants"][0]["id"]);
    world.stop().await;
}
