//! The certificate that is served now.

use std::{
    sync::{
        Arc,
        atomic::{AtomicI64, Ordering},
    },
    time::Duration,
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

use super::{Error, Files, validity::Validity};
use crate::stamp::Stamp;

/// Offered in this order.
const PROTOCOLS: [&[u8]; 2] = [b"h2", b"http/1.1"];

/// A pair of files, and what was in them when they last made sense.
#[derive(Debug)]
pub struct Certificates {
    files: Files,
    provider: Arc<CryptoProvider>,
    /// Of what was read first.
    opened: Stamps,
    /// `None`: there has been none yet, and whoever wants TLS is turned away.
    current: RwLock<Option<Arc<CertifiedKey>>>,
    until: Arc<AtomicI64>,
}

type Stamps = [Option<Stamp>; 2];

impl Certificates {
    /// # Errors
    /// The files cannot be read or are not a certificate and its key.
    pub fn open(files: Files) -> Result<Arc<Self>, Error> {
        let certificates = Self::unread(files);
        certificates.serve(certificates.files.load(&certificates.provider)?);
        Ok(Arc::new(certificates))
    }

    /// Where the files are somebody's to make who has maybe not done so yet.
    pub fn expect(files: Files) -> Arc<Self> {
        let certificates = Self::unread(files);
        match certificates.files.load(&certificates.provider) {
            Ok(pair) => certificates.serve(pair),
            Err(error) => tracing::warn!(%error, "until there is a certificate, TLS is refused"),
        }
        Arc::new(certificates)
    }

    fn unread(files: Files) -> Self {
        let (provider, opened) = (super::provider(), stamps(&files));
        Self { files, provider, opened, current: RwLock::default(), until: Arc::default() }
    }

    fn serve(&self, pair: CertifiedKey) {
        let until = Validity::of(&pair.cert[0]).map_or(0, |it| it.not_after.timestamp());
        self.until.store(until, Ordering::Relaxed);
        *self.current.write() = Some(Arc::new(pair));
    }

    /// The end of what is served, in seconds since the epoch, as it changes; 0 where there is none.
    pub fn until(&self) -> Arc<AtomicI64> {
        self.until.clone()
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
                self.serve(new);
                tracing::info!(cert = %self.files.cert.display(), "certificate taken up");
            }
            Err(error) if self.current.read().is_none() => {
                tracing::warn!(%error, "there is no certificate yet");
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
            let now = stamps(&self.files);
            if told || (now != taken && now == before) {
                taken = now;
                self.reload();
            }
            before = now;
        }
    }
}

fn stamps(files: &Files) -> Stamps {
    [&files.cert, &files.key].map(|path| Stamp::of(path))
}

impl ResolvesServerCert for Certificates {
    /// Whatever the name: which names are served is for who reads the request to say.
    fn resolve(&self, _: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        self.current.read().clone()
    }
}

#[cfg(test)]
mod tests {
    use std::{fs, time::Duration};

    use futures_util::stream;
    use tokio::sync::mpsc;

    use super::*;
    use crate::tls::Authority;

    fn served(certificates: &Certificates) -> Vec<u8> {
        certificates.current.read().as_ref().map(|pair| pair.cert[0].to_vec()).unwrap_or_default()
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

    #[tokio::test]
    async fn one_that_is_still_to_come_is_taken_up_when_it_does() {
        let dir = tempfile::tempdir().unwrap();
        let authority = Authority::of(dir.path(), "a.test").unwrap();
        let files = Files { cert: dir.path().join("cert.pem"), key: dir.path().join("key.pem") };
        let certificates = Certificates::expect(files);
        assert!(served(&certificates).is_empty());
        let until = certificates.until();
        assert_eq!(until.load(Ordering::Relaxed), 0);
        authority.issue().unwrap();
        tokio::select! {
            () = certificates.follow(Duration::from_millis(20), stream::pending()) => unreachable!(),
            () = until_served(&certificates) => {}
        }
        let left = until.load(Ordering::Relaxed) - chrono::Utc::now().timestamp();
        assert!((300 * 86_400..400 * 86_400).contains(&left), "{left}");
    }

    async fn until_served(certificates: &Certificates) {
        until(|| !served(certificates).is_empty()).await;
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
