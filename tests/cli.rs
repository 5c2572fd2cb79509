//! The two binaries together: `vapor` against a `vapord` of its own on libvirt's test driver.

use std::fs;
use std::io::Read;
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use serde_json::{Value, json};
use tempfile::TempDir;

const NODE: &str = "<node>
  <domain type='test'>
    <name>web1</name><uuid>11111111-1111-4111-8111-111111111111</uuid>
    <memory>2097152</memory><vcpu>2</vcpu><os><type>hvm</type></os>
  </domain>
  <domain type='test' xmlns:test='http://libvirt.org/schemas/domain/test/1.0'>
    <name>db1</name><uuid>22222222-2222-4222-8222-222222222222</uuid>
    <memory>1048576</memory><vcpu>1</vcpu><os><type>hvm</type></os>
    <test:runstate>5</test:runstate>
  </domain>
  <network><name>default</name><bridge name='virbr9'/><forward mode='nat'/>
    <ip address='192.168.99.1' netmask='255.255.255.0'/></network>
  <pool type='dir'><name>default</name><target><path>/nowhere</path></target></pool>
</node>";

/// A daemon, its folder, and how it is called.
struct World {
    folder: TempDir,
    daemon: Option<Child>,
}

/// What a command line did.
#[derive(Debug)]
struct Ran {
    code: Option<i32>,
    out: String,
    err: String,
}

impl World {
    fn new() -> Self {
        Self::on("test://NODE")
    }

    /// A daemon on this libvirt; `NODE` stands for the node file's path.
    fn on(uri: &str) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let path = |name: &str| folder.path().join(name).display().to_string();
        fs::write(path("node.xml"), NODE).unwrap();
        let uri = uri.replace("NODE", &path("node.xml"));
        let config = format!(
            "[server]\nsocket = {:?}\n[database]\npath = {:?}\n[libvirt]\nuri = {uri:?}\n[log]\nlevel = \"warn\"\n",
            path("vapor.sock"),
            path("vapor.db"),
        );
        fs::write(path("vapor.conf"), config).unwrap();
        let mut world = World { folder, daemon: None };
        world.start();
        world
    }

    fn path(&self, name: &str) -> String {
        self.folder.path().join(name).display().to_string()
    }

    fn start(&mut self) {
        let daemon = Command::new(env!("CARGO_BIN_EXE_vapord"))
            .args(["--config", &self.path("vapor.conf")])
            .stdout(Stdio::null())
            .spawn()
            .unwrap();
        self.daemon = Some(daemon);
        let begin = Instant::now();
        loop {
            let ran = self.vapor(&["status"]);
            // libvirt's absence is what some tests want
            if matches!(ran.code, Some(0 | 6)) {
                return;
            }
            assert!(begin.elapsed() < Duration::from_secs(30), "vapord does not come: {ran:?}");
            std::thread::sleep(Duration::from_millis(50));
        }
    }

    /// Ends the daemon with a signal, and returns its exit code.
    fn stop(&mut self, signal: nix::sys::signal::Signal) -> Option<i32> {
        let mut daemon = self.daemon.take().unwrap();
        let id = nix::unistd::Pid::from_raw(i32::try_from(daemon.id()).unwrap());
        nix::sys::signal::kill(id, signal).unwrap();
        daemon.wait().unwrap().code()
    }

    fn command(&self, args: &[&str]) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_vapor"));
        command.args(args).env("VAPOR_SOCKET", self.path("vapor.sock")).stdin(Stdio::null());
        command
    }

    fn vapor(&self, args: &[&str]) -> Ran {
        ran(&mut self.command(args))
    }

    /// Runs what must succeed, and returns its output.
    fn ok(&self, line: &str) -> String {
        let ran = self.vapor(&line.split(' ').collect::<Vec<_>>());
        assert_eq!(ran.code, Some(0), "vapor {line}: {ran:?}");
        ran.out
    }

    /// Runs what must fail with this exit code, and returns what it says.
    fn fails(&self, code: i32, line: &str) -> String {
        let ran = self.vapor(&line.split(' ').collect::<Vec<_>>());
        assert_eq!(ran.code, Some(code), "vapor {line}: {ran:?}");
        ran.err
    }

    fn json(&self, line: &str) -> Value {
        serde_json::from_str(&self.ok(&format!("{line} -o json"))).unwrap()
    }
}

impl Drop for World {
    fn drop(&mut self) {
        if let Some(mut daemon) = self.daemon.take() {
            let _ = daemon.kill();
            let _ = daemon.wait();
        }
    }
}

fn ran(command: &mut Command) -> Ran {
    let output = command.output().unwrap();
    Ran {
        code: output.status.code(),
        out: String::from_utf8(output.stdout).unwrap(),
        err: String::from_utf8(output.stderr).unwrap(),
    }
}

#[test]
fn a_vm_lives_its_life_by_the_command_line() {
    let world = World::new();
    let created = world.ok(
        "vm create app --memory 512 --vcpus 1 --disk 1 --network default --label tier=web --start",
    );
    assert_eq!(created, "app created and started\n");
    assert_eq!(world.ok("vm list -o name"), "app\ndb1\nweb1\n");
    assert_eq!(world.ok("vm list --state running --label tier=web -o name"), "app\n");
    assert!(world.ok("volume list default").contains("app"), "the disk is listed");
    let shown = world.ok("vm show app");
    for line in ["state:", "running", "512 MiB", "labels:", "tier=web", "network default"] {
        assert!(shown.contains(line), "{line} is not in {shown}");
    }
    assert_eq!(world.ok("vm pause app"), "app paused\n");
    assert_eq!(world.ok("vm resume app"), "app resumed\n");
    assert_eq!(world.ok("vm update app --memory 256 --label stage=prod"), "app updated\n");
    let vm = world.json("vm show app");
    assert_eq!(vm["memory"], 256);
    assert_eq!(vm["labels"], json!({"stage": "prod", "tier": "web"}));
    world.ok("vm update app --remove-label tier");
    assert_eq!(world.json("vm show app")["labels"], json!({"stage": "prod"}));
    assert_eq!(world.ok("vm save app"), "app saved and stopped\n");
    assert_eq!(world.ok("vm restore app"), "app restored and running\n");
    assert_eq!(world.ok("vm restart app"), "app restarted\n");
    assert_eq!(world.ok("vm force-stop app --yes"), "app stopped\n");
}

#[test]
fn a_vm_goes_with_its_disks_when_that_is_said() {
    let world = World::new();
    world.ok("vm create app --memory 512 --vcpus 1 --disk 1 --start");
    assert!(world.ok("volume list -o name").contains("app"), "the disk is there");
    let plan = world.ok("vm delete app --remove-disks --force --dry-run");
    assert!(plan.contains("default/app"), "{plan}");
    assert_eq!(world.ok("vm delete app --remove-disks --force --yes"), "app deleted\n");
    assert_eq!(world.ok("vm list -o name"), "db1\nweb1\n");
    assert!(!world.ok("volume list -o name").contains("app"), "the disk is gone");
    let kinds = world.ok("task list");
    assert!(kinds.contains("vm.delete") && kinds.contains("vm.create"), "{kinds}");
}

#[test]
fn each_refusal_has_its_exit_code_and_says_what_to_do() {
    let world = World::new();
    let err = world.fails(3, "vm start wbe1");
    assert!(err.contains("did you mean \"web1\"?"), "{err}");
    let err = world.fails(3, "volume list defautl");
    assert!(err.contains("did you mean \"default\"?"), "{err}");
    assert!(world.fails(4, "vm start web1").starts_with("error: "));
    assert!(world.fails(4, "vm create web1 --memory 512 --vcpus 1").contains("exists"));
    assert!(world.fails(4, "vm delete web1 --yes").contains("runs"));
    let err = world.fails(1, "vm create x --memory 1 --vcpus 5000");
    assert!(err.contains("memory") && err.contains("vcpus"), "{err}");
    for line in
        ["vm delete web1", "vm force-stop web1", "vm reset web1", "vm xml set web1 -f /dev/null"]
    {
        assert!(world.fails(2, line).contains("--yes"), "{line}");
    }
    world.fails(2, "vm frobnicate");
    world.fails(3, "task show 00000000-0000-7000-8000-000000000000");
    world.fails(3, "api GET /no/such/path");
    assert_eq!(world.json("vm show web1")["state"], "running", "nothing of this has touched it");
}

#[test]
fn a_daemon_that_is_not_there_is_explained() {
    let mut world = World::new();
    assert_eq!(world.stop(nix::sys::signal::Signal::SIGKILL), None);
    let err = world.fails(5, "vm list");
    assert!(err.contains("not running"), "{err}");
    let _ = fs::remove_file(world.path("vapor.sock"));
    let err = world.fails(5, "vm list");
    assert!(err.contains("is vapord running?"), "{err}");
}

#[test]
fn a_socket_that_may_not_be_opened_is_explained() {
    if !nix::unistd::geteuid().is_root() {
        eprintln!("skipped: needs root");
        return;
    }
    let world = World::new();
    // a copy that others may run, wherever the build's folder is
    let copy = Path::new("/tmp").join(format!("vapor-test-{}", std::process::id()));
    fs::copy(env!("CARGO_BIN_EXE_vapor"), &copy).unwrap();
    let mut command = Command::new(&copy);
    command
        .args(["vm", "list"])
        .env("VAPOR_SOCKET", world.path("vapor.sock"))
        .uid(65534)
        .gid(65534);
    let ran = ran(&mut command);
    fs::remove_file(&copy).unwrap();
    assert_eq!(ran.code, Some(5), "{ran:?}");
    assert!(ran.err.contains("you may not open") && ran.err.contains("hint: "), "{ran:?}");
}

#[test]
fn libvirt_that_is_not_there_has_a_code_of_its_own() {
    let world = World::on("qemu+unix:///system?socket=/nonexistent/libvirt-sock");
    let ran = world.vapor(&["status"]);
    assert_eq!(ran.code, Some(6), "{ran:?}");
    assert!(ran.out.contains("not connected"), "{ran:?}");
    world.fails(6, "vm start web1");
}

#[test]
fn a_dry_run_shows_the_plan_and_changes_nothing() {
    let world = World::new();
    let before = world.json("vm show web1");
    let plan = world.ok("vm update web1 --memory 1024 --dry-run");
    assert!(plan.contains("memory") && plan.contains("2048") && plan.contains("1024"), "{plan}");
    let plan = world.json("vm delete web1 --force --dry-run");
    assert_eq!(plan["operation"], "vm.delete");
    let blocked = world.vapor(&["vm", "delete", "web1", "--dry-run"]);
    assert_eq!(blocked.code, Some(4), "{blocked:?}");
    assert!(blocked.out.contains("VM_RUNNING"), "{blocked:?}");
    world.ok("vm create app --memory 512 --vcpus 1 --disk 1 --dry-run");
    assert_eq!(world.ok("vm list -o name"), "db1\nweb1\n");
    assert_eq!(world.json("vm show web1"), before);
}

#[test]
fn every_format_shows_the_same() {
    let world = World::new();
    let table = world.ok("vm list");
    assert!(table.starts_with("NAME  STATE    VCPUS"), "{table}");
    let list = world.json("vm list");
    assert_eq!(
        (&list["count"], &list["total"], &list["next"]),
        (&json!(2), &json!(2), &Value::Null)
    );
    let api: Value =
        serde_json::from_str(&world.ok("api GET /virtualization/virtualmachines")).unwrap();
    assert_eq!(list, api["data"], "json is the API's data");
    assert!(world.ok("vm list -o yaml").starts_with("vms:\n  - uuid: \"22222222-"));
    assert!(world.ok("vm list -o wide").contains("11111111-1111-4111-8111-111111111111"));
    assert_eq!(world.json("vm list --limit 1")["vms"].as_array().map(Vec::len), Some(1));
    for noun in ["pool", "network"] {
        assert!(world.ok(&format!("{noun} list")).contains("default"), "{noun}");
        assert_eq!(world.ok(&format!("{noun} ls -o name")), "default\n");
    }
    assert!(world.ok("status").contains("connected to test://"));
    assert!(world.ok("completions bash").contains("_vapor"));
}

#[test]
fn a_definition_is_shown_replaced_and_edited() {
    let world = World::new();
    let xml = world.ok("vm xml db1");
    assert!(xml.starts_with("<domain"), "{xml}");
    let file = world.path("new.xml");
    fs::write(&file, xml.replace("<memory", "<description>by file</description><memory")).unwrap();
    assert_eq!(world.ok(&format!("vm xml set db1 -f {file} --yes")), "db1 redefined\n");
    assert_eq!(world.json("vm show db1")["description"], "by file");
    let mut command = world.command(&["vm", "xml", "edit", "db1", "--yes"]);
    let edited = ran(command
        .env("VISUAL", "sed -i 's/by file/by hand/'")
        .env("TMPDIR", world.folder.path()));
    assert_eq!((edited.code, edited.out.as_str()), (Some(0), "db1 redefined\n"), "{edited:?}");
    assert_eq!(world.json("vm show db1")["description"], "by hand");
    let mut command = world.command(&["vm", "xml", "edit", "db1", "--yes"]);
    let broken = ran(command
        .env("VISUAL", "sed -i 's/<domain/<domian/'")
        .env("TMPDIR", world.folder.path()));
    assert_eq!(broken.code, Some(1), "{broken:?}");
    assert!(broken.err.contains("what was edited is kept in"), "{broken:?}");
    let kept = fs::read_dir(world.folder.path()).unwrap().flatten();
    let kept: Vec<_> =
        kept.filter(|file| file.file_name().to_string_lossy().starts_with("vapor-")).collect();
    assert_eq!(kept.len(), 1, "the draft of what worked is gone, that of what did not is kept");
}

#[test]
fn a_watch_misses_nothing_while_the_daemon_is_started_anew() {
    let mut world = World::new();
    let mut watch = world
        .command(&[
            "event",
            "watch",
            "--kind",
            "vm.paused,vm.resumed",
            "--count",
            "4",
            "-o",
            "name",
        ])
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .spawn()
        .unwrap();
    // the watch begins behind the newest event, so it must have begun
    std::thread::sleep(Duration::from_millis(700));
    world.ok("vm pause web1");
    world.ok("vm resume web1");
    assert_eq!(world.stop(nix::sys::signal::Signal::SIGTERM), Some(0));
    world.start();
    world.ok("vm pause web1");
    world.ok("vm resume web1");
    let begin = Instant::now();
    while watch.try_wait().unwrap().is_none() {
        if begin.elapsed() > Duration::from_secs(30) {
            let _ = watch.kill();
        }
        std::thread::sleep(Duration::from_millis(50));
    }
    let mut seen = String::new();
    watch.stdout.take().unwrap().read_to_string(&mut seen).unwrap();
    let listed = world.ok("event list --kind vm.paused --kind vm.resumed --limit 4 -o name");
    assert_eq!(seen, listed, "what was watched is what there is");
    assert_eq!(seen.lines().count(), 4);
}

#[test]
fn several_vms_at_once_and_a_task_each() {
    let world = World::new();
    let mixed = world.vapor(&["vm", "start", "db1", "web1", "nobody"]);
    assert_eq!((mixed.code, mixed.out.as_str()), (Some(4), "db1 started\n"), "{mixed:?}");
    assert_eq!(world.ok("vm pause db1 web1"), "db1 paused\nweb1 paused\n");
    let id = world.ok("vm resume db1 --no-wait -o name");
    assert_eq!(world.ok(&format!("task wait {}", id.trim())), "vm.resume of \"db1\" succeeded\n");
    assert!(world.ok(&format!("task show {}", id.trim())).contains("succeeded"));
    world.ok(&format!("task log {}", id.trim()));
    assert!(world.fails(4, &format!("task cancel {}", id.trim())).contains("finished"));
    assert!(world.ok("task list --vm db1").contains("vm.resume"));
}
