//! FreeBSD: structures of the kernel's that the libc crate does not have, as bytes.
//!
//! Nothing here calls the system, so that it is tested everywhere. Sizes and offsets are those of
//! 64-bit little-endian machines, the same from 13.2 to 15, from the table that is compared with
//! the headers.

use std::net::{Ipv4Addr, Ipv6Addr};

use rctl_sys::abi::{
    self, AF_INET, AF_INET6, IFF_UP, RT_MSGHDR_SIZE, SOCKADDR_IN_SIZE as SOCKADDR_IN,
    SOCKADDR_IN6_SIZE as SOCKADDR_IN6,
};

/// Which includes the terminating zero.
const NAME: usize = abi::IFNAMSIZ;

/// `struct ifreq`, for `SIOCGIFFLAGS` and `SIOCSIFFLAGS`.
pub(super) type Flags = [u8; abi::IFREQ_SIZE];

/// The name of an interface that is longer than the kernel's is cut, and then not found.
pub(super) fn flags(interface: &str) -> Flags {
    let mut request = [0; abi::IFREQ_SIZE];
    put_name(&mut request, interface);
    request
}

/// The same interface, with all that it was and `IFF_UP`.
pub(super) fn with_up(mut request: Flags) -> Flags {
    const AT: usize = abi::IFR_FLAGS;
    let flags = u16::from_ne_bytes([request[AT], request[AT + 1]]) | IFF_UP;
    request[AT..AT + 2].copy_from_slice(&flags.to_ne_bytes());
    request
}

/// `struct in_aliasreq`, for `SIOCAIFADDR`: one address with its network.
pub(super) fn address(
    interface: &str,
    address: Ipv4Addr,
    prefix: u8,
) -> [u8; abi::IN_ALIASREQ_SIZE] {
    let mask = u32::MAX.checked_shl(32 - u32::from(prefix.min(32))).unwrap_or(0);
    let mut request = [0; abi::IN_ALIASREQ_SIZE];
    put_name(&mut request, interface);
    let broadcast = Ipv4Addr::from_bits(address.to_bits() | !mask);
    for (at, address) in [
        (abi::IFRA_ADDR, address),
        (abi::IFRA_BROADADDR, broadcast),
        (abi::IFRA_MASK, Ipv4Addr::from_bits(mask)),
    ] {
        request[at..at + SOCKADDR_IN].copy_from_slice(&inet(address));
    }
    request
}

/// `struct in6_aliasreq`, for `SIOCAIFADDR_IN6`: `::1/128`, for ever.
pub(super) fn loopback6(interface: &str) -> [u8; abi::IN6_ALIASREQ_SIZE] {
    const ADDRESS: usize = abi::IFRA6_ADDR;
    const MASK: usize = abi::IFRA6_PREFIXMASK;
    // Of being valid and of being preferred.
    const LIFETIMES: [usize; 2] =
        [abi::IFRA6_LIFETIME + abi::IA6T_VLTIME, abi::IFRA6_LIFETIME + abi::IA6T_PLTIME];
    let mut request = [0; abi::IN6_ALIASREQ_SIZE];
    put_name(&mut request, interface);
    request[ADDRESS..ADDRESS + SOCKADDR_IN6].copy_from_slice(&inet6(Ipv6Addr::LOCALHOST));
    let all = inet6(Ipv6Addr::from_bits(u128::MAX));
    request[MASK..MASK + SOCKADDR_IN6].copy_from_slice(&all);
    for at in LIFETIMES {
        request[at..at + 4].copy_from_slice(&abi::ND6_INFINITE_LIFETIME.to_ne_bytes());
    }
    request
}

/// A `struct rt_msghdr` and three addresses.
const ROUTE: usize = RT_MSGHDR_SIZE + 3 * SOCKADDR_IN;

/// `RTM_ADD` or `RTM_CHANGE` of the route to everywhere, as route(4) takes it.
pub(super) fn default_route(kind: u8, gateway: Ipv4Addr) -> [u8; ROUTE] {
    const HEADER: usize = RT_MSGHDR_SIZE;
    const FLAGS: i32 = abi::RTF_UP | abi::RTF_GATEWAY | abi::RTF_STATIC;
    // They follow in this order.
    const ADDRESSES: i32 = abi::RTA_DST | abi::RTA_GATEWAY | abi::RTA_NETMASK;
    let mut message = [0; ROUTE];
    let mut put = |at: usize, value: &[u8]| message[at..at + value.len()].copy_from_slice(value);
    put(abi::RTM_MSGLEN_AT, &(ROUTE as u16).to_ne_bytes());
    put(abi::RTM_VERSION_AT, &[abi::RTM_VERSION]);
    put(abi::RTM_TYPE_AT, &[kind]);
    put(abi::RTM_FLAGS_AT, &FLAGS.to_ne_bytes());
    put(abi::RTM_ADDRS_AT, &ADDRESSES.to_ne_bytes());
    // The number by which the kernel's answer is told from others.
    put(abi::RTM_SEQ_AT, &1_i32.to_ne_bytes());
    for (n, address) in [Ipv4Addr::UNSPECIFIED, gateway, Ipv4Addr::UNSPECIFIED].iter().enumerate() {
        put(HEADER + n * SOCKADDR_IN, &inet(*address));
    }
    message
}

/// `struct kinfo_proc`, of which sysctl(3) `kern.proc` gives one for each process.
pub(super) const PROCESS: usize = abi::KINFO_PROC_SIZE;

/// What the processes of a jail but for `envd` use, as one reply of `kern.proc` tells: bytes in
/// memory, pages that several share counted for each, as racct(4) does it; and microseconds of CPU
/// time, which those that have ended have left to whoever waited for them.
pub(super) fn used(reply: &[u8], envd: i32, page: u64) -> (u64, u64) {
    let mut used = (0_u64, 0_u64);
    for process in reply.chunks_exact(PROCESS) {
        let signed = |at: usize| process[at..].first_chunk().map_or(0, |&b| i64::from_ne_bytes(b));
        let number = |at: usize| u64::try_from(signed(at)).unwrap_or(0);
        let size = process.first_chunk().map_or(0, |&bytes| i32::from_ne_bytes(bytes));
        // `ki_structsize` is what tells a kernel of another layout.
        if usize::try_from(size) != Ok(PROCESS) {
            continue;
        }
        let pid =
            process[abi::KI_PID..].first_chunk().map_or(0, |&bytes| i32::from_ne_bytes(bytes));
        if pid != envd {
            used.0 = used.0.saturating_add(number(abi::KI_RSSIZE).saturating_mul(page));
            used.1 = used.1.saturating_add(number(abi::KI_RUNTIME));
        }
        let seconds = number(abi::KI_CHILDTIME + abi::TV_SEC);
        let micros = number(abi::KI_CHILDTIME + abi::TV_USEC);
        let ended = seconds.saturating_mul(1_000_000).saturating_add(micros);
        used.1 = used.1.saturating_add(ended);
    }
    used
}

fn put_name(request: &mut [u8], interface: &str) {
    let length = interface.len().min(NAME - 1);
    request[..length].copy_from_slice(&interface.as_bytes()[..length]);
}

fn inet(address: Ipv4Addr) -> [u8; SOCKADDR_IN] {
    let mut inet = [0; SOCKADDR_IN];
    inet[0] = SOCKADDR_IN as u8;
    inet[1] = AF_INET;
    inet[4..8].copy_from_slice(&address.octets());
    inet
}

fn inet6(address: Ipv6Addr) -> [u8; SOCKADDR_IN6] {
    let mut inet = [0; SOCKADDR_IN6];
    inet[0] = SOCKADDR_IN6 as u8;
    inet[1] = AF_INET6;
    inet[8..24].copy_from_slice(&address.octets());
    inet
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn an_interface_is_brought_up_and_stays_what_it_was() {
        let mut request = flags("epair0b");
        assert_eq!(&request[..8], b"epair0b\0");
        // IFF_BROADCAST | IFF_MULTICAST, and something in the high half.
        request[16..20].copy_from_slice(&[0x02, 0x80, 0x40, 0]);
        assert_eq!(with_up(request)[16..20], [0x03, 0x80, 0x40, 0]);
        assert_eq!(flags("a-name-that-is-too-long")[15], 0);
    }

    #[test]
    fn an_address_comes_with_its_broadcast_address_and_mask() {
        let request = address("epair0b", Ipv4Addr::new(10, 1, 2, 3), 24);
        assert_eq!(&request[..8], b"epair0b\0");
        assert_eq!(request[16..24], [16, 2, 0, 0, 10, 1, 2, 3]);
        assert_eq!(request[32..40], [16, 2, 0, 0, 10, 1, 2, 255]);
        assert_eq!(request[48..56], [16, 2, 0, 0, 255, 255, 255, 0]);
        assert_eq!(request[56..], [0; 12]);
        let everything = address("lo0", Ipv4Addr::LOCALHOST, 0);
        assert_eq!(everything[52..56], [0; 4]);
        assert_eq!(address("lo0", Ipv4Addr::LOCALHOST, 32)[36..40], [127, 0, 0, 1]);
    }

    #[test]
    fn the_loopback_of_version_six_never_expires() {
        let request = loopback6("lo0");
        assert_eq!((request[16], request[17], request[39]), (28, 28, 1));
        assert_eq!((request[72], request[73]), (28, 28));
        assert_eq!(request[80..96], [0xff; 16]);
        assert_eq!(request[104..120], [0; 16]);
        assert_eq!(request[120..128], [0xff; 8]);
    }

    #[test]
    fn the_default_route_is_one_message_with_three_addresses() {
        let message = default_route(abi::RTM_ADD, Ipv4Addr::new(10, 0, 0, 1));
        assert_eq!(u16::from_ne_bytes([message[0], message[1]]), 200);
        assert_eq!((message[2], message[3]), (5, 1));
        assert_eq!(message[8..16], [0x03, 0x08, 0, 0, 7, 0, 0, 0]);
        let addresses: Vec<_> = message[152..].chunks(16).map(|address| &address[..8]).collect();
        let none = [16, 2, 0, 0, 0, 0, 0, 0];
        assert_eq!(addresses, [&none[..], &[16, 2, 0, 0, 10, 0, 0, 1], &none[..]]);
    }

    fn process(pid: i32, pages: i64, run: u64, ended: (i64, i64)) -> Vec<u8> {
        let mut process = vec![0; PROCESS];
        process[..4].copy_from_slice(&(PROCESS as i32).to_ne_bytes());
        process[72..76].copy_from_slice(&pid.to_ne_bytes());
        process[264..272].copy_from_slice(&pages.to_ne_bytes());
        process[328..336].copy_from_slice(&run.to_ne_bytes());
        process[352..360].copy_from_slice(&ended.0.to_ne_bytes());
        process[360..368].copy_from_slice(&ended.1.to_ne_bytes());
        process
    }

    #[test]
    fn what_is_used_is_that_of_all_processes_but_envd_and_of_those_it_has_buried() {
        let mut reply = process(10, 100, 5_000_000, (2, 7));
        reply.extend(process(11, 3, 40, (0, 1)));
        reply.extend(process(12, 4, 50, (0, 0)));
        assert_eq!(used(&reply, 10, 4096), (7 * 4096, 2_000_007 + 41 + 50));
        // Another layout is not understood, and half a process is none.
        let mut other = process(13, 9, 9, (9, 9));
        other[0] = 1;
        reply.extend(other);
        reply.extend(&[0xff; 100]);
        assert_eq!(used(&reply, 10, 4096), (7 * 4096, 2_000_098));
    }

    proptest! {
        #[test]
        fn no_reply_is_too_strange(reply in prop::collection::vec(any::<u8>(), 0..3000), pid: i32) {
            used(&reply, pid, 4096);
            let mut reply = reply;
            for process in reply.chunks_exact_mut(PROCESS) {
                process[..4].copy_from_slice(&(PROCESS as i32).to_ne_bytes());
            }
            used(&reply, pid, u64::MAX);
        }
    }
}
