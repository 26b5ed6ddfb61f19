//! What the kernel is asked about interfaces with: requests of ioctl(2) and their structures, as
//! netintro(4) and the headers `net/if.h`, `netinet/in_var.h` and `sys/sockio.h` of FreeBSD 13 to
//! 15 have them. Asks nothing itself.

use std::net::Ipv4Addr;

// sys/ioccom.h
const OUT: u64 = 0x4000_0000;
const IN: u64 = 0x8000_0000;

const fn request<T>(direction: u64, group: u8, number: u8) -> u64 {
    let length = size_of::<T>() as u64;
    assert!(length < 1 << 13, "IOCPARM_MASK");
    direction | length << 16 | (group as u64) << 8 | number as u64
}

/// `_IOW`
pub(super) const fn write<T>(group: u8, number: u8) -> u64 {
    request::<T>(IN, group, number)
}

/// `_IOWR`
pub(super) const fn read_write<T>(group: u8, number: u8) -> u64 {
    request::<T>(IN | OUT, group, number)
}

pub(super) const SIOCIFCREATE2: u64 = read_write::<InterfaceRequest>(b'i', 124);
pub(super) const SIOCIFDESTROY: u64 = write::<InterfaceRequest>(b'i', 121);
pub(super) const SIOCSIFVNET: u64 = read_write::<InterfaceRequest>(b'i', 90);
pub(super) const SIOCSIFDESCR: u64 = write::<InterfaceRequest>(b'i', 41);
pub(super) const SIOCSIFFLAGS: u64 = write::<InterfaceRequest>(b'i', 16);
pub(super) const SIOCGIFFLAGS: u64 = read_write::<InterfaceRequest>(b'i', 17);
pub(super) const SIOCAIFADDR: u64 = write::<AliasRequest>(b'i', 43);
pub(super) const SIOCDIFADDR: u64 = write::<InterfaceRequest>(b'i', 25);
pub(super) const SIOCAIFGROUP: u64 = write::<GroupRequest>(b'i', 135);

pub(super) const IFF_UP: u16 = 1;

const NAME: usize = 16;
type Name = [u8; NAME];

/// A name with its NUL. Ours are all shorter; a longer one would be cut.
fn name(text: &str) -> Name {
    let mut name = [0; NAME];
    let length = text.len().min(NAME - 1);
    name[..length].copy_from_slice(&text.as_bytes()[..length]);
    name
}

/// `struct ifreq`
#[repr(C)]
pub(super) struct InterfaceRequest {
    name: Name,
    value: InterfaceValue,
}

#[repr(C)]
pub(super) union InterfaceValue {
    pub(super) flags: [u16; 2],
    pub(super) jid: i32,
    pub(super) address: SocketAddress,
    pub(super) buffer: Buffer,
}

/// `struct ifreq_buffer`
#[repr(C)]
#[derive(Clone, Copy)]
pub(super) struct Buffer {
    pub(super) length: usize,
    pub(super) start: *const u8,
}

/// `struct sockaddr_in`
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct SocketAddress {
    length: u8,
    family: u8,
    port: u16,
    address: [u8; 4],
    zero: [u8; 8],
}

/// `struct in_aliasreq`
#[repr(C)]
#[derive(Debug, PartialEq, Eq)]
pub(super) struct AliasRequest {
    name: Name,
    address: SocketAddress,
    broadcast: SocketAddress,
    mask: SocketAddress,
    vhid: i32,
}

/// `struct ifgroupreq`
#[repr(C)]
#[derive(Debug, PartialEq, Eq)]
pub(super) struct GroupRequest {
    name: Name,
    length: u32,
    /// Of a union with a pointer, which puts it at a multiple of eight.
    gap: u32,
    group: Name,
}

impl InterfaceRequest {
    pub(super) fn new(interface: &str, value: InterfaceValue) -> Self {
        Self { name: name(interface), value }
    }

    /// With nothing but the name.
    pub(super) fn named(interface: &str) -> Self {
        Self::new(
            interface,
            InterfaceValue { buffer: Buffer { length: 0, start: std::ptr::null() } },
        )
    }

    /// Of a request that the kernel has answered with flags.
    pub(super) fn value(&mut self) -> &mut InterfaceValue {
        &mut self.value
    }
}

impl SocketAddress {
    pub(super) fn new(address: Ipv4Addr) -> Self {
        Self {
            length: size_of::<Self>() as u8,
            family: libc::AF_INET as u8,
            address: address.octets(),
            ..Self::default()
        }
    }
}

impl AliasRequest {
    /// The kernel finds the broadcast address by itself.
    pub(super) fn new(interface: &str, address: Ipv4Addr, prefix: u8) -> Self {
        let mask = u32::MAX.checked_shl(32 - u32::from(prefix)).unwrap_or(0);
        Self {
            name: name(interface),
            address: SocketAddress::new(address),
            broadcast: SocketAddress::default(),
            mask: SocketAddress::new(mask.into()),
            vhid: 0,
        }
    }
}

impl GroupRequest {
    pub(super) fn new(interface: &str, group: &str) -> Self {
        Self { name: name(interface), length: 0, gap: 0, group: name(group) }
    }
}

#[cfg(test)]
mod tests {
    use std::mem::offset_of;

    use super::*;

    /// As a C compiler made them of FreeBSD's headers.
    #[test]
    fn requests_have_the_numbers_of_the_headers() {
        for (ours, theirs) in [
            (SIOCIFCREATE2, 0xc020_697c),
            (SIOCIFDESTROY, 0x8020_6979),
            (SIOCSIFVNET, 0xc020_695a),
            (SIOCSIFDESCR, 0x8020_6929),
            (SIOCAIFADDR, 0x8044_692b),
            (SIOCDIFADDR, 0x8020_6919),
            (SIOCSIFFLAGS, 0x8020_6910),
            (SIOCGIFFLAGS, 0xc020_6911),
            (SIOCAIFGROUP, 0x8028_6987),
        ] {
            assert_eq!(ours, theirs, "{ours:#x}");
        }
    }

    #[test]
    fn structures_are_laid_out_as_in_the_headers() {
        assert_eq!((size_of::<InterfaceRequest>(), offset_of!(InterfaceRequest, value)), (32, 16));
        assert_eq!(size_of::<AliasRequest>(), 68);
        assert_eq!(offset_of!(AliasRequest, address), 16);
        assert_eq!(offset_of!(AliasRequest, broadcast), 32);
        assert_eq!(offset_of!(AliasRequest, mask), 48);
        assert_eq!(offset_of!(AliasRequest, vhid), 64);
        assert_eq!(size_of::<GroupRequest>(), 40);
        assert_eq!(offset_of!(GroupRequest, length), 16);
        assert_eq!(offset_of!(GroupRequest, group), 24);
    }

    #[test]
    fn an_alias_has_the_mask_of_its_prefix() {
        let mask = |prefix| {
            let request = AliasRequest::new("lo0", Ipv4Addr::new(127, 64, 0, 1), prefix);
            Ipv4Addr::from(request.mask.address).to_string()
        };
        assert_eq!(mask(30), "255.255.255.252");
        assert_eq!((mask(32), mask(0)), ("255.255.255.255".into(), "0.0.0.0".into()));
    }

    #[test]
    fn a_name_is_cut_rather_than_left_without_its_end() {
        assert_eq!(&name("epair4096a")[..11], b"epair4096a\0");
        assert_eq!(name("0123456789abcdefgh")[15], 0);
    }
}
