//! runc and bubblewrap, which make a sandbox and run a program in it, and nsenter, which runs one
//! in a sandbox that is there.

use std::{
    fs,
    io::Read,
    path::Path,
    process::{Child, Command, Stdio},
};

use anyhow::{Context, ensure};
use serde_json::{Value, json};

use super::{find, run};
use crate::scratch::Scratch;

const PROGRAM: &str = "/bin/true";

/// `runc run` of /bin/true: what `runc spec` proposes (pid, network, ipc, uts, mount and cgroup
/// namespaces), in the template's tree, read-only.
pub(crate) fn runc(
    template: &Path,
    bundle: &Scratch,
) -> anyhow::Result<impl FnMut() -> anyhow::Result<()> + Clone + Send + 'static> {
    let path = |name: &str| bundle.path().join(name).display().to_string();
    let (state, bundle_path, config) = (path("runc"), path("bundle"), path("bundle/config.json"));
    fs::create_dir(&bundle_path).context("bundle")?;
    let runc = find("runc")?;
    run(&runc, &["spec".into(), "--bundle".into(), bundle_path.clone()])?;
    let mut spec: Value = serde_json::from_str(&fs::read_to_string(&config)?)?;
    spec["process"]["args"] = json!([PROGRAM]);
    spec["process"]["terminal"] = json!(false);
    spec["root"] = json!({ "path": template, "readonly": true });
    fs::write(&config, spec.to_string()).context("config.json")?;
    let mut n = 0;
    Ok(move || {
        n += 1;
        let name = format!("bench-{}-{n}", std::process::id());
        let args = ["--root", &state, "run", "--bundle", &bundle_path, &name];
        run(&runc, &args.map(str::to_owned))
    })
}

fn bwrap_args(template: &Path, program: &[&str]) -> Vec<String> {
    let args = ["--unshare-all", "--unshare-user", "--die-with-parent", "--ro-bind"];
    let mut args: Vec<String> = args.map(str::to_owned).into();
    args.extend([template.display().to_string(), "/".to_owned()]);
    args.extend(["--proc", "/proc", "--dev", "/dev", "--tmpfs", "/tmp"].map(str::to_owned));
    args.extend(program.iter().map(|&word| word.to_owned()));
    args
}

/// `bwrap` of /bin/true in all namespaces there are, in the template's tree, read-only.
pub(crate) fn bwrap(
    template: &Path,
) -> anyhow::Result<impl FnMut() -> anyhow::Result<()> + Clone + Send + 'static> {
    let (bwrap, args) = (find("bwrap")?, bwrap_args(template, &[PROGRAM]));
    Ok(move || run(&bwrap, &args))
}

/// A sandbox of bubblewrap's in which a process sleeps, for nsenter to run programs in.
pub(crate) struct Sleeper {
    process: Child,
    inside: u32,
}

impl Sleeper {
    pub(crate) fn start(template: &Path) -> anyhow::Result<Self> {
        let mut args = vec!["--info-fd".to_owned(), "1".to_owned()];
        args.extend(bwrap_args(template, &["/bin/sleep", "infinity"]));
        let mut process = Command::new(find("bwrap")?)
            .args(args)
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .spawn()
            .context("bwrap")?;
        let mut said = process.stdout.take().expect("it is piped");
        let mut sleeper = Self { process, inside: 0 };
        let mut info = Vec::new();
        let mut byte = [0];
        while !info.ends_with(b"}") {
            ensure!(said.read(&mut byte).context("bwrap")? == 1, "bwrap said nothing of its child");
            info.push(byte[0]);
        }
        let info: Value = serde_json::from_slice(&info).context("what bwrap says")?;
        let inside = info["child-pid"].as_u64().context("bwrap names no child")?;
        sleeper.inside = u32::try_from(inside)?;
        Ok(sleeper)
    }

    /// `nsenter` of /bin/true into all its namespaces and its root.
    pub(crate) fn nsenter(
        &self,
    ) -> anyhow::Result<impl FnMut() -> anyhow::Result<()> + Clone + Send + 'static> {
        let nsenter = find("nsenter")?;
        let target = self.inside.to_string();
        let args = ["--target", &target, "--user", "--mount", "--uts", "--ipc", "--net", "--pid"];
        let mut args: Vec<String> = args.map(str::to_owned).into();
        args.extend(["--cgroup", "--root", "--preserve-credentials", PROGRAM].map(str::to_owned));
        Ok(move || run(&nsenter, &args))
    }
}

impl Drop for Sleeper {
    fn drop(&mut self) {
        // Its child dies with it, by --die-with-parent.
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}
