//! Daemons in the sandbox of `systemd/vapord.service`, for a run of the real tests in a system with
//! systemd: `tests/lab/under_unit.sh`. Each is a unit of its own with every property of the packaged one
//! but those that say how it is started.

use std::path::{Path, PathBuf};
use std::process::Command;

use super::daemon::Settings;
use super::lab::run;
use super::package::root;

/// Set where every daemon has to run so.
pub fn wanted() -> bool {
    std::env::var_os("VAPOR_TEST_UNIT").is_some()
}

/// How the packaged unit is started, watched and where it keeps its data: a test has its own way.
const OWN: [&str; 11] = [
    "Type",
    "NotifyAccess",
    "ExecStart",
    "ExecReload",
    "Restart",
    "RestartSec",
    "RestartPreventExitStatus",
    "WatchdogSec",
    "StateDirectory",
    "StateDirectoryMode",
    "UMask",
];

/// The properties of its `[Service]` that confine it.
fn properties() -> Vec<String> {
    let unit = std::fs::read_to_string(root().join("systemd/vapord.service")).expect("the unit");
    let service = unit.split("[Service]").nth(1).expect("a service");
    let service = service.split("\n[").next().expect("its lines");
    let lines = service.lines().map(str::trim);
    let lines = lines.filter(|line| !line.is_empty() && !line.starts_with('#'));
    let is_own = |line: &&str| !OWN.contains(&line.split('=').next().unwrap_or_default());
    let properties: Vec<String> = lines.filter(is_own).map(Into::into).collect();
    for needed in ["User=vapor", "ProtectSystem=strict", "PrivateTmp=yes", "DevicePolicy=closed"] {
        assert!(properties.iter().any(|line| line == needed), "{needed}: {properties:?}");
    }
    properties
}

/// Runs this program with these settings as the unit of this name, until it ends.
pub fn command(name: &str, program: &str, settings: &Settings, log: &Path) -> Command {
    let config = settings.write();
    // Its own folder, which its user must own, and that of libvirt's socket, lie in the hidden /tmp.
    run(Command::new("chown").args(["-R", "vapor:vapor"]).arg(&settings.folder));
    let mut command = Command::new("systemd-run");
    command.args(["--quiet", "--wait", "--collect", "--unit", name, "--setenv=RUST_BACKTRACE=1"]);
    let mut say = |line: String| {
        command.arg("-p").arg(line);
    };
    properties().into_iter().for_each(&mut say);
    say("Type=exec".into());
    say(format!("ReadWritePaths={}", settings.folder.display()));
    for folder in std::iter::once(settings.folder.clone()).chain(socket_folder(&settings.uri)) {
        say(format!("BindPaths={}", folder.display()));
    }
    if let Some(process) = &settings.beside {
        say(format!("NetworkNamespacePath=/proc/{process}/ns/net"));
        say(format!("BindReadOnlyPaths={}:/sys", sys_beside(process)));
    }
    for output in ["StandardOutput", "StandardError"] {
        say(format!("{output}=append:{}", log.display()));
    }
    command.arg(program).arg("--config").arg(config);
    command
}

/// A `/sys` that shows the interfaces of this process's network: those of where it was mounted. It goes
/// with the container that all of this runs in.
fn sys_beside(process: &str) -> String {
    let folder = format!("/run/sys-beside-{process}");
    if !Path::new(&folder).exists() {
        std::fs::create_dir(&folder).expect("a folder");
        let net = format!("--net=/proc/{process}/ns/net");
        run(Command::new("nsenter").args([&net, "mount", "-t", "sysfs", "sysfs", &folder]));
    }
    folder
}

/// Where the socket of `qemu+unix:///system?socket=…` lies.
fn socket_folder(uri: &str) -> Option<PathBuf> {
    Some(Path::new(uri.split_once("socket=")?.1).parent()?.to_owned())
}

/// The daemon's process.
pub fn main_pid(name: &str) -> i32 {
    let pid = run(Command::new("systemctl").args(["show", "-P", "MainPID", name]));
    pid.parse().expect("a process id")
}
