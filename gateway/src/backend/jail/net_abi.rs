//! What the kernel is asked about interfaces with: the structures of netintro(4), as the headers
//! `net/if.h` and `netinet/in_var.h` of FreeBSD 13 to 15 have them. Asks nothing itself.

#![allow(unsafe_code)]

use std::{mem::offset_of, net::Ipv4Addr};

use rctl_sys::abi;

type Name = [u8; abi::IFNAMSIZ];

/// A name with its NUL. Ours are all shorter; a longer one would be cut.
fn name(text: &str) -> Name {
    let mut name = [0; abi::IFNAMSIZ];
    let length = text.len().min(name.len() - 1);
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

// What the headers say, which `abi` is checked against.
const _: () = {
    assert!(size_of::<InterfaceRequest>() == abi::IFREQ_SIZE);
    assert!(offset_of!(InterfaceRequest, value) == abi::IFR_FLAGS);
    assert!(offset_of!(InterfaceRequest, value) == abi::IFR_JID);
    assert!(offset_of!(InterfaceRequest, value) == abi::IFR_ADDR);
    assert!(offset_of!(InterfaceRequest, value) == abi::IFR_BUFFER);
    assert!(offset_of!(Buffer, length) == abi::IFR_BUFFER_LENGTH);
    assert!(offset_of!(Buffer, start) == abi::IFR_BUFFER_START);
    assert!(size_of::<SocketAddress>() == abi::SOCKADDR_IN_SIZE);
    assert!(offset_of!(SocketAddress, family) == abi::SIN_FAMILY);
    assert!(offset_of!(SocketAddress, port) == abi::SIN_PORT);
    assert!(offset_of!(SocketAddress, address) == abi::SIN_ADDR);
    assert!(size_of::<AliasRequest>() == abi::IN_ALIASREQ_SIZE);
    assert!(offset_of!(AliasRequest, address) == abi::IFRA_ADDR);
    assert!(offset_of!(AliasRequest, broadcast) == abi::IFRA_BROADADDR);
    assert!(offset_of!(AliasRequest, mask) == abi::IFRA_MASK);
    assert!(offset_of!(AliasRequest, vhid) == abi::IFRA_VHID);
    assert!(size_of::<GroupRequest>() == abi::IFGROUPREQ_SIZE);
    assert!(offset_of!(GroupRequest, length) == abi::IFGR_LEN);
    assert!(offset_of!(GroupRequest, group) == abi::IFGR_GROUP);
};

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

    /// Of a request that the kernel has answered with flags: the low half, and the high.
    pub(super) fn flags(&self) -> (u16, u16) {
        // SAFETY: whatever it was made with has set these four bytes, and any bits are flags.
        let [low, high] = unsafe { self.value.flags };
        (low, high)
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
    use super::*;

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
