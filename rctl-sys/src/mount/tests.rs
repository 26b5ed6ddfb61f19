use proptest::prelude::*;

use super::*;

fn sent(mount: &Mount) -> Vec<(String, Option<Vec<u8>>)> {
    let mut options = Options::new();
    mount.write(&mut options).unwrap();
    let pairs = options.pairs.into_iter();
    pairs.map(|pair| (pair.name.into_string().unwrap(), pair.value)).collect()
}

fn text(name: &str, value: &str) -> (String, Option<Vec<u8>>) {
    (name.to_owned(), Some(format!("{value}\0").into_bytes()))
}

#[test]
fn a_mount_is_sent_as_pairs_with_room_for_what_the_kernel_says() {
    let mount = Mount::new("nullfs", "/jail/usr").from(Path::new("/template/usr")).read_only();
    let sent = sent(&mount);
    assert_eq!((sent[0].0.as_str(), sent[0].1.as_ref().unwrap().len()), ("errmsg", 256));
    assert_eq!(
        sent[1..],
        [
            text("fstype", "nullfs"),
            text("fspath", "/jail/usr"),
            text("target", "/template/usr"),
            ("ro".to_owned(), None),
        ]
    );
}

#[test]
fn numbers_are_sent_in_words() {
    let devfs = Mount::new("devfs", "/jail/dev").ruleset(4).nosuid();
    assert_eq!(sent(&devfs)[3..], [text("ruleset", "4"), ("nosuid".to_owned(), None)]);
    let tmpfs = Mount::new("tmpfs", "/jail").size(1 << 40).option("mode", "0755");
    assert_eq!(sent(&tmpfs)[3..], [text("size", "1099511627776"), text("mode", "0755")]);
    let zfs = Mount::new("zfs", "/jail").from(Path::new("tank/jail"));
    assert_eq!(sent(&zfs)[3..], [text("from", "tank/jail")]);
}

#[test]
fn a_mount_is_shown_as_mount_8_takes_it() {
    let mount = Mount::new("nullfs", "/jail/usr").from(Path::new("/usr")).read_only();
    assert_eq!(mount.to_string(), "nullfs -o target=/usr -o ro /jail/usr");
    assert_eq!(Fsid([7, -2]).to_string(), "FSID:7:-2");
}

#[test]
fn a_nul_in_a_path_is_refused_before_the_kernel_is_asked() {
    let error = nmount(&Mount::new("tmpfs", "/jail\0/etc")).unwrap_err();
    assert_eq!(error.errno(), None);
    assert_eq!(unmount(Path::new("/a\0b"), false).unwrap_err().errno(), None);
}

#[cfg(not(target_os = "freebsd"))]
#[test]
fn elsewhere_the_errors_name_call_argument_and_flags() {
    let starts = |error: Error, with: &str| {
        assert_eq!(error.errno(), Some(libc::ENOSYS));
        assert!(error.to_string().starts_with(with), "{error}");
    };
    starts(nmount(&Mount::new("tmpfs", "/jail")).unwrap_err(), "nmount(tmpfs /jail): ");
    starts(unmount(Path::new("/jail"), false).unwrap_err(), "unmount(/jail): ");
    starts(unmount(Path::new("/jail"), true).unwrap_err(), "unmount(/jail, 0x80000): ");
    starts(unmount_fsid(Fsid([1, 2]), false).unwrap_err(), "unmount(FSID:1:2, 0x8000000): ");
    starts(list().unwrap_err(), "getfsstat(MNT_NOWAIT): ");
    starts(statfs(Path::new("/jail")).unwrap_err(), "statfs(/jail): ");
}

/// As the kernel would write one.
fn record(path: &str) -> Vec<u8> {
    let mut bytes = vec![0; abi::STATFS_SIZE];
    let mut put = |at: usize, what: &[u8]| bytes[at..at + what.len()].copy_from_slice(what);
    put(abi::F_VERSION, &abi::STATFS_VERSION.to_ne_bytes());
    put(abi::F_FLAGS, &abi::MNT_RDONLY.to_ne_bytes());
    put(abi::F_BSIZE, &4096_u64.to_ne_bytes());
    put(abi::F_BLOCKS, &100_u64.to_ne_bytes());
    put(abi::F_BFREE, &7_u64.to_ne_bytes());
    put(abi::F_BAVAIL, &(-2_i64).to_ne_bytes());
    put(abi::F_FSID, &11_i32.to_ne_bytes());
    put(abi::F_FSID + 4, &12_i32.to_ne_bytes());
    put(abi::F_FSTYPENAME, b"nullfs");
    put(abi::F_MNTFROMNAME, b"/template");
    put(abi::F_MNTONNAME, path.as_bytes());
    bytes
}

#[test]
fn what_the_kernel_writes_of_a_filesystem_is_read() {
    let mounted = Mounted::read(&record("/jail")).unwrap();
    assert_eq!(
        mounted,
        Mounted {
            fsid: Fsid([11, 12]),
            fstype: "nullfs".to_owned(),
            from: "/template".into(),
            path: "/jail".into(),
            flags: 1,
            total_bytes: 409_600,
            free_bytes: 28_672,
            available_bytes: -8192,
        }
    );
    assert!(mounted.read_only());
}

#[test]
fn another_version_of_the_structure_is_not_misread() {
    let mut bytes = record("/jail");
    bytes[0] ^= 1;
    assert_eq!(Mounted::read(&bytes), None);
    assert_eq!(Mounted::read(&record("/jail")[1..]), None);
}

#[test]
fn the_table_is_read_again_while_it_fills_the_buffer() {
    // Two are there when they are counted, forty when they are read.
    let mut asked = 0;
    let all = read_all(|buffer| {
        asked += 1;
        let Some(buffer) = buffer else { return Ok(2) };
        let mut count = 0;
        for chunk in buffer.chunks_exact_mut(abi::STATFS_SIZE).take(40) {
            chunk.copy_from_slice(&record(&format!("/{count}")));
            count += 1;
        }
        Ok(count)
    });
    let all = all.unwrap();
    assert_eq!((all.len(), asked), (40, 4));
    assert_eq!(all[39].path, Path::new("/39"));
}

#[test]
fn a_table_that_never_fits_is_given_up() {
    let mut asked = 0;
    let error = read_all(|buffer| {
        asked += 1;
        Ok(buffer.map_or(0, |buffer| buffer.len() / abi::STATFS_SIZE))
    });
    assert_eq!(error.unwrap_err().to_string(), "more than 4096 filesystems");
    assert_eq!(asked, 9);
}

proptest! {
    #[test]
    fn no_bytes_make_it_panic(rest: Vec<u8>) {
        let mut bytes = record("/jail");
        let len = rest.len().min(bytes.len() - 4);
        bytes[4..4 + len].copy_from_slice(&rest[..len]);
        prop_assert!(Mounted::read(&bytes).is_some());
        let _ = Mounted::read(&rest);
    }
}
