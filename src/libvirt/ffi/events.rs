//! Event and close callbacks: what libvirt's event loop thread runs.
//!
//! A callback copies what it needs (name and UUID are local reads), puts an event into an unbounded
//! channel and returns. It never blocks, never makes a remote call (that would stall the loop that has
//! to read the answer), and never lets a panic out. Each registration owns a boxed sender, which
//! libvirt frees by our free callback on its own schedule, possibly after deregistration.
//!
//! Every registration holds a reference of its connection: a connection whose callbacks are not
//! deregistered is never closed.

use std::ffi::{c_char, c_int, c_uint, c_ulonglong, c_void};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::ptr;

use tokio::sync::mpsc::UnboundedSender;
use uuid::Uuid;
use virt::connect::Connect;
use virt::sys;

use super::{borrowed, last_error};
use crate::libvirt::event::{DomainEvent, LibvirtEvent, ResourceEvent};

type Sink = UnboundedSender<LibvirtEvent>;

/// What is registered on one connection. Must be given to [`unsubscribe`], or the connection stays.
#[derive(Default)]
pub(in crate::libvirt) struct Subscription {
    domain: Vec<c_int>,
    network: Vec<c_int>,
    pool: Vec<c_int>,
    device: Vec<c_int>,
}

/// Runs a callback's body so that a panic ends here, and sends what it makes.
///
/// # Safety
/// `opaque` is a `Box<Sink>` that libvirt has not freed, which it guarantees while a callback runs.
unsafe fn deliver(opaque: *mut c_void, make: impl FnOnce() -> Option<LibvirtEvent>) {
    // A panic must not cross into C. Its message has been printed by the panic hook.
    let _ = catch_unwind(AssertUnwindSafe(|| {
        if let Some(event) = make() {
            // SAFETY: the caller promises a live box of this type.
            let sink = unsafe { &*opaque.cast::<Sink>() };
            // Nobody listens any more: the daemon is stopping.
            let _ = sink.send(event);
        }
    }));
}

unsafe extern "C" fn free_sink(opaque: *mut c_void) {
    let _ = catch_unwind(AssertUnwindSafe(|| {
        // SAFETY: libvirt calls this once per registration, with the box made in `register`.
        drop(unsafe { Box::from_raw(opaque.cast::<Sink>()) });
    }));
}

/// # Safety
/// `domain` is the valid domain of a running callback.
unsafe fn domain_event(domain: sys::virDomainPtr, event: DomainEvent) -> Option<LibvirtEvent> {
    let mut uuid = [0u8; 16];
    // SAFETY: both calls only read the object in memory; the buffer has the 16 bytes libvirt writes.
    let (done, name) = unsafe {
        (sys::virDomainGetUUID(domain, uuid.as_mut_ptr()), borrowed(sys::virDomainGetName(domain)))
    };
    if done < 0 {
        return None;
    }
    Some(LibvirtEvent::Domain { uuid: Uuid::from_bytes(uuid), name: name?, event })
}

/// One trampoline per event: its C signature, and what becomes of its arguments.
macro_rules! on_domain {
    ($name:ident ( $($arg:ident : $type:ty),* ) $(-> $back:ty = $value:expr)?, $event:expr) => {
        unsafe extern "C" fn $name(
            _connect: sys::virConnectPtr,
            domain: sys::virDomainPtr,
            $($arg: $type,)*
            opaque: *mut c_void,
        ) $(-> $back)? {
            // SAFETY: libvirt calls this with the opaque of `register` and a domain and texts that
            // are valid while the callback runs.
            unsafe { deliver(opaque, || domain_event(domain, $event?)) };
            $($value)?
        }
    };
}

/// # Safety
/// `text` is null or valid during the call.
unsafe fn text(text: *const c_char) -> String {
    // SAFETY: promised by the caller.
    unsafe { borrowed(text) }.unwrap_or_default()
}

on_domain!(lifecycle(event: c_int, detail: c_int) -> c_int = 0,
    DomainEvent::from_lifecycle(event, detail));
on_domain!(reboot(), Some(DomainEvent::Rebooted));
on_domain!(watchdog(action: c_int), Some(DomainEvent::from_watchdog(action)));
on_domain!(io_error(
    path: *const c_char, alias: *const c_char, action: c_int, reason: *const c_char
), Some(DomainEvent::IoError {
    alias: text(alias),
    path: text(path),
    reason: text(reason),
    paused: action == sys::VIR_DOMAIN_EVENT_IO_ERROR_PAUSE as c_int,
}));
on_domain!(control_error(), Some(DomainEvent::ControlError));
on_domain!(block_job(disk: *const c_char, kind: c_int, status: c_int),
    Some(DomainEvent::from_block_job(text(disk), kind, status)));
on_domain!(disk_change(
    _old: *const c_char, new: *const c_char, alias: *const c_char, _reason: c_int
), Some(DomainEvent::MediaChanged {
    alias: text(alias),
    what: if new.is_null() { "missing" } else { "changed" },
}));
on_domain!(tray_change(alias: *const c_char, reason: c_int), Some(DomainEvent::MediaChanged {
    alias: text(alias),
    what: if reason == sys::VIR_DOMAIN_EVENT_TRAY_CHANGE_OPEN as c_int { "open" } else { "closed" },
}));
on_domain!(wakeup(_reason: c_int), Some(DomainEvent::PmWakeup));
on_domain!(balloon(actual: c_ulonglong), Some(DomainEvent::BalloonChanged { kib: actual }));
on_domain!(device_removed(alias: *const c_char),
    Some(DomainEvent::DeviceRemoved { alias: text(alias) }));
on_domain!(device_added(alias: *const c_char),
    Some(DomainEvent::DeviceAdded { alias: text(alias) }));
on_domain!(removal_failed(alias: *const c_char),
    Some(DomainEvent::DeviceRemovalFailed { alias: text(alias) }));
on_domain!(tunable(_params: sys::virTypedParameterPtr, _count: c_int),
    Some(DomainEvent::TunableChanged));
on_domain!(agent(state: c_int, _reason: c_int), DomainEvent::from_agent(state));
on_domain!(iteration(iteration: c_int),
    Some(DomainEvent::MigrationIteration { iteration: u32::try_from(iteration).unwrap_or(0) }));
on_domain!(job_completed(_params: sys::virTypedParameterPtr, _count: c_int),
    Some(DomainEvent::JobCompleted));
on_domain!(metadata(_kind: c_int, _uri: *const c_char), Some(DomainEvent::MetadataChanged));
on_domain!(threshold(
    disk: *const c_char, _path: *const c_char, threshold: c_ulonglong, excess: c_ulonglong
), Some(DomainEvent::BlockThreshold { disk: text(disk), threshold, excess }));
on_domain!(memory_failure(_recipient: c_int, _action: c_int, _flags: c_uint),
    Some(DomainEvent::MemoryFailure));
on_domain!(memory_size(alias: *const c_char, size: c_ulonglong),
    Some(DomainEvent::MemoryDeviceResized { alias: text(alias), kib: size }));

/// # Safety
/// `network` is the valid network of a running callback.
unsafe fn network_event(
    network: sys::virNetworkPtr,
    event: Option<ResourceEvent>,
) -> Option<LibvirtEvent> {
    let mut uuid = [0u8; 16];
    // SAFETY: both calls only read the object in memory; the buffer has the 16 bytes libvirt writes.
    let (done, name) = unsafe {
        (
            sys::virNetworkGetUUID(network, uuid.as_mut_ptr()),
            borrowed(sys::virNetworkGetName(network)),
        )
    };
    if done < 0 {
        return None;
    }
    Some(LibvirtEvent::Network { uuid: Uuid::from_bytes(uuid), name: name?, event: event? })
}

unsafe extern "C" fn network_lifecycle(
    _connect: sys::virConnectPtr,
    network: sys::virNetworkPtr,
    event: c_int,
    _detail: c_int,
    opaque: *mut c_void,
) {
    // SAFETY: libvirt calls this with the opaque of `register` and a valid network.
    unsafe { deliver(opaque, || network_event(network, ResourceEvent::from_network(event))) };
}

/// # Safety
/// `pool` is the valid pool of a running callback.
unsafe fn pool_event(
    pool: sys::virStoragePoolPtr,
    event: Option<ResourceEvent>,
) -> Option<LibvirtEvent> {
    let mut uuid = [0u8; 16];
    // SAFETY: both calls only read the object in memory; the buffer has the 16 bytes libvirt writes.
    let (done, name) = unsafe {
        (
            sys::virStoragePoolGetUUID(pool, uuid.as_mut_ptr()),
            borrowed(sys::virStoragePoolGetName(pool)),
        )
    };
    if done < 0 {
        return None;
    }
    Some(LibvirtEvent::Pool { uuid: Uuid::from_bytes(uuid), name: name?, event: event? })
}

unsafe extern "C" fn pool_lifecycle(
    _connect: sys::virConnectPtr,
    pool: sys::virStoragePoolPtr,
    event: c_int,
    _detail: c_int,
    opaque: *mut c_void,
) {
    // SAFETY: libvirt calls this with the opaque of `register` and a valid pool.
    unsafe { deliver(opaque, || pool_event(pool, ResourceEvent::from_pool(event))) };
}

unsafe extern "C" fn pool_refresh(
    _connect: sys::virConnectPtr,
    pool: sys::virStoragePoolPtr,
    opaque: *mut c_void,
) {
    // SAFETY: libvirt calls this with the opaque of `register` and a valid pool.
    unsafe { deliver(opaque, || pool_event(pool, Some(ResourceEvent::Refreshed))) };
}

/// # Safety
/// `device` is the valid node device of a running callback.
unsafe fn device_event(
    device: sys::virNodeDevicePtr,
    event: Option<ResourceEvent>,
) -> Option<LibvirtEvent> {
    // SAFETY: the call only reads the object in memory.
    let name = unsafe { borrowed(sys::virNodeDeviceGetName(device)) };
    Some(LibvirtEvent::NodeDevice { name: name?, event: event? })
}

unsafe extern "C" fn device_lifecycle(
    _connect: sys::virConnectPtr,
    device: sys::virNodeDevicePtr,
    event: c_int,
    _detail: c_int,
    opaque: *mut c_void,
) {
    // SAFETY: libvirt calls this with the opaque of `register` and a valid node device.
    unsafe { deliver(opaque, || device_event(device, ResourceEvent::from_node_device(event))) };
}

unsafe extern "C" fn device_update(
    _connect: sys::virConnectPtr,
    device: sys::virNodeDevicePtr,
    opaque: *mut c_void,
) {
    // SAFETY: libvirt calls this with the opaque of `register` and a valid node device.
    unsafe { deliver(opaque, || device_event(device, Some(ResourceEvent::Updated))) };
}

/// Boxes a sender, hands it to libvirt by `call`, and takes it back if libvirt did not take it.
fn register(
    what: &str,
    sink: &Sink,
    call: impl FnOnce(*mut c_void, sys::virFreeCallback) -> c_int,
) -> Option<c_int> {
    let opaque: *mut c_void = Box::into_raw(Box::new(sink.clone())).cast();
    let id = call(opaque, Some(free_sink));
    if id >= 0 {
        return Some(id);
    }
    let error = last_error();
    // A driver may know fewer events than QEMU's.
    tracing::debug!(event = what, %error, "libvirt does not announce this");
    // SAFETY: the registration failed, and then libvirt neither keeps nor frees the opaque.
    drop(unsafe { Box::from_raw(opaque.cast::<Sink>()) });
    None
}

/// Subscribes to every event that Vapor understands and this driver has.
pub(in crate::libvirt) fn subscribe(connect: &Connect, sink: &Sink) -> Subscription {
    let mut subscription = Subscription::default();

    macro_rules! domain {
        ($($id:ident => $callback:ident),* $(,)?) => {$(
            subscription.domain.extend(register(stringify!($id), sink, |opaque, free| {
                // SAFETY: the callback has the C signature that libvirt documents for this event id
                // and casts it back to; the connection outlives the call; the opaque is a box that
                // libvirt owns from here on.
                unsafe {
                    sys::virConnectDomainEventRegisterAny(
                        connect.as_ptr(),
                        ptr::null_mut(),
                        sys::$id as c_int,
                        Some(std::mem::transmute::<
                            *const (),
                            unsafe extern "C" fn(sys::virConnectPtr, sys::virDomainPtr, *mut c_void),
                        >($callback as *const ())),
                        opaque,
                        free,
                    )
                }
            }));
        )*};
    }
    domain! {
        VIR_DOMAIN_EVENT_ID_LIFECYCLE => lifecycle,
        VIR_DOMAIN_EVENT_ID_REBOOT => reboot,
        VIR_DOMAIN_EVENT_ID_WATCHDOG => watchdog,
        VIR_DOMAIN_EVENT_ID_IO_ERROR_REASON => io_error,
        VIR_DOMAIN_EVENT_ID_CONTROL_ERROR => control_error,
        VIR_DOMAIN_EVENT_ID_BLOCK_JOB_2 => block_job,
        VIR_DOMAIN_EVENT_ID_DISK_CHANGE => disk_change,
        VIR_DOMAIN_EVENT_ID_TRAY_CHANGE => tray_change,
        VIR_DOMAIN_EVENT_ID_PMWAKEUP => wakeup,
        VIR_DOMAIN_EVENT_ID_BALLOON_CHANGE => balloon,
        VIR_DOMAIN_EVENT_ID_DEVICE_REMOVED => device_removed,
        VIR_DOMAIN_EVENT_ID_TUNABLE => tunable,
        VIR_DOMAIN_EVENT_ID_AGENT_LIFECYCLE => agent,
        VIR_DOMAIN_EVENT_ID_DEVICE_ADDED => device_added,
        VIR_DOMAIN_EVENT_ID_MIGRATION_ITERATION => iteration,
        VIR_DOMAIN_EVENT_ID_JOB_COMPLETED => job_completed,
        VIR_DOMAIN_EVENT_ID_DEVICE_REMOVAL_FAILED => removal_failed,
        VIR_DOMAIN_EVENT_ID_METADATA_CHANGE => metadata,
        VIR_DOMAIN_EVENT_ID_BLOCK_THRESHOLD => threshold,
        VIR_DOMAIN_EVENT_ID_MEMORY_FAILURE => memory_failure,
        VIR_DOMAIN_EVENT_ID_MEMORY_DEVICE_SIZE_CHANGE => memory_size,
    }

    macro_rules! resource {
        ($list:ident, $function:ident, $object:ty, $($id:ident => $callback:ident),*) => {$(
            subscription.$list.extend(register(stringify!($id), sink, |opaque, free| {
                // SAFETY: as above, for this kind of object.
                unsafe {
                    sys::$function(
                        connect.as_ptr(),
                        ptr::null_mut(),
                        sys::$id as c_int,
                        Some(std::mem::transmute::<
                            *const (),
                            unsafe extern "C" fn(sys::virConnectPtr, $object, *mut c_void),
                        >($callback as *const ())),
                        opaque,
                        free,
                    )
                }
            }));
        )*};
    }
    resource!(network, virConnectNetworkEventRegisterAny, sys::virNetworkPtr,
        VIR_NETWORK_EVENT_ID_LIFECYCLE => network_lifecycle);
    resource!(pool, virConnectStoragePoolEventRegisterAny, sys::virStoragePoolPtr,
        VIR_STORAGE_POOL_EVENT_ID_LIFECYCLE => pool_lifecycle,
        VIR_STORAGE_POOL_EVENT_ID_REFRESH => pool_refresh);
    resource!(device, virConnectNodeDeviceEventRegisterAny, sys::virNodeDevicePtr,
        VIR_NODE_DEVICE_EVENT_ID_LIFECYCLE => device_lifecycle,
        VIR_NODE_DEVICE_EVENT_ID_UPDATE => device_update);
    subscription
}

/// Gives every registration back. On a dead connection the remote part fails at once and the local
/// part, which frees the reference, is done all the same; hence no error.
pub(in crate::libvirt) fn unsubscribe(connect: &Connect, subscription: Subscription) {
    let Subscription { domain, network, pool, device } = subscription;
    // SAFETY: the connection outlives the calls; the ids are those it gave out, each used once.
    unsafe {
        for id in domain {
            sys::virConnectDomainEventDeregisterAny(connect.as_ptr(), id);
        }
        for id in network {
            sys::virConnectNetworkEventDeregisterAny(connect.as_ptr(), id);
        }
        for id in pool {
            sys::virConnectStoragePoolEventDeregisterAny(connect.as_ptr(), id);
        }
        for id in device {
            sys::virConnectNodeDeviceEventDeregisterAny(connect.as_ptr(), id);
        }
    }
}

/// Called once when the connection is lost, with the reason.
pub(in crate::libvirt) type CloseNotice = Box<dyn Fn(&'static str) + Send + Sync>;

unsafe extern "C" fn closed(_connect: sys::virConnectPtr, reason: c_int, opaque: *mut c_void) {
    let _ = catch_unwind(AssertUnwindSafe(|| {
        let reason = match u32::try_from(reason).unwrap_or(u32::MAX) {
            sys::VIR_CONNECT_CLOSE_REASON_EOF => "libvirt closed the connection",
            sys::VIR_CONNECT_CLOSE_REASON_KEEPALIVE => "libvirt stopped answering keepalive",
            sys::VIR_CONNECT_CLOSE_REASON_CLIENT => "the connection was closed here",
            _ => "the connection failed",
        };
        // SAFETY: libvirt calls this with the opaque of `watch_close`, not freed yet.
        let notice = unsafe { &*opaque.cast::<CloseNotice>() };
        notice(reason);
    }));
}

unsafe extern "C" fn free_notice(opaque: *mut c_void) {
    let _ = catch_unwind(AssertUnwindSafe(|| {
        // SAFETY: libvirt calls this once, with the box made in `watch_close`.
        drop(unsafe { Box::from_raw(opaque.cast::<CloseNotice>()) });
    }));
}

/// Asks to be told when the connection is lost. `notice` runs on the event loop thread, or on
/// whichever thread is in a call when the loss shows; it must not block and not call libvirt.
///
/// Drivers without a transport (the test driver) never lose a connection; some say so by an error.
pub(in crate::libvirt) fn watch_close(connect: &Connect, notice: CloseNotice) {
    let opaque: *mut c_void = Box::into_raw(Box::new(notice)).cast();
    // SAFETY: the connection outlives the call; the opaque is a box that libvirt owns from here on.
    let done = unsafe {
        sys::virConnectRegisterCloseCallback(
            connect.as_ptr(),
            Some(closed),
            opaque,
            Some(free_notice),
        )
    };
    if done < 0 {
        tracing::debug!(error = %last_error(), "libvirt does not tell when this connection closes");
        // SAFETY: the registration failed, and then libvirt neither keeps nor frees the opaque.
        drop(unsafe { Box::from_raw(opaque.cast::<CloseNotice>()) });
    }
}

/// Gives the close callback back. After it has run libvirt has done so itself, and refuses this.
pub(in crate::libvirt) fn unwatch_close(connect: &Connect) {
    // SAFETY: the connection outlives the call; the function is the one registered.
    unsafe { sys::virConnectUnregisterCloseCallback(connect.as_ptr(), Some(closed)) };
}
