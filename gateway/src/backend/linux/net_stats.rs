//! What has gone over all links of sandboxes, asked of the kernel at once: rtnetlink(7),
//! `RTM_GETSTATS`. A thousand links take less than reading one file for each.

use std::{collections::HashMap, io, os::fd::AsRawFd};

use nix::sys::{
    socket::{
        AddressFamily, MsgFlags, NetlinkAddr, SockFlag, SockProtocol, SockType, recv, sendto,
        setsockopt, socket, sockopt::ReceiveTimeout,
    },
    time::TimeVal,
};

use super::{error::Call, slot::Slot};
use crate::backend::{Error, Traffic};

// Of <linux/rtnetlink.h> and <linux/if_link.h>; libc has not got them.
const RTM_NEWSTATS: u16 = 92;
const RTM_GETSTATS: u16 = 94;
const IFLA_STATS_LINK_64: u16 = 1;

const PATIENCE_S: i64 = 10;
/// As much as the kernel puts into one datagram of such an answer.
const BUFFER: usize = 32 << 10;
/// `struct nlmsghdr` and `struct if_stats_msg`.
const HEADER: usize = 16;
const STATS: usize = 12;
/// `rx_bytes` and `tx_bytes` in `struct rtnl_link_stats64`.
const RECEIVED: usize = 16;
const SENT: usize = 24;

/// What has gone over each link, as its sandbox sees it. Blocks.
pub(super) fn links() -> Result<HashMap<Slot, Traffic>, Error> {
    ask().call("ask for the figures of", "links")
}

fn ask() -> io::Result<HashMap<Slot, Traffic>> {
    let socket = socket(
        AddressFamily::Netlink,
        SockType::Raw,
        SockFlag::SOCK_CLOEXEC,
        SockProtocol::NetlinkRoute,
    )?;
    setsockopt(&socket, ReceiveTimeout, &TimeVal::new(PATIENCE_S, 0))?;
    sendto(socket.as_raw_fd(), &question(), &NetlinkAddr::new(0, 0), MsgFlags::empty())?;
    let mut links = HashMap::new();
    let mut buffer = vec![0; BUFFER];
    loop {
        let length = recv(socket.as_raw_fd(), &mut buffer, MsgFlags::empty())?;
        if read(&buffer[..length], &mut links)? {
            return Ok(links);
        }
    }
}

fn question() -> Vec<u8> {
    let flags = (libc::NLM_F_REQUEST | libc::NLM_F_DUMP) as u16;
    let mut question = ((HEADER + STATS) as u32).to_ne_bytes().to_vec();
    question.extend(RTM_GETSTATS.to_ne_bytes());
    question.extend(flags.to_ne_bytes());
    // Sequence number and sender; family and padding; of no link in particular.
    question.extend([0; 8 + 4 + 4]);
    question.extend((1_u32 << (IFLA_STATS_LINK_64 - 1)).to_ne_bytes());
    question
}

/// Takes up one datagram of the answer; whether it was the last.
fn read(mut datagram: &[u8], links: &mut HashMap<Slot, Traffic>) -> io::Result<bool> {
    while let Some((length, kind, rest)) = header(datagram) {
        let message = datagram.get(HEADER..length).ok_or(io::ErrorKind::InvalidData)?;
        match i32::from(kind) {
            libc::NLMSG_DONE => return Ok(true),
            libc::NLMSG_ERROR => {
                let errno = word(message, 0).map(|errno| errno as i32);
                let errno = errno.ok_or(io::ErrorKind::InvalidData)?;
                return Err(io::Error::from_raw_os_error(errno.saturating_neg()));
            }
            _ if kind == RTM_NEWSTATS => links.extend(link(message)),
            _ => {}
        }
        datagram = rest;
    }
    Ok(false)
}

/// How long the first message is, of what kind, and what follows it.
fn header(datagram: &[u8]) -> Option<(usize, u16, &[u8])> {
    let length = word(datagram, 0)? as usize;
    let kind = u16::from_ne_bytes(datagram.get(4..6)?.try_into().ok()?);
    let rest = datagram.get(length.next_multiple_of(4)..).unwrap_or_default();
    (length >= HEADER).then_some((length, kind, rest))
}

/// Of a link of ours; what the host receives, its sandbox has sent.
fn link(message: &[u8]) -> Option<(Slot, Traffic)> {
    let slot = Slot::of_link(word(message, 4)?)?;
    let mut attributes = message.get(STATS..)?;
    loop {
        let kind = u16::from_ne_bytes(attributes.get(2..4)?.try_into().ok()?);
        let length = usize::from(u16::from_ne_bytes(attributes.get(..2)?.try_into().ok()?));
        if kind == IFLA_STATS_LINK_64 {
            let stats = attributes.get(4..length)?;
            let sent = long(stats, RECEIVED)?;
            return Some((slot, Traffic { received: long(stats, SENT)?, sent }));
        }
        attributes = attributes.get(length.next_multiple_of(4).max(4)..)?;
    }
}

fn word(bytes: &[u8], at: usize) -> Option<u32> {
    bytes.get(at..)?.first_chunk().map(|word| u32::from_ne_bytes(*word))
}

fn long(bytes: &[u8], at: usize) -> Option<u64> {
    bytes.get(at..)?.first_chunk().map(|long| u64::from_ne_bytes(*long))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn message(kind: u16, body: &[u8]) -> Vec<u8> {
        let mut message = ((HEADER + body.len()) as u32).to_ne_bytes().to_vec();
        message.extend(kind.to_ne_bytes());
        message.extend([0; 10]);
        message.extend(body);
        message
    }

    fn stats(index: u32, attributes: &[u8]) -> Vec<u8> {
        let mut body = vec![0; 4];
        body.extend(index.to_ne_bytes());
        body.extend([0; 4]);
        body.extend(attributes);
        message(RTM_NEWSTATS, &body)
    }

    fn attribute(kind: u16, value: &[u64]) -> Vec<u8> {
        let mut attribute = ((4 + 8 * value.len()) as u16).to_ne_bytes().to_vec();
        attribute.extend(kind.to_ne_bytes());
        value.iter().for_each(|value| attribute.extend(value.to_ne_bytes()));
        attribute
    }

    #[test]
    fn the_figures_of_our_links_are_found_among_others() {
        let slot = Slot(7);
        let mut datagram = stats(1, &attribute(IFLA_STATS_LINK_64, &[1, 2, 3, 4, 5]));
        let ours = [attribute(3, &[9]), attribute(IFLA_STATS_LINK_64, &[1, 2, 30, 40])].concat();
        datagram.extend(stats(slot.link_index(), &ours));
        let mut links = HashMap::new();
        assert!(!read(&datagram, &mut links).unwrap());
        assert!(read(&message(libc::NLMSG_DONE as u16, &[0; 4]), &mut links).unwrap());
        let known = HashMap::from([(slot, Traffic { received: 40, sent: 30 })]);
        assert_eq!(links, known);
    }

    #[test]
    fn what_is_cut_or_refused_is_no_figure() {
        let whole = stats(Slot(7).link_index(), &attribute(IFLA_STATS_LINK_64, &[1, 2, 3, 4]));
        for length in 0..whole.len() {
            let mut links = HashMap::new();
            let read = read(&whole[..length], &mut links);
            assert!(read.is_err() || !read.unwrap());
            assert!(links.is_empty(), "{length}");
        }
        let refused = message(libc::NLMSG_ERROR as u16, &(-libc::EPERM).to_ne_bytes());
        let error = read(&refused, &mut HashMap::new()).unwrap_err();
        assert_eq!(error.raw_os_error(), Some(libc::EPERM));
    }

    #[test]
    fn the_kernel_answers() {
        // None of ours is there, mostly; that it is understood is what counts.
        links().unwrap();
    }
}
