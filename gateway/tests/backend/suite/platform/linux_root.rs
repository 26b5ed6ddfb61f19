//! A root file system of a few programs of the host and their libraries.

use std::{
    fs,
    path::{Path, PathBuf},
    process::Command,
};

use super::{PASSWD, make_directories};

const PROGRAMS: [&str; 10] = [
    "/bin/sh",
    "/bin/cat",
    "/bin/hostname",
    "/bin/ls",
    "/bin/sleep",
    "/usr/bin/id",
    "/usr/bin/nproc",
    "/bin/rm",
    "/bin/mkdir",
    "/usr/bin/readlink",
];

pub(crate) fn make_root(root: &Path) {
    let directories = ["proc", "sys", "dev", "tmp", "etc", "root", "home/user", "usr", "run"];
    make_directories(root, &directories);
    fs::write(root.join("etc/passwd"), PASSWD).unwrap();
    fs::write(root.join("etc/resolv.conf"), "nameserver 192.0.2.1\n").unwrap();
    for program in PROGRAMS {
        copy(root, Path::new(program));
        let libraries = Command::new("ldd").arg(program).output().unwrap();
        for word in String::from_utf8_lossy(&libraries.stdout).split_whitespace() {
            if word.starts_with('/') {
                copy(root, Path::new(word));
            }
        }
    }
}

fn copy(root: &Path, file: &Path) {
    let to: PathBuf = root.join(file.strip_prefix("/").unwrap());
    fs::create_dir_all(to.parent().unwrap()).unwrap();
    fs::copy(file, to).unwrap();
}
