//! The recipe of `code-interpreter-v1`: on top of `base`, Python with what people compute and draw
//! with, and the kernels that run code.
//!
//! Packages go to the system's own Python, so that commands, `pip install` and kernels see the same
//! ones. Blocking, as the recipe of `base` is.

use std::{env, path::Path, time::Duration};

use tokio_util::sync::CancellationToken;

use super::{
    recipe::{Below, Built, Error, in_path},
    tool::Tool,
    tree,
};

/// Every package with its exact version, also those that others ask for.
const REQUIREMENTS: &str = include_str!("interpreter/requirements.txt");
const ENTER: &str = include_str!("interpreter/enter.sh");
const FINISH: &str = include_str!("interpreter/finish.sh");

/// What is ours in Python: a module, for where its packages lie, and a path below `usr/local`.
pub(super) const PYTHON_FILES: [(&str, &str); 2] = [
    ("coppice_display.py", include_str!("interpreter/coppice_display.py")),
    ("etc/ipython/ipython_kernel_config.py", include_str!("interpreter/ipython_kernel_config.py")),
];

/// Path below `usr/local` and content; directories are made.
const FILES: &[(&str, &str)] = &[
    ("lib/python3.11/dist-packages/coppice_display.py", PYTHON_FILES[0].1),
    PYTHON_FILES[1],
    ("share/jupyter/kernels/python3/kernel.json", include_str!("interpreter/kernels/python3.json")),
    ("share/jupyter/kernels/bash/kernel.json", include_str!("interpreter/kernels/bash.json")),
];

/// The kernel of JavaScript and TypeScript, where there is Node.
const JAVASCRIPT: &str = "lib/coppice/javascript";
pub(super) const JAVASCRIPT_FILES: &[(&str, &str)] = &[
    (
        "share/jupyter/kernels/javascript/kernel.json",
        include_str!("interpreter/kernels/javascript.json"),
    ),
    ("lib/coppice/javascript/package.json", include_str!("interpreter/javascript/package.json")),
    (
        "lib/coppice/javascript/package-lock.json",
        include_str!("interpreter/javascript/package-lock.json"),
    ),
    ("lib/coppice/javascript/kernel.js", include_str!("interpreter/javascript/kernel.js")),
    ("lib/coppice/javascript/cell.js", include_str!("interpreter/javascript/cell.js")),
    ("lib/coppice/javascript/wire.js", include_str!("interpreter/javascript/wire.js")),
];

/// A package as it is asked for, with its version.
pub(super) fn pinned(name: &str) -> Option<String> {
    let of_it = |line: &&str| line.split_once("==").is_some_and(|(known, _)| known == name);
    REQUIREMENTS.lines().find(of_it).map(str::to_owned)
}

/// All that the result depends on, but for what lies below.
pub(super) fn recipe() -> String {
    format!("{REQUIREMENTS} {ENTER} {FINISH} {FILES:?} {JAVASCRIPT} {JAVASCRIPT_FILES:?}")
}

pub(super) fn build(
    dir: &Path,
    below: &Below,
    stop: &CancellationToken,
    progress: &(dyn Fn(&str) + Sync),
) -> Result<Built, Error> {
    let layers = relative(below);
    let local = dir.join("upper/usr/local");
    for part in ["upper", "upper/usr", "upper/usr/local"] {
        tree::make_dir(&dir.join(part))?;
    }

    let node = below.node.clone().filter(|_| in_path("npm"));
    if node.is_some() {
        install_javascript(dir, &local, stop, progress)?;
    } else {
        progress("leaving JavaScript out: there is no Node below, or no npm on the host");
    }
    install_python(dir, &layers, stop, progress)?;
    // After the packages: what is ours stays ours.
    for (path, content) in FILES {
        put(&local, path, content)?;
    }
    progress("compiling Python packages");
    run_inside(dir, &layers, Duration::from_secs(10 * 60))
        .args(["sh", "-c", FINISH])
        .run(stop, |_| {})?;
    Ok(Built { root: dir.join("upper"), node })
}

/// As the kernel wants them: from the build's directory, which is beside that of the layers, so that
/// no character of their whole paths means something to it.
fn relative(below: &Below) -> String {
    let names = below.layers.iter().filter_map(|layer| layer.file_name());
    names.map(|name| format!("../layers/{}", name.to_string_lossy())).collect::<Vec<_>>().join(":")
}

fn install_python(
    dir: &Path,
    layers: &str,
    stop: &CancellationToken,
    progress: &(dyn Fn(&str) + Sync),
) -> Result<(), Error> {
    progress("installing Python packages");
    let tmp = dir.join("tmp");
    tree::make_dir(&tmp)?;
    tree::write(&tmp.join("requirements.txt"), 0o644, REQUIREMENTS)?;
    run_inside(dir, layers, Duration::from_secs(20 * 60))
        .args([
            "pip",
            "install",
            "--no-cache-dir",
            "--no-compile",
            "--no-deps",
            "--no-warn-conflicts",
        ])
        .args(["--only-binary=:all:", "--break-system-packages", "--root-user-action=ignore"])
        .args(["--disable-pip-version-check", "--progress-bar=off", "--retries=5"])
        .args(["-r", "/tmp/requirements.txt"])
        .run(stop, |line| {
            let step = line.trim_start();
            if let Some(file) = step.strip_prefix("Downloading ") {
                let name = file.split('-').take(2).collect::<Vec<_>>().join(" ");
                progress(&format!("installing Python packages: {name}"));
            } else if step.starts_with("Installing collected packages") {
                progress("installing Python packages: unpacking");
            }
        })?;
    Ok(())
}

/// A program in the root that is being built, as its root, with the host's network.
fn run_inside(dir: &Path, layers: &str, limit: Duration) -> Tool {
    let given = ["PIP_CERT", "SSL_CERT_FILE", "REQUESTS_CA_BUNDLE"];
    let tool = Tool::new("sh", dir, limit).args(["-c", ENTER, "enter.sh", layers]);
    match given.into_iter().find_map(env::var_os) {
        Some(authorities) => tool.env("CA", authorities),
        None => tool,
    }
}

fn install_javascript(
    dir: &Path,
    local: &Path,
    stop: &CancellationToken,
    progress: &(dyn Fn(&str) + Sync),
) -> Result<(), Error> {
    progress("installing the JavaScript kernel");
    for (path, content) in JAVASCRIPT_FILES {
        put(local, path, content)?;
    }
    let home = local.join(JAVASCRIPT);
    Tool::new("npm", &home, Duration::from_secs(5 * 60))
        .env("npm_config_cache", dir.join("npm-cache"))
        .env("npm_config_update_notifier", "false")
        .args(["ci", "--silent", "--omit=dev", "--ignore-scripts", "--no-audit", "--no-fund"])
        .run(stop, |_| {})?;
    // The package brings its library for every system there is.
    let built = home.join("node_modules/zeromq/build");
    let other_arch = if env::consts::ARCH == "aarch64" { "linux/x64" } else { "linux/arm64" };
    for other in ["darwin", "win32", other_arch] {
        tree::remove(&built.join(other))?;
    }
    Ok(())
}

pub(super) fn put(local: &Path, path: &str, content: &str) -> Result<(), tree::Error> {
    let path = local.join(path);
    let dir = path.parent().expect("it is a file below a directory");
    let missing = dir.ancestors().take_while(|dir| !dir.is_dir()).collect::<Vec<_>>();
    for dir in missing.into_iter().rev() {
        tree::make_dir(dir)?;
    }
    tree::write(&path, 0o644, content)
}
