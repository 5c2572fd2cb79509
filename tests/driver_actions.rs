//! Every action in every state, through HTTP, on libvirt's test driver: the reply must be the gate's
//! verdict, and the state afterwards the action's goal, or the same as before.

#[path = "support/driver.rs"]
mod driver;

use std::fmt::Write as _;

use driver::{VMS, World};
use http::Method;
use serde_json::{Value, json};
use vapor::model::{VmAction, VmState};
use vapor::service::gate::{Admission, Condition, Held, Work, admit};

/// libvirt's numbers of the states, for the test driver's node file.
const STATES: [(VmState, u8); 6] = [
    (VmState::Running, 1),
    (VmState::Paused, 3),
    (VmState::ShuttingDown, 4),
    (VmState::Shutoff, 5),
    (VmState::Crashed, 6),
    (VmState::Suspended, 7),
];

/// One VM to act on.
#[derive(Clone, Copy, Debug)]
struct Case {
    state: VmState,
    number: u8,
    action: VmAction,
    force: bool,
    saved: bool,
    transient: bool,
}

impl Case {
    fn name(self) -> String {
        let flag = |on: bool, word: &'static str| if on { word } else { "" };
        format!(
            "{}.{}{}{}{}",
            self.state.as_str(),
            self.action.as_str(),
            flag(self.force, ".force"),
            flag(self.saved, ".saved"),
            flag(self.transient, ".transient"),
        )
    }

    fn work(self) -> Work {
        Work::Action { action: self.action, force: self.force }
    }

    fn domain(self) -> String {
        let mut extra = String::new();
        if self.saved {
            extra.push_str("<test:hasmanagedsave>1</test:hasmanagedsave>");
        }
        if self.transient {
            extra.push_str("<test:transient>1</test:transient>");
        }
        let (name, number) = (self.name(), self.number);
        format!(
            "<domain type='test' xmlns:test='http://libvirt.org/schemas/domain/test/1.0'>\
             <name>{name}</name><memory>65536</memory><vcpu>1</vcpu><os><type>hvm</type></os>\
             <test:runstate>{number}</test:runstate>{extra}</domain>"
        )
    }
}

fn cases() -> Vec<Case> {
    let mut all = Vec::new();
    for (state, number) in STATES {
        for action in VmAction::ALL {
            for force in [false, true] {
                all.push(Case { state, number, action, force, saved: false, transient: false });
            }
            let one = Case { state, number, action, force: false, saved: false, transient: false };
            // What the test driver takes: saved states of stopped domains, transient ones that run.
            if state == VmState::Shutoff {
                all.push(Case { saved: true, ..one });
            }
            if state.is_active() {
                all.push(Case { transient: true, ..one });
            }
        }
    }
    all
}

fn node(cases: &[Case]) -> String {
    let domains = cases.iter().fold(String::new(), |mut all, case| {
        let _ = write!(all, "{}", case.domain());
        all
    });
    format!("<node>{domains}</node>")
}

/// The state that an admitted action leads to on the test driver, whose guests obey at once.
fn goal(action: VmAction, state: VmState) -> VmState {
    match action {
        // The reset button of a VM that is paused leaves it paused.
        VmAction::Reset => state,
        VmAction::Start
        | VmAction::Restart
        | VmAction::Reboot
        | VmAction::Resume
        | VmAction::RestoreSaved => VmState::Running,
        VmAction::Stop
        | VmAction::Shutdown
        | VmAction::ForceStop
        | VmAction::Destroy
        | VmAction::Save => VmState::Shutoff,
        VmAction::Pause | VmAction::Suspend => VmState::Paused,
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn every_action_in_every_state_answers_as_the_gate_decides() {
    let cases = cases();
    let world = World::on(&node(&cases)).await;
    let mut wrong = Vec::new();
    let (mut admitted, mut refused) = (0, 0);
    for case in &cases {
        match check(&world, *case).await {
            Ok(true) => admitted += 1,
            Ok(false) => refused += 1,
            Err(problem) => wrong.push(format!("{}: {problem}", case.name())),
        }
    }
    assert!(wrong.is_empty(), "{} of {}:\n{}", wrong.len(), cases.len(), wrong.join("\n"));
    // Or the table has become one of refusals alone.
    assert!(admitted > 50 && refused > 50, "{admitted} admitted, {refused} refused");
    world.stop().await;
}

/// Ok: whether the gate admits it.
async fn check(world: &World, case: Case) -> Result<bool, String> {
    let name = case.name();
    let before = world.vm(&name).await;
    if before["state"] != case.state.as_str() {
        return Err(format!("begins in state {}", before["state"]));
    }
    if before["has_saved_state"] != case.saved || before["persistent"] == case.transient {
        return Err(format!("begins as {before:#}"));
    }
    let verdict = admit(
        Condition {
            state: case.state,
            persistent: !case.transient,
            has_saved_state: case.saved,
            snapshot_count: 0,
        },
        Held::Free,
        case.work(),
    );
    let body = json!({"action": case.action.as_str(), "force": case.force, "timeout": 5});
    let path = format!("{VMS}/{name}/action");
    let plan = world
        .send(Method::POST, &format!("{path}?dry_run=true"), &[], Some(&body))
        .await
        .expect(200);
    let reply = world.send(Method::POST, &path, &[("prefer", "wait=20")], Some(&body)).await;
    let kind = match verdict {
        Admission::Admit => {
            if plan["blockers"] != json!([]) {
                return Err(format!("the plan has blockers: {plan:#}"));
            }
            return admitted(world, case, &reply).await.map(|()| true);
        }
        Admission::AlreadySo(kind) | Admission::Deny(kind, _) => kind,
        other => return Err(format!("an unexpected verdict {other:?}")),
    };
    if plan["blockers"][0]["code"] != kind.code() {
        return Err(format!("the plan should say {}: {plan:#}", kind.code()));
    }
    if reply.status != 409 || reply.error()["code"] != kind.code() {
        return Err(format!("should be 409 {}: {reply}", kind.code()));
    }
    let error = reply.error();
    if error["details"]["state"] != case.state.as_str() || error["details"]["vm"] != name.as_str() {
        return Err(format!("the details name neither state nor VM: {reply}"));
    }
    if world.vm(&name).await != before {
        return Err("a refused action changed the VM".to_owned());
    }
    Ok(false)
}

async fn admitted(world: &World, case: Case, reply: &driver::Reply) -> Result<(), String> {
    // The test driver cannot wake a guest that sleeps; that must be an honest refusal.
    if case.state == VmState::Suspended && case.action == VmAction::Resume {
        reply.refused(422, "NOT_SUPPORTED");
        return match world.state(&case.name()).await == case.state.as_str() {
            true => Ok(()),
            false => Err("what is not supported changed the state".to_owned()),
        };
    }
    if reply.status != 200 {
        return Err(format!("should be 200: {reply}"));
    }
    let wanted = goal(case.action, case.state);
    let vm = reply.data();
    if case.transient && wanted == VmState::Shutoff {
        // A transient VM vanishes with its stop.
        let gone = world.get(&format!("{VMS}/{}", case.name())).await;
        return match gone.status {
            404 => Ok(()),
            _ => Err(format!("a stopped transient VM is still there: {gone}")),
        };
    }
    if vm["state"] != wanted.as_str() {
        return Err(format!(
            "the reply shows state {} instead of {}",
            vm["state"],
            wanted.as_str()
        ));
    }
    let now = world.vm(&case.name()).await;
    if now["state"] != wanted.as_str() {
        return Err(format!("is then {} instead of {}", now["state"], wanted.as_str()));
    }
    if now["has_saved_state"] != (case.action == VmAction::Save) {
        return Err(format!("the saved state is then {}", now["has_saved_state"]));
    }
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn an_action_is_a_task_with_events_and_the_new_state_is_seen_at_once() {
    let world = World::new().await;
    let mut stream = world.stream("?kind=vm.*&kind=task.*", &[]).await;
    let reply = world.act("web2", &json!({"action": "start"})).await;
    assert_eq!(reply.expect(200)["state"], "running");
    assert_eq!(world.state("web2").await, "running");
    let id = reply.header("x-task-id");
    let task = world.get(&format!("/api/v1/tasks/{id}")).await.expect(200);
    assert_eq!((&task["kind"], &task["status"]), (&json!("vm.start"), &json!("succeeded")));
    assert_eq!(task["subject"]["name"], "web2");
    let mut kinds = Vec::new();
    while !kinds.contains(&"task.finished".to_owned()) || !kinds.contains(&"vm.started".to_owned())
    {
        kinds.push(stream.next().await.event);
    }
    assert_eq!(kinds.iter().filter(|kind| *kind == "vm.started").count(), 1, "{kinds:?}");
    assert_eq!(kinds.iter().filter(|kind| *kind == "task.started").count(), 1, "{kinds:?}");
    world.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_goes_on_is_202_with_its_task_and_what_is_done_is_200() {
    let world = World::new().await;
    // Whether a guest that obeys at once is quicker than the reply is a matter of luck.
    for (action, state) in [("stop", "shutoff"), ("start", "running"), ("restart", "running")] {
        let path = format!("{VMS}/web1/action");
        let headers = [("prefer", "respond-async")];
        let body = json!({"action": action, "timeout": 5});
        let reply = world.send(Method::POST, &path, &headers, Some(&body)).await;
        let id = reply.header("x-task-id");
        if reply.status == 202 {
            assert_eq!(reply.data()["task"]["id"], id.as_str());
            assert_eq!(reply.header("location"), format!("/api/v1/tasks/{id}"));
        } else {
            assert_eq!(reply.expect(200)["state"], state);
        }
        let task = world.get(&format!("/api/v1/tasks/{id}?wait=30")).await.expect(200);
        assert_eq!(task["status"], "succeeded", "{task:#}");
        assert_eq!(task["result"]["state"], state);
        assert_eq!(world.state("web1").await, state);
    }
    world.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_dry_run_of_an_action_changes_nothing_and_leaves_no_task() {
    let world = World::new().await;
    let before = world.vm("web2").await;
    let path = format!("{VMS}/web2/action?dry_run=true");
    let plan = world.post(&path, &json!({"action": "start"})).await.expect(200);
    assert_eq!(plan["operation"], "vm.start");
    assert_eq!(plan["changes"][0]["field"], "state");
    assert_eq!(plan["changes"][0]["to"], "running");
    assert_eq!(world.vm("web2").await, before);
    assert_eq!(world.get("/api/v1/tasks").await.expect(200)["total"], 0);
    world.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn actions_that_make_no_sense_are_refused_with_their_field() {
    let world = World::new().await;
    for (body, field) in [
        (json!({"action": "strat"}), "action"),
        (json!({}), "action"),
        (json!({"action": "stop", "timeout": 0}), "timeout"),
        (json!({"action": "stop", "timeout": -1}), "timeout"),
        (json!({"action": "stop", "timeout": 86_401}), "timeout"),
        (json!({"action": "stop", "timeout": "long"}), "timeout"),
        (json!({"action": "stop", "force": "yes"}), "force"),
        (json!({"action": "stop", "farce": true}), "farce"),
    ] {
        let reply = world.act("web1", &body).await;
        reply.refused(400, "INVALID_REQUEST");
        assert_eq!(reply.fields(), [field], "{body}: {reply}");
    }
    world.act("wbe1", &json!({"action": "stop"})).await.refused(404, "VM_NOT_FOUND");
    assert_eq!(world.state("web1").await, "running");
    world.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn of_many_conflicting_actions_each_succeeds_or_names_the_obstacle() {
    let world = std::sync::Arc::new(World::new().await);
    let mut all = tokio::task::JoinSet::new();
    for number in 0..60 {
        let world = world.clone();
        let action = ["start", "force-stop", "pause", "resume", "save", "restart"][number % 6];
        all.spawn(async move {
            let body = json!({"action": action, "timeout": 5, "force": action == "restart"});
            let path = format!("{VMS}/web1/action");
            world.send(Method::POST, &path, &[("prefer", "wait=20")], Some(&body)).await
        });
    }
    let mut won = 0;
    while let Some(reply) = all.join_next().await {
        let reply = reply.expect("no panic");
        match reply.status {
            200 => won += 1,
            409 => {
                let error = reply.error();
                if error["code"] == "VM_BUSY" {
                    assert!(error["details"]["task"].is_string(), "{reply}");
                } else {
                    // The gate names the state; libvirt, if the guest was quicker, its own reason.
                    let details = &error["details"];
                    assert!(
                        details["state"].is_string()
                            || details["libvirt"].is_object()
                            || error["code"] == "CANCELLED",
                        "{reply}"
                    );
                }
            }
            _ => panic!("{reply}"),
        }
    }
    assert!(won > 0);
    // Whatever came of them, the VM obeys whoever comes alone.
    let action = match world.state("web1").await.as_str() {
        "running" => "force-stop",
        "paused" => "resume",
        _ => "start",
    };
    world.act("web1", &json!({"action": action})).await.expect(200);
    let health = world.get("/health").await.expect(200);
    assert_eq!((&health["held"], &health["running_tasks"]), (&Value::from(0), &Value::from(0)));
}
