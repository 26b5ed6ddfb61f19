//! What `coppice doctor` says of the certificate.

use std::{
    fs,
    os::unix::fs::{MetadataExt, PermissionsExt},
    path::{Path, PathBuf},
};

use chrono::{DateTime, TimeDelta, Utc};
use rustls::{
    client::verify_server_name,
    pki_types::{CertificateDer, ServerName},
    server::ParsedCertificate,
};

use super::{Acme, Files, acme, validity::Validity};
use crate::backend::{Check, Verdict};

/// Before the end, but no more than a quarter of a certificate's time.
const SOON: TimeDelta = TimeDelta::days(21);

/// Whether the pair can be served, keeps its secret, covers the hosts of `domain`, and for how long.
pub fn check(files: &Files, domain: Option<&str>) -> Vec<Check> {
    let cert = files.cert.display();
    let pair = match files.load(&super::provider()) {
        Ok(pair) => pair,
        Err(error) => {
            return vec![Check {
                what: "TLS certificate",
                verdict: Verdict::Bad,
                found: error.to_string(),
                mend: Some("give --tls-cert and --tls-key a pair that belongs together".into()),
            }];
        }
    };
    let mut checks = vec![Check {
        what: "TLS certificate",
        verdict: Verdict::Good,
        found: format!("{cert} and its key"),
        mend: None,
    }];
    checks.extend(secrecy(files));
    if let Some(domain) = domain {
        checks.push(names(&pair.cert[0], domain));
    }
    let renew = "renew it; a running gateway takes the new files up by itself";
    checks.push(expiry(Validity::of(&pair.cert[0]), Utc::now(), renew));
    checks
}

/// Whether the authority can be asked, the program for the challenge be called, and what has come of
/// it so far.
pub fn check_acme(acme: &Acme) -> Vec<Check> {
    let settings = acme.settings();
    let mut checks = vec![hook(&settings.hook)];
    let (verdict, found, mend) = match acme::probe(settings) {
        Ok(()) => (Verdict::Good, format!("{} answers", settings.directory), None),
        Err(error) => {
            let mend = "check --acme-directory, --acme-ca, and the way there".to_owned();
            (Verdict::Bad, error.to_string(), Some(mend))
        }
    };
    checks.push(Check { what: "ACME authority", verdict, found, mend });
    if let Ok(said) = fs::read_to_string(acme.failure_file()) {
        checks.push(Check {
            what: "ACME, last time",
            verdict: Verdict::Bad,
            found: said.trim().to_owned(),
            mend: Some("mend that; SIGHUP has a running gateway try again at once".to_owned()),
        });
    }
    let files = acme.files();
    if let Err(error) = fs::metadata(&files.cert) {
        let none = error.kind() == std::io::ErrorKind::NotFound;
        checks.push(Check {
            what: "TLS certificate",
            verdict: if none { Verdict::Warn } else { Verdict::Bad },
            found: match none {
                true => "none yet".to_owned(),
                false => format!("{}: {error}", files.cert.display()),
            },
            mend: Some("serve gets one, and turns TLS away until it has".to_owned()),
        });
        return checks;
    }
    checks.extend(check(&files, Some(&settings.domain)));
    checks
}

fn hook(path: &Path) -> Check {
    let at = path.display();
    let (verdict, found, mend) = match fs::metadata(path) {
        Err(error) => {
            (Verdict::Bad, format!("{at}: {error}"), Some("check --acme-hook".to_owned()))
        }
        Ok(meta) => {
            let mode = meta.permissions().mode() & 0o7777;
            if !meta.is_file() || mode & 0o100 == 0 {
                let mend = format!("make it a program: chmod 700 {at}");
                (Verdict::Bad, format!("{at} cannot be started: mode {mode:o}"), Some(mend))
            } else if let Some((part, why)) = of_others(path) {
                let part = part.display();
                let found = format!("others may change {at}, which is run as root: {part} {why}");
                let mend = format!("chown root {part} && chmod go-w {part}, or keep it elsewhere");
                (Verdict::Bad, found, Some(mend))
            } else {
                (Verdict::Good, at.to_string(), None)
            }
        }
    };
    Check { what: "ACME hook", verdict, found, mend }
}

/// The part of the path, as it is given or where its links lead, by which another user than root and
/// ours could put something else there, and why.
fn of_others(path: &Path) -> Option<(PathBuf, String)> {
    let real = fs::canonicalize(path).ok()?;
    let ours = [0, nix::unistd::geteuid().as_raw()];
    path.ancestors().chain(real.ancestors()).find_map(|part| {
        let meta = fs::metadata(part).ok()?;
        let mode = meta.permissions().mode() & 0o7777;
        // In a sticky directory nobody replaces what is another's.
        let sticky = meta.is_dir() && mode & 0o1000 != 0;
        if !ours.contains(&meta.uid()) {
            Some((part.to_owned(), format!("belongs to user {}", meta.uid())))
        } else if mode & 0o022 != 0 && !sticky {
            Some((part.to_owned(), format!("has mode {mode:o}")))
        } else {
            None
        }
    })
}

/// `None` when nobody else can read the key.
fn secrecy(files: &Files) -> Option<Check> {
    let key = files.key.display();
    let mode = fs::metadata(&files.key).ok()?.permissions().mode() & 0o777;
    (mode & 0o007 != 0).then(|| Check {
        what: "TLS key",
        verdict: Verdict::Warn,
        found: format!("every user of this host can read or change {key}: mode {mode:o}"),
        mend: Some(format!("chmod 600 {key}")),
    })
}

fn names(cert: &CertificateDer<'_>, domain: &str) -> Check {
    let domain = domain.split_once(':').map_or(domain, |(name, _)| name);
    // The first label of a sandbox's host is as good as any.
    let hosts = [("api", "api"), ("*", "49983-0123456789abcdef0123456789abcdef")];
    let missing: Vec<_> = hosts
        .into_iter()
        .filter(|(_, label)| !covers(cert, format!("{label}.{domain}")))
        .map(|(shown, _)| format!("{shown}.{domain}"))
        .collect();
    let (verdict, found, mend) = if missing.is_empty() {
        (Verdict::Good, format!("api.{domain} and *.{domain}"), None)
    } else {
        let mend = format!("get a certificate for {domain} and *.{domain}");
        (Verdict::Bad, format!("the certificate is not for {}", missing.join(" and ")), Some(mend))
    };
    Check { what: "TLS names", verdict, found, mend }
}

/// Also every name that a sandbox may have.
pub(super) fn covers_all_below(cert: &CertificateDer<'_>, domain: &str) -> bool {
    covers(cert, domain.to_owned()) && covers(cert, format!("any.{domain}"))
}

fn covers(cert: &CertificateDer<'_>, host: String) -> bool {
    let (Ok(cert), Ok(host)) = (ParsedCertificate::try_from(cert), ServerName::try_from(host))
    else {
        return false;
    };
    verify_server_name(&cert, &host).is_ok()
}

fn expiry(of: Option<Validity>, now: DateTime<Utc>, renew: &str) -> Check {
    let day = |at: DateTime<Utc>| at.format("%Y-%m-%d").to_string();
    let (verdict, found) = match of {
        None => (Verdict::Warn, "cannot tell until when the certificate is good".to_owned()),
        Some(Validity { not_before, not_after: until }) => {
            let soon = SOON.min((until - not_before) / 4);
            if until <= now {
                (Verdict::Bad, format!("expired on {}", day(until)))
            } else if until <= now + soon {
                (Verdict::Warn, format!("only until {}", day(until)))
            } else {
                (Verdict::Good, format!("until {}", day(until)))
            }
        }
    };
    let mend = (verdict != Verdict::Good).then(|| renew.to_owned());
    Check { what: "TLS validity", verdict, found, mend }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::tls::Authority;

    #[test]
    fn a_pair_of_the_domain_is_good_and_one_of_another_is_not() {
        let dir = tempfile::tempdir().unwrap();
        let files = Authority::of(dir.path(), "sbx.test").unwrap().issue().unwrap().files;
        let verdicts = |domain| {
            check(&files, domain).iter().map(|one| (one.what, one.verdict)).collect::<Vec<_>>()
        };
        let (pair, validity) =
            (("TLS certificate", Verdict::Good), ("TLS validity", Verdict::Good));
        assert_eq!(verdicts(None), [pair, validity]);
        for ours in ["sbx.test", "sbx.test:8443"] {
            assert_eq!(verdicts(Some(ours)), [pair, ("TLS names", Verdict::Good), validity]);
        }
        for foreign in ["other.test", "deep.sbx.test", "test"] {
            assert_eq!(verdicts(Some(foreign)), [pair, ("TLS names", Verdict::Bad), validity]);
        }

        fs::set_permissions(&files.key, fs::Permissions::from_mode(0o644)).unwrap();
        assert!(verdicts(None).contains(&("TLS key", Verdict::Warn)));
        fs::write(&files.cert, "").unwrap();
        assert_eq!(verdicts(None), [("TLS certificate", Verdict::Bad)]);
    }

    #[test]
    fn a_certificate_is_to_be_renewed_before_it_ends() {
        let now = Utc::now();
        for (whole, left, verdict) in [
            (90, -1, Verdict::Bad),
            (90, 1, Verdict::Warn),
            (90, 20, Verdict::Warn),
            (90, 22, Verdict::Good),
            (6, 1, Verdict::Warn),
            (6, 2, Verdict::Good),
        ] {
            let not_after = now + TimeDelta::days(left);
            let validity = Validity { not_before: not_after - TimeDelta::days(whole), not_after };
            let check = expiry(Some(validity), now, "renew it");
            assert_eq!((check.verdict, check.mend.is_some()), (verdict, verdict != Verdict::Good));
        }
        assert_eq!(expiry(None, now, "renew it").verdict, Verdict::Warn);
    }

    #[test]
    fn a_program_that_others_may_change_or_nobody_start_is_no_hook() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("hook");
        assert_eq!(hook(&path).verdict, Verdict::Bad);
        fs::write(&path, "#!/bin/sh\n").unwrap();
        for (mode, verdict) in [
            (0o644, Verdict::Bad),
            (0o755, Verdict::Good),
            (0o700, Verdict::Good),
            (0o775, Verdict::Bad),
            (0o757, Verdict::Bad),
        ] {
            fs::set_permissions(&path, fs::Permissions::from_mode(mode)).unwrap();
            assert_eq!(hook(&path).verdict, verdict, "{mode:o}");
        }

        fs::set_permissions(&path, fs::Permissions::from_mode(0o755)).unwrap();
        let elsewhere = tempfile::tempdir().unwrap();
        let link = elsewhere.path().join("link");
        std::os::unix::fs::symlink(&path, &link).unwrap();
        for (mode, verdict) in
            [(0o755, Verdict::Good), (0o775, Verdict::Bad), (0o1777, Verdict::Good)]
        {
            fs::set_permissions(dir.path(), fs::Permissions::from_mode(mode)).unwrap();
            for path in [&path, &link] {
                assert_eq!(hook(path).verdict, verdict, "{} {mode:o}", path.display());
            }
        }
        // Another's, where the tests may make it so.
        if nix::unistd::geteuid().is_root() {
            for part in [path.as_path(), dir.path()] {
                std::os::unix::fs::chown(part, Some(12345), None).unwrap();
                let found = hook(&link);
                assert_eq!(found.verdict, Verdict::Bad);
                assert!(found.found.contains("belongs to user 12345"), "{}", found.found);
                std::os::unix::fs::chown(part, Some(0), None).unwrap();
            }
            assert_eq!(hook(&link).verdict, Verdict::Good);
        }
    }
}
