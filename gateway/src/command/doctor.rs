//! `coppice doctor`: can this host make sandboxes, and how many?

use std::{
    io::Write,
    path::{self, Path},
    process::ExitCode,
};

use anyhow::Context;
use coppice::{
    backend::{Backend, Check, Verdict, disk_free, files_free},
    config::{self, Certificate, Flags},
    limits::{Bounds, Limit},
    template::{self, Recipe},
    tls::{self, Acme},
};

/// Free on the data directory's file system (bytes): the base template takes half of it while it is
/// built, and all that sandboxes write goes there.
const ROOM: u64 = 2 << 30;
/// More files than that are to be had there: each that a sandbox makes or copies is one.
const FILES: u64 = 200_000;

pub(crate) fn run(flags: Flags) -> anyhow::Result<ExitCode> {
    let config = config::load(flags)?;
    super::log(&config);
    // Nothing is made: where the data directory is not there yet, its parent tells as much.
    let planned = path::absolute(&config.data_dir).context("data-dir")?;
    let data_dir = planned.ancestors().find(|dir| dir.is_dir()).unwrap_or(&planned);
    let host = super::host(&config, data_dir)?;
    let mut checks = host.probe(config.max_sandboxes);
    checks.push(room(data_dir, ROOM));
    checks.push(quota(host.enforces(Limit::Disk), config.sandbox_disk));
    checks.push(limits(&config.limits, |limit| host.enforces(limit)));
    checks.push(base(&config.data_dir, Recipe::Base.is_built_from_a_source()));
    checks.extend(config.tls.iter().flat_map(|tls| match &tls.certificate {
        Certificate::Files(files) => tls::check(files, config.domain.as_deref()),
        Certificate::Acme(acme) => tls::check_acme(&Acme::new(acme.clone(), &config.data_dir)),
    }));
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

fn room(data_dir: &Path, enough: u64) -> Check {
    let at = data_dir.display();
    let (verdict, found) = match disk_free(data_dir) {
        Err(error) => (Verdict::Warn, format!("{at}: {error}")),
        Ok(free) => {
            let files = files_free(data_dir).ok().flatten();
            // As few as a template and some sandboxes have.
            let few = files.is_some_and(|(files, _)| files < FILES);
            let verdict = if free < enough || few { Verdict::Warn } else { Verdict::Good };
            let files = files.map(|(files, _)| format!(" and room for {files} files"));
            (verdict, format!("{} MiB free{} at {at}", free >> 20, files.unwrap_or_default()))
        }
    };
    let mend = format!(
        "free {} MiB and {FILES} files there, or give a --data-dir with more room",
        enough >> 20
    );
    Check { what: "room", verdict, found, mend: (verdict != Verdict::Good).then_some(mend) }
}

/// Whether one sandbox can take the disk of all, and how exactly what it takes is known.
fn quota(bounds: bool, wanted: Option<u64>) -> Check {
    let found = match (bounds, wanted) {
        (true, None) => "there is one; --sandbox-disk bounds what a sandbox writes".to_owned(),
        (true, Some(bytes)) => format!("{} MiB to a sandbox, counted as it writes", bytes >> 20),
        (false, None) => "none here: sizes are measured in the background, now and then".to_owned(),
        (false, Some(_)) => "none here: --sandbox-disk is not enforced".to_owned(),
    };
    let lacks = !bounds && wanted.is_some();
    Check {
        what: "disk quota",
        verdict: if lacks { Verdict::Warn } else { Verdict::Good },
        found,
        mend: lacks.then(|| "put the data-dir on btrfs or ZFS".to_owned()),
    }
}

/// Which of them can be had here, and which of those that are asked for cannot.
fn limits(wanted: &Bounds, enforces: impl Fn(Limit) -> bool) -> Check {
    let listed = |all: Vec<Limit>| all.into_iter().map(Limit::name).collect::<Vec<_>>().join(", ");
    let missing: Vec<Limit> = Limit::ALL.into_iter().filter(|it| !enforces(*it)).collect();
    let lacks: Vec<Limit> = wanted.said().filter(|it| missing.contains(it)).collect();
    let found = match missing.is_empty() {
        true => "each can be enforced".to_owned(),
        false => format!("nothing here enforces {}", listed(missing)),
    };
    let mend = (!lacks.is_empty())
        .then(|| format!("take {} out of --limits, or see docs/limits.md", listed(lacks)));
    let verdict = if mend.is_some() { Verdict::Warn } else { Verdict::Good };
    Check { what: "limits", verdict, found, mend }
}

/// The template without which nothing can be made.
fn base(data_dir: &Path, needs_source: bool) -> Check {
    let what = "template base";
    let (verdict, found, mend) = match (template::is_there(data_dir, template::BASE), needs_source)
    {
        (true, _) => (Verdict::Good, "there", None),
        (false, false) => (Verdict::Good, "not there; serve builds it", None),
        (false, true) => (Verdict::Bad, "not there", Some(template::HOW_TO_MAKE_BASE.to_owned())),
    };
    Check { what, verdict, found: found.to_owned(), mend }
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

    #[test]
    fn a_limit_that_is_asked_for_and_not_to_be_had_is_warned_of() {
        let enforces = |limit| limit != Limit::NetOut;
        let said = |text: &str| limits(&Bounds::parse(text).unwrap(), enforces);
        assert_eq!(said("memory=5").verdict, Verdict::Good);
        let lacks = said("memory=5,net-out=100");
        assert_eq!(
            (lacks.verdict, lacks.found.as_str()),
            (Verdict::Warn, "nothing here enforces net-out")
        );
        assert!(lacks.mend.unwrap().starts_with("take net-out out of --limits"));
    }

    #[test]
    fn a_base_that_nobody_builds_is_asked_for() {
        let data = tempfile::tempdir().unwrap();
        assert_eq!(base(data.path(), false).verdict, Verdict::Good);
        let missing = base(data.path(), true);
        assert_eq!(missing.verdict, Verdict::Bad);
        assert!(missing.mend.unwrap().contains("coppice template build base --from base.txz"));
        std::fs::create_dir(data.path().join("templates")).unwrap();
        std::fs::write(data.path().join("templates/base.json"), "{}").unwrap();
        assert_eq!(base(data.path(), true).verdict, Verdict::Good);
    }

    #[test]
    fn little_room_is_warned_of_with_how_much_there_should_be() {
        let here = Path::new("/");
        let good = room(here, 0);
        assert_eq!((good.verdict, good.mend), (Verdict::Good, None));
        let short = room(here, u64::MAX);
        assert_eq!(short.verdict, Verdict::Warn);
        assert!(short.found.ends_with(" at /"), "{}", short.found);
        assert!(short.mend.unwrap().starts_with("free 17592186044415 MiB and 200000 files there"));
        assert_eq!(room(Path::new("/not/there"), 0).verdict, Verdict::Warn);
    }
}
