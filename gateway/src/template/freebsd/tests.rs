use std::os::unix::fs::PermissionsExt;

use super::*;

/// Says what it was called with, knows a few packages, and installs by making a file of each.
const FAKE: &str = r#"#!/bin/sh
echo "$ASSUME_ALWAYS_YES $ABI_FILE $*" >>"$(dirname "$0")/calls"
[ "$1" = --rootdir ] && root=$2
shift 4
case $* in
    "update -f") [ ! -e "$(dirname "$0")/offline" ] || { echo "no route to host"; exit 1; } ;;
    "rquery -U -a %n") printf '%s\n' python3 python311 py311-numpy py311-pandas py311-matplotlib \
        py310-ipykernel py311-scipy $(cat "$(dirname "$0")/more") ;;
    "rquery -U %dn python3") printf '%s\n' python311 ;;
    install*)
        shift 3
        mkdir -p "$root/usr/local/bin" "$root/var/cache/pkg" "$root/var/db/pkg/repos/x"
        for name; do
            echo "[1/9] Installing $name-1.0..."
            : >"$root/usr/local/bin/$name"
        done
        : >"$root/var/db/pkg/local.sqlite" ;;
    *) exit 64 ;;
esac
"#;

struct Place {
    dir: tempfile::TempDir,
    steps: Mutex<Vec<String>>,
}

impl Place {
    /// `None` where programs of a build cannot be run at all.
    fn new(more: &str) -> Option<Self> {
        if !nix::unistd::geteuid().is_root() {
            eprintln!("skipped: namespaces take root");
            return None;
        }
        let place = Self { dir: tempfile::tempdir().unwrap(), steps: Mutex::default() };
        fs::create_dir(place.path("root")).unwrap();
        fs::write(place.path("pkg"), FAKE).unwrap();
        fs::write(place.path("more"), more).unwrap();
        fs::set_permissions(place.path("pkg"), fs::Permissions::from_mode(0o755)).unwrap();
        Some(place)
    }

    fn path(&self, path: &str) -> PathBuf {
        self.dir.path().join(path)
    }

    /// What a build does with packages.
    fn install(&self) -> Result<Python, recipe::Error> {
        let (stop, progress) =
            (CancellationToken::new(), |step: &str| self.steps.lock().push(step.to_owned()));
        let (pkg, root) = (self.path("pkg"), self.path("root"));
        let packages = Packages::new(&pkg, &root, self.dir.path(), &stop, &progress)?;
        let python = packages.python()?;
        let mut names = packages.all_of(NEEDED, &python)?;
        names.extend(packages.some_of(WELCOME, &python));
        packages.install(&names)?;
        clear(&root)?;
        Ok(python)
    }
}

#[test]
fn packages_are_of_the_repository_s_own_python_and_leave_no_downloads() {
    let Some(place) = Place::new("py311-ipykernel") else { return };
    assert_eq!(place.install().unwrap(), Python { minor: 11 });
    let installed = place.path("root/usr/local/bin");
    for name in ["python3", "py311-ipykernel", "py311-numpy", "py311-scipy"] {
        assert!(installed.join(name).exists(), "{name}");
    }
    assert!(!installed.join("py311-sympy").exists());
    assert!(place.path("root/var/db/pkg/local.sqlite").exists());
    assert!(!place.path("root/var/cache/pkg").exists());
    assert!(!place.path("root/var/db/pkg/repos").exists());
    let calls = fs::read_to_string(place.path("calls")).unwrap();
    let abi = place.path("root/bin/sh");
    for call in calls.lines() {
        assert!(call.starts_with(&format!("yes {} --rootdir ", abi.display())), "{call}");
        assert!(call.contains(" --repo-conf-dir "), "{call}");
    }
    let steps = place.steps.into_inner();
    assert!(steps.contains(&"installing packages: [1/9] Installing py311-numpy-1.0".to_owned()));
    assert!(steps.iter().any(|step| step.contains("py311-sympy")), "{steps:?}");
}

#[test]
fn what_is_missing_is_named() {
    let Some(place) = Place::new("") else { return };
    let error = place.install().unwrap_err().to_string();
    assert_eq!(error, "the package repository has no py311-ipykernel");

    fs::write(place.path("offline"), "").unwrap();
    let error = place.install().unwrap_err().to_string();
    assert!(error.contains("is there a network") && error.contains("no route to host"), "{error}");

    fs::remove_file(place.path("pkg")).unwrap();
    let error = place.install().unwrap_err().to_string();
    assert!(error.contains("`pkg bootstrap`"), "{error}");
}

#[test]
fn a_flavour_is_taken_from_the_package_of_python() {
    for (name, minor) in [("python311", Some(11)), ("python39", Some(9)), ("python3", None)] {
        assert_eq!(Python::of_package(name).map(|python| python.minor), minor, "{name}");
    }
    for other in ["python", "python2", "python311-docs", "py311-pip", "python3x"] {
        assert_eq!(Python::of_package(other), None, "{other}");
    }
    let python = Python { minor: 12 };
    assert_eq!(
        (python.package("%-numpy"), python.package("bash")),
        ("py312-numpy".to_owned(), "bash".to_owned())
    );
}

#[test]
fn repositories_of_the_host_s_own_come_after_the_system_s() {
    let dir = tempfile::tempdir().unwrap();
    let (system, own) = (dir.path().join("system"), dir.path().join("own"));
    for (dir, text) in [(&system, "of the system"), (&own, "of the host")] {
        fs::create_dir(dir).unwrap();
        fs::write(dir.join("FreeBSD.conf"), text).unwrap();
        fs::write(dir.join("notes.txt"), text).unwrap();
    }
    let to = dir.path().join("all");
    collect(&[&system, Path::new("/nowhere"), &own], &to).unwrap();
    let mut names: Vec<_> =
        fs::read_dir(&to).unwrap().map(|e| e.unwrap().file_name().into_string().unwrap()).collect();
    names.sort();
    assert_eq!(names, ["0-FreeBSD.conf", "2-FreeBSD.conf"]);
    assert_eq!(fs::read_to_string(to.join("2-FreeBSD.conf")).unwrap(), "of the host");
}

#[test]
fn the_interpreter_s_files_lie_where_freebsd_s_python_looks() {
    let root = tempfile::tempdir().unwrap();
    fs::create_dir_all(root.path().join("usr/local/lib/python3.11/site-packages")).unwrap();
    put_interpreter(root.path(), &Python { minor: 11 }).unwrap();
    for path in [
        "lib/python3.11/site-packages/coppice_display.py",
        "etc/ipython/ipython_kernel_config.py",
        "share/jupyter/kernels/python3/kernel.json",
    ] {
        assert!(root.path().join("usr/local").join(path).is_file(), "{path}");
    }
    let spec: serde_json::Value = serde_json::from_str(KERNEL).unwrap();
    assert_eq!(spec["argv"][0], "/usr/local/bin/python3");
}

#[test]
fn there_is_a_bash_at_the_path_that_sdks_start() {
    let root = tempfile::tempdir().unwrap();
    fs::create_dir_all(root.path().join("bin")).unwrap();
    provide_bash(root.path()).unwrap();
    let bash = root.path().join("bin/bash");
    let run = |argv: &[&str]| {
        let home = root.path().join("home");
        let done =
            std::process::Command::new(&bash).args(argv).env("HOME", &home).output().unwrap();
        assert!(done.status.success(), "{done:?}");
        String::from_utf8(done.stdout).unwrap()
    };
    assert_eq!(run(&["-l", "-c", "echo $0 \"$1\"", "name", "a  b"]), "name a  b\n");
    assert_eq!(run(&["-c", "echo -l"]), "-l\n");
    fs::create_dir(root.path().join("home")).unwrap();
    fs::write(root.path().join("home/.profile"), "GREETING=hello\n").unwrap();
    assert_eq!(run(&["-l", "-c", "echo $GREETING"]), "hello\n");

    fs::create_dir_all(root.path().join("usr/local/bin")).unwrap();
    fs::write(root.path().join("usr/local/bin/bash"), "the real one").unwrap();
    provide_bash(root.path()).unwrap();
    let link = Path::new("../usr/local/bin/bash");
    assert_eq!(fs::read_link(&bash).unwrap(), link);

    // What came with the root stays.
    for own in ["another's bash", ""] {
        tree::write(&bash, 0o755, own).unwrap();
        provide_bash(root.path()).unwrap();
        assert_eq!(fs::read_to_string(&bash).unwrap(), own);
    }
}

/// Says what it was called with, and does as pip and npm would; with `offline` beside it neither.
const CHROOT: &str = r#"#!/bin/sh
here=$(dirname "$0")
echo "$HOME $*" >>"$here/inside"
[ ! -e /etc/resolv.conf ] || cmp -s /etc/resolv.conf "$1/etc/resolv.conf" || exit 3
[ ! -e "$here/offline" ] || { echo "no route to host"; exit 1; }
case $2 in
    */python3) mkdir -p "$1/usr/local/lib/python3.11/site-packages/bash_kernel" ;;
    /bin/sh) mkdir -p "$1$6/node_modules/acorn" "$1/tmp/npm" ;;
    *) exit 64 ;;
esac
"#;

#[test]
fn kernels_without_packages_are_added_as_far_as_they_can_be_had() {
    for offline in [false, true] {
        let Some(place) = Place::new("") else { return };
        let root = place.path("root");
        for directory in ["etc", "tmp", "usr/local/lib/python3.11/site-packages"] {
            fs::create_dir_all(root.join(directory)).unwrap();
        }
        fs::write(place.path("chroot"), CHROOT).unwrap();
        fs::set_permissions(place.path("chroot"), fs::Permissions::from_mode(0o755)).unwrap();
        if offline {
            fs::write(place.path("offline"), "").unwrap();
        }
        let progress = |step: &str| place.steps.lock().push(step.to_owned());
        let inside = kernels::Inside {
            chroot: &place.path("chroot"),
            root: &root,
            dir: place.dir.path(),
            stop: &CancellationToken::new(),
            progress: &progress,
        };
        inside.add(Python { minor: 11 }).unwrap();

        let calls = fs::read_to_string(place.path("inside")).unwrap();
        assert!(calls.contains(" bash_kernel==") && calls.contains(" e2b-charts=="), "{calls}");
        assert!(calls.contains("/usr/local/bin/npm ci "), "{calls}");
        assert!(calls.lines().all(|call| call.starts_with("/tmp ")), "{calls}");
        assert_eq!(fs::read(root.join("etc/resolv.conf")).unwrap(), b"");
        assert_eq!(fs::read_dir(root.join("tmp")).unwrap().count(), 0);
        let local = root.join("usr/local");
        for path in [
            "share/jupyter/kernels/bash/kernel.json",
            "share/jupyter/kernels/javascript/kernel.json",
            "lib/coppice/javascript/kernel.js",
            "lib/coppice/javascript/wire.js",
            "lib/coppice/javascript/node_modules/zeromq/index.js",
        ] {
            assert_eq!(local.join(path).is_file(), !offline, "{path}");
        }
        let steps = place.steps.lock().join("\n");
        assert_eq!(steps.matches("leaving out").count(), if offline { 2 } else { 0 }, "{steps}");
        assert_eq!(steps.contains("no route to host"), offline, "{steps}");
    }
}

#[test]
fn node_is_taken_where_its_npm_is_there_too() {
    let packages = |known: &[&str]| {
        kernels::packages(&known.iter().map(|name| (*name).to_owned()).collect::<BTreeSet<_>>())
    };
    assert_eq!(packages(&["node22", "npm-node22", "node24"]), ["node22", "npm-node22"]);
    let both = ["node22", "npm-node22", "node24", "npm-node24"];
    assert_eq!(packages(&both), ["node24", "npm-node24"]);
    assert_eq!(packages(&["node20", "npm-node20"]), Vec::<String>::new());
}

#[test]
fn what_the_kernel_of_javascript_needs_is_pinned_as_on_linux() {
    let lock = |text: &str| serde_json::from_str::<serde_json::Value>(text).unwrap();
    let ours = lock(include_str!("javascript/package-lock.json"));
    let theirs = lock(include_str!("../interpreter/javascript/package-lock.json"));
    let acorn = |lock: &serde_json::Value| lock["packages"]["node_modules/acorn"].clone();
    assert_eq!(acorn(&ours), acorn(&theirs));
    assert!(!acorn(&ours).is_null());
    let packages = ours["packages"].as_object().unwrap();
    assert_eq!(packages.len(), 2, "{packages:?}");
}
