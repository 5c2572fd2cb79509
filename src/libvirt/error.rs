//! libvirt's errors become ours: by its code and error domain, and by what was being done to what.
//!
//! libvirt's text is never the message; it goes into `details.libvirt` beside code and domain. Where
//! libvirt has only a catch-all code for a case that a caller must tell apart (a name that is taken,
//! no space left), its text decides. That is best effort: a daemon that speaks another language than
//! English gets the general kind, never a wrong one.

use std::fmt;

use serde_json::json;
use uuid::Uuid;
use virt::sys;

use crate::error::{Error, Kind, Result};

/// Leaves out what vanished while a list was read.
pub(super) fn present<T>(result: Result<T>, gone: Kind) -> Option<Result<T>> {
    match result {
        Err(error) if error.kind() == gone => None,
        other => Some(other),
    }
}

/// The object a call is about, for messages and for the choice of the kind.
#[derive(Clone, Copy, Debug)]
pub(super) enum What<'a> {
    /// The host or the connection itself.
    Host,
    /// A domain by name.
    Vm(&'a str),
    /// A domain of which only the UUID is known yet.
    VmId(Uuid),
    Pool(&'a str),
    Volume {
        pool: &'a str,
        name: &'a str,
    },
    /// A volume asked for by its path.
    Path(&'a str),
    Network(&'a str),
}

impl fmt::Display for What<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            What::Host => f.write_str("this host"),
            What::Vm(name) => write!(f, "VM {name:?}"),
            What::VmId(uuid) => write!(f, "VM {uuid}"),
            What::Pool(name) => write!(f, "pool {name:?}"),
            What::Volume { pool, name } => write!(f, "volume {name:?} of pool {pool:?}"),
            What::Path(path) => write!(f, "the volume at {path:?}"),
            What::Network(name) => write!(f, "network {name:?}"),
        }
    }
}

impl What<'_> {
    fn missing(&self, kind: Kind) -> String {
        match (self, kind) {
            (What::Vm(name), Kind::VmNotFound) => format!("no VM named {name:?}"),
            (What::VmId(uuid), Kind::VmNotFound) => format!("no VM with UUID {uuid}"),
            (What::Pool(name) | What::Volume { pool: name, .. }, Kind::PoolNotFound) => {
                format!("no pool named {name:?}")
            }
            (What::Volume { pool, name }, Kind::VolumeNotFound) => {
                format!("no volume named {name:?} in pool {pool:?}")
            }
            (What::Path(path), Kind::VolumeNotFound) => format!("no pool has a volume at {path:?}"),
            (What::Network(name), Kind::NetworkNotFound) => format!("no network named {name:?}"),
            (what, Kind::PoolNotFound) => format!("{what} needs a pool that does not exist"),
            (what, Kind::VolumeNotFound) => format!("{what} needs a volume that does not exist"),
            (what, Kind::NetworkNotFound) => format!("{what} needs a network that does not exist"),
            (what, _) => format!("{what} does not exist"),
        }
    }
}

/// Which kind libvirt's code means. `alive` says whether the connection still stands: the same code
/// and error domain can come from libvirtd's own helpers (virtlogd) over a healthy connection.
fn classify(code: u32, domain: u32, text: &str, what: &What<'_>, alive: bool) -> Kind {
    let transport = matches!(domain, sys::VIR_FROM_RPC | sys::VIR_FROM_REMOTE)
        || matches!(code, sys::VIR_ERR_RPC | sys::VIR_ERR_NO_CONNECT | sys::VIR_ERR_INVALID_CONN);
    if transport && !alive {
        return Kind::LibvirtUnavailable;
    }
    let about_vm = matches!(what, What::Vm(_) | What::VmId(_));
    if let Some(kind) = classify_pool(code, text, what).or_else(|| classify_volume(text, what)) {
        return kind;
    }
    match code {
        sys::VIR_ERR_NO_DOMAIN => Kind::VmNotFound,
        sys::VIR_ERR_NO_STORAGE_POOL => Kind::PoolNotFound,
        sys::VIR_ERR_NO_STORAGE_VOL => Kind::VolumeNotFound,
        sys::VIR_ERR_NO_NETWORK => Kind::NetworkNotFound,
        sys::VIR_ERR_OPERATION_TIMEOUT if about_vm => Kind::VmBusy,
        sys::VIR_ERR_AGENT_UNRESPONSIVE
        | sys::VIR_ERR_AGENT_UNSYNCED
        | sys::VIR_ERR_AGENT_COMMAND_TIMEOUT
        | sys::VIR_ERR_AGENT_COMMAND_FAILED => Kind::GuestAgentUnavailable,
        sys::VIR_ERR_XML_ERROR | sys::VIR_ERR_XML_DETAIL | sys::VIR_ERR_XML_INVALID_SCHEMA => {
            Kind::InvalidDefinition
        }
        sys::VIR_ERR_ARGUMENT_UNSUPPORTED if text.contains("guest agent is not configured") => {
            Kind::GuestAgentUnavailable
        }
        sys::VIR_ERR_CONFIG_UNSUPPORTED
        | sys::VIR_ERR_NO_SUPPORT
        | sys::VIR_ERR_ARGUMENT_UNSUPPORTED
        | sys::VIR_ERR_OPERATION_UNSUPPORTED => Kind::NotSupported,
        sys::VIR_ERR_OPERATION_FAILED if lacks_firmware(text) => Kind::NotSupported,
        sys::VIR_ERR_DOM_EXIST => Kind::VmAlreadyExists,
        sys::VIR_ERR_STORAGE_VOL_EXIST => Kind::VolumeAlreadyExists,
        sys::VIR_ERR_NETWORK_EXIST => Kind::NetworkAlreadyExists,
        _ if matches!(what, What::Network(_)) && network_kind(text).is_some() => {
            network_kind(text).unwrap_or(Kind::LibvirtRefused)
        }
        sys::VIR_ERR_OPERATION_FAILED
            if about_vm
                && (text.contains("already exists with uuid")
                    || text.contains("already defined with uuid")) =>
        {
            Kind::VmAlreadyExists
        }
        sys::VIR_ERR_OPERATION_FAILED if text.contains("storage vol already exists") => {
            Kind::VolumeAlreadyExists
        }
        // The test driver's word for an invalid operation.
        sys::VIR_ERR_INTERNAL_ERROR if domain == sys::VIR_FROM_TEST && about_vm => {
            wrong_state(text)
        }
        sys::VIR_ERR_OPERATION_INVALID => match domain {
            sys::VIR_FROM_NETWORK if text.contains("not active") => Kind::NetworkInactive,
            sys::VIR_FROM_STORAGE if text.contains("not active") => Kind::PoolInactive,
            _ => match what {
                What::Vm(_) | What::VmId(_) => wrong_state(text),
                What::Pool(_) | What::Volume { .. } if text.contains("not active") => {
                    Kind::PoolInactive
                }
                What::Network(_) if text.contains("not active") => Kind::NetworkInactive,
                _ => Kind::LibvirtRefused,
            },
        },
        _ if text.contains("No space left on device") || text.contains("Not enough free space") => {
            Kind::InsufficientSpace
        }
        _ => Kind::LibvirtRefused,
    }
}

/// Whether libvirt found no firmware image with what a definition asks for: "Unable to find 'efi'
/// firmware that is compatible with the current configuration", in older versions "Unable to find any
/// firmware to satisfy 'efi'".
fn lacks_firmware(text: &str) -> bool {
    text.contains("Unable to find") && text.contains(" firmware ")
}

/// What libvirt's text means for a network: its codes are catch-alls there.
fn network_kind(text: &str) -> Option<Kind> {
    if text.contains("already exists with uuid") || text.contains("already defined with uuid") {
        Some(Kind::NetworkAlreadyExists)
    } else if text.contains("already active") {
        Some(Kind::NetworkAlreadyActive)
    } else if text.contains("already in use") {
        // "bridge name 'x' already in use.", "Network is already in use by interface x"
        Some(Kind::NetworkConflict)
    } else {
        None
    }
}

/// What only libvirt's text tells of pools.
fn classify_pool(code: u32, text: &str, what: &What<'_>) -> Option<Kind> {
    if !matches!(what, What::Pool(_)) {
        return None;
    }
    let is_failure = code == sys::VIR_ERR_OPERATION_FAILED;
    if is_failure && text.contains("Storage source conflict with pool") {
        Some(Kind::PoolConflict)
    } else if is_failure
        && (text.contains("already exists with uuid") || text.contains("already defined with uuid"))
    {
        Some(Kind::PoolAlreadyExists)
    } else if text.contains("is already active") || text.contains("is still active") {
        Some(Kind::PoolActive)
    } else if text.contains("asynchronous jobs running") {
        Some(Kind::PoolBusy)
    } else if text.contains("missing backend for pool type") {
        Some(Kind::NotSupported)
    } else {
        None
    }
}

/// What only libvirt's text tells of volumes.
fn classify_volume(text: &str, what: &What<'_>) -> Option<Kind> {
    if !matches!(what, What::Volume { .. }) {
        return None;
    }
    let says = |words: &[&str]| words.iter().any(|words| text.contains(words));
    if says(&["is still being allocated", "is still in use"]) {
        Some(Kind::VolumeBusy)
    } else if says(&["has asynchronous jobs running"]) {
        Some(Kind::PoolBusy)
    } else if text.starts_with("Requested operation is not valid: volume target path")
        && text.ends_with("already exists")
    {
        Some(Kind::VolumeAlreadyExists)
    } else if says(&["File too large", "size is too large", "shrink capacity below"]) {
        Some(Kind::Impossible)
    } else if says(&["Cannot find 'scrub' in path"]) {
        Some(Kind::NotSupported)
    } else if says(&["Failed to create file", "Could not create"])
        && text.contains("No such file or directory")
    {
        // Its folder is gone.
        Some(Kind::PoolInactive)
    } else {
        None
    }
}

/// The pool that libvirt names as the one in conflict.
fn conflicting_pool(text: &str) -> Option<&str> {
    text.split_once("conflict with pool: '")?.1.strip_suffix('\'')
}

/// Which state was the wrong one, where libvirt's text tells.
fn wrong_state(text: &str) -> Kind {
    if text.contains("already running") {
        Kind::VmAlreadyRunning
    } else if text.contains("not running") {
        Kind::VmNotRunning
    } else {
        Kind::VmWrongState
    }
}

/// Our error for `error`, which libvirt returned when asked to `doing` (an infinitive without "to",
/// such as `start`) `what`.
pub(super) fn translate(
    error: &virt::error::Error,
    doing: &str,
    what: &What<'_>,
    alive: bool,
) -> Error {
    let (code, domain, text) = (error.code().to_raw(), error.domain().to_raw(), error.message());
    let kind = classify(code, domain, text, what, alive);
    let message = match kind {
        Kind::VmNotFound | Kind::PoolNotFound | Kind::VolumeNotFound | Kind::NetworkNotFound => {
            what.missing(kind)
        }
        Kind::VmBusy => {
            format!("cannot {doing} {what}: another libvirt job holds it, or QEMU does not answer")
        }
        Kind::VmWrongState => format!("cannot {doing} {what} in the state it is in"),
        Kind::VmAlreadyRunning => format!("cannot {doing} {what}: it is running already"),
        Kind::VmNotRunning => format!("cannot {doing} {what}: it is not running"),
        Kind::GuestAgentUnavailable => format!("the guest agent of {what} does not answer"),
        Kind::InvalidDefinition => format!("libvirt does not accept the XML to {doing} {what}"),
        Kind::NotSupported if lacks_firmware(text) => {
            format!("cannot {doing} {what}: this host has no firmware with what is asked for")
        }
        Kind::NotSupported => format!("libvirt cannot {doing} {what} here"),
        Kind::VmAlreadyExists => format!("cannot {doing} {what}: its name or UUID is taken"),
        Kind::VolumeAlreadyExists => format!("cannot {doing} {what}: it exists already"),
        Kind::PoolAlreadyExists => format!("cannot {doing} {what}: its name or UUID is taken"),
        Kind::PoolConflict => format!(
            "cannot {doing} {what}: its storage is that of pool {:?}",
            conflicting_pool(text).unwrap_or("another")
        ),
        Kind::PoolActive => format!("cannot {doing} {what}: it is active"),
        Kind::PoolBusy => format!("cannot {doing} {what}: libvirt works on its volumes"),
        Kind::VolumeBusy => format!("cannot {doing} {what}: libvirt works on it"),
        Kind::PoolInactive => {
            format!("cannot {doing} {what}: the storage pool is not active, or its folder is gone")
        }
        Kind::NetworkInactive => format!("cannot {doing} {what}: the network is not active"),
        Kind::NetworkAlreadyExists => format!("cannot {doing} {what}: its name or UUID is taken"),
        Kind::NetworkAlreadyActive => format!("cannot {doing} {what}: it is active already"),
        Kind::NetworkConflict => {
            format!("cannot {doing} {what}: its bridge or its addresses are in use already")
        }
        Kind::InsufficientSpace => format!("cannot {doing} {what}: no space left"),
        Kind::LibvirtUnavailable => {
            format!("libvirt went away when asked to {doing} {what}")
        }
        _ => format!("libvirt refused to {doing} {what}"),
    };
    let error = Error::new(kind, message)
        .with_detail("libvirt", json!({"code": code, "domain": domain, "text": text}))
        .with_source(error.clone());
    let error = if kind == Kind::NotSupported && lacks_firmware(text) {
        error.with_hint(
            "another machine, os.enrolled_keys false or no os.secure_boot may have one; the packages \
             ovmf and edk2-ovmf bring firmware",
        )
    } else {
        error
    };
    match conflicting_pool(text).filter(|_| kind == Kind::PoolConflict) {
        Some(pool) => error.with_detail("pool", pool),
        None => error,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const VM: What<'static> = What::Vm("web1");

    #[test]
    fn a_taken_name_is_told_apart_though_libvirt_calls_it_a_failed_operation() {
        let text = "operation failed: domain 'web1' already exists with uuid 1234";
        let kind = classify(sys::VIR_ERR_OPERATION_FAILED, sys::VIR_FROM_DOMAIN, text, &VM, true);
        assert_eq!(kind, Kind::VmAlreadyExists);
        let other = "operation failed: job 'migration out' failed";
        let kind = classify(sys::VIR_ERR_OPERATION_FAILED, sys::VIR_FROM_QEMU, other, &VM, true);
        assert_eq!(kind, Kind::LibvirtRefused);
    }

    #[test]
    fn a_transport_error_is_unavailability_only_if_the_connection_is_gone() {
        let text = "Failed to connect socket to '/run/libvirt/virtlogd-sock'";
        let kind = |alive| classify(sys::VIR_ERR_SYSTEM_ERROR, sys::VIR_FROM_RPC, text, &VM, alive);
        assert_eq!(kind(false), Kind::LibvirtUnavailable);
        assert_eq!(kind(true), Kind::LibvirtRefused);
    }

    #[test]
    fn the_state_change_lock_means_busy_and_the_agent_has_its_own_kind() {
        let kind = |code| classify(code, sys::VIR_FROM_QEMU, "", &VM, true);
        assert_eq!(kind(sys::VIR_ERR_OPERATION_TIMEOUT), Kind::VmBusy);
        assert_eq!(kind(sys::VIR_ERR_AGENT_UNRESPONSIVE), Kind::GuestAgentUnavailable);
        assert_eq!(kind(sys::VIR_ERR_OPERATION_INVALID), Kind::VmWrongState);
        assert_eq!(kind(sys::VIR_ERR_CONFIG_UNSUPPORTED), Kind::NotSupported);
    }

    #[test]
    fn an_inactive_network_that_stops_a_start_is_named_as_such() {
        let text = "Requested operation is not valid: network 'lab' is not active";
        let kind = classify(sys::VIR_ERR_OPERATION_INVALID, sys::VIR_FROM_NETWORK, text, &VM, true);
        assert_eq!(kind, Kind::NetworkInactive);
    }

    #[test]
    fn what_stands_in_a_networks_way_is_told_apart() {
        let what = What::Network("lab");
        let kind = |text| {
            classify(sys::VIR_ERR_OPERATION_FAILED, sys::VIR_FROM_NETWORK, text, &what, true)
        };
        assert_eq!(
            kind("operation failed: network 'lab' already exists with uuid 1-2"),
            Kind::NetworkAlreadyExists
        );
        let text = "internal error: Network is already in use by interface eth0";
        assert_eq!(kind(text), Kind::NetworkConflict);
        assert_eq!(kind("bridge name 'br0' already in use."), Kind::NetworkConflict);
        let text = "Requested operation is not valid: network is already active";
        assert_eq!(kind(text), Kind::NetworkAlreadyActive);
        assert_eq!(kind("something else"), Kind::LibvirtRefused);
    }

    #[test]
    fn the_storage_drivers_words_are_told_apart_where_its_codes_are_not() {
        let what = What::Volume { pool: "p", name: "a" };
        let kind = |code, text| classify(code, sys::VIR_FROM_STORAGE, text, &what, true);
        for (code, text, expected) in [
            (
                sys::VIR_ERR_OPERATION_INVALID,
                "Requested operation is not valid: volume 'a' is still being allocated.",
                Kind::VolumeBusy,
            ),
            (
                sys::VIR_ERR_OPERATION_INVALID,
                "Requested operation is not valid: volume target path '/p/a' already exists",
                Kind::VolumeAlreadyExists,
            ),
            (
                sys::VIR_ERR_INTERNAL_ERROR,
                "internal error: pool 'p' has asynchronous jobs running.",
                Kind::PoolBusy,
            ),
            (
                sys::VIR_ERR_SYSTEM_ERROR,
                "cannot extend file '/p/a': File too large",
                Kind::Impossible,
            ),
            (
                sys::VIR_ERR_SYSTEM_ERROR,
                "Cannot find 'scrub' in path: No such file or directory",
                Kind::NotSupported,
            ),
        ] {
            assert_eq!(kind(code, text), expected, "{text}");
        }
    }

    #[test]
    fn a_firmware_that_the_host_lacks_is_no_failure_of_libvirts() {
        for text in [
            "operation failed: Unable to find 'efi' firmware that is compatible with the current \
             configuration",
            "operation failed: Unable to find any firmware to satisfy 'efi'",
        ] {
            let kind = classify(sys::VIR_ERR_OPERATION_FAILED, sys::VIR_FROM_QEMU, text, &VM, true);
            assert_eq!(kind, Kind::NotSupported, "{text}");
        }
    }

    #[test]
    fn a_full_disk_is_insufficient_space_whatever_the_code() {
        let text = "cannot fill file '/pool/a': No space left on device";
        let what = What::Volume { pool: "p", name: "a" };
        let kind = classify(sys::VIR_ERR_SYSTEM_ERROR, sys::VIR_FROM_STORAGE, text, &what, true);
        assert_eq!(kind, Kind::InsufficientSpace);
    }

    #[test]
    fn the_message_names_the_object_and_leaves_libvirts_words_to_the_details() {
        let raw = virt::error::Error::from(std::ffi::CString::new("a\0b").unwrap_err());
        let error = translate(&raw, "start", &VM, true);
        assert_eq!(error.message(), "libvirt refused to start VM \"web1\"");
        assert_eq!(error.details()["libvirt"]["code"], sys::VIR_ERR_INVALID_ARG);
        assert!(error.details()["libvirt"]["text"].as_str().unwrap_or_default().contains("Null"));
    }
}
