//! How a command fails: what is written on stderr, and the exit code that scripts go by.

use std::io;

use serde_json::Value;

use super::text::{plain, quoted, safe, safe_lines};
use crate::error::Kind;

/// The result of a command or a part of one.
pub type Result<T, E = Failure> = std::result::Result<T, E>;

/// The exit codes, as `--help` lists them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Exit {
    Ok = 0,
    /// The daemon reported a failure that no other code names.
    Failed = 1,
    /// Wrong usage, or a confirmation that was not given.
    Refused = 2,
    NotFound = 3,
    /// Exists already, in use, busy, or in a state in which it cannot be done.
    Conflict = 4,
    /// The daemon cannot be reached.
    Unreachable = 5,
    /// The daemon answers, libvirt does not.
    LibvirtUnavailable = 6,
    /// Waiting took longer than was asked for.
    Timeout = 7,
    Interrupted = 130,
}

impl Exit {
    /// The exit code for a code of the API; `status` decides for codes that this version of the
    /// command line does not know.
    pub fn of(code: &str, status: Option<u16>) -> Exit {
        match (Kind::from_code(code), status) {
            (Some(kind), _) => Exit::of_kind(kind),
            (None, Some(404)) => Exit::NotFound,
            (None, Some(409 | 412 | 429)) => Exit::Conflict,
            (None, Some(504)) => Exit::Timeout,
            (None, _) => Exit::Failed,
        }
    }

    /// Exhaustive, so that a new kind does not compile without an exit code.
    const fn of_kind(kind: Kind) -> Exit {
        match kind {
            Kind::RouteNotFound
            | Kind::VmNotFound
            | Kind::DiskNotFound
            | Kind::PoolNotFound
            | Kind::VolumeNotFound
            | Kind::NetworkNotFound
            | Kind::IsoNotFound
            | Kind::TemplateNotFound
            | Kind::DefinitionNotFound
            | Kind::UploadNotFound
            | Kind::TaskNotFound => Exit::NotFound,
            Kind::VmAlreadyExists
            | Kind::TemplateBusy
            | Kind::TemplateAlreadyExists
            | Kind::TemplateInUse
            | Kind::VmAlreadyRunning
            | Kind::VmAlreadyStopped
            | Kind::VmAlreadyPaused
            | Kind::VmRunning
            | Kind::VmNotRunning
            | Kind::VmWrongState
            | Kind::VmBusy
            | Kind::VmHasSnapshots
            | Kind::VmHasSavedState
            | Kind::VmHasNoSavedState
            | Kind::VmTransient
            | Kind::VolumeAlreadyExists
            | Kind::VolumeInUse
            | Kind::MacInUse
            | Kind::VolumeBusy
            | Kind::PoolBusy
            | Kind::NetworkBusy
            | Kind::IsoBusy
            | Kind::IsoAlreadyExists
            | Kind::IsoInUse
            | Kind::DriveEmpty
            | Kind::MediumAlreadyInserted
            | Kind::MediumLocked
            | Kind::PoolAlreadyExists
            | Kind::PoolConflict
            | Kind::PoolActive
            | Kind::PoolInUse
            | Kind::PoolNotEmpty
            | Kind::PoolInactive
            | Kind::NetworkInactive
            | Kind::UploadBusy
            | Kind::UploadOffsetMismatch
            | Kind::NetworkAlreadyExists
            | Kind::NetworkAlreadyActive
            | Kind::NetworkInUse
            | Kind::NetworkConflict
            | Kind::TaskNotCancellable
            | Kind::TaskFinished
            | Kind::PreconditionFailed
            | Kind::TooManyRequests => Exit::Conflict,
            Kind::LibvirtUnavailable => Exit::LibvirtUnavailable,
            Kind::GuestTimeout | Kind::LibvirtTimeout => Exit::Timeout,
            Kind::ShuttingDown => Exit::Unreachable,
            Kind::InvalidRequest
            | Kind::InvalidName
            | Kind::InvalidCursor
            | Kind::Unauthorized
            | Kind::Forbidden
            | Kind::MethodNotAllowed
            | Kind::NotAcceptable
            | Kind::RequestTimeout
            | Kind::Cancelled
            | Kind::Interrupted
            | Kind::GuestAgentUnavailable
            | Kind::NotSupported
            | Kind::Impossible
            | Kind::InvalidDefinition
            | Kind::NotAnIso
            | Kind::InsufficientSpace
            | Kind::TusVersionUnsupported
            | Kind::ChecksumMismatch
            | Kind::DigestMismatch
            | Kind::ImageRefused
            | Kind::RangeNotSatisfiable
            | Kind::LibvirtRefused
            | Kind::IdempotencyKeyReused
            | Kind::PayloadTooLarge
            | Kind::UnsupportedMediaType
            | Kind::DatabaseUnavailable
            | Kind::Config
            | Kind::Internal => Exit::Failed,
        }
    }
}

/// One failure, ready to be shown.
#[derive(Clone, Debug, PartialEq)]
pub struct Failure {
    pub exit: Exit,
    /// The API's code, where the daemon reported the failure.
    pub code: Option<String>,
    message: String,
    /// Lines between the message and the hint: field problems, who holds the VM, libvirt's words.
    notes: Vec<String>,
    hint: Option<String>,
    silent: bool,
}

impl Failure {
    /// A failure with a message in the style of the daemon's.
    pub fn new(exit: Exit, message: impl Into<String>) -> Self {
        Failure {
            exit,
            code: None,
            message: message.into(),
            notes: Vec::new(),
            hint: None,
            silent: false,
        }
    }

    /// What the user can do about it.
    #[must_use]
    pub fn with_hint(mut self, hint: impl Into<String>) -> Self {
        self.hint = Some(hint.into());
        self
    }

    /// One more line between message and hint.
    #[must_use]
    pub fn with_note(mut self, note: impl Into<String>) -> Self {
        self.notes.push(note.into());
        self
    }

    /// A failure whose message has been shown already.
    pub fn silent(exit: Exit) -> Self {
        Failure { silent: true, ..Failure::new(exit, "") }
    }

    /// The daemon's `error` object, of a reply (then with its status) or of a task.
    pub fn reported(error: &Value, status: Option<u16>) -> Self {
        let text = |key: &str| error.get(key).and_then(Value::as_str);
        let code = text("code").unwrap_or_default();
        let message = text("message").unwrap_or("the daemon reported a failure without a message");
        // the rest of the fields follows, line by line
        let message = match message.rsplit_once(", and ") {
            Some((first, rest)) if rest.ends_with("more in details.fields") => first,
            _ => message,
        };
        let mut failure = Failure::new(Exit::of(code, status), message);
        failure.code = (!code.is_empty()).then(|| code.to_owned());
        failure.hint = text("hint").and_then(|hint| in_own_words(code, hint));
        let details = error.get("details").unwrap_or(&Value::Null);
        failure.notes = notes(code, message, details);
        if let Some(id) = text("request_id").filter(|_| code == Kind::Internal.code()) {
            failure.notes.push(format!("request id: {id}"));
        }
        if let Some(task) =
            details.get("task").and_then(task_id).filter(|_| code == Kind::VmBusy.code())
        {
            failure.hint = Some(format!(
                "wait for it with `vapor task wait {task}`, or cancel it with `vapor task cancel {task}`"
            ));
        }
        if let Some(near) = details.get("nearest").and_then(Value::as_str) {
            failure = failure.with_suggestion(near);
        }
        failure
    }

    /// A success that is none: the reply cannot be understood.
    pub fn unintelligible(what: impl std::fmt::Display) -> Self {
        Failure::new(Exit::Failed, format!("the daemon's reply cannot be understood: {what}"))
            .with_hint("is vapord of the same version as vapor? compare `vapor status` with `vapor --version`")
    }

    /// Puts the nearest known name before any other hint.
    #[must_use]
    pub fn with_suggestion(mut self, near: &str) -> Self {
        let question = format!("did you mean {}?", quoted(near));
        if !self.hint.as_deref().is_some_and(|hint| hint.contains("did you mean")) {
            self.hint = Some(question);
        }
        self
    }

    /// Whether the hint names a near name already.
    pub fn has_suggestion(&self) -> bool {
        self.hint.as_deref().is_some_and(|hint| hint.contains("did you mean"))
    }

    /// What was wrong, without notes and hint.
    pub fn message(&self) -> &str {
        &self.message
    }

    /// The lines for stderr; empty for a failure that needs no words.
    pub fn render(&self) -> String {
        if self.silent {
            return String::new();
        }
        let mut text = format!("error: {}\n", safe(&self.message));
        for note in &self.notes {
            for line in note.lines() {
                text.push_str(&format!("  {}\n", safe_lines(line)));
            }
        }
        if let Some(hint) = &self.hint {
            text.push_str(&format!("hint: {}\n", safe(hint)));
        }
        text
    }
}

/// Details with a form of their own, and those that say nothing to a person.
const SHOWN: [&str; 9] =
    ["fields", "task", "operation", "principal", "libvirt", "vms", "nearest", "etag", "vm"];

/// What `details` hold that helps a person.
fn notes(code: &str, message: &str, details: &Value) -> Vec<String> {
    let mut notes = Vec::new();
    for field in details.get("fields").and_then(Value::as_array).into_iter().flatten() {
        let word = |key: &str| field.get(key).and_then(Value::as_str).unwrap_or_default();
        let line = format!("{}: {}", word("field"), word("problem"));
        if !message.contains(&line) && line != ": " && !message.ends_with(word("problem")) {
            notes.push(line);
        }
    }
    if let Some(task) = details.get("task").and_then(task_id) {
        if code == Kind::VmBusy.code() {
            if !message.contains(task) {
                let word = |key: &str| details.get(key).and_then(Value::as_str);
                let what = word("operation").map(|word| format!(" ({word})")).unwrap_or_default();
                notes.push(format!("held by task {task}{what}"));
            }
            if let Some(who) = details.get("principal").and_then(Value::as_str) {
                notes.push(format!("asked for by {who}"));
            }
        } else {
            notes.push(format!("its task: {task}"));
        }
    }
    if let Some(text) = details.get("libvirt").and_then(|l| l.get("text")).and_then(Value::as_str) {
        notes.push(format!("libvirt: {text}"));
    }
    if let Some(vms) = details.get("vms").and_then(Value::as_array).filter(|vms| !vms.is_empty()) {
        let names: Vec<String> = vms.iter().filter_map(Value::as_str).map(quoted).collect();
        notes.push(format!("used by: {}", names.join(", ")));
    }
    for (key, value) in details.as_object().into_iter().flatten() {
        let value = plain(value);
        if !SHOWN.contains(&key.as_str()) && !message.contains(&value) {
            notes.push(format!("{key}: {value}"));
        }
    }
    notes
}

/// The daemon's general hints speak of the API; this says the same of the command line, and nothing
/// where they only point at details that are shown anyway.
fn in_own_words(code: &str, hint: &str) -> Option<String> {
    let kind = Kind::from_code(code).filter(|kind| kind.hint() == hint);
    let own = match kind {
        Some(Kind::InvalidRequest | Kind::LibvirtRefused) => "",
        Some(Kind::VmNotFound) => "list the virtual machines with `vapor vm list`",
        Some(Kind::PoolNotFound) => "list the pools with `vapor pool list`",
        Some(Kind::NetworkNotFound) => "list the networks with `vapor network list`",
        Some(Kind::IsoNotFound) => "list the images with `vapor iso list`",
        Some(Kind::TemplateNotFound) => "list the templates with `vapor template list`",
        Some(Kind::DefinitionNotFound) => "list the versions with `vapor vm history`",
        Some(Kind::TaskNotFound) => "list the tasks with `vapor task list`",
        Some(Kind::RouteNotFound) => "list the paths with `vapor api GET /openapi.json`",
        Some(Kind::VmTransient) => "define it persistently first, with `vapor vm xml set`",
        Some(Kind::TaskFinished) => "its result is shown by `vapor task show`",
        Some(Kind::VmHasSnapshots) => "delete them first, or say --remove-snapshots",
        Some(Kind::VmHasSavedState) => "start it once, or say --remove-saved-state",
        Some(Kind::GuestTimeout) => "repeat with --force, or with a longer --timeout",
        Some(Kind::PreconditionFailed) => "it was changed in the meantime: look at it, and repeat",
        Some(Kind::Internal) => "report it with the request id; the daemon's log says more",
        _ => hint,
    };
    (!own.is_empty()).then(|| own.to_owned())
}

/// `details.task` is an id, or an object that has one.
fn task_id(task: &Value) -> Option<&str> {
    task.as_str().or_else(|| task.get("id")?.as_str())
}

/// Writing to stdout or stderr failed. A reader that has seen enough (`vapor vm list | head`) is
/// no failure at all.
impl From<io::Error> for Failure {
    fn from(error: io::Error) -> Self {
        match error.kind() {
            io::ErrorKind::BrokenPipe => Failure::silent(Exit::Ok),
            _ => Failure::new(Exit::Failed, format!("cannot write the output: {error}")),
        }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn every_exit_code_that_is_promised_is_reached_from_some_kind() {
        for (code, exit) in [
            ("VM_NOT_FOUND", Exit::NotFound),
            ("VM_BUSY", Exit::Conflict),
            ("PRECONDITION_FAILED", Exit::Conflict),
            ("LIBVIRT_UNAVAILABLE", Exit::LibvirtUnavailable),
            ("GUEST_TIMEOUT", Exit::Timeout),
            ("INVALID_REQUEST", Exit::Failed),
        ] {
            assert_eq!(Exit::of(code, None), exit, "{code}");
        }
    }

    #[test]
    fn a_code_of_a_later_daemon_is_judged_by_its_status() {
        assert_eq!(Exit::of("MOON_NOT_FOUND", Some(404)), Exit::NotFound);
        assert_eq!(Exit::of("MOON_BUSY", Some(409)), Exit::Conflict);
        assert_eq!(Exit::of("MOON", Some(500)), Exit::Failed);
    }

    /// Those that only someone who speaks HTTP by hand can meet.
    const OF_HTTP: [Kind; 1] = [Kind::MethodNotAllowed];

    #[test]
    fn no_hint_sends_an_operator_to_the_api() {
        for kind in Kind::ALL.iter().filter(|kind| !OF_HTTP.contains(kind)) {
            let hint = in_own_words(kind.code(), kind.hint()).unwrap_or_default();
            for word in ["GET /", "POST ", "PUT ", "DELETE ", "/api/", "header"] {
                let own = hint.replace("`vapor api GET /", "");
                assert!(!own.contains(word), "{}: {hint}", kind.code());
            }
        }
    }

    #[test]
    fn a_busy_vm_names_its_holder_and_how_to_wait_for_it() {
        let error = json!({"code": "VM_BUSY", "message": "\"web1\" is busy", "hint": "wait",
            "details": {"task": "0193", "operation": "vm.stop", "principal": "unix:root"}});
        assert_eq!(
            Failure::reported(&error, Some(409)).render(),
            "error: \"web1\" is busy\n  held by task 0193 (vm.stop)\n  asked for by unix:root\n\
             hint: wait for it with `vapor task wait 0193`, or cancel it with `vapor task cancel 0193`\n"
        );
    }

    #[test]
    fn field_problems_are_listed_once() {
        let error = json!({"code": "INVALID_REQUEST", "message": "memory: must be at least 16, and 1 more in details.fields",
            "details": {"fields": [{"field": "memory", "problem": "must be at least 16"},
                                   {"field": "vcpus", "problem": "is missing"}]}});
        let shown = Failure::reported(&error, Some(400)).render();
        assert_eq!(shown.matches("must be at least 16").count(), 1, "{shown}");
        assert!(shown.contains("  vcpus: is missing\n"), "{shown}");
        assert!(shown.starts_with("error: memory: must be at least 16\n"), "{shown}");
    }

    #[test]
    fn nothing_the_daemon_says_reaches_the_terminal_as_a_command() {
        let error = json!({"code": "X", "message": "no \u{1b}[2J", "hint": "h\u{7}",
            "details": {"libvirt": {"text": "a\u{9b}b\nsecond"}}});
        let shown = Failure::reported(&error, None).render();
        assert!(!shown.chars().any(|c| c.is_control() && c != '\n'), "{shown:?}");
        assert!(shown.contains("  libvirt: a\\u{9b}b\n  second\n"));
    }

    #[test]
    fn a_reader_that_went_away_is_no_failure() {
        let failure = Failure::from(io::Error::from(io::ErrorKind::BrokenPipe));
        assert_eq!((failure.exit, failure.render().as_str()), (Exit::Ok, ""));
    }
}
