//! The kernel's side of a link: interfaces by ioctl(2), the forwarding of packets, modules.

#![allow(unsafe_code)]

use std::{
    collections::HashMap,
    ffi::{CStr, CString, c_char, c_int},
    fs, io,
    net::Ipv4Addr,
    os::fd::{AsRawFd, OwnedFd},
    path::Path,
    ptr,
};

use nix::{
    ifaddrs::getifaddrs,
    net::if_::InterfaceFlags,
    sys::socket::{AddressFamily, SockFlag, SockType, socket},
};
use rctl_sys::{
    abi::{
        IFF_UP, SIOCAIFADDR, SIOCAIFGROUP, SIOCDIFADDR, SIOCGIFFLAGS, SIOCIFCREATE2, SIOCIFDESTROY,
        SIOCSIFDESCR, SIOCSIFFLAGS, SIOCSIFVNET,
    },
    jail::Jid,
};

use super::{
    error::{Call, Kernel},
    net_abi::{
        AliasRequest, Buffer, GroupRequest, InterfaceRequest, InterfaceValue, SocketAddress,
    },
    net_slot::{self, PREFIX, RUN, Slot},
    pf::{Interface, Tag},
};
use crate::backend::Error;

const FORWARDING: &str = "net.inet.ip.forwarding";
const LOOPBACK: &str = "lo0";

unsafe extern "C" {
    /// modfind(2)
    fn modfind(name: *const c_char) -> c_int;
    /// kldload(2)
    fn kldload(file: *const c_char) -> c_int;
}

/// Makes a pair, of which one end stays with the host and has its address; it is down.
pub(super) fn make_pair(slot: Slot, tag: &Tag, note: &str) -> Result<(), Error> {
    let (pair, outside) = (slot.pair(), slot.outside());
    let create = || ask(SIOCIFCREATE2, &mut InterfaceRequest::named(&pair));
    match create() {
        // The slot was nobody's, so the pair is: its gateway was killed and its file removed.
        Err(error) if error.raw_os_error() == Some(libc::EEXIST) => {
            remove_pair(slot)?;
            create()
        }
        result => result,
    }
    .call("ioctl SIOCIFCREATE2", &pair)?;

    // What `ifconfig` shows to who wonders; nothing here depends on it.
    let note = CString::new(note).unwrap_or_default();
    let buffer = Buffer { length: note.as_bytes_with_nul().len(), start: note.as_ptr().cast() };
    let mut described = InterfaceRequest::new(&outside, InterfaceValue { buffer });
    ask(SIOCSIFDESCR, &mut described).call("ioctl SIOCSIFDESCR", &outside)?;

    let group = tag.group();
    ask(SIOCAIFGROUP, &mut GroupRequest::new(&outside, &group))
        .call("ioctl SIOCAIFGROUP", format!("{outside} {group}"))
}

/// Gives the host's end its address and lets it speak, unless it does: an address that is given
/// anew is away for a moment. One that is not there is a success: root in a jail can destroy the
/// end that is his, and the other goes along.
pub(super) fn open(slot: Slot) -> Result<(), Error> {
    let outside = slot.outside();
    match flags(&outside)? {
        Some((low, _)) if low & IFF_UP == 0 => {
            add_address(&outside, slot.gateway(), PREFIX)?;
            set_up(&outside, true)
        }
        _ => Ok(()),
    }
}

/// Has it say and hear nothing. Idempotent; one that is not there is a success.
pub(super) fn shut(slot: Slot) -> Result<(), Error> {
    set_up(&slot.outside(), false)
}

/// Puts the other end into a jail with a stack of its own.
pub(super) fn give(slot: Slot, jail: Jid) -> Result<(), Error> {
    let inside = slot.inside();
    let mut request = InterfaceRequest::new(&inside, InterfaceValue { jid: jail.raw() });
    ask(SIOCSIFVNET, &mut request).call("ioctl SIOCSIFVNET", format!("{inside} jail {jail}"))
}

/// Whether the host's end is there.
pub(super) fn has_pair(slot: Slot) -> bool {
    let Ok(name) = std::ffi::CString::new(slot.outside()) else { return false };
    // SAFETY: the name ends in NUL and lives for the call.
    unsafe { libc::if_nametoindex(name.as_ptr()) != 0 }
}

/// Both ends, wherever the other one is: epair(4). One that is not there is a success.
pub(super) fn remove_pair(slot: Slot) -> Result<(), Error> {
    let outside = slot.outside();
    match ask(SIOCIFDESTROY, &mut InterfaceRequest::named(&outside)) {
        Err(error) if error.raw_os_error() == Some(libc::ENXIO) => Ok(()),
        result => result.call("ioctl SIOCIFDESTROY", outside),
    }
}

pub(super) fn add_loopback(address: Ipv4Addr) -> Result<(), Error> {
    add_address(LOOPBACK, address, 32)
}

/// One that is not there is a success.
pub(super) fn remove_loopback(address: Ipv4Addr) -> Result<(), Error> {
    let value = InterfaceValue { address: SocketAddress::new(address) };
    match ask(SIOCDIFADDR, &mut InterfaceRequest::new(LOOPBACK, value)) {
        Err(error) if error.raw_os_error() == Some(libc::EADDRNOTAVAIL) => Ok(()),
        result => result.call("ioctl SIOCDIFADDR", format!("{LOOPBACK} {address}")),
    }
}

fn add_address(interface: &str, address: Ipv4Addr, prefix: u8) -> Result<(), Error> {
    ask(SIOCAIFADDR, &mut AliasRequest::new(interface, address, prefix))
        .call("ioctl SIOCAIFADDR", format!("{interface} {address}/{prefix}"))
}

fn set_up(interface: &str, up: bool) -> Result<(), Error> {
    let Some((low, high)) = flags(interface)? else { return Ok(()) };
    let low = if up { low | IFF_UP } else { low & !IFF_UP };
    let mut request = InterfaceRequest::new(interface, InterfaceValue { flags: [low, high] });
    let what = if up { "up" } else { "down" };
    ask(SIOCSIFFLAGS, &mut request).call("ioctl SIOCSIFFLAGS", format!("{interface} {what}"))
}

/// `None` for an interface that is not there.
fn flags(interface: &str) -> Result<Option<(u16, u16)>, Error> {
    let mut request = InterfaceRequest::named(interface);
    match ask(SIOCGIFFLAGS, &mut request) {
        Err(error) if error.raw_os_error() == Some(libc::ENXIO) => Ok(None),
        result => result.call("ioctl SIOCGIFFLAGS", interface).map(|()| Some(request.flags())),
    }
}

fn ask<T>(number: u64, request: &mut T) -> io::Result<()> {
    let socket: OwnedFd =
        socket(AddressFamily::Inet, SockType::Datagram, SockFlag::SOCK_CLOEXEC, None)?;
    // SAFETY: the request's number has the size of `T` in it, and no more is read or written; what
    // a `Buffer` in it points to lives in the caller, and is only read.
    let answer = unsafe { libc::ioctl(socket.as_raw_fd(), number, ptr::from_mut(request)) };
    if answer == -1 { Err(io::Error::last_os_error()) } else { Ok(()) }
}

/// The host's interfaces that have an IPv4 address and are not its loopback or links of ours.
pub(super) fn uplinks() -> Result<Vec<Interface>, Error> {
    let mut uplinks: Vec<Interface> = getifaddrs()
        .call("getifaddrs", "this host")?
        .filter(|found| {
            let address = found.address.as_ref().and_then(|address| address.as_sockaddr_in());
            address.is_some_and(|address| !net_slot::is_ours(address.ip()))
                && found.flags.contains(InterfaceFlags::IFF_UP)
                && !found.flags.contains(InterfaceFlags::IFF_LOOPBACK)
        })
        .filter_map(|found| Interface::new(&found.interface_name))
        .collect();
    uplinks.sort_unstable();
    uplinks.dedup();
    Ok(uplinks)
}

/// Bytes that each of the host's interfaces has received and sent, by its name: getifaddrs(3).
pub(super) fn counters() -> Result<HashMap<String, (u64, u64)>, Error> {
    let mut first = ptr::null_mut();
    // SAFETY: the kernel's library makes a list, of which `first` is set to the first entry.
    let answer = unsafe { libc::getifaddrs(&raw mut first) };
    let made = if answer == -1 { Err(io::Error::last_os_error()) } else { Ok(()) };
    made.call("getifaddrs", "this host")?;
    let mut found = HashMap::new();
    let mut next = first.cast_const();
    // SAFETY: each entry is one of that list, which nobody else has and which is freed below.
    while let Some(entry) = unsafe { next.as_ref() } {
        next = entry.ifa_next.cast_const();
        // SAFETY: an address, where there is one, is as long as its family says; all have one.
        let family = unsafe { entry.ifa_addr.as_ref() }.map(|address| address.sa_family);
        if family != Some(libc::AF_LINK as libc::sa_family_t) || entry.ifa_data.is_null() {
            continue;
        }
        // SAFETY: the data of an entry of that family are a `struct if_data`, at an address that
        // suits it or not.
        let data = unsafe { entry.ifa_data.cast::<libc::if_data>().read_unaligned() };
        // SAFETY: the name ends in NUL and is part of the list.
        let name = unsafe { CStr::from_ptr(entry.ifa_name) }.to_string_lossy().into_owned();
        found.insert(name, (data.ifi_ibytes, data.ifi_obytes));
    }
    // SAFETY: as getifaddrs has made it; nothing of it is kept.
    unsafe { libc::freeifaddrs(first) };
    Ok(found)
}

fn remembered() -> std::path::PathBuf {
    Path::new(RUN).join("ip_forwarding")
}

/// Lets the host pass packets on, and remembers that it did not.
pub(super) fn turn_on_forwarding() -> Result<(), Error> {
    let before = rctl_sys::sysctl::integer(FORWARDING).to("read", FORWARDING)?.unwrap_or(0);
    if before == 1 {
        return Ok(());
    }
    let path = remembered();
    fs::write(&path, before.to_string()).call("write", path.display())?;
    set_forwarding(1)
}

/// Only what we turned on is turned off.
pub(super) fn restore_forwarding() -> Result<(), Error> {
    let path = remembered();
    let Ok(before) = fs::read_to_string(&path) else { return Ok(()) };
    set_forwarding(before.trim().parse().unwrap_or(0))?;
    fs::remove_file(&path).call("unlink", path.display())
}

fn set_forwarding(value: c_int) -> Result<(), Error> {
    // SAFETY: the name ends in NUL; the new value is an int, as `net.inet.ip.forwarding` is, and
    // lives for the call; no old one is asked for.
    let answer = unsafe {
        libc::sysctlbyname(
            c"net.inet.ip.forwarding".as_ptr(),
            ptr::null_mut(),
            ptr::null_mut(),
            ptr::from_ref(&value).cast(),
            size_of_val(&value),
        )
    };
    let result = if answer == -1 { Err(io::Error::last_os_error()) } else { Ok(()) };
    result.call("set sysctl", format!("{FORWARDING}={value}"))
}

/// Whether the kernel has a module, built in or loaded: modfind(2).
pub(super) fn has_module(name: &CStr) -> bool {
    // SAFETY: the name ends in NUL and lives for the call.
    unsafe { modfind(name.as_ptr()) != -1 }
}

/// Loads one unless it is there. FreeBSD: ifconfig(8) does so for the interfaces it makes, the
/// kernel does not.
pub(super) fn load_module(name: &CStr) -> Result<(), Error> {
    if has_module(name) {
        return Ok(());
    }
    // SAFETY: as above.
    let answer = unsafe { kldload(name.as_ptr()) };
    let result = match io::Error::last_os_error() {
        _ if answer != -1 => Ok(()),
        error if error.raw_os_error() == Some(libc::EEXIST) => Ok(()),
        error => Err(error),
    };
    result.call("kldload", name.to_string_lossy())
}
