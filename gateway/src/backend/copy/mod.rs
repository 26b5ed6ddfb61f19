//! A copy of a tree that hostile code wrote, and may go on writing.
//!
//! ```text
//!   while the sandbox runs    every file's contents and attributes, to staging/<inode>
//!   while it stands still     the tree; a file that has not changed since is moved into it from
//!                             staging, what has changed is copied anew
//! ```
//!
//! So nothing is remembered of a tree but its depth, and a name may change as it likes meanwhile:
//! what was copied is found by its inode. Whether it has changed the kernel says: its ctime, which
//! nobody in the sandbox can set, is neither later than the beginning of the copy nor another than
//! it was. Where the kernel cannot tell, all is copied while the sandbox stands still. A write(2) that
//! had begun before the copy, and so is not told of, is waited for where the first hole of its file
//! is looked for: lseek(2) takes the lock that ext4 and btrfs write under, and XFS reads under the one
//! it writes under. (One with `O_DIRECT` is not; it would have to be on its way to the disk both when
//! the copy begins and when its file is read.)
//!
//! Of several names of one file the first is made, and the others are linked to
//! `staging/<inode>+`.
//!
//! A tree that nobody writes, a template's, is copied in one go.
//!
//! It has links as links, holes, owners, modes, times and extended attributes; what of a tree is
//! not copied on which system, `host::files` says, with all else that it asks of the system in
//! its own way.

/// Templates are copied for FreeBSD's roots only.
#[cfg(any(target_os = "freebsd", test))]
mod at_once;
mod file;
pub(in crate::backend) mod walk;

use std::{
    ffi::{CStr, CString},
    fs::{self, DirBuilder, File},
    os::{
        fd::{AsFd, BorrowedFd, OwnedFd},
        unix::fs::DirBuilderExt,
    },
    path::Path,
    time::{Duration, Instant},
};

use nix::{
    errno::Errno,
    fcntl::{AtFlags, OFlag, openat, renameat},
    sys::{
        stat::{FileStat, Mode, SFlag, UtimensatFlags, fchmod, fstat, fstatat, mkdirat, utimensat},
        time::TimeSpec,
    },
    unistd::{Gid, Uid, fchown, linkat},
};

#[cfg(any(target_os = "freebsd", test))]
pub(super) use self::at_once::{contents, entry};
use self::{
    file::{Contents, Pace},
    walk::{Entry, Visit, kind, shown, walk},
};
use super::{Copied, Error, call::Call, host::files};

/// For a sandbox to stand still; what is not copied by then is not to be had.
pub(super) const LONGEST_STILL: Duration = Duration::from_secs(30);

/// Of a copy: the tree, and what is on its way there.
pub(super) const UPPER: &str = "upper";
pub(super) const STAGING: &str = "staging";

/// Having a sandbox stand still, and run again.
pub(super) struct Still<'a> {
    pub(super) freeze: &'a dyn Fn() -> Result<(), Error>,
    pub(super) thaw: &'a dyn Fn() -> Result<(), Error>,
}

/// Copies the tree `from` of a running sandbox to `to/upper`, but for what of it is `left_out`.
/// Blocks. What is left at `to` on error is the caller's to remove.
pub(super) fn layer(
    from: &Path,
    to: &Path,
    still: &Still,
    left_out: &[&CStr],
    is_enough: &dyn Fn() -> bool,
) -> Result<Copied, Error> {
    let mut tree = Tree::begin(from, to, left_out, is_enough)?;
    tree.while_it_runs()?;
    (still.freeze)()?;
    let began = Instant::now();
    let copied = tree.while_it_stands_still();
    // Whatever came of it.
    (still.thaw)()?;
    let stood_still = began.elapsed();
    copied?;
    let by = if tree.copying.contents.by_reference { "reflinks" } else { "copying" };
    drop(tree);
    let staging = to.join(STAGING);
    fs::remove_dir_all(&staging).call("remove", staging.display())?;
    Ok(Copied { root: to.join(UPPER), by, stood_still, whole: false })
}

fn open(path: &Path) -> Result<File, Error> {
    File::open(path).call("open", path.display())
}

fn make(path: &Path) -> Result<(), Error> {
    DirBuilder::new().mode(0o700).create(path).call("mkdir", path.display())
}

/// A tree and its copy.
pub(super) struct Tree<'a> {
    source: File,
    target: OwnedFd,
    left_out: &'a [&'a CStr],
    /// What has changed of a file can be told.
    told: bool,
    copying: Copying<'a>,
}

impl<'a> Tree<'a> {
    pub(super) fn begin(
        from: &Path,
        to: &Path,
        left_out: &'a [&'a CStr],
        is_enough: &'a dyn Fn() -> bool,
    ) -> Result<Self, Error> {
        let source = open(from)?;
        let (upper, staging) = (to.join(UPPER), to.join(STAGING));
        for path in [to, &upper, &staging] {
            make(path)?;
        }
        let pace = Pace::new(Some(open(to)?), is_enough);
        let copying = Copying::new(open(&staging)?, pace)?;
        let told = files::tells_changes(&source)?;
        Ok(Self { source, target: open(&upper)?.into(), left_out, told, copying })
    }

    pub(super) fn while_it_runs(&mut self) -> Result<(), Error> {
        if !self.told {
            return Ok(());
        }
        walk(&self.source, (), self.left_out, &mut Stage(&mut self.copying))
    }

    pub(super) fn while_it_stands_still(&mut self) -> Result<(), Error> {
        self.copying.pace.until = Some(Instant::now() + LONGEST_STILL);
        let target = self.target.try_clone().call("dup", "the copy")?;
        walk(&self.source, target, self.left_out, &mut Place(&mut self.copying))
    }
}

struct Copying<'a> {
    staging: File,
    contents: Contents,
    pace: Pace<'a>,
    /// When it began, as file systems tell the time.
    began: TimeSpec,
}

impl<'a> Copying<'a> {
    fn new(staging: File, pace: Pace<'a>) -> Result<Self, Error> {
        let stat = fstat(&staging).call("stat", "staging")?;
        let began = TimeSpec::new(stat.st_ctime - files::CLOCKS_DIFFER, stat.st_ctime_nsec);
        Ok(Self { staging, contents: Contents::new(), pace, began })
    }

    /// Copies a file to `name`, which is not there; of one that is `live` only what can be told to be
    /// current.
    fn file(
        &mut self,
        entry: &Entry,
        to: BorrowedFd,
        name: &CStr,
        live: bool,
    ) -> Result<(), Error> {
        let target = || shown(entry.name);
        let source = files::open_file(entry.parent, entry.name)?;
        if live && !files::watch_pages(&source)? {
            return Ok(());
        }
        let stat = fstat(&source).call("stat", target())?;
        let flags = OFlag::O_CREAT | OFlag::O_EXCL | OFlag::O_WRONLY | OFlag::O_CLOEXEC;
        let made = openat(to, name, flags | OFlag::O_NOFOLLOW, Mode::from_bits_truncate(0o600));
        let made = File::from(made.call("make a copy of", target())?);
        let size = u64::try_from(stat.st_size).unwrap_or_default();
        self.contents.copy(&source, &made, size, &mut self.pace)?;
        file::describe(&source, &made, &stat)?;
        // Last, as it says that the copy is whole: where a file was accessed last, in staging, is
        // when the one that it was copied from was changed last.
        file::set_times(&made, file::changed(&stat), &stat)
    }
}

fn staged(inode: u64, more: &str) -> CString {
    CString::new(format!("{inode}{more}")).unwrap_or_default()
}

/// The contents of files, while the sandbox runs.
struct Stage<'a, 'b>(&'a mut Copying<'b>);

impl Visit for Stage<'_, '_> {
    type Made = ();
    const LIVE: bool = true;

    fn enter(&mut self, (): &(), _name: &CStr) -> Result<(), Error> {
        self.0.pace.step(0)
    }

    fn leave(&mut self, (): (), _source: BorrowedFd, _stat: &FileStat) -> Result<(), Error> {
        Ok(())
    }

    fn other(&mut self, (): &(), entry: &Entry) -> Result<(), Error> {
        if kind(&entry.stat) != SFlag::S_IFREG {
            return self.0.pace.step(0);
        }
        let staging = self.0.staging.try_clone().call("dup", "staging")?;
        let name = staged(entry.stat.st_ino, "");
        match self.0.file(entry, staging.as_fd(), &name, true) {
            // It has another name.
            Err(Error::Call { source, .. })
                if source.raw_os_error() == Some(Errno::EEXIST as i32) =>
            {
                Ok(())
            }
            copied => copied,
        }
    }

    fn mounted(&mut self, (): &(), _entry: &Entry) -> Result<(), Error> {
        Ok(())
    }
}

/// The tree, while it stands still.
struct Place<'a, 'b>(&'a mut Copying<'b>);

impl Visit for Place<'_, '_> {
    type Made = OwnedFd;
    const LIVE: bool = false;

    fn enter(&mut self, above: &OwnedFd, name: &CStr) -> Result<OwnedFd, Error> {
        self.0.pace.step(0)?;
        mkdirat(above, name, Mode::from_bits_truncate(0o700)).call("mkdir", shown(name))?;
        let flags = OFlag::O_DIRECTORY | OFlag::O_NOFOLLOW | OFlag::O_CLOEXEC;
        openat(above, name, flags, Mode::empty()).call("open the copy of", shown(name))
    }

    fn leave(&mut self, made: OwnedFd, source: BorrowedFd, stat: &FileStat) -> Result<(), Error> {
        file::describe(source, &made, stat)?;
        file::set_times(&made, file::accessed(stat), stat)
    }

    fn other(&mut self, above: &OwnedFd, entry: &Entry) -> Result<(), Error> {
        self.0.pace.step(0)?;
        let (name, stat) = (entry.name, &entry.stat);
        let several = stat.st_nlink > 1;
        let first = staged(stat.st_ino, "+");
        if several && self.link(self.0.staging.as_fd(), &first, above.as_fd(), name)? {
            return Ok(());
        }
        match kind(stat) {
            SFlag::S_IFREG => self.file(above, entry)?,
            _ if files::special(above.as_fd(), entry)? => {}
            _ => return Ok(()),
        }
        set_times(above, name, stat)?;
        if several {
            self.link(above.as_fd(), name, self.0.staging.as_fd(), &first)?;
        }
        Ok(())
    }

    /// What a directory is mounted on is one, with nothing in it.
    fn mounted(&mut self, above: &OwnedFd, entry: &Entry) -> Result<(), Error> {
        let (name, stat) = (entry.name, &entry.stat);
        if !files::LEAVES_MOUNTS_OUT {
            return Err(Error::Unfit(format!("{} is on another file system", shown(name))));
        }
        if kind(stat) != SFlag::S_IFDIR {
            return Ok(());
        }
        let made = self.enter(above, name)?;
        let (owner, group) = (Uid::from_raw(stat.st_uid), Gid::from_raw(stat.st_gid));
        fchown(&made, Some(owner), Some(group)).call("chown", shown(name))?;
        fchmod(&made, Mode::from_bits_truncate(stat.st_mode)).call("chmod", shown(name))?;
        file::set_times(&made, file::accessed(stat), stat)
    }
}

fn set_times(above: &OwnedFd, name: &CStr, stat: &FileStat) -> Result<(), Error> {
    let (accessed, modified) = (file::accessed(stat), file::modified(stat));
    let flag = UtimensatFlags::NoFollowSymlink;
    utimensat(above, name, &accessed, &modified, flag).call("utimens", shown(name))
}

impl Place<'_, '_> {
    /// `false` where the one is not there, or can have no more names.
    fn link(
        &self,
        from: BorrowedFd,
        name: &CStr,
        to: BorrowedFd,
        other: &CStr,
    ) -> Result<bool, Error> {
        match linkat(from, name, to, other, AtFlags::empty()) {
            Ok(()) => Ok(true),
            Err(Errno::ENOENT | Errno::EMLINK | Errno::EEXIST) => Ok(false),
            Err(errno) => Err(errno).call("link", shown(name)),
        }
    }

    fn file(&mut self, above: &OwnedFd, entry: &Entry) -> Result<(), Error> {
        let staging = self.0.staging.as_fd();
        let name = staged(entry.stat.st_ino, "");
        let copy = match fstatat(staging, name.as_c_str(), AtFlags::AT_SYMLINK_NOFOLLOW) {
            Err(Errno::ENOENT) => None,
            copy => Some(copy.call("stat the copy of", shown(entry.name))?),
        };
        if let Some(copy) = copy
            && is_current(files::changed(entry)?, entry.stat.st_size, &copy, self.0.began)
        {
            let moved = renameat(staging, name.as_c_str(), above, entry.name);
            return moved.call("place", shown(entry.name));
        }
        self.0.file(entry, above.as_fd(), entry.name, false)
    }
}

/// Whether a copy is of the file as it is now.
fn is_current(changed: TimeSpec, size: libc::off_t, copy: &FileStat, began: TimeSpec) -> bool {
    changed == file::accessed(copy) && changed < began && size == copy.st_size
}
