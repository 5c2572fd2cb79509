//! The journal as a daemon that was killed leaves it.

use std::path::Path;

use jiff::Timestamp;
use serde_json::Value;
use uuid::Uuid;
use vapor::model::{Progress, Subject, SubjectType, Task, TaskStatus};
use vapor::store::{Step, StepState, Store, StoreOptions};

/// The database in a world's folder, while no daemon has it.
pub async fn journal(folder: &Path) -> Store {
    Store::open(&folder.join("vapor.db"), StoreOptions::default()).expect("the database")
}

/// A task about a VM that was cut off.
pub fn unfinished(kind: &str, vm: &str, uuid: &str) -> Task {
    Task {
        id: Uuid::now_v7(),
        kind: kind.to_owned(),
        status: TaskStatus::Running,
        subject: Subject { r#type: SubjectType::Vm, id: uuid.to_owned(), name: vm.to_owned() },
        principal: "unix:ann".to_owned(),
        request_id: "r-1".to_owned(),
        created_at: Timestamp::now(),
        started_at: Some(Timestamp::now()),
        finished_at: None,
        progress: Progress::default(),
        cancellable: false,
        parent: None,
        warnings: Vec::new(),
        result: None,
        error: None,
    }
}

/// Its steps, of which none is known to be done.
pub fn intended(steps: Vec<(&str, Value)>) -> Vec<Step> {
    let step = |(seq, (action, undo)): (u32, (&str, Value))| Step {
        seq,
        action: action.to_owned(),
        undo,
        state: StepState::Intended,
    };
    (1..).zip(steps).map(step).collect()
}
