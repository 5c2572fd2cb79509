//! Changing VMs through HTTP, on libvirt's test driver: live, with the next boot or impossible, the
//! same in the plan and in the deed; conditional requests; whole definitions.

#[path = "support/driver.rs"]
mod driver;

use driver::{VMS, WEB1, World, text};
use http::Method;
use serde_json::{Value, json};

/// A VM that runs and has no definition that outlives its stop.
const TRANSIENT: &str = r#"<node>
  <domain type="test" xmlns:test="http://libvirt.org/schemas/domain/test/1.0">
    <name>job1</name><memory>524288</memory><vcpu>1</vcpu><os><type>hvm</type></os>
    <test:transient>1</test:transient>
  </domain></node>"#;

async fn change(world: &World, vm: &str, body: &Value) -> Value {
    world.patch(&format!("{VMS}/{vm}"), body).await.expect(200)
}

async fn plan(world: &World, vm: &str, body: &Value) -> Value {
    world.patch(&format!("{VMS}/{vm}?dry_run=true"), body).await.expect(200)
}

fn effects(plan: &Value) -> Vec<(String, String)> {
    let changes = plan["changes"].as_array().expect("changes");
    changes.iter().map(|change| (text(&change["field"]), text(&change["effect"]))).collect()
}

fn pairs(all: &[(&str, &str)]) -> Vec<(String, String)> {
    all.iter().map(|(one, other)| ((*one).to_owned(), (*other).to_owned())).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stopped_vm_takes_every_change_at_once() {
    let world = World::new().await;
    let before = world.vm("web2").await;
    let body = json!({"description": "<new> & \"old\"", "memory": 2048, "vcpus": 2, "max_vcpus": 8,
        "boot": ["network", "hd"], "labels": {"tier": "db", "empty": ""}, "autostart": true});
    let told = plan(&world, "web2", &body).await;
    assert!(effects(&told).iter().all(|(_, effect)| effect == "live"), "{told:#}");
    assert!(text(&told["xml_diff"]).contains("+  <description>&lt;new"), "{told:#}");
    assert_eq!(world.vm("web2").await, before, "a plan changes nothing");
    let vm = change(&world, "web2", &body).await;
    assert_eq!(vm["description"], "<new> & \"old\"");
    assert_eq!((&vm["memory"], &vm["max_memory"]), (&json!(2048), &json!(2048)));
    assert_eq!((&vm["vcpus"], &vm["max_vcpus"]), (&json!(2), &json!(8)));
    assert_eq!(vm["os"]["boot"], json!(["network", "hd"]));
    assert_eq!(vm["labels"], json!({"tier": "db", "empty": ""}));
    assert_eq!((&vm["autostart"], &vm["pending"]), (&json!(true), &Value::Null));
    assert_eq!(vm["disks"], before["disks"], "what is absent stays");
    assert!(vm["generation"].as_u64() > before["generation"].as_u64());
    assert_eq!(world.vm("web2").await, vm);
    world.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_running_vm_takes_live_what_it_can_and_the_rest_with_its_next_boot() {
    let world = World::new().await;
    let body = json!({"memory": 400, "vcpus": 2, "description": "now", "labels": {"a": "b"}});
    let told = plan(&world, "web1", &body).await;
    let wanted =
        [("memory", "live"), ("vcpus", "live"), ("description", "live"), ("labels", "live")];
    assert_eq!(effects(&told), pairs(&wanted), "{told:#}");
    let vm = change(&world, "web1", &body).await;
    assert_eq!((&vm["memory"], &vm["vcpus"]), (&json!(400), &json!(2)), "{vm:#}");
    assert_eq!((&vm["description"], &vm["labels"]), (&json!("now"), &json!({"a": "b"})));
    assert_eq!((&vm["state"], &vm["pending"]), (&json!("running"), &Value::Null), "{vm:#}");

    let body = json!({"memory": 1024, "max_vcpus": 4, "boot": ["network"]});
    let told = plan(&world, "web1", &body).await;
    assert!(effects(&told).iter().all(|(_, effect)| effect == "next_boot"), "{told:#}");
    assert!(told["changes"][0]["reason"].is_string());
    let vm = change(&world, "web1", &body).await;
    assert_eq!((&vm["memory"], &vm["max_vcpus"]), (&json!(400), &json!(2)), "{vm:#}");
    let pending: Vec<&Value> =
        vm["pending"]["changes"].as_array().expect("pending").iter().map(|c| &c["field"]).collect();
    for field in ["memory", "max_memory", "max_vcpus"] {
        assert!(pending.contains(&&json!(field)), "{field} of {vm:#}");
    }
    world.act("web1", &json!({"action": "force-stop"})).await.expect(200);
    world.act("web1", &json!({"action": "start"})).await.expect(200);
    let vm = world.vm("web1").await;
    assert_eq!((&vm["memory"], &vm["max_vcpus"]), (&json!(1024), &json!(4)), "{vm:#}");
    assert_eq!(vm["pending"], Value::Null);
    world.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_impossible_is_refused_as_a_whole() {
    let world = World::on(TRANSIENT).await;
    let before = world.vm("job1").await;
    let body = json!({"description": "x", "memory": 4096, "boot": ["network"], "autostart": true});
    let told = plan(&world, "job1", &body).await;
    assert_eq!(told["blockers"][0]["code"], "IMPOSSIBLE", "{told:#}");
    let reply = world.patch(&format!("{VMS}/job1"), &body).await;
    reply.refused(422, "IMPOSSIBLE");
    let mut fields = reply.fields();
    fields.sort();
    assert_eq!(fields, ["autostart", "boot", "max_memory", "memory"], "{reply}");
    assert_eq!(world.vm("job1").await, before);
    let vm = change(&world, "job1", &json!({"memory": 256})).await;
    assert_eq!(vm["memory"], 256);
    world.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn updates_that_make_no_sense_are_refused_with_their_field() {
    let world = World::new().await;
    for (body, status, code, field) in [
        (json!({"memory": 15}), 400, "INVALID_REQUEST", "memory"),
        (json!({"vcpus": 0}), 400, "INVALID_REQUEST", "vcpus"),
        (json!({"name": "a/b"}), 400, "INVALID_NAME", "name"),
        (json!({"name": "web9"}), 422, "IMPOSSIBLE", "name"),
        (json!({"boot": ["usb"]}), 400, "INVALID_REQUEST", "boot[0]"),
        (json!({"boot": ["hd", "hd", "hd", "hd", "hd"]}), 400, "INVALID_REQUEST", "boot"),
        (json!({"labels": {"a": "é"}}), 400, "INVALID_REQUEST", "labels.a"),
        (json!({"labels": {"": "a"}}), 400, "INVALID_REQUEST", "labels."),
        (json!({"labels": []}), 400, "INVALID_REQUEST", "labels"),
        (json!({"description": "\u{0}"}), 400, "INVALID_REQUEST", "description"),
        (json!({"disks": [{"target": "vda", "size": 0}]}), 400, "INVALID_REQUEST", "disks[0].size"),
        (json!({"disks": [{"size": 1}]}), 400, "INVALID_REQUEST", "disks[0].target"),
        (json!({"disks": [{"target": "zz", "size": 9}]}), 422, "IMPOSSIBLE", "disks[0].target"),
        (json!({"networks": [{"mac": "5:4"}]}), 400, "INVALID_REQUEST", "networks[0].mac"),
        (json!({"networks": [{"mac": "52:54:00:00:00:99"}]}), 422, "IMPOSSIBLE", "networks[0].mac"),
        (json!({"memory": 512, "max_memory": 256}), 422, "IMPOSSIBLE", "max_memory"),
        (json!({"title": "two\nlines"}), 400, "INVALID_REQUEST", "title"),
        (json!({"title": "x".repeat(256)}), 400, "INVALID_REQUEST", "title"),
        (
            json!({"disks": [{"target": "vda", "cache": "x"}]}),
            400,
            "INVALID_REQUEST",
            "disks[0].cache",
        ),
        (json!({"disks": [{"target": "vda", "io": "native"}]}), 422, "IMPOSSIBLE", "disks[0].io"),
        (
            json!({"disks": [{"target": "vda", "boot_order": 33}]}),
            400,
            "INVALID_REQUEST",
            "disks[0].boot_order",
        ),
        (
            json!({"networks": [{"mac": "52:54:00:00:00:01", "vlan": 4095}]}),
            400,
            "INVALID_REQUEST",
            "networks[0].vlan",
        ),
        (
            json!({"networks": [{"mac": "52:54:00:00:00:01", "inbound": {"average": 9, "peak": 1}}]}),
            422,
            "IMPOSSIBLE",
            "networks[0].inbound.peak",
        ),
        (
            json!({"cpu": {"topology": {"sockets": 3, "cores": 1}}}),
            422,
            "IMPOSSIBLE",
            "cpu.topology",
        ),
        (
            json!({"cpu": {"pinning": [{"vcpu": 7, "cpus": "0"}]}}),
            422,
            "IMPOSSIBLE",
            "cpu.pinning[0].vcpu",
        ),
        (json!({"clock": {"offset": "timezone"}}), 422, "IMPOSSIBLE", "clock.timezone"),
        (json!({"graphics": [{"type": "crt"}]}), 400, "INVALID_REQUEST", "graphics[0].type"),
        (json!({"vcpus": 4, "max_vcpus": 2}), 422, "IMPOSSIBLE", "max_vcpus"),
    ] {
        let reply = world.patch(&format!("{VMS}/web1"), &body).await;
        reply.refused(status, code);
        assert_eq!(reply.fields(), [field], "{body}: {reply}");
    }
    assert_eq!(world.get("/api/v1/tasks").await.expect(200)["total"], 0);
    world.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stopped_vm_is_renamed_and_found_by_its_new_name_at_once() {
    let world = World::new().await;
    let before = world.vm("web2").await;
    let body = json!({"name": "web9", "description": "renamed"});
    let told = plan(&world, "web2", &body).await;
    assert_eq!(effects(&told), pairs(&[("name", "live"), ("description", "live")]), "{told:#}");
    let vm = change(&world, "web2", &body).await;
    assert_eq!((&vm["name"], &vm["uuid"]), (&json!("web9"), &before["uuid"]));
    assert_eq!(vm["description"], "renamed");
    assert_eq!(world.vm("web9").await, vm);
    world.get(&format!("{VMS}/web2")).await.refused(404, "VM_NOT_FOUND");
    assert_eq!(change(&world, "web9", &json!({"name": "web9"})).await, vm, "it is so already");
    let taken = world.patch(&format!("{VMS}/web9"), &json!({"name": "web1"})).await;
    taken.refused(409, "VM_ALREADY_EXISTS");
    let told = world
        .until("/api/v1/events?kind=vm.*", |page| page.to_string().contains("vm.renamed"))
        .await;
    assert!(!told.to_string().contains("vm.undefined"), "it is still there: {told:#}");
    assert_eq!(change(&world, "web9", &json!({"name": "web2"})).await["name"], "web2");
    world.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn put_changes_as_patch_does_and_an_empty_change_changes_nothing() {
    let world = World::new().await;
    let path = format!("{VMS}/web2");
    let body = json!({"description": "by put"});
    let vm = world.send(Method::PUT, &path, &[], Some(&body)).await.expect(200);
    assert_eq!((&vm["description"], &vm["memory"]), (&json!("by put"), &json!(1024)));
    assert_eq!(change(&world, "web2", &json!({})).await, vm);
    assert_eq!(change(&world, "web2", &body).await, vm);
    world.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_change_of_a_stale_version_is_412_and_of_the_present_one_is_made() {
    let world = World::new().await;
    let path = format!("{VMS}/web2");
    let first = world.get(&path).await.header("etag");
    let if_match = |tag: &str, text: &str| {
        let headers = [("if-match".to_owned(), tag.to_owned())];
        (headers, json!({"description": text}))
    };
    let send = async |tag: &str, text: &str| {
        let (headers, body) = if_match(tag, text);
        let headers: Vec<(&str, &str)> =
            headers.iter().map(|(name, value)| (name.as_str(), value.as_str())).collect();
        world.send(Method::PATCH, &path, &headers, Some(&body)).await
    };
    send(&first, "one").await.expect(200);
    let refused = send(&first, "two").await;
    let error = refused.refused(412, "PRECONDITION_FAILED");
    assert_eq!(error["details"]["etag"], world.get(&path).await.header("etag").as_str());
    assert_eq!(world.vm("web2").await["description"], "one");
    let present = world.get(&path).await.header("etag");
    send(&format!("\"other\", {present}"), "three").await.expect(200);
    send("*", "four").await.expect(200);
    assert_eq!(world.vm("web2").await["description"], "four");
    for (method, path, body) in [
        (Method::POST, format!("{path}/action"), Some(json!({"action": "start"}))),
        (Method::DELETE, path.clone(), None),
    ] {
        let headers = [("if-match", first.as_str())];
        let reply = world.send(method, &path, &headers, body.as_ref()).await;
        reply.refused(412, "PRECONDITION_FAILED");
    }
    assert_eq!(world.state("web2").await, "shutoff");
    world.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn only_who_administers_the_host_reaches_more_of_it_by_a_definition() {
    let port = std::net::TcpListener::bind("127.0.0.1:0")
        .and_then(|listener| listener.local_addr())
        .expect("a free port")
        .port();
    let world = World::with(driver::NODE, &format!("port = {port}")).await;
    let path = format!("{VMS}/web2/xml");
    let put = |xml: String, query: &str| {
        let path = format!("{path}{query}");
        async move { World::from_loopback(port, Method::PUT, &path, ("application/xml", xml)).await }
    };
    let xml = async || String::from_utf8_lossy(&world.get(&path).await.body).into_owned();
    let before = xml().await;
    let entry = "<sysinfo type='fwcfg'><entry name='opt/x' file='/etc/shadow'/></sysinfo><os>";
    for (from, to) in [
        ("/pool/default/web2.qcow2", "/etc/shadow"),
        ("<os>", "<os><kernel>/boot/vmlinuz</kernel>"),
        ("<os>", entry),
        ("</devices>", "<filesystem><source dir='/'/><target dir='x'/></filesystem></devices>"),
    ] {
        let new = before.replace(from, to);
        assert_ne!(new, before, "{from}");
        for query in ["", "?dry_run=true"] {
            let error = put(new.clone(), query).await.refused(422, "INVALID_DEFINITION");
            assert!(text(&error["hint"]).contains("root"), "{error:#}");
        }
        assert_eq!(xml().await, before);
    }
    // What it reads, it may write, and change what reaches nothing.
    put(before.clone(), "").await.expect(200);
    let titled = before.replace("<metadata>", "<title>mine</title><metadata>");
    put(titled, "").await.expect(200);
    assert!(xml().await.contains("mine"));
    // Who administers the host may.
    let new = before.replace("<os>", "<os><kernel>/boot/vmlinuz</kernel>");
    for xml in [new, before] {
        let body = Some(("application/xml", xml));
        world.request(Method::PUT, &path, &[], body).await.expect(200);
    }
    // Nor does anybody else by going back to what such a one has defined.
    let definitions = format!("{VMS}/web2/definitions");
    let mut versions = world.get(&definitions).await.expect(200)["definitions"].clone();
    let reaching = versions.as_array_mut().expect("versions").remove(1)["number"].clone();
    let back = format!("{definitions}/{reaching}/rollback");
    let nothing = || ("application/json", String::new());
    let refused = World::from_loopback(port, Method::POST, &back, nothing()).await;
    refused.refused(422, "INVALID_DEFINITION");
    let dry = format!("{back}?dry_run=true");
    let plan = World::from_loopback(port, Method::POST, &dry, nothing()).await.expect(200);
    assert_eq!(plan["blockers"][0]["code"], "INVALID_DEFINITION", "{plan:#}");
    assert!(!xml().await.contains("vmlinuz"));
    world.send(Method::POST, &back, &[], None).await.expect(200);
    assert!(xml().await.contains("vmlinuz"));
    world.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_definition_is_replaced_whole_and_keeps_what_vapor_does_not_know() {
    let world = World::new().await;
    let path = format!("{VMS}/web2/xml");
    let put = async |xml: String, query: &str| {
        let body = Some(("application/xml", xml));
        world.request(Method::PUT, &format!("{path}{query}"), &[], body).await
    };
    let reply = world.get(&path).await;
    let xml = String::from_utf8_lossy(&reply.body).into_owned();
    let new = xml.replace(
        "<metadata>",
        "<title>A &lt;title&gt;</title><metadata><x:y xmlns:x=\"urn:other\">kept</x:y>",
    );
    assert_ne!(new, xml);
    let told = put(new.clone(), "?dry_run=true").await.expect(200);
    assert_eq!(told["operation"], "vm.define");
    assert!(text(&told["xml_diff"]).contains("urn:other"), "{told:#}");
    assert!(!String::from_utf8_lossy(&world.get(&path).await.body).contains("urn:other"));
    put(new, "").await.expect(200);
    // A later change through the fields leaves it where it is.
    change(&world, "web2", &json!({"description": "later", "labels": {"c": "d"}})).await;
    let reply = world.get(&path).await;
    let after = String::from_utf8_lossy(&reply.body).into_owned();
    for part in ["urn:other", ">kept<", "A &lt;title&gt;", "later"] {
        assert!(after.contains(part), "{part} in {after}");
    }
    for (xml, code) in [
        ("<domain".to_owned(), "INVALID_DEFINITION"),
        ("<network/>".to_owned(), "INVALID_DEFINITION"),
        (xml.replace("4dea22b3-1d52-d8f3-2516-782e98ab3fa1", WEB1), "INVALID_DEFINITION"),
        (xml.replace("<name>web2</name>", "<name>web9</name>"), "NOT_SUPPORTED"),
        (
            "<!DOCTYPE x [<!ENTITY y SYSTEM 'file:///etc/passwd'>]><domain>&y;</domain>".to_owned(),
            "INVALID_DEFINITION",
        ),
    ] {
        put(xml, "").await.refused(422, code);
    }
    let still = world.get(&path).await;
    assert_eq!(String::from_utf8_lossy(&still.body), after);
    world.stop().await;
}

/// What creation sets and a change can change: in a stopped VM at once, and shown by the reply about
/// one VM alone.
#[tokio::test(flavor = "multi_thread")]
async fn a_stopped_vm_is_tuned_and_shows_it_and_lists_stay_short() {
    let world = World::new().await;
    let before = world.vm("web2").await;
    let body = json!({"title": "Shop <two>",
        "disks": [{"target": "vda", "cache": "none", "io": "native", "discard": "unmap",
            "iothread": 2, "boot_order": 1}],
        "cpu": {"topology": {"sockets": 1, "cores": 4}, "pinning": [{"vcpu": 1, "cpus": "0-1"}]},
        "memory_options": {"shared": true, "ballooning": false},
        "clock": {"offset": "timezone", "timezone": "Europe/Berlin"},
        "devices": {"sound": "ich6", "watchdog": {"model": "i6300esb", "action": "pause"},
            "vsock": {"cid": 9}}});
    let told = plan(&world, "web2", &body).await;
    assert!(effects(&told).iter().all(|(_, effect)| effect == "live"), "{told:#}");
    for line in ["+    <vcpupin vcpu", "iothread", "+  <title>Shop &lt;two&gt;</title>", "cache"] {
        assert!(text(&told["xml_diff"]).contains(line), "{line} is not in {told:#}");
    }
    assert_eq!(world.vm("web2").await, before, "a plan changes nothing");
    let vm = change(&world, "web2", &body).await;
    assert_eq!(world.vm("web2").await, vm, "the reply is what is read afterwards");
    assert_eq!(vm["title"], "Shop <two>");
    for (name, value) in [("cache", json!("none")), ("io", json!("native")), ("iothread", json!(2))]
    {
        assert_eq!(vm["disks"][0][name], value, "{vm:#}");
    }
    assert_eq!(vm["disks"][0]["boot_order"], 1);
    assert_eq!(vm["cpu"]["pinning"], body["cpu"]["pinning"]);
    assert_eq!(vm["cpu"]["topology"]["cores"], 4);
    assert_eq!(vm["memory_options"]["shared"], true);
    assert_eq!(vm["clock"], body["clock"]);
    assert_eq!(vm["hardware"]["sound"], "ich6");
    assert_eq!(vm["hardware"]["watchdog"], body["devices"]["watchdog"]);
    assert_eq!(vm["hardware"]["vsock"]["cid"], 9);
    assert_eq!(vm["pending"], Value::Null);
    // The same asked for once more changes nothing.
    assert_eq!(change(&world, "web2", &body).await, vm);
    assert_eq!(plan(&world, "web2", &body).await["changes"], json!([]));

    let list = world.get(VMS).await.expect(200);
    let listed = list["vms"].as_array().expect("vms").iter().find(|vm| vm["name"] == "web2");
    let listed = listed.expect("web2 is listed");
    assert_eq!((&listed["title"], &listed["generation"]), (&vm["title"], &vm["generation"]));
    for field in ["cpu", "memory_options", "clock", "hardware"] {
        assert!(listed.get(field).is_none(), "{field} is in a list: {listed:#}");
    }
    assert!(listed["disks"][0].get("cache").is_none(), "{listed:#}");

    // A detail alone makes another version, so that nobody is told that nothing changed.
    let path = format!("{VMS}/web2");
    let etag = world.get(&path).await.header("etag");
    change(&world, "web2", &json!({"disks": [{"target": "vda", "io": "threads"}]})).await;
    let reply = world.send(Method::GET, &path, &[("if-none-match", etag.as_str())], None).await;
    assert_eq!(reply.expect(200)["disks"][0]["io"], "threads");

    // And everything that can be taken away goes.
    let gone = json!({"title": "", "disks": [{"target": "vda", "iothread": 0, "boot_order": 0}],
        "cpu": {"pinning": []},
        "memory_options": {"shared": false, "ballooning": true},
        "devices": {"sound": "none", "watchdog": {"model": "none"}}});
    let vm = change(&world, "web2", &gone).await;
    assert_eq!(vm["title"], Value::Null);
    assert!(vm["disks"][0].get("iothread").is_none(), "{vm:#}");
    assert_eq!(vm["cpu"]["pinning"], Value::Null);
    for device in ["sound", "watchdog"] {
        assert_eq!(vm["hardware"][device], Value::Null, "{vm:#}");
    }
    world.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_disk_moves_to_another_bus_and_is_found_there() {
    let world = World::new().await;
    let body = json!({"disks": [{"target": "vda", "bus": "scsi", "serial": "moved"}]});
    let vm = change(&world, "web2", &body).await;
    let disk = &vm["disks"][0];
    assert_eq!((&disk["target"], &disk["bus"]), (&json!("sda"), &json!("scsi")), "{vm:#}");
    assert_eq!(
        (&disk["serial"], &disk["volume"]["volume"]),
        (&json!("moved"), &json!("web2.qcow2"))
    );
    world.patch(&format!("{VMS}/web2"), &body).await.refused(422, "IMPOSSIBLE");
    world.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_running_vm_is_pinned_at_once_and_the_rest_of_its_tuning_waits() {
    let world = World::new().await;
    let pinned = json!({"cpu": {"pinning": [{"vcpu": 0, "cpus": "1"}]}});
    let told = plan(&world, "web1", &pinned).await;
    assert_eq!(effects(&told), pairs(&[("cpu.pinning", "live")]), "{told:#}");
    let vm = change(&world, "web1", &pinned).await;
    assert_eq!(vm["cpu"]["pinning"], pinned["cpu"]["pinning"], "{vm:#}");
    assert_eq!((&vm["state"], &vm["pending"]), (&json!("running"), &Value::Null), "{vm:#}");
    let vm = change(&world, "web1", &json!({"cpu": {"pinning": []}})).await;
    assert_eq!(vm["pending"], Value::Null, "{vm:#}");

    let body = json!({"title": "now", "clock": {"offset": "localtime"},
        "disks": [{"target": "vda", "cache": "none"}], "devices": {"sound": "ac97"},
        "networks": [{"mac": "52:54:00:00:00:01", "boot_order": 1}]});
    let told = plan(&world, "web1", &body).await;
    let waiting: Vec<_> = effects(&told).into_iter().filter(|(_, e)| e == "next_boot").collect();
    assert_eq!(waiting.len(), 4, "{told:#}");
    assert!(text(&told["side_effects"][0]).contains("boot devices"), "{told:#}");
    let vm = change(&world, "web1", &body).await;
    assert_eq!(vm["title"], "now");
    assert!(vm["disks"][0].get("cache").is_none(), "it runs as before: {vm:#}");
    let fields: Vec<String> = vm["pending"]["changes"]
        .as_array()
        .expect("pending")
        .iter()
        .map(|change| text(&change["field"]))
        .collect();
    for field in ["clock", "disks.vda.cache", "networks.52:54:00:00:00:01.boot_order", "devices"] {
        assert!(fields.iter().any(|known| known == field), "{field} is not in {fields:?}");
    }
    world.act("web1", &json!({"action": "force-stop"})).await.expect(200);
    world.act("web1", &json!({"action": "start"})).await.expect(200);
    let vm = world.vm("web1").await;
    assert_eq!(vm["pending"], Value::Null, "{vm:#}");
    assert_eq!(
        (&vm["disks"][0]["cache"], &vm["hardware"]["sound"]),
        (&json!("none"), &json!("ac97"))
    );
    world.stop().await;
}
