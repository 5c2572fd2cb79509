//! What is in the packages, told by the distributions' own tools.

use std::fs;
use std::path::Path;
use std::process::Command;

use crate::support::lab::run;
use crate::support::package::{VERSION, binaries, build, oldest_release, package, root, tools};

/// What everybody who installs Vapor finds, whatever the distribution.
const EVERYWHERE: [&str; 18] = [
    "/etc/vapor/vapor.conf",
    "/usr/bin/vapor",
    "/usr/bin/vapord",
    "/usr/lib/systemd/system/vapord.service",
    "/usr/lib/systemd/system/vapord.socket",
    "/usr/lib/sysusers.d/vapor.conf",
    "/usr/lib/tmpfiles.d/vapor.conf",
    "/usr/share/polkit-1/rules.d/60-vapor.rules",
    "/usr/share/bash-completion/completions/vapor",
    "/usr/share/fish/vendor_completions.d/vapor.fish",
    "/usr/share/man/man8/vapord.8.gz",
    "/usr/share/man/man5/vapor.conf.5.gz",
    "/usr/share/man/man1/vapor.1.gz",
    "/usr/share/man/man1/vapor-vm-create.1.gz",
    "/usr/share/vapor/grafana/vapor.json",
    "/usr/share/doc/vapor/openapi.json",
    "/usr/share/doc/vapor/operations.md",
    "/usr/share/doc/vapor/security.md",
];

#[test]
fn the_deb_has_what_it_should_and_lintian_agrees() {
    if !tools(&["dpkg-deb", "dpkg-shlibdeps", "lintian", "strip"]) {
        return;
    }
    let deb = package("deb", VERSION);
    let listed = run(Command::new("dpkg-deb").arg("-c").arg(&deb));
    for path in EVERYWHERE.iter().chain(&["/usr/share/zsh/vendor-completions/_vapor"]) {
        assert!(listed.lines().any(|line| line.ends_with(&format!(" .{path}"))), "{path}");
    }
    assert!(listed.lines().all(|line| line.contains(" root/root ")), "{listed}");
    let field = |name| run(Command::new("dpkg-deb").arg("-f").arg(&deb).arg(name));
    let depends = field("Depends");
    for library in ["libc6 (>= 2.", "libvirt0 (>= ", "libsystemd0 (>= "] {
        assert!(depends.contains(library), "{depends}");
    }
    assert!(field("Recommends").contains("libvirt-daemon-system"));
    let folder = tempfile::tempdir().expect("a folder");
    run(Command::new("dpkg-deb").arg("-e").arg(&deb).arg(folder.path()));
    let conffiles = fs::read_to_string(folder.path().join("conffiles")).expect("it has some");
    assert_eq!(conffiles, "/etc/vapor/vapor.conf\n");
    run(Command::new("lintian").args(["--fail-on", "error,warning"]).arg(&deb));
}

#[test]
fn the_rpm_has_what_it_should_and_rpmlint_agrees() {
    if !tools(&["rpmbuild", "rpm", "rpm2cpio", "cpio", "rpmlint", "strip"]) {
        return;
    }
    let file = package("rpm", VERSION);
    let query = |what: &[&str]| run(Command::new("rpm").arg("-qp").args(what).arg(&file));
    let listed = query(&["--list"]);
    for path in EVERYWHERE.iter().chain(&["/usr/share/zsh/site-functions/_vapor"]) {
        assert!(listed.lines().any(|line| line == *path), "{path}");
    }
    assert_eq!(query(&["--configfiles"]), "/etc/vapor/vapor.conf");
    let requires = query(&["--requires"]);
    for needed in ["libvirt.so.0()(64bit)", "libsystemd.so.0()(64bit)", "systemd >= 249"] {
        assert!(requires.lines().any(|line| line == needed), "{requires}");
    }
    let scripts = query(&["--scripts"]);
    for command in ["systemd-sysusers vapor.conf", "try-restart vapord.service", "preset vapord"] {
        assert!(scripts.contains(command), "{scripts}");
    }
    run(Command::new("rpmlint")
        .arg("-c")
        .arg(root().join("packaging/rpm/rpmlint.toml"))
        .arg(&file));

    // Its files into a folder, with a database of packages there; scripts want a system.
    let folder = tempfile::tempdir().expect("a folder");
    let base = folder.path().to_str().expect("it is UTF-8");
    run(Command::new("rpm").args(["--root", base, "--initdb"]));
    run(Command::new("rpm")
        .args(["--root", base, "--install", "--nodeps", "--noscripts", "--ignorearch"])
        .arg(&file));
    assert_eq!(
        run(Command::new("rpm").args(["--root", base, "--verify", "--nodeps", "vapor"])),
        "",
        "what was installed is what is in it"
    );
    let installed = Path::new(base).join("usr/bin/vapor");
    assert!(run(Command::new(installed).arg("--version")).starts_with("vapor "));
}

#[test]
fn the_same_binaries_make_the_same_packages() {
    if !tools(&["dpkg-deb", "dpkg-shlibdeps", "rpmbuild", "strip"]) {
        return;
    }
    let again = tempfile::tempdir().expect("a folder");
    run(&mut build(again.path(), VERSION, &["deb", "rpm"]));
    for kind in ["deb", "rpm"] {
        let first = package(kind, VERSION);
        let second = again.path().join(first.file_name().expect("it has a name"));
        let same = fs::read(&first).expect("it is there") == fs::read(second).expect("it is there");
        assert!(same, "two {kind} of the same binaries differ");
    }
}

/// A version as numbers, to be compared.
fn numbers(version: &str) -> Vec<u32> {
    version.split('.').map(|part| part.parse().expect("a number")).collect()
}

/// The versions of symbols that a binary asks of its libraries: `GLIBC`, `2.34`.
fn versions(binary: &Path) -> Vec<(String, Vec<u32>)> {
    let table = run(Command::new("objdump").arg("-T").arg(binary));
    let undefined = table.lines().filter(|line| line.contains("*UND*"));
    let tags = undefined.filter_map(|line| line.split(['(', ')']).nth(1));
    tags.filter_map(|tag| {
        let (library, version) = tag.rsplit_once('_')?;
        version.starts_with(|c: char| c.is_ascii_digit()).then_some(())?;
        Some((library.to_owned(), numbers(version)))
    })
    .collect()
}

#[test]
fn nothing_newer_is_linked_than_the_oldest_supported_systems_have() {
    if !tools(&["objdump"]) {
        return;
    }
    // libvirt of Debian 12; the C library and systemd of RHEL 9 and Ubuntu 22.04.
    let oldest = [
        ("LIBVIRT", "9.0.0"),
        ("LIBVIRT_QEMU", "9.0.0"),
        ("LIBVIRT_LXC", "9.0.0"),
        ("GLIBC", "2.34"),
        ("LIBSYSTEMD", "249"),
    ];
    for name in ["vapord", "vapor"] {
        let versions = versions(&binaries().join(name));
        assert!(versions.iter().any(|(library, _)| library == "GLIBC"), "{name}: {versions:?}");
        assert_eq!(versions.iter().any(|(library, _)| library == "LIBVIRT"), name == "vapord");
        for (library, version) in versions {
            let bound = oldest.iter().find(|(known, _)| *known == library);
            let Some((_, bound)) = bound else { continue };
            // What is linked on a newer release wants its C library, and is for that release.
            if library == "GLIBC" && oldest_release() != "bookworm" {
                continue;
            }
            assert!(version <= numbers(bound), "{name} wants {library} {version:?}");
        }
    }
}
