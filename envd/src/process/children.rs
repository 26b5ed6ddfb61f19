//! The children of this very process, ours and the orphans that fall to us.
//!
//! There is one waiter for all. A child of ours is entered under the lock that the waiter takes,
//! so that no status is lost or given to the wrong one, and a signal goes out under it as well,
//! so that it never reaches a stranger who got the pid since.

use std::{collections::HashMap, io, sync::LazyLock};

use nix::{
    errno::Errno,
    sys::signal::{Signal, kill, killpg},
    unistd::Pid,
};
use parking_lot::Mutex;
use tokio::{
    signal::unix::{SignalKind, signal},
    sync::oneshot,
};

use crate::os::{self, Exit};

/// Collected in one go, before others get their turn.
const AT_ONCE: usize = 256;

/// Waiting is a business of the whole process, so there is one of this.
pub(crate) static CHILDREN: LazyLock<Children> = LazyLock::new(Children::default);

#[derive(Default)]
pub(crate) struct Children {
    living: Mutex<HashMap<libc::pid_t, oneshot::Sender<Exit>>>,
}

impl Children {
    /// Starts what `fork` starts, which returns the pid with something of its own.
    pub(super) fn start<T>(
        &self,
        fork: impl FnOnce() -> io::Result<(libc::pid_t, T)>,
    ) -> io::Result<(libc::pid_t, T, oneshot::Receiver<Exit>)> {
        let mut living = self.living.lock();
        let (pid, of_its_own) = fork()?;
        let (sender, receiver) = oneshot::channel();
        living.insert(pid, sender);
        Ok((pid, of_its_own, receiver))
    }

    /// Signals a child of ours; one that has been collected is a success.
    pub(super) fn signal(&self, pid: libc::pid_t, signal: Signal) -> Result<(), Errno> {
        let living = self.living.lock();
        if living.contains_key(&pid) { kill(Pid::from_raw(pid), signal) } else { Ok(()) }
    }

    /// Signals a child of ours, whose group bears its name, with all that is in the group.
    pub(crate) fn signal_group(&self, pid: u32, signal: Signal) {
        let pid = pid as libc::pid_t;
        let living = self.living.lock();
        if living.contains_key(&pid) {
            // It was seen to be ours and is not collected meanwhile, so it is there.
            let _ = killpg(Pid::from_raw(pid), signal);
        }
    }

    /// Collects whoever ends, for ever.
    pub(crate) async fn wait(&self) -> io::Result<()> {
        let mut ended = signal(SignalKind::child())?;
        loop {
            while self.collect() == AT_ONCE {
                tokio::task::yield_now().await;
            }
            ended.recv().await;
        }
    }

    fn collect(&self) -> usize {
        let mut living = self.living.lock();
        let mut collected = 0;
        while collected < AT_ONCE {
            let Some((pid, exit)) = os::reap() else { break };
            collected += 1;
            if let Some(waiting) = living.remove(&pid) {
                // Nobody waits any more for a child that failed before its program ran.
                let _ = waiting.send(exit);
            }
        }
        collected
    }
}
