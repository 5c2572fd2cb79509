//! The event loop of libvirt's client: sockets and timers, by `virEventRegisterImpl`.
//!
//! libvirt's own loop takes in whatever arrives for any connection of the process. A stream's data
//! then queue up without bound before a consumer that is slow, and each message costs that loop two
//! more wake-ups. A connection that is opened [`apart`] stays out of this one: whoever calls on such a
//! connection reads its socket itself, and what nobody reads stays in the socket and makes libvirtd
//! wait. A connection apart has neither events nor keepalive.
//!
//! Whoever calls on any other connection takes its socket from the loop, reads the answer, and gives it
//! back, and each answer puts the keepalive's timer off. With `epoll` neither wakes the loop: what is
//! waited for changes under it, and only a timer that is due before it would look by itself ends a wait.
//!
//! ```text
//!   any thread ── add, update, remove ──▶ table, epoll ◀── a round: wait, then what is due, then what is
//!                                └─ wake, for an earlier timer ──▲      ready
//! ```
//!
//! Callbacks run without the table's lock, on the loop's thread alone. What was removed is freed by that
//! thread too, never within a call of libvirt, which may hold locks that the free callback takes.

use std::cell::Cell;
use std::collections::BTreeMap;
use std::ffi::{c_int, c_void};
use std::io;
use std::os::fd::BorrowedFd;
use std::sync::{Mutex, MutexGuard, OnceLock, PoisonError};
use std::time::{Duration, Instant};

use nix::errno::Errno;
use nix::sys::epoll::{Epoll, EpollCreateFlags, EpollEvent, EpollFlags, EpollTimeout};
use nix::sys::eventfd::{EfdFlags, EventFd};
use nix::sys::socket::setsockopt;
use nix::sys::socket::sockopt::SndBuf;
use virt::sys;

/// Bytes that may be under way to libvirtd on a connection apart.
const UNDER_WAY: usize = 1 << 20;

/// How many sockets one wait tells of; the others' turn is the next one.
const AT_ONCE: usize = 16;

/// What `epoll` calls the descriptor that wakes the loop: no socket has this number.
const WAKE: u64 = 0;

/// libvirt's bits of events.
const READABLE: c_int = sys::VIR_EVENT_HANDLE_READABLE as c_int;
const WRITABLE: c_int = sys::VIR_EVENT_HANDLE_WRITABLE as c_int;
const ERROR: c_int = sys::VIR_EVENT_HANDLE_ERROR as c_int;
const HANGUP: c_int = sys::VIR_EVENT_HANDLE_HANGUP as c_int;

/// libvirt's data of a callback.
#[derive(Clone, Copy)]
struct Opaque(*mut c_void);

// SAFETY: libvirt hands the pointer over to the loop, to be passed back on the loop's thread alone.
unsafe impl Send for Opaque {}

/// What is to be called once nobody can call back any more.
type Free = (sys::virFreeCallback, Opaque);

struct Socket {
    fd: c_int,
    /// libvirt's bits; none while somebody else reads the socket.
    events: c_int,
    call: sys::virEventHandleCallback,
    opaque: Opaque,
    free: sys::virFreeCallback,
}

struct Timer {
    /// None while it rests.
    every: Option<Duration>,
    due: Instant,
    call: sys::virEventTimeoutCallback,
    opaque: Opaque,
    free: sys::virFreeCallback,
}

#[derive(Default)]
struct Table {
    last: c_int,
    sockets: BTreeMap<c_int, Socket>,
    timers: BTreeMap<c_int, Timer>,
    removed: Vec<Free>,
    /// When the loop looks by itself; none while it does not wait.
    looks: Option<Instant>,
}

impl Table {
    /// The next number of a socket or timer, which both count from 1.
    fn number(&mut self) -> Option<c_int> {
        self.last = self.last.checked_add(1)?;
        Some(self.last)
    }
}

struct Loop {
    table: Mutex<Table>,
    /// The sockets of which something is wanted. Changed under the table's lock, so that both agree.
    epoll: Epoll,
    /// Ends a wait.
    wake: EventFd,
}

static LOOP: OnceLock<Loop> = OnceLock::new();

thread_local! {
    static APART: Cell<bool> = const { Cell::new(false) };
}

/// Runs `open`, and keeps the connections that it opens out of the loop. libvirt documents that a
/// connection that cannot be entered goes without events and keepalive.
pub(in crate::libvirt) fn apart<T>(open: impl FnOnce() -> T) -> T {
    struct Back;
    impl Drop for Back {
        fn drop(&mut self) {
            APART.set(false);
        }
    }
    let _back = Back;
    APART.set(true);
    open()
}

/// Makes the loop and tells libvirt of it; before the first connection is opened.
pub(super) fn register() -> io::Result<()> {
    let epoll = Epoll::new(EpollCreateFlags::EPOLL_CLOEXEC)?;
    let wake = EventFd::from_flags(EfdFlags::EFD_CLOEXEC | EfdFlags::EFD_NONBLOCK)?;
    epoll.add(&wake, EpollEvent::new(EpollFlags::EPOLLIN, WAKE))?;
    if LOOP.set(Loop { table: Mutex::default(), epoll, wake }).is_ok() {
        // SAFETY: the functions live as long as the process, as does the table that they work on.
        unsafe {
            sys::virEventRegisterImpl(
                Some(add_socket),
                Some(update_socket),
                Some(remove_socket),
                Some(add_timer),
                Some(update_timer),
                Some(remove_timer),
            );
        }
    }
    Ok(())
}

/// Waits for at most `longest` until something is ready or due, and calls for it.
///
/// # Errors
/// The wait failed, which is no interruption by a signal.
pub(super) fn round(longest: Duration) -> io::Result<()> {
    LOOP.get().map_or(Ok(()), |this| this.round(longest))
}

impl Loop {
    fn table(&self) -> MutexGuard<'_, Table> {
        // Each change of the table is a single one.
        self.table.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Ends the wait of a loop that would look later than at `due`.
    fn wake_before(&self, due: Instant, looks: Option<Instant>) {
        if looks.is_some_and(|looks| due < looks) {
            // It fails only where the counter is full, and then the loop is awake.
            let _ = self.wake.write(1);
        }
    }

    fn round(&self, longest: Duration) -> io::Result<()> {
        self.free_removed();
        let wait = self.until_due(longest);
        let mut ready = [EpollEvent::empty(); AT_ONCE];
        let told = self.epoll.wait(&mut ready, wait);
        self.table().looks = None;
        let count = match told {
            Ok(count) => count,
            Err(Errno::EINTR) => return Ok(()),
            Err(error) => return Err(error.into()),
        };
        self.call_due(Instant::now());
        for event in &ready[..count] {
            match c_int::try_from(event.data()) {
                Ok(number) if event.data() != WAKE => self.call_ready(number, event.events()),
                // Nothing in it but that it has been written.
                _ => drop(self.wake.read()),
            }
        }
        self.free_removed();
        Ok(())
    }

    /// How long to wait, whole milliseconds that end no earlier than the first timer is due.
    fn until_due(&self, longest: Duration) -> EpollTimeout {
        let mut table = self.table();
        let now = Instant::now();
        let due = table.timers.values().filter(|timer| timer.every.is_some());
        let wait = due.map(|timer| timer.due.saturating_duration_since(now)).min();
        let wait = wait.map_or(longest, |wait| wait.min(longest));
        table.looks = Some(now + wait);
        let millis = i32::try_from(wait.as_micros().div_ceil(1000)).unwrap_or(i32::MAX);
        EpollTimeout::try_from(millis).unwrap_or(EpollTimeout::MAX)
    }

    /// Has a socket waited for from now on, or not any more.
    fn want(&self, number: c_int, socket: &Socket, before: c_int) -> nix::Result<()> {
        // SAFETY: libvirt closes a descriptor after it has removed it from the loop.
        let fd = unsafe { BorrowedFd::borrow_raw(socket.fd) };
        let mut event = EpollEvent::new(to_epoll(socket.events), u64::from(number.unsigned_abs()));
        match (before != 0, socket.events != 0) {
            (false, true) => self.epoll.add(fd, event),
            (true, true) => self.epoll.modify(fd, &mut event),
            // Taken out, because `epoll` tells of an end also where nothing is wanted.
            (true, false) => self.epoll.delete(fd),
            (false, false) => Ok(()),
        }
    }

    fn call_due(&self, now: Instant) {
        let is_due = |timer: &Timer| timer.every.is_some() && timer.due <= now;
        let numbers: Vec<c_int> = {
            let table = self.table();
            table.timers.iter().filter(|(_, timer)| is_due(timer)).map(|(at, _)| *at).collect()
        };
        for number in numbers {
            let call = match self.table().timers.get_mut(&number) {
                // An earlier callback may have stopped it.
                Some(timer) if is_due(timer) => {
                    timer.due = now + timer.every.unwrap_or_default();
                    timer.call.map(|call| (call, timer.opaque))
                }
                _ => None,
            };
            if let Some((call, opaque)) = call {
                // SAFETY: its data are freed on this thread only, by `free_removed`.
                unsafe { call(number, opaque.0) };
            }
        }
    }

    fn call_ready(&self, number: c_int, ready: EpollFlags) {
        let call = self.table().sockets.get(&number).and_then(|socket| {
            // Somebody may have taken over its reading meanwhile.
            let events = from_epoll(ready) & (socket.events | ERROR | HANGUP);
            let wanted = socket.events != 0 && events != 0;
            socket.call.filter(|_| wanted).map(|call| (call, socket.fd, events, socket.opaque))
        });
        if let Some((call, fd, events, opaque)) = call {
            // SAFETY: its data are freed on this thread only, by `free_removed`.
            unsafe { call(number, fd, events, opaque.0) };
        }
    }

    fn free_removed(&self) {
        let removed = std::mem::take(&mut self.table().removed);
        for (free, opaque) in removed {
            if let Some(free) = free {
                // SAFETY: it is out of the table, so that nothing calls back with it any more, and
                // is freed once.
                unsafe { free(opaque.0) };
            }
        }
    }
}

/// `epoll` tells of errors and ends unasked.
fn to_epoll(events: c_int) -> EpollFlags {
    let mut flags = EpollFlags::empty();
    flags.set(EpollFlags::EPOLLIN, events & READABLE != 0);
    flags.set(EpollFlags::EPOLLOUT, events & WRITABLE != 0);
    flags
}

fn from_epoll(ready: EpollFlags) -> c_int {
    let bit = |theirs, ours| if ready.intersects(theirs) { ours } else { 0 };
    bit(EpollFlags::EPOLLIN, READABLE)
        | bit(EpollFlags::EPOLLOUT, WRITABLE)
        | bit(EpollFlags::EPOLLERR, ERROR)
        | bit(EpollFlags::EPOLLHUP, HANGUP)
}

/// How often a timer of libvirt's is due: never for a negative number, in each round for 0.
fn interval(millis: c_int) -> Option<Duration> {
    u64::try_from(millis).ok().map(Duration::from_millis)
}

/// Gives the socket of a connection apart room for several messages. In what a socket has by default
/// not even one of a stream fits, and libvirtd is woken for each of its halves.
fn let_more_be_under_way(fd: c_int) {
    // SAFETY: libvirt's descriptor is open for as long as this call of libvirt's lasts.
    let socket = unsafe { BorrowedFd::borrow_raw(fd) };
    // The system gives as much of it as it allows; without more it is only slower.
    if let Err(error) = setsockopt(&socket, SndBuf, &UNDER_WAY) {
        tracing::debug!(%error, "a stream's socket keeps its size");
    }
}

unsafe extern "C" fn add_socket(
    fd: c_int,
    events: c_int,
    call: sys::virEventHandleCallback,
    opaque: *mut c_void,
    free: sys::virFreeCallback,
) -> c_int {
    if APART.get() {
        let_more_be_under_way(fd);
        return -1;
    }
    let Some(this) = LOOP.get() else { return -1 };
    let mut table = this.table();
    let Some(number) = table.number() else { return -1 };
    let socket = Socket { fd, events, call, opaque: Opaque(opaque), free };
    if let Err(error) = this.want(number, &socket, 0) {
        tracing::error!(%error, "a connection to libvirt goes without events");
        return -1;
    }
    table.sockets.insert(number, socket);
    number
}

unsafe extern "C" fn update_socket(number: c_int, events: c_int) {
    let Some(this) = LOOP.get() else { return };
    let mut table = this.table();
    let Some(socket) = table.sockets.get_mut(&number) else { return };
    let before = std::mem::replace(&mut socket.events, events);
    if let Err(error) = this.want(number, socket, before) {
        tracing::error!(%error, "what is waited for of a connection to libvirt does not change");
    }
}

unsafe extern "C" fn remove_socket(number: c_int) -> c_int {
    let Some(this) = LOOP.get() else { return -1 };
    let mut table = this.table();
    let Some(mut socket) = table.sockets.remove(&number) else { return -1 };
    let before = std::mem::replace(&mut socket.events, 0);
    // One that is closed already is out of it by that.
    if let Err(error) = this.want(number, &socket, before) {
        tracing::debug!(%error, "a socket was not waited for any more");
    }
    table.removed.push((socket.free, socket.opaque));
    // Freed before the next wait, or by it.
    let looks = table.looks;
    drop(table);
    this.wake_before(Instant::now(), looks);
    0
}

unsafe extern "C" fn add_timer(
    millis: c_int,
    call: sys::virEventTimeoutCallback,
    opaque: *mut c_void,
    free: sys::virFreeCallback,
) -> c_int {
    let Some(this) = LOOP.get() else { return -1 };
    let mut table = this.table();
    let Some(number) = table.number() else { return -1 };
    let every = interval(millis);
    let due = Instant::now() + every.unwrap_or_default();
    table.timers.insert(number, Timer { every, due, call, opaque: Opaque(opaque), free });
    let looks = table.looks;
    drop(table);
    if every.is_some() {
        this.wake_before(due, looks);
    }
    number
}

unsafe extern "C" fn update_timer(number: c_int, millis: c_int) {
    let Some(this) = LOOP.get() else { return };
    let mut table = this.table();
    let Some(timer) = table.timers.get_mut(&number) else { return };
    timer.every = interval(millis);
    timer.due = Instant::now() + timer.every.unwrap_or_default();
    // A timer that rests, or is put off, is no reason to look earlier.
    let due = timer.every.map(|_| timer.due);
    let looks = table.looks;
    drop(table);
    if let Some(due) = due {
        this.wake_before(due, looks);
    }
}

unsafe extern "C" fn remove_timer(number: c_int) -> c_int {
    let Some(this) = LOOP.get() else { return -1 };
    let mut table = this.table();
    let Some(timer) = table.timers.remove(&number) else { return -1 };
    table.removed.push((timer.free, timer.opaque));
    let looks = table.looks;
    drop(table);
    this.wake_before(Instant::now(), looks);
    0
}

#[cfg(test)]
mod tests {
    use std::io::Write;
    use std::os::fd::AsRawFd;
    use std::sync::mpsc::{Receiver, Sender, channel};

    use super::*;

    const SOON: Duration = Duration::from_secs(20);
    const NEVER: Duration = Duration::from_millis(200);

    #[derive(Debug, PartialEq, Eq)]
    enum Told {
        Ready(c_int),
        Due,
        Freed,
    }

    fn data() -> (*mut c_void, Receiver<Told>) {
        let (sender, told) = channel::<Told>();
        (Box::into_raw(Box::new(sender)).cast(), told)
    }

    /// # Safety
    /// `opaque` is from [`data`] and not freed.
    unsafe fn tell(opaque: *mut c_void, told: Told) {
        // SAFETY: as promised.
        unsafe { &*opaque.cast::<Sender<Told>>() }.send(told).expect("somebody listens");
    }

    unsafe extern "C" fn ready(_: c_int, _: c_int, events: c_int, opaque: *mut c_void) {
        // SAFETY: the loop passes back what it was given.
        unsafe { tell(opaque, Told::Ready(events)) };
    }

    unsafe extern "C" fn due(_: c_int, opaque: *mut c_void) {
        // SAFETY: as above.
        unsafe { tell(opaque, Told::Due) };
    }

    unsafe extern "C" fn free(opaque: *mut c_void) {
        // SAFETY: as above, and nobody calls back any more.
        let sender = unsafe { Box::from_raw(opaque.cast::<Sender<Told>>()) };
        sender.send(Told::Freed).expect("somebody listens");
    }

    #[test]
    fn a_socket_is_told_of_while_it_is_wanted_and_freed_once_after_its_removal() {
        super::super::initialise().expect("libvirt");
        let (reader, mut writer) = io::pipe().expect("a pipe");
        let (opaque, told) = data();
        // SAFETY: the data are freed by `free` alone.
        let number = unsafe {
            sys::virEventAddHandle(reader.as_raw_fd(), READABLE, Some(ready), opaque, Some(free))
        };
        assert!(number > 0);
        assert!(told.recv_timeout(NEVER).is_err(), "there is nothing to read");
        writer.write_all(b"x").expect("written");
        assert_eq!(told.recv_timeout(SOON), Ok(Told::Ready(READABLE)));
        // SAFETY: a number that the loop gave.
        unsafe { sys::virEventUpdateHandle(number, 0) };
        while told.recv_timeout(NEVER).is_ok() {}
        assert!(told.recv_timeout(NEVER).is_err(), "somebody else reads it");
        // SAFETY: as above.
        unsafe { sys::virEventUpdateHandle(number, READABLE) };
        assert_eq!(told.recv_timeout(SOON), Ok(Told::Ready(READABLE)));
        // SAFETY: as above; the second one names what there is not any more.
        let removed =
            unsafe { [sys::virEventRemoveHandle(number), sys::virEventRemoveHandle(number)] };
        assert_eq!(removed, [0, -1]);
        let left: Vec<Told> = told.iter().filter(|told| *told == Told::Freed).collect();
        assert_eq!(left, [Told::Freed]);
    }

    #[test]
    fn a_timer_is_due_again_and_again_until_it_rests() {
        super::super::initialise().expect("libvirt");
        let (opaque, told) = data();
        // SAFETY: the data are freed by `free` alone.
        let number = unsafe { sys::virEventAddTimeout(-1, Some(due), opaque, Some(free)) };
        assert!(told.recv_timeout(NEVER).is_err(), "it rests");
        // SAFETY: a number that the loop gave.
        unsafe { sys::virEventUpdateTimeout(number, 10) };
        for _ in 0..3 {
            assert_eq!(told.recv_timeout(SOON), Ok(Told::Due));
        }
        // SAFETY: as above.
        unsafe { sys::virEventUpdateTimeout(number, 0) };
        assert_eq!(told.recv_timeout(SOON), Ok(Told::Due));
        // SAFETY: as above.
        assert_eq!(unsafe { sys::virEventRemoveTimeout(number) }, 0);
        assert_eq!(told.iter().filter(|told| *told == Told::Freed).count(), 1);
    }

    #[test]
    fn what_is_opened_apart_stays_out_of_the_loop() {
        super::super::initialise().expect("libvirt");
        let (reader, _writer) = io::pipe().expect("a pipe");
        let (opaque, told) = data();
        let add = || {
            // SAFETY: the data are freed by `free` alone, unless the loop refuses them.
            unsafe {
                sys::virEventAddHandle(
                    reader.as_raw_fd(),
                    READABLE,
                    Some(ready),
                    opaque,
                    Some(free),
                )
            }
        };
        assert_eq!(apart(add), -1);
        let number = add();
        assert!(number > 0, "later ones are taken");
        // SAFETY: a number that the loop gave.
        assert_eq!(unsafe { sys::virEventRemoveHandle(number) }, 0);
        assert_eq!(told.iter().collect::<Vec<_>>(), [Told::Freed]);
    }
}
