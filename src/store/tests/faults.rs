//! What the store bears: kill -9, a full disk, files that are damaged, newer or in use.

use std::io::{BufRead, BufReader, Read, Seek, SeekFrom, Write};
use std::os::unix::fs::PermissionsExt;
use std::process::{Command, Stdio};

use super::*;

/// The database's path, in a process that a test starts to play the daemon.
const CHILD: &str = "VAPOR_TEST_STORE";

/// This test program again, running only the test called `name`, which finds `path` in [`CHILD`].
fn child(name: &str, path: &Path) -> Command {
    let mut command = Command::new(std::env::current_exe().unwrap());
    command.args(["--exact", &format!("store::tests::faults::{name}"), "--nocapture"]);
    command.env(CHILD, path);
    command
}

fn child_path() -> Option<PathBuf> {
    std::env::var_os(CHILD).map(PathBuf::from)
}

fn runtime() -> tokio::runtime::Runtime {
    tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap()
}

fn refusal(path: &Path) -> Error {
    let error = Store::open(path, StoreOptions::default()).unwrap_err();
    assert_eq!(error.kind(), Kind::DatabaseUnavailable);
    assert!(error.message().contains(&path.display().to_string()), "{error}");
    error
}

/// Digests of the database and of its log, to prove that a refusal changed neither. An empty log
/// is as good as none.
fn content(path: &Path) -> (String, Option<String>) {
    let log = std::fs::read(path.with_extension("db-wal")).unwrap_or_default();
    (digest(&std::fs::read(path).unwrap()), (!log.is_empty()).then(|| digest(&log)))
}

fn digest(bytes: &[u8]) -> String {
    use sha2::Digest;
    let digest = sha2::Sha256::digest(bytes);
    digest.iter().map(|byte| format!("{byte:02x}")).collect()
}

/// Plays the daemon: begins and ends tasks from eight sides, and says what was answered.
fn write_until_killed(path: &Path) {
    let store = open(path);
    runtime().block_on(async {
        let mut sides = tokio::task::JoinSet::new();
        for _ in 0..8 {
            let store = store.clone();
            sides.spawn(async move {
                loop {
                    let begun = task("vm.start");
                    let mark = |kind| NewEvent { task: Some(begun.id), ..event(kind) };
                    store.begin_task(&begun, None, vec![mark("task.started")]).await.unwrap();
                    println!("begun {}", begun.id);
                    let events = vec![mark("vm.started"), mark("task.finished")];
                    store.update_task(&finished(&begun), events).await.unwrap();
                    println!("ended {}", begun.id);
                }
            });
        }
        sides.join_all().await;
    });
}

#[test]
fn nothing_that_was_answered_is_lost_by_kill_9_and_nothing_is_half_done() {
    if let Some(path) = child_path() {
        return write_until_killed(&path);
    }
    let (_folder, path) = place();
    let mut begun = Vec::new();
    let mut ended = Vec::new();
    for round in 0..6_u64 {
        let mut daemon =
            child("nothing_that_was_answered_is_lost_by_kill_9_and_nothing_is_half_done", &path)
                .stdout(Stdio::piped())
                .spawn()
                .unwrap();
        let lines = BufReader::new(daemon.stdout.take().unwrap());
        let mut answers = lines.lines();
        let mut take = |line: &str| match line.rsplit_once(' ') {
            Some((what, id)) if what.ends_with("begun") => begun.push(id.parse::<Uuid>().unwrap()),
            Some((what, id)) if what.ends_with("ended") => ended.push(id.parse::<Uuid>().unwrap()),
            _ => {}
        };
        // Not at a fixed time, but at different places in the stream of answers.
        for _ in 0..40 + round * 97 {
            take(&answers.next().unwrap().unwrap());
        }
        daemon.kill().unwrap();
        daemon.wait().unwrap();
        for line in answers {
            let line = line.unwrap();
            // The last line may be torn.
            if line.len() >= "begun ".len() + 36 {
                take(&line);
            }
        }
    }
    assert!(ended.len() > 100, "the daemon hardly worked: {}", ended.len());
    let store = open(&path);
    runtime().block_on(async {
        for id in &begun {
            assert!(store.task(*id).await.unwrap().is_some(), "task {id} was answered and is lost");
        }
        for id in &ended {
            let task = store.task(*id).await.unwrap().unwrap();
            assert_eq!(task.status, TaskStatus::Succeeded, "the end of {id} is lost");
        }
        let query = EventQuery { limit: u32::MAX, ..EventQuery::default() };
        let events = store.events(&query).await.unwrap();
        let seqs: Vec<_> = events.iter().map(|event| event.seq).collect();
        assert_eq!(seqs, (1..=store.last_seq()).collect::<Vec<_>>(), "the numbers have a hole");
        let mut of_task = std::collections::BTreeMap::<Uuid, Vec<&str>>::new();
        for event in &events {
            of_task.entry(event.task.unwrap()).or_default().push(&event.kind);
        }
        let (tasks, total) =
            store.tasks(&TaskQuery { limit: u32::MAX, ..TaskQuery::default() }).await.unwrap();
        assert_eq!((tasks.len() as u64, tasks.len()), (total, of_task.len()));
        for task in tasks {
            let expected: &[&str] = if task.status.is_finished() {
                &["task.started", "vm.started", "task.finished"]
            } else {
                &["task.started"]
            };
            assert_eq!(of_task[&task.id], expected, "task {} and its events differ", task.id);
        }
        assert!(store.unfinished_tasks().await.unwrap().len() <= 8 * 6);
    });
}

/// Plays the daemon on a tiny file system: fills it, and frees it again.
fn fill_the_disk(path: &Path) {
    let store = open(path);
    runtime().block_on(async {
        let before = task("vm.start");
        store.begin_task(&before, None, vec![event("a")]).await.unwrap();
        let filler = path.with_file_name("filler");
        let mut file = std::fs::File::create(&filler).unwrap();
        while file.write(&[0; 4096]).is_ok_and(|length| length > 0) {}
        drop(file);
        let large = json!({"text": "x".repeat(100_000)});
        let full = NewEvent { data: large, ..event("b") };
        let mut refused = 0;
        for _ in 0..20 {
            if let Err(error) = store.append_events(vec![full.clone()]).await {
                assert_eq!(error.kind(), Kind::DatabaseUnavailable, "{error:?}");
                assert!(error.message().contains("disk is full"), "{error}");
                assert!(error.retry_after().is_some());
                refused += 1;
            }
        }
        assert!(refused > 0, "the disk never was full");
        let seq = store.last_seq();
        assert_eq!(store.task(before.id).await.unwrap(), Some(before.clone()), "reads go on");
        // Small writes may still fit into what the log holds already; a failing one must show.
        let mut small_refused = None;
        for _ in 0..200 {
            if let Err(error) = store.append_events(vec![full.clone()]).await {
                small_refused = Some(error);
            }
        }
        assert!(small_refused.is_some());
        let sick = store.check().await;
        std::fs::remove_file(&filler).unwrap();
        store.check().await.unwrap();
        store.update_task(&finished(&before), vec![event("c")]).await.unwrap();
        assert!(store.last_seq() > seq);
        let events =
            store.events(&EventQuery { limit: u32::MAX, ..EventQuery::default() }).await.unwrap();
        let seqs: Vec<_> = events.iter().map(|event| event.seq).collect();
        assert_eq!(seqs, (1..=store.last_seq()).collect::<Vec<_>>(), "a refused event left a hole");
        println!("survived, check while full: {:?}", sick.err());
        store.close().await;
    });
    drop(open(path));
}

#[test]
fn a_full_disk_is_told_and_survived() {
    if let Some(path) = child_path() {
        return fill_the_disk(&path);
    }
    let can = Command::new("unshare")
        .args(["-rm", "mount", "-t", "tmpfs", "tmpfs", "/mnt"])
        .output()
        .is_ok_and(|output| output.status.success());
    if !can {
        println!("skipped: needs a mount namespace of its own (unshare -rm)");
        return;
    }
    let (folder, path) = place();
    let test = child("a_full_disk_is_told_and_survived", &path);
    let output = Command::new("unshare")
        .args(["-rm", "sh", "-c", r#"mount -t tmpfs -o size=2m tmpfs "$1" && shift && exec "$@""#])
        .args([std::ffi::OsStr::new("sh"), folder.path().as_os_str()])
        .arg(test.get_program())
        .args(test.get_args())
        .env(CHILD, &path)
        .output()
        .unwrap();
    let said = String::from_utf8_lossy(&output.stdout).into_owned();
    let complained = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(output.status.success() && said.contains("survived"), "{said}{complained}");
}

#[tokio::test]
async fn a_database_that_may_not_grow_refuses_one_task_and_takes_the_next() {
    let (_folder, path) = place();
    let store = open(&path);
    let limit = |pages: i64| {
        let writer = &store.0.writer;
        writer.run(move |tx| Ok(tx.connection.pragma_update(None, "max_page_count", pages)?))
    };
    limit(1).await.unwrap();
    let large = Task { result: Some(json!("x".repeat(1 << 20))), ..task("vm.start") };
    let error = store.begin_task(&large, None, vec![event("a")]).await.unwrap_err();
    assert_eq!(error.message(), "the database cannot be used: its disk is full");
    assert_eq!(store.task(large.id).await.unwrap(), None);
    limit(1 << 30).await.unwrap();
    assert_eq!(store.begin_task(&large, None, vec![event("a")]).await.unwrap(), Begun::Started);
    assert_eq!(store.last_seq(), 1);
    store.check().await.unwrap();
}

#[tokio::test]
async fn a_newer_schema_is_refused_and_left_alone() {
    let (_folder, path) = place();
    open(&path).close().await;
    let raw = rusqlite::Connection::open(&path).unwrap();
    raw.pragma_update(None, "user_version", 99).unwrap();
    raw.close().unwrap();
    let before = content(&path);
    let error = refusal(&path);
    assert!(error.message().contains("schema 99 is newer than this vapord"), "{error}");
    assert!(error.hint().contains("newer vapord"), "{}", error.hint());
    assert_eq!(content(&path), before);
}

#[tokio::test]
async fn another_programs_file_is_refused_and_left_alone() {
    let (_folder, path) = place();
    let raw = rusqlite::Connection::open(&path).unwrap();
    raw.execute_batch("CREATE TABLE theirs (x); INSERT INTO theirs VALUES (1);").unwrap();
    raw.close().unwrap();
    let before = content(&path);
    assert!(refusal(&path).message().contains("another program"));
    assert_eq!(content(&path), before);
}

#[tokio::test]
async fn a_file_that_is_no_database_is_refused_and_left_alone() {
    for garbage in
        [b"not a database at all".repeat(100), vec![0; 4096], b"SQLite format 3\0".to_vec()]
    {
        let (_folder, path) = place();
        std::fs::write(&path, &garbage).unwrap();
        let error = refusal(&path);
        assert!(error.message().contains("is damaged"), "{error}");
        assert!(error.hint().contains("restore a copy"), "{}", error.hint());
        assert_eq!(content(&path), (digest(&garbage), None));
    }
}

#[tokio::test]
async fn a_damaged_page_is_found_at_the_start_and_the_file_left_alone() {
    let (_folder, path) = place();
    let store = open(&path);
    for _ in 0..200 {
        store.begin_task(&task("vm.start"), None, vec![event("x"); 5]).await.unwrap();
    }
    store.close().await;
    let length = path.metadata().unwrap().len();
    assert!(length > 40 * 4096, "{length}");
    let mut file = std::fs::OpenOptions::new().read(true).write(true).open(&path).unwrap();
    file.seek(SeekFrom::Start(20 * 4096)).unwrap();
    file.write_all(&[0xA5; 4096]).unwrap();
    drop(file);
    let before = content(&path);
    let error = refusal(&path);
    assert!(error.message().contains("is damaged"), "{error}");
    assert_eq!(content(&path), before);
}

#[tokio::test]
async fn a_truncated_file_is_found_at_the_start_and_left_alone() {
    let (_folder, path) = place();
    let store = open(&path);
    for _ in 0..200 {
        store.begin_task(&task("vm.start"), None, vec![event("x"); 5]).await.unwrap();
    }
    store.close().await;
    let file = std::fs::OpenOptions::new().write(true).open(&path).unwrap();
    file.set_len(30 * 4096 + 100).unwrap();
    let before = content(&path);
    assert!(refusal(&path).message().contains("is damaged"));
    assert_eq!(content(&path), before);
}

#[tokio::test]
async fn a_log_without_its_database_is_not_thrown_away() {
    let (folder, path) = place();
    let wal = folder.path().join("vapor.db-wal");
    std::fs::write(&wal, b"the last changes of somebody's database").unwrap();
    let error = refusal(&path);
    assert!(error.message().contains("while its log"), "{error}");
    assert!(std::fs::read(&wal).unwrap().starts_with(b"the last"));
}

#[test]
fn a_second_daemon_is_refused_and_told_who_holds_the_file() {
    let (_folder, path) = place();
    if let Some(path) = child_path() {
        let store = open(&path);
        println!("ready");
        // Until the test has seen enough and closes the other end.
        let _ = std::io::stdin().read(&mut [0; 1]);
        drop(store);
        return;
    }
    let mut first = child("a_second_daemon_is_refused_and_told_who_holds_the_file", &path)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let mut lines = BufReader::new(first.stdout.take().unwrap()).lines();
    assert!(lines.any(|line| line.unwrap().ends_with("ready")));
    let error = refusal(&path);
    let holder = format!("another vapord (process {}) uses it", first.id());
    assert!(error.message().ends_with(&holder), "{error}");
    first.kill().unwrap();
    first.wait().unwrap();
    // The lock goes with the process, however it ended.
    drop(open(&path));
}

#[tokio::test]
async fn the_same_process_cannot_open_it_twice_but_again_after_closing() {
    let (_folder, path) = place();
    let store = open(&path);
    refusal(&path);
    store.close().await;
    open(&path).close().await;
}

#[tokio::test]
async fn folder_and_file_are_for_their_owner_alone() {
    let (folder, _) = place();
    let path = folder.path().join("a/b/vapor.db");
    let store = open(&path);
    store.append_events(vec![event("x")]).await.unwrap();
    let mode = |path: &Path| path.metadata().unwrap().permissions().mode() & 0o777;
    assert_eq!(mode(&folder.path().join("a/b")), 0o700);
    for name in ["vapor.db", "vapor.db-wal", "vapor.db-shm", "vapor.db.lock"] {
        assert_eq!(mode(&folder.path().join("a/b").join(name)), 0o600, "{name}");
    }
}

#[test]
fn a_place_that_cannot_be_used_is_told() {
    let (folder, _) = place();
    std::fs::write(folder.path().join("file"), b"").unwrap();
    let error = refusal(&folder.path().join("file/vapor.db"));
    assert!(error.message().contains("cannot be made"), "{error}");
    std::fs::create_dir(folder.path().join("vapor.db")).unwrap();
    let error = refusal(&folder.path().join("vapor.db"));
    assert!(error.message().contains("it is not a file"), "{error}");
}
