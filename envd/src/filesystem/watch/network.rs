//! Which directories lie on a filesystem whose changes the kernel does not see.
//!
//! By the mount table of proc(5); where there is none, nothing counts as a network mount.

use std::{fs, io::Read as _, path::Path};

/// More of the mount table is not read (bytes).
const MAX_TABLE: u64 = 4 << 20;

pub(super) struct Mounts(String);

impl Mounts {
    pub(super) fn read() -> Self {
        let mut table = Vec::new();
        if let Ok(file) = fs::File::open("/proc/self/mountinfo") {
            // A table cut short by an error is still the best there is.
            let _ = file.take(MAX_TABLE).read_to_end(&mut table);
        }
        Self(String::from_utf8_lossy(&table).into_owned())
    }

    /// `path` has no links in it.
    pub(super) fn is_network(&self, path: &Path) -> bool {
        self.0
            .lines()
            .filter_map(mount)
            .filter(|(point, _)| path.starts_with(point))
            // The last of those at one point is on top.
            .max_by_key(|(point, _)| point.len())
            .is_some_and(|(_, kind)| is_network_kind(kind))
    }
}

fn is_network_kind(kind: &str) -> bool {
    let kind = kind.split_once('.').map_or(kind, |(kind, _)| kind);
    matches!(
        kind,
        "nfs"
            | "nfs4"
            | "cifs"
            | "smb2"
            | "smb3"
            | "smbfs"
            | "fuse"
            | "9p"
            | "ceph"
            | "afs"
            | "virtiofs"
    )
}

/// `36 35 98:0 /root /mount\040point options tag:1 - ext4 source options`
fn mount(line: &str) -> Option<(String, &str)> {
    let point = line.split(' ').nth(4)?;
    let kind = line.split_once(" - ")?.1.split(' ').next()?;
    let point = point.replace(r"\040", " ").replace(r"\011", "\t").replace(r"\012", "\n");
    Some((point.replace(r"\134", r"\"), kind))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_mount_on_top_decides() {
        let mounts = Mounts(
            "1 0 0:1 / / rw - overlay overlay rw\n\
             2 1 0:2 / /mnt rw shared:1 - nfs4 host:/x rw\n\
             3 2 0:3 / /mnt/local rw - ext4 /dev/x rw\n\
             4 1 0:4 / /with\\040space rw - fuse.sshfs x rw\n\
             5 1 0:5 / /disk rw - fuseblk x rw\n\
             6 5 0:6 / /disk rw - 9p x rw\n"
                .into(),
        );
        for (path, expect) in [
            ("/", false),
            ("/mnt", true),
            ("/mnt/a", true),
            ("/mntx", false),
            ("/mnt/local/a", false),
            ("/with space/a", true),
            ("/disk", true),
        ] {
            assert_eq!(mounts.is_network(Path::new(path)), expect, "{path}");
        }
        assert!(!Mounts(String::new()).is_network(Path::new("/")));
    }
}
