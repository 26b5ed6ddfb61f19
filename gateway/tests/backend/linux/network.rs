//! The internet, in a network namespace of its own: one machine with public, private and metadata
//! addresses that answers each connection with the address it came from.

use std::{
    fs::File,
    io::{Read, Write},
    net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream, UdpSocket},
    sync::mpsc,
    thread,
    time::Duration,
};

use nix::sched::{CloneFlags, setns, unshare};

use crate::suite::{platform::say, world::RESOLVER};

pub(crate) const PUBLIC: Ipv4Addr = Ipv4Addr::new(203, 0, 113, 2);
pub(crate) const HOST: Ipv4Addr = Ipv4Addr::new(203, 0, 113, 1);
pub(crate) const PRIVATE: Ipv4Addr = Ipv4Addr::new(10, 99, 0, 2);
pub(crate) const METADATA: Ipv4Addr = Ipv4Addr::new(169, 254, 169, 254);
/// Public by its number, and a cloud's platform by what answers there.
pub(crate) const PLATFORM: Ipv4Addr = Ipv4Addr::new(168, 63, 129, 16);

/// Lasts until the process ends.
pub(crate) struct Internet {
    _stay: mpsc::Sender<()>,
}

impl Internet {
    pub(crate) fn new() -> Self {
        let (tell_thread, told_thread) = mpsc::channel();
        let (stay, end) = mpsc::channel::<()>();
        let (linked, link) = mpsc::channel();
        thread::spawn(move || {
            unshare(CloneFlags::CLONE_NEWNET).unwrap();
            tell_thread.send(nix::unistd::gettid()).unwrap();
            link.recv().unwrap();
            for address in [PUBLIC, PRIVATE, METADATA, PLATFORM, RESOLVER] {
                say("ip", &["address", "add", &format!("{address}/32"), "dev", "wan1"]);
            }
            say("ip", &["link", "set", "wan1", "up"]);
            say("ip", &["route", "add", &format!("{HOST}/32"), "dev", "wan1"]);
            for port in [53, 80] {
                let listener = TcpListener::bind((Ipv4Addr::UNSPECIFIED, port)).unwrap();
                thread::spawn(move || answer(&listener));
            }
            tell_thread.send(nix::unistd::gettid()).unwrap();
            let _ = end.recv();
        });
        let thread = told_thread.recv().unwrap().to_string();
        say("ip", &["link", "add", "wan0", "type", "veth", "peer", "name", "wan1"]);
        say("ip", &["link", "set", "wan1", "netns", &thread]);
        say("ip", &["address", "add", &format!("{HOST}/32"), "dev", "wan0"]);
        say("ip", &["link", "set", "wan0", "up"]);
        linked.send(()).unwrap();
        told_thread.recv().unwrap();
        say("ip", &["route", "add", &format!("{PUBLIC}/32"), "dev", "wan0"]);
        say("ip", &["route", "add", "default", "via", &PUBLIC.to_string()]);
        Self { _stay: stay }
    }
}

fn answer(listener: &TcpListener) {
    while let Ok((mut stream, from)) = listener.accept() {
        let _ = write!(stream, "{}", from.ip());
    }
}

/// A datagram from each of `count` ports of the network namespace of `pid`.
pub(crate) fn send_from_many_ports(pid: i32, to: Ipv4Addr, count: u16) {
    thread::spawn(move || {
        let namespace = File::open(format!("/proc/{pid}/ns/net")).unwrap();
        setns(namespace, CloneFlags::CLONE_NEWNET).unwrap();
        for port in 10_000..10_000 + count {
            let socket = UdpSocket::bind((Ipv4Addr::UNSPECIFIED, port)).unwrap();
            socket.send_to(b"x", (to, 53)).unwrap();
        }
    })
    .join()
    .unwrap();
}

/// What a connection from the network namespace of `pid` is answered, if there is one.
pub(crate) fn ask(pid: i32, to: Ipv4Addr, port: u16) -> Option<String> {
    thread::spawn(move || {
        let namespace = File::open(format!("/proc/{pid}/ns/net")).unwrap();
        setns(namespace, CloneFlags::CLONE_NEWNET).unwrap();
        let to = SocketAddr::from((to, port));
        let mut stream = TcpStream::connect_timeout(&to, Duration::from_millis(400)).ok()?;
        stream.set_read_timeout(Some(Duration::from_secs(1))).unwrap();
        let mut answer = String::new();
        // Not all who listen answer.
        let _ = stream.read_to_string(&mut answer);
        Some(answer)
    })
    .join()
    .unwrap()
}
