//! Spending what the kernel counts for each user, in the name of a sandbox's own users.

use std::{
    fs,
    io::{BufRead, BufReader, Read},
    process::{Child, Command, Stdio},
};

use nix::{
    errno::Errno,
    sched::{CloneFlags, setns},
    sys::{
        inotify::{InitFlags, Inotify},
        resource::{Resource, getrlimit, setrlimit},
    },
    unistd::{Uid, setresuid},
};

/// The name by which this program spends instead of testing.
pub(crate) const SPEND: &str = "spend-inotify";

/// All the inotify instances a sandbox's user can get. Dropped, they are given back.
pub(crate) struct Spent {
    pub(crate) instances: usize,
    child: Child,
}

impl Spent {
    /// By a process of its own, since one with threads cannot enter a user namespace.
    pub(crate) fn in_sandbox(pid: i32) -> Self {
        let mut child = Command::new("/proc/self/exe")
            .args([SPEND, &pid.to_string()])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let mut line = String::new();
        BufReader::new(child.stdout.take().unwrap()).read_line(&mut line).unwrap();
        Self { instances: line.trim().parse().expect("a number"), child }
    }
}

impl Drop for Spent {
    fn drop(&mut self) {
        drop(self.child.stdin.take());
        self.child.wait().unwrap();
    }
}

/// The other process: says how many it got and keeps them for as long as its input is open.
pub(crate) fn spend(pid: &str) {
    // More than there are instances to be had.
    let (_, most) = getrlimit(Resource::RLIMIT_NOFILE).unwrap();
    setrlimit(Resource::RLIMIT_NOFILE, most, most).unwrap();
    let namespace = fs::File::open(format!("/proc/{pid}/ns/user")).unwrap();
    setns(namespace, CloneFlags::CLONE_NEWUSER).unwrap();
    let user = Uid::from_raw(1000);
    setresuid(user, user, user).unwrap();
    let mut instances = Vec::new();
    let errno = loop {
        match Inotify::init(InitFlags::IN_CLOEXEC) {
            Ok(instance) => instances.push(instance),
            Err(errno) => break errno,
        }
    };
    assert_eq!(errno, Errno::EMFILE);
    println!("{}", instances.len());
    let _ = std::io::stdin().read(&mut [0]);
}
