//! Another effective user for one thread and one system call, with all capabilities kept.
//!
//! Linux: inotify instances, namespaces and the like are counted against whoever owns the user
//! namespace they are in, for all namespaces of that owner together. So a sandbox's namespace is
//! made in the name of a user of its own, and spends a quota of its own.

#![allow(unsafe_code)]

use nix::errno::Errno;
use tracing::error;

use super::error::Call;
use crate::backend::Error;

/// While it lives, this thread makes what it makes in another user's name. Neither may anything
/// be awaited meanwhile nor the value go to another thread, so it is kept within [`acting_as`].
struct Acting {
    user: libc::uid_t,
    securebits: libc::c_int,
}

/// Calls `work` as the effective user `user`. Our own user is back when this returns; a process
/// whose threads are not the same user any more is not to go on, and is aborted.
///
/// The change leaves the whole process undumpable, which suits one that holds keys.
pub(super) fn acting_as<T>(user: u32, work: impl FnOnce() -> T) -> Result<T, Error> {
    let acting = Acting::begin(user).call("act as", user)?;
    let result = work();
    drop(acting);
    Ok(result)
}

impl Acting {
    fn begin(user: libc::uid_t) -> nix::Result<Self> {
        // SAFETY: no memory is passed.
        let (before, securebits) =
            unsafe { (libc::geteuid(), Errno::result(libc::prctl(libc::PR_GET_SECUREBITS))?) };
        set_securebits(securebits | libc::SECBIT_NO_SETUID_FIXUP)?;
        // From here on its end is what undoes it.
        let acting = Self { user: before, securebits };
        set_effective(user)?;
        Ok(acting)
    }
}

impl Drop for Acting {
    fn drop(&mut self) {
        let restored = set_effective(self.user).and_then(|()| set_securebits(self.securebits));
        if let Err(errno) = restored {
            error!(user = self.user, %errno, "a thread cannot be its own user again");
            std::process::abort();
        }
    }
}

/// Of this thread only; the C library's function of that name would change them all.
fn set_effective(user: libc::uid_t) -> nix::Result<()> {
    let same = libc::uid_t::MAX;
    // SAFETY: no memory is passed.
    Errno::result(unsafe { libc::syscall(libc::SYS_setresuid, same, user, same) }).map(drop)
}

fn set_securebits(bits: libc::c_int) -> nix::Result<()> {
    let bits = bits as libc::c_ulong;
    // SAFETY: no memory is passed.
    Errno::result(unsafe { libc::prctl(libc::PR_SET_SECUREBITS, bits) }).map(drop)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::backend::host::require_root;

    fn credentials() -> Vec<String> {
        let status = std::fs::read_to_string("/proc/thread-self/status").unwrap();
        let lines =
            status.lines().filter(|line| line.starts_with("Uid") || line.starts_with("Cap"));
        let mut lines: Vec<String> = lines.map(str::to_owned).collect();
        // SAFETY: no memory is passed.
        lines.push(unsafe { libc::prctl(libc::PR_GET_SECUREBITS) }.to_string());
        lines
    }

    #[test]
    fn a_thread_is_itself_again_and_the_others_never_were_anyone_else() {
        require_root!();
        let before = credentials();
        let (ask, asked) = std::sync::mpsc::channel();
        let another = std::thread::spawn(move || {
            asked.recv().unwrap();
            nix::unistd::geteuid().as_raw()
        });
        let (during, of_another) = acting_as(0x1000_0000, || {
            ask.send(()).unwrap();
            (credentials(), another.join().unwrap())
        })
        .unwrap();
        assert_eq!(during[0], "Uid:\t0\t268435456\t0\t268435456");
        // What it may do it may still do.
        assert_eq!(during[1..6], before[1..6]);
        assert_eq!(of_another, 0);
        assert_eq!(credentials(), before);
    }

    #[test]
    fn a_thread_is_itself_again_after_a_panic() {
        require_root!();
        let before = credentials();
        let work = || acting_as(0x1000_0000, || panic!("on purpose")).unwrap();
        assert!(std::panic::catch_unwind(work).is_err());
        assert_eq!(credentials(), before);
    }
}
