//! FreeBSD: watched directories by kqueue(2), `EVFILT_VNODE`.
//!
//! The kernel tells of files that are held open, each by a descriptor of its own, and of a
//! directory only that it has changed; what has changed there is found by reading it again
//! ([`super::entries`]). What differs from Linux for whoever watches:
//!
//! * each file and directory that is watched, and each in it, takes a descriptor, so that there are
//!   [`MAX_OPEN`] of them for one watch and [`MAX_OPEN_IN_ALL`] for the sandbox;
//! * what came and went again within some milliseconds is not told, nor what a file was called in
//!   between two renames, and writes that follow each other closely are one;
//! * a file that comes with something in it is told as created and then as written;
//! * setting a file's times is told as writing to it;
//! * of links, pipes, sockets and devices only coming and going is told.

#![allow(unsafe_code)]

use std::{
    collections::{BTreeMap, BTreeSet, HashMap},
    ffi::OsString,
    fs::{self, File, Metadata, OpenOptions},
    io, mem,
    os::{
        fd::{AsRawFd, FromRawFd, OwnedFd, RawFd},
        unix::fs::{DirEntryExt, MetadataExt, OpenOptionsExt},
    },
    path::{Path, PathBuf},
    ptr,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    thread,
    time::Duration,
};

use nix::errno::Errno;
use parking_lot::Mutex;

use super::{
    change::{Change, Told, Unwatched},
    entries::{self, Gone, New},
};

/// Held open for one watch, and for all.
const MAX_OPEN: usize = 10_000;
const MAX_OPEN_IN_ALL: usize = 20_000;

/// What happens within this after something else is looked at together with it.
const SETTLE: Duration = Duration::from_millis(5);

const STACK: usize = 128 << 10;

/// Taken from the kernel at once.
const AT_ONCE: usize = 256;

/// Of a directory itself, and of what is in one.
const OF_DIRECTORY: u32 = libc::NOTE_WRITE
    | libc::NOTE_EXTEND
    | libc::NOTE_LINK
    | libc::NOTE_ATTRIB
    | libc::NOTE_RENAME
    | libc::NOTE_DELETE
    | libc::NOTE_REVOKE;
const OF_FILE: u32 = libc::NOTE_WRITE
    | libc::NOTE_EXTEND
    | libc::NOTE_ATTRIB
    | libc::NOTE_RENAME
    | libc::NOTE_DELETE;
const OF_SUBDIRECTORY: u32 = libc::NOTE_ATTRIB | libc::NOTE_RENAME | libc::NOTE_DELETE;

const WRITTEN: u32 = libc::NOTE_WRITE | libc::NOTE_EXTEND;

static OPEN_IN_ALL: AtomicUsize = AtomicUsize::new(0);

/// One kqueue and one thread. Dropped, both end.
pub(crate) struct Directories(Arc<Shared>);

struct Shared {
    kqueue: OwnedFd,
    state: Mutex<State>,
}

struct State {
    tell: Box<dyn FnMut(Told) + Send>,
    directories: HashMap<PathBuf, Directory>,
    /// Whose the kernel's notes are, by the number they bear.
    owners: HashMap<usize, Owner>,
    last_owner: usize,
    /// In all the directories.
    names: usize,
    cookie: usize,
}

struct Directory {
    /// Closed, it is watched no more.
    watched: Watched,
    device: u64,
    entries: BTreeMap<OsString, Entry>,
}

struct Entry {
    /// As the directory lists it.
    inode: u64,
    /// `None` for what cannot be watched.
    watched: Option<Watched>,
    seen: Seen,
    renamed: bool,
    /// One of its names was removed.
    removed: bool,
}

#[derive(Clone, Copy, Default, PartialEq, Eq)]
struct Seen {
    size: u64,
    modified: (i64, i64),
}

struct Owner {
    directory: PathBuf,
    /// `None`: the directory itself.
    name: Option<OsString>,
}

/// A file held open for the kernel to tell of.
struct Watched {
    file: File,
    owner: usize,
}

impl Drop for Watched {
    fn drop(&mut self) {
        OPEN_IN_ALL.fetch_sub(1, Ordering::Relaxed);
    }
}

impl Directories {
    /// `tell` runs on the thread, which it must not keep waiting.
    pub(crate) fn new(tell: impl FnMut(Told) + Send + 'static) -> Result<Self, Unwatched> {
        // SAFETY: no memory is passed.
        let kqueue = Errno::result(unsafe { libc::kqueue() }).map_err(out_of_descriptors)?;
        // SAFETY: the kernel has just made this descriptor for us alone. No child has it: fork(2)
        // closes it there.
        let kqueue = unsafe { OwnedFd::from_raw_fd(kqueue) };
        add(&kqueue, 0, libc::EVFILT_USER, 0, 0).map_err(Unwatched::Io)?;
        let state = State {
            tell: Box::new(tell),
            directories: HashMap::new(),
            owners: HashMap::new(),
            last_owner: 0,
            names: 0,
            cookie: 0,
        };
        let shared = Arc::new(Shared { kqueue, state: Mutex::new(state) });
        let following = shared.clone();
        let named = thread::Builder::new().name("watch".into()).stack_size(STACK);
        named.spawn(move || follow(&following)).map_err(Unwatched::Io)?;
        Ok(Self(shared))
    }

    /// From when it returns on, what becomes of it and of what is in it is told; not of what lies
    /// deeper.
    pub(crate) fn watch(&mut self, path: &Path) -> Result<(), Unwatched> {
        let Shared { kqueue, state } = &*self.0;
        let mut state = state.lock();
        let state = &mut *state;
        // Asked for anew it is looked at anew.
        state.forget(path);
        let file = OpenOptions::new().read(true).custom_flags(libc::O_DIRECTORY).open(path);
        let file = file.map_err(|error| match error.raw_os_error() {
            Some(errno @ (libc::EMFILE | libc::ENFILE)) => {
                out_of_descriptors(Errno::from_raw(errno))
            }
            _ => error.into(),
        })?;
        let device = file.metadata()?.dev();
        // First of all, so that nothing is missed; what is told twice is found to be as it was.
        let watched = state.register(kqueue, file, path, None, OF_DIRECTORY)?;
        let directory = Directory { watched, device, entries: BTreeMap::new() };
        state.directories.insert(path.to_owned(), directory);
        let entered = list(path).and_then(|names| {
            let mut names = names.into_iter();
            names.try_for_each(|(name, inode)| state.enter(kqueue, path, name, inode).map(drop))
        });
        if entered.is_err() {
            state.forget(path);
        }
        entered
    }

    pub(crate) fn unwatch(&mut self, path: &Path) {
        self.0.state.lock().forget(path);
    }
}

impl Drop for Directories {
    fn drop(&mut self) {
        let event = event(0, libc::EVFILT_USER, 0, libc::NOTE_TRIGGER, 0);
        // The thread holds the other half, which is told this way or not at all.
        if let Err(error) = change(&self.0.kqueue, &event) {
            tracing::warn!(%error, "kevent(NOTE_TRIGGER): a thread that watches goes on");
        }
    }
}

/// Takes what the kernel has noted, until the watch is dropped.
fn follow(shared: &Shared) {
    loop {
        let mut notes: BTreeMap<usize, u32> = BTreeMap::new();
        match take(&shared.kqueue, &mut notes, true) {
            Ok(Taken::End) => return,
            Ok(Taken::Some(_)) => {}
            Err(error) => {
                let text = format!("watching: kevent(): {error}");
                return (shared.state.lock().tell)(Err(text));
            }
        }
        thread::sleep(SETTLE);
        for _ in 0..16 {
            match take(&shared.kqueue, &mut notes, false) {
                Ok(Taken::End) => return,
                Ok(Taken::Some(AT_ONCE)) => {}
                _ => break,
            }
        }
        let mut state = shared.state.lock();
        if let Err(why) = state.apply(&shared.kqueue, &notes) {
            let text = match why {
                Unwatched::OutOf(what) => format!("this sandbox is out of {what}"),
                Unwatched::Io(error) => format!("watching: {error}"),
                Unwatched::Gone => continue,
            };
            return (state.tell)(Err(text));
        }
    }
}

impl State {
    fn apply(&mut self, kqueue: &OwnedFd, notes: &BTreeMap<usize, u32>) -> Result<(), Unwatched> {
        let mut again = BTreeSet::new();
        for (owner, &note) in notes {
            // Of something that has been let go since, nothing is told.
            let Some(Owner { directory, name }) = self.owners.get(owner) else { continue };
            let (directory, name) = (directory.clone(), name.clone());
            match name {
                Some(name) => {
                    self.tell_of_entry(&directory, &name, note);
                    if note & (libc::NOTE_RENAME | libc::NOTE_DELETE) != 0 {
                        again.insert(directory);
                    }
                }
                None => {
                    if note & libc::NOTE_ATTRIB != 0 {
                        (self.tell)(Ok((directory.clone(), Change::Attributes)));
                    }
                    if note & (libc::NOTE_DELETE | libc::NOTE_REVOKE) != 0 {
                        self.forget(&directory);
                        again.remove(&directory);
                        (self.tell)(Ok((directory, Change::Removed)));
                    } else if note & libc::NOTE_RENAME != 0 {
                        (self.tell)(Ok((directory, Change::Moved)));
                    } else if note & (WRITTEN | libc::NOTE_LINK) != 0 {
                        again.insert(directory);
                    }
                }
            }
        }
        let (mut gone, mut new) = (Vec::new(), Vec::new());
        for directory in again {
            self.look_again(kqueue, &directory, &mut gone, &mut new)?;
        }
        for told in entries::changes(gone, new, &mut self.cookie) {
            (self.tell)(Ok(told));
        }
        Ok(())
    }

    fn tell_of_entry(&mut self, directory: &Path, name: &OsString, note: u32) {
        let entries = self.directories.get_mut(directory).map(|known| &mut known.entries);
        let Some(entry) = entries.and_then(|entries| entries.get_mut(name)) else { return };
        entry.renamed |= note & libc::NOTE_RENAME != 0;
        entry.removed |= note & libc::NOTE_DELETE != 0;
        let found = entry.watched.as_ref().and_then(|watched| watched.file.metadata().ok());
        let Some(found) = found else { return };
        let before = mem::replace(&mut entry.seen, Seen::of(&found));
        let path = || directory.join(name);
        let (written, attributes) = (note & WRITTEN != 0, note & libc::NOTE_ATTRIB != 0);
        // Cutting a file, or leaving it as long as it was, is told as a change of attributes.
        let cut = attributes && !written && found.is_file() && before != entry.seen;
        if written || cut {
            (self.tell)(Ok((path(), Change::Written)));
        }
        // A file that is gone is about to be told of as that.
        if attributes && !cut && found.nlink() > 0 {
            (self.tell)(Ok((path(), Change::Attributes)));
        }
    }

    /// Finds out what has come and gone in a directory.
    fn look_again(
        &mut self,
        kqueue: &OwnedFd,
        path: &Path,
        gone: &mut Vec<Gone>,
        new: &mut Vec<New>,
    ) -> Result<(), Unwatched> {
        let Some(directory) = self.directories.get_mut(path) else { return Ok(()) };
        let now = match list(path) {
            Ok(now) => now,
            // What has become of it the kernel tells as well.
            Err(Unwatched::Gone) => return Ok(()),
            Err(error) => return Err(error),
        };
        let before = directory.entries.iter().map(|(name, entry)| {
            // Deleted and made again it is another file, whatever inode it has.
            let inode = if entry.is_deleted() { 0 } else { entry.inode };
            (name.clone(), inode)
        });
        let device = directory.device;
        let (went, came) = entries::compare(&before.collect(), &now);
        for name in went {
            let Some(entry) = directory.entries.remove(&name) else { continue };
            self.names -= 1;
            let renamed = entry.watched.as_ref().map(|_| entry.renamed && !entry.is_deleted());
            if let Some(watched) = &entry.watched {
                self.owners.remove(&watched.owner);
            }
            gone.push(Gone { path: path.join(name), identity: (device, entry.inode), renamed });
        }
        for name in came {
            let Some(&inode) = now.get(&name) else { continue };
            let at = path.join(&name);
            let has_content = self.enter(kqueue, path, name, inode)?;
            new.push(New { path: at, identity: (device, inode), has_content });
        }
        Ok(())
    }

    /// Enters a name that is in a watched directory. Says whether it is a file that has content.
    fn enter(
        &mut self,
        kqueue: &OwnedFd,
        directory: &Path,
        name: OsString,
        inode: u64,
    ) -> Result<bool, Unwatched> {
        if self.names >= MAX_OPEN {
            return Err(too_many());
        }
        let opened = open(&directory.join(&name)).map_err(out_of_descriptors)?;
        let seen = Seen::default();
        let mut entry = Entry { inode, watched: None, seen, renamed: false, removed: false };
        let mut has_content = false;
        if let Some((file, found)) = opened {
            let notes = if found.is_dir() { OF_SUBDIRECTORY } else { OF_FILE };
            entry.seen = Seen::of(&found);
            has_content = found.is_file() && found.len() > 0;
            entry.watched = match self.register(kqueue, file, directory, Some(&name), notes) {
                Ok(watched) => Some(watched),
                // Not every file system can tell of every file.
                Err(Unwatched::Io(_)) => None,
                Err(too_many) => return Err(too_many),
            };
        }
        if let Some(known) = self.directories.get_mut(directory) {
            known.entries.insert(name, entry);
            self.names += 1;
        }
        Ok(has_content)
    }

    fn register(
        &mut self,
        kqueue: &OwnedFd,
        file: File,
        directory: &Path,
        name: Option<&OsString>,
        notes: u32,
    ) -> Result<Watched, Unwatched> {
        let (watched, owner) = (self.owners.len(), self.last_owner + 1);
        if watched >= MAX_OPEN || OPEN_IN_ALL.load(Ordering::Relaxed) >= MAX_OPEN_IN_ALL {
            return Err(too_many());
        }
        add(kqueue, file.as_raw_fd(), libc::EVFILT_VNODE, notes, owner).map_err(Unwatched::Io)?;
        OPEN_IN_ALL.fetch_add(1, Ordering::Relaxed);
        self.last_owner = owner;
        let of = Owner { directory: directory.to_owned(), name: name.cloned() };
        self.owners.insert(owner, of);
        Ok(Watched { file, owner })
    }

    fn forget(&mut self, path: &Path) {
        let Some(Directory { watched, entries, .. }) = self.directories.remove(path) else {
            return;
        };
        self.names -= entries.len();
        self.owners.remove(&watched.owner);
        for watched in entries.values().filter_map(|entry| entry.watched.as_ref()) {
            self.owners.remove(&watched.owner);
        }
    }
}

impl Entry {
    fn is_deleted(&self) -> bool {
        let found = || self.watched.as_ref()?.file.metadata().ok();
        self.removed && found().is_some_and(|found| found.nlink() == 0)
    }
}

impl Seen {
    fn of(found: &Metadata) -> Self {
        Self { size: found.len(), modified: (found.mtime(), found.mtime_nsec()) }
    }
}

/// Names and inodes.
fn list(path: &Path) -> Result<BTreeMap<OsString, u64>, Unwatched> {
    let entries = fs::read_dir(path)?.take(MAX_OPEN + 1);
    let named = |entry: fs::DirEntry| (entry.file_name(), entry.ino());
    let names: BTreeMap<_, _> = entries.map(|entry| entry.map(named)).collect::<Result<_, _>>()?;
    if names.len() > MAX_OPEN { Err(too_many()) } else { Ok(names) }
}

fn too_many() -> Unwatched {
    Unwatched::OutOf(format!(
        "files to watch, of which FreeBSD wants each to be open: {MAX_OPEN} for one watch, \
         {MAX_OPEN_IN_ALL} in all"
    ))
}

/// A file or a directory. Nothing else is opened: a device may take that for more than a look.
fn open(path: &Path) -> nix::Result<Option<(File, Metadata)>> {
    let can_be_watched = |found: &Metadata| found.is_file() || found.is_dir();
    let flags = libc::O_NOFOLLOW | libc::O_NONBLOCK | libc::O_NOCTTY;
    let open = || {
        fs::symlink_metadata(path).ok().filter(can_be_watched)?;
        Some(OpenOptions::new().read(true).custom_flags(flags).open(path))
    };
    match open() {
        Some(Ok(file)) => {
            let found = file.metadata().ok().filter(can_be_watched);
            Ok(found.map(|found| (file, found)))
        }
        Some(Err(error)) => match error.raw_os_error() {
            Some(errno @ (libc::EMFILE | libc::ENFILE)) => Err(Errno::from_raw(errno)),
            // Gone again, or nobody's to open.
            _ => Ok(None),
        },
        None => Ok(None),
    }
}

fn out_of_descriptors(errno: Errno) -> Unwatched {
    match errno {
        Errno::EMFILE => Unwatched::OutOf("descriptors (kern.maxfilesperproc, openfiles)".into()),
        Errno::ENFILE => Unwatched::OutOf("files (kern.maxfiles)".into()),
        errno => Unwatched::Io(errno.into()),
    }
}

enum Taken {
    Some(usize),
    /// The watch is dropped.
    End,
}

/// Takes notes, or waits for some, and adds them up by owner.
fn take(kqueue: &OwnedFd, notes: &mut BTreeMap<usize, u32>, wait: bool) -> io::Result<Taken> {
    let mut events = [event(0, 0, 0, 0, 0); AT_ONCE];
    let now = libc::timespec { tv_sec: 0, tv_nsec: 0 };
    let patience = if wait { ptr::null() } else { &raw const now };
    let count = loop {
        let (room, queue) = (AT_ONCE as libc::c_int, kqueue.as_raw_fd());
        // SAFETY: the kernel writes at most as many events as there is room for; these and the
        // time live for the call.
        let count =
            unsafe { libc::kevent(queue, ptr::null(), 0, events.as_mut_ptr(), room, patience) };
        match Errno::result(count) {
            Ok(count) => break usize::try_from(count).unwrap_or(0),
            Err(Errno::EINTR) => {}
            Err(errno) => return Err(errno.into()),
        }
    };
    for event in &events[..count] {
        if event.filter == libc::EVFILT_USER {
            return Ok(Taken::End);
        }
        *notes.entry(event.udata.addr()).or_default() |= event.fflags;
    }
    Ok(Taken::Some(count))
}

fn add(kqueue: &OwnedFd, of: RawFd, filter: i16, notes: u32, owner: usize) -> io::Result<()> {
    change(kqueue, &event(of as usize, filter, libc::EV_ADD | libc::EV_CLEAR, notes, owner))
}

fn change(kqueue: &OwnedFd, event: &libc::kevent) -> io::Result<()> {
    // SAFETY: the kernel reads one event, which lives for the call, and writes none.
    let changed =
        unsafe { libc::kevent(kqueue.as_raw_fd(), event, 1, ptr::null_mut(), 0, ptr::null()) };
    Ok(Errno::result(changed).map(drop)?)
}

fn event(ident: usize, filter: i16, flags: u16, fflags: u32, owner: usize) -> libc::kevent {
    let udata = ptr::without_provenance_mut(owner);
    libc::kevent { ident, filter, flags, fflags, data: 0, udata, ext: [0; 4] }
}
