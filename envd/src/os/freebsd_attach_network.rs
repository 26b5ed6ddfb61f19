//! FreeBSD: loopback and the jail's end of its epair, in a network stack of the jail's own
//! (vnet(9)), as ifconfig(8) and route(8) do it.

use std::{
    fs::File,
    io::{self, Write},
    net::Ipv4Addr,
    os::fd::{AsRawFd, FromRawFd, OwnedFd},
};

use nix::{
    errno::Errno,
    sys::socket::{AddressFamily, SockFlag, SockType, socket},
};
use rctl_sys::abi::{
    RTM_ADD, RTM_CHANGE, SIOCAIFADDR, SIOCAIFADDR_IN6, SIOCGIFFLAGS, SIOCSIFFLAGS,
};

use super::{super::layout, Step};
use crate::{control::Failure, wire::JailNetwork};

const LOOPBACK: &str = "lo0";

/// `only`: loopback is there already, and whose it is has it as he likes.
pub(super) fn configure(network: Option<&JailNetwork>, only: bool) -> Result<(), Failure> {
    if !has_own_stack().step("sysctlbyname(\"security.jail.vnet\")")? {
        return match network {
            None => Ok(()),
            Some(network) => Err(Failure {
                step: format!("configure {}", network.interface),
                errno: None,
                message: "the jail has no network stack of its own (security.jail.vnet is 0)"
                    .into(),
            }),
        };
    }
    let socket =
        open(AddressFamily::Inet).step("socket(AF_INET, SOCK_DGRAM) for the network's settings")?;
    if !only {
        up(&socket, LOOPBACK)?;
        assign(&socket, LOOPBACK, Ipv4Addr::LOCALHOST, 8)?;
        if let Err(error) = assign_loopback6() {
            tracing::warn!(%error, "no ::1: SIOCAIFADDR_IN6 on {LOOPBACK}");
        }
    }
    let Some(network) = network else { return Ok(()) };

    let JailNetwork { interface, address, prefix, gateway } = network;
    assign(&socket, interface, *address, *prefix)?;
    up(&socket, interface)?;
    match route_all(RTM_ADD, *gateway) {
        // Of root's in the jail, which may have made one of its own before there was a link.
        Err(error) if error.raw_os_error() == Some(libc::EEXIST) => {
            route_all(RTM_CHANGE, *gateway).step(format!("RTM_CHANGE default by {gateway}"))
        }
        added => added.step(format!("RTM_ADD default by {gateway}")),
    }
}

/// security.jail.vnet: whether this process is in a jail that owns its network stack.
fn has_own_stack() -> io::Result<bool> {
    let mut owns: libc::c_int = 0;
    let mut length = size_of_val(&owns);
    // SAFETY: the kernel writes one integer, of the length said, to memory that lives for the call.
    let asked = unsafe {
        let (name, owns) = (c"security.jail.vnet".as_ptr(), (&raw mut owns).cast());
        libc::sysctlbyname(name, owns, &raw mut length, std::ptr::null(), 0)
    };
    match Errno::result(asked) {
        Ok(_) => Ok(owns != 0),
        // A kernel that does not know it has one stack for all.
        Err(Errno::ENOENT) => Ok(false),
        Err(errno) => Err(errno.into()),
    }
}

fn open(family: AddressFamily) -> nix::Result<OwnedFd> {
    socket(family, SockType::Datagram, SockFlag::SOCK_CLOEXEC, None)
}

fn up(socket: &OwnedFd, interface: &str) -> Result<(), Failure> {
    let mut request = layout::flags(interface);
    call(socket, SIOCGIFFLAGS, &mut request).step(format!("SIOCGIFFLAGS on {interface}"))?;
    let mut request = layout::with_up(request);
    call(socket, SIOCSIFFLAGS, &mut request).step(format!("SIOCSIFFLAGS up on {interface}"))
}

fn assign(socket: &OwnedFd, interface: &str, address: Ipv4Addr, prefix: u8) -> Result<(), Failure> {
    let mut request = layout::address(interface, address, prefix);
    call(socket, SIOCAIFADDR, &mut request)
        .step(format!("SIOCAIFADDR {address}/{prefix} on {interface}"))
}

fn assign_loopback6() -> nix::Result<()> {
    let socket = open(AddressFamily::Inet6)?;
    call(&socket, SIOCAIFADDR_IN6, &mut layout::loopback6(LOOPBACK))
}

/// route(4): what is wrong with a message is what write(2) of it says.
fn route_all(kind: u8, gateway: Ipv4Addr) -> io::Result<()> {
    // SAFETY: no memory is passed.
    let socket = unsafe { libc::socket(libc::AF_ROUTE, libc::SOCK_RAW | libc::SOCK_CLOEXEC, 0) };
    let socket = Errno::result(socket)?;
    // SAFETY: the kernel has just made this descriptor for us alone.
    let mut socket = File::from(unsafe { OwnedFd::from_raw_fd(socket) });
    let message = layout::default_route(kind, gateway);
    let written = socket.write(&message)?;
    if written == message.len() { Ok(()) } else { Err(io::ErrorKind::WriteZero.into()) }
}

fn call<const LENGTH: usize>(
    socket: &OwnedFd,
    what: libc::c_ulong,
    argument: &mut [u8; LENGTH],
) -> nix::Result<()> {
    // Its length is part of what is asked for (ioctl(2), `IOCPARM_LEN`).
    debug_assert_eq!((what >> 16) as usize & 0x1fff, LENGTH);
    // SAFETY: the kernel reads and writes no more than that, and the argument lives for the call.
    Errno::result(unsafe { libc::ioctl(socket.as_raw_fd(), what, argument.as_mut_ptr()) }).map(drop)
}
