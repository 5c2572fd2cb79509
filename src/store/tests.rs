//! What the store promises, tried on real files.

use std::path::{Path, PathBuf};

use serde_json::json;

use super::*;
use crate::model::{Progress, Subject, SubjectType, TaskStatus};

mod batches;
mod data;
mod definitions;
mod faults;

/// A folder that is removed at the end, and the database's path in it.
fn place() -> (tempfile::TempDir, PathBuf) {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("vapor.db");
    (folder, path)
}

fn open(path: &Path) -> Store {
    Store::open(path, StoreOptions::default()).unwrap()
}

fn subject(name: &str) -> Subject {
    Subject {
        r#type: SubjectType::Vm,
        id: "5f6c7c1e-0000-4000-8000-000000000001".to_owned(),
        name: name.to_owned(),
    }
}

fn task(kind: &str) -> Task {
    Task {
        id: Uuid::now_v7(),
        kind: kind.to_owned(),
        status: TaskStatus::Running,
        subject: subject("web1"),
        principal: "unix:root".to_owned(),
        request_id: "r-1".to_owned(),
        created_at: Timestamp::now(),
        started_at: Some(Timestamp::now()),
        finished_at: None,
        progress: Progress::default(),
        cancellable: true,
        parent: None,
        warnings: Vec::new(),
        result: None,
        error: None,
    }
}

fn finished(task: &Task) -> Task {
    Task {
        status: TaskStatus::Succeeded,
        finished_at: Some(Timestamp::now()),
        progress: Progress { percent: Some(100), ..Progress::default() },
        result: Some(json!({"name": "web1"})),
        ..task.clone()
    }
}

fn event(kind: &str) -> NewEvent {
    NewEvent {
        kind: kind.to_owned(),
        subject: subject("web1"),
        principal: Some("unix:root".to_owned()),
        task: Some(Uuid::nil()),
        data: json!({"detail": "booted"}),
    }
}
