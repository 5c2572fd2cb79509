//! The one error of the house, neutral of any transport.
//!
//! A [`Kind`] is stable: its code is part of the API and is listed by `GET /api/v1/errors`. Which
//! HTTP status a kind becomes is decided once, in `api/status.rs`. The message is written for the
//! operator and names the object concerned; what libvirt or SQLite said goes into `details` and
//! `source`, which the log shows and the message never repeats.

use std::fmt;
use std::time::Duration;

use serde_json::{Map, Value};

/// The result of everything in Vapor that can fail.
pub type Result<T, E = Error> = std::result::Result<T, E>;

macro_rules! kinds {
    ($($variant:ident = $code:literal, $meaning:literal, $hint:literal;)*) => {
        /// What went wrong, as a stable and exhaustive list.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
        pub enum Kind {
            $(#[doc = $meaning] $variant,)*
        }

        impl Kind {
            /// Every kind, in the order of the catalogue.
            pub const ALL: &'static [Kind] = &[$(Kind::$variant,)*];

            /// The code that clients see, upper-case and stable.
            pub const fn code(self) -> &'static str {
                match self { $(Kind::$variant => $code,)* }
            }

            /// One sentence for the catalogue: when this kind is answered.
            pub const fn meaning(self) -> &'static str {
                match self { $(Kind::$variant => $meaning,)* }
            }

            /// What a caller can do about it, where the place that failed knew nothing better.
            pub const fn hint(self) -> &'static str {
                match self { $(Kind::$variant => $hint,)* }
            }

            /// The kind with this code, if there is one.
            pub fn from_code(code: &str) -> Option<Kind> {
                match code { $($code => Some(Kind::$variant),)* _ => None }
            }
        }
    };
}

kinds! {
    InvalidRequest = "INVALID_REQUEST",
        "The request is malformed: not JSON, an unknown field, a wrong type or a value out of range.",
        "see details.fields for what is wrong, and /api/v1/openapi.json for what is expected";
    InvalidName = "INVALID_NAME",
        "A name is empty, too long or holds characters that libvirt or a file name cannot carry.",
        "use letters, digits, '.', '_', '+' and '-', at most 128 characters, starting with a letter, digit or '_'";
    InvalidCursor = "INVALID_CURSOR",
        "The cursor of a list was not issued by this daemon for this list.",
        "start again without a cursor";
    Unauthorized = "UNAUTHORIZED",
        "The request carries no credentials, or bad ones.",
        "connect over the Unix socket as a user who may open it";
    Forbidden = "FORBIDDEN",
        "The caller is known and may not do this.",
        "ask whoever administers this host";
    RouteNotFound = "ROUTE_NOT_FOUND",
        "No such path in the API.",
        "the paths are listed in /api/v1/openapi.json";
    VmNotFound = "VM_NOT_FOUND",
        "No virtual machine has this name or UUID.",
        "list the virtual machines with GET /api/v1/virtualization/virtualmachines";
    DiskNotFound = "DISK_NOT_FOUND",
        "The virtual machine has no such disk.",
        "the VM's disks are listed in its `disks`";
    PoolNotFound = "POOL_NOT_FOUND",
        "No storage pool has this name.",
        "list the pools with GET /api/v1/virtualization/storages/pools";
    VolumeNotFound = "VOLUME_NOT_FOUND",
        "The pool has no such volume, or no pool holds this path.",
        "a path is accepted only if it is a volume of a known pool; refresh the pool if the file is new";
    NetworkNotFound = "NETWORK_NOT_FOUND",
        "No network has this name.",
        "list the networks with GET /api/v1/virtualization/networks";
    IsoNotFound = "ISO_NOT_FOUND",
        "No ISO image is registered with this id or name.",
        "list the images with GET /api/v1/virtualization/isos";
    TemplateNotFound = "TEMPLATE_NOT_FOUND",
        "No template has this id or name.",
        "list the templates with GET /api/v1/virtualization/virtualmachines/templates";
    DefinitionNotFound = "DEFINITION_NOT_FOUND",
        "The history of the virtual machine's definition has no such version, or not any more.",
        "list the versions with GET /api/v1/virtualization/virtualmachines/{id}/definitions";
    UploadNotFound = "UPLOAD_NOT_FOUND",
        "No upload has this id; it may have ended, been terminated or expired.",
        "begin a new upload, or look at the volume: it is there if the upload was finished";
    TaskNotFound = "TASK_NOT_FOUND",
        "No task has this id, or its record has expired.",
        "list the tasks with GET /api/v1/tasks";
    MethodNotAllowed = "METHOD_NOT_ALLOWED",
        "The path exists and does not know this method.",
        "the header Allow lists the methods";
    NotAcceptable = "NOT_ACCEPTABLE",
        "The client accepts none of the representations there are.",
        "accept application/json";
    RequestTimeout = "REQUEST_TIMEOUT",
        "The request did not arrive completely in time.",
        "send the whole request without pauses";
    VmAlreadyExists = "VM_ALREADY_EXISTS",
        "A virtual machine with this name or UUID exists.",
        "choose another name, or delete the existing one first";
    VmAlreadyRunning = "VM_ALREADY_RUNNING",
        "The virtual machine is running already.",
        "nothing needs to be done";
    VmAlreadyStopped = "VM_ALREADY_STOPPED",
        "The virtual machine is stopped already.",
        "nothing needs to be done";
    VmAlreadyPaused = "VM_ALREADY_PAUSED",
        "The virtual machine is paused already.",
        "nothing needs to be done";
    VmRunning = "VM_RUNNING",
        "The virtual machine runs, and this needs a stopped one.",
        "stop it first";
    VmNotRunning = "VM_NOT_RUNNING",
        "The virtual machine does not run, and this needs a running one.",
        "start it first";
    VmWrongState = "VM_WRONG_STATE",
        "The virtual machine is in a state in which this cannot be done.",
        "details.state says which state it is in";
    VmBusy = "VM_BUSY",
        "Another operation works on this virtual machine.",
        "wait for the task in details.task, or cancel it";
    VmHasSnapshots = "VM_HAS_SNAPSHOTS",
        "The virtual machine has snapshots, which would be lost.",
        "delete them first, or say remove_snapshots=true";
    VmHasSavedState = "VM_HAS_SAVED_STATE",
        "The virtual machine has a saved state, which would be lost.",
        "start it once, or say remove_saved_state=true";
    VmHasNoSavedState = "VM_HAS_NO_SAVED_STATE",
        "The virtual machine has no saved state to restore.",
        "start it instead";
    VmTransient = "VM_TRANSIENT",
        "The virtual machine is transient: it has no definition that could be kept or changed.",
        "define it persistently first (PUT …/xml)";
    VolumeAlreadyExists = "VOLUME_ALREADY_EXISTS",
        "The pool has a volume of this name.",
        "choose another name, or delete the existing volume first";
    MacInUse = "MAC_IN_USE",
        "Another virtual machine has a NIC with this MAC address.",
        "leave the MAC out to get a new one; details.vm names the one that has it";
    VolumeInUse = "VOLUME_IN_USE",
        "A virtual machine uses the volume, or another volume is based on it.",
        "details.vms and details.volumes name who uses it; detach it there first";
    VolumeBusy = "VOLUME_BUSY",
        "Another operation works on this volume.",
        "wait for the task in details.task, or cancel it";
    PoolBusy = "POOL_BUSY",
        "Another operation works on this storage pool, or on volumes in it.",
        "wait for the task in details.task, or cancel it";
    NetworkBusy = "NETWORK_BUSY",
        "Another operation works on this network.",
        "wait for the task in details.task, or cancel it";
    IsoBusy = "ISO_BUSY",
        "Another operation works on this ISO image.",
        "wait for the task in details.task, or cancel it";
    IsoAlreadyExists = "ISO_ALREADY_EXISTS",
        "An ISO image with this name, or of this volume, is registered.",
        "choose another name, or delete the registered image first";
    IsoInUse = "ISO_IN_USE",
        "The ISO image is inserted in a virtual machine.",
        "details.vms names the machines; eject it there first";
    TemplateBusy = "TEMPLATE_BUSY",
        "Another operation works on this template.",
        "wait for the task in details.task, or cancel it";
    TemplateAlreadyExists = "TEMPLATE_ALREADY_EXISTS",
        "A template with this name exists.",
        "choose another name, or delete the existing template first";
    TemplateInUse = "TEMPLATE_IN_USE",
        "Disks of virtual machines read from the template's images.",
        "details.vms and details.volumes name them; delete those first";
    DriveEmpty = "DRIVE_EMPTY",
        "There is no medium in the drive.",
        "nothing needs to be done";
    MediumAlreadyInserted = "MEDIUM_ALREADY_INSERTED",
        "This medium is in the drive already.",
        "nothing needs to be done";
    MediumLocked = "MEDIUM_LOCKED",
        "The guest keeps the tray of the drive shut.",
        "unmount the medium in the guest, or say force=true";
    PoolAlreadyExists = "POOL_ALREADY_EXISTS",
        "A storage pool with this name exists.",
        "choose another name, or delete the existing one first";
    PoolConflict = "POOL_CONFLICT",
        "Another storage pool has this source, or a target that overlaps with this one.",
        "details.pool names it; use it, or choose another place";
    PoolActive = "POOL_ACTIVE",
        "The storage pool is active, and this needs an inactive one.",
        "stop the pool first";
    PoolInUse = "POOL_IN_USE",
        "Running virtual machines use volumes of the storage pool.",
        "details.vms names them; stop them first, or say force=true, which harms none of them";
    PoolNotEmpty = "POOL_NOT_EMPTY",
        "The storage pool has volumes, which would be lost sight of.",
        "say delete_volumes=true to delete them, or stop the pool first to forget it and keep them";
    NetworkAlreadyExists = "NETWORK_ALREADY_EXISTS",
        "A network with this name exists.",
        "choose another name, or delete the existing network first";
    NetworkAlreadyActive = "NETWORK_ALREADY_ACTIVE",
        "The network is active already.",
        "nothing needs to be done";
    NetworkInUse = "NETWORK_IN_USE",
        "Running virtual machines are plugged into the network.",
        "details.vms names them; stop them first, or say force=true";
    NetworkConflict = "NETWORK_CONFLICT",
        "The network's addresses, or its bridge, belong to another network or to the host.",
        "details name who has them; choose others";
    PoolInactive = "POOL_INACTIVE",
        "The storage pool is not active.",
        "start the pool first";
    NetworkInactive = "NETWORK_INACTIVE",
        "The network is not active.",
        "start the network first";
    UploadBusy = "UPLOAD_BUSY",
        "Another request sends to this upload right now.",
        "end the other request, or wait until it has stalled, then ask for the offset";
    UploadOffsetMismatch = "UPLOAD_OFFSET_MISMATCH",
        "The offset is not where the upload stands.",
        "ask for the offset with HEAD and go on there";
    TusVersionUnsupported = "TUS_VERSION_UNSUPPORTED",
        "The request speaks another version of the tus protocol, or does not say which.",
        "send Tus-Resumable: 1.0.0";
    ChecksumMismatch = "CHECKSUM_MISMATCH",
        "A part of an upload does not have the checksum that came with it.",
        "send the part again from the same offset";
    DigestMismatch = "DIGEST_MISMATCH",
        "The whole upload does not have the SHA-256 that was announced; nothing of it was kept.",
        "check the file at its source and upload it again";
    ImageRefused = "IMAGE_REFUSED",
        "The image refers to other files, is damaged, or is not what it is declared to be.",
        "flatten it with qemu-img convert, or declare its true format";
    RangeNotSatisfiable = "RANGE_NOT_SATISFIABLE",
        "The range begins behind the end of the volume.",
        "details.size_bytes is how many bytes there are";
    TaskNotCancellable = "TASK_NOT_CANCELLABLE",
        "The task cannot be cancelled, or not any more.",
        "wait for it to finish";
    TaskFinished = "TASK_FINISHED",
        "The task has finished already.",
        "its result stands in GET /api/v1/tasks/{id}";
    Cancelled = "CANCELLED",
        "The operation was cancelled, and what it had done was undone.",
        "start it again if that was not intended";
    Interrupted = "INTERRUPTED",
        "The daemon or libvirt went away while the operation ran; details say what stands now.",
        "look at the object, then repeat the operation if it is still wanted";
    GuestTimeout = "GUEST_TIMEOUT",
        "The guest did not do what it was asked in time.",
        "repeat with force=true, or with a longer timeout";
    GuestAgentUnavailable = "GUEST_AGENT_UNAVAILABLE",
        "This needs the guest agent, which does not answer.",
        "install and start qemu-guest-agent in the guest";
    PreconditionFailed = "PRECONDITION_FAILED",
        "If-Match names another version than the present one.",
        "get the object again and decide anew";
    NotSupported = "NOT_SUPPORTED",
        "Well-formed, but this host, this libvirt or this version of Vapor cannot do it.",
        "details say what is missing";
    Impossible = "IMPOSSIBLE",
        "Well-formed, but contradictory or impossible for this object.",
        "details say which values conflict";
    InvalidDefinition = "INVALID_DEFINITION",
        "The domain XML is not well-formed, or libvirt does not accept it.",
        "check it with virt-xml-validate";
    NotAnIso = "NOT_AN_ISO",
        "The volume holds no ISO 9660 or UDF file system.",
        "register an image of an optical disc; other images are volumes like any other";
    InsufficientSpace = "INSUFFICIENT_SPACE",
        "The storage pool has not enough room.",
        "free room in the pool, or use another one";
    LibvirtRefused = "LIBVIRT_REFUSED",
        "libvirt refused or failed to do it; details hold its domain, code and text.",
        "details.libvirt.text says what libvirt or QEMU objected to";
    IdempotencyKeyReused = "IDEMPOTENCY_KEY_REUSED",
        "This Idempotency-Key was used for a different request.",
        "use a new key for each new request";
    PayloadTooLarge = "PAYLOAD_TOO_LARGE",
        "The body is larger than the limit.",
        "the limit is [limits] body_bytes in vapor.conf";
    UnsupportedMediaType = "UNSUPPORTED_MEDIA_TYPE",
        "The body has a content type that this path does not take.",
        "send Content-Type: application/json";
    TooManyRequests = "TOO_MANY_REQUESTS",
        "Too much is under way already.",
        "wait as long as Retry-After says";
    LibvirtUnavailable = "LIBVIRT_UNAVAILABLE",
        "libvirt does not answer; reads are served from the last known picture.",
        "the daemon reconnects by itself; check that libvirtd (or virtqemud) runs";
    LibvirtTimeout = "LIBVIRT_TIMEOUT",
        "libvirt did not answer in time; the call may still take effect.",
        "look at the object before repeating";
    DatabaseUnavailable = "DATABASE_UNAVAILABLE",
        "The database cannot be written or read.",
        "check the disk that holds [database] path, and the daemon's log";
    ShuttingDown = "SHUTTING_DOWN",
        "The daemon is stopping and takes no new work.",
        "repeat when it is back";
    Config = "CONFIG",
        "The configuration cannot be used.",
        "check it with vapord --check-config";
    Internal = "INTERNAL",
        "A defect in Vapor.",
        "report it with the request id; the daemon's log says more";
}

/// One failure: what a client may see, and what only the log sees.
pub struct Error(Box<Inner>);

struct Inner {
    kind: Kind,
    message: String,
    hint: Option<String>,
    details: Map<String, Value>,
    retry_after: Option<Duration>,
    source: Option<Box<dyn std::error::Error + Send + Sync>>,
}

impl Error {
    /// `message` is lower-case, without a full stop, and names the object: `no VM named "web1"`.
    pub fn new(kind: Kind, message: impl Into<String>) -> Self {
        Error(Box::new(Inner {
            kind,
            message: message.into(),
            hint: None,
            details: Map::new(),
            retry_after: None,
            source: None,
        }))
    }

    /// A request that breaks the contract in one field.
    pub fn field(field: impl Into<String>, problem: impl Into<String>) -> Self {
        let (field, problem) = (field.into(), problem.into());
        Error::new(Kind::InvalidRequest, format!("{field}: {problem}")).with_field(field, problem)
    }

    /// A defect of ours. `what` goes to the log; the client sees only that it was a defect.
    pub fn internal(what: impl fmt::Display) -> Self {
        Error::new(Kind::Internal, "an internal error").with_source(what.to_string())
    }

    /// A better hint than the kind's own.
    #[must_use]
    pub fn with_hint(mut self, hint: impl Into<String>) -> Self {
        self.0.hint = Some(hint.into());
        self
    }

    /// Adds one entry of `details`.
    #[must_use]
    pub fn with_detail(mut self, key: &str, value: impl Into<Value>) -> Self {
        self.0.details.insert(key.to_owned(), value.into());
        self
    }

    /// Adds one entry of `details.fields`.
    #[must_use]
    pub fn with_field(mut self, field: impl Into<String>, problem: impl Into<String>) -> Self {
        let entry = serde_json::json!({"field": field.into(), "problem": problem.into()});
        match self.0.details.get_mut("fields") {
            Some(Value::Array(fields)) => fields.push(entry),
            _ => {
                self.0.details.insert("fields".to_owned(), Value::Array(vec![entry]));
            }
        }
        self
    }

    /// How long the caller should wait before it repeats the request.
    #[must_use]
    pub fn with_retry_after(mut self, after: Duration) -> Self {
        self.0.retry_after = Some(after);
        self
    }

    /// The cause, for the log alone.
    #[must_use]
    pub fn with_source(
        mut self,
        source: impl Into<Box<dyn std::error::Error + Send + Sync>>,
    ) -> Self {
        self.0.source = Some(source.into());
        self
    }

    /// The stable kind.
    pub fn kind(&self) -> Kind {
        self.0.kind
    }

    /// What a client may read.
    pub fn message(&self) -> &str {
        &self.0.message
    }

    /// What a caller can do about it.
    pub fn hint(&self) -> &str {
        self.0.hint.as_deref().unwrap_or_else(|| self.0.kind.hint())
    }

    /// Machine-readable context.
    pub fn details(&self) -> &Map<String, Value> {
        &self.0.details
    }

    /// When to try again, where that makes sense.
    pub fn retry_after(&self) -> Option<Duration> {
        self.0.retry_after
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0.message)
    }
}

impl fmt::Debug for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.0.kind.code(), self.0.message)?;
        if !self.0.details.is_empty() {
            write!(f, " {}", Value::Object(self.0.details.clone()))?;
        }
        let mut cause = std::error::Error::source(self);
        while let Some(error) = cause {
            write!(f, "; caused by: {error}")?;
            cause = error.source();
        }
        Ok(())
    }
}

impl std::error::Error for Error {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        self.0.source.as_deref().map(|source| source as _)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_code_is_unique_and_leads_back_to_its_kind() {
        for kind in Kind::ALL {
            assert_eq!(Kind::from_code(kind.code()), Some(*kind));
        }
    }

    #[test]
    fn the_message_never_repeats_the_cause() {
        let error = Error::internal("row 7 has no state");
        assert_eq!(error.to_string(), "an internal error");
        assert!(format!("{error:?}").contains("row 7 has no state"));
    }

    #[test]
    fn field_problems_add_up() {
        let error = Error::field("memory", "must be at least 1").with_field("name", "is empty");
        assert_eq!(error.details()["fields"].as_array().map(Vec::len), Some(2));
    }
}
