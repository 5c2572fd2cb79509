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
        (json!({"name": "web9"}), 400, "INVALID_REQUEST", "name"),
        (json!({"boot": ["usb"]}), 400, "INVALID_REQUEST", "boot[0]"),
        (json!({"boot": ["hd", "hd", "hd", "hd", "hd"]}), 400, "INVALID_REQUEST", "boot"),
        (json!({"labels": {"a": "é"}}), 400, "INVALID_REQUEST", "labels.a"),
        (json!({"labels": {"": "a"}}), 400, "INVALID_REQUEST", "labels."),
        (json!({"labels": []}), 400, "INVALID_REQUEST", "labels"),
        (json!({"description": "\u{0}"}), 400, "INVALID_REQUEST", "description"),
        (json!({"memory": 512, "max_memory": 256}), 422, "IMPOSSIBLE", "max_memory"),
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
