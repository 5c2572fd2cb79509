//! Reading VMs, pools, volumes, networks and the host through HTTP, on libvirt's test driver.

#[path = "support/driver.rs"]
mod driver;

use driver::{POOLS, VMS, WEB1, World, text};
use http::Method;
use serde_json::{Value, json};

async fn names(world: &World, query: &str) -> Vec<String> {
    let reply = world.get(&format!("{VMS}{query}")).await;
    reply.column("vms", "name").iter().map(text).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_list_is_filtered_by_state_name_label_and_selector() {
    let world = World::new().await;
    for (query, wanted) in [
        ("", &["db1", "web1", "web2"][..]),
        ("?state=running", &["web1"]),
        ("?state=paused", &["db1"]),
        ("?state=shutoff", &["web2"]),
        ("?state=crashed", &[]),
        ("?name=web*", &["web1", "web2"]),
        ("?name=*1", &["db1", "web1"]),
        ("?name=web1", &["web1"]),
        ("?name=nobody", &[]),
        ("?label=tier:web", &["web2"]),
        ("?label=tier:web&label=env:prod", &["web2"]),
        ("?label=tier:web&label=env:test", &[]),
        ("?selector=tier", &["db1", "web2"]),
        ("?selector=!tier", &["web1"]),
        ("?selector=tier%3Dweb,env!%3Dtest", &["web2"]),
        ("?selector=tier!%3Dweb", &["db1", "web1"]),
        ("?selector=tier&state=paused", &["db1"]),
    ] {
        assert_eq!(names(&world, query).await, wanted, "{query}");
    }
    world.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_list_is_sorted_both_ways_by_each_field() {
    let world = World::new().await;
    for (field, wanted) in [
        ("name", ["db1", "web1", "web2"]),
        ("memory", ["web1", "web2", "db1"]),
        ("uuid", ["web1", "web2", "db1"]),
        ("state", ["db1", "web1", "web2"]),
    ] {
        assert_eq!(names(&world, &format!("?sort={field}")).await, wanted, "{field}");
        let mut reverse = wanted;
        reverse.reverse();
        assert_eq!(names(&world, &format!("?sort=-{field}")).await, reverse, "-{field}");
    }
    let vcpus = world.get(&format!("{VMS}?sort=-vcpus")).await.column("vms", "vcpus");
    assert_eq!(vcpus, [4, 1, 1]);
    for field in ["created_at", "updated_at"] {
        assert_eq!(names(&world, &format!("?sort={field}")).await.len(), 3, "{field}");
    }
    world.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn pages_meet_without_repetition_or_hole_in_every_order() {
    let world = World::new().await;
    for sort in ["name", "-name", "memory", "-memory", "vcpus", "state", "created_at"] {
        let mut seen = Vec::new();
        let mut cursor = String::new();
        loop {
            let page = world.get(&format!("{VMS}?sort={sort}&limit=1{cursor}")).await;
            seen.extend(page.column("vms", "name").iter().map(text));
            let data = page.data();
            assert_eq!(data["total"], 3, "{sort}");
            match &data["next"] {
                Value::Null => break,
                next => cursor = format!("&cursor={}", text(next)),
            }
        }
        assert_eq!(seen, names(&world, &format!("?sort={sort}")).await, "{sort}");
    }
    let foreign = world.get(&format!("{VMS}?limit=1")).await.data()["next"].clone();
    let of_another_order = format!("{VMS}?sort=memory&cursor={}", text(&foreign));
    world.get(&of_another_order).await.refused(400, "INVALID_CURSOR");
    world.get(&format!("{VMS}?cursor=bm9uc2Vuc2U")).await.refused(400, "INVALID_CURSOR");
    world.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn only_the_fields_that_were_asked_for_are_sent() {
    let world = World::new().await;
    let page = world.get(&format!("{VMS}?fields=name,state,labels&name=web2")).await.expect(200);
    let wanted =
        json!([{"name": "web2", "state": "shutoff", "labels": {"env": "prod", "tier": "web"}}]);
    assert_eq!(page["vms"], wanted);
    let reply = world.get(&format!("{VMS}?fields=name,colour")).await;
    reply.refused(400, "INVALID_REQUEST");
    assert_eq!(reply.fields(), ["fields"]);
    world.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn queries_that_make_no_sense_are_refused_with_their_field() {
    let world = World::new().await;
    for (query, field) in [
        ("?state=asleep", "state"),
        ("?sort=colour", "sort"),
        ("?limit=0", "limit"),
        ("?limit=many", "limit"),
        ("?limit=5001", "limit"),
        ("?label=tier", "label[0]"),
        ("?colour=red", "colour"),
        ("?name=", "name"),
    ] {
        let reply = world.get(&format!("{VMS}{query}")).await;
        reply.refused(400, "INVALID_REQUEST");
        assert_eq!(reply.fields(), [field], "{query}: {reply}");
    }
    world.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_vm_is_found_by_name_and_by_uuid_under_both_paths() {
    let world = World::new().await;
    let by_name = world.get(&format!("{VMS}/web1")).await;
    for path in [
        format!("{VMS}/{WEB1}"),
        format!("{VMS}/{}", WEB1.to_uppercase()),
        "/api/v1/virtualization/computes/web1".to_owned(),
    ] {
        let other = world.get(&path).await;
        assert_eq!(other.expect(200), by_name.expect(200), "{path}");
        assert_eq!(other.header("etag"), by_name.header("etag"), "{path}");
    }
    let vm = by_name.data();
    assert_eq!(vm["uuid"], WEB1);
    assert_eq!((&vm["memory"], &vm["max_memory"]), (&json!(256), &json!(512)));
    assert_eq!((&vm["vcpus"], &vm["max_vcpus"]), (&json!(1), &json!(2)));
    assert_eq!(vm["disks"][0]["volume"], json!({"pool": "default", "volume": "shared.qcow2"}));
    assert_eq!(vm["disks"][0]["capacity_bytes"], 1 << 30);
    assert_eq!(vm["networks"][0]["source"], json!({"type": "network", "name": "default"}));
    assert_eq!(vm["stale"], Value::Null);
    world.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_typo_is_404_with_the_nearest_name() {
    let world = World::new().await;
    let error = world.get(&format!("{VMS}/wbe1")).await.refused(404, "VM_NOT_FOUND");
    assert_eq!(error["details"]["nearest"], "web1");
    assert_eq!(error["hint"], "did you mean \"web1\"?");
    let error = world.get(&format!("{VMS}/something-else")).await.refused(404, "VM_NOT_FOUND");
    assert_eq!(error["details"]["nearest"], Value::Null);
    let unknown = uuid::Uuid::new_v4();
    world.get(&format!("{VMS}/{unknown}")).await.refused(404, "VM_NOT_FOUND");
    world.get(&format!("{POOLS}/nowhere")).await.refused(404, "POOL_NOT_FOUND");
    world.get(&format!("{POOLS}/default/volumes/no.img")).await.refused(404, "VOLUME_NOT_FOUND");
    world.get("/api/v1/virtualization/networks/none").await.refused(404, "NETWORK_NOT_FOUND");
    world.get(&format!("/api/v1/tasks/{unknown}")).await.refused(404, "TASK_NOT_FOUND");
    world.get("/api/v1/nothing").await.refused(404, "ROUTE_NOT_FOUND");
    let reply = world.send(Method::PATCH, VMS, &[], Some(&json!({}))).await;
    reply.refused(405, "METHOD_NOT_ALLOWED");
    world.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn fixed_words_are_no_vms() {
    let world = World::new().await;
    for word in ["restore", "pci-devices", "backups"] {
        world.get(&format!("{VMS}/{word}")).await.refused(404, "ROUTE_NOT_FOUND");
    }
    for word in ["clone", "from-template"] {
        world.get(&format!("{VMS}/{word}")).await.refused(405, "METHOD_NOT_ALLOWED");
    }
    assert_eq!(world.get(&format!("{VMS}/templates")).await.data()["templates"], json!([]));
    world.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_has_not_changed_is_304_until_it_changes() {
    let world = World::new().await;
    for path in [
        VMS.to_owned(),
        format!("{VMS}/web2"),
        POOLS.to_owned(),
        format!("{POOLS}/default/volumes"),
    ] {
        let first = world.get(&path).await;
        let etag = first.header("etag");
        assert!(!etag.is_empty(), "{first}");
        let again = world.send(Method::GET, &path, &[("if-none-match", &etag)], None).await;
        assert_eq!((again.status, again.body.len()), (304, 0), "{path}");
        assert_eq!(again.header("etag"), etag);
        let list = format!("\"other\", W/{etag}");
        let again = world.send(Method::GET, &path, &[("if-none-match", &list)], None).await;
        assert_eq!(again.status, 304, "{path}");
        let other = world.send(Method::GET, &path, &[("if-none-match", "\"other\"")], None).await;
        assert_eq!(other.expect(200), first.data(), "{path}");
    }
    let etag = world.get(&format!("{VMS}/web2")).await.header("etag");
    let list = world.get(VMS).await.header("etag");
    world.act("web2", &json!({"action": "start"})).await.expect(200);
    for (path, etag) in [(format!("{VMS}/web2"), etag), (VMS.to_owned(), list)] {
        let reply = world.send(Method::GET, &path, &[("if-none-match", &etag)], None).await;
        assert_eq!(reply.status, 200, "{path}");
        assert_ne!(reply.header("etag"), etag, "{path}");
    }
    world.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn pools_volumes_and_networks_are_listed() {
    let world = World::new().await;
    let pools = world.get(POOLS).await.column("pools", "name");
    assert_eq!(pools, ["default", "images"]);
    let volumes = world.get(&format!("{POOLS}/default/volumes")).await.column("volumes", "name");
    assert_eq!(volumes, ["base.qcow2", "cd.iso", "shared.qcow2", "web2.qcow2"]);
    let volume = world.get(&format!("{POOLS}/default/volumes/web2.qcow2")).await.expect(200);
    assert_eq!(volume["used_by"], json!(["web2"]));
    let all = world.get("/api/v1/virtualization/volumes?name=*.iso").await;
    assert_eq!(all.column("volumes", "name"), ["cd.iso"]);
    let networks = world.get("/api/v1/virtualization/networks").await;
    assert_eq!(networks.column("networks", "name"), ["default", "lab"]);
    let network = world.get("/api/v1/virtualization/networks/default").await.expect(200);
    assert_eq!(network["addresses"], json!(["192.168.122.1/24"]));
    world.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_definition_is_given_as_xml_and_within_json() {
    let world = World::new().await;
    let reply = world.get(&format!("{VMS}/web1/xml")).await;
    assert_eq!((reply.status, reply.header("content-type").as_str()), (200, "application/xml"));
    let xml = String::from_utf8_lossy(&reply.body).into_owned();
    assert!(xml.starts_with("<domain type='test'") && xml.contains("<name>web1</name>"), "{xml}");
    let headers = [("accept", "application/json")];
    let path = format!("{VMS}/web1/xml");
    let reply = world.send(Method::GET, &path, &headers, None).await;
    assert_eq!(text(&reply.expect(200)["xml"]), xml);
    world.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_daemon_tells_its_health_version_errors_and_metrics() {
    let world = World::new().await;
    let health = world.get("/health").await.expect(200);
    assert_eq!((&health["status"], &health["vms"]), (&json!("ok"), &json!(3)), "{health:#}");
    assert_eq!(health["libvirt"]["connected"], true);
    world.get("/api/v1/ready").await.expect(200);
    let version = world.get("/version").await.expect(200);
    assert_eq!(version["version"], env!("CARGO_PKG_VERSION"));
    let codes = world.get("/api/v1/errors").await.column("errors", "code");
    assert!(codes.contains(&json!("VM_NOT_FOUND")) && codes.len() > 40, "{codes:?}");
    let metrics = world.get("/metrics").await;
    let page = String::from_utf8_lossy(&metrics.body).into_owned();
    assert!(page.contains("vapor_vms{state=\"running\"} 1\n"), "{page}");
    world.get("/api/v1/virtualization/capabilities").await.expect(200);
    world.get("/api/v1/host").await.expect(200);
    let document = world.get("/api/v1/openapi.json").await.json();
    assert_eq!(document["openapi"], "3.1.0");
    world.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn without_libvirt_reads_are_503_and_health_says_degraded() {
    let world = World::with(driver::NODE, "enabled = false").await;
    for path in [
        VMS,
        "/api/v1/virtualization/virtualmachines/web1",
        POOLS,
        "/api/v1/virtualization/networks",
        "/api/v1/virtualization/capabilities",
    ] {
        let reply = world.get(path).await;
        reply.refused(503, "LIBVIRT_UNAVAILABLE");
        assert!(!reply.header("retry-after").is_empty(), "{reply}");
    }
    let create = json!({"name": "new1", "memory": 256, "vcpus": 1});
    for reply in [
        world.act("web1", &json!({"action": "start"})).await,
        world.post(VMS, &create).await,
        world.delete(&format!("{VMS}/web1")).await,
    ] {
        reply.refused(503, "LIBVIRT_UNAVAILABLE");
    }
    let health = world.get("/health").await.expect(200);
    assert_eq!(health["status"], "degraded");
    assert_eq!(
        (&health["libvirt"]["connected"], &health["database"]),
        (&json!(false), &json!(true))
    );
    assert_eq!(world.get("/ready").await.status, 503);
    assert_eq!(world.get("/api/v1/tasks").await.expect(200)["total"], 0);
    world.get("/api/v1/events").await.expect(200);
    assert_eq!(world.get("/metrics").await.status, 200);
    world.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_libvirt_that_cannot_be_reached_is_a_state_and_no_crash() {
    let world = World::with(driver::NODE, "uri = \"test:///nowhere/node.xml\"").await;
    let error = world.get(VMS).await.refused(503, "LIBVIRT_UNAVAILABLE");
    assert!(text(&error["message"]).contains("test:///nowhere/node.xml"), "{error}");
    let health = world.get("/health").await.expect(200);
    assert_eq!(health["status"], "degraded");
    assert!(health["libvirt"]["reason"].is_string(), "{health}");
    world.stop().await;
}
