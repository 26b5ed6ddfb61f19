//! A file's own metadata: extended attributes `user.e2b.<key>`.

use std::{collections::BTreeMap, ffi::OsStr, fs::File, io, os::unix::ffi::OsStrExt, path::Path};

use xattr::FileExt as _;

pub(crate) const NAMESPACE: &str = "user.e2b.";

/// More than this of one file is not shown (bytes); uploads are held to the same.
pub(crate) const MAX_TOTAL: usize = 4096;

pub(crate) type Metadata = BTreeMap<String, String>;

/// What `path`, or the file it links to, carries. A filesystem without attributes has none.
pub(crate) fn read(path: &Path) -> Metadata {
    let mut found = Metadata::new();
    let mut total = 0;
    for name in xattr::list_deref(path).into_iter().flatten() {
        let Some(key) = key(&name) else { continue };
        let Ok(Some(value)) = xattr::get_deref(path, &name) else { continue };
        total += name.len() + value.len();
        if total > MAX_TOTAL {
            break;
        }
        found.insert(key, String::from_utf8_lossy(&value).into_owned());
    }
    found
}

/// Leaves exactly `metadata` on `file`.
pub(crate) fn replace(file: &File, metadata: &Metadata) -> io::Result<()> {
    let old = match file.list_xattr() {
        Ok(names) => names.filter(|name| key(name).is_some()).collect(),
        // A filesystem that has no attributes has none to clear.
        Err(_) if metadata.is_empty() => Vec::new(),
        Err(error) => return Err(error),
    };
    for name in old {
        // One that somebody else removed in between is as good as removed.
        if let Err(error) = file.remove_xattr(&name)
            && file.get_xattr(&name)?.is_some()
        {
            return Err(error);
        }
    }
    for (key, value) in metadata {
        file.set_xattr(format!("{NAMESPACE}{key}"), value.as_bytes())?;
    }
    Ok(())
}

fn key(name: &OsStr) -> Option<String> {
    let key = name.as_bytes().strip_prefix(NAMESPACE.as_bytes())?;
    Some(String::from_utf8_lossy(key).into_owned())
}
