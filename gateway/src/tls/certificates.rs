//! The certificate that is served now.

use std::{
    fs,
    os::unix::fs::MetadataExt,
    sync::Arc,
    time::{Duration, SystemTime},
};

use futures_util::{Stream, StreamExt};
use parking_lot::RwLock;
use rustls::{
    ServerConfig,
    crypto::CryptoProvider,
    server::{ClientHello, ResolvesServerCert},
    sign::CertifiedKey,
};
use tokio::time::sleep;

use super::{Error, Files};

/// Offered in this order.
const PROTOCOLS: [&[u8]; 2] = [b"h2", b"http/1.1"];

/// A pair of files, and what was in them when they last made sense.
#[derive(Debug)]
pub struct Certificates {
    files: Files,
    provider: Arc<CryptoProvider>,
    /// Of what was read first.
    opened: Stamp,
    current: RwLock<Arc<CertifiedKey>>,
}

/// What tells one content of both files from another without reading them.
type Stamp = [Option<(SystemTime, u64, u64)>; 2];

impl Certificates {
    /// # Errors
    /// The files cannot be read or are not a certificate and its key.
    pub fn open(files: Files) -> Result<Arc<Self>, Error> {
        let provider = super::provider();
        let opened = stamp(&files);
        let current = RwLock::new(Arc::new(files.load(&provider)?));
        Ok(Arc::new(Self { files, provider, opened, current }))
    }

    /// How to shake hands with clients, each with the certificate of that moment.
    ///
    /// # Errors
    /// None that a build with ring would have.
    pub fn server(self: &Arc<Self>) -> Result<Arc<ServerConfig>, Error> {
        let mut server = ServerConfig::builder_with_provider(self.provider.clone())
            .with_safe_default_protocol_versions()
            .map_err(|source| Error::Unusable { path: self.files.cert.clone(), source })?
            .with_no_client_auth()
            .with_cert_resolver(self.clone());
        server.alpn_protocols = PROTOCOLS.map(<[u8]>::to_vec).into();
        Ok(Arc::new(server))
    }

    /// Takes up what is in the files now; what cannot be served leaves the old pair in place.
    /// Connections that are open go on with what they began with.
    pub fn reload(&self) {
        match self.files.load(&self.provider) {
            Ok(new) => {
                *self.current.write() = Arc::new(new);
                tracing::info!(cert = %self.files.cert.display(), "certificate taken up");
            }
            Err(error) => tracing::error!(%error, "the certificate stays as it was"),
        }
    }

    /// Reloads when `asked` and, looking at the files `every` so often, when they have changed and
    /// stayed as they are for one look: they are two, and never written at once.
    pub async fn follow(&self, every: Duration, mut asked: impl Stream<Item = ()> + Unpin) {
        let mut taken = self.opened;
        let mut before = taken;
        loop {
            let told = tokio::select! {
                Some(()) = asked.next() => true,
                () = sleep(every) => false,
            };
            let now = stamp(&self.files);
            if told || (now != taken && now == before) {
                taken = now;
                self.reload();
            }
            before = now;
        }
    }
}

fn stamp(files: &Files) -> Stamp {
    [&files.cert, &files.key].map(|path| {
        let about = fs::metadata(path).ok()?;
        Some((about.modified().ok()?, about.len(), about.ino()))
    })
}

impl ResolvesServerCert for Certificates {
    /// Whatever the name: which names are served is for who reads the request to say.
    fn resolve(&self, _: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        Some(self.current.read().clone())
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use futures_util::stream;
    use tokio::sync::mpsc;

    use super::*;
    use crate::tls::Authority;

    fn served(certificates: &Certificates) -> Vec<u8> {
        certificates.current.read().cert[0].to_vec()
    }

    async fn until(what: impl Fn() -> bool) {
        let reached = async {
            while !what() {
                sleep(Duration::from_millis(5)).await;
            }
        };
        tokio::time::timeout(Duration::from_secs(10), reached).await.expect("so in time");
    }

    #[test]
    fn what_is_no_pair_is_refused_with_its_file() {
        let dir = tempfile::tempdir().unwrap();
        let made = Authority::of(&dir.path().join("one"), "a.test").unwrap().issue().unwrap();
        let other = Authority::of(&dir.path().join("two"), "a.test").unwrap().issue().unwrap();
        let (cert, key) = (made.files.cert, made.files.key);
        let nothing = dir.path().join("nothing");
        fs::write(&nothing, "-").unwrap();
        for (files, said) in [
            (Files { cert: cert.clone(), key: other.files.key }, "is not that of the certificate"),
            (Files { cert: nothing.clone(), key: key.clone() }, "no certificate in PEM"),
            (Files { cert: key.clone(), key: key.clone() }, "no certificate in PEM"),
            (Files { cert: cert.clone(), key: cert.clone() }, "no private key in PEM"),
            (Files { cert: cert.clone(), key: nothing }, "no private key in PEM"),
            (Files { cert, key: "/no/such/key".into() }, "cannot read /no/such/key"),
        ] {
            let error = Certificates::open(files).unwrap_err().to_string();
            assert!(error.contains(said), "{error}");
        }
        assert!(Certificates::open(Files { cert: made.ca, key }).is_err());
    }

    #[tokio::test]
    async fn a_new_pair_is_taken_up_when_asked_and_when_the_files_change() {
        let dir = tempfile::tempdir().unwrap();
        let authority = Authority::of(dir.path(), "a.test").unwrap();
        let (ask, mut asked) = mpsc::channel::<()>(1);
        let (slow, quick) = (Duration::from_secs(3600), Duration::from_millis(20));
        for every in [slow, quick] {
            let certificates = Certificates::open(authority.issue().unwrap().files).unwrap();
            let first = served(&certificates);
            authority.issue().unwrap();
            let followed = certificates.follow(every, stream::poll_fn(|cx| asked.poll_recv(cx)));
            let changed = async {
                if every == slow {
                    ask.send(()).await.unwrap();
                }
                until(|| served(&certificates) != first).await;
            };
            tokio::select! {
                () = followed => unreachable!("it goes on for ever"),
                () = changed => {}
            }
        }
    }

    #[test]
    fn a_broken_new_pair_leaves_the_old_one() {
        let dir = tempfile::tempdir().unwrap();
        let authority = Authority::of(dir.path(), "a.test").unwrap();
        let files = authority.issue().unwrap().files;
        let certificates = Certificates::open(files.clone()).unwrap();
        let first = served(&certificates);
        fs::write(&files.cert, "-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n")
            .unwrap();
        certificates.reload();
        fs::remove_file(&files.key).unwrap();
        certificates.reload();
        assert_eq!(served(&certificates), first);
        authority.issue().unwrap();
        certificates.reload();
        assert_ne!(served(&certificates), first);
    }
}
