//! What the packet filter holds of ours, asked of the kernel without running a program.

use std::{io, os::fd::AsRawFd};

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

const GET_TABLE: u16 = libc::NFT_MSG_GETTABLE as u16;
const GET_RULE: u16 = libc::NFT_MSG_GETRULE as u16;
const GET_GENERATION: u16 = libc::NFT_MSG_GETGEN as u16;

// Attributes of <linux/netfilter/nf_tables.h>, each of its own enumeration.
const GENERATION_ID: u16 = 1;
const TABLE_NAME: u16 = 1;
const TABLE_HANDLE: u16 = 4;
const RULE_TABLE: u16 = 1;
const RULE_CHAIN: u16 = 2;
const RULE_EXPRESSIONS: u16 = 4;
const EXPRESSION_NAME: u16 = 1;
const EXPRESSION_DATA: u16 = 2;

/// Our table, such that loading the same rules once more gives an equal one.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Table {
    /// Another one once the table has been removed and made again, and its sets with it.
    handle: Vec<u8>,
    pub(super) rules: Vec<Vec<u8>>,
}

/// A number that changes with every change of anybody's rules.
pub(super) fn generation() -> io::Result<u32> {
    let messages = ask(GET_GENERATION, libc::AF_UNSPEC, 0, &[])?;
    let first = messages.first().map(Vec::as_slice).unwrap_or_default();
    attribute(first, GENERATION_ID)
        .and_then(|id| Some(u32::from_be_bytes(id.try_into().ok()?)))
        .ok_or_else(|| io::Error::from(io::ErrorKind::InvalidData))
}

/// `None` when it is not there.
pub(super) fn table() -> io::Result<Option<Table>> {
    let name = [TABLE.as_bytes(), b"\0"].concat();
    let found = match ask(GET_TABLE, libc::NFPROTO_INET, 0, &encode(TABLE_NAME, &name)) {
        Err(error) if error.raw_os_error() == Some(libc::ENOENT) => return Ok(None),
        found => found?,
    };
    let handle = found.first().and_then(|table| attribute(table, TABLE_HANDLE));
    let handle = handle.unwrap_or_default().to_vec();
    let filter = encode(RULE_TABLE, &name);
    let mut rules = ask(GET_RULE, libc::NFPROTO_INET, libc::NLM_F_DUMP, &filter)?;
    // Older kernels show the rules of all tables.
    rules.retain(|rule| attribute(rule, RULE_TABLE) == Some(&name));
    Ok(Some(Table { handle, rules: rules.iter().map(|rule| gist(rule)).collect() }))
}

/// What a rule says, without the numbers and the names of anonymous sets that the kernel gave it.
fn gist(rule: &[u8]) -> Vec<u8> {
    let mut gist = attribute(rule, RULE_CHAIN).unwrap_or_default().to_vec();
    for (_, expression) in attributes(attribute(rule, RULE_EXPRESSIONS).unwrap_or_default()) {
        let name = attribute(expression, EXPRESSION_NAME).unwrap_or_default();
        gist.extend(name);
        if name != b"lookup\0" {
            gist.extend(attribute(expression, EXPRESSION_DATA).unwrap_or_default());
        }
    }
    gist
}

/// The attributes of each message of the answer.
fn ask(what: u16, family: i32, flags: i32, attributes: &[u8]) -> io::Result<Vec<Vec<u8>>> {
    let socket = socket(
        AddressFamily::Netlink,
        SockType::Raw,
        SockFlag::SOCK_CLOEXEC,
        SockProtocol::NetlinkNetFilter,
    )?;
    setsockopt(&socket, ReceiveTimeout, &TimeVal::new(PATIENCE_S, 0))?;
    let kind = (libc::NFNL_SUBSYS_NFTABLES as u16) << 8 | what;
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

fn encode(kind: u16, value: &[u8]) -> Vec<u8> {
    let length = (4 + value.len()) as u16;
    let mut attribute = [length.to_ne_bytes(), kind.to_ne_bytes()].concat();
    attribute.extend(value);
    attribute.resize(aligned(attribute.len()), 0);
    attribute
}

fn attribute(attributes_of: &[u8], wanted: u16) -> Option<&[u8]> {
    attributes(attributes_of).find(|(kind, _)| *kind == wanted).map(|(_, value)| value)
}

fn attributes(mut left: &[u8]) -> impl Iterator<Item = (u16, &[u8])> {
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
    use nix::sched::{CloneFlags, unshare};

    use super::{super::nft, *};
    use crate::backend::host::require_root;

    fn nft(rules: &str) {
        use std::{io::Write, process::*};
        let mut nft =
            Command::new("nft").args(["-f", "-"]).stdin(Stdio::piped()).spawn().expect("nft");
        nft.stdin.take().unwrap().write_all(rules.as_bytes()).unwrap();
        assert!(nft.wait().unwrap().success());
    }

    #[test]
    fn our_table_is_told_from_one_that_is_gone_or_changed() {
        require_root!();
        let in_a_network_of_its_own = || {
            unshare(CloneFlags::CLONE_NEWNET).unwrap();
            assert_eq!(table().unwrap(), None);
            let rules = nft::rules(&["10.0.0.53".parse().unwrap()]);
            nft(&rules);
            let (before, loaded) = (generation().unwrap(), table().unwrap().unwrap());
            assert_eq!(loaded.rules.len(), nft::number_of(&rules), "{loaded:?}");
            // Another gateway loads the same; somebody else has rules of his own.
            nft(&rules);
            nft("add table inet other\nadd chain inet other c\nadd rule inet other c accept\n");
            assert_eq!(table().unwrap().as_ref(), Some(&loaded));
            assert_ne!(generation().unwrap(), before);

            nft("insert rule inet coppice forward accept\n");
            assert_ne!(table().unwrap().as_ref(), Some(&loaded));
            nft(&rules);
            assert_eq!(table().unwrap().as_ref(), Some(&loaded));
            nft("flush table inet coppice\n");
            assert_eq!(table().unwrap().unwrap().rules, Vec::<Vec<u8>>::new());
            nft("flush ruleset\n");
            assert_eq!(table().unwrap(), None);
            nft(&rules);
            let again = table().unwrap().unwrap();
            assert_eq!(again.rules, loaded.rules);
            assert_ne!(again, loaded, "the resolvers of other gateways are lost");
        };
        std::thread::spawn(in_a_network_of_its_own).join().unwrap();
    }

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
