//! From requests to images and back.

use super::*;
use crate::error::Kind;
use crate::model::CloudInit;

fn request(value: serde_json::Value) -> CloudInit {
    serde_json::from_value(value).unwrap()
}

fn prepared(value: serde_json::Value) -> Result<Prepared> {
    prepare_now(&request(value))
}

fn refused(value: serde_json::Value) -> (Kind, String) {
    let error = prepared(value).unwrap_err();
    let field = error.details()["fields"][0]["field"].as_str().unwrap().to_owned();
    (error.kind(), field)
}

fn complete(value: serde_json::Value, present: Option<Documents>) -> Documents {
    prepared(value).unwrap().complete(("web_1", Uuid::nil()), present).unwrap()
}

fn cloud_config(document: &str) -> serde_json::Value {
    serde_json::from_str(document.strip_prefix("#cloud-config\n").unwrap()).unwrap()
}

use serde_json::json;

#[test]
fn what_is_built_is_what_cloud_init_reads() {
    let documents = complete(
        json!({
            "fqdn": "web1.example.org", "ssh_keys": ["ssh-ed25519 AAAA me"], "password": "sesame",
            "users": [{"name": "ann", "groups": ["adm"], "sudo": "ALL=(ALL) NOPASSWD:ALL",
                "ssh_keys": ["ssh-ed25519 BBBB"], "password_hash": "$6$a$b"}, {"name": "bob"}],
            "packages": ["nginx"], "package_update": true, "runcmd": ["echo a: b", ["touch", "/x"]],
            "write_files": [{"path": "/etc/motd", "content": "a\n#b: \u{7f}", "owner": "ann"}],
            "timezone": "Europe/Berlin", "locale": "C.UTF-8",
            "network": {"interfaces": [
                {"mac": "52:54:00:00:00:0A", "addresses": ["10.0.0.5/24"], "gateway": ["10.0.0.1"],
                    "dns": ["10.0.0.1"], "search": ["example.org"], "mtu": 1400},
                {"name": "ens4"},
            ]},
        }),
        None,
    );
    let config = cloud_config(&documents.user_data);
    let hash = config["password"].as_str().unwrap();
    assert!(hash.starts_with("$6$") && !documents.user_data.contains("sesame"));
    assert_eq!(config["chpasswd"], json!({"expire": false}));
    assert_eq!(
        config["users"],
        json!([
            "default",
            {"name": "ann", "groups": ["adm"], "sudo": "ALL=(ALL) NOPASSWD:ALL", "shell": "/bin/bash",
                "ssh_authorized_keys": ["ssh-ed25519 BBBB"], "passwd": "$6$a$b", "lock_passwd": false},
            {"name": "bob", "shell": "/bin/bash", "lock_passwd": true},
        ])
    );
    assert_eq!(config["runcmd"], json!(["echo a: b", ["touch", "/x"]]));
    assert_eq!(config["write_files"][0]["owner"], "ann:ann");
    assert!(!documents.user_data.contains('\u{7f}'));
    let network: serde_json::Value =
        serde_json::from_str(documents.network_config.as_deref().unwrap()).unwrap();
    assert_eq!(
        network,
        json!({"version": 2, "ethernets": {
            "eth0": {"match": {"macaddress": "52:54:00:00:00:0a"}, "set-name": "eth0", "dhcp4": false,
                "addresses": ["10.0.0.5/24"], "routes": [{"to": "0.0.0.0/0", "via": "10.0.0.1"}],
                "nameservers": {"addresses": ["10.0.0.1"], "search": ["example.org"]}, "mtu": 1400},
            "ens4": {"dhcp4": true},
        }})
    );
    let (id, hostname) = documents.identity();
    assert!(id.starts_with("00000000-0000-0000-0000-000000000000-"), "{id}");
    assert_eq!(hostname.as_deref(), Some("web1.example.org"));
}

#[test]
fn an_image_gives_back_its_documents() {
    let documents = Documents {
        user_data: "#!/bin/sh\necho ä\n".to_owned(),
        meta_data: "instance-id: a\n".to_owned(),
        network_config: Some("version: 2\n".to_owned()),
        vendor_data: None,
    };
    let disk = image(&documents).unwrap();
    assert_eq!(disk.len(), 1 << 20);
    assert_eq!(&disk[43..54], b"CIDATA     ");
    assert!(read_image(disk).unwrap() == documents);
    let large = Documents { user_data: "x".repeat(2 << 20), ..documents };
    assert!(read_image(image(&large).unwrap()).unwrap() == large);
    assert_eq!(read_image(vec![0; 1 << 20]).unwrap_err().kind(), Kind::Impossible);
}

#[test]
fn a_change_keeps_what_it_does_not_name_and_is_a_new_instance() {
    let first = complete(json!({"hostname": "one", "user_data": "#!/bin/sh\n"}), None);
    assert_eq!(first, complete(json!({"hostname": "one", "user_data": "#!/bin/sh\n"}), None));
    let second = complete(json!({"ssh_keys": ["ssh-rsa A"]}), Some(first.clone()));
    assert_ne!(second.identity().0, first.identity().0);
    assert_eq!(second.identity().1.as_deref(), Some("one"));
    assert_eq!(cloud_config(&second.user_data), json!({"ssh_authorized_keys": ["ssh-rsa A"]}));
    let third = complete(json!({"hostname": "three"}), Some(second.clone()));
    assert_eq!(third.user_data, second.user_data);
    assert_eq!(third.identity().1.as_deref(), Some("three"));
    assert_ne!(third.identity().0, second.identity().0);
    // Only what is the same again is the same instance.
    assert_eq!(complete(json!({"hostname": "one"}), Some(third)).identity().0, second.identity().0);
}

#[test]
fn meta_data_keeps_its_instance_id_and_its_other_words() {
    let raw = "instance-id: i-1 # mine\nlocal-hostname: a\n";
    let documents = complete(json!({"meta_data": raw}), None);
    assert_eq!(documents.meta_data, raw);
    assert_eq!(documents.identity(), ("i-1".to_owned(), Some("a".to_owned())));
    let documents = complete(json!({"meta_data": "region: north\n"}), None);
    assert!(documents.meta_data.contains("\"region\": \"north\""));
    assert_eq!(documents.identity().1.as_deref(), Some("web-1"), "the VM's name as far as may be");
}

#[test]
fn each_format_of_user_data_is_known_by_its_header() {
    for good in [
        "#cloud-config\n",
        "#cloud-config\npackages: [a]\n",
        "#cloud-config\n1: a\na: 1\na: 2\n",
        "#cloud-config-archive\n- content: a\n",
        "#!/bin/sh\n: {",
        "#include\nhttp://a\n",
        "#include-once\nhttp://a\n",
        "## template: jinja\n#cloud-config\n{% if a %}\n",
        "#cloud-boothook\nx",
        "Content-Type: multipart/mixed; boundary=\"=\"\n",
        "MIME-Version: 1.0\n",
        "#part-handler\n",
    ] {
        assert!(prepared(json!({"user_data": good})).is_ok(), "{good:?}");
    }
    for bad in ["", "packages: [a]\n", "#cloud-configs\n", "# cloud-config\n", "\n#cloud-config\n"]
    {
        assert_eq!(
            refused(json!({"user_data": bad})),
            (Kind::InvalidRequest, "cloud_init.user_data".to_owned()),
            "{bad:?}"
        );
    }
}

#[test]
fn bad_yaml_is_told_with_its_place_and_without_its_words() {
    let document = "#cloud-config\npassword: sesame\nusers: [sesame\n";
    let error = prepared(json!({"user_data": document})).unwrap_err();
    assert_eq!(error.kind(), Kind::InvalidRequest);
    assert!(error.details()["line"].as_u64().unwrap() >= 3, "{error:?}");
    assert!(error.details()["column"].is_u64());
    assert!(!format!("{error:?} {}", error.message()).contains("sesame"), "{error:?}");
    for (field, document) in [
        ("user_data", "#cloud-config\n- a\n"),
        ("vendor_data", "#cloud-config\na: b: c\n"),
        ("vendor_data", "#cloud-config-archive\na: b\n"),
        ("meta_data", "just words"),
        ("meta_data", "a: &a [*a]"),
        ("network_config", "ethernets: {}"),
        ("network_config", "version: 3"),
    ] {
        assert_eq!(
            refused(json!({field: document})),
            (Kind::InvalidRequest, format!("cloud_init.{field}")),
            "{document:?}"
        );
    }
    for good in
        ["version: 1\nconfig: []\n", "network:\n  version: 2\n", "network: {config: disabled}"]
    {
        assert!(prepared(json!({"network_config": good})).is_ok(), "{good:?}");
    }
}

#[test]
fn values_that_no_guest_could_take_are_refused_by_their_field() {
    for (value, field) in [
        (json!({"hostname": "-a"}), "hostname"),
        (json!({"hostname": "a.b"}), "hostname"),
        (json!({"fqdn": "a"}), "fqdn"),
        (json!({"ssh_keys": ["a\nb"]}), "ssh_keys[0]"),
        (json!({"password": ""}), "password"),
        (json!({"users": [{"name": "Ann"}]}), "users[0].name"),
        (json!({"users": [{"name": "a", "shell": "sh"}]}), "users[0].shell"),
        (json!({"users": [{"name": "a", "password_hash": "sesame"}]}), "users[0].password_hash"),
        (json!({"users": [{"name": "a", "groups": ["a,b"]}]}), "users[0].groups"),
        (json!({"packages": ["-y"]}), "packages[0]"),
        (json!({"runcmd": [[]]}), "runcmd[0]"),
        (json!({"write_files": [{"path": "etc", "content": ""}]}), "write_files[0].path"),
        (
            json!({"write_files": [{"path": "/e", "content": "", "permissions": "0999"}]}),
            "write_files[0].permissions",
        ),
        (json!({"timezone": "../x"}), "timezone"),
        (json!({"network": {"interfaces": []}}), "network.interfaces"),
        (json!({"network": {"interfaces": [{"mac": "1"}]}}), "network.interfaces[0].mac"),
    ] {
        let wanted = (Kind::InvalidRequest, format!("cloud_init.{field}"));
        assert_eq!(refused(value.clone()), wanted, "{value}");
    }
}

#[test]
fn what_contradicts_itself_is_refused_as_that() {
    for (value, field) in [
        (json!({"user_data": "#!/bin/sh", "password": "a"}), "password"),
        (json!({"user_data": "#!/bin/sh", "package_update": false}), "package_update"),
        (json!({"meta_data": "{}", "hostname": "a"}), "hostname"),
        (
            json!({"network_config": "version: 2", "network": {"interfaces": [{"name": "a"}]}}),
            "network",
        ),
        (json!({"hostname": "a", "fqdn": "b.c"}), "fqdn"),
        (
            json!({"users": [{"name": "a", "password": "b", "password_hash": "$6$a$b"}]}),
            "users[0].password_hash",
        ),
        (json!({"users": [{"name": "a"}, {"name": "a"}]}), "users[1].name"),
        (json!({"network": {"interfaces": [{}]}}), "network.interfaces[0].mac"),
        (
            json!({"network": {"interfaces": [{"name": "a", "addresses": ["10.0.0.1"]}]}}),
            "network.interfaces[0].addresses[0]",
        ),
    ] {
        let wanted = (Kind::Impossible, format!("cloud_init.{field}"));
        assert_eq!(refused(value.clone()), wanted, "{value}");
    }
    // These go together.
    assert!(
        prepared(json!({"user_data": "#!/bin/sh", "hostname": "a",
        "network": {"interfaces": [{"name": "a"}]}}))
        .is_ok()
    );
}
