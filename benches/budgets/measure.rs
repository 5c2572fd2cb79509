//! The measurements, each of which fills rows of the table.

use std::io::Write;
use std::path::Path;
use std::sync::mpsc;
use std::time::{Duration, Instant, SystemTime};

use rusqlite::{Connection, OpenFlags, OptionalExtension};
use serde_json::{Value, json};
use virt::connect::Connect;
use virt::domain::Domain;
use virt::sys;

use super::DOMAINS;
use super::client::{Client, Failure};
use super::host::{Lab, Python, Vapord, bare_guest, run, tiny_guest};
use super::report::{Report, Times, number};

const VMS: &str = "/api/v1/virtualization/virtualmachines";

/// A thing that should happen and has not after this long is a failure of the run.
const PATIENCE: Duration = Duration::from_secs(30);

/// Start to ready: with a database that knows nothing, then thrice with one that does.
pub fn starts(report: &mut Report, folder: &Path, uri: &str) -> Result<Vapord, Failure> {
    let mut vapord = Vapord::start(folder, uri)?;
    let fresh = vapord.ready_after;
    let mut times = Times::default();
    for _ in 0..3 {
        vapord.stop()?;
        vapord = Vapord::start(folder, uri)?;
        times.add(vapord.ready_after);
    }
    let more = format!("of 3; with an empty database {} ms", number(fresh.as_secs_f64() * 1e3));
    let what = format!("start to ready with {DOMAINS} domains");
    report.at_most(&what, 500.0, "ms", times.median(), &more);
    let known = vapord.client()?.get(&format!("{VMS}?limit=1"))?.expect(200)?.json()?;
    if known["data"]["total"] != DOMAINS {
        return Err(format!("vapord is ready and knows {} VMs", known["data"]["total"]).into());
    }
    Ok(vapord)
}

/// What clients ask most, beside what the peers take for the same.
pub fn reads(
    report: &mut Report,
    vapord: &Vapord,
    lab: &Lab,
    python: &mut Python,
) -> Result<(), Failure> {
    let mut client = vapord.client()?;
    let list = format!("{VMS}?limit={DOMAINS}");
    // Warm: allocator, connection, caches of the processor.
    for number in 0..200 {
        client.get(&format!("{VMS}/bench-{number:04}"))?.expect(200)?;
    }
    for _ in 0..20 {
        client.get(&list)?.expect(200)?;
    }
    let one = times(5_000, |round| {
        // Every VM in turn, in no order that a cache would like.
        let number = round * 617 % DOMAINS;
        Ok(client.get(&format!("{VMS}/bench-{number:04}"))?.expect(200)?.took)
    })?;
    report.at_most(
        &format!("GET one VM of {DOMAINS}, p99"),
        1.0,
        "ms",
        one.percentile(99.0),
        &one.summary(),
    );
    let whole = client.get(&list)?.expect(200)?;
    let (etag, size) = (whole.etag.clone(), whole.body.len());
    let count = whole.json()?["data"]["count"].clone();
    if count != DOMAINS {
        return Err(format!("the list has {count} VMs").into());
    }
    let full = times(300, |_| Ok(client.get(&list)?.expect(200)?.took))?;
    let more = format!("{}; {} KiB", full.summary(), size / 1024);
    let p99 = full.percentile(99.0);
    report.at_most(&format!("GET list of {DOMAINS} full VMs, p99"), 5.0, "ms", p99, &more);
    let headers = format!("if-none-match: {etag}\r\n");
    let unchanged =
        times(3_000, |_| Ok(client.send("GET", &list, &headers, "")?.expect(304)?.took))?;
    report.at_most(
        "an unchanged list with If-None-Match: 304, p99",
        0.5,
        "ms",
        unchanged.percentile(99.0),
        &unchanged.summary(),
    );
    let metrics = times(100, |_| Ok(client.get("/metrics")?.expect(200)?.took))?;
    let p99 = metrics.percentile(99.0);
    let what = format!("/metrics for {DOMAINS} domains, p99");
    report.at_most(&what, 50.0, "ms", p99, &metrics.summary());

    let listing = python.number(json!(["listing", 5]), "median_ms")?;
    let bulk = python.number(json!(["bulk", 5]), "median_ms")?;
    let virsh = lab.virsh(5, &["list", "--all"])?;
    let stats = lab.virsh(3, &["domstats", "--nowait"])?;
    let median = full.median();
    report.at_least(
        "the list, faster than python-libvirt's listing with info and XML",
        50.0,
        listing / median,
        &format!("{} ms to {} ms, medians", number(listing), number(median)),
    );
    report.at_least(
        "the list, faster than virsh list --all",
        20.0,
        virsh / median,
        &format!("{} ms to {} ms, medians", number(virsh), number(median)),
    );
    report.shown("python-libvirt: bulk statistics, median", "ms", bulk, "n 5");
    report.shown("virsh domstats --nowait, median", "ms", stats, "n 3");
    report.not_built(
        "/metrics with statistics of every running guest",
        "≤ 50 ms",
        "states, memory and vCPUs are there; no guest statistics yet",
    );
    Ok(())
}

fn times(
    rounds: usize,
    mut work: impl FnMut(usize) -> Result<Duration, Failure>,
) -> Result<Times, Failure> {
    let mut times = Times::default();
    for round in 0..rounds {
        times.add(work(round)?);
    }
    Ok(times)
}

/// libvirt as another client of it sees and changes it.
#[allow(clippy::disallowed_methods)] // the daemon's own rules; this URI has no NUL byte
fn other_client(lab: &Lab) -> Result<Connect, Failure> {
    Ok(Connect::open(Some(&lab.uri))?)
}

/// What another client changes: until it is in the event stream, the API and the database.
pub fn changes(
    report: &mut Report,
    vapord: &Vapord,
    lab: &Lab,
    database: &Path,
) -> Result<(), Failure> {
    let connect = other_client(lab)?;
    let names: Vec<String> = (0..8).map(|number| format!("bench-{number:04}")).collect();
    let domains = names
        .iter()
        .map(|name| connect.lookup_domain_by_name(name))
        .collect::<Result<Vec<_>, _>>()?;
    let mut stream = vapord.client()?.events("?kind=vm.*")?;
    let (seen, seen_at) = mpsc::channel();
    std::thread::spawn(move || {
        while let Ok((event, at)) = stream.next() {
            if seen.send((event, at)).is_err() {
                break;
            }
        }
    });
    let mut peer = Python::watch(&lab.uri)?;
    let mut client = vapord.client()?;
    let database = Connection::open_with_flags(database, OpenFlags::SQLITE_OPEN_READ_ONLY)?;
    let describe = |round: usize| {
        let (name, text) = (&names[round % names.len()], format!("round {round}"));
        let kind = sys::VIR_DOMAIN_METADATA_DESCRIPTION as i32;
        let config = sys::VIR_DOMAIN_AFFECT_CONFIG;
        domains[round % names.len()]
            .set_metadata(kind, Some(&text), None, None, config)
            .map(|_| (name, text))
    };
    // First the events alone: a client that polls meanwhile would take the processor from them.
    let mut event = Times::default();
    for round in 0..150 {
        let (name, _) = describe(round)?;
        loop {
            let (said, when) = seen_at.recv_timeout(PATIENCE)?;
            if said["subject"]["name"] == name.as_str() && said["kind"] == "vm.metadata-changed" {
                // As another client of the same libvirt learns of the same event.
                let (theirs_name, theirs) = peer.event()?;
                if theirs_name != *name {
                    return Err(format!("the peer was told of {theirs_name}").into());
                }
                let ours = when.duration_since(SystemTime::UNIX_EPOCH)?.as_nanos();
                event.add_ms((ours as f64 - theirs as f64) / 1e6);
                break;
            }
        }
    }
    let (mut api, mut stored) = (Times::default(), Times::default());
    let pause = || std::thread::sleep(Duration::from_millis(1));
    for round in 150..250 {
        let before = generation(&mut client, &names[round % names.len()])?;
        let begun = Instant::now();
        let (name, text) = describe(round)?;
        while description(&mut client, name)? != text {
            if begun.elapsed() > PATIENCE {
                return Err("a change by another client is not seen".into());
            }
            pause();
        }
        api.add(begun.elapsed());
        while row_generation(&database, name)? <= before {
            if begun.elapsed() > PATIENCE {
                return Err("a change by another client is not stored".into());
            }
            pause();
        }
        stored.add(begun.elapsed());
    }
    report.at_most(
        "libvirt event → event stream client, p99",
        50.0,
        "ms",
        event.percentile(99.0),
        &format!("{}; after python-libvirt is told of the same event", event.summary()),
    );
    let (p99, more) = (api.percentile(99.0), api.summary());
    report.at_most("change by another client → API, p99", 1_000.0, "ms", p99, &more);
    let (p99, more) = (stored.percentile(99.0), stored.summary());
    report.at_most("change by another client → SQLite, p99", 1_000.0, "ms", p99, &more);
    Ok(())
}

fn vm(client: &mut Client, name: &str) -> Result<Value, Failure> {
    Ok(client.get(&format!("{VMS}/{name}"))?.expect(200)?.json()?["data"].take())
}

fn generation(client: &mut Client, name: &str) -> Result<u64, Failure> {
    Ok(vm(client, name)?["generation"].as_u64().unwrap_or_default())
}

fn description(client: &mut Client, name: &str) -> Result<String, Failure> {
    Ok(vm(client, name)?["description"].as_str().unwrap_or_default().to_owned())
}

fn row_generation(database: &Connection, name: &str) -> Result<u64, Failure> {
    let mut row = database.prepare_cached("SELECT generation FROM vm WHERE name = ?1")?;
    let generation: Option<i64> = row.query_row([name], |row| row.get(0)).optional()?;
    Ok(generation.and_then(|value| u64::try_from(value).ok()).unwrap_or_default())
}

/// The same guest started through Vapor and through python-libvirt, in turn.
pub fn guest_starts(
    report: &mut Report,
    vapord: &Vapord,
    lab: &Lab,
    python: &mut Python,
) -> Result<(), Failure> {
    let connect = other_client(lab)?;
    let name = "bench-start";
    let domain = connect.define_domain_xml(&bare_guest(name))?;
    let mut client = vapord.client()?;
    appears(&mut client, name)?;
    let (mut ours, mut theirs) = (Times::default(), Times::default());
    let begun = Instant::now();
    // A start takes a quarter of a second, give or take a tenth of that: few of them would tell
    // nothing of some milliseconds.
    const ROUNDS: usize = 60;
    for round in 0..=ROUNDS {
        for through_vapor in [round % 2 == 0, round % 2 == 1] {
            let took = if through_vapor {
                let action = format!("{VMS}/{name}/action");
                client.post(&action, r#"{"action":"start"}"#)?.expect(200)?.took.as_secs_f64() * 1e3
            } else {
                python.number(json!(["start", name]), "ms")?
            };
            // The first round warms the disk's and the processor's caches.
            if round > 0 {
                if through_vapor { ours.add_ms(took) } else { theirs.add_ms(took) }
            }
            // Vapor may not have seen yet that another client has started it.
            until(&mut client, name, "running")?;
            domain.destroy()?;
            until(&mut client, name, "shutoff")?;
        }
        if begun.elapsed() > Duration::from_secs(150) {
            break;
        }
    }
    let added = ours.middle() - theirs.middle();
    let spread = |times: &Times| {
        let (low, high) = (number(times.percentile(25.0)), number(times.percentile(75.0)));
        format!("{} ms ({low} to {high})", number(times.middle()))
    };
    let more = format!(
        "means of the middle half, and quartiles: {} through Vapor, {} through python-libvirt; n {} each",
        spread(&ours),
        spread(&theirs),
        ours.len()
    );
    report.at_most("what Vapor adds to virDomainCreate", 5.0, "ms", added, &more);
    // What it adds does not depend on how long QEMU takes: the same with calls that return at once.
    domain.create()?;
    until(&mut client, name, "running")?;
    let (ours, theirs) = quick_calls(&mut client, &domain, name)?;
    let more = format!("medians and quartiles {} and {}", spread(&ours), spread(&theirs));
    let added = ours.median() - theirs.median();
    report.shown("what Vapor adds to virDomainSuspend and Resume", "ms", added, &more);
    domain.destroy()?;
    domain.undefine()?;
    Ok(())
}

/// What a durable write costs on this disk: an operation makes two of them, before and after.
pub fn disk(report: &mut Report, folder: &Path) -> Result<(), Failure> {
    let mut file = std::fs::File::create(folder.join("fsync"))?;
    let page = [7_u8; 4096];
    let writes = times(200, |_| {
        let begun = Instant::now();
        file.write_all(&page)?;
        file.sync_data()?;
        Ok(begun.elapsed())
    })?;
    let more = format!("{}; an operation needs two", writes.summary());
    report.shown("one durable write of 4 KiB on this disk, median", "ms", writes.median(), &more);
    Ok(())
}

/// A running guest paused and resumed through Vapor, and by libvirt's own calls.
fn quick_calls(
    client: &mut Client,
    domain: &Domain,
    name: &str,
) -> Result<(Times, Times), Failure> {
    let (mut ours, mut theirs) = (Times::default(), Times::default());
    let action = format!("{VMS}/{name}/action");
    for _ in 0..30 {
        for word in ["pause", "resume"] {
            let body = format!(r#"{{"action":"{word}"}}"#);
            ours.add(client.post(&action, &body)?.expect(200)?.took);
        }
        let begun = Instant::now();
        domain.suspend()?;
        theirs.add(begun.elapsed());
        let begun = Instant::now();
        domain.resume()?;
        theirs.add(begun.elapsed());
        until(client, name, "running")?;
        // The picture may still be about to learn of the pause.
        std::thread::sleep(Duration::from_millis(30));
        until(client, name, "running")?;
    }
    Ok((ours, theirs))
}

fn appears(client: &mut Client, name: &str) -> Result<(), Failure> {
    let until = Instant::now() + PATIENCE;
    while client.get(&format!("{VMS}/{name}"))?.status != 200 {
        if Instant::now() > until {
            return Err(format!("{name} does not appear").into());
        }
        std::thread::sleep(Duration::from_millis(1));
    }
    Ok(())
}

fn until(client: &mut Client, name: &str, state: &str) -> Result<(), Failure> {
    let until = Instant::now() + PATIENCE;
    while vm(client, name)?["state"] != state {
        if Instant::now() > until {
            return Err(format!("{name} does not become {state}").into());
        }
        std::thread::sleep(Duration::from_millis(1));
    }
    Ok(())
}

/// From the agent's coming and going to what the API and the database say of the guest.
pub fn agent(
    report: &mut Report,
    vapord: &Vapord,
    lab: &Lab,
    database: &Path,
) -> Result<(), Failure> {
    let connect = other_client(lab)?;
    let name = "bench-agent";
    let domain = connect.define_domain_xml(&tiny_guest(name, &lab.guest_folder))?;
    let mut client = vapord.client()?;
    appears(&mut client, name)?;
    let database = Connection::open_with_flags(database, OpenFlags::SQLITE_OPEN_READ_ONLY)?;
    let mut stream = vapord.client()?.events("?kind=vm.*")?;
    let (mut api, mut stored) = (Times::default(), Times::default());
    for _ in 0..3 {
        domain.create()?;
        let connected = loop {
            let (event, _) = stream.next()?;
            if event["subject"]["name"] == name && event["kind"] == "vm.agent-connected" {
                break Instant::now();
            }
        };
        // On a busy machine a guest boots for longer than the daemon keeps an idle connection.
        client = vapord.client()?;
        let until = Instant::now() + PATIENCE;
        while vm(&mut client, name)?["runtimeDetails"]["hostname"] != name {
            if Instant::now() > until {
                return Err("the guest's name does not come into the API".into());
            }
            std::thread::sleep(Duration::from_millis(2));
        }
        api.add(connected.elapsed());
        while !row_runtime(&database, name)?.contains(&format!("\"hostname\":\"{name}\"")) {
            if Instant::now() > until {
                return Err("the guest's name does not come into the database".into());
            }
            std::thread::sleep(Duration::from_millis(2));
        }
        stored.add(connected.elapsed());
        domain.destroy()?;
        super::measure::until(&mut client, name, "shutoff")?;
    }
    domain.undefine()?;
    let most = |times: &Times| times.percentile(100.0);
    let what = "runtime change (guest agent connects) → runtimeDetails in the API, most";
    report.at_most(what, 1_000.0, "ms", most(&api), &api.summary());
    let what = "runtime change (guest agent connects) → SQLite, most";
    report.at_most(what, 1_000.0, "ms", most(&stored), &stored.summary());
    Ok(())
}

fn row_runtime(database: &Connection, name: &str) -> Result<String, Failure> {
    let mut row = database.prepare_cached("SELECT runtime FROM vm WHERE name = ?1")?;
    let text: Option<Option<String>> = row.query_row([name], |row| row.get(0)).optional()?;
    Ok(text.flatten().unwrap_or_default())
}

/// Everything else while one QEMU is stopped with SIGSTOP and calls to it hang.
pub fn hung_guest(report: &mut Report, vapord: &Vapord, lab: &Lab) -> Result<(), Failure> {
    let connect = other_client(lab)?;
    let name = "bench-hung";
    let domain = connect.define_domain_xml(&bare_guest(name))?;
    domain.create()?;
    let mut client = vapord.client()?;
    appears(&mut client, name)?;
    until(&mut client, name, "running")?;
    let process = lab.pid(name)?;
    run(std::process::Command::new("kill").args(["-STOP", &process]))?;
    // A call that holds the domain's job and will not end while QEMU is stopped.
    let mut holder = vapord.client()?;
    let action = format!("{VMS}/{name}/action");
    let held = "content-type: application/json\r\nprefer: respond-async\r\n";
    let accepted = holder.send("POST", &action, held, r#"{"action":"reset"}"#)?;
    let measured = while_hung(report, &mut client, accepted.status);
    run(std::process::Command::new("kill").args(["-CONT", &process]))?;
    measured?;
    domain.destroy()?;
    until(&mut client, name, "shutoff")?;
    domain.undefine()?;
    Ok(())
}

fn while_hung(report: &mut Report, client: &mut Client, status: u16) -> Result<(), Failure> {
    let metrics = times(100, |_| Ok(client.get("/metrics")?.expect(200)?.took))?;
    let more = format!("{}; a reset of it hangs (202: {})", metrics.summary(), status == 202);
    let p99 = metrics.percentile(99.0);
    report.at_most("/metrics while one QEMU is stopped with SIGSTOP, p99", 50.0, "ms", p99, &more);
    let one = times(1_000, |round| {
        Ok(client.get(&format!("{VMS}/bench-{:04}", round * 617 % DOMAINS))?.expect(200)?.took)
    })?;
    let what = "GET one VM meanwhile, p99";
    report.at_most(what, 1.0, "ms", one.percentile(99.0), &one.summary());
    let change = times(30, |round| {
        let body = format!(r#"{{"labels":{{"hung":"{round}"}}}}"#);
        let path = format!("{VMS}/bench-0600");
        let reply = client.send("PATCH", &path, "content-type: application/json\r\n", &body)?;
        Ok(reply.expect(200)?.took)
    })?;
    report.shown(
        "a change of another VM meanwhile, median",
        "ms",
        change.median(),
        &change.summary(),
    );
    Ok(())
}

/// What all this has left in memory.
pub fn memory(report: &mut Report, vapord: &Vapord) -> Result<(), Failure> {
    let resident = vapord.memory_mib("VmRSS")?;
    let most = vapord.memory_mib("VmHWM")?;
    let cpu = vapord.cpu_seconds()?;
    let more = format!("after all of the above; most {} MiB", number(most));
    let what = format!("resident memory with {DOMAINS} domains");
    report.at_most(&what, 40.0, "MiB", resident, &more);
    report.shown("processor time of vapord in all of the above", "s", cpu, "");
    Ok(())
}
