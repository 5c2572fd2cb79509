//! Volumes through HTTP, on libvirt's test driver: who uses what, lists, and what is refused.

#[path = "support/driver.rs"]
mod driver;

use driver::{POOLS, VMS, World, text};
use http::Method;
use serde_json::{Value, json};

const ALL: &str = "/api/v1/virtualization/volumes";

/// A file volume, on top of another path if there is one.
fn volume(path: &str, backing: Option<&str>) -> String {
    let name = path.rsplit('/').next().expect("a name");
    let backing = backing.map_or(String::new(), |path| {
        format!("<backingStore><path>{path}</path><format type='qcow2'/></backingStore>")
    });
    format!(
        "<volume type='file'><name>{name}</name><capacity>1073741824</capacity>\
         <allocation>4096</allocation><target><path>{path}</path><format type='qcow2'/></target>\
         {backing}</volume>"
    )
}

fn pool(name: &str, number: u32, path: &str, volumes: &[String]) -> String {
    format!(
        "<pool type='dir'><name>{name}</name><uuid>dfe224cb-28fb-8dd0-c4b2-{number:012}</uuid>\
         <target><path>{path}</path></target>{}</pool>",
        volumes.concat()
    )
}

/// A VM with these disks, each whole; stopped.
fn vm(name: &str, number: u32, disks: &str) -> String {
    format!(
        "<domain type='test' xmlns:test='http://libvirt.org/schemas/domain/test/1.0'>\
         <name>{name}</name><uuid>4dea22b3-1d52-d8f3-2516-{number:012}</uuid>\
         <memory>65536</memory><vcpu>1</vcpu><os><type>hvm</type></os>\
         <devices>{disks}</devices><test:runstate>5</test:runstate></domain>"
    )
}

fn file(path: &str, target: &str) -> String {
    format!(
        "<disk type='file' device='disk'><driver name='qemu' type='qcow2'/>\
         <source file='{path}'/><target dev='{target}' bus='virtio'/></disk>"
    )
}

fn node(parts: &[String]) -> String {
    format!(
        "<node><cpu><mhz>2400</mhz><model>x86_64</model><active>4</active><nodes>1</nodes>\
         <sockets>1</sockets><cores>4</cores><threads>1</threads></cpu>\
         <memory>8388608</memory>{}</node>",
        parts.concat()
    )
}

async fn get(world: &World, pool: &str, name: &str) -> Value {
    world.get(&format!("{POOLS}/{pool}/volumes/{name}")).await.expect(200)
}

/// What each VM has a volume for.
async fn used_as(world: &World, pool: &str, name: &str) -> Value {
    let volume = get(world, pool, name).await;
    let names: Vec<Value> =
        volume["used_as"].as_object().expect("a map").keys().map(|name| json!(name)).collect();
    assert_eq!(volume["used_by"], json!(names), "{volume:#}");
    volume["used_as"].clone()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_volume_is_used_by_whoever_reaches_it_through_chains() {
    let folder = tempfile::tempdir().expect("a folder");
    let real = folder.path().join("real");
    std::fs::create_dir(&real).expect("made");
    std::os::unix::fs::symlink(&real, folder.path().join("link")).expect("made");
    std::os::unix::fs::symlink(&real, folder.path().join("other")).expect("made");
    std::fs::write(real.join("disk"), "").expect("made");
    let (real, link) = (real.display(), folder.path().join("link").display().to_string());
    let other_link = folder.path().join("other").display().to_string();
    let volumes = |folder: &str| {
        [
            volume(&format!("{folder}/base"), None),
            volume(&format!("{folder}/middle"), Some(&format!("{folder}/./base"))),
            volume(&format!("{folder}/top"), Some(&format!("{folder}/x/../middle"))),
            volume(&format!("{folder}/base.old"), None),
        ]
    };
    let odd = [volume("/odd/one", Some("/odd/two")), volume("/odd/two", Some("/odd/one"))];
    let stolen = [volume("/stolen/image", Some("/etc/shadow"))];
    let linked = [volume(&format!("{real}/disk"), None)];
    let chain = "<disk type='file' device='disk'><driver name='qemu' type='qcow2'/>\
        <source file='/elsewhere/snapshot'/><backingStore type='file'><format type='qcow2'/>\
        <source file='/a/base.old'/><backingStore/></backingStore>\
        <target dev='vda' bus='virtio'/></disk>";
    let named = "<disk type='volume' device='disk'><driver name='qemu' type='qcow2'/>\
        <source pool='b' volume='top'/><target dev='vda' bus='virtio'/></disk>";
    let world = World::on(&node(&[
        pool("a", 1, "/a", &volumes("/a")),
        pool("link", 2, &link, &[volume(&format!("{link}/disk"), None)]),
        pool("b", 3, "/b", &volumes("/b")),
        pool("odd", 4, "/odd", &odd),
        pool("real", 5, &real.to_string(), &linked),
        pool("stolen", 6, "/stolen", &stolen),
        vm("spelt", 1, &file("//a/./top", "vda")),
        vm("similar", 2, &file("/a/base.older", "vda")),
        vm("named", 3, named),
        vm("snapshot", 4, chain),
        vm("circle", 5, &file("/odd/one", "vda")),
        vm("linked", 6, &file(&format!("{link}/disk"), "vda")),
        vm("other-link", 8, &file(&format!("{other_link}/disk"), "vda")),
        vm("twice", 7, &[file("/b/base", "vda"), file("/b/top", "vdb")].concat()),
    ]))
    .await;
    // Through two layers, by another spelling.
    assert_eq!(used_as(&world, "a", "top").await, json!({"spelt": "disk"}));
    assert_eq!(used_as(&world, "a", "middle").await, json!({"spelt": "backing"}));
    assert_eq!(used_as(&world, "a", "base").await, json!({"spelt": "backing"}));
    assert_eq!(
        world.vm("spelt").await["disks"][0]["volume"],
        json!({"pool": "a", "volume": "top"})
    );
    // The chain that only the domain tells; and no name that merely resembles another.
    assert_eq!(used_as(&world, "a", "base.old").await, json!({"snapshot": "backing"}));
    // By its names; a VM that has a base as a disk, too, has it as a disk.
    assert_eq!(used_as(&world, "b", "top").await, json!({"named": "disk", "twice": "disk"}));
    assert_eq!(used_as(&world, "b", "base").await, json!({"named": "backing", "twice": "disk"}));
    assert_eq!(used_as(&world, "odd", "one").await, json!({"circle": "disk"}));
    assert_eq!(used_as(&world, "odd", "two").await, json!({"circle": "backing"}));
    // In both pools that show one folder, by different names of it.
    for pool in ["real", "link"] {
        world
            .until(&format!("{POOLS}/{pool}/volumes/disk"), |volume| {
                volume["used_as"] == json!({"linked": "disk", "other-link": "disk"})
            })
            .await;
    }
    // And from then on, however often it is looked at.
    for _ in 0..20 {
        let reply = world.post(&format!("{POOLS}/real/refresh"), &json!({})).await;
        assert_eq!(reply.status, 200, "{reply}");
        let users = used_as(&world, "real", "disk").await;
        assert_eq!(users, json!({"linked": "disk", "other-link": "disk"}));
        let disk = world.vm("other-link").await["disks"][0].clone();
        assert_eq!(disk["volume"]["volume"], "disk");
    }

    let top = get(&world, "b", "top").await;
    assert_eq!(
        top["backing_chain"],
        json!([
            {"path": "/b/x/../middle", "format": "qcow2", "pool": "b", "volume": "middle"},
            {"path": "/b/./base", "format": "qcow2", "pool": "b", "volume": "base"},
        ])
    );
    let base = get(&world, "b", "base").await;
    assert_eq!(base["backing_of"], json!([{"pool": "b", "volume": "middle"}]));

    let refused = world.delete(&format!("{POOLS}/b/volumes/base")).await;
    let error = refused.refused(409, "VOLUME_IN_USE");
    assert_eq!(error["details"]["vms"], json!(["twice", "named"]), "{error:#}");
    assert_eq!(error["details"]["volumes"], json!(["b/middle"]));
    // A file of the host's under a volume is not read out by a copy.
    let body = json!({"name": "copy"});
    let refused = world.post(&format!("{POOLS}/stolen/volumes/image/clone"), &body).await;
    assert_eq!(refused.refused(422, "IMPOSSIBLE")["details"]["path"], "/etc/shadow");
    // What goes with a VM goes from the volumes.
    let gone = world.delete(&format!("{VMS}/named")).await;
    assert_eq!(gone.status, 204, "{gone}");
    assert_eq!(used_as(&world, "b", "top").await, json!({"twice": "disk"}));
    world.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn volumes_of_all_pools_come_in_order_by_pages_and_by_tag() {
    let pools: Vec<String> = (1..=3)
        .map(|number| {
            let folder = format!("/p{number}");
            let volumes = ["c", "a", "b"].map(|name| volume(&format!("{folder}/{name}"), None));
            pool(&format!("p{number}"), number, &folder, &volumes)
        })
        .collect();
    let world = World::on(&node(&pools)).await;
    let places = |reply: &driver::Reply| -> Vec<String> {
        let (pools, names) = (reply.column("volumes", "pool"), reply.column("volumes", "name"));
        pools.iter().zip(&names).map(|(pool, name)| text(name) + &text(pool)).collect()
    };
    let whole = world.get(ALL).await;
    let wanted = ["ap1", "ap2", "ap3", "bp1", "bp2", "bp3", "cp1", "cp2", "cp3"];
    assert_eq!(places(&whole), wanted);
    let mut reverse = wanted;
    reverse.reverse();
    for (sort, wanted) in [("name", wanted), ("-name", reverse)] {
        let mut path = format!("{ALL}?limit=2&sort={sort}");
        let mut seen = Vec::new();
        loop {
            let page = world.get(&path).await;
            assert_eq!(page.data()["total"], 9);
            seen.extend(places(&page));
            let Some(next) = page.data()["next"].as_str().map(str::to_owned) else { break };
            path = format!("{ALL}?limit=2&sort={sort}&cursor={next}");
        }
        assert_eq!(seen, wanted, "{sort}");
    }
    assert_eq!(places(&world.get(&format!("{POOLS}/p2/volumes?name=b*")).await), ["bp2"]);
    let chosen = world.get(&format!("{ALL}?fields=name,used_as&limit=1")).await;
    assert_eq!(chosen.data()["volumes"], json!([{"name": "a", "used_as": {}}]));
    // The tag is of the content, and lives as long as that.
    let tag = whole.header("etag");
    let headers = [("if-none-match", tag.as_str())];
    assert_eq!(world.send(Method::GET, ALL, &headers, None).await.status, 304);
    let body = json!({"name": "new", "capacity_bytes": 4096, "format": "raw"});
    world.post(&format!("{POOLS}/p1/volumes"), &body).await.expect(201);
    let changed = world.send(Method::GET, ALL, &headers, None).await;
    assert_eq!((changed.status, changed.data()["total"].clone()), (200, json!(10)));
    world.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn bad_names_and_capacities_are_refused_with_their_field() {
    let world = World::new().await;
    let path = format!("{POOLS}/images/volumes");
    for name in ["", "..", "a/b", "../../etc/passwd", "<b>x</b>", "a&b", "a\nb", " a", "uploads"] {
        let reply = world.post(&path, &json!({"name": name, "size": 1})).await;
        assert_eq!((reply.status, reply.fields()), (400, vec!["name".to_owned()]), "{name:?}");
    }
    for (body, status, field) in [
        (json!({"name": "a"}), 422, "capacity_bytes"),
        (json!({"name": "a", "size": 1, "capacity_bytes": 1}), 422, "capacity_bytes"),
        (json!({"name": "a", "capacity_bytes": 0}), 400, "capacity_bytes"),
        (json!({"name": "a", "size": 0}), 400, "size"),
        (json!({"name": "a", "capacity_bytes": 1_u64 << 63}), 400, "capacity_bytes"),
        (json!({"name": "a", "size": u64::MAX}), 400, "size"),
        (
            json!({"name": "a", "size": 1, "format": "raw", "preallocation": "metadata"}),
            422,
            "preallocation",
        ),
        (json!({"name": "a", "size": 1, "preallocation": "full"}), 422, "preallocation"),
        (
            json!({"name": "a", "size": 1, "format": "raw",
            "backing": {"pool": "default", "volume": "base.qcow2"}}),
            422,
            "format",
        ),
        (
            json!({"name": "a", "size": 1, "backing": {"pool": "default", "volume": "base.qcow2"}}),
            422,
            "size",
        ),
    ] {
        let reply = world.post(&path, &body).await;
        assert_eq!((reply.status, reply.fields()), (status, vec![field.to_owned()]), "{body}");
    }
    let beyond = "{\"name\":\"a\",\"capacity_bytes\":18446744073709551616}".to_owned();
    let reply = world.request(Method::POST, &path, &[], Some(("application/json", beyond))).await;
    assert_eq!(reply.status, 400, "{reply}");
    let none = json!({"name": "a", "size": 9, "backing": {"pool": "default", "volume": "no"}});
    world.post(&path, &none).await.refused(404, "VOLUME_NOT_FOUND");
    let volume = format!("{POOLS}/default/volumes/base.qcow2");
    let smaller = world.post(&format!("{volume}/resize"), &json!({"size": 1})).await;
    smaller.refused(422, "IMPOSSIBLE");
    assert_eq!(smaller.fields(), ["size"]);
    let used = format!("{POOLS}/default/volumes/web2.qcow2");
    let shrink = json!({"capacity_bytes": 4096, "shrink": true});
    let error = world.post(&format!("{used}/resize"), &shrink).await;
    assert_eq!(error.refused(409, "VOLUME_IN_USE")["details"]["vms"], json!(["web2"]));
    world.post(&format!("{used}/wipe"), &json!({})).await.refused(409, "VOLUME_IN_USE");
    assert_eq!(world.get(&path).await.data()["total"], 0);
    world.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_clone_is_a_task_and_a_linked_one_holds_its_base() {
    let world = World::new().await;
    let base = format!("{POOLS}/default/volumes/base.qcow2");
    let body = json!({"name": "a b ü.qcow2"});
    let plan = world.post(&format!("{base}/clone?dry_run=true"), &body).await.expect(200);
    assert_eq!((&plan["operation"], &plan["blockers"]), (&json!("volume.clone"), &json!([])));
    let reply = world.post(&format!("{base}/clone"), &body).await;
    let task = world.finished(&reply).await;
    assert_eq!(task["status"], "succeeded", "{task:#}");
    assert_eq!(task["result"]["name"], "a b ü.qcow2");
    let own = format!("{POOLS}/default/volumes/a%20b%20%C3%BC.qcow2");
    assert_eq!(world.get(&own).await.expect(200)["capacity_bytes"], 2_u64 << 30);
    let wait = [("prefer", "wait=20")];
    let again = world.send(Method::POST, &format!("{base}/clone"), &wait, Some(&body)).await;
    again.refused(409, "VOLUME_ALREADY_EXISTS");

    let linked = json!({"name": "linked.qcow2", "linked": true});
    let reply = world.post(&format!("{base}/clone"), &linked).await;
    let volume = reply.expect(201);
    assert_eq!(reply.header("location"), format!("{POOLS}/default/volumes/linked.qcow2"));
    assert_eq!(volume["backing_chain"][0]["volume"], "base.qcow2", "{volume:#}");
    let refused = world.delete(&base).await;
    let error = refused.refused(409, "VOLUME_IN_USE");
    assert_eq!(error["details"]["volumes"], json!(["default/linked.qcow2"]));
    // A base must not become somebody's disk, and a disk no base.
    let vm = json!({"name": "thief", "memory": 64, "vcpus": 1,
        "storage": {"disks": [{"action": "attach", "pool": "default", "volume": "base.qcow2"}]}});
    world.post(VMS, &vm).await.refused(409, "VOLUME_IN_USE");
    let disk = format!("{POOLS}/default/volumes/web2.qcow2/clone");
    let error = world.post(&disk, &json!({"name": "x", "linked": true})).await;
    assert_eq!(error.refused(409, "VOLUME_IN_USE")["details"]["vms"], json!(["web2"]));
    assert_eq!(world.delete(&format!("{POOLS}/default/volumes/linked.qcow2")).await.status, 204);
    assert_eq!(world.delete(&base).await.status, 204);
    world.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_the_hypervisor_cannot_do_is_said_and_changes_nothing() {
    let world = World::new().await;
    let base = format!("{POOLS}/default/volumes/base.qcow2");
    let before = world.get(&base).await.expect(200);
    let grow = json!({"size": 4});
    let plan = world.post(&format!("{base}/resize?dry_run=true"), &grow).await.expect(200);
    assert_eq!(plan["changes"][0]["to"], 4_u64 << 30, "{plan:#}");
    // The test driver neither resizes nor wipes.
    world.post(&format!("{base}/resize"), &grow).await.refused(422, "NOT_SUPPORTED");
    let wait = [("prefer", "wait=20")];
    let reply = world.send(Method::POST, &format!("{base}/wipe"), &wait, Some(&json!({}))).await;
    reply.refused(422, "NOT_SUPPORTED");
    assert_eq!(world.get(&base).await.expect(200), before);
    world.stop().await;
}
