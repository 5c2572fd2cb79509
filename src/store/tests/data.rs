//! What goes in comes out, in the right order and only once.

use std::sync::Mutex;

use super::*;

fn key(key: &str, fingerprint: &str) -> Idempotency {
    Idempotency {
        key: key.to_owned(),
        principal: "unix:root".to_owned(),
        fingerprint: fingerprint.to_owned(),
    }
}

#[tokio::test]
async fn a_task_comes_back_as_it_was_written() {
    let (_folder, path) = place();
    let store = open(&path);
    let begun = Task {
        parent: Some(Uuid::now_v7()),
        error: Some(json!({"code": "VM_BUSY"})),
        ..task("vm.start")
    };
    assert_eq!(store.begin_task(&begun, None, vec![]).await.unwrap(), Begun::Started);
    assert_eq!(store.task(begun.id).await.unwrap(), Some(begun.clone()));
    assert_eq!(store.unfinished_tasks().await.unwrap(), vec![begun.clone()]);
    let ended = finished(&begun);
    store.update_task(&ended, vec![event("task.finished")]).await.unwrap();
    assert_eq!(store.task(begun.id).await.unwrap(), Some(ended));
    assert!(store.unfinished_tasks().await.unwrap().is_empty());
    assert_eq!(store.last_seq(), 1);
}

#[tokio::test]
async fn a_finished_task_is_final() {
    let (_folder, path) = place();
    let store = open(&path);
    let begun = task("vm.start");
    store.begin_task(&begun, None, vec![]).await.unwrap();
    store.update_task(&finished(&begun), vec![]).await.unwrap();
    let late = store.update_task(&begun, vec![event("task.progress")]).await.unwrap_err();
    assert_eq!(late.kind(), Kind::TaskFinished);
    assert_eq!(store.last_seq(), 0, "the event of a refused update must not appear");
    let unknown = store.update_task(&task("vm.stop"), vec![]).await.unwrap_err();
    assert_eq!(unknown.kind(), Kind::TaskNotFound);
}

#[tokio::test]
async fn tasks_are_listed_newest_first_filtered_and_paged() {
    let (_folder, path) = place();
    let store = open(&path);
    let mut ids = Vec::new();
    for number in 0..10 {
        let one = task(if number % 2 == 0 { "vm.start" } else { "volume.create" });
        store.begin_task(&one, None, vec![]).await.unwrap();
        ids.insert(0, one.id);
    }
    let query = TaskQuery { limit: 4, ..TaskQuery::default() };
    let (page, total) = store.tasks(&query).await.unwrap();
    assert_eq!(page.iter().map(|task| task.id).collect::<Vec<_>>(), ids[..4]);
    assert_eq!(total, 10);
    let query = TaskQuery { before: Some(page[3].id), ..query };
    let (page, total) = store.tasks(&query).await.unwrap();
    assert_eq!(page.iter().map(|task| task.id).collect::<Vec<_>>(), ids[4..8]);
    assert_eq!(total, 10);
    let query = TaskQuery { kind: Some("vm.*".to_owned()), ..TaskQuery::default() };
    assert_eq!(store.tasks(&query).await.unwrap().1, 5);
    let query = TaskQuery {
        kind: Some("vm.start".to_owned()),
        status: Some(TaskStatus::Running),
        subject_type: Some(SubjectType::Vm),
        subject_id: Some(subject("x").id),
        principal: Some("unix:root".to_owned()),
        ..TaskQuery::default()
    };
    assert_eq!(store.tasks(&query).await.unwrap().1, 5);
    let query = TaskQuery { principal: Some("unix:nobody".to_owned()), ..query };
    assert_eq!(store.tasks(&query).await.unwrap(), (vec![], 0));
    let query = TaskQuery { before: Some(Uuid::nil()), ..TaskQuery::default() };
    assert_eq!(store.tasks(&query).await.unwrap_err().kind(), Kind::InvalidCursor);
}

#[tokio::test]
async fn the_same_request_with_the_same_key_gets_the_same_task() {
    let (_folder, path) = place();
    let store = open(&path);
    let first = task("vm.create");
    let again = task("vm.create");
    let key_a = key("k", "a");
    let begun = store.begin_task(&first, Some(&key_a), vec![event("task.started")]).await;
    assert_eq!(begun.unwrap(), Begun::Started);
    let begun = store.begin_task(&again, Some(&key_a), vec![event("task.started")]).await;
    assert_eq!(begun.unwrap(), Begun::Replayed(Box::new(first.clone())));
    assert_eq!(store.task(again.id).await.unwrap(), None);
    assert_eq!(store.last_seq(), 1);
    let other = store.begin_task(&again, Some(&key("k", "b")), vec![]).await.unwrap_err();
    assert_eq!(other.kind(), Kind::IdempotencyKeyReused);
    let stranger = Idempotency { principal: "unix:1000".to_owned(), ..key("k", "b") };
    assert_eq!(store.begin_task(&again, Some(&stranger), vec![]).await.unwrap(), Begun::Started);
}

#[tokio::test]
async fn a_key_is_forgotten_after_a_day() {
    let (_folder, path) = place();
    let store = open(&path);
    let first = task("vm.create");
    let yesterday = Timestamp::now() - idempotency::LIFETIME;
    let old = first.clone();
    store
        .0
        .writer
        .run(move |tx| task::begin(tx, &old, Some(&key("k", "a")), vec![], yesterday))
        .await
        .unwrap();
    let second = task("vm.create");
    let begun = store.begin_task(&second, Some(&key("k", "b")), vec![]).await.unwrap();
    assert_eq!(begun, Begun::Started);
    let begun = store.begin_task(&task("vm.create"), Some(&key("k", "b")), vec![]).await.unwrap();
    assert_eq!(begun, Begun::Replayed(Box::new(second)));
}

#[tokio::test]
async fn many_requests_with_one_key_begin_one_task() {
    let (_folder, path) = place();
    let store = open(&path);
    let mut requests = tokio::task::JoinSet::new();
    for _ in 0..100 {
        let store = store.clone();
        requests.spawn(async move {
            store.begin_task(&task("vm.create"), Some(&key("k", "a")), vec![]).await.unwrap()
        });
    }
    let outcomes = requests.join_all().await;
    let started = outcomes.iter().filter(|begun| **begun == Begun::Started).count();
    assert_eq!(started, 1);
    assert_eq!(store.tasks(&TaskQuery::default()).await.unwrap().1, 1);
}

#[tokio::test]
async fn steps_and_log_lines_keep_their_order() {
    let (_folder, path) = place();
    let store = open(&path);
    let begun = task("vm.create");
    store.begin_task(&begun, None, vec![]).await.unwrap();
    let step = |seq, state| Step {
        seq,
        action: "create-volume".to_owned(),
        undo: json!({"volume": seq}),
        state,
    };
    let steps = [step(1, StepState::Intended), step(0, StepState::Done)];
    store.save_steps(begun.id, &steps).await.unwrap();
    store.save_steps(begun.id, &[step(1, StepState::Undone)]).await.unwrap();
    let steps = store.steps(begun.id).await.unwrap();
    assert_eq!(steps, [step(0, StepState::Done), step(1, StepState::Undone)]);
    for number in 0..task::LOG_LINES + 5 {
        store.append_log(begun.id, format!("line {number}")).await.unwrap();
    }
    let lines = store.log(begun.id).await.unwrap();
    assert_eq!(lines.len(), task::LOG_LINES as usize);
    assert_eq!(lines[0].message, "line 5");
    assert_eq!(lines[lines.len() - 1].message, format!("line {}", task::LOG_LINES + 4));
    let nowhere = store.append_log(Uuid::now_v7(), "x").await.unwrap_err();
    assert_eq!(nowhere.kind(), Kind::TaskNotFound);
}

#[tokio::test]
async fn warnings_stay_with_their_task_and_its_end_does_not_take_them_away() {
    let (_folder, path) = place();
    let store = open(&path);
    let mut begun = task("vm.create");
    store.begin_task(&begun, None, vec![]).await.unwrap();
    for text in ["it is \"late\"", "it is later"] {
        store.append_warning(begun.id, text).await.unwrap();
    }
    begun.status = TaskStatus::Succeeded;
    store.update_task(&begun, vec![]).await.unwrap();
    let kept = store.task(begun.id).await.unwrap().unwrap();
    assert_eq!(kept.warnings, ["it is \"late\"", "it is later"]);
    assert_eq!(store.log(begun.id).await.unwrap()[1].message, "warning: it is later");
}

#[tokio::test]
async fn events_are_found_by_number_kind_and_subject() {
    let (_folder, path) = place();
    let store = open(&path);
    let other = Subject { r#type: SubjectType::Pool, id: "p".to_owned(), name: "p".to_owned() };
    let events = vec![
        event("vm.started"),
        event("vm.stopped"),
        event("vmx.started"),
        NewEvent { subject: other, principal: None, task: None, ..event("pool.started") },
    ];
    store.append_events(events.clone()).await.unwrap();
    let seqs = async |query: EventQuery| {
        let events = store.events(&query).await.unwrap();
        events.iter().map(|event| event.seq).collect::<Vec<_>>()
    };
    let all = EventQuery::default();
    assert_eq!(seqs(all.clone()).await, [1, 2, 3, 4]);
    assert_eq!(seqs(EventQuery { since: 2, ..all.clone() }).await, [3, 4]);
    assert_eq!(seqs(EventQuery { until: Some(2), ..all.clone() }).await, [1, 2]);
    assert_eq!(seqs(EventQuery { limit: 3, ..all.clone() }).await, [1, 2, 3]);
    let kinds = |kinds: &[&str]| EventQuery {
        kinds: kinds.iter().map(|kind| (*kind).to_owned()).collect(),
        ..EventQuery::default()
    };
    assert_eq!(seqs(kinds(&["vm.*"])).await, [1, 2]);
    assert_eq!(seqs(kinds(&["vm.stopped", "pool.*"])).await, [2, 4]);
    assert_eq!(seqs(kinds(&["*"])).await, [1, 2, 3, 4]);
    assert_eq!(seqs(kinds(&["vm"])).await, [0_u64; 0]);
    let pools = EventQuery { subject_type: Some(SubjectType::Pool), ..all.clone() };
    assert_eq!(seqs(pools).await, [4]);
    let one = EventQuery { subject_id: Some("p".to_owned()), ..all.clone() };
    assert_eq!(seqs(one).await, [4]);
    let labelled = NewEvent {
        data: serde_json::json!({"labels": {"tier": "web", "a.b": "x"}}),
        ..event("vm.paused")
    };
    store.append_events(vec![labelled]).await.unwrap();
    let labels = |pairs: &[(&str, &str)]| EventQuery {
        labels: pairs.iter().map(|(key, value)| ((*key).into(), (*value).into())).collect(),
        ..EventQuery::default()
    };
    for (wanted, expected) in [
        (labels(&[("tier", "web")]), vec![5_u64]),
        (labels(&[("a.b", "x"), ("tier", "web")]), vec![5]),
        (labels(&[("tier", "db")]), Vec::new()),
        (labels(&[("tier", "web"), ("a", "x")]), Vec::new()),
    ] {
        assert_eq!(seqs(wanted).await, expected);
    }
    let found = store.events(&EventQuery { until: Some(4), ..all }).await.unwrap();
    assert_eq!(found[0].data, events[0].data);
    assert_eq!(found[3].principal, None);
    assert_eq!(found[3].task, None);
}

#[tokio::test]
async fn pruning_keeps_what_is_asked_for_and_never_reuses_a_number() {
    let (_folder, path) = place();
    let store = open(&path);
    for _ in 0..12 {
        store.append_events(vec![event("vm.started"); 100]).await.unwrap();
    }
    let keyed = task("vm.create");
    store.begin_task(&keyed, Some(&key("k", "a")), vec![]).await.unwrap();
    store.update_task(&finished(&keyed), vec![]).await.unwrap();
    let running = task("vm.start");
    store.begin_task(&running, None, vec![]).await.unwrap();
    for _ in 0..3 {
        let old = task("vm.start");
        store.begin_task(&old, None, vec![]).await.unwrap();
        store.save_steps(old.id, &[]).await.unwrap();
        store.append_log(old.id, "line").await.unwrap();
        store.update_task(&finished(&old), vec![]).await.unwrap();
    }
    let pruned = store.prune(Timestamp::now(), 7).await.unwrap();
    assert_eq!(pruned, Pruned { tasks: 3, events: 1193, keys: 0 });
    assert_eq!(store.first_seq().await.unwrap(), 1194);
    assert_eq!(store.tasks(&TaskQuery::default()).await.unwrap().1, 2);
    store.prune(Timestamp::now(), 0).await.unwrap();
    assert_eq!(store.first_seq().await.unwrap(), 1201);
    store.close().await;
    let store = open(&path);
    assert_eq!(store.last_seq(), 1200);
    store.append_events(vec![event("vm.started")]).await.unwrap();
    assert_eq!(store.events(&EventQuery::default()).await.unwrap()[0].seq, 1201);
}

#[tokio::test]
async fn rows_of_vms_are_replaced_and_removed() {
    let (_folder, path) = place();
    let store = open(&path);
    let row = |name: &str, runtime| VmRow {
        uuid: Uuid::now_v7(),
        name: name.to_owned(),
        created_at: Timestamp::now(),
        updated_at: Timestamp::now(),
        generation: 7,
        hash: u64::MAX - 3,
        runtime,
    };
    let one = row("web1", Some(json!({"hostname": "web1"})));
    let two = row("web2", None);
    store.save_vm_rows(vec![one.clone(), two.clone()], vec![]).await.unwrap();
    assert_eq!(store.vm_rows().await.unwrap(), [one.clone(), two.clone()]);
    let one = VmRow { generation: 8, runtime: None, ..one };
    store.save_vm_rows(vec![one.clone()], vec![two.uuid]).await.unwrap();
    assert_eq!(store.vm_rows().await.unwrap(), [one]);
}

#[tokio::test]
async fn the_sink_sees_every_event_once_in_order_before_its_caller_goes_on() {
    let (_folder, path) = place();
    let store = open(&path);
    let seen = Arc::new(Mutex::new(Vec::new()));
    let sink = seen.clone();
    store.set_event_sink(Arc::new(move |events| {
        sink.lock().unwrap().extend(events.iter().map(|event| event.seq));
    }));
    let mut writers = tokio::task::JoinSet::new();
    for _ in 0..50 {
        let (store, seen) = (store.clone(), seen.clone());
        writers.spawn(async move {
            for _ in 0..10 {
                let begun = task("vm.start");
                let mark = begun.id.to_string();
                let own = NewEvent { kind: mark.clone(), ..event("x") };
                store.begin_task(&begun, None, vec![own]).await.unwrap();
                // A refused job in the same batch must leave no hole.
                store.begin_task(&begun, None, vec![event("dup")]).await.unwrap_err();
                let query = EventQuery { kinds: vec![mark], ..EventQuery::default() };
                let seq = store.events(&query).await.unwrap()[0].seq;
                assert!(seen.lock().unwrap().contains(&seq));
            }
        });
    }
    writers.join_all().await;
    assert_eq!(*seen.lock().unwrap(), (1..=500).collect::<Vec<_>>());
    assert_eq!(store.last_seq(), 500);
}

#[tokio::test]
async fn a_copy_made_in_use_is_a_sound_database() {
    let (folder, path) = place();
    let store = open(&path);
    let begun = task("vm.start");
    store.begin_task(&begun, None, vec![event("x")]).await.unwrap();
    let copy = folder.path().join("copy.db");
    store.backup(&copy).await.unwrap();
    let again = store.backup(&copy).await.unwrap_err();
    assert_eq!(again.kind(), Kind::DatabaseUnavailable);
    let copied = open(&copy);
    assert_eq!(copied.task(begun.id).await.unwrap(), Some(begun));
    assert_eq!(copied.last_seq(), 1);
}
