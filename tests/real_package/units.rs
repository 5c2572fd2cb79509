//! The units as systemd's own tools see them, without a system that runs.

use std::process::Command;

use crate::support::lab::run;
use crate::support::package::{root, tools};

/// What docs/security.md promises at most.
pub const EXPOSURE: f64 = 2.5;

/// The number at the end of `systemd-analyze security`.
pub fn exposure(told: &str) -> f64 {
    let line = told.lines().find(|line| line.contains("Overall exposure level"));
    let line = line.unwrap_or_else(|| panic!("no verdict in {told}"));
    let number = line.split_once(": ").and_then(|(_, rest)| rest.split_whitespace().next());
    number.and_then(|number| number.parse().ok()).unwrap_or_else(|| panic!("no number in {line}"))
}

#[test]
fn the_service_is_exposed_as_little_as_promised_and_each_point_is_explained() {
    if !tools(&["systemd-analyze"]) {
        return;
    }
    let unit = root().join("systemd/vapord.service");
    let told = run(Command::new("systemd-analyze")
        .args(["security", "--offline=true", "--no-pager"])
        .arg(&unit)
        .env("LC_ALL", "C.UTF-8"));
    let found = exposure(&told);
    assert!(found <= EXPOSURE, "{found}:\n{told}");
    let page = std::fs::read_to_string(root().join("docs/security.md")).expect("it is there");
    for line in told.lines().filter(|line| line.starts_with('✗')) {
        let setting = line.split_whitespace().nth(1).expect("a name");
        assert!(page.contains(&format!("`{setting}`")), "{setting} is not in docs/security.md");
    }
}
