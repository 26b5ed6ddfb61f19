//! `/var/run/ld-elf.so.hints`: where ld-elf.so.1(1) looks for the libraries of packages.
//!
//! FreeBSD makes it at every boot, ldconfig(8) by rc.d/ldconfig; a jail of ours does not boot, and
//! without it no program finds what is in `/usr/local/lib`. Its format is of include/elf-hints.h.

use std::{fs, os::unix::fs::PermissionsExt, path::Path};

use super::super::{
    account::plain,
    tree::{self, failed},
};

/// `ELFHINTS_MAGIC`, and the size of `struct elfhints_hdr`: 32 numbers of 32 bits.
const MAGIC: u32 = 0x746e_6845;
const VERSION: u32 = 1;
const HEADER: u32 = 128;
/// What ldconfig reads at most (`MAXFILESIZE` in sbin/ldconfig/elfhints.c), without the header.
const MOST: usize = 15 << 10;

/// `ldconfig_paths` of etc/defaults/rc.conf, after the two that rc.d/ldconfig begins with.
const DIRECTORIES: [&str; 5] =
    ["/lib", "/usr/lib", "/usr/lib/compat", "/usr/local/lib", "/usr/local/lib/compat/pkg"];
/// `ldconfig_local_dirs`: each package that has more adds a file with a directory a line.
const MORE: &str = "usr/local/libdata/ldconfig";

pub(super) fn write(root: &Path) -> Result<(), tree::Error> {
    for directory in ["var", "var/run"] {
        plain(root, directory)?;
        tree::make_dir(&root.join(directory))?;
    }
    let path = root.join("var/run/ld-elf.so.hints");
    tree::write(&path, 0o444, file(&directories(root)?))
}

/// Closes them to all but root: ldconfig, which each later package has run, passes over the others.
pub(super) fn close(root: &Path) -> Result<(), tree::Error> {
    for directory in directories(root)? {
        let directory = root.join(directory.trim_start_matches('/'));
        fs::set_permissions(&directory, fs::Permissions::from_mode(0o755))
            .map_err(failed("chmod", directory))?;
    }
    Ok(())
}

/// Those of them that the root has.
fn directories(root: &Path) -> Result<Vec<String>, tree::Error> {
    let mut found = Vec::new();
    for directory in DIRECTORIES.into_iter().map(str::to_owned).chain(listed(root)?) {
        let is_there = plain(root, directory.trim_start_matches('/')).is_ok_and(|it| it.is_some());
        if is_there && !found.contains(&directory) {
            found.push(directory);
        }
    }
    Ok(found)
}

/// In the order of the files' names.
fn listed(root: &Path) -> Result<Vec<String>, tree::Error> {
    let Some(directory) = plain(root, MORE)? else { return Ok(Vec::new()) };
    let entries = fs::read_dir(&directory).map_err(failed("list", &directory))?;
    let mut files: Vec<_> = entries.flatten().map(|entry| entry.path()).collect();
    files.sort();
    let texts = files.iter().filter(|path| !path.is_symlink()).filter_map(|path| {
        // What is not text is no list.
        fs::read_to_string(path).ok()
    });
    let lines =
        texts.flat_map(|text| text.split_whitespace().map(str::to_owned).collect::<Vec<_>>());
    Ok(lines.filter(|line| line.starts_with('/') && !line.contains([':', '\0'])).collect())
}

/// As `write_elf_hints` of sbin/ldconfig/elfhints.c writes it, in the byte order of this machine.
fn file(directories: &[String]) -> Vec<u8> {
    let mut list = String::new();
    for directory in directories {
        if list.len() + directory.len() < MOST {
            list.extend(if list.is_empty() { None } else { Some(':') });
            list.push_str(directory);
        }
    }
    let length = u32::try_from(list.len()).unwrap_or_default();
    let header = [MAGIC, VERSION, HEADER, length + 1, 0, length];
    let spare = std::iter::repeat_n(0, HEADER as usize / size_of::<u32>() - header.len());
    let mut bytes: Vec<u8> = header.into_iter().chain(spare).flat_map(u32::to_ne_bytes).collect();
    bytes.extend(list.bytes());
    bytes.push(0);
    bytes
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_file_is_as_ldconfig_writes_it() {
        let bytes = file(&["/lib", "/usr/lib"].map(str::to_owned));
        let number = |at: usize| u32::from_ne_bytes(bytes[at * 4..at * 4 + 4].try_into().unwrap());
        let (magic, version, strtab, size, list, length) =
            (number(0), number(1), number(2), number(3), number(4), number(5));
        assert_eq!((magic, version), (0x746e_6845, 1));
        assert_eq!((strtab, list), (128, 0));
        assert_eq!((size, length), (14, 13));
        assert!((6..32).all(|at| number(at) == 0));
        assert_eq!(&bytes[128..], b"/lib:/usr/lib\0");
    }

    #[test]
    fn only_what_is_there_and_can_be_listed_is() {
        let root = tempfile::tempdir().unwrap();
        let root = root.path();
        for directory in ["lib", "usr/local/lib/gcc13", MORE] {
            fs::create_dir_all(root.join(directory)).unwrap();
        }
        fs::write(root.join(MORE).join("gcc13"), "/usr/local/lib/gcc13\n/usr/local/lib\n").unwrap();
        fs::write(root.join(MORE).join("odd"), "lib\n/usr/lo:cal\n/nowhere\n").unwrap();
        write(root).unwrap();
        let bytes = fs::read(root.join("var/run/ld-elf.so.hints")).unwrap();
        assert_eq!(&bytes[128..], b"/lib:/usr/local/lib:/usr/local/lib/gcc13\0");
        // Again, over the old one, which may not be written to.
        write(root).unwrap();

        let lib = root.join("usr/local/lib");
        fs::set_permissions(&lib, fs::Permissions::from_mode(0o777)).unwrap();
        close(root).unwrap();
        assert_eq!(fs::metadata(&lib).unwrap().permissions().mode() & 0o777, 0o755);
    }
}
