//! Progress of a task on stderr: a bar on a terminal, lines where they are asked for, else nothing.

use std::fmt::Write as _;
use std::time::Duration;

use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};

use super::context::Terminal;
use super::text::{bytes, quoted, safe, seconds_short};
use crate::model::{Task, TaskStatus};

/// Where progress goes.
pub enum Meter {
    Silent,
    Bar(ProgressBar),
    /// The last line written, so that none is written twice.
    Lines(String),
}

impl Meter {
    /// A bar if stderr is a terminal, lines if they are asked for.
    pub fn new(terminal: &Terminal, lines: bool) -> Self {
        if terminal.err_is_tty {
            let bar = ProgressBar::with_draw_target(Some(100), ProgressDrawTarget::stderr());
            bar.set_style(spinner());
            bar.enable_steady_tick(Duration::from_millis(120));
            Meter::Bar(bar)
        } else if lines {
            Meter::Lines(String::new())
        } else {
            Meter::Silent
        }
    }

    /// Whether nothing would be shown.
    pub const fn is_silent(&self) -> bool {
        matches!(self, Meter::Silent)
    }

    /// Shows how far the task is.
    pub fn show(&mut self, terminal: &mut Terminal, task: &Task) {
        match self {
            Meter::Silent => {}
            Meter::Bar(bar) => {
                match task.progress.percent {
                    Some(percent) => {
                        bar.set_style(with_bar());
                        bar.set_position(u64::from(percent.min(100)));
                    }
                    None => bar.set_style(spinner()),
                }
                bar.set_message(summary(task));
            }
            Meter::Lines(last) => {
                // a line for each step and each percent, not for each second that is left
                let percent = task.progress.percent.map(|percent| format!("{percent}% "));
                let step = format!("{}{}", percent.unwrap_or_default(), what(task));
                if *last != step {
                    let _ = writeln!(terminal.err, "{step}{}", numbers(task));
                    *last = step;
                }
            }
        }
    }

    /// Takes the bar away.
    pub fn clear(&self) {
        if let Meter::Bar(bar) = self {
            bar.finish_and_clear();
        }
    }
}

fn spinner() -> ProgressStyle {
    ProgressStyle::with_template("{spinner} {msg} ({elapsed})")
        .unwrap_or_else(|_| ProgressStyle::default_spinner())
}

fn with_bar() -> ProgressStyle {
    ProgressStyle::with_template("[{bar:30}] {pos:>3}% {msg}")
        .unwrap_or_else(|_| ProgressStyle::default_bar())
}

/// One line: `vm.stop of "web1": shutting down`, with what is known in bytes and seconds.
pub fn summary(task: &Task) -> String {
    what(task) + &numbers(task)
}

/// `vm.stop of "web1": shutting down`.
fn what(task: &Task) -> String {
    let phase = match task.status {
        TaskStatus::Running => safe(&task.progress.phase).into_owned(),
        other => other.as_str().to_owned(),
    };
    let colon = if phase.is_empty() { "" } else { ": " };
    format!("{} of {}{colon}{phase}", safe(&task.kind), quoted(&task.subject.name))
}

/// The numbers of a progress, each with what goes before it; empty if none is known, or if it is
/// over.
fn numbers(task: &Task) -> String {
    if task.status != TaskStatus::Running {
        return String::new();
    }
    let progress = &task.progress;
    let mut text = String::new();
    if let (Some(done), Some(total)) = (progress.bytes_done, progress.bytes_total) {
        let _ = write!(text, ", {} of {}", bytes(done), bytes(total));
    }
    if let Some(rate) = progress.bytes_per_second.filter(|rate| *rate > 0) {
        let _ = write!(text, ", {}/s", bytes(rate));
    }
    if let Some(left) = progress.eta_seconds {
        let _ = write!(text, ", {} left", seconds_short(left));
    }
    text
}

/// The cell of a table: `42%`, or the phase while no number can be told.
pub fn cell(task: &Task) -> String {
    match (task.status, task.progress.percent) {
        (TaskStatus::Running, Some(percent)) => format!("{percent}%"),
        (TaskStatus::Running, None) if !task.progress.phase.is_empty() => {
            task.progress.phase.clone()
        }
        _ => super::text::NONE.to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::{Progress, Subject, SubjectType};

    fn task(status: TaskStatus, progress: Progress) -> Task {
        Task {
            id: uuid::Uuid::nil(),
            kind: "volume.clone".to_owned(),
            status,
            subject: Subject {
                r#type: SubjectType::Volume,
                id: "a/b".to_owned(),
                name: "b\u{1b}".to_owned(),
            },
            principal: String::new(),
            request_id: String::new(),
            created_at: jiff::Timestamp::UNIX_EPOCH,
            started_at: None,
            finished_at: None,
            progress,
            cancellable: false,
            parent: None,
            warnings: Vec::new(),
            result: None,
            error: None,
        }
    }

    #[test]
    fn progress_says_what_is_known_and_no_more() {
        let progress = Progress {
            phase: "copying".to_owned(),
            percent: Some(25),
            bytes_done: Some(1 << 30),
            bytes_total: Some(4 << 30),
            bytes_per_second: Some(100 << 20),
            eta_seconds: Some(31),
        };
        let running = task(TaskStatus::Running, progress.clone());
        assert_eq!(
            summary(&running),
            "volume.clone of \"b\\u{1b}\": copying, 1 GiB of 4 GiB, 100 MiB/s, 31s left"
        );
        assert_eq!(cell(&running), "25%");
        let done = task(TaskStatus::Succeeded, progress);
        assert_eq!(summary(&done), "volume.clone of \"b\\u{1b}\": succeeded");
        let queued = task(TaskStatus::Queued, Progress::default());
        assert_eq!(
            (summary(&queued).as_str(), cell(&queued).as_str()),
            ("volume.clone of \"b\\u{1b}\": queued", "-")
        );
    }
}
