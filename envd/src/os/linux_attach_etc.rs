//! `/etc/hostname`, `/etc/hosts` and `/etc/resolv.conf`.

use std::{fs::File, io::Write, net::IpAddr, os::fd::AsFd};

use nix::{
    errno::Errno,
    fcntl::{OFlag, openat},
    sys::stat::Mode,
    unistd::{UnlinkatFlags, unlinkat},
};

use super::{Step, directory, make_directory};
use crate::{control::Failure, wire::LinuxAttach};

/// Replaces the template's files, whatever they are: a link is never followed.
pub(super) fn write(spec: &LinuxAttach) -> Result<(), Failure> {
    make_directory("/etc".as_ref())?;
    let etc = directory("/etc")?;
    let dns = spec.network.as_ref().map_or(&[][..], |network| &network.dns);
    for (name, text) in [
        ("hostname", format!("{}\n", spec.hostname)),
        ("hosts", hosts(&spec.hostname)),
        ("resolv.conf", resolv_conf(dns)),
    ] {
        match unlinkat(&etc, name, UnlinkatFlags::NoRemoveDir) {
            Ok(()) | Err(Errno::ENOENT) => {}
            Err(errno) => return Err(errno).step(format!("remove the template's /etc/{name}")),
        }
        let flags =
            OFlag::O_WRONLY | OFlag::O_CREAT | OFlag::O_EXCL | OFlag::O_NOFOLLOW | OFlag::O_CLOEXEC;
        let file = openat(etc.as_fd(), name, flags, Mode::from_bits_truncate(0o644))
            .step(format!("make /etc/{name}"))?;
        File::from(file).write_all(text.as_bytes()).step(format!("write /etc/{name}"))?;
    }
    Ok(())
}

fn hosts(hostname: &str) -> String {
    format!("127.0.0.1 localhost\n127.0.1.1 {hostname}\n::1 localhost ip6-localhost ip6-loopback\n")
}

fn resolv_conf(dns: &[IpAddr]) -> String {
    dns.iter().map(|server| format!("nameserver {server}\n")).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_sandbox_knows_its_own_name() {
        assert!(hosts("abc").contains("127.0.1.1 abc\n"));
    }

    #[test]
    fn every_resolver_has_its_line() {
        let dns = ["1.1.1.1".parse().unwrap(), "2606:4700:4700::1111".parse().unwrap()];
        assert_eq!(resolv_conf(&dns), "nameserver 1.1.1.1\nnameserver 2606:4700:4700::1111\n");
        assert_eq!(resolv_conf(&[]), "");
    }
}
