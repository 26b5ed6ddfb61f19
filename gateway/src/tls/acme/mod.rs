//! Certificates for a domain and all names below it from an authority that speaks ACME (RFC 8555):
//! got, kept and renewed without anybody waiting for them.
//!
//! Wildcards are given for the DNS challenge only, and how records are set is every provider's own:
//! that is for a program of the operator's, the [`Hook`]. Certificate and key are one file, which is
//! replaced as one; whoever serves it ([`super::Certificates`]) sees it change.

mod hook;
mod order;
mod web;

use std::{
    fs::{self, DirBuilder},
    io,
    os::unix::fs::DirBuilderExt,
    path::{Path, PathBuf},
    sync::Arc,
    time::{Duration, SystemTime},
};

use chrono::{DateTime, Utc};
use futures_util::{Stream, StreamExt};
use tokio::time::{Instant, sleep, timeout};

use super::{Files, validity::Validity};
use crate::metrics::Metrics;
use hook::Hook;

/// What an operator says of it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Settings {
    /// The URL that the authority is found by.
    pub directory: String,
    /// Without a port.
    pub domain: String,
    /// Told to the authority: an address for mail.
    pub contact: Option<String>,
    /// Called as `HOOK present NAME VALUE` and `HOOK cleanup NAME VALUE`.
    pub hook: PathBuf,
    /// Whom to trust as the authority's server; `None`: whom this system does.
    pub ca: Option<PathBuf>,
}

#[derive(Debug, thiserror::Error)]
pub(super) enum Error {
    #[error("{doing} {}: {source}", path.display())]
    Io { doing: &'static str, path: PathBuf, source: io::Error },
    #[error("{0}")]
    Tls(#[from] super::Error),
    #[error("the system has no certificates to trust the authority's server by; give --acme-ca")]
    NoRoots,
    #[error("{doing}: {source}")]
    Authority { doing: &'static str, source: instant_acme::Error },
    #[error(
        "the authority does not know the account (any more): {source}; remove {} to open another",
        file.display()
    )]
    NoAccount { file: PathBuf, source: instant_acme::Error },
    #[error("the authority takes no proof of {0} by DNS")]
    NoDns(String),
    #[error("the authority does not believe that {domain} is ours: {said}")]
    NotProven { domain: String, said: String },
    #[error("{} {what} {name}: {how}", hook.display())]
    Hook { hook: PathBuf, what: &'static str, name: String, how: String },
    #[error("what the authority gave is not for {0} and all names below it")]
    NotFor(String),
    #[error("cannot tell until when what the authority gave is good")]
    NoTime,
    #[error("not done within {} minutes", WHOLE.as_secs() / 60)]
    TooSlow,
}

/// For all of a certificate: two records of a zone that may be slow, and an authority that may be.
const WHOLE: Duration = Duration::from_secs(30 * 60);
/// After the first failure, and at most. Authorities count failures, by the hour.
const FIRST_PAUSE: Duration = Duration::from_secs(5 * 60);
const LONGEST_PAUSE: Duration = Duration::from_secs(12 * 3600);
/// Between looks at the clock, which may be set, or stand still while a machine sleeps.
const LOOK: Duration = Duration::from_secs(3600);

/// A domain's certificate and the account it was got with, below the data directory.
#[derive(Clone, Debug)]
pub struct Acme {
    settings: Settings,
    dir: PathBuf,
}

impl Acme {
    pub fn new(settings: Settings, data_dir: &Path) -> Self {
        // An account is one authority's, and so is what it vouches for.
        let plain = |c: char| if c.is_ascii_alphanumeric() || ".-".contains(c) { c } else { '_' };
        let url = &settings.directory;
        let authority: String = url.trim_start_matches("https://").chars().map(plain).collect();
        let dir = data_dir.join("acme").join(authority);
        Self { settings, dir }
    }

    pub fn settings(&self) -> &Settings {
        &self.settings
    }

    /// Certificate and key in one file, which need not be there yet.
    pub fn files(&self) -> Files {
        let pair = self.dir.join(format!("{}.pem", self.settings.domain));
        Files { cert: pair.clone(), key: pair }
    }

    fn account_file(&self) -> PathBuf {
        self.dir.join("account.json")
    }

    /// Says since when and why there is no new certificate, for `coppice doctor`; gone after a
    /// success.
    pub(super) fn failure_file(&self) -> PathBuf {
        self.dir.join(format!("{}.failure", self.settings.domain))
    }

    /// Gets a certificate when there is none, and a new one when two thirds of its time are over.
    /// One that is `asked` for anew is got at once where it is time and only patience is kept after
    /// a failure.
    pub async fn keep(self, metrics: Arc<Metrics>, mut asked: impl Stream<Item = ()> + Unpin) {
        let mut failures = 0;
        // By a clock that nobody sets: patience ends, whatever becomes of the time of day.
        let mut not_before = Instant::now() + self.left_of_the_last_pause();
        loop {
            let due = self.due();
            let paused = not_before.saturating_duration_since(Instant::now());
            let left = match &due {
                Ok(Some(at)) => (*at - Utc::now()).to_std().unwrap_or_default().max(paused),
                Ok(None) | Err(_) => paused,
            };
            if !left.is_zero() {
                tokio::select! {
                    () = sleep(left.min(LOOK)) => {}
                    Some(()) = asked.next() => not_before = Instant::now(),
                }
                continue;
            }
            let domain = &self.settings.domain;
            let got = match due {
                Err(error) => Err(error),
                Ok(_) => {
                    let directory = &self.settings.directory;
                    tracing::info!(%domain, %directory, "getting a certificate");
                    timeout(WHOLE, self.get()).await.unwrap_or(Err(Error::TooSlow))
                }
            };
            let done = got.is_ok();
            match got {
                Ok(new) => {
                    tracing::info!(%domain, until = %new.not_after.to_rfc3339(), "there is a new certificate");
                    if new.renewal() > Utc::now() {
                        failures = 0;
                    } else {
                        // Or there would be one after the other.
                        let third = (new.not_after - new.not_before) / 3;
                        let third = third.to_std().unwrap_or_default();
                        not_before = Instant::now() + pause_after(failures, FIRST_PAUSE.min(third));
                        failures += 1;
                        tracing::warn!(
                            %domain, from = %new.not_before.to_rfc3339(),
                            "two thirds of its time are over already: is this host's clock right?"
                        );
                    }
                }
                Err(error) => {
                    let pause = pause_after(failures, FIRST_PAUSE);
                    failures += 1;
                    not_before = Instant::now() + pause;
                    let again = DateTime::<Utc>::from(SystemTime::now() + pause).to_rfc3339();
                    tracing::error!(%domain, %error, %again, "no new certificate");
                    self.note_failure(&error);
                }
            }
            // Last: whoever sees it finds the reason noted.
            metrics.certificate_renewed(done);
        }
    }

    /// Of the pause after a failure that a gateway before this one noted: authorities count
    /// failures, and whoever restarts it has them counted too.
    fn left_of_the_last_pause(&self) -> Duration {
        match fs::metadata(self.failure_file()).and_then(|noted| noted.modified()) {
            Ok(noted) => FIRST_PAUSE.saturating_sub(noted.elapsed().unwrap_or_default()),
            Err(_) => Duration::ZERO,
        }
    }

    async fn get(&self) -> Result<Validity, Error> {
        self.make_dir()?;
        let hook = Hook(self.settings.hook.clone());
        let pair = order::order(&self.settings, &self.account_file(), &hook).await?;
        let Files { cert: path, .. } = self.files();
        // Looked at beside what is served until it is known to be better.
        let next = path.with_extension("next");
        super::write(&next, super::SECRET, &pair)?;
        let files = Files { cert: next.clone(), key: next.clone() };
        let loaded = files.load(&super::provider())?;
        if !super::check::covers_all_below(&loaded.cert[0], &self.settings.domain) {
            return Err(Error::NotFor(self.settings.domain.clone()));
        }
        let validity = Validity::of(&loaded.cert[0]).ok_or(Error::NoTime)?;
        let renamed = fs::rename(&next, &path).and_then(|()| fs::File::open(&self.dir)?.sync_all());
        renamed.map_err(failed("replace", &path))?;
        let _ = fs::remove_file(self.failure_file());
        Ok(validity)
    }

    fn make_dir(&self) -> Result<(), Error> {
        let mut builder = DirBuilder::new();
        builder.recursive(true).mode(0o700).create(&self.dir).map_err(failed("make", &self.dir))
    }

    fn note_failure(&self, error: &Error) {
        let text = format!("{}: {error}\n", Utc::now().format("%Y-%m-%d %H:%M:%S UTC"));
        let noted = self
            .make_dir()
            .and_then(|()| Ok(super::write(&self.failure_file(), super::SECRET, &text)?));
        if let Err(error) = noted {
            tracing::warn!(%error, "cannot note for `coppice doctor` what failed");
        }
    }

    /// When it is time for a new one; `None`: now, as there is none that could be served for the
    /// domain. What cannot be read for now is not replaced.
    fn due(&self) -> Result<Option<DateTime<Utc>>, Error> {
        match self.files().load(&super::provider()) {
            Ok(loaded) => {
                let own = &loaded.cert[0];
                let ours = super::check::covers_all_below(own, &self.settings.domain);
                Ok(Validity::of(own).filter(|_| ours).map(Validity::renewal))
            }
            Err(super::Error::Read { source, path })
                if source.kind() != io::ErrorKind::NotFound =>
            {
                Err(super::Error::Read { source, path }.into())
            }
            Err(_) => Ok(None),
        }
    }
}

fn pause_after(failures: u32, first: Duration) -> Duration {
    first.saturating_mul(1 << failures.min(16)).min(LONGEST_PAUSE)
}

fn failed<'a>(doing: &'static str, path: &'a Path) -> impl FnOnce(io::Error) -> Error + 'a {
    move |source| Error::Io { doing, path: path.to_owned(), source }
}

/// Whether the authority can be asked at all, for `coppice doctor`.
///
/// # Errors
/// What stands in the way.
pub(super) fn probe(settings: &Settings) -> Result<(), Error> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    let runtime = runtime.map_err(failed("start a runtime to ask", Path::new("the authority")))?;
    runtime.block_on(order::ask(settings))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn acme(directory: &str, data_dir: &Path) -> Acme {
        let settings = Settings {
            directory: directory.into(),
            domain: "sbx.a.test".into(),
            contact: None,
            hook: "/no/such/hook".into(),
            ca: Some("/no/such/ca".into()),
        };
        Acme::new(settings, data_dir)
    }

    #[test]
    fn failures_are_further_and_further_apart() {
        let minutes = |failures| pause_after(failures, FIRST_PAUSE).as_secs() / 60;
        assert_eq!([0, 1, 2, 7, 8, 1000].map(minutes), [5, 10, 20, 640, 720, 720]);
    }

    #[test]
    fn what_an_authority_gave_lies_apart_from_what_others_did() {
        let dir = Path::new("/data");
        for (directory, expected) in [
            ("https://acme.a.test/directory", "/data/acme/acme.a.test_directory/sbx.a.test.pem"),
            ("https://a.test:9/acme/../x", "/data/acme/a.test_9_acme_.._x/sbx.a.test.pem"),
        ] {
            assert_eq!(acme(directory, dir).files().cert, Path::new(expected));
        }
    }

    #[test]
    fn a_certificate_is_due_at_once_where_there_is_none_for_the_domain() {
        let dir = tempfile::tempdir().unwrap();
        let acme = acme("https://a.test/", dir.path());
        assert_eq!(acme.due().unwrap(), None);
        acme.make_dir().unwrap();
        for (domain, due) in [("other.test", false), ("sbx.a.test", true)] {
            let made = super::super::Authority::of(&dir.path().join(domain), domain).unwrap();
            let files = made.issue().unwrap().files;
            let both = [files.key, files.cert].map(|path| fs::read_to_string(path).unwrap());
            fs::write(acme.files().cert, both.concat()).unwrap();
            let days = acme.due().unwrap().map(|due| (due - Utc::now()).num_days());
            assert_eq!(days.is_some(), due, "{domain}");
            assert!(days.is_none_or(|days| (262..266).contains(&days)), "{days:?}");
        }
    }

    #[test]
    fn one_that_cannot_be_read_is_not_replaced() {
        let dir = tempfile::tempdir().unwrap();
        let acme = acme("https://a.test/", dir.path());
        fs::create_dir_all(acme.files().cert).unwrap();
        let error = acme.due().unwrap_err().to_string();
        assert!(error.contains("cannot read"), "{error}");
    }

    #[test]
    fn a_pause_after_a_failure_outlives_the_gateway() {
        let dir = tempfile::tempdir().unwrap();
        let acme = acme("https://a.test/", dir.path());
        assert_eq!(acme.left_of_the_last_pause(), Duration::ZERO);
        acme.note_failure(&Error::TooSlow);
        let noted = fs::File::open(acme.failure_file()).unwrap();
        for (ago, left) in [(0, 300), (200, 100), (400, 0), (-1_000_000, 300)] {
            let now = SystemTime::now();
            let then = match u64::try_from(ago) {
                Ok(ago) => now - Duration::from_secs(ago),
                Err(_) => now + Duration::from_secs(1_000_000),
            };
            noted.set_modified(then).unwrap();
            let found = acme.left_of_the_last_pause();
            let most = Duration::from_secs(left);
            assert!(found <= most && found + Duration::from_secs(60) >= most, "{ago}: {found:?}");
        }
    }

    #[tokio::test]
    async fn what_failed_is_noted_and_tried_again_when_asked() {
        let dir = tempfile::tempdir().unwrap();
        let acme = acme("https://a.test/", dir.path());
        let metrics = Arc::new(Metrics::default());
        let asked =
            Box::pin(futures_util::stream::iter([(), ()]).chain(futures_util::stream::pending()));
        let kept = acme.clone().keep(metrics.clone(), asked);
        let third = async {
            while metrics.failed_renewals() < 3 {
                sleep(Duration::from_millis(5)).await;
            }
        };
        tokio::select! {
            () = kept => unreachable!("it goes on for ever"),
            done = timeout(Duration::from_secs(10), third) => done.unwrap(),
        }
        let noted = fs::read_to_string(acme.failure_file()).unwrap();
        assert!(noted.contains("cannot read /no/such/ca"), "{noted}");
    }
}
