use std::{
    collections::BTreeMap,
    ffi::{CStr, CString},
    fs::{self, File, Permissions},
    io::Write,
    os::fd::AsRawFd,
    os::unix::{
        fs::{FileExt, FileTypeExt, MetadataExt, PermissionsExt, chown, symlink},
        net::UnixListener,
    },
    path::{Path, PathBuf},
    process::Command,
    sync::atomic::{AtomicBool, Ordering},
    time::Duration,
};

use nix::{
    fcntl::{AT_FDCWD, OFlag, RenameFlags, openat, renameat2},
    sys::stat::{Mode, SFlag, mknod},
    unistd::mkfifo,
};

use super::{
    super::{disk, files, loop_file, require_root},
    *,
};
use crate::backend::copy::{LONGEST_STILL, STAGING, Tree};

/// Where the sparse file has something.
const MIDDLE: u64 = 32 << 20;

struct Bed {
    dir: tempfile::TempDir,
    from: PathBuf,
    to: PathBuf,
    freezer: Freezer,
}

/// A layer, and a cgroup that stands still when it is told to.
fn bed() -> Bed {
    bed_in(tempfile::tempdir().unwrap())
}

fn bed_in(dir: tempfile::TempDir) -> Bed {
    let (from, to) = (dir.path().join("layer/upper"), dir.path().join("to"));
    let cgroup = dir.path().join("cgroup");
    for path in [&from, &cgroup] {
        fs::create_dir_all(path).unwrap();
    }
    fs::write(cgroup.join("cgroup.freeze"), "0\n").unwrap();
    fs::write(cgroup.join("cgroup.events"), "populated 1\nfrozen 1\n").unwrap();
    Bed { dir, from, to, freezer: Freezer { cgroup } }
}

impl Bed {
    fn copy(&self) -> Result<Copied, Error> {
        copy(self.layer(), &self.to, &self.freezer, CancellationToken::new())
    }

    /// The same, with something that happens while the sandbox still runs.
    fn copy_with(&self, change: impl FnOnce(&Path)) -> Result<(), Error> {
        // The file system tells the time in ticks: what is there already is older than the copy.
        std::thread::sleep(Duration::from_millis(20));
        let mut copying = Tree::begin(&self.from, &self.to, &[], &|| false)?;
        copying.while_it_runs()?;
        change(&self.from);
        copying.while_it_stands_still()?;
        fs::remove_dir_all(self.to.join(STAGING)).call("remove", "staging")
    }

    fn layer(&self) -> &Path {
        self.from.parent().unwrap()
    }

    fn copied(&self) -> PathBuf {
        self.to.join(UPPER)
    }
}

/// All that is to be the same of a tree.
fn described(root: &Path) -> BTreeMap<PathBuf, String> {
    let mut found = BTreeMap::new();
    let mut names_of = BTreeMap::new();
    let mut left = vec![root.to_owned()];
    while let Some(path) = left.pop() {
        let stat = fs::symlink_metadata(&path).unwrap();
        let name = path.strip_prefix(root).unwrap().to_owned();
        let mut content = String::new();
        if stat.is_dir() {
            left.extend(fs::read_dir(&path).unwrap().map(|entry| entry.unwrap().path()));
        } else if stat.is_file() {
            // Of the sparse one what is in it.
            let at = if stat.size() > MIDDLE { MIDDLE } else { 0 };
            let mut bytes = vec![0; 64 << 10];
            let read = File::open(&path).unwrap().read_at(&mut bytes, at).unwrap();
            content = blake3::hash(&bytes[..read]).to_string();
        } else if stat.is_symlink() {
            content = fs::read_link(&path).unwrap().display().to_string();
        }
        let names = if stat.is_dir() { 0 } else { stat.nlink() };
        let text = format!(
            "{:o} {}:{} {} {} {}.{:09} {content} {names} {}",
            stat.mode(),
            stat.uid(),
            stat.gid(),
            if stat.is_dir() { 0 } else { stat.size() },
            stat.rdev(),
            stat.mtime(),
            stat.mtime_nsec(),
            xattrs(&path),
        );
        if names > 1 {
            names_of.entry(stat.ino()).or_insert_with(Vec::new).push(name.clone());
        }
        found.insert(name, text);
    }
    // In the order of names: inodes differ.
    let mut same: Vec<String> = names_of
        .into_values()
        .map(|mut names| {
            names.sort();
            format!("{names:?}")
        })
        .collect();
    same.sort();
    found.insert("the same files".into(), same.join(" "));
    found
}

fn xattrs(path: &Path) -> String {
    let flags = OFlag::O_PATH | OFlag::O_NOFOLLOW | OFlag::O_CLOEXEC;
    let held = openat(AT_FDCWD, path, flags, Mode::empty()).unwrap();
    let name = CString::new(format!("/proc/self/fd/{}", held.as_raw_fd()));
    files::tests::xattrs(&name.unwrap()).join(",")
}

fn set_xattr(path: &Path, name: &CStr, value: &[u8]) {
    files::tests::set_xattr(path, name, value);
}

/// One of everything that can be in a layer.
fn furnish(root: &Path) {
    fs::create_dir_all(root.join("dir/below")).unwrap();
    fs::write(root.join("dir/file"), "text").unwrap();
    fs::write(root.join("dir/below/setuid"), "#!").unwrap();
    chown(root.join("dir/below/setuid"), Some(0), Some(1000)).unwrap();
    fs::set_permissions(root.join("dir/below/setuid"), Permissions::from_mode(0o4711)).unwrap();
    fs::hard_link(root.join("dir/file"), root.join("dir/below/same")).unwrap();
    fs::hard_link(root.join("dir/file"), root.join("again")).unwrap();
    symlink("/etc/passwd", root.join("link")).unwrap();
    symlink("nowhere", root.join("dir/dangling")).unwrap();
    fs::hard_link(root.join("link"), root.join("link again")).unwrap();
    let _ = std::os::unix::fs::lchown(root.join("link"), Some(1000), Some(1001));
    mknod(&root.join("whiteout"), SFlag::S_IFCHR, Mode::empty(), 0).unwrap();
    fs::hard_link(root.join("whiteout"), root.join("dir/whiteout")).unwrap();
    mkfifo(&root.join("fifo"), Mode::from_bits_truncate(0o640)).unwrap();
    fs::set_permissions(root.join("fifo"), Permissions::from_mode(0o666)).unwrap();
    drop(UnixListener::bind(root.join("socket")).unwrap());
    let sparse = File::create(root.join("sparse")).unwrap();
    sparse.write_all_at(b"in the middle", MIDDLE).unwrap();
    sparse.set_len(1 << 40).unwrap();
    fs::write(root.join(std::ffi::OsStr::new("a \u{1}\n name")), "").unwrap();
    set_xattr(&root.join("dir"), c"user.overlay.opaque", b"y");
    set_xattr(&root.join("dir/file"), c"user.mime", b"text/plain");
    set_xattr(&root.join("dir/file"), c"user.empty", b"");
    set_xattr(&root.join("fifo"), c"trusted.overlay.x", b"\0\xff");
    fs::set_permissions(root, Permissions::from_mode(0o711)).unwrap();
    chown(root.join("dir"), Some(1000), Some(1000)).unwrap();
    let old = std::time::SystemTime::UNIX_EPOCH + Duration::new(1_000_000, 123_456_789);
    for name in ["dir/file", "dir/below", "dir"] {
        File::open(root.join(name)).unwrap().set_modified(old).unwrap();
    }
    let _ =
        Command::new("setcap").args(["cap_net_raw=ep"]).arg(root.join("dir/below/setuid")).output();
}

#[test]
fn a_copy_has_links_holes_whiteouts_attributes_owners_and_times() {
    require_root!();
    let bed = bed();
    furnish(&bed.from);
    let before = described(&bed.from);
    let copied = bed.copy().unwrap();
    assert_eq!(copied.root, bed.copied());
    assert!(!copied.whole && copied.stood_still < LONGEST_STILL);
    assert_eq!(described(&bed.copied()), before);
    assert_eq!(described(&bed.from), before, "the source is as it was");
    let sparse = fs::metadata(bed.copied().join("sparse")).unwrap();
    assert!(sparse.blocks() * 512 < 1 << 20, "{} blocks", sparse.blocks());
    assert!(fs::metadata(bed.copied().join("fifo")).unwrap().file_type().is_fifo());
    assert_eq!(fs::read_dir(&bed.to).unwrap().count(), 1, "nothing else is left");
    let freeze = fs::read_to_string(bed.freezer.cgroup.join("cgroup.freeze")).unwrap();
    assert_eq!(freeze, "0");
}

#[test]
fn on_btrfs_a_copy_is_a_snapshot() {
    require_root!();
    let mounted = loop_file::Mounted::btrfs();
    let bed = bed();
    let (layer, to) = (mounted.path().join("layer"), mounted.path().join("to"));
    btrfs::create(&layer).unwrap();
    for name in [UPPER, "work"] {
        fs::create_dir(layer.join(name)).unwrap();
    }
    furnish(&layer.join(UPPER));
    let copied = copy(&layer, &to, &bed.freezer, CancellationToken::new()).unwrap();
    assert!(btrfs::is_subvolume(&to).unwrap());
    assert_eq!(described(&copied.root), described(&layer.join(UPPER)));
    assert_eq!(fs::read_dir(&to).unwrap().count(), 1);
    assert!(disk::remove_whole(&to) && !to.exists());
}

#[test]
fn what_changes_while_it_is_copied_is_in_the_copy_as_it_was_when_it_stood_still() {
    require_root!();
    let bed = bed();
    furnish(&bed.from);
    for name in ["one", "two"] {
        fs::create_dir(bed.from.join(name)).unwrap();
        fs::write(bed.from.join(name).join("same"), name).unwrap();
    }
    fs::write(bed.from.join("rewritten"), "before").unwrap();
    fs::write(bed.from.join("removed"), "before").unwrap();
    fs::write(bed.from.join("to a link"), "before").unwrap();
    bed.copy_with(|from| {
        // Of the same size, and with the time it had.
        let file = from.join("rewritten");
        let modified = fs::metadata(&file).unwrap().modified().unwrap();
        fs::write(&file, "after.").unwrap();
        File::open(&file).unwrap().set_modified(modified).unwrap();
        renameat2(
            AT_FDCWD,
            &from.join("one"),
            AT_FDCWD,
            &from.join("two"),
            RenameFlags::RENAME_EXCHANGE,
        )
        .unwrap();
        fs::rename(from.join("dir"), from.join("elsewhere")).unwrap();
        fs::hard_link(from.join("rewritten"), from.join("another name")).unwrap();
        fs::remove_file(from.join("removed")).unwrap();
        // The inode may well be the one that was just removed.
        fs::write(from.join("made"), "after").unwrap();
        fs::remove_file(from.join("to a link")).unwrap();
        symlink("/etc/passwd", from.join("to a link")).unwrap();
        fs::remove_file(from.join("again")).unwrap();
    })
    .unwrap();
    assert_eq!(described(&bed.copied()), described(&bed.from));
}

#[test]
fn what_is_written_through_a_mapping_that_was_written_to_before_is_in_the_copy() {
    require_root!();
    // How often a page is written to before: not at all, and so that it is dirty, or is clean again.
    const PAGE: usize = 4096;
    let mounted =
        [loop_file::Mounted::ext4(), loop_file::Mounted::btrfs(), loop_file::Mounted::tmpfs()];
    let of_the_host = tempfile::tempdir().unwrap();
    for place in mounted.iter().map(loop_file::Mounted::path).chain([of_the_host.path()]) {
        let bed = bed_in(tempfile::tempdir_in(place).unwrap());
        let mut mappings = Vec::new();
        for name in ["fresh", "dirty", "clean"] {
            let path = bed.from.join(name);
            let mut file =
                File::options().read(true).write(true).create_new(true).open(&path).unwrap();
            file.write_all(&[0; PAGE]).unwrap();
            let mut mapping = files::tests::Mapping::new(&file, PAGE);
            if name != "fresh" {
                mapping.bytes()[0] = 1;
            }
            if name == "clean" {
                file.sync_all().unwrap();
            }
            mappings.push(mapping);
        }
        bed.copy_with(|_| mappings.iter_mut().for_each(|it| it.bytes()[1] = 2)).unwrap();
        for (name, first) in [("fresh", 0), ("dirty", 1), ("clean", 1)] {
            let copied = fs::read(bed.copied().join(name)).unwrap();
            assert_eq!(copied[..3], [first, 2, 0], "{name} in {}", place.display());
        }
    }
}

#[test]
fn only_where_changes_can_be_told_is_anything_copied_before_it_stands_still() {
    require_root!();
    let (ext4, tmpfs) = (loop_file::Mounted::ext4(), loop_file::Mounted::tmpfs());
    for (place, staged) in [(ext4.path(), 1), (tmpfs.path(), 0)] {
        let bed = bed_in(tempfile::tempdir_in(place).unwrap());
        fs::write(bed.from.join("file"), "text").unwrap();
        std::thread::sleep(Duration::from_millis(20));
        let mut copying = Tree::begin(&bed.from, &bed.to, &[], &|| false).unwrap();
        copying.while_it_runs().unwrap();
        assert_eq!(fs::read_dir(bed.to.join(STAGING)).unwrap().count(), staged);
        copying.while_it_stands_still().unwrap();
        assert_eq!(fs::read_to_string(bed.copied().join("file")).unwrap(), "text");
    }
}

#[test]
fn no_link_leads_out_of_the_layer_however_fast_it_changes() {
    require_root!();
    let bed = bed();
    let outside = bed.dir.path().join("outside");
    fs::create_dir(&outside).unwrap();
    fs::write(outside.join("secret"), "of the host").unwrap();
    let inside = bed.from.join("dir");
    fs::create_dir(&inside).unwrap();
    fs::write(inside.join("secret"), "of the sandbox").unwrap();
    symlink(&outside, bed.from.join("trap")).unwrap();
    let stop = AtomicBool::new(false);
    std::thread::scope(|scope| {
        scope.spawn(|| {
            while !stop.load(Ordering::Relaxed) {
                let (a, b) = (inside.clone(), bed.from.join("trap"));
                renameat2(AT_FDCWD, &a, AT_FDCWD, &b, RenameFlags::RENAME_EXCHANGE).unwrap();
            }
        });
        for n in 0..60 {
            let to = bed.dir.path().join(format!("copy-{n}"));
            // It does not stand still here, so that there may be nothing to copy in the end.
            if copy(bed.layer(), &to, &bed.freezer, CancellationToken::new()).is_ok() {
                for name in ["dir", "trap"] {
                    let path = to.join(UPPER).join(name);
                    if fs::symlink_metadata(&path).is_ok_and(|found| found.is_dir()) {
                        let text = fs::read_to_string(path.join("secret")).unwrap_or_default();
                        assert_ne!(text, "of the host");
                    }
                }
            }
        }
        stop.store(true, Ordering::Relaxed);
    });
}

#[test]
fn what_is_too_deep_or_broken_off_is_no_copy_and_the_sandbox_runs() {
    require_root!();
    let bed = bed();
    let mut deep = bed.from.clone();
    for _ in 0..300 {
        deep.push("d");
    }
    fs::create_dir_all(&deep).unwrap();
    let error = bed.copy().unwrap_err().to_string();
    assert!(error.contains("256 directories in each other"), "{error}");
    fs::remove_dir_all(&bed.to).unwrap();
    fs::remove_dir_all(bed.from.join("d")).unwrap();

    let stop = CancellationToken::new();
    stop.cancel();
    fs::write(bed.from.join("file"), "").unwrap();
    let error = copy(bed.layer(), &bed.to, &bed.freezer, stop).unwrap_err();
    assert!(matches!(error, Error::BrokenOff(_)), "{error}");
    let freeze = fs::read_to_string(bed.freezer.cgroup.join("cgroup.freeze")).unwrap();
    assert_ne!(freeze, "1");
}

#[test]
fn what_is_left_out_is_left_out_at_the_top_only() {
    require_root!();
    let bed = bed();
    fs::create_dir_all(bed.from.join("mark/below")).unwrap();
    fs::create_dir(bed.from.join("dir")).unwrap();
    fs::write(bed.from.join("dir/mark"), "text").unwrap();
    let still = Still { freeze: &|| Ok(()), thaw: &|| Ok(()) };
    copy::layer(&bed.from, &bed.to, &still, &[c"mark"], &|| false).unwrap();
    assert!(!bed.copied().join("mark").exists());
    assert_eq!(fs::read_to_string(bed.copied().join("dir/mark")).unwrap(), "text");
}
