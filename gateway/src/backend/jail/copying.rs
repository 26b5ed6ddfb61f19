//! Copies of trees that nobody changes meanwhile, a template's: see `backend::copy`.

use std::{
    ffi::CString,
    fs,
    os::unix::{
        ffi::OsStrExt,
        fs::{MetadataExt, PermissionsExt},
    },
    path::Path,
};

use super::error::Call;
use crate::backend::{Error, copy};

/// A file, link or tree, under the name that it has, into another directory; there must be nothing
/// at `to`. Blocks.
pub(super) fn copy(from: &Path, to: &Path) -> Result<(), Error> {
    let unnamed = || Error::Unsupported(format!("{} is not to be renamed", from.display()));
    let (Some(parent), Some(into)) = (from.parent(), to.parent()) else { return Err(unnamed()) };
    let name = from.file_name().filter(|name| to.file_name() == Some(name)).ok_or_else(unnamed)?;
    copy::entry(parent, into, &CString::new(name.as_bytes()).map_err(|_| unnamed())?)
}

/// What is in one directory, into another that is there. Blocks.
pub(super) fn copy_into(from: &Path, to: &Path, is_enough: &dyn Fn() -> bool) -> Result<(), Error> {
    copy::contents(from, to, is_enough)
}

pub(super) fn set_mode(path: &Path, mode: u32) -> Result<(), Error> {
    if fs::symlink_metadata(path).call("lstat", path.display())?.mode() & 0o7777 == mode {
        return Ok(());
    }
    let permissions = fs::Permissions::from_mode(mode);
    fs::set_permissions(path, permissions).call("chmod", path.display())
}

#[cfg(test)]
mod tests {
    use std::{
        cell::Cell,
        fs::File,
        os::unix::fs::{FileExt, FileTypeExt, symlink},
        path::PathBuf,
    };

    use nix::{sys::stat::Mode, unistd::mkfifo};

    use super::*;

    fn mode(path: &Path) -> u32 {
        fs::symlink_metadata(path).unwrap().mode() & 0o7777
    }

    struct Place(tempfile::TempDir);

    impl Place {
        fn new() -> Self {
            let place = Self(tempfile::tempdir().unwrap());
            fs::create_dir_all(place.path("from/a")).unwrap();
            fs::create_dir(place.path("out")).unwrap();
            place
        }

        fn path(&self, path: &str) -> PathBuf {
            self.0.path().join(path)
        }

        fn copy(&self) {
            copy(&self.path("from"), &self.path("out/from")).unwrap();
        }
    }

    #[test]
    fn a_copy_has_links_as_links_and_modes_and_times_as_they_were() {
        let place = Place::new();
        fs::write(place.path("from/a/tool"), "text").unwrap();
        set_mode(&place.path("from/a/tool"), 0o4755).unwrap();
        set_mode(&place.path("from/a"), 0o1770).unwrap();
        symlink("/outside", place.path("from/a/link")).unwrap();
        mkfifo(&place.path("from/pipe"), Mode::from_bits_truncate(0o620)).unwrap();
        set_mode(&place.path("from/pipe"), 0o620).unwrap();
        let long_ago = std::time::SystemTime::UNIX_EPOCH + std::time::Duration::from_secs(7);
        for name in ["from/a/tool", "from/a"] {
            File::open(place.path(name)).unwrap().set_modified(long_ago).unwrap();
        }
        place.copy();
        assert_eq!(fs::read_to_string(place.path("out/from/a/tool")).unwrap(), "text");
        assert_eq!(
            (mode(&place.path("out/from/a/tool")), mode(&place.path("out/from/a"))),
            (0o4755, 0o1770)
        );
        for name in ["out/from/a/tool", "out/from/a"] {
            assert_eq!(fs::metadata(place.path(name)).unwrap().mtime(), 7, "{name}");
        }
        assert_eq!(fs::read_link(place.path("out/from/a/link")).unwrap(), Path::new("/outside"));
        let pipe = fs::symlink_metadata(place.path("out/from/pipe")).unwrap();
        assert!(pipe.file_type().is_fifo() && pipe.mode() & 0o7777 == 0o620);
    }

    #[test]
    fn a_file_of_several_names_is_copied_once() {
        let place = Place::new();
        fs::write(place.path("from/one"), "shared").unwrap();
        for other in ["from/a/two", "from/three"] {
            fs::hard_link(place.path("from/one"), place.path(other)).unwrap();
        }
        // One name of this is elsewhere.
        fs::write(place.path("outside"), "x").unwrap();
        fs::hard_link(place.path("outside"), place.path("from/four")).unwrap();
        place.copy();
        let number = |path: &str| fs::metadata(place.path(path)).unwrap();
        let one = number("out/from/one");
        assert_eq!(one.nlink(), 3);
        assert!(
            ["out/from/a/two", "out/from/three"]
                .iter()
                .all(|other| number(other).ino() == one.ino())
        );
        assert_ne!(number("out/from/four").ino(), number("outside").ino());
    }

    #[test]
    fn holes_stay_holes() {
        let place = Place::new();
        let huge: u64 = 1 << 40;
        let file = File::create(place.path("from/sparse")).unwrap();
        file.write_at(b"first", 0).unwrap();
        file.write_at(b"last", huge).unwrap();
        file.set_len(2 * huge).unwrap();
        File::create(place.path("from/empty")).unwrap().set_len(huge).unwrap();
        place.copy();
        let copy = File::open(place.path("out/from/sparse")).unwrap();
        let metadata = copy.metadata().unwrap();
        assert!(metadata.len() == 2 * huge && metadata.blocks() < 10_000, "{metadata:?}");
        let mut read = [0; 5];
        copy.read_exact_at(&mut read, 0).unwrap();
        assert_eq!(&read, b"first");
        copy.read_exact_at(&mut read[..4], huge).unwrap();
        assert_eq!(&read[..4], b"last");
        assert_eq!(fs::metadata(place.path("out/from/empty")).unwrap().len(), huge);
    }

    #[test]
    fn what_its_user_noted_on_a_file_comes_along() {
        let place = Place::new();
        fs::write(place.path("from/a/noted"), "").unwrap();
        if xattr::set(place.path("from/a/noted"), "user.author", b"me").is_err() {
            return eprintln!("skipped: this file system has no extended attributes");
        }
        place.copy();
        let noted = xattr::get(place.path("out/from/a/noted"), "user.author").unwrap();
        assert_eq!(noted.as_deref(), Some(&b"me"[..]));
    }

    #[test]
    fn a_copy_into_a_directory_makes_it_as_the_other_is() {
        let place = Place::new();
        fs::write(place.path("from/a/file"), "text").unwrap();
        set_mode(&place.path("from"), 0o711).unwrap();
        let long_ago = std::time::SystemTime::UNIX_EPOCH + std::time::Duration::from_secs(7);
        File::open(place.path("from")).unwrap().set_modified(long_ago).unwrap();
        fs::create_dir(place.path("to")).unwrap();
        copy_into(&place.path("from"), &place.path("to"), &|| false).unwrap();
        assert_eq!(fs::read_to_string(place.path("to/a/file")).unwrap(), "text");
        assert_eq!(
            (mode(&place.path("to")), fs::metadata(place.path("to")).unwrap().mtime()),
            (0o711, 7)
        );
        assert_eq!(fs::read_dir(place.path("to")).unwrap().count(), 1, "nothing else is left");
        place.copy();
        let error = copy(&place.path("from"), &place.path("out/from")).unwrap_err().to_string();
        assert!(error.starts_with("mkdir "), "nothing is written over: {error}");
        let error = copy(&place.path("from"), &place.path("out/other")).unwrap_err().to_string();
        assert!(error.contains("renamed"), "{error}");
    }

    #[test]
    fn it_is_broken_off_when_it_is_enough() {
        let place = Place::new();
        for name in ["from/a/1", "from/a/2", "from/a/3"] {
            fs::write(place.path(name), "text").unwrap();
        }
        fs::create_dir(place.path("to")).unwrap();
        let looks = Cell::new(0);
        let is_enough = || {
            looks.set(looks.get() + 1);
            looks.get() > 4
        };
        let error = copy_into(&place.path("from"), &place.path("to"), &is_enough).unwrap_err();
        assert!(error.to_string().ends_with("was broken off"), "{error}");
        assert!(fs::read_dir(place.path("to/a")).unwrap().count() < 3);
    }
}
