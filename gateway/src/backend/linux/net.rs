//! A sandbox's link to the host: one veth pair, made with one datagram of netlink messages.

#![allow(unsafe_code)]

use std::{ffi::CString, io, os::fd::AsRawFd, time::Duration};

use nix::sys::{
    socket::{
        AddressFamily, MsgFlags, NetlinkAddr, SockFlag, SockProtocol, SockType, recv, sendto,
        setsockopt, socket, sockopt::ReceiveTimeout,
    },
    time::TimeVal,
};

use super::{
    error::{Call, blocking},
    slot::{GATEWAY, Slot},
};
use crate::backend::Error;

pub(super) const INSIDE: &str = "eth0";

/// The kernel answers within the request, so this is never waited for.
const PATIENCE_S: i64 = 10;

/// Larger than any acknowledgement.
const BUFFER: usize = 8 << 10;

const HEADER: usize = 16;

// Of <linux/veth.h> and <linux/if_link.h>; libc has not got them.
const VETH_INFO_PEER: u16 = 1;
const IFLA_INET6_ADDR_GEN_MODE: u16 = 8;
const IN6_ADDR_GEN_MODE_NONE: u8 = 1;

/// Links the namespace of process `pid` to the host. Blocks.
pub(super) fn create(slot: Slot, pid: i32) -> Result<(), Error> {
    create_in(slot, libc::IFLA_NET_NS_PID, pid)
}

/// To what network namespace, `by` says.
pub(super) fn create_in(slot: Slot, by: u16, namespace: i32) -> Result<(), Error> {
    let name = slot.link();
    let link = new_link(slot, by, namespace);
    ask(&[link, without_ipv6(slot), set_up(slot), new_address(slot)]).call("make link", name)
}

/// A link that is not there is a success. Blocks.
pub(super) fn remove(slot: Slot) -> Result<(), Error> {
    match ask(&[Message::link(libc::RTM_DELLINK, 0, 0, 0).with(libc::IFLA_IFNAME, &name(slot))]) {
        Err(error) if error.raw_os_error() == Some(libc::ENODEV) => Ok(()),
        result => result.call("remove link", slot.link()),
    }
}

/// Waits for the kernel to remove a link with the namespace that its other end is in, which it
/// does in its own time and for many at once, and removes it in person when that takes long.
pub(super) async fn gone(slot: Slot) -> Result<(), Error> {
    let mut pause = Duration::from_millis(5);
    while pause < Duration::from_secs(1) {
        if !exists(slot) {
            return Ok(());
        }
        tokio::time::sleep(pause).await;
        pause *= 2;
    }
    blocking(move || remove(slot)).await
}

pub(super) fn exists(slot: Slot) -> bool {
    index(&slot.link()).is_ok()
}

/// Of a link of the network that this thread is in.
pub(super) fn index(link: &str) -> io::Result<u32> {
    let name = CString::new(link)?;
    // SAFETY: the string lives for the call.
    match unsafe { libc::if_nametoindex(name.as_ptr()) } {
        0 => Err(io::Error::last_os_error()),
        index => Ok(index),
    }
}

fn new_link(slot: Slot, by: u16, namespace: i32) -> Message {
    let mut peer = Message(vec![0; size_of::<libc::ifinfomsg>()]);
    peer.attribute(libc::IFLA_IFNAME, &[INSIDE.as_bytes(), b"\0"].concat());
    peer.attribute(libc::IFLA_ADDRESS, &hardware_address(slot, 2));
    peer.attribute(by, &namespace.to_ne_bytes());
    let mut data = Message::part();
    data.attribute(VETH_INFO_PEER, &peer.0);
    let mut info = Message::part();
    info.attribute(libc::IFLA_INFO_KIND, b"veth");
    info.attribute(libc::IFLA_INFO_DATA, &data.0);
    let create = libc::NLM_F_CREATE | libc::NLM_F_EXCL;
    Message::link(libc::RTM_NEWLINK, create, slot.link_index(), 0)
        .with(libc::IFLA_IFNAME, &name(slot))
        .with(libc::IFLA_ADDRESS, &hardware_address(slot, 1))
        .with(libc::IFLA_LINKINFO, &info.0)
}

/// Nothing of ours speaks IPv6 over it, and an address of its own is announced, probed for and
/// looked for among all of the host's connections when it goes.
fn without_ipv6(slot: Slot) -> Message {
    let mut inet6 = Message::part();
    inet6.attribute(IFLA_INET6_ADDR_GEN_MODE, &[IN6_ADDR_GEN_MODE_NONE]);
    let mut families = Message::part();
    families.attribute(libc::AF_INET6 as u16, &inet6.0);
    Message::link(libc::RTM_SETLINK, 0, slot.link_index(), 0).with(libc::IFLA_AF_SPEC, &families.0)
}

fn set_up(slot: Slot) -> Message {
    Message::link(libc::RTM_SETLINK, 0, slot.link_index(), libc::IFF_UP as u32)
}

/// A peer address brings its route along.
fn new_address(slot: Slot) -> Message {
    let mut body = vec![libc::AF_INET as u8, 32, 0, 0];
    body.extend(slot.link_index().to_ne_bytes());
    Message::new(libc::RTM_NEWADDR, libc::NLM_F_CREATE | libc::NLM_F_EXCL, &body)
        .with(libc::IFA_LOCAL, &GATEWAY.octets())
        .with(libc::IFA_ADDRESS, &slot.address().octets())
}

fn name(slot: Slot) -> Vec<u8> {
    let mut name = slot.link().into_bytes();
    name.push(0);
    name
}

/// Locally administered; given, so that nothing on the host wants to give a better one.
fn hardware_address(slot: Slot, end: u8) -> [u8; 6] {
    let [a, b, c, d] = slot.0.to_be_bytes();
    [0x02, end, a, b, c, d]
}

/// A netlink message, or a part of one.
pub(super) struct Message(Vec<u8>);

impl Message {
    pub(super) fn new(kind: u16, flags: i32, body: &[u8]) -> Self {
        let flags = (libc::NLM_F_REQUEST | libc::NLM_F_ACK | flags) as u16;
        // The length comes last. Sequence number and sender: answers come in order.
        let mut message = vec![0; 4];
        message.extend(kind.to_ne_bytes());
        message.extend(flags.to_ne_bytes());
        message.extend([0; 8]);
        message.extend(body);
        Self(message)
    }

    /// About one link, `up` being the flags to be set on it.
    pub(super) fn link(kind: u16, flags: i32, index: u32, up: u32) -> Self {
        let mut body = vec![libc::AF_UNSPEC as u8, 0, 0, 0];
        body.extend(index.to_ne_bytes());
        body.extend(up.to_ne_bytes());
        body.extend(up.to_ne_bytes());
        Self::new(kind, flags, &body)
    }

    /// What is nested in an attribute.
    pub(super) fn part() -> Self {
        Self(Vec::new())
    }

    pub(super) fn into_bytes(self) -> Vec<u8> {
        self.0
    }

    pub(super) fn with(mut self, kind: u16, value: &[u8]) -> Self {
        self.attribute(kind, value);
        self
    }

    fn attribute(&mut self, kind: u16, value: &[u8]) {
        let length = (value.len() + 4) as u16;
        self.0.extend(length.to_ne_bytes());
        self.0.extend(kind.to_ne_bytes());
        self.0.extend(value);
        self.0.resize(self.0.len().next_multiple_of(4), 0);
    }
}

/// Has the kernel do all of it, in order; the first that fails is told.
pub(super) fn ask(messages: &[Message]) -> io::Result<()> {
    let socket = socket(
        AddressFamily::Netlink,
        SockType::Raw,
        SockFlag::SOCK_CLOEXEC,
        SockProtocol::NetlinkRoute,
    )?;
    setsockopt(&socket, ReceiveTimeout, &TimeVal::new(PATIENCE_S, 0))?;
    let mut datagram = Vec::new();
    for Message(message) in messages {
        let start = datagram.len();
        datagram.extend(message);
        datagram[start..start + 4].copy_from_slice(&(message.len() as u32).to_ne_bytes());
    }
    sendto(socket.as_raw_fd(), &datagram, &NetlinkAddr::new(0, 0), MsgFlags::empty())?;

    let mut failed = Ok(());
    let mut buffer = vec![0; BUFFER];
    for _ in messages {
        let length = recv(socket.as_raw_fd(), &mut buffer, MsgFlags::empty())?;
        let answer = read_acknowledgement(&buffer[..length]);
        failed = failed.and(answer);
    }
    failed
}

fn read_acknowledgement(answer: &[u8]) -> io::Result<()> {
    let errno = answer.get(HEADER..).and_then(<[u8]>::first_chunk);
    match errno.map(|errno| i32::from_ne_bytes(*errno)) {
        Some(0) => Ok(()),
        Some(errno) => Err(io::Error::from_raw_os_error(errno.saturating_neg())),
        None => Err(io::ErrorKind::InvalidData.into()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn both_ends_have_local_addresses_of_their_own() {
        let (host, inside) = (hardware_address(Slot(7), 1), hardware_address(Slot(7), 2));
        assert_eq!(host, [2, 1, 0, 0, 0, 7]);
        assert_ne!(host, inside);
    }

    #[test]
    fn attributes_are_padded_and_say_their_length_without_it() {
        let mut message = Message::part();
        message.attribute(3, b"abcde");
        assert_eq!(
            message.0,
            [&9u16.to_ne_bytes()[..], &3u16.to_ne_bytes(), b"abcde\0\0\0"].concat()
        );
    }

    #[test]
    fn an_acknowledgement_is_an_errno() {
        let answer = |errno: i32| [&[0; HEADER][..], &errno.to_ne_bytes()].concat();
        assert!(read_acknowledgement(&answer(0)).is_ok());
        let failed = read_acknowledgement(&answer(-libc::EEXIST)).unwrap_err();
        assert_eq!(failed.raw_os_error(), Some(libc::EEXIST));
        assert!(read_acknowledgement(&[]).is_err());
    }
}
