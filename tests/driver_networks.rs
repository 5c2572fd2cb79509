//! Networks through HTTP, on libvirt's test driver.

#[path = "support/driver.rs"]
mod driver;

use driver::{World, text};
use http::Method;
use serde_json::{Value, json};

const NETWORKS: &str = "/api/v1/virtualization/networks";

fn nat(name: &str, third: u8) -> Value {
    json!({"name": name, "ips": [{"address": format!("10.201.{third}.1/24"), "dhcp": {
        "ranges": [{"start": format!("10.201.{third}.100"), "end": format!("10.201.{third}.150")}],
        "hosts": [{"mac": "52:54:00:AA:00:01", "name": "one", "ip": format!("10.201.{third}.10")}],
    }}]})
}

#[tokio::test(flavor = "multi_thread")]
async fn a_network_lives_from_its_creation_to_its_deletion() {
    let world = World::new().await;
    let mut body = nat("new net", 1);
    body["domain"] = json!({"name": "lab.example", "local_only": true});
    body["mtu"] = json!(1400);
    let plan = world.post(&format!("{NETWORKS}?dry_run=true"), &body).await.expect(200);
    assert_eq!((&plan["operation"], &plan["blockers"]), (&json!("network.create"), &json!([])));
    assert!(text(&plan["xml_diff"]).contains("10.201.1.100"), "{plan:#}");
    world.get(&format!("{NETWORKS}/new%20net")).await.refused(404, "NETWORK_NOT_FOUND");

    let reply = world.post(NETWORKS, &body).await;
    let network = reply.expect(201);
    let path = reply.header("location");
    assert_eq!(path, format!("{NETWORKS}/new%20net"));
    let shown = world.get(&path).await;
    assert_eq!(shown.expect(200), network);
    assert_eq!(shown.header("etag"), reply.header("etag"));
    assert_eq!((&network["active"], &network["autostart"]), (&json!(true), &json!(true)));
    assert_eq!(network["forward"]["mode"], "nat");
    assert_eq!(network["ips"][0]["dhcp"]["hosts"][0]["mac"], "52:54:00:aa:00:01");
    assert_eq!(network["addresses"], json!(["10.201.1.1/24"]));
    assert_eq!((&network["mtu"], &network["pending"]), (&json!(1400), &Value::Null));
    world.post(NETWORKS, &body).await.refused(409, "NETWORK_ALREADY_EXISTS");
    let task = world.get(&format!("/api/v1/tasks/{}", reply.header("x-task-id"))).await.expect(200);
    assert_eq!((&task["kind"], &task["status"]), (&json!("network.create"), &json!("succeeded")));

    let start = format!("{path}/start");
    world.send(Method::POST, &start, &[], None).await.refused(409, "NETWORK_ALREADY_ACTIVE");
    let stopped = world.send(Method::POST, &format!("{path}/stop"), &[], None).await.expect(200);
    assert_eq!(stopped["active"], false);
    world
        .send(Method::POST, &format!("{path}/stop"), &[], None)
        .await
        .refused(409, "NETWORK_INACTIVE");
    let started = world.send(Method::POST, &start, &[], None).await.expect(200);
    assert_eq!(started["active"], true);
    let gone = world.delete(&path).await;
    assert_eq!((gone.status, gone.body.len()), (204, 0), "{gone}");
    world.get(&path).await.refused(404, "NETWORK_NOT_FOUND");
    world.delete(&path).await.refused(404, "NETWORK_NOT_FOUND");
    world.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_networks_events_name_the_task_that_caused_them() {
    let world = World::new().await;
    let start = world.get("/api/v1/events?limit=1000").await.expect(200);
    let path = format!("/api/v1/events?since={}&kind=network.*", text(&start["next"]));
    let made = world.post(NETWORKS, &nat("told", 9)).await.header("x-task-id");
    let order = async |verb: &str| {
        let path = format!("{NETWORKS}/told/{verb}");
        world.send(Method::POST, &path, &[], None).await.header("x-task-id")
    };
    let stopped = order("stop").await;
    let started = order("start").await;
    let stopped_again = order("stop").await;
    let gone = world.delete(&format!("{NETWORKS}/told")).await.header("x-task-id");
    let page =
        world.until(&path, |page| page["events"].to_string().contains("network.undefined")).await;
    let told: Vec<_> = page["events"].as_array().expect("events").iter().collect();
    let of = |kind: &str| -> Vec<&Value> {
        told.iter().filter(|event| event["kind"] == kind).map(|event| &event["task"]).collect()
    };
    assert!(of("network.defined").iter().all(|task| **task == json!(made)), "{page:#}");
    assert_eq!(of("network.started"), [&json!(made), &json!(started)], "{page:#}");
    assert_eq!(of("network.stopped"), [&json!(stopped), &json!(stopped_again)], "{page:#}");
    assert_eq!(of("network.undefined"), [&json!(gone)], "{page:#}");
    world.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stopped_network_takes_every_change_at_once() {
    let world = World::new().await;
    let path = format!("{NETWORKS}/wire");
    let mut body = nat("wire", 2);
    body["start"] = json!(false);
    body["autostart"] = json!(false);
    let made = world.post(NETWORKS, &body).await;
    let before = made.expect(201);
    assert_eq!((&before["active"], &before["autostart"]), (&json!(false), &json!(false)));
    let change = json!({"mtu": 9000, "autostart": true, "domain": {"name": "lab.example"},
        "ips": [{"address": "10.201.2.1/24"}, {"address": "fd20:1:2::1/64"}],
        "dns": {"hosts": [{"ip": "10.201.2.9", "hostnames": ["nine"]}]}});
    let plan = world.put(&format!("{path}?dry_run=true"), &change).await.expect(200);
    let changes = plan["changes"].as_array().expect("changes");
    assert!(changes.len() >= 5 && changes.iter().all(|one| one["effect"] == "live"), "{plan:#}");
    assert!(text(&plan["xml_diff"]).contains("+  <mtu size='9000'/>"), "{plan:#}");
    assert_eq!(world.get(&path).await.expect(200), before, "a plan changes nothing");

    let tag = made.header("etag");
    let headers = [("if-match", "\"0\"")];
    let stale = world.send(Method::PUT, &path, &headers, Some(&change)).await;
    stale.refused(412, "PRECONDITION_FAILED");
    let headers = [("if-match", tag.as_str()), ("idempotency-key", "once")];
    let reply = world.send(Method::PUT, &path, &headers, Some(&change)).await;
    let network = reply.expect(200);
    assert_eq!((&network["mtu"], &network["autostart"]), (&json!(9000), &json!(true)));
    assert_eq!(network["addresses"], json!(["10.201.2.1/24", "fd20:1:2::1/64"]));
    assert_eq!((&network["dhcp_ranges"], &network["pending"]), (&json!([]), &Value::Null));
    assert_eq!(network["bridge"], before["bridge"], "what is absent stays");
    assert!(network["generation"].as_u64() > before["generation"].as_u64());
    // The same request again is the same task.
    let again = world.send(Method::PUT, &path, &headers, Some(&change)).await;
    assert_eq!(again.header("x-task-id"), reply.header("x-task-id"));
    let headers = [("idempotency-key", "once")];
    let other = world.send(Method::PUT, &path, &headers, Some(&json!({"mtu": 1400}))).await;
    other.refused(422, "IDEMPOTENCY_KEY_REUSED");
    let tag = world.get(&path).await.header("etag");
    let headers = [("if-none-match", tag.as_str())];
    assert_eq!(world.send(Method::GET, &path, &headers, None).await.status, 304);
    let headers = [("if-match", "\"0\"")];
    let stale = world.send(Method::DELETE, &path, &headers, None).await;
    stale.refused(412, "PRECONDITION_FAILED");
    world.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn ports_and_leases_are_listed() {
    let world = World::new().await;
    let ports = world.get(&format!("{NETWORKS}/default/ports")).await;
    let port = &ports.expect(200)["ports"][0];
    assert_eq!((&port["vm"], &port["mac"]), (&json!("web1"), &json!("52:54:00:00:00:01")));
    assert_eq!((&port["model"], &port["link_up"]), (&json!("virtio"), &json!(true)));
    let none = world.get(&format!("{NETWORKS}/lab/ports")).await;
    assert_eq!(none.column("ports", "vm"), [] as [Value; 0]);
    let leases = world.get(&format!("{NETWORKS}/lab/dhcp-leases")).await;
    assert_eq!(leases.column("leases", "mac"), [] as [Value; 0]);
    for list in ["ports", "dhcp-leases"] {
        let reply = world.get(&format!("{NETWORKS}/none/{list}")).await;
        reply.refused(404, "NETWORK_NOT_FOUND");
    }
    world.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_network_with_running_guests_is_neither_stopped_nor_deleted() {
    let world = World::new().await;
    let path = format!("{NETWORKS}/default");
    for (method, path) in [(Method::DELETE, path.clone()), (Method::POST, format!("{path}/stop"))] {
        let error =
            world.send(method.clone(), &path, &[], None).await.refused(409, "NETWORK_IN_USE");
        assert_eq!(error["details"]["vms"], json!(["web1"]));
        let dry = format!("{path}?dry_run=true");
        let plan = world.send(method, &dry, &[], None).await.expect(200);
        assert_eq!(plan["blockers"][0]["code"], "NETWORK_IN_USE", "{plan:#}");
    }
    assert_eq!(world.get(&path).await.expect(200)["active"], true);
    assert_eq!(world.delete(&format!("{path}?force=true")).await.status, 204);
    world.get(&path).await.refused(404, "NETWORK_NOT_FOUND");
    world.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_makes_no_network_is_refused_with_its_field() {
    let world = World::new().await;
    let named = |name: &str| json!({"name": name, "forward": {"mode": "isolated"}});
    let ip = |address: &str| json!({"name": "a", "ips": [{"address": address}]});
    let dhcp =
        |dhcp: Value| json!({"name": "a", "ips": [{"address": "10.201.3.1/24", "dhcp": dhcp}]});
    for (body, status, code, field) in [
        (json!({}), 400, "INVALID_REQUEST", "name"),
        (named(""), 400, "INVALID_NAME", "name"),
        (named("../../etc/passwd"), 400, "INVALID_NAME", "name"),
        (named(".."), 400, "INVALID_NAME", "name"),
        (named("a\nb"), 400, "INVALID_NAME", "name"),
        (named(&"a".repeat(129)), 400, "INVALID_NAME", "name"),
        (json!({"name": 5}), 400, "INVALID_REQUEST", "name"),
        (json!({"name": "a", "bridge": "br 0"}), 400, "INVALID_NAME", "bridge"),
        (
            json!({"name": "a", "forward": {"mode": "token-ring"}}),
            400,
            "INVALID_REQUEST",
            "forward.mode",
        ),
        (json!({"name": "a", "mtu": 70_000}), 400, "INVALID_REQUEST", "mtu"),
        (
            json!({"name": "a", "vlan": {"tags": [{"id": 4095}]}}),
            400,
            "INVALID_REQUEST",
            "vlan.tags[0].id",
        ),
        (json!({"name": "a", "subnet": "10.0.0.0/8"}), 400, "INVALID_REQUEST", "subnet"),
        (ip("10.201.3.0"), 400, "INVALID_REQUEST", "ips[0].address"),
        (ip("10.201.3.0/24"), 422, "IMPOSSIBLE", "ips[0].address"),
        (ip("10.201.3.1/40"), 422, "IMPOSSIBLE", "ips[0].address"),
        (ip("<10.201.3.1>/24"), 400, "INVALID_REQUEST", "ips[0].address"),
        (
            dhcp(json!({"ranges": [{"start": "10.201.4.5", "end": "10.201.4.9"}]})),
            422,
            "IMPOSSIBLE",
            "ips[0].dhcp.ranges[0].start",
        ),
        (
            dhcp(json!({"ranges": [{"start": "10.201.3.1", "end": "10.201.3.9"}]})),
            422,
            "IMPOSSIBLE",
            "ips[0].dhcp.ranges[0]",
        ),
        (
            dhcp(json!({"hosts": [{"mac": "nonsense", "ip": "10.201.3.9"}]})),
            400,
            "INVALID_REQUEST",
            "ips[0].dhcp.hosts[0].mac",
        ),
        (
            json!({"name": "a", "forward": {"mode": "hostdev"}}),
            422,
            "IMPOSSIBLE",
            "forward.physical_function",
        ),
        (ip("192.168.122.77/26"), 409, "NETWORK_CONFLICT", "ips[0].address"),
        (
            json!({"name": "a", "forward": {"mode": "isolated"}, "bridge": "virbr1"}),
            409,
            "NETWORK_CONFLICT",
            "bridge",
        ),
    ] {
        let reply = world.post(NETWORKS, &body).await;
        reply.refused(status, code);
        assert!(reply.fields().contains(&field.to_owned()), "{body}: {reply}");
    }
    let networks = world.get(NETWORKS).await;
    assert_eq!(networks.column("networks", "name"), ["default", "lab"]);
    for name in ["Das Büro", "<b>&amp;", "网络 1", "-rf"] {
        let made = world.post(NETWORKS, &named(name)).await;
        assert_eq!(made.expect(201)["name"], name);
        assert_eq!(world.delete(&made.header("location")).await.status, 204);
    }
    world.stop().await;
}
