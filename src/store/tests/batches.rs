//! What the writer thread promises to those that share a transaction.

use std::future::poll_fn;
use std::sync::mpsc;
use std::task::Poll;

use super::*;

/// Holds the writer in a job until the returned sender is used, so that a batch builds up.
fn hold(store: &Store) -> (mpsc::Sender<()>, tokio::task::JoinHandle<Result<()>>) {
    let (release, held) = mpsc::channel();
    let (entered, inside) = mpsc::channel();
    let store = store.clone();
    let job = tokio::spawn(async move {
        let job = move |_: &mut writer::Tx<'_>| {
            entered.send(()).unwrap();
            held.recv().unwrap();
            Ok(())
        };
        store.0.writer.run(job).await
    });
    inside.recv_timeout(Duration::from_secs(20)).unwrap();
    (release, job)
}

type Work = Box<dyn FnOnce(&mut writer::Tx<'_>) -> Result<Begun> + Send>;

/// Starts `works` one after the other, each queued before the next.
async fn queue(store: &Store, works: Vec<Work>) -> Vec<tokio::task::JoinHandle<Result<Begun>>> {
    let mut handles = Vec::new();
    for work in works {
        let store = store.clone();
        let mut job = Box::pin(async move { store.0.writer.run(work).await });
        // The first poll puts it into the queue, which has room.
        poll_fn(|context| {
            assert!(job.as_mut().poll(context).is_pending(), "the writer is held");
            Poll::Ready(())
        })
        .await;
        handles.push(tokio::spawn(job));
    }
    handles
}

fn begin(task: &Task) -> Work {
    let task = task.clone();
    Box::new(move |tx| task::begin(tx, &task, None, vec![event("task.started")], Timestamp::now()))
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_queued_shares_one_commit() {
    let (_folder, path) = place();
    let store = open(&path);
    let (release, held) = hold(&store);
    let tasks: Vec<_> = (0..50).map(|_| task("vm.start")).collect();
    let jobs = queue(&store, tasks.iter().map(begin).collect()).await;
    release.send(()).unwrap();
    held.await.unwrap().unwrap();
    for job in jobs {
        assert_eq!(job.await.unwrap().unwrap(), Begun::Started);
    }
    assert_eq!(store.commits(), 2);
    assert_eq!(store.last_seq(), 50);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_bad_job_takes_only_its_own_changes_with_it() {
    let (_folder, path) = place();
    let store = open(&path);
    let (good, twice, panics) = (task("vm.start"), task("vm.stop"), task("vm.delete"));
    let (release, held) = hold(&store);
    let begin_panics = begin(&panics);
    let jobs = queue(
        &store,
        vec![
            begin(&twice),
            begin(&twice),
            Box::new(move |tx| {
                begin_panics(tx)?;
                panic!("a defect in a job");
            }),
            begin(&good),
        ],
    )
    .await;
    release.send(()).unwrap();
    held.await.unwrap().unwrap();
    let mut kinds = Vec::new();
    for job in jobs {
        kinds.push(job.await.unwrap().err().map(|error| error.kind()));
    }
    assert_eq!(kinds, [None, Some(Kind::Internal), Some(Kind::Internal), None]);
    assert_eq!(store.commits(), 2);
    assert!(store.task(good.id).await.unwrap().is_some());
    assert!(store.task(panics.id).await.unwrap().is_none());
    let seqs: Vec<_> = store.events(&EventQuery::default()).await.unwrap();
    assert_eq!(seqs.iter().map(|event| event.seq).collect::<Vec<_>>(), [1, 2]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_lost_transaction_is_told_to_everyone_in_it_and_to_nobody_else() {
    let (_folder, path) = place();
    let store = open(&path);
    let (before, after) = (task("vm.start"), task("vm.stop"));
    let (release, held) = hold(&store);
    let jobs = queue(
        &store,
        vec![
            begin(&before),
            // SQLite gives up the whole transaction where it runs out of disk or memory.
            Box::new(|tx| {
                tx.connection.execute_batch("ROLLBACK")?;
                Err(Error::new(Kind::DatabaseUnavailable, "the disk is full"))
            }),
            begin(&after),
        ],
    )
    .await;
    release.send(()).unwrap();
    // The holder was in the same batch as nobody: it was alone when the thread looked.
    held.await.unwrap().unwrap();
    let mut kinds = Vec::new();
    for job in jobs {
        kinds.push(job.await.unwrap().err().map(|error| error.kind()));
    }
    let lost = Some(Kind::DatabaseUnavailable);
    assert_eq!(kinds, [lost, lost, None]);
    assert!(store.task(before.id).await.unwrap().is_none());
    assert!(store.task(after.id).await.unwrap().is_some());
    assert_eq!(store.last_seq(), 1);
}

#[tokio::test]
async fn a_panicking_sink_harms_nobody() {
    let (_folder, path) = place();
    let store = open(&path);
    store.set_event_sink(Arc::new(|_| panic!("a defect in the sink")));
    store.append_events(vec![event("a")]).await.unwrap();
    store.append_events(vec![event("b")]).await.unwrap();
    assert_eq!(store.last_seq(), 2);
}

#[tokio::test]
async fn closing_finishes_what_is_queued_and_refuses_the_rest() {
    let (_folder, path) = place();
    let store = open(&path);
    let mut writes = tokio::task::JoinSet::new();
    for _ in 0..200 {
        let store = store.clone();
        writes.spawn(async move {
            let begun = task("vm.start");
            store.begin_task(&begun, None, vec![]).await.map(|_| begun.id)
        });
    }
    tokio::task::yield_now().await;
    let late = store.clone();
    store.close().await;
    let outcomes = writes.join_all().await;
    let refused = late.append_events(vec![event("x")]).await.unwrap_err();
    assert_eq!(refused.kind(), Kind::DatabaseUnavailable);
    assert_eq!(late.vm_rows().await.unwrap_err().kind(), Kind::DatabaseUnavailable);
    assert_eq!(late.check().await.unwrap_err().kind(), Kind::DatabaseUnavailable);
    let wal = path.with_extension("db-wal");
    assert!(!wal.exists(), "the log was not moved into the database");
    let store = open(&path);
    for outcome in outcomes {
        match outcome {
            Ok(id) => assert!(store.task(id).await.unwrap().is_some(), "an answered task is lost"),
            Err(error) => assert_eq!(error.kind(), Kind::DatabaseUnavailable),
        }
    }
}

#[tokio::test]
async fn the_log_does_not_grow_for_ever() {
    let (_folder, path) = place();
    let store = open(&path);
    let data = json!({"text": "x".repeat(2_000)});
    for _ in 0..100 {
        let events = vec![NewEvent { data: data.clone(), ..event("x") }; 100];
        store.append_events(events).await.unwrap();
    }
    store.check().await.unwrap();
    let wal = path.with_extension("db-wal").metadata().unwrap().len();
    assert!(wal < 12 << 20, "20 MB of events left a log of {wal} bytes");
}
