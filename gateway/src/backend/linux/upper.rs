//! The writable layer of a new sandbox, with the files that are its own from the start: its names
//! and resolvers under `/etc`, and who it is under `/run/e2b`.
//!
//! They are written here, as root's, before the layer is anybody's: what is written through an
//! overlay costs several times as much.

use std::{
    fs::{self, DirBuilder, File},
    io::{self, Write},
    net::IpAddr,
    os::unix::fs::{DirBuilderExt, FileTypeExt, MetadataExt, PermissionsExt, chown},
    path::{Path, PathBuf},
};

use envd::wire;

use super::{disk::Disk, error::Call};
use crate::backend::{CellSpec, Error};

/// Makes `layer` with `upper` and `work` in it. Blocks.
pub(super) fn make(
    disk: &Disk,
    layer: &Path,
    spec: &CellSpec,
    dns: &[IpAddr],
) -> Result<(), Error> {
    let upper = layer.join("upper");
    disk.make_layer(layer, spec.limits.disk_bytes)?;
    for path in [&upper, &layer.join("work")] {
        directory(path, 0o755)?;
    }
    let lowers = &spec.template.layers;
    let id = spec.id.to_string();

    let etc = merged(&upper, lowers, "etc")?;
    write(&etc.join("hostname"), &format!("{id}\n"))?;
    write(&etc.join("hosts"), &hosts(&id))?;
    // One that has no network may get one later.
    write(&etc.join("resolv.conf"), &resolv_conf(dns))?;

    let run = merged(&upper, lowers, "run")?.join("e2b");
    directory(&run, 0o755)?;
    for (name, value) in wire::identity(&id, &spec.template.id) {
        write(&run.join(format!(".{name}")), &value)?;
    }
    Ok(())
}

/// A directory of the root that shows what is in the template's too, and is owned and closed like
/// that one.
fn merged(upper: &Path, lowers: &[PathBuf], name: &str) -> Result<PathBuf, Error> {
    let path = upper.join(name);
    let below = lowers.iter().find_map(|lower| {
        let lower = lower.join(name);
        let metadata = fs::symlink_metadata(&lower).ok()?;
        Some((lower, metadata))
    });
    // Deleted in a snapshot that others lie under.
    let whiteout = |found: &fs::Metadata| found.file_type().is_char_device() && found.rdev() == 0;
    let below = below.filter(|(_, found)| !whiteout(found));
    let Some((lower, below)) = below else {
        directory(&path, 0o755)?;
        return Ok(path);
    };
    if !below.is_dir() {
        let source = io::Error::from(io::ErrorKind::NotADirectory);
        return Err(source).call("use the template's", lower.display());
    }
    directory(&path, below.mode() & 0o7777)?;
    if (below.uid(), below.gid()) != (0, 0) {
        chown(&path, Some(below.uid()), Some(below.gid())).call("chown", path.display())?;
    }
    Ok(path)
}

/// Whatever the gateway's umask is.
fn directory(path: &Path, mode: u32) -> Result<(), Error> {
    DirBuilder::new().mode(mode).create(path).call("mkdir", path.display())?;
    if fs::symlink_metadata(path).call("stat", path.display())?.mode() & 0o7777 != mode {
        let mode = fs::Permissions::from_mode(mode);
        fs::set_permissions(path, mode).call("chmod", path.display())?;
    }
    Ok(())
}

fn write(path: &Path, text: &str) -> Result<(), Error> {
    let mut file = File::create_new(path).call("make", path.display())?;
    if file.metadata().call("stat", path.display())?.mode() & 0o7777 != 0o644 {
        let mode = fs::Permissions::from_mode(0o644);
        file.set_permissions(mode).call("chmod", path.display())?;
    }
    file.write_all(text.as_bytes()).call("write", path.display())
}

fn hosts(hostname: &str) -> String {
    format!("127.0.0.1 localhost\n127.0.1.1 {hostname}\n::1 localhost ip6-localhost ip6-loopback\n")
}

/// A sandbox has no IPv6 to reach a resolver by.
fn resolv_conf(dns: &[IpAddr]) -> String {
    dns.iter().filter(|server| server.is_ipv4()).map(|it| format!("nameserver {it}\n")).collect()
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;
    use crate::{
        backend::{Layer, NetworkMode},
        sandbox::SandboxId,
        sandbox::testing,
    };

    fn spec(layers: Vec<PathBuf>) -> CellSpec {
        let template = crate::template::Template { layers, ..testing::template() };
        CellSpec {
            id: SandboxId::random(),
            limits: template.limits,
            template: Arc::new(template),
            network: NetworkMode::Nat,
            filter: Default::default(),
            init: Default::default(),
            layer: Layer::Fresh,
        }
    }

    #[test]
    fn what_is_a_sandboxs_own_lies_over_the_topmost_template_directory() {
        let dir = tempfile::tempdir().unwrap();
        let (top, bottom) = (dir.path().join("top"), dir.path().join("bottom"));
        for (path, mode) in [(top.join("etc"), 0o711), (bottom.join("etc"), 0o700)] {
            fs::create_dir_all(&path).unwrap();
            fs::set_permissions(&path, fs::Permissions::from_mode(mode)).unwrap();
        }
        let spec = spec(vec![top, bottom]);
        let layer = dir.path().join("layer");
        let dns = ["192.0.2.1".parse().unwrap(), "2001:db8::1".parse().unwrap()];
        make(&Disk::of(dir.path()).unwrap(), &layer, &spec, &dns).unwrap();
        let read = |path: &str| fs::read_to_string(layer.join("upper").join(path)).unwrap();
        assert_eq!(read("etc/hostname"), format!("{}\n", spec.id));
        assert!(read("etc/hosts").contains(&format!("127.0.1.1 {}\n", spec.id)));
        assert_eq!(read("etc/resolv.conf"), "nameserver 192.0.2.1\n");
        assert_eq!(read("run/e2b/.E2B_SANDBOX_ID"), spec.id.to_string());
        let mode = |path: &str| fs::metadata(layer.join("upper").join(path)).unwrap().mode();
        assert_eq!(mode("etc") & 0o7777, 0o711);
        assert_eq!(mode("etc/hosts") & 0o7777, 0o644);
    }

    #[test]
    fn a_template_whose_etc_leads_elsewhere_is_refused() {
        let dir = tempfile::tempdir().unwrap();
        std::os::unix::fs::symlink("/etc", dir.path().join("etc")).unwrap();
        let spec = spec(vec![dir.path().to_owned()]);
        let error = make(&Disk::of(dir.path()).unwrap(), &dir.path().join("layer"), &spec, &[])
            .unwrap_err();
        assert!(error.to_string().starts_with("use the template's "), "{error}");
    }
}
