//! Whole command lines against a stand-in for the daemon. What the real one answers is held by
//! tests/cli.rs.

mod change;
mod stand_in;

use clap::{CommandFactory, Parser};
use serde_json::{Value, json};

use super::*;
use crate::model::{Task, Vm};
use stand_in::{Answer, accepted, data, error, run, run_with};

fn vm(name: &str) -> Value {
    let mut vm =
        Vm { name: name.to_owned(), memory: 2048, max_memory: 2048, vcpus: 2, ..Vm::default() };
    vm.max_vcpus = 2;
    vm.labels.insert("tier".to_owned(), "web".to_owned());
    serde_json::to_value(vm).unwrap()
}

const ID: &str = "01937a3e-0000-7000-8000-000000000001";

fn task(status: &str) -> Value {
    json!({"id": ID, "kind": "vm.stop", "status": status,
        "subject": {"type": "vm", "id": "u", "name": "web1"}, "principal": "unix:root",
        "request_id": "r", "created_at": "2026-11-21T01:00:00Z", "started_at": null,
        "finished_at": null, "progress": {"phase": "shutting down", "percent": null,
        "bytes_done": null, "bytes_total": null, "bytes_per_second": null, "eta_seconds": null},
        "cancellable": true, "parent": null, "result": null, "error": null})
}

fn plan(blockers: Value) -> Value {
    json!({"operation": "vm.delete", "subject": {"type": "vm", "id": "u", "name": "web1"},
        "changes": [{"field": "memory", "from": 2048, "to": 4096, "effect": "next_boot", "reason": "no balloon"}],
        "xml_diff": "-<a/>\n+<b/>\n", "side_effects": ["the volume default/web1.qcow2 is deleted"],
        "blockers": blockers})
}

fn vms(list: &[Value], next: Option<&str>) -> Answer {
    data(json!({"vms": list, "count": list.len(), "total": 2, "next": next}))
}

#[test]
fn a_list_is_a_table_of_all_pages() {
    let run = run(&["vm", "list"], |line, _| {
        if line.contains("cursor=c1") {
            vms(&[vm("db1")], None)
        } else {
            vms(&[vm("web1")], Some("c1"))
        }
    });
    assert_eq!(run.code, 0, "{}", run.err);
    assert_eq!(
        run.out,
        "NAME  STATE    VCPUS  MEMORY  ADDRESS  GUEST  UP\n\
         web1  shutoff      2   2 GiB  -        -       -\n\
         db1   shutoff      2   2 GiB  -        -       -\n"
    );
    assert_eq!(run.seen.len(), 2);
}

#[test]
fn filters_go_to_the_daemon_and_names_alone_come_back() {
    let run = run(
        &["vm", "ls", "web*", "--state", "running", "--label", "a=b", "-o", "name", "--limit", "5"],
        |_, _| vms(&[json!({"name": "web1"}), json!({"name": "x\u{1b}[2J"})], None),
    );
    assert_eq!(
        run.seen[0].line,
        "GET /api/v1/virtualization/virtualmachines?name=web%2A&state=running&label=a%3Ab&fields=name&limit=5"
    );
    assert_eq!(run.out, "web1\nx\\u{1b}[2J\n");
}

#[test]
fn json_is_the_apis_data_and_yaml_the_same() {
    let answer = |_: &str, _: usize| data(json!({"name": "we\u{9b}b", "n": [1, null]}));
    let json = run(&["vm", "show", "web1", "-o", "json"], answer);
    assert!(json.out.contains("\"we\\u009bb\""), "{}", json.out);
    assert_eq!(serde_json::from_str::<Value>(&json.out).unwrap()["name"], "we\u{9b}b");
    let yaml = run(&["-o", "yaml", "vm", "show", "web1"], answer);
    assert_eq!(yaml.out, "name: \"we\\u009bb\"\n\"n\":\n  - 1\n  - null\n");
}

#[test]
fn a_typo_is_answered_with_the_nearest_name() {
    let run = run(&["vm", "start", "wbe1"], |line, _| {
        if line.starts_with("GET") {
            vms(&[json!({"name": "db1"}), json!({"name": "web1"})], None)
        } else {
            error(404, "VM_NOT_FOUND", "no VM named \"wbe1\"")
        }
    });
    assert_eq!(run.code, 3);
    assert_eq!(run.err, "error: no VM named \"wbe1\"\nhint: did you mean \"web1\"?\n");
}

#[test]
fn a_quick_operation_is_one_exchange_with_a_key() {
    let run = run(&["vm", "start", "web1"], |_, _| data(vm("web1")));
    assert_eq!((run.code, run.out.as_str()), (0, "web1 started\n"));
    let seen = &run.seen[0];
    assert_eq!(seen.line, "POST /api/v1/virtualization/virtualmachines/web1/action");
    assert_eq!(seen.json(), json!({"action": "start", "force": false}));
    assert_eq!(seen.header("prefer"), Some("wait=1"));
    assert_eq!(seen.header("idempotency-key").map(str::len), Some(36));
}

#[test]
fn a_task_is_followed_to_its_end_with_progress_in_lines() {
    let run = run(&["vm", "stop", "web1", "--timeout", "60", "--progress"], |line, count| {
        if line.starts_with("POST") {
            accepted(&task("queued"))
        } else {
            data(task(if count < 4 { "running" } else { "succeeded" }))
        }
    });
    assert_eq!((run.code, run.out.as_str()), (0, "web1 stopped\n"), "{}", run.err);
    assert_eq!(run.seen[0].json(), json!({"action": "stop", "force": false, "timeout": 60}));
    assert_eq!(
        run.err,
        "vm.stop of \"web1\": queued\nvm.stop of \"web1\": shutting down\nvm.stop of \"web1\": succeeded\n"
    );
}

#[test]
fn a_task_that_fails_ends_with_the_code_of_its_error() {
    let run = run(&["vm", "stop", "web1"], |line, _| {
        let mut failed = task("failed");
        failed["error"] = json!({"code": "GUEST_TIMEOUT", "message": "\"web1\" did not stop within 60 s",
            "hint": "repeat with force=true, or with a longer timeout", "details": {}});
        if line.starts_with("POST") { accepted(&task("queued")) } else { data(failed) }
    });
    assert_eq!(run.code, 7);
    assert!(run.err.contains("did not stop within 60 s"), "{}", run.err);
    assert!(run.err.contains("hint: repeat with --force"), "{}", run.err);
}

#[test]
fn waiting_ends_at_the_time_that_was_asked_for_and_the_task_goes_on() {
    let run = run(&["vm", "stop", "web1", "--wait", "1"], |line, _| {
        if line.starts_with("POST") { accepted(&task("running")) } else { data(task("running")) }
    });
    assert_eq!(run.code, 7);
    assert!(run.err.contains(&format!("vapor task wait {ID}")), "{}", run.err);
    assert!(run.err.contains(&format!("vapor task cancel {ID}")), "{}", run.err);
}

#[test]
fn without_waiting_the_task_is_the_result() {
    let answer = |_: &str, _: usize| accepted(&task("queued"));
    let run1 = run(&["vm", "stop", "web1", "--no-wait", "-o", "name"], answer);
    assert_eq!((run1.code, run1.out), (0, format!("{ID}\n")));
    assert_eq!(run1.seen[0].header("prefer"), Some("respond-async"));
    let run2 = run(&["vm", "stop", "web1", "--no-wait"], answer);
    assert_eq!(run2.out, format!("vm.stop of \"web1\" goes on as task {ID}\n"));
}

#[test]
fn what_destroys_is_refused_without_a_terminal_and_nothing_is_sent() {
    for args in [
        &["vm", "delete", "web1"][..],
        &["vm", "force-stop", "web1"],
        &["vm", "reset", "web1"],
        &["vm", "xml", "set", "web1", "-f", "/dev/null"],
    ] {
        let run = run(args, |_, _| data(Value::Null));
        assert_eq!((run.code, run.seen.len()), (2, 0), "{args:?}: {}", run.err);
        assert!(run.err.contains("say --yes"), "{}", run.err);
    }
}

#[test]
fn a_delete_shows_what_goes_and_asks() {
    let answer = |line: &str, _: usize| {
        if line.contains("dry_run=true") {
            data(plan(json!([])))
        } else {
            Answer::Raw(204, "text/plain", String::new())
        }
    };
    let yes = run_with(Some("y\n"), &["vm", "delete", "web1", "--remove-disks"], answer);
    assert_eq!((yes.code, yes.out.as_str()), (0, "web1 deleted\n"), "{}", yes.err);
    assert!(yes.err.contains(
        "  - the volume default/web1.qcow2 is deleted\ndelete \"web1\" with its disks? [y/N]"
    ));
    assert_eq!(
        yes.seen[1].line,
        "DELETE /api/v1/virtualization/virtualmachines/web1?remove_disks=true"
    );
    let no = run_with(Some("\n"), &["vm", "delete", "web1"], answer);
    assert_eq!((no.code, no.seen.len()), (2, 1));
    assert!(no.err.contains("nothing was changed"));
}

#[test]
fn every_deletion_asks_for_each_with_its_plan_and_a_no_spares_only_that_one() {
    for (words, path) in [
        ("vm delete a b", "virtualmachines/b"),
        ("pool delete a b", "storages/pools/b"),
        ("volume delete p/a p/b", "storages/pools/p/volumes/b"),
        ("iso delete a b", "isos/b"),
        ("network delete a b", "networks/b"),
        ("template delete a b", "virtualmachines/templates/b"),
    ] {
        let words: Vec<&str> = words.split(' ').collect();
        let run = run_with(Some("n\ny\n"), &words, |line, _| {
            if line.contains("dry_run=true") {
                data(plan(json!([])))
            } else {
                Answer::Raw(204, "text/plain", String::new())
            }
        });
        let name = words.last().unwrap();
        assert_eq!((run.code, run.out), (2, format!("{name} deleted\n")), "{words:?}: {}", run.err);
        let asked = "  - the volume default/web1.qcow2 is deleted\ndelete ";
        assert_eq!(run.err.matches(asked).count(), 2, "{words:?}: {}", run.err);
        let deleted: Vec<_> =
            run.seen.iter().filter(|seen| !seen.line.contains("dry_run")).collect();
        assert_eq!(deleted.len(), 1, "{words:?}");
        assert_eq!(deleted[0].line, format!("DELETE /api/v1/virtualization/{path}"));
    }
}

#[test]
fn a_delete_that_would_be_refused_is_not_asked_about() {
    let blockers =
        json!([{"code": "VM_RUNNING", "message": "\"web1\" runs", "hint": "stop it first"}]);
    let run =
        run_with(Some("y\n"), &["vm", "delete", "web1"], move |_, _| data(plan(blockers.clone())));
    assert_eq!((run.code, run.seen.len()), (4, 1));
    assert!(run.err.contains("error: \"web1\" runs\nhint: stop it first\n"), "{}", run.err);
}

#[test]
fn a_dry_run_is_shown_and_its_blockers_decide_the_exit_code() {
    let free = run(&["vm", "delete", "web1", "--dry-run"], |_, _| data(plan(json!([]))));
    assert_eq!(free.code, 0, "{}", free.err);
    assert_eq!(
        free.out,
        "plan: vm.delete of \"web1\" (dry run, nothing is changed)\n\n\
         FIELD   FROM  TO    EFFECT\nmemory  2048  4096  next boot  no balloon\n\n\
         also:\n  - the volume default/web1.qcow2 is deleted\n"
    );
    assert!(free.seen[0].line.ends_with("?dry_run=true"));
    let wide =
        run(&["vm", "delete", "web1", "--dry-run", "-o", "wide"], |_, _| data(plan(json!([]))));
    assert!(wide.out.contains("\ndefinition:\n-<a/>\n+<b/>\n"), "{}", wide.out);
    let blockers = json!([{"code": "VM_BUSY", "message": "busy", "hint": "wait"}]);
    let blocked =
        run(&["vm", "delete", "web1", "--dry-run"], move |_, _| data(plan(blockers.clone())));
    assert_eq!(blocked.code, 4);
    assert!(
        blocked.out.ends_with("it would be refused:\n  - busy (VM_BUSY)\n    hint: wait\n"),
        "{}",
        blocked.out
    );
}

#[test]
fn of_several_vms_each_is_tried_and_the_first_failure_decides() {
    let run = run(&["vm", "start", "a", "b", "c"], |line, _| {
        if line.contains("/b/") {
            error(409, "VM_ALREADY_RUNNING", "\"b\" is running")
        } else {
            data(Value::Null)
        }
    });
    assert_eq!((run.code, run.out.as_str()), (4, "a started\nc started\n"));
}

#[test]
fn libvirt_that_is_away_has_a_code_of_its_own() {
    let run1 = run(&["vm", "start", "a"], |_, _| {
        error(503, "LIBVIRT_UNAVAILABLE", "libvirt does not answer")
    });
    assert_eq!(run1.code, 6);
    let health = json!({"status": "degraded", "version": "0.1.0", "started_at": "2026-11-21T01:00:00Z",
        "libvirt": {"uri": "qemu:///system", "connected": false, "since": "2026-11-21T01:00:00Z",
            "reason": "connection refused", "version": null, "hypervisor_version": null},
        "database": true, "vms": 3, "running_tasks": 0});
    let run2 = run(&["status"], move |_, _| data(health.clone()));
    assert_eq!(run2.code, 6);
    assert!(
        run2.out.contains("libvirt:        not connected to qemu:///system: connection refused\n"),
        "{}",
        run2.out
    );
}

#[test]
fn a_connection_that_breaks_is_tried_again_with_the_same_key() {
    let run =
        run(
            &["vm", "start", "web1"],
            |_, count| {
                if count == 1 { Answer::HangUp } else { data(vm("web1")) }
            },
        );
    assert_eq!(run.code, 0, "{}", run.err);
    assert_eq!(run.seen.len(), 2);
    assert_eq!(run.seen[0].header("idempotency-key"), run.seen[1].header("idempotency-key"));
}

#[test]
fn the_definition_leaves_byte_by_byte_and_comes_back_as_xml() {
    let xml = "<domain>\n  <name>w\u{9b}</name>\n</domain>\n";
    let shown = run(&["vm", "xml", "web1", "--inactive"], |_, _| {
        Answer::Raw(200, "application/xml", xml.to_owned())
    });
    assert_eq!(shown.out, xml);
    assert_eq!(
        shown.seen[0].line,
        "GET /api/v1/virtualization/virtualmachines/web1/xml?inactive=true"
    );
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("d.xml");
    std::fs::write(&file, xml).unwrap();
    let set = run(&["vm", "xml", "set", "web1", "--yes", "-f", file.to_str().unwrap()], |_, _| {
        data(vm("web1"))
    });
    assert_eq!((set.code, set.out.as_str()), (0, "web1 redefined\n"));
    assert_eq!(
        (set.seen[0].body.as_str(), set.seen[0].header("content-type")),
        (xml, Some("application/xml"))
    );
}

fn event(seq: u64, name: &str) -> String {
    let event = json!({"seq": seq, "time": "2026-11-21T01:00:00.5Z", "kind": "vm.started",
        "subject": {"type": "vm", "id": "u", "name": name}, "principal": null, "task": null,
        "data": {"detail": "booted"}});
    format!("id: {seq}\nevent: vm.started\ndata: {event}\n\n")
}

#[test]
fn a_watch_goes_on_where_the_connection_was_lost_and_tells_of_gaps() {
    let run =
        run(&["event", "watch", "--kind", "vm.*", "--since", "3", "--count", "2"], |_, count| {
            let gap = "event: gap\ndata: {\"from\":5,\"to\":8}\n\n".to_owned();
            let body = if count == 1 {
                event(4, "a\u{1b}")
            } else {
                gap + &event(9, "b") + &event(10, "c")
            };
            Answer::Raw(200, "text/event-stream", body)
        });
    assert_eq!(run.code, 0, "{}", run.err);
    assert_eq!(
        run.out,
        "     4  2026-11-21T01:00:00Z  vm.started                vm a\\u{1b}            detail=booted\n     \
         9  2026-11-21T01:00:00Z  vm.started                vm b                  detail=booted\n"
    );
    assert_eq!(run.seen[0].line, "GET /api/v1/events?kind=vm.%2A&since=3");
    assert_eq!(run.seen[0].header("accept"), Some("text/event-stream"));
    assert_eq!(run.seen[1].header("last-event-id"), Some("4"));
    assert!(run.err.contains("the events 5 to 8 are no longer kept"), "{}", run.err);
}

#[test]
fn any_request_can_be_sent_and_its_failure_is_an_exit_code() {
    let posted = run(&["api", "post", "tasks/1/cancel", "-d", "{\"a\":1}"], |_, _| {
        error(409, "TASK_FINISHED", "over")
    });
    assert_eq!(posted.code, 4);
    assert_eq!(posted.seen[0].line, "POST /api/v1/tasks/1/cancel");
    assert_eq!(posted.seen[0].body, "{\"a\":1}");
    assert!(posted.out.contains("TASK_FINISHED"), "{}", posted.out);
    let got = run(&["api", "GET", "/health"], |_, _| data(json!(1)));
    assert_eq!((got.seen[0].line.as_str(), got.code), ("GET /health", 0));
}

#[test]
fn tasks_show_their_error_and_logs_their_lines() {
    let log = json!({"log": [{"time": "2026-11-21T01:00:00Z", "message": "asked\u{7}"}]});
    let logged = run(&["task", "log", ID], move |_, _| data(log.clone()));
    assert_eq!(logged.out, "2026-11-21T01:00:00Z  asked\\u{7}\n", "{}", logged.err);
    let waited = run(&["task", "wait", ID], |_, _| {
        let mut failed = task("failed");
        failed["error"] =
            json!({"code": "LIBVIRT_REFUSED", "message": "no", "details": {}, "hint": ""});
        data(failed)
    });
    assert_eq!((waited.code, waited.out.as_str()), (1, "vm.stop of \"web1\" failed\n"));
    assert_eq!(waited.err, "error: no\n");
}

#[test]
fn nobody_at_the_socket_is_code_5() {
    let folder = tempfile::tempdir().unwrap();
    let socket = folder.path().join("none.sock");
    let cli = Cli::try_parse_from(["vapor", "--socket", socket.to_str().unwrap(), "vm", "list"]);
    assert_eq!(super::run(cli.unwrap()), 5);
}

#[test]
fn the_stand_ins_task_is_the_models() {
    serde_json::from_value::<Task>(task("running")).unwrap();
}

#[test]
fn the_command_line_is_sound_and_help_lists_every_exit_code() {
    let mut command = Cli::command();
    command.build();
    command.clone().debug_assert();
    let help = command.render_long_help().to_string();
    for code in ["  0  ", "  1  ", "  2  ", "  3  ", "  4  ", "  5  ", "  6  ", "  7  ", "130  "] {
        assert!(help.contains(code), "{code}");
    }
}

fn page(events: &[u64], next: u64, last: u64) -> Answer {
    let events: Vec<Value> = events
        .iter()
        .map(|seq| {
            serde_json::from_str(
                event(*seq, "a").lines().nth(2).unwrap().trim_start_matches("data: "),
            )
            .unwrap()
        })
        .collect();
    data(
        json!({"events": events, "count": events.len(), "total": last, "next": next.to_string(), "gap": null}),
    )
}

#[test]
fn without_a_beginning_the_newest_events_are_listed() {
    let run =
        run(
            &["event", "list", "--limit", "2", "--kind", "vm.*", "-o", "name"],
            |line, _| match line {
                line if line.contains("since=9007199254740991") => page(&[], 50, 50),
                line if line.contains("since=48") => page(&[50], 50, 50),
                line if line.contains("since=34") => page(&[35, 40, 50], 50, 50),
                other => panic!("{other}"),
            },
        );
    assert_eq!((run.code, run.out.as_str()), (0, "40\n50\n"), "{}", run.err);
}

#[test]
fn a_watch_without_a_beginning_starts_behind_the_newest_event() {
    let run = run(&["event", "watch", "--count", "1", "-o", "json"], |line, _| {
        if line.contains("since=9007199254740991") {
            page(&[], 50, 50)
        } else {
            Answer::Raw(200, "text/event-stream", event(51, "a"))
        }
    });
    assert_eq!(run.seen[1].line, "GET /api/v1/events?since=50");
    assert_eq!(serde_json::from_str::<Value>(&run.out).unwrap()["seq"], 51);
}

#[test]
fn an_edit_is_checked_against_the_version_it_began_with() {
    // the stand-in's editor turns old into new
    let run = run(&["vm", "xml", "edit", "web1", "--yes"], |line, _| {
        if line.starts_with("GET") && line.contains("/xml") {
            Answer::Raw(200, "application/xml", "<old/>".to_owned())
        } else {
            data(vm("web1"))
        }
    });
    assert_eq!((run.code, run.out.as_str()), (0, "web1 redefined\n"), "{}", run.err);
    let put = &run.seen[2];
    assert_eq!((put.body.as_str(), put.header("if-match")), ("<new/>", Some("\"v7\"")));
}

#[test]
fn versions_are_listed_shown_compared_and_gone_back_to() {
    let versions = || {
        let by_vapor = json!({"number": 2, "at": "2026-11-21T01:00:00Z", "by": "unix:ann",
            "task": ID, "operation": "vm.update", "bytes": 2048});
        let outside = json!({"number": 1, "at": "2026-11-21T00:00:00Z", "by": null, "task": null,
            "operation": null, "bytes": 1024});
        json!({"definitions": [by_vapor, outside], "count": 2, "total": 2, "next": null})
    };
    let listed = run(&["vm", "history", "web1"], move |_, _| data(versions()));
    assert!(listed.seen[0].line.contains("/virtualmachines/web1/definitions?"));
    let mut lines = listed.out.lines().map(|line| line.split_whitespace().collect::<Vec<_>>());
    assert_eq!(lines.next().unwrap(), ["VERSION", "AGE", "BY", "OPERATION"]);
    let second = lines.next().unwrap();
    assert_eq!((second[0], &second[2..]), ("2", &["unix:ann", "vm.update"][..]));
    let first = lines.next().unwrap();
    assert_eq!((first[0], &first[2..]), ("1", &["outside", "-"][..]));

    let content = json!({"number": 1, "at": "2026-11-21T00:00:00Z", "by": null, "task": null,
        "operation": null, "bytes": 9, "xml": "<domain/>\n"});
    let shown = run(&["vm", "history", "web1", "1"], move |_, _| data(content.clone()));
    assert_eq!(shown.out, "<domain/>\n");
    assert!(shown.seen[0].line.ends_with("/web1/definitions/1"), "{}", shown.seen[0].line);

    let two = run(&["vm", "diff", "web1", "1", "2"], |_, _| {
        data(json!({"from": 1, "to": 2, "diff": "-<a/>\n+<b/>\n"}))
    });
    assert_eq!((two.code, two.out.as_str()), (0, "-<a/>\n+<b/>\n"));
    assert!(two.seen[0].line.ends_with("/definitions/1/diff?to=2"), "{}", two.seen[0].line);
    let same =
        run(&["vm", "diff", "web1", "1"], |_, _| data(json!({"from": 1, "to": null, "diff": ""})));
    assert_eq!((same.code, same.out.as_str()), (0, ""));
    assert!(same.err.contains("no difference"), "{}", same.err);

    let mut waiting = vm("web1");
    waiting["pending"] = json!({"changes": [{"field": "memory", "running": 1, "next_boot": 2}]});
    let back = run(&["vm", "rollback", "web1", "1"], move |_, _| data(waiting.clone()));
    assert_eq!((back.code, back.out.as_str()), (0, "web1 rolled back to version 1\n"));
    assert!(back.err.contains("next boot"), "{}", back.err);
    assert!(back.seen[0].line.starts_with("POST /api/v1/virtualization/virtualmachines/web1/"));
    assert!(back.seen[0].line.ends_with("/definitions/1/rollback"), "{}", back.seen[0].line);
    let none = run(&["vm", "rollback", "web1", "7"], |_, _| {
        error(404, "DEFINITION_NOT_FOUND", "no version 7")
    });
    assert_eq!(none.code, 3, "{}", none.err);
    assert!(Cli::try_parse_from(["vapor", "vm", "rollback", "web1", "0"]).is_err());
}

#[test]
fn each_command_has_a_manual_page() {
    fn pages(command: &clap::Command, name: &str, found: &mut Vec<(String, String)>) {
        let about = command.get_about().map(ToString::to_string).unwrap_or_default();
        found.push((format!("{name}.1"), about));
        for below in command.get_subcommands().filter(|below| !below.is_hide_set()) {
            pages(below, &format!("{name}-{}", below.get_name()), found);
        }
    }
    let folder = tempfile::tempdir().unwrap();
    let written = run(&["man", &folder.path().display().to_string()], |_, _| data(json!(null)));
    assert_eq!((written.code, written.seen.len()), (0, 0), "{}", written.err);
    let mut expected = Vec::new();
    pages(&Cli::command(), "vapor", &mut expected);
    assert!(expected.len() > 50, "{expected:?}");
    for (page, about) in expected {
        let text = std::fs::read_to_string(folder.path().join(&page));
        let text = text.unwrap_or_else(|error| panic!("{page}: {error}"));
        assert!(!about.is_empty(), "{page} says nothing");
        let said = text.replace('\\', "");
        // Quotation marks are spelled in another way there.
        let plain = about.split(['\'', '"', '`', '\n']).next().unwrap();
        assert!(said.contains(plain), "{page} lacks {about:?}");
    }
}
