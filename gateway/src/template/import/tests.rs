use std::{
    os::unix::fs::{MetadataExt, symlink},
    process::Command,
};

use super::*;

/// `None` where programs of a build cannot be run at all, or would be another system's.
fn place() -> Option<tempfile::TempDir> {
    if ON_FREEBSD || !nix::unistd::geteuid().is_root() {
        eprintln!("skipped: namespaces take root");
        return None;
    }
    let place = tempfile::tempdir().unwrap();
    fs::create_dir(place.path().join("build")).unwrap();
    fs::create_dir(place.path().join("outside")).unwrap();
    fs::write(place.path().join("outside/victim"), "as it was").unwrap();
    let root = place.path().join("from");
    fs::create_dir_all(root.join("etc")).unwrap();
    fs::write(root.join("etc/passwd"), "root:x:0:0::/root:/bin/sh\n").unwrap();
    Some(place)
}

fn bring(place: &Path, source: &Source) -> Result<PathBuf, recipe::Error> {
    source.bring(&place.join("build"), &CancellationToken::new(), &|_| {})
}

/// A tarball made by Python, which asks no questions: each member is (name, kind, link or content).
fn tarball(place: &Path, members: &[(&str, &str, &str)]) -> PathBuf {
    const MAKE: &str = "
import io, sys, tarfile
path, *members = sys.argv[1:]
with tarfile.open(path, 'w') as out:
    for name, kind, value in zip(members[::3], members[1::3], members[2::3]):
        member = tarfile.TarInfo(name)
        member.type = {'file': tarfile.REGTYPE, 'link': tarfile.SYMTYPE, 'hard': tarfile.LNKTYPE,
                       'fifo': tarfile.FIFOTYPE}[kind]
        data = value.encode() if kind == 'file' else b''
        member.linkname, member.size, member.mode = '' if data else value, len(data), 0o644
        out.addfile(member, io.BytesIO(data))
";
    let path = place.join("hostile.tar");
    let flat = members.iter().flat_map(|(name, kind, value)| [name, kind, value]);
    let made = Command::new("python3").args(["-c", MAKE]).arg(&path).args(flat).status().unwrap();
    assert!(made.success());
    path
}

const PASSWD: (&str, &str, &str) = ("etc/passwd", "file", "root:x:0:0::/root:/bin/sh\n");

#[test]
fn a_directory_is_taken_as_it_is_without_what_is_of_its_place() {
    let Some(place) = place() else { return };
    let from = place.path().join("from");
    for dir in ["dev", "run", "usr/bin"] {
        fs::create_dir_all(from.join(dir)).unwrap();
    }
    fs::write(from.join("run/pid"), "1").unwrap();
    fs::write(from.join("usr/bin/one"), "program").unwrap();
    fs::hard_link(from.join("usr/bin/one"), from.join("usr/bin/two")).unwrap();
    fs::set_permissions(from.join("usr/bin/one"), fs::Permissions::from_mode(0o4755)).unwrap();
    symlink("usr/bin", from.join("bin")).unwrap();
    symlink(place.path().join("outside/victim"), from.join("etc/resolv.conf")).unwrap();
    let root = bring(place.path(), &Source::Directory(from.clone())).unwrap();

    let one = fs::metadata(root.join("usr/bin/one")).unwrap();
    assert_eq!(one.mode() & 0o7777, 0o4755);
    assert_eq!(one.ino(), fs::metadata(root.join("usr/bin/two")).unwrap().ino());
    assert_eq!(fs::read_link(root.join("bin")).unwrap(), Path::new("usr/bin"));
    assert!(!root.join("run/pid").exists() && from.join("run/pid").exists());
    assert!(fs::read_to_string(root.join("etc/passwd")).unwrap().contains("\nuser:x:1000:"));
    assert!(!fs::read_to_string(from.join("etc/passwd")).unwrap().contains("user"));
    assert_eq!(fs::read_to_string(root.join("etc/resolv.conf")).unwrap(), "");
    let victim = place.path().join("outside/victim");
    assert_eq!(fs::read_to_string(victim).unwrap(), "as it was");
    for dir in ["dev", "proc", "sys", "tmp", "run"] {
        assert_eq!(fs::read_dir(root.join(dir)).unwrap().count(), 0, "{dir}");
    }
}

#[test]
fn a_tarball_is_unpacked_whatever_it_is_packed_with() {
    let Some(place) = place() else { return };
    for (option, name) in [("-J", "base.txz"), ("-z", "a:b.tgz"), ("-c", "plain.tar")] {
        let file = place.path().join(name);
        let (from, build) = (place.path().join("from"), place.path().join("build"));
        let packed = Command::new("tar")
            .args(["--force-local", "-c", option, "-f"])
            .args([&file, Path::new("-C"), &from, Path::new(".")])
            .status()
            .unwrap();
        assert!(packed.success());
        let root = bring(place.path(), &Source::parse(file.to_str().unwrap()).unwrap()).unwrap();
        assert!(root.join("etc/passwd").is_file(), "{name}");
        fs::remove_dir_all(&build).unwrap();
        fs::create_dir(&build).unwrap();
    }
}

#[test]
fn nothing_of_a_tarball_gets_out_of_its_root() {
    let Some(place) = place() else { return };
    let outside = place.path().join("outside");
    let victim = outside.join("victim").display().to_string();
    let out = outside.display().to_string();
    let attempts: [&[(&str, &str, &str)]; 8] = [
        &[("../../outside/new", "file", "x")],
        &[("etc/../../../outside/new", "file", "x")],
        &[(&victim, "file", "x")],
        &[("way", "link", &out), ("way/new", "file", "x")],
        &[("way", "link", "../../outside"), ("way/new", "file", "x")],
        &[("own", "hard", &victim), ("own", "file", "x")],
        &[("own", "hard", "../../outside/victim"), ("own", "file", "x")],
        &[("way", "link", &victim), ("way", "file", "x")],
    ];
    for attempt in attempts {
        let members: Vec<_> = [PASSWD].iter().chain(attempt).copied().collect();
        let source = Source::Tarball(tarball(place.path(), &members));
        // Refused or taken to lie inside: both are fine.
        let _ = bring(place.path(), &source);
        assert_eq!(fs::read_dir(&outside).unwrap().count(), 1, "{attempt:?}");
        assert_eq!(fs::read_to_string(&victim).unwrap(), "as it was", "{attempt:?}");
        assert_eq!(fs::metadata(&victim).unwrap().nlink(), 1, "{attempt:?}");
        let build = place.path().join("build");
        fs::remove_dir_all(&build).unwrap();
        fs::create_dir(&build).unwrap();
    }
}

#[test]
fn a_name_that_leads_out_is_refused_aloud() {
    let Some(place) = place() else { return };
    let path = tarball(place.path(), &[PASSWD, ("../out", "file", "x")]);
    let error = bring(place.path(), &Source::Tarball(path)).unwrap_err().to_string();
    assert!(error.contains("../out"), "{error}");
}

#[test]
fn what_cannot_be_read_whole_is_no_template() {
    let Some(place) = place() else { return };
    let torn = place.path().join("torn.txz");
    fs::write(&torn, b"\xfd7zXZ\0 and not much more").unwrap();
    assert!(bring(place.path(), &Source::Tarball(torn)).is_err());
    let nothing = place.path().join("outside");
    let error = bring(place.path(), &Source::Directory(nothing)).unwrap_err().to_string();
    assert!(error.contains("no root file system"), "{error}");
}

#[test]
fn a_copy_that_breaks_off_is_an_error() {
    let Some(place) = place() else { return };
    let (root, dir) = (place.path().join("root"), place.path().join("build"));
    fs::create_dir(&root).unwrap();
    let gone = place.path().join("gone");
    let error = copy(&gone, &root, &dir, &CancellationToken::new()).unwrap_err().to_string();
    assert!(error.contains("gone"), "{error}");
}

#[test]
fn sources_are_told_apart_and_the_host_s_own_root_is_none() {
    let place = tempfile::tempdir().unwrap();
    let file = place.path().join("base.txz");
    fs::write(&file, "").unwrap();
    let canonical = |path: &Path| path.canonicalize().unwrap();
    assert_eq!(
        Source::parse(place.path().to_str().unwrap()).unwrap(),
        Source::Directory(canonical(place.path()))
    );
    assert_eq!(Source::parse(file.to_str().unwrap()).unwrap(), Source::Tarball(canonical(&file)));
    assert!(matches!(Source::parse("/"), Err(Error::Host)));
    assert!(matches!(Source::parse("/usr/.."), Err(Error::Host)));
    assert!(matches!(Source::parse("/dev/null"), Err(Error::Kind(_))));
    let missing = Source::parse("/no/such/thing").unwrap_err().to_string();
    assert!(missing.contains("/no/such/thing"), "{missing}");
    assert_eq!(matches!(Source::parse("zfs:tank/base"), Err(Error::NoZfs)), !ON_FREEBSD);
}

#[test]
fn a_dataset_s_name_is_no_option_and_no_path() {
    for name in ["zroot", "zroot/jails/base", "tank/base@clean", "a/b-c_d.e:f@g"] {
        assert!(is_dataset(name), "{name}");
    }
    for name in ["", "-r", "/zroot", "zroot/", "a//b", "a@", "a@b@c", "a b", "a@../..", "a/../b"] {
        assert!(!is_dataset(name), "{name}");
    }
}

#[test]
fn a_template_s_name_cannot_be_a_path() {
    for name in ["base", "code-interpreter-v1", "py3.11_small", "0"] {
        assert!(is_name(name), "{name}");
    }
    let long = "a".repeat(65);
    for name in ["", ".", "..", "a/b", ".hidden", "-x", "x-", "Base", "a b", "é", &long] {
        assert!(!is_name(name), "{name}");
    }
}
