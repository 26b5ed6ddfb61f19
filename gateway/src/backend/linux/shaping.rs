//! How fast a sandbox may send and receive: a token bucket (tc-tbf(8)) at each end of its link, of
//! which what is faster waits, and what does not fit any more is dropped.
//!
//! The one for what it receives is on the host's end. The one for what it sends is on its own end,
//! put there from outside: nobody inside has the capability to take it away.

use std::{
    fs::File,
    io,
    os::fd::{AsFd, OwnedFd},
    sync::{
        Once,
        atomic::{AtomicBool, Ordering::Relaxed},
    },
    thread,
};

use envd::walls::{self, Wall};
use nix::{
    errno::Errno,
    sched::{CloneFlags, setns, unshare},
};

use super::{
    error::Call,
    net::{self, INSIDE, Message, ask},
    slot::Slot,
};
use crate::{backend::Error, limits::Limits};

// Of <linux/rtnetlink.h> and <linux/pkt_sched.h>; libc has not got all of them.
const TC_H_ROOT: u32 = u32::MAX;
const TCA_KIND: u16 = 1;
const TCA_OPTIONS: u16 = 2;
const TCA_TBF_PARMS: u16 = 1;
const TCA_TBF_RATE64: u16 = 4;
const TCA_TBF_BURST: u16 = 6;
const TC_LINKLAYER_ETHERNET: u8 = 1;

/// What may go at once, at the least: some whole packets.
const LEAST_BURST: u32 = 16 << 10;
/// And at most, however fast: what a bucket holds comes on top.
const MOST_BURST: u32 = 4 << 20;

/// Has the link of a sandbox let through so much. Blocks; without effect where the kernel has no
/// token buckets.
pub(super) fn shape(
    slot: Slot,
    limits: &Limits,
    namespace: impl FnOnce() -> io::Result<OwnedFd>,
) -> Result<(), Error> {
    let none = limits.net_in.or(limits.net_out).is_none();
    if none || walls::is_down(Wall::Limits) {
        return Ok(());
    }
    let name = slot.link();
    if let Some(rate) = limits.net_in {
        put(slot.link_index(), rate).call("bound what comes over link", &name)?;
    }
    if let Some(rate) = limits.net_out {
        let namespace = namespace().call("open the network of", &name)?;
        let within = move || {
            setns(namespace.as_fd(), CloneFlags::CLONE_NEWNET)?;
            put(net::index(INSIDE)?, rate)
        };
        in_a_thread(within).call("bound what goes over link", name)?;
    }
    Ok(())
}

/// As far as the kernel has token buckets.
fn put(link: u32, rate: u64) -> io::Result<()> {
    match ask(&[bucket(link, rate)]) {
        Err(error) if is_unknown(&error) => Ok(()),
        asked => asked,
    }
}

/// What the kernel says of a kind of queue that it has not got.
fn is_unknown(error: &io::Error) -> bool {
    error.raw_os_error() == Some(Errno::ENOENT as i32)
}

/// Of its own, for what is of a thread.
fn in_a_thread(act: impl FnOnce() -> io::Result<()> + Send + 'static) -> io::Result<()> {
    thread::spawn(act).join().unwrap_or_else(|_| Err(io::Error::other("the thread panicked")))
}

/// Whether the kernel has token buckets, as tried in a network of its own until they are there.
pub(super) fn is_there() -> bool {
    /// Of `lo`, in every network.
    const LOOPBACK: u32 = 1;
    static THERE: AtomicBool = AtomicBool::new(false);
    static TOLD: Once = Once::new();
    if THERE.load(Relaxed) {
        return true;
    }
    let tried = in_a_thread(|| {
        unshare(CloneFlags::CLONE_NEWNET)?;
        ask(&[bucket(LOOPBACK, LEAST_BURST.into())])
    });
    THERE.store(tried.is_ok(), Relaxed);
    if let Err(error) = &tried {
        TOLD.call_once(|| {
            tracing::warn!(%error, "no token bucket (tbf) could be put at a link, to try it");
        });
    }
    tried.is_ok()
}

/// The network namespace of a child of ours that is still there.
pub(super) fn namespace_of(pid: i32) -> io::Result<OwnedFd> {
    Ok(File::open(format!("/proc/{pid}/ns/net"))?.into())
}

/// In place of how the link with that index sends, at so many bytes a second.
fn bucket(link: u32, rate: u64) -> Message {
    // A tenth of a second's worth at once, and two more that wait.
    let burst = u32::try_from(rate / 10).unwrap_or(u32::MAX).clamp(LEAST_BURST, MOST_BURST);
    let waits = burst.saturating_mul(3).max(4 * LEAST_BURST);

    let mut body = vec![libc::AF_UNSPEC as u8, 0, 0, 0];
    body.extend(link.to_ne_bytes());
    body.extend(0x1_0000_u32.to_ne_bytes());
    body.extend(TC_H_ROOT.to_ne_bytes());
    body.extend([0; 4]);
    let create = libc::NLM_F_CREATE | libc::NLM_F_REPLACE;
    Message::new(libc::RTM_NEWQDISC, create, &body).with(TCA_KIND, b"tbf\0").with(
        TCA_OPTIONS,
        &Message::part()
            .with(TCA_TBF_PARMS, &parameters(rate, waits))
            .with(TCA_TBF_RATE64, &rate.to_ne_bytes())
            .with(TCA_TBF_BURST, &burst.to_ne_bytes())
            .into_bytes(),
    )
}

/// struct tc_tbf_qopt: the rate, no peak rate, and what may wait (bytes); of what may go at once
/// the attribute says more exactly.
fn parameters(rate: u64, waits: u32) -> Vec<u8> {
    let saturated = u32::try_from(rate).unwrap_or(u32::MAX);
    let mut all = vec![0, TC_LINKLAYER_ETHERNET, 0, 0, 0, 0, 0, 0];
    all.extend(saturated.to_ne_bytes());
    all.extend([0; 12]);
    all.extend(waits.to_ne_bytes());
    all.extend([0; 8]);
    all
}

#[cfg(test)]
mod tests {
    use std::process::Command;

    use super::*;
    use crate::backend::host::require_root;

    /// What tc(8) says there is at a link of the network that this thread is in.
    fn told(link: &str) -> String {
        let tc = Command::new("tc").args(["qdisc", "show", "dev", link]).output().expect("tc");
        String::from_utf8(tc.stdout).unwrap()
    }

    fn here() -> io::Result<OwnedFd> {
        Ok(File::open("/proc/thread-self/ns/net")?.into())
    }

    #[test]
    fn both_ends_of_a_link_are_bounded_and_only_where_it_is_asked_for() {
        require_root!();
        let in_a_network_of_its_own = || {
            assert!(is_there());
            unshare(CloneFlags::CLONE_NEWNET).unwrap();
            // The other end is here too.
            let slot = Slot(5);
            net::create(slot, nix::unistd::gettid().as_raw()).unwrap();
            shape(slot, &Limits::default(), || Err(io::Error::other("not asked for"))).unwrap();
            assert!(!told(&slot.link()).contains("tbf") && !told(INSIDE).contains("tbf"));

            let limits =
                Limits { net_in: Some(1 << 20), net_out: Some(16 << 10), ..Limits::default() };
            shape(slot, &limits, here).unwrap();
            let (host, inside) = (told(&slot.link()), told(INSIDE));
            assert!(host.contains("tbf") && host.contains("rate 8388Kbit"), "{host}");
            assert!(inside.contains("tbf") && inside.contains("rate 131072bit"), "{inside}");
            // Again, as when a link is made late.
            shape(slot, &limits, here).unwrap();
            let fast = Limits { net_in: Some(100 << 30), ..Limits::default() };
            shape(slot, &fast, here).unwrap();
            assert!(told(&slot.link()).contains("tbf"), "beyond 32 bits");
        };
        std::thread::spawn(in_a_network_of_its_own).join().unwrap();
    }
}
