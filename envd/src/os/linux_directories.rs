//! Linux: watched directories by inotify(7), through `notify`.

use std::{io, path::Path};

use notify::{
    Config, Event, EventHandler, EventKind, RecommendedWatcher, RecursiveMode, Watcher as _,
    event::{Flag, ModifyKind, RenameMode},
};

use super::change::{Change, Told, Unwatched};

/// One inotify instance and one thread.
pub(crate) struct Directories(RecommendedWatcher);

impl Directories {
    /// `tell` runs on that thread, which it must not keep waiting.
    pub(crate) fn new(tell: impl FnMut(Told) + Send + 'static) -> Result<Self, Unwatched> {
        // A link met on the way is an entry, not a way out of the tree.
        let config = Config::default().with_follow_symlinks(false);
        Ok(Self(RecommendedWatcher::new(Handler(tell), config).map_err(unwatched)?))
    }

    /// From when it returns on, what becomes of it and of what is in it is told; not of what lies
    /// deeper.
    pub(crate) fn watch(&mut self, directory: &Path) -> Result<(), Unwatched> {
        self.0.watch(directory, RecursiveMode::NonRecursive).map_err(unwatched)
    }

    pub(crate) fn unwatch(&mut self, directory: &Path) {
        // Of what is gone the kernel has dropped the watch itself.
        let _ = self.0.unwatch(directory);
    }
}

struct Handler<Tell>(Tell);

impl<Tell: FnMut(Told) + Send + 'static> EventHandler for Handler<Tell> {
    fn handle_event(&mut self, event: notify::Result<Event>) {
        let event = match event {
            Ok(event) => event,
            Err(error) => return (self.0)(Err(format!("watching: {error}"))),
        };
        if event.attrs.flag() == Some(Flag::Rescan) {
            return (self.0)(Err("events were lost: the kernel's queue overflowed".into()));
        }
        let cookie = event.attrs.tracker();
        let change = match event.kind {
            EventKind::Create(_) => Change::Created,
            EventKind::Remove(_) => Change::Removed,
            EventKind::Modify(ModifyKind::Metadata(_)) => Change::Attributes,
            EventKind::Modify(ModifyKind::Name(RenameMode::From)) if cookie.is_none() => {
                Change::Moved
            }
            EventKind::Modify(ModifyKind::Name(RenameMode::From | RenameMode::Any)) => {
                Change::Left(cookie)
            }
            EventKind::Modify(ModifyKind::Name(RenameMode::To)) => Change::Arrived(cookie),
            // Says again what its two halves said.
            EventKind::Modify(ModifyKind::Name(_)) => return,
            EventKind::Modify(_) => Change::Written,
            EventKind::Access(_) | EventKind::Any | EventKind::Other => return,
        };
        if let Some(path) = event.paths.into_iter().next() {
            (self.0)(Ok((path, change)));
        }
    }
}

/// The kernel's ceilings are per user of the host, so that the cure is not in the sandbox.
fn unwatched(error: notify::Error) -> Unwatched {
    match error.kind {
        notify::ErrorKind::PathNotFound => Unwatched::Gone,
        notify::ErrorKind::MaxFilesWatch => {
            Unwatched::OutOf("inotify watches (fs.inotify.max_user_watches)".into())
        }
        notify::ErrorKind::Io(error) if error.raw_os_error() == Some(libc::EMFILE) => {
            let text = "inotify instances (fs.inotify.max_user_instances) or descriptors";
            Unwatched::OutOf(text.into())
        }
        notify::ErrorKind::Io(error) => error.into(),
        kind => Unwatched::Io(io::Error::other(format!("{kind:?}"))),
    }
}
