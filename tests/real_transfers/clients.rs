//! Clients that know nothing of these tests: a stock one of the tus protocol, and `vapor`.

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Duration;

use serde_json::Value;

use super::images::{POOL, assert_content, bytes, image};
use super::support::lab::{run, skip};
use super::support::{SOON, World, eventually};

fn free_port() -> u16 {
    let listener = std::net::TcpListener::bind("127.0.0.1:0").expect("a port");
    listener.local_addr().expect("an address").port()
}

fn python() -> Option<PathBuf> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let lab = std::env::var_os("VAPOR_LAB").map_or_else(|| root.join("target/lab"), Into::into);
    let python = lab.join("venv/bin/python");
    let has = Command::new(&python).args(["-c", "import tusclient"]).output();
    if has.is_ok_and(|output| output.status.success()) {
        return Some(python);
    }
    skip("tuspy");
    None
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stock_tus_client_uploads_and_resumes() {
    let Some(python) = python() else { return };
    let port = free_port();
    let Some(mut world) = World::with("tuspy", |settings| settings.port = Some(port)).await else {
        return;
    };
    let folder = world.daemon.settings().folder.clone();
    let content = image(&folder, "qcow2", 8, &["-o", "preallocation=full"]);
    assert!(content.len() > 5 << 20, "{}", content.len());
    let file = folder.join("stock.qcow2");
    std::fs::write(&file, &content).unwrap();
    let url = format!("http://127.0.0.1:{port}{POOL}/volumes/uploads");
    let client = |stop_at: Option<usize>| {
        let mut command = Command::new(&python);
        command
            .arg(Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/real_transfers/tus_client.py"))
            .args([&url, &file.display().to_string(), "stock.qcow2"])
            .arg(folder.join("store.json"))
            .args(stop_at.map(|at| at.to_string()));
        run(&mut command)
    };
    let said = client(Some(3 << 20));
    assert!(said.starts_with("from 0"), "{said}");
    world.daemon.kill9();
    world.daemon.start_again().await;
    let said = client(None);
    assert!(said.starts_with(&format!("from {}", 3 << 20)), "{said}");
    assert!(said.ends_with(&format!("at {}", content.len())), "{said}");
    assert_content(&world, "stock.qcow2", "qcow2", 8);
    let volume = world.client.get(format!("{POOL}/volumes/stock.qcow2")).await;
    assert_eq!(volume.data()["format"], "qcow2");
    world.finish().await;
}

fn vapor(world: &World, words: &[&str]) -> (Option<i32>, String, String) {
    let output = Command::new(env!("CARGO_BIN_EXE_vapor"))
        .args(words)
        .env("VAPOR_SOCKET", &world.daemon.settings().socket)
        .output()
        .expect("vapor runs");
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    (output.status.code(), text(&output.stdout), text(&output.stderr))
}

#[tokio::test(flavor = "multi_thread")]
async fn an_upload_of_the_command_line_goes_on_after_the_daemon_was_killed() {
    let Some(mut world) = World::start("clikill").await else { return };
    let folder = world.daemon.settings().folder.clone();
    let content = bytes(12, 512 << 20);
    let file = folder.join("big.img");
    std::fs::write(&file, &content).unwrap();
    let mut upload = Command::new(env!("CARGO_BIN_EXE_vapor"))
        .args(["volume", "upload", &file.display().to_string(), "lab", "-o", "json"])
        .env("VAPOR_SOCKET", &world.daemon.settings().socket)
        .stdout(Stdio::piped())
        .spawn()
        .expect("vapor runs");
    let client = &world.client;
    eventually("a part has arrived", SOON, async || {
        let uploads = client.get(format!("{POOL}/volumes/uploads")).await;
        (uploads.data()["uploads"][0]["offset_bytes"].as_u64()? > 1 << 20).then_some(())
    })
    .await;
    assert!(upload.try_wait().expect("its state").is_none(), "it is over already");
    world.daemon.kill9();
    // it finds nobody there at the first look, nor at the next one; and a download leaves no file
    let absent = vapor(
        &world,
        &["volume", "download", "lab/big.img", &folder.join("no").display().to_string()],
    );
    assert_eq!(absent.0, Some(5), "{absent:?}");
    assert!(!folder.join("no").exists());
    tokio::time::sleep(Duration::from_secs(3)).await;
    assert!(upload.try_wait().expect("its state").is_none(), "it has given up");
    world.daemon.start_again().await;
    let ended = upload.wait_with_output().expect("it ends");
    assert!(ended.status.success(), "{ended:?}");
    let result: Value = serde_json::from_slice(&ended.stdout).expect("JSON");
    assert_eq!(result["sha256"], super::images::sha256(&content));
    world.finish().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_an_upload_of_the_command_line_is_refused_for_is_told_although_much_follows() {
    let Some(world) = World::start("clirefuse").await else { return };
    let folder = world.daemon.settings().folder.clone();
    let file = folder.join("overlay.qcow2").display().to_string();
    let overlay = ["create", "-q", "-f", "qcow2", "-F", "raw", "-b", "/etc/passwd", &file, "8M"];
    run(Command::new("qemu-img").args(overlay));
    let opened = std::fs::OpenOptions::new().write(true).open(&file).unwrap();
    opened.set_len(64 << 20).unwrap();
    let ran = vapor(&world, &["volume", "upload", &file, "lab"]);
    assert_eq!(ran.0, Some(1), "{ran:?}");
    assert!(ran.2.contains("the image has a backing file"), "{ran:?}");
    assert!(!world.lab.volumes().contains(&"overlay.qcow2".to_owned()));
    world.finish().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_command_line_uploads_downloads_and_imports() {
    let Some(world) = World::start("cliup").await else { return };
    let folder = world.daemon.settings().folder.clone();
    let path = |name: &str| folder.join(name).display().to_string();
    let content = bytes(11, (40 << 20) + 77);
    std::fs::write(path("big.img"), &content).unwrap();
    let ran = vapor(&world, &["volume", "upload", &path("big.img"), "lab"]);
    assert_eq!(ran.0, Some(0), "{ran:?}");
    assert!(ran.1.starts_with("lab/big.img is uploaded (40 MiB, raw)"), "{ran:?}");
    let again = vapor(&world, &["volume", "upload", &path("big.img"), "lab"]);
    assert_eq!(again.0, Some(4), "{again:?}");

    let copy = path("copy.img");
    let words = ["volume", "download", "lab/big.img", &copy];
    let ran = vapor(&world, &words);
    assert_eq!(ran.0, Some(0), "{ran:?}");
    assert!(std::fs::read(&copy).unwrap() == content, "the bytes differ");
    assert_eq!(vapor(&world, &words).0, Some(1), "it writes over a file");
    let file = std::fs::OpenOptions::new().write(true).open(&copy).unwrap();
    file.set_len(12_345_678).unwrap();
    let ran = vapor(&world, &[&words[..], &["--resume"]].concat());
    assert_eq!(ran.0, Some(0), "{ran:?}");
    assert!(std::fs::read(&copy).unwrap() == content, "the bytes differ");
    let ran = vapor(&world, &[&words[..], &["--resume"]].concat());
    assert_eq!(ran.0, Some(0), "{ran:?}");
    let missing = vapor(&world, &["volume", "download", "lab/no.img", &path("no")]);
    assert_eq!(missing.0, Some(3), "{missing:?}");
    assert!(!folder.join("no").exists());

    // an upload that somebody else began is gone on with
    let reply = world
        .client
        .call("POST", format!("{POOL}/volumes/uploads"))
        .header("tus-resumable", "1.0.0")
        .header("upload-length", &content.len().to_string())
        .header("upload-metadata", &super::tus::metadata(&[("filename", "half.img")]))
        .header("content-type", "application/offset+octet-stream")
        .bytes(content[..1_000_000].to_vec())
        .send()
        .await;
    assert_eq!(reply.status, 201, "{reply:?}");
    assert_eq!(reply.header("upload-offset"), Some("1000000"));
    let words = ["volume", "upload", &path("big.img"), "lab/half.img", "--resume"];
    let ran = vapor(&world, &[&words[..], &["-o", "json"]].concat());
    assert_eq!(ran.0, Some(0), "{ran:?}");
    let result: Value = serde_json::from_str(&ran.1).expect("JSON");
    assert_eq!(result["sha256"], super::images::sha256(&content));

    let vmdk = image(&folder, "vmdk", 8, &[]);
    std::fs::write(path("a.vmdk"), vmdk).unwrap();
    let ran = vapor(&world, &["volume", "upload", &path("a.vmdk"), "lab"]);
    assert_eq!(ran.0, Some(0), "{ran:?}");
    let words = ["volume", "import", "lab/a.vmdk", "a.qcow2", "--remove-source"];
    let ran = vapor(&world, &words);
    assert_eq!(ran.0, Some(0), "{ran:?}");
    assert_content(&world, "a.qcow2", "qcow2", 8);
    assert!(!world.lab.volumes().contains(&"a.vmdk".to_owned()));
    world.finish().await;
}
