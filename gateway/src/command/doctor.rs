//! `coppice doctor`: can this host make sandboxes, and how many?

use std::{io::Write, path, process::ExitCode};

use anyhow::Context;
use coppice::{
    backend::{Backend, Check, Verdict},
    config::{self, Flags},
    tls,
};

pub(crate) fn run(flags: Flags) -> anyhow::Result<ExitCode> {
    let config = config::load(flags)?;
    super::log(&config);
    // Nothing is made: where the data directory is not there yet, its parent tells as much.
    let planned = path::absolute(&config.data_dir).context("data-dir")?;
    let data_dir = planned.ancestors().find(|dir| dir.is_dir()).unwrap_or(&planned);
    let mut checks = super::host(&config, data_dir)?.probe(config.max_sandboxes);
    if let Some(tls) = &config.tls {
        checks.extend(tls::check(&tls.files, config.domain.as_deref()));
    }
    let mut out = std::io::stdout().lock();
    print(&mut out, &checks)?;
    let count = |verdict| checks.iter().filter(|check| check.verdict == verdict).count();
    let (bad, warn) = (count(Verdict::Bad), count(Verdict::Warn));
    let planned = config.max_sandboxes;
    match (bad, warn) {
        (0, 0) => writeln!(out, "\nready for {planned} sandboxes")?,
        (0, warn) => {
            writeln!(out, "\nsandboxes can be made; {warn} warnings for {planned} of them")?
        }
        (bad, _) => writeln!(out, "\nnot ready: {bad} to mend")?,
    }
    Ok(if bad == 0 { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

fn print(out: &mut impl Write, checks: &[Check]) -> std::io::Result<()> {
    for check in checks {
        let verdict = match check.verdict {
            Verdict::Good => "ok  ",
            Verdict::Warn => "warn",
            Verdict::Bad => "BAD ",
        };
        writeln!(out, "{verdict}  {}: {}", check.what, check.found)?;
        if let Some(mend) = &check.mend {
            writeln!(out, "      mend: {mend}")?;
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_check_is_a_line_with_what_mends_it_below() {
        let check = |verdict, mend: Option<&str>| Check {
            what: "overlayfs",
            verdict,
            found: "as it is".into(),
            mend: mend.map(str::to_owned),
        };
        let mut out = Vec::new();
        let checks = [check(Verdict::Good, None), check(Verdict::Bad, Some("modprobe overlay"))];
        print(&mut out, &checks).unwrap();
        let expected =
            "ok    overlayfs: as it is\nBAD   overlayfs: as it is\n      mend: modprobe overlay\n";
        assert_eq!(String::from_utf8(out).unwrap(), expected);
    }
}
