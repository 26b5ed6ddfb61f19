//! The packet filter's netlink protocol (<linux/netfilter/nf_tables.h>): questions, and changes of
//! what is in a set. No program is run for either.

use std::{
    io,
    os::fd::{AsRawFd, OwnedFd},
    time::Duration,
};

use nix::sys::{
    socket::{
        AddressFamily, MsgFlags, NetlinkAddr, SockFlag, SockProtocol, SockType, recv, sendto,
        setsockopt, socket, sockopt::ReceiveTimeout,
    },
    time::TimeVal,
};

use super::nft::TABLE;

/// The kernel answers within the request, so this is never waited for.
const PATIENCE_S: i64 = 2;

/// Larger than any message of a dump.
const BUFFER: usize = 64 << 10;

const HEADER: usize = 16;
const FAMILY_HEADER: usize = 4;

const SUBSYSTEM: u16 = libc::NFNL_SUBSYS_NFTABLES as u16;
const NEW_ELEMENTS: u16 = libc::NFT_MSG_NEWSETELEM as u16;
const DELETE_ELEMENTS: u16 = libc::NFT_MSG_DELSETELEM as u16;
const GET_ELEMENTS: u16 = libc::NFT_MSG_GETSETELEM as u16;

const GET_OBJECT: u16 = libc::NFT_MSG_GETOBJ as u16;
const COUNTER: u32 = 1;

// Attributes, each of its own enumeration.
const OBJECT_TABLE: u16 = 1;
const OBJECT_NAME: u16 = 2;
const OBJECT_TYPE: u16 = 3;
const OBJECT_DATA: u16 = 4;
const COUNTER_PACKETS: u16 = 2;
const LIST_TABLE: u16 = 1;
const LIST_SET: u16 = 2;
const LIST_ELEMENTS: u16 = 3;
const ELEMENT: u16 = 1;
const ELEMENT_KEY: u16 = 1;
const ELEMENT_DATA: u16 = 2;
const ELEMENT_TIMEOUT: u16 = 4;
const ELEMENT_KEY_END: u16 = 10;
const VALUE: u16 = 1;
const NESTED: u16 = 0x8000;

/// Elements of one message: an attribute's length is 16 bits.
const TOGETHER: usize = 1000;

/// Of a set or a map.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Element {
    pub(super) key: Vec<u8>,
    /// The last one, of a range of keys.
    pub(super) end: Option<Vec<u8>>,
    /// What a map has for it.
    pub(super) value: Option<Vec<u8>>,
    /// Until it goes by itself.
    pub(super) lasts: Option<Duration>,
}

/// Of one set of our table.
pub(super) struct Change {
    pub(super) set: &'static str,
    /// Or they are removed.
    pub(super) add: bool,
    pub(super) elements: Vec<Element>,
}

/// All of it from one instant to the next, or none.
pub(super) fn commit(changes: &[Change]) -> io::Result<()> {
    let mut messages = Vec::new();
    for change in changes {
        for elements in change.elements.chunks(TOGETHER) {
            messages.push((change.add, list(change.set, elements)));
        }
    }
    let Some(last) = messages.len().checked_sub(1) else { return Ok(()) };
    let mut batch = edge(libc::NFNL_MSG_BATCH_BEGIN);
    for (at, (add, attributes)) in messages.iter().enumerate() {
        let (kind, create) = match add {
            true => (NEW_ELEMENTS, libc::NLM_F_CREATE),
            false => (DELETE_ELEMENTS, 0),
        };
        // What is answered first is what failed, or that nothing has.
        let ack = if at == last { libc::NLM_F_ACK } else { 0 };
        let kind = SUBSYSTEM << 8 | kind;
        batch.extend(request(kind, libc::NFPROTO_INET, create | ack, attributes));
    }
    batch.extend(edge(libc::NFNL_MSG_BATCH_END));
    let socket = open()?;
    sendto(socket.as_raw_fd(), &batch, &NetlinkAddr::new(0, 0), MsgFlags::empty())?;
    let mut buffer = vec![0; BUFFER];
    let length = recv(socket.as_raw_fd(), &mut buffer, MsgFlags::empty())?;
    acknowledged(&buffer[..length])
}

/// What is in a set; nothing, where there is no such set.
pub(super) fn elements(set: &str) -> io::Result<Vec<Element>> {
    let found = match ask(GET_ELEMENTS, libc::NFPROTO_INET, libc::NLM_F_DUMP, &list(set, &[])) {
        Err(error) if error.raw_os_error() == Some(libc::ENOENT) => return Ok(Vec::new()),
        found => found?,
    };
    let lists = found.iter().filter_map(|message| attribute(message, LIST_ELEMENTS));
    let each = lists.flat_map(attributes).filter_map(|(_, element)| {
        let value = |key| attribute(attribute(element, key)?, VALUE).map(<[u8]>::to_vec);
        let (key, end) = (value(ELEMENT_KEY)?, value(ELEMENT_KEY_END));
        Some(Element { key, end, value: value(ELEMENT_DATA), lasts: None })
    });
    Ok(each.collect())
}

/// What a counter has counted; nothing, where there is no such counter.
pub(super) fn packets(counter: &str) -> io::Result<u64> {
    let mut asked = encode(OBJECT_TABLE, &text(TABLE));
    asked.extend(encode(OBJECT_NAME, &text(counter)));
    asked.extend(encode(OBJECT_TYPE, &COUNTER.to_be_bytes()));
    let found = match ask(GET_OBJECT, libc::NFPROTO_INET, 0, &asked) {
        Err(error) if error.raw_os_error() == Some(libc::ENOENT) => return Ok(0),
        found => found?,
    };
    let count = found.first().and_then(|object| attribute(object, OBJECT_DATA));
    let count = count.and_then(|data| attribute(data, COUNTER_PACKETS)?.first_chunk());
    count.map(|count| u64::from_be_bytes(*count)).ok_or_else(|| io::ErrorKind::InvalidData.into())
}

fn list(set: &str, elements: &[Element]) -> Vec<u8> {
    let value = |key: u16, bytes: &[u8]| encode(key | NESTED, &encode(VALUE, bytes));
    let mut all = Vec::new();
    for element in elements {
        let mut one = value(ELEMENT_KEY, &element.key);
        if let Some(end) = &element.end {
            one.extend(value(ELEMENT_KEY_END, end));
        }
        if let Some(data) = &element.value {
            one.extend(value(ELEMENT_DATA, data));
        }
        if let Some(lasts) = element.lasts {
            one.extend(encode(ELEMENT_TIMEOUT, &(lasts.as_millis() as u64).to_be_bytes()));
        }
        all.extend(encode(ELEMENT | NESTED, &one));
    }
    let mut message = encode(LIST_TABLE, &text(TABLE));
    message.extend(encode(LIST_SET, &text(set)));
    if !all.is_empty() {
        message.extend(encode(LIST_ELEMENTS | NESTED, &all));
    }
    message
}

/// As C has it.
pub(super) fn text(text: &str) -> Vec<u8> {
    [text.as_bytes(), b"\0"].concat()
}

/// What a batch begins and ends with.
fn edge(kind: i32) -> Vec<u8> {
    let mut message = request(kind as u16, libc::AF_UNSPEC, 0, &[]);
    message[HEADER + 2..HEADER + 4].copy_from_slice(&SUBSYSTEM.to_be_bytes());
    message
}

fn acknowledged(answer: &[u8]) -> io::Result<()> {
    let errno = answer.get(HEADER..).and_then(<[u8]>::first_chunk);
    match errno.map(|errno| i32::from_ne_bytes(*errno)) {
        Some(0) => Ok(()),
        Some(errno) => Err(io::Error::from_raw_os_error(errno.saturating_neg())),
        None => Err(io::ErrorKind::InvalidData.into()),
    }
}

fn open() -> io::Result<OwnedFd> {
    let socket = socket(
        AddressFamily::Netlink,
        SockType::Raw,
        SockFlag::SOCK_CLOEXEC,
        SockProtocol::NetlinkNetFilter,
    )?;
    setsockopt(&socket, ReceiveTimeout, &TimeVal::new(PATIENCE_S, 0))?;
    Ok(socket)
}

/// The attributes of each message of the answer.
pub(super) fn ask(
    what: u16,
    family: i32,
    flags: i32,
    attributes: &[u8],
) -> io::Result<Vec<Vec<u8>>> {
    let socket = open()?;
    let kind = SUBSYSTEM << 8 | what;
    let request = request(kind, family, flags, attributes);
    sendto(socket.as_raw_fd(), &request, &NetlinkAddr::new(0, 0), MsgFlags::empty())?;

    let mut found = Vec::new();
    let mut buffer = vec![0; BUFFER];
    loop {
        let length = recv(socket.as_raw_fd(), &mut buffer, MsgFlags::empty())?;
        if read_answer(&buffer[..length], &mut found)? || flags & libc::NLM_F_DUMP == 0 {
            return Ok(found);
        }
    }
}

fn request(kind: u16, family: i32, flags: i32, attributes: &[u8]) -> Vec<u8> {
    let length = (HEADER + FAMILY_HEADER + attributes.len()) as u32;
    let flags = (libc::NLM_F_REQUEST | flags) as u16;
    let mut message = Vec::with_capacity(length as usize);
    message.extend(length.to_ne_bytes());
    message.extend(kind.to_ne_bytes());
    message.extend(flags.to_ne_bytes());
    // Sequence number and sender: one request a socket needs neither.
    message.extend([0; 8]);
    message.extend([family as u8, libc::NFNETLINK_V0 as u8, 0, 0]);
    message.extend(attributes);
    message
}

/// Adds the messages of one datagram to `found`; true after the last of a dump.
fn read_answer(mut datagram: &[u8], found: &mut Vec<Vec<u8>>) -> io::Result<bool> {
    let invalid = || io::Error::from(io::ErrorKind::InvalidData);
    while let Some((header, _)) = datagram.split_first_chunk::<HEADER>() {
        let length = u32::from_ne_bytes([header[0], header[1], header[2], header[3]]) as usize;
        let kind = i32::from(u16::from_ne_bytes([header[4], header[5]]));
        let flags = i32::from(u16::from_ne_bytes([header[6], header[7]]));
        let body = datagram.get(HEADER..length).ok_or_else(invalid)?;
        if flags & libc::NLM_F_DUMP_INTR != 0 {
            return Err(io::ErrorKind::Interrupted.into());
        }
        match kind {
            libc::NLMSG_DONE => return Ok(true),
            libc::NLMSG_ERROR => {
                let (errno, _) = body.split_first_chunk().ok_or_else(invalid)?;
                let errno = i32::from_ne_bytes(*errno).saturating_neg();
                return Err(io::Error::from_raw_os_error(errno));
            }
            _ => found.push(body.get(FAMILY_HEADER..).ok_or_else(invalid)?.to_vec()),
        }
        datagram = datagram.get(aligned(length)..).unwrap_or_default();
    }
    Ok(false)
}

pub(super) fn encode(kind: u16, value: &[u8]) -> Vec<u8> {
    let length = (4 + value.len()) as u16;
    let mut attribute = [length.to_ne_bytes(), kind.to_ne_bytes()].concat();
    attribute.extend(value);
    attribute.resize(aligned(attribute.len()), 0);
    attribute
}

pub(super) fn attribute(attributes_of: &[u8], wanted: u16) -> Option<&[u8]> {
    attributes(attributes_of).find(|(kind, _)| *kind == wanted).map(|(_, value)| value)
}

pub(super) fn attributes(mut left: &[u8]) -> impl Iterator<Item = (u16, &[u8])> {
    std::iter::from_fn(move || {
        let (header, _) = left.split_first_chunk::<4>()?;
        let length = usize::from(u16::from_ne_bytes([header[0], header[1]]));
        // The upper two bits are flags.
        let kind = u16::from_ne_bytes([header[2], header[3]]) & 0x3fff;
        let value = left.get(4..length)?;
        left = left.get(aligned(length)..).unwrap_or_default();
        Some((kind, value))
    })
}

fn aligned(length: usize) -> usize {
    length.next_multiple_of(4)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_mangled_answer_is_an_error_or_nothing() {
        let answer = request(7, 1, 0, &encode(1, b"coppice\0"));
        for length in 1..answer.len() {
            let mut found = Vec::new();
            let read = read_answer(&answer[..length], &mut found);
            assert!(read.is_err() || found.is_empty(), "{length}");
        }
        assert_eq!(attributes(&[255, 0, 1, 0]).count(), 0);
        assert_eq!(attributes(&[0, 0, 1, 0]).count(), 0);
    }
}
