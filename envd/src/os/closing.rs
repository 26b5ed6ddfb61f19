//! Closing descriptors that code in a sandbox has sent, or may hold too, without waiting for what
//! it has prepared.
//!
//! Closing the last reference to a socket waits where `SO_LINGER` is on, for as long as that says.
//! Whoever else holds the socket may turn it on at any moment, so that turning it off before is
//! not enough; but a signal ends the wait, so the closing thread has itself sent some until it is
//! done. What a close does to the disk no signal ends: who never asked for a descriptor has it
//! closed on a thread that nobody waits for.

#![allow(unsafe_code)]

use std::{
    io,
    mem::{self, ManuallyDrop},
    os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd, RawFd},
    ptr,
    sync::{
        Once,
        atomic::{AtomicUsize, Ordering},
    },
    thread,
    time::Duration,
};

use nix::{
    errno::Errno,
    sys::{
        signal::{SaFlags, SigAction, SigHandler, SigSet, Signal, sigaction},
        socket::{setsockopt, sockopt},
    },
};

use super::host::{self, thread_id};

/// Until a close is interrupted, and again as long as it takes.
const PATIENCE: Duration = Duration::from_millis(5);

/// Threads that close what nobody asked for, at once; what comes beyond that is closed where it is.
const MAX_THREADS: usize = 64;
const STACK: usize = 64 << 10;

/// Ignored by everyone who does not say otherwise.
const ALARM: Signal = Signal::SIGURG;

static THREADS: AtomicUsize = AtomicUsize::new(0);

/// A descriptor that code in a sandbox has sent or may hold too. Closed when dropped.
#[derive(Debug)]
pub(crate) struct Foreign(ManuallyDrop<OwnedFd>);

impl Foreign {
    pub(crate) fn new(descriptor: OwnedFd) -> Self {
        Self(ManuallyDrop::new(descriptor))
    }
}

impl AsFd for Foreign {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}

impl AsRawFd for Foreign {
    fn as_raw_fd(&self) -> RawFd {
        self.0.as_raw_fd()
    }
}

impl Drop for Foreign {
    fn drop(&mut self) {
        let none = libc::linger { l_onoff: 0, l_linger: 0 };
        // Fails where it is no socket.
        let _ = setsockopt(&*self.0, sockopt::Linger, &none);
        // SAFETY: taken here only, and nobody looks at it after this.
        let descriptor = unsafe { ManuallyDrop::take(&mut self.0) };
        impatiently(|| drop(descriptor));
    }
}

/// Closes what may take as long as it likes, on a thread of its own.
pub(crate) fn close_elsewhere(descriptors: Vec<Foreign>) {
    if descriptors.is_empty() {
        return;
    }
    let place = Place(THREADS.fetch_add(1, Ordering::Relaxed));
    if place.0 < MAX_THREADS {
        let named = thread::Builder::new().name("close".into()).stack_size(STACK);
        // Where there is no thread, its work is dropped here, which closes them too.
        let _ = named.spawn(move || drop((descriptors, place)));
    }
}

/// One of the threads, or somebody who found no room for one.
struct Place(usize);

impl Drop for Place {
    fn drop(&mut self) {
        THREADS.fetch_sub(1, Ordering::Relaxed);
    }
}

/// Does `work` with this thread being sent signals that end its waits.
fn impatiently(work: impl FnOnce()) {
    thread_local! {
        static TIMER: io::Result<Timer> = Timer::new();
    }
    if host::FEW_TIMERS {
        // One for as long as it takes, and none for the threads that close nothing.
        let timer = Timer::new();
        if let Ok(timer) = &timer {
            timer.set(PATIENCE);
        }
        return work();
    }
    let mut work = Some(work);
    let timed = TIMER.try_with(|timer| {
        if let (Ok(timer), Some(work)) = (timer, work.take()) {
            timer.set(PATIENCE);
            work();
            timer.set(Duration::ZERO);
        }
    });
    // A thread that ends, or a host that is out of timers.
    if let (Some(work), _) = (work, timed) {
        work();
    }
}

/// Sends this thread a signal, again and again.
struct Timer(libc::timer_t);

impl Timer {
    fn new() -> io::Result<Self> {
        static HANDLED: Once = Once::new();
        HANDLED.call_once(|| {
            let handler = SigHandler::Handler(nothing);
            let action = SigAction::new(handler, SaFlags::SA_RESTART, SigSet::empty());
            // SAFETY: the handler does nothing.
            if let Err(errno) = unsafe { sigaction(ALARM, &action) } {
                tracing::warn!(error = errno.desc(), "closing may wait");
            }
        });
        // SAFETY: all zeroes is a valid value of this plain C structure.
        let mut event: libc::sigevent = unsafe { mem::zeroed() };
        event.sigev_notify = libc::SIGEV_THREAD_ID;
        event.sigev_signo = ALARM as libc::c_int;
        event.sigev_notify_thread_id = thread_id();
        let mut timer = ptr::null_mut();
        // SAFETY: both pointers live for the call.
        let made = unsafe { libc::timer_create(libc::CLOCK_MONOTONIC, &mut event, &mut timer) };
        Errno::result(made)?;
        Ok(Self(timer))
    }

    /// Zero stops it.
    fn set(&self, pause: Duration) {
        let pause =
            libc::timespec { tv_sec: 0, tv_nsec: libc::c_long::from(pause.subsec_nanos() as i32) };
        let every = libc::itimerspec { it_interval: pause, it_value: pause };
        // SAFETY: the timer is ours, and the times live for the call.
        unsafe { libc::timer_settime(self.0, 0, &every, ptr::null_mut()) };
    }
}

impl Drop for Timer {
    fn drop(&mut self) {
        // SAFETY: it is ours, and not used after this.
        unsafe { libc::timer_delete(self.0) };
    }
}

extern "C" fn nothing(_: libc::c_int) {}

/// A socket whose last close takes a minute, and what makes it.
#[cfg(test)]
pub(super) fn lingering() -> (OwnedFd, impl Sized) {
    use std::{
        io::Write,
        net::{TcpListener, TcpStream},
    };
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let mut socket = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
    let held = (listener.accept().unwrap(), listener);
    socket.set_nonblocking(true).unwrap();
    while socket.write(&[0; 65536]).is_ok() {}
    let minute = libc::linger { l_onoff: 1, l_linger: 60 };
    setsockopt(&socket, sockopt::Linger, &minute).unwrap();
    (socket.into(), held)
}

#[cfg(test)]
mod tests {
    use std::time::Instant;

    use super::*;

    const LONG: Duration = Duration::from_secs(20);

    #[test]
    fn a_close_that_would_linger_does_not() {
        let (socket, _held) = lingering();
        let began = Instant::now();
        drop(Foreign::new(socket));
        assert!(began.elapsed() < LONG);
    }

    /// Somebody may turn it on again just before the close.
    #[test]
    fn what_lingers_nevertheless_is_interrupted() {
        let sockets: Vec<_> = (0..3).map(|_| lingering()).collect();
        let began = Instant::now();
        for (socket, held) in sockets {
            impatiently(|| drop(socket));
            drop(held);
        }
        assert!(began.elapsed() < LONG);
    }

    #[test]
    fn what_nobody_asked_for_is_closed_in_the_end() {
        let descriptors: Vec<_> =
            (0..2 * MAX_THREADS).map(|_| nix::unistd::pipe().unwrap()).collect();
        for (read, write) in descriptors {
            close_elsewhere(vec![Foreign::new(write)]);
            // Its other end is closed when this one reads nothing.
            assert_eq!(io::read_to_string(std::fs::File::from(read)).unwrap(), "");
        }
    }
}
