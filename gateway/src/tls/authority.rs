//! A private certificate authority for development, in a directory of its own.
//!
//! It can vouch for names below one domain only, so that clients who trust it trust it with nothing
//! else. It is kept from one call to the next; the certificate it issues is new every time.

use std::{
    fs,
    path::{Path, PathBuf},
    sync::Arc,
    time::{Duration, SystemTime},
};

use rcgen::{
    BasicConstraints, CertificateParams, DnType, ExtendedKeyUsagePurpose, GeneralSubtree, IsCa,
    Issuer, KeyPair, KeyUsagePurpose, NameConstraints,
};
use rustls::{
    RootCertStore,
    client::{WebPkiServerVerifier, danger::ServerCertVerifier},
    pki_types::{CertificateDer, ServerName, UnixTime},
};

use super::{Error, Files, SECRET, write};

const DAY: Duration = Duration::from_secs(24 * 3600);
const AUTHORITY_LIVES: u32 = 3650;
/// Some clients refuse certificates that are good for more than 398 days.
const CERTIFICATE_LIVES: u32 = 397;
/// A client's clock may be behind.
const BACKDATED: Duration = DAY;

const READABLE: u32 = 0o644;

pub struct Authority {
    dir: PathBuf,
    domain: String,
    issuer: Issuer<'static, KeyPair>,
    /// Whether it was made just now, so that no client can know it yet.
    pub new: bool,
}

/// What a directory holds after [`Authority::issue`].
#[derive(Debug)]
pub struct Made {
    pub files: Files,
    /// What clients are to trust.
    pub ca: PathBuf,
}

impl Authority {
    /// The authority in `dir` for `domain`, made where there is none.
    ///
    /// # Errors
    /// Files that cannot be read or written, or are no key.
    pub fn of(dir: &Path, domain: &str) -> Result<Self, Error> {
        fs::create_dir_all(dir).map_err(|source| Error::Write { path: dir.to_owned(), source })?;
        let (ca, key_file) = (dir.join("ca.pem"), dir.join("ca-key.pem"));
        let params = params(domain)?;
        let new = !ca.exists() || !key_file.exists();
        let key = if new {
            let key = KeyPair::generate()?;
            write(&key_file, SECRET, &key.serialize_pem())?;
            write(&ca, READABLE, &params.self_signed(&key)?.pem())?;
            key
        } else {
            let text = fs::read_to_string(&key_file)
                .map_err(|source| Error::Read { path: key_file, source })?;
            KeyPair::from_pem(&text)?
        };
        let issuer = Issuer::new(params, key);
        Ok(Self { dir: dir.to_owned(), domain: domain.to_owned(), issuer, new })
    }

    /// A certificate for the domain and all names one label below it.
    ///
    /// # Errors
    /// Files that cannot be written; an authority whose word for the domain clients would not take.
    pub fn issue(&self) -> Result<Made, Error> {
        let domain = &self.domain;
        let key = KeyPair::generate()?;
        let mut params = CertificateParams::new(vec![domain.clone(), format!("*.{domain}")])?;
        params.distinguished_name.push(DnType::CommonName, domain.as_str());
        params.use_authority_key_identifier_extension = true;
        params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
        params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth];
        live(&mut params, CERTIFICATE_LIVES);
        let cert = params.signed_by(&key, &self.issuer)?;
        let ca = self.dir.join("ca.pem");
        self.verify(&ca, cert.der())?;

        let files = Files { cert: self.dir.join("cert.pem"), key: self.dir.join("key.pem") };
        write(&files.key, SECRET, &key.serialize_pem())?;
        write(&files.cert, READABLE, &cert.pem())?;
        Ok(Made { files, ca })
    }

    /// Whether a client that trusts the authority's certificate, which may be an older call's, takes
    /// the one issued.
    fn verify(&self, ca: &Path, cert: &CertificateDer<'_>) -> Result<(), Error> {
        let refused = |source| Error::Authority {
            dir: self.dir.clone(),
            domain: self.domain.clone(),
            source,
        };
        let mut roots = RootCertStore::empty();
        for trusted in super::certificates_in(ca)? {
            roots.add(trusted).map_err(refused)?;
        }
        let verifier =
            WebPkiServerVerifier::builder_with_provider(Arc::new(roots), super::provider())
                .build()
                .map_err(|error| refused(rustls::Error::General(error.to_string())))?;
        for name in [format!("api.{}", self.domain), self.domain.clone()] {
            let name = ServerName::try_from(name).map_err(|_| refused(super::bad_name()))?;
            verifier.verify_server_cert(cert, &[], &name, &[], UnixTime::now()).map_err(refused)?;
        }
        Ok(())
    }
}

/// The same for the same domain, as the issuer's name in a certificate must be that in the
/// authority's own.
fn params(domain: &str) -> Result<CertificateParams, Error> {
    let mut params = CertificateParams::new(Vec::new())?;
    params.distinguished_name.push(DnType::CommonName, format!("Coppice development, {domain}"));
    params.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
    params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
    params.name_constraints = Some(NameConstraints {
        permitted_subtrees: vec![GeneralSubtree::DnsName(domain.to_owned())],
        excluded_subtrees: Vec::new(),
    });
    live(&mut params, AUTHORITY_LIVES);
    Ok(params)
}

fn live(params: &mut CertificateParams, days: u32) {
    let now = SystemTime::now();
    params.not_before = (now - BACKDATED).into();
    params.not_after = (now + DAY * days).into();
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use super::*;

    fn mode(path: &Path) -> u32 {
        fs::metadata(path).unwrap().permissions().mode() & 0o777
    }

    #[test]
    fn the_authority_stays_and_the_certificate_is_new() {
        let dir = tempfile::tempdir().unwrap();
        let place = dir.path().join("deep/er");
        let first = Authority::of(&place, "sbx.example.test").unwrap();
        let made = first.issue().unwrap();
        let read = |path: &Path| fs::read(path).unwrap();
        let (ca, cert) = (read(&made.ca), read(&made.files.cert));
        let second = Authority::of(&place, "sbx.example.test").unwrap();
        let again = second.issue().unwrap();
        assert!(first.new && !second.new);
        assert_eq!(read(&again.ca), ca);
        assert_ne!(read(&again.files.cert), cert);
        for secret in [&made.files.key, &place.join("ca-key.pem")] {
            assert_eq!(mode(secret), SECRET);
        }
        assert_eq!(fs::read_dir(&place).unwrap().count(), 4);
    }

    #[test]
    fn an_authority_vouches_for_no_other_domain() {
        let dir = tempfile::tempdir().unwrap();
        let made = Authority::of(dir.path(), "a.test").unwrap().issue().unwrap();
        let before = fs::read(&made.files.cert).unwrap();
        let error = Authority::of(dir.path(), "b.test").unwrap().issue().unwrap_err().to_string();
        assert!(
            error.contains("cannot vouch for b.test") && error.contains("ca-key.pem"),
            "{error}"
        );
        assert_eq!(fs::read(&made.files.cert).unwrap(), before);
    }

    #[test]
    fn a_key_of_another_authority_is_found_out() {
        let dir = tempfile::tempdir().unwrap();
        let (one, two) = (dir.path().join("1"), dir.path().join("2"));
        for place in [&one, &two] {
            Authority::of(place, "a.test").unwrap();
        }
        fs::copy(two.join("ca-key.pem"), one.join("ca-key.pem")).unwrap();
        let error = Authority::of(&one, "a.test").unwrap().issue().unwrap_err();
        assert!(matches!(error, Error::Authority { .. }), "{error}");
    }
}
