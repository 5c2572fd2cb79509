//! `make bench`: the budgets of docs/architecture.md, measured on a private libvirtd with 1,000
//! domains, beside python-libvirt and `virsh` in the same run.
//!
//! Nothing here fails because of a time: the table says what was promised and what was seen. The
//! exit status is 0 if everything could be measured.
//!
//! `cargo bench --bench budgets -- starts reads` measures these [`PARTS`] alone.
//! `VAPOR_BENCH_DAEMON=FILE` measures that vapord, such as one built before a change, in the place of
//! the one that was built with this.

mod client;
mod create;
mod host;
mod measure;
mod report;
mod transfer;
mod volumes;

use std::path::Path;
use std::process::ExitCode;
use std::time::Instant;

use client::Failure;
use host::{Lab, Python, Vapord};
use report::Report;

/// How many domains the budgets speak of.
const DOMAINS: usize = 1_000;

/// What can be measured, in this order.
const PARTS: [&str; 10] = [
    "starts",
    "reads",
    "changes",
    "guests",
    "creations",
    "agent",
    "hung",
    "memory",
    "transfers",
    "volumes",
];

/// The parts that were asked for.
struct Chosen(Vec<String>);

impl Chosen {
    /// All parts if none is named; an error names those there are.
    fn read(arguments: impl Iterator<Item = String>) -> Result<Chosen, Failure> {
        // cargo passes options of its own.
        let named: Vec<String> = arguments.filter(|word| !word.starts_with('-')).collect();
        match named.iter().find(|word| !PARTS.contains(&word.as_str())) {
            Some(word) => Err(format!("no part {word:?}; there are {}", PARTS.join(", ")).into()),
            None => Ok(Chosen(named)),
        }
    }

    fn has(&self, part: &str) -> bool {
        self.0.is_empty() || self.0.iter().any(|word| word == part)
    }

    /// Whether everything asked for stands in this list.
    fn only(&self, parts: &[&str]) -> bool {
        !self.0.is_empty() && self.0.iter().all(|word| parts.contains(&word.as_str()))
    }
}

fn main() -> ExitCode {
    let chosen = match Chosen::read(std::env::args().skip(1)) {
        Ok(chosen) => chosen,
        Err(error) => {
            eprintln!("{error}");
            return ExitCode::from(2);
        }
    };
    let begun = Instant::now();
    let mut report = Report::default();
    let outcome =
        if chosen.only(&["volumes"]) { volumes(&mut report) } else { bench(&mut report, &chosen) };
    if let Err(error) = &outcome {
        report.note(format!("the run ended early: {error}"));
    }
    report.machine("seconds", report::number(begun.elapsed().as_secs_f64()));
    let text = report.text();
    println!("\n{text}");
    if let Err(error) = write(&report, &text) {
        eprintln!("the report could not be written: {error}");
        return ExitCode::FAILURE;
    }
    match outcome {
        Ok(()) => ExitCode::SUCCESS,
        Err(_) => ExitCode::FAILURE,
    }
}

fn write(report: &Report, text: &str) -> Result<(), Failure> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("target/bench");
    std::fs::create_dir_all(&folder)?;
    std::fs::write(folder.join("report.txt"), text)?;
    std::fs::write(folder.join("report.json"), serde_json::to_vec_pretty(&report.json())?)?;
    println!("written: {}/report.{{txt,json}}", folder.display());
    Ok(())
}

fn volumes(report: &mut Report) -> Result<(), Failure> {
    step("lists of volumes");
    volumes::lists(report, tempfile::tempdir()?.path())
}

fn bench(report: &mut Report, chosen: &Chosen) -> Result<(), Failure> {
    if let Some(needed) = missing() {
        println!("skipped: needs {needed}");
        return Err(format!("needs {needed}").into());
    }
    step("a private libvirtd");
    let lab = Lab::start()?;
    let mut python = Python::start(&lab.uri)?;
    machine(report, &mut python)?;
    step(&format!("defining {DOMAINS} domains"));
    python.define(DOMAINS)?;
    let folder = tempfile::tempdir()?;
    let database = folder.path().join("vapor.db");
    step("starting vapord");
    let vapord = if chosen.has("starts") {
        measure::starts(report, folder.path(), &lab.uri)?
    } else {
        Vapord::start(folder.path(), &lab.uri)?
    };
    measure::disk(report, folder.path())?;
    if chosen.has("reads") {
        step("reads");
        measure::reads(report, &vapord, &lab, &mut python)?;
    }
    if chosen.has("changes") {
        step("events and changes");
        measure::changes(report, &vapord, &lab, &database)?;
    }
    if chosen.has("guests") {
        step("starting guests");
        measure::guest_starts(report, &vapord, &lab, &mut python)?;
    }
    if chosen.has("creations") {
        step("creating guests");
        create::creations(report, &vapord, &lab, &mut python)?;
    }
    if chosen.has("agent") {
        step("a guest and its agent");
        measure::agent(report, &vapord, &lab, &database)?;
    }
    if chosen.has("hung") {
        step("a hung guest");
        measure::hung_guest(report, &vapord, &lab)?;
    }
    if chosen.has("memory") {
        measure::memory(report, &vapord)?;
    }
    if chosen.has("transfers") {
        step("uploads and downloads");
        transfer::streams(report, &vapord, &lab)?;
    }
    vapord.stop()?;
    if chosen.has("volumes") { volumes(report) } else { Ok(()) }
}

fn step(what: &str) {
    eprintln!("… {what}");
}

/// What this machine lacks.
fn missing() -> Option<&'static str> {
    let there = |program: &str| {
        ["/usr/sbin", "/usr/bin", "/sbin", "/bin"]
            .iter()
            .any(|folder| Path::new(folder).join(program).exists())
    };
    ["libvirtd", "virsh", "qemu-system-x86_64", "python3", "dnsmasq"]
        .into_iter()
        .find(|program| !there(program))
}

fn machine(report: &mut Report, python: &mut Python) -> Result<(), Failure> {
    let versions = python.ask(serde_json::json!(["version"]))?;
    let version = |key: &str| {
        let number = versions[key].as_u64().unwrap_or_default();
        format!("{}.{}.{}", number / 1_000_000, number / 1000 % 1000, number % 1000)
    };
    let read = |path: &str| std::fs::read_to_string(path).unwrap_or_default().trim().to_owned();
    let cores = std::thread::available_parallelism().map_or(0, usize::from);
    report.machine("cores", cores.to_string());
    report.machine("kernel", read("/proc/sys/kernel/osrelease"));
    report.machine("libvirt", version("libvirt"));
    report.machine("QEMU", format!("{}, software emulation", version("hypervisor")));
    report.machine("load before", read("/proc/loadavg"));
    report.machine("domains", DOMAINS.to_string());
    let busy: f64 = read("/proc/loadavg")
        .split(' ')
        .next()
        .and_then(|load| load.parse().ok())
        .unwrap_or_default();
    if busy > cores as f64 * 0.5 {
        report.note(format!(
            "others kept this machine busy (load {busy} on {cores} cores): times are too long, \
             ratios hold better"
        ));
    }
    report.note("guests run in software emulation, in a private libvirtd without cgroups");
    report.note("times of vapord are round trips on its Unix socket, seen by a blocking client");
    Ok(())
}
