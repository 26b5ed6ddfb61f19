//! Loopback and the sandbox's end of the veth pair, by the old ioctls: seven calls, no library.

use std::{
    net::Ipv4Addr,
    os::fd::{AsRawFd, OwnedFd},
};

use nix::{
    errno::Errno,
    fcntl::{OFlag, open, openat},
    sys::{
        socket::{AddressFamily, SockFlag, SockType, socket},
        stat::Mode,
    },
    unistd::write,
};

use super::Step;
use crate::{control::Failure, wire::LinuxNetwork};

const LINK: &str = "eth0";

/// The kernel's settings of IPv6, to be opened before they are closed to the sandbox; a kernel
/// without it has none.
pub(super) fn ipv6() -> Option<OwnedFd> {
    let flags = OFlag::O_PATH | OFlag::O_DIRECTORY | OFlag::O_CLOEXEC;
    open("/proc/sys/net/ipv6/conf", flags, Mode::empty()).ok()
}

pub(super) fn configure(
    network: Option<&LinuxNetwork>,
    ipv6: Option<OwnedFd>,
) -> Result<(), Failure> {
    let flags = SockFlag::SOCK_CLOEXEC;
    let socket = socket(AddressFamily::Inet, SockType::Datagram, flags, None)
        .step("open a socket for the network's settings")?;
    up(&socket, "lo")?;
    let Some(network) = network else { return Ok(()) };

    // The host routes no IPv6 for a sandbox.
    if let Some(settings) = ipv6 {
        let path = format!("{LINK}/disable_ipv6");
        openat(settings, path.as_str(), OFlag::O_WRONLY | OFlag::O_CLOEXEC, Mode::empty())
            .and_then(|setting| write(setting, b"1"))
            .step("turn IPv6 off")?;
    }
    set_address(&socket, libc::SIOCSIFADDR, network.address)?;
    set_address(&socket, libc::SIOCSIFNETMASK, Ipv4Addr::BROADCAST)?;
    up(&socket, LINK)?;
    route(&socket, network.gateway, None)?;
    route(&socket, Ipv4Addr::UNSPECIFIED, Some(network.gateway))
}

fn up(socket: &OwnedFd, link: &str) -> Result<(), Failure> {
    let mut request = request(link);
    request.ifr_ifru.ifru_flags = (libc::IFF_UP | libc::IFF_RUNNING) as libc::c_short;
    call(socket, libc::SIOCSIFFLAGS, &raw mut request).step(format!("bring {link} up"))
}

fn set_address(socket: &OwnedFd, what: libc::c_ulong, address: Ipv4Addr) -> Result<(), Failure> {
    let mut request = request(LINK);
    request.ifr_ifru.ifru_addr = inet(address);
    call(socket, what, &raw mut request).step(format!("give {LINK} the address {address}"))
}

/// To one on-link host, or by a gateway to everywhere.
fn route(socket: &OwnedFd, to: Ipv4Addr, gateway: Option<Ipv4Addr>) -> Result<(), Failure> {
    let mut device = *b"eth0\0";
    // SAFETY: all zeroes is a valid value of this plain C structure.
    let mut entry: libc::rtentry = unsafe { std::mem::zeroed() };
    entry.rt_dst = inet(to);
    entry.rt_flags = libc::RTF_UP;
    entry.rt_dev = device.as_mut_ptr().cast();
    if let Some(gateway) = gateway {
        entry.rt_gateway = inet(gateway);
        entry.rt_genmask = inet(Ipv4Addr::UNSPECIFIED);
        entry.rt_flags |= libc::RTF_GATEWAY;
    } else {
        entry.rt_genmask = inet(Ipv4Addr::BROADCAST);
        entry.rt_flags |= libc::RTF_HOST;
    }
    call(socket, libc::SIOCADDRT, &raw mut entry).step(format!("add the route to {to}"))
}

fn request(link: &str) -> libc::ifreq {
    // SAFETY: all zeroes is a valid value of this plain C structure.
    let mut request: libc::ifreq = unsafe { std::mem::zeroed() };
    for (to, from) in request.ifr_name.iter_mut().zip(link.bytes()) {
        *to = from as libc::c_char;
    }
    request
}

fn inet(address: Ipv4Addr) -> libc::sockaddr {
    let inet = libc::sockaddr_in {
        sin_family: libc::AF_INET as libc::sa_family_t,
        sin_port: 0,
        sin_addr: libc::in_addr { s_addr: u32::from(address).to_be() },
        sin_zero: [0; 8],
    };
    // SAFETY: both are plain C structures of 16 bytes, the one being the form of the other for
    // this family.
    unsafe { std::mem::transmute(inet) }
}

fn call<T>(socket: &OwnedFd, what: libc::c_ulong, argument: *mut T) -> nix::Result<()> {
    // SAFETY: the caller owns the argument for the length of the call, and passes the structure
    // that `what` takes.
    Errno::result(unsafe { libc::ioctl(socket.as_raw_fd(), what as _, argument) }).map(drop)
}
