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
fn a_volume_lives_its_life_by_the_command_line() {
    let world = World::new();
    assert_eq!(world.ok("volume create default/base.qcow2 2G"), "default/base.qcow2 created\n");
    assert_eq!(world.json("volume show default/base.qcow2")["capacity_bytes"], 2_u64 << 30);
    world.ok("volume create default/top.qcow2 3072M --backing default/base.qcow2");
    assert_eq!(
        world.ok("volume clone default/base.qcow2 copy.qcow2"),
        "default/copy.qcow2 cloned from default/base.qcow2\n"
    );
    assert_eq!(
        world.ok("volume list default -o name"),
        "default/base.qcow2\ndefault/copy.qcow2\ndefault/top.qcow2\n"
    );
    let shown = world.ok("volume show default/base.qcow2");
    assert!(shown.contains("2 GiB") && shown.contains("default/top.qcow2"), "{shown}");
    let err = world.fails(4, "volume delete default/base.qcow2 --yes");
    assert!(err.contains("default/top.qcow2"), "{err}");
    let err = world.fails(3, "volume show default/bse.qcow2");
    assert!(err.contains("did you mean \"default/base.qcow2\"?"), "{err}");
    assert!(world.fails(2, "volume delete default/top.qcow2").contains("--yes"));
    assert!(world.fails(2, "volume wipe default/top.qcow2").contains("--yes"));
    let plan = world.ok("volume resize default/copy.qcow2 4G --dry-run");
    assert!(plan.contains("grows the volume default/copy.qcow2"), "{plan}");
    world.ok("volume delete default/top.qcow2 default/base.qcow2 default/copy.qcow2 --yes");
    assert_eq!(world.ok("volume list -o name"), "");
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

#[test]
fn the_database_is_copied_into_a_new_file_and_no_other() {
    let world = World::new();
    let copy = world.path("copy.db");
    let ran = world.vapor(&["db", "backup", &copy]);
    assert_eq!(ran.code, Some(0), "{ran:?}");
    let bytes = std::fs::read(&copy).unwrap();
    assert!(bytes.starts_with(b"SQLite format 3\0"));
    let told = world.fails(4, &format!("db backup {copy}"));
    assert!(told.contains("File exists"), "{told}");
    assert_eq!(std::fs::read(&copy).unwrap(), bytes);
}

#[test]
fn a_pool_lives_its_life_by_the_command_line() {
    let world = World::new();
    let plan = world.ok("pool create images --path /srv/images --dry-run");
    assert!(plan.contains("makes the folder /srv/images"), "{plan}");
    assert_eq!(world.ok("pool list -o name"), "default\n");
    let made = world.ok("pool create images --type dir --path /srv/images --mode 0750");
    assert_eq!(made, "images created and started\n");
    assert_eq!(world.ok("pool list -o name"), "default\nimages\n");
    let pool = world.json("pool show images");
    assert_eq!((&pool["state"], &pool["autostart"]), (&json!("running"), &json!(true)));
    assert_eq!(pool["target"]["permissions"]["mode"], "0750");
    let shown = world.ok("pool show images");
    for line in ["type:", "dir", "running", "/srv/images", "autostart:", "0750"] {
        assert!(shown.contains(line), "{line} is not in {shown}");
    }
    assert!(world.ok("pool show images -o yaml").contains("name: images\n"));
    assert!(world.ok("pool capacity images").contains("promised to them:"));
    assert_eq!(world.json("pool capacity images")["volumes_capacity_bytes"], 0);
    assert!(world.ok("pool list -o wide").contains("/srv/images"));

    assert_eq!(world.ok("pool update images --autostart no"), "images updated\n");
    assert_eq!(world.json("pool show images")["autostart"], false);
    assert!(world.fails(4, "pool update images --path /srv/other").contains("active"));
    assert_eq!(world.ok("pool stop images"), "images stopped\n");
    assert_eq!(world.ok("pool update images --path /srv/other"), "images updated\n");
    assert_eq!(world.json("pool show images")["target_path"], "/srv/other");
    assert_eq!(world.ok("pool start images"), "images started\n");
    assert_eq!(world.ok("pool refresh images default"), "images refreshed\ndefault refreshed\n");
    assert!(world.fails(4, "pool start images").contains("active"));
    assert!(world.fails(2, "pool update images").contains("nothing to change"));
    assert!(world.fails(3, "pool show imags").contains("did you mean \"images\"?"));

    assert!(world.fails(2, "pool delete images").contains("--yes"));
    assert_eq!(world.ok("pool delete images --yes"), "images deleted\n");
    assert_eq!(world.ok("pool list -o name"), "default\n");
    assert!(world.ok("task list").contains("pool.delete"));
}

#[test]
fn a_pool_is_made_of_a_file_and_of_options() {
    let world = World::new();
    let file = world.path("pool.json");
    let body = json!({"name": "nas", "type": "netfs", "start": false,
        "source": {"hosts": [{"name": "nas1"}], "dir": "/srv/vms"}, "target": {"path": "/srv/nas"}});
    fs::write(&file, body.to_string()).unwrap();
    assert_eq!(world.ok(&format!("pool create -f {file}")), "nas created\n");
    let pool = world.json("pool show nas");
    assert_eq!((&pool["type"], &pool["state"]), (&json!("netfs"), &json!("inactive")));
    assert_eq!(pool["source"]["hosts"], json!([{"name": "nas1", "port": null}]));
    let same = "pool create rbd1 --type rbd --host mon1:6789 --host mon2 --source-name vms \
                --auth ceph:admin:one --start no";
    assert_eq!(world.ok(same), "rbd1 created\n");
    let pool = world.json("pool show rbd1");
    assert_eq!(pool["source"]["hosts"][0], json!({"name": "mon1", "port": 6789}));
    assert_eq!(pool["source"]["auth"]["secret"]["usage"], "one");
    assert!(world.ok("pool show rbd1").contains("mon1 port 6789"));
    assert!(world.fails(2, "pool create x --type nonsense").contains("nonsense"));
    assert!(world.fails(1, "pool create x --path relative").contains("target.path"));
    assert!(world.fails(2, "pool create").contains("NAME"));
}

#[test]
fn networks_are_made_shown_changed_and_deleted() {
    let world = World::new();
    let line = "network create lab --subnet 10.201.60.0/24 --dhcp --host 10.201.60.10,52:54:00:00:00:01,db1 \
                --dns-host 10.201.60.10=db1.lab.example --domain lab.example --mtu 1400";
    assert!(world.ok(&format!("{line} --dry-run")).contains("10.201.60.254"));
    assert_eq!(world.ok(line), "lab created and started\n");
    assert_eq!(world.ok("network list -o name"), "default\nlab\n");
    let shown = world.ok("network show lab");
    for words in ["10.201.60.1/24", "10.201.60.2 - 10.201.60.254", "db1", "1400", "lab.example"] {
        assert!(shown.contains(words), "{words} in {shown}");
    }
    assert_eq!(world.json("network show lab")["ips"][0]["address"], "10.201.60.1/24");
    assert!(world.ok("network show lab -o yaml").contains("mtu: 1400"));
    assert_eq!(world.ok("network stop lab"), "lab stopped\n");
    assert!(world.fails(4, "network stop lab").contains("not active"));
    let change = "network update lab --add-host 10.201.60.11,52:54:00:00:00:02 --remove-host 10.201.60.10 --autostart no";
    assert_eq!(world.ok(change), "lab updated\n");
    let network = world.json("network show lab");
    assert_eq!(network["ips"][0]["dhcp"]["hosts"][0]["mac"], "52:54:00:00:00:02");
    assert_eq!(network["ips"][0]["dhcp"]["hosts"].as_array().map(Vec::len), Some(1));
    assert_eq!(network["autostart"], false);
    assert_eq!(world.ok("network start lab"), "lab started\n");
    assert_eq!(world.json("network ports lab")["ports"], json!([]));
    assert!(world.ok("network ports lab").starts_with("VM"));
    let clash = world.fails(4, "network create other --subnet 10.201.60.128/25");
    assert!(clash.contains("lab"), "{clash}");
    let file = world.path("network.json");
    fs::write(&file, json!({"name": "filed", "forward": {"mode": "isolated"}}).to_string())
        .unwrap();
    assert_eq!(world.ok(&format!("network create -f {file} --no-start")), "filed created\n");
    assert!(world.fails(3, "network show filled").contains("filed"));
    assert_eq!(world.ok("network start filed"), "filed started\n");
    assert_eq!(world.ok("network stop lab filed"), "lab stopped\nfiled stopped\n");
    // One that is not there stops no other.
    let missing = world.fails(3, "network delete lab filled filed --yes");
    assert!(missing.contains("\"filed\"?"), "{missing}");
    assert_eq!(world.ok("network list -o name"), "default\n");
}

#[test]
fn templates_are_told_by_their_nearest_name_and_deleted_one_by_one() {
    let world = World::new();
    let file = world.path("settings.json");
    fs::write(&file, json!({"memory": 64, "vcpus": 1}).to_string()).unwrap();
    assert_eq!(world.ok(&format!("template create golden -f {file}")), "golden created\n");
    assert!(world.fails(3, "template show goldne").contains("did you mean \"golden\"?"));
    assert!(world.fails(3, "template update glden --min-memory 64").contains("\"golden\"?"));
    assert!(world.fails(3, "template delete nosuch golden --yes").contains("nosuch"));
    assert_eq!(world.ok("template list -o name"), "");
}
