//! What `coppice doctor` says of the certificate.

use std::{fs, os::unix::fs::PermissionsExt};

use chrono::{DateTime, TimeDelta, Utc};
use rustls::{
    client::verify_server_name,
    pki_types::{CertificateDer, ServerName},
    server::ParsedCertificate,
};

use super::{Files, validity::not_after};
use crate::backend::{Check, Verdict};

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
    checks.push(expiry(not_after(&pair.cert[0]), Utc::now()));
    checks
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

fn covers(cert: &CertificateDer<'_>, host: String) -> bool {
    let (Ok(cert), Ok(host)) = (ParsedCertificate::try_from(cert), ServerName::try_from(host))
    else {
        return false;
    };
    verify_server_name(&cert, &host).is_ok()
}

fn expiry(until: Option<DateTime<Utc>>, now: DateTime<Utc>) -> Check {
    let day = |at: DateTime<Utc>| at.format("%Y-%m-%d").to_string();
    let (verdict, found) = match until {
        None => (Verdict::Warn, "cannot tell until when the certificate is good".to_owned()),
        Some(until) if until <= now => (Verdict::Bad, format!("expired on {}", day(until))),
        Some(until) if until <= now + SOON => (Verdict::Warn, format!("only until {}", day(until))),
        Some(until) => (Verdict::Good, format!("until {}", day(until))),
    };
    let renew = "renew it; a running gateway takes the new files up by itself";
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
        for (days, verdict) in
            [(-1, Verdict::Bad), (1, Verdict::Warn), (20, Verdict::Warn), (22, Verdict::Good)]
        {
            let check = expiry(Some(now + TimeDelta::days(days)), now);
            assert_eq!((check.verdict, check.mend.is_some()), (verdict, verdict != Verdict::Good));
        }
        assert_eq!(expiry(None, now).verdict, Verdict::Warn);
    }
}
