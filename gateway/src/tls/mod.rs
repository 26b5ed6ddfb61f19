//! Certificates: the pair that is served and taken up anew when its files change, where it comes
//! from if not from the operator (an authority that speaks ACME, or a private one for development),
//! and what `coppice doctor` says of it.
//!
//! Handshakes are for [`crate::serve`]. The cryptography is ring's, named wherever it is needed:
//! there is no provider of the process.

mod acme;
mod authority;
mod certificates;
mod check;
mod validity;

use std::{
    fs::{self, OpenOptions},
    io::{self, Write},
    os::unix::fs::OpenOptionsExt,
    path::{Path, PathBuf},
    sync::Arc,
};

use rustls::{
    CertificateError, InconsistentKeys,
    crypto::{CryptoProvider, ring},
    pki_types::{CertificateDer, PrivateKeyDer, pem, pem::PemObject},
    sign::CertifiedKey,
};

pub use acme::{Acme, Settings as AcmeSettings};
pub use authority::{Authority, Made};
pub use certificates::Certificates;
pub use check::{check, check_acme};

/// The mode of a file that only its owner may read.
const SECRET: u32 = 0o600;

/// Where a certificate and its key are, both in PEM.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Files {
    /// The server's own certificate first, then those between it and what clients trust.
    pub cert: PathBuf,
    pub key: PathBuf,
}

#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error("cannot read {}: {source}", path.display())]
    Read { path: PathBuf, source: io::Error },
    #[error("cannot write {}: {source}", path.display())]
    Write { path: PathBuf, source: io::Error },
    #[error("no certificate in PEM in {}: {source}", path.display())]
    Certificate { path: PathBuf, source: pem::Error },
    #[error("no private key in PEM in {}: {source}", path.display())]
    Key { path: PathBuf, source: pem::Error },
    #[error("the key in {} is not that of the certificate in {}", key.display(), cert.display())]
    Mismatch { cert: PathBuf, key: PathBuf },
    #[error("cannot serve the certificate in {}: {source}", path.display())]
    Unusable { path: PathBuf, source: rustls::Error },
    #[error("cannot make a certificate: {0}")]
    Make(#[from] rcgen::Error),
    #[error(
        "the authority in {0} cannot vouch for {domain}: {source}; it may have expired, be another \
         domain's, or not go with its key: remove {0}/ca.pem and {0}/ca-key.pem to make a new one, \
         which clients then have to be given",
        dir.display()
    )]
    Authority { dir: PathBuf, domain: String, source: rustls::Error },
}

pub(crate) fn provider() -> Arc<CryptoProvider> {
    Arc::new(ring::default_provider())
}

impl Files {
    /// Reads the pair and checks that it is one.
    fn load(&self, provider: &CryptoProvider) -> Result<CertifiedKey, Error> {
        let chain = certificates_in(&self.cert)?;
        let key = PrivateKeyDer::from_pem_slice(&read(&self.key)?)
            .map_err(|source| Error::Key { path: self.key.clone(), source })?;
        CertifiedKey::from_der(chain, key, provider).map_err(|source| match source {
            rustls::Error::InconsistentKeys(InconsistentKeys::KeyMismatch) => {
                Error::Mismatch { cert: self.cert.clone(), key: self.key.clone() }
            }
            source => Error::Unusable { path: self.cert.clone(), source },
        })
    }
}

/// All there are; at least one.
pub(crate) fn certificates_in(path: &Path) -> Result<Vec<CertificateDer<'static>>, Error> {
    let text = read(path)?;
    let found: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(&text).collect();
    let found = found.and_then(|found| match found.is_empty() {
        true => Err(pem::Error::NoItemsFound),
        false => Ok(found),
    });
    found.map_err(|source| Error::Certificate { path: path.to_owned(), source })
}

fn read(path: &Path) -> Result<Vec<u8>, Error> {
    std::fs::read(path).map_err(|source| Error::Read { path: path.to_owned(), source })
}

/// By rename: whoever reads the file meanwhile has the old or the new one.
fn write(path: &Path, mode: u32, text: &str) -> Result<(), Error> {
    let next = path.with_extension("new");
    let written = || {
        match fs::remove_file(&next) {
            Err(error) if error.kind() != std::io::ErrorKind::NotFound => return Err(error),
            _ => {}
        }
        let mut file = OpenOptions::new().write(true).create_new(true).mode(mode).open(&next)?;
        file.write_all(text.as_bytes())?;
        file.sync_all()?;
        fs::rename(&next, path)
    };
    written().map_err(|source| Error::Write { path: path.to_owned(), source })
}

/// What a client would say of a name that is none.
fn bad_name() -> rustls::Error {
    rustls::Error::InvalidCertificate(CertificateError::NotValidForName)
}
