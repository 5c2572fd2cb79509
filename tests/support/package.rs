//! Packages of the binaries under test, made once for all tests.

use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::SystemTime;

use nix::fcntl::{Flock, FlockArg};

use super::lab::{run, skip, there};

pub fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

/// The folder of the binaries under test, unless `VAPOR_TEST_BINARIES` names another, such as that of a
/// release build.
pub fn binaries() -> PathBuf {
    if let Some(folder) = std::env::var_os("VAPOR_TEST_BINARIES") {
        return fs::canonicalize(folder).expect("a folder of binaries");
    }
    let vapord = Path::new(env!("CARGO_BIN_EXE_vapord"));
    vapord.parent().expect("a binary lies in a folder").to_owned()
}

/// The version that packages have unless a test wants an older one.
pub const VERSION: &str = env!("CARGO_PKG_VERSION");

/// The oldest release of Debian that packages of this machine's binaries are for: they want at least the
/// C library that they were linked with.
pub fn oldest_release() -> &'static str {
    let release = fs::read_to_string("/etc/os-release").unwrap_or_default();
    let newer = release.lines().any(|line| line == "VERSION_CODENAME=trixie");
    if newer { "trixie" } else { "bookworm" }
}

/// What making a deb needs.
pub const DEB_TOOLS: [&str; 3] = ["dpkg-deb", "dpkg-shlibdeps", "strip"];

/// What packages are made of besides the binaries.
const INGREDIENTS: [&str; 5] = ["packaging", "systemd", "docs", "README.md", "vapor.conf.example"];

/// The latest change of a file or of anything in a folder.
fn changed(path: &Path) -> SystemTime {
    let metadata = fs::metadata(path).unwrap_or_else(|error| panic!("{path:?}: {error}"));
    let mut latest = metadata.modified().expect("Linux knows it");
    if metadata.is_dir() {
        for entry in fs::read_dir(path).expect("it is readable") {
            latest = latest.max(changed(&entry.expect("it is readable").path()));
        }
    }
    latest
}

/// Makes packages into `out`.
pub fn build(out: &Path, version: &str, kinds: &[&str]) -> Command {
    let mut command = Command::new("bash");
    command
        .arg(root().join("packaging/build.sh"))
        .args(["--fast", "--version", version, "--bin"])
        .arg(binaries())
        .arg("--out")
        .arg(out)
        .args(kinds)
        .env("SOURCE_DATE_EPOCH", "1700000000");
    command
}

/// Whether the tools are there; says so if not.
pub fn tools(needed: &[&str]) -> bool {
    let missing = needed.iter().find(|tool| !there(tool));
    if let Some(tool) = missing {
        skip(tool);
    }
    missing.is_none()
}

/// The package of this kind and version, made anew if anything in it is newer.
pub fn package(kind: &str, version: &str) -> PathBuf {
    let programs = binaries();
    let out =
        root().join("target/tmp/packages").join(programs.file_name().expect("a folder has a name"));
    fs::create_dir_all(&out).expect("a folder");
    let lock = File::create(out.join("lock")).expect("a lock file");
    let _turn = Flock::lock(lock, FlockArg::LockExclusive).map_err(|(_, error)| error);
    let file = match kind {
        "deb" => {
            let mut dpkg = Command::new("dpkg");
            format!("vapor_{version}-1_{}.deb", run(dpkg.arg("--print-architecture")))
        }
        _ => format!("vapor-{version}-1.{}.rpm", std::env::consts::ARCH),
    };
    let file = out.join(file);
    let programs = ["vapord", "vapor"].map(|name| changed(&binaries().join(name)));
    let others = INGREDIENTS.map(|name| changed(&root().join(name)));
    let latest = programs.into_iter().chain(others).max().expect("there are some");
    if !file.exists() || changed(&file) < latest {
        run(&mut build(&out, version, &[kind]));
    }
    file
}
