//! VMs that are made and changed: options become bodies.

use serde_json::{Value, json};

use super::stand_in::{Answer, data, run};
use super::vm;

#[test]
fn labels_are_changed_one_by_one_against_the_version_that_was_read() {
    let run = run(&["vm", "update", "web1", "--label", "stage=prod", "--memory", "4G"], |_, _| {
        data(vm("web1"))
    });
    assert_eq!(run.code, 0, "{}", run.err);
    assert_eq!(run.seen[1].line, "PATCH /api/v1/virtualization/virtualmachines/web1");
    assert_eq!(run.seen[1].header("if-match"), Some("\"v7\""));
    assert_eq!(
        run.seen[1].json(),
        json!({"memory": 4096, "labels": {"stage": "prod", "tier": "web"}})
    );
}

#[test]
fn an_update_grows_disks_and_plugs_nics() {
    let mac = "52:54:00:12:34:56";
    let (link, plug) = (format!("{mac}=down"), format!("{mac}=bridge:br0"));
    let args = ["vm", "update", "web1", "--grow", "vda=40G", "--link", &link, "--plug", &plug];
    let run = run(&args, |_, _| data(vm("web1")));
    assert_eq!(run.code, 0, "{}", run.err);
    assert_eq!(
        run.seen[0].json(),
        json!({"disks": [{"target": "vda", "size": 40}], "networks":
            [{"mac": mac, "type": "bridge", "source": "br0", "link_up": false}]})
    );
}

#[test]
fn an_update_of_nothing_is_wrong_usage() {
    let run = run(&["vm", "update", "web1"], |_, _| data(Value::Null));
    assert_eq!((run.code, run.seen.len()), (2, 0));
}

#[test]
fn create_sends_the_flat_form_where_it_can() {
    let args = "vm create web1 --memory 2G --vcpus 2 --disk 20 --pool fast --os-type linux --start --label a=b";
    let run = run(&args.split(' ').collect::<Vec<_>>(), |_, _| {
        let mut created = vm("web1");
        created["state"] = json!("running");
        Answer::Reply(201, json!({"status": "success", "data": created}))
    });
    assert_eq!((run.code, run.out.as_str()), (0, "web1 created and started\n"), "{}", run.err);
    assert_eq!(
        run.seen[0].json(),
        json!({"name": "web1", "memory": 2048, "vcpus": 2, "disk_size": 20, "pool": "fast",
            "os_type": "linux", "labels": {"a": "b"}, "start": true})
    );
}

#[test]
fn a_pool_is_named_where_something_may_be_made_in_it() {
    let create = "vm create w --memory 512 --vcpus 1 --pool fast";
    let folder = tempfile::tempdir().unwrap();
    let config = folder.path().join("c.ign");
    std::fs::write(&config, r#"{"ignition":{"version":"3.4.0"}}"#).unwrap();
    let config = config.to_str().unwrap();
    for options in [
        &["--ignition", config][..],
        &["--user-data", config],
        &["--cloud-init-hostname", "w"],
        &["--template", "small"],
        &["--disk", "1"],
    ] {
        let args: Vec<&str> = create.split(' ').chain(options.iter().copied()).collect();
        let run = run(&args, |_, _| data(vm("w")));
        assert_eq!(run.code, 0, "{options:?}: {}", run.err);
        assert_eq!(run.seen[0].json()["pool"], "fast", "{options:?}");
    }
    let run = run(&create.split(' ').collect::<Vec<_>>(), |_, _| data(vm("w")));
    assert_eq!((run.code, run.seen.len()), (2, 0));
    assert!(run.err.contains("--pool"), "{}", run.err);
}

#[test]
fn create_sends_disks_and_nics_in_the_full_form() {
    let args = "vm create w --memory 512 --vcpus 1 --disk 20 --cdrom iso/d.iso --network bridge:br0 --network user";
    let run = run(&args.split(' ').collect::<Vec<_>>(), |_, _| data(vm("w")));
    let body = run.seen[0].json();
    assert_eq!(body["storage"]["disks"][0]["size"], 20);
    assert_eq!(body["storage"]["disks"][1]["device"], "cdrom");
    assert_eq!(body["os"]["boot"], json!(["hd", "cdrom"]));
    assert_eq!(body["networks"], json!([{"type": "bridge", "source": "br0"}, {"type": "user"}]));
}

#[test]
fn a_file_gives_the_body_and_options_win() {
    let folder = tempfile::tempdir().unwrap();
    let write = |name: &str, text: &str| {
        let path = folder.path().join(name);
        std::fs::write(&path, text).unwrap();
        path.to_str().unwrap().to_owned()
    };
    let json = write("vm.json", r#"{"name": "a", "memory": 512, "vcpus": 1}"#);
    let toml = write("vm.toml", "name = \"a\"\nmemory = 512\nvcpus = 1\n");
    for file in [json, toml] {
        let run = run(&["vm", "create", "-f", &file, "--vcpus", "4"], |_, _| data(vm("a")));
        assert_eq!(
            run.seen[0].json(),
            json!({"name": "a", "memory": 512, "vcpus": 4}),
            "{}",
            run.err
        );
    }
    let broken = write("broken.json", "{");
    let run = run(&["vm", "create", "-f", &broken], |_, _| data(Value::Null));
    assert_eq!((run.code, run.seen.len()), (2, 0));
}

#[test]
fn lists_of_host_resources_are_replaced_or_emptied() {
    let args = "vm update web1 --filesystem /srv/a:a,read-only --pci none --kernel none --variant debian12";
    let run = run(&args.split(' ').collect::<Vec<_>>(), |_, _| data(vm("web1")));
    assert_eq!(run.code, 0, "{}", run.err);
    assert_eq!(
        run.seen[0].json(),
        json!({"devices": {"filesystems": [{"source": "/srv/a", "tag": "a", "read_only": true}],
            "pci": []}, "os": {"variant": "debian12", "direct_boot": {}}})
    );
}
