//! A link for a sandbox that was made without one: what its envd does with one that is there from
//! the beginning is done from outside, by a thread that enters its network and ends with it.

use std::{
    fs::{self, File},
    io,
    os::fd::{AsFd, AsRawFd, OwnedFd},
    thread,
    time::Instant,
};

use nix::sched::{CloneFlags, setns};

use super::{
    error::Call,
    net::{self, INSIDE, Message, ask},
    process, shaping,
    slot::{GATEWAY, Slot},
};
use crate::{backend::Error, limits::Limits};

/// Links the namespace of that process, which lives, to the host. Blocks.
pub(super) fn link(slot: Slot, first: &OwnedFd, limits: &Limits) -> Result<(), Error> {
    let namespace = namespace_of(first).call("open the network of the sandbox of", slot.link())?;
    net::create_in(slot, libc::IFLA_NET_NS_FD, namespace.as_raw_fd())?;
    let inside = namespace.try_clone().call("keep the network of", slot.link())?;
    // Before anything can be sent.
    let shaped = shaping::shape(slot, limits, move || Ok(inside.into()));
    let configured = shaped.and_then(|()| {
        let configured = thread::spawn(move || configure(slot, &namespace)).join();
        let configured =
            configured.unwrap_or_else(|_| Err(io::Error::other("the thread panicked")));
        configured.call("configure the link inside of", slot.link())
    });
    if configured.is_err() {
        net::remove(slot)?;
    }
    configured
}

fn namespace_of(first: &OwnedFd) -> io::Result<File> {
    // proc_pid_fdinfo(5): of a pidfd there is the number of its process.
    let info = fs::read_to_string(format!("/proc/self/fdinfo/{}", first.as_raw_fd()))?;
    let pid = info.lines().find_map(|line| line.strip_prefix("Pid:"));
    let pid: i32 = pid.and_then(|pid| pid.trim().parse().ok()).unwrap_or(-1);
    let namespace = File::open(format!("/proc/{pid}/ns/net"))?;
    // Its number may have been another's by then only if it has ended.
    if process::wait(first, Instant::now()) {
        return Err(io::ErrorKind::NotFound.into());
    }
    Ok(namespace)
}

fn configure(slot: Slot, namespace: &File) -> io::Result<()> {
    setns(namespace.as_fd(), CloneFlags::CLONE_NEWNET)?;
    // As its envd does: the host routes no IPv6 for a sandbox. Of the network of this thread.
    let _ = fs::write(format!("/proc/sys/net/ipv6/conf/{INSIDE}/disable_ipv6"), "1");
    let index = net::index(INSIDE)?;
    let create = libc::NLM_F_CREATE | libc::NLM_F_EXCL;
    let mut address = vec![libc::AF_INET as u8, 32, 0, 0];
    address.extend(index.to_ne_bytes());
    let own = slot.address().octets();
    let address = Message::new(libc::RTM_NEWADDR, create, &address)
        .with(libc::IFA_LOCAL, &own)
        .with(libc::IFA_ADDRESS, &own);
    let up = Message::link(libc::RTM_SETLINK, 0, index, libc::IFF_UP as u32);
    let gateway = route(32, libc::RT_SCOPE_LINK, index).with(libc::RTA_DST, &GATEWAY.octets());
    let outside =
        route(0, libc::RT_SCOPE_UNIVERSE, index).with(libc::RTA_GATEWAY, &GATEWAY.octets());
    ask(&[address, up, gateway, outside])
}

/// struct rtmsg of <linux/rtnetlink.h>, to so many bits of an address.
fn route(bits: u8, scope: u8, index: u32) -> Message {
    let kind = [libc::RT_TABLE_MAIN, libc::RTPROT_BOOT, scope, libc::RTN_UNICAST];
    let mut body = vec![libc::AF_INET as u8, bits, 0, 0];
    body.extend(kind);
    body.extend([0; 4]);
    Message::new(libc::RTM_NEWROUTE, libc::NLM_F_CREATE | libc::NLM_F_EXCL, &body)
        .with(libc::RTA_OIF, &index.to_ne_bytes())
}
