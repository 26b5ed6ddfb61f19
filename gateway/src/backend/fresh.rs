//! What every system's backend does about a fresh envd: its sockets and its log, and what it
//! answers.

use std::{
    fs::{self, File, OpenOptions},
    io::{self, Read, Seek, SeekFrom},
    os::{
        fd::OwnedFd,
        unix::{fs::OpenOptionsExt, net::UnixListener},
    },
    path::Path,
    time::Duration,
};

use envd::wire::{Attached, Descriptor, PROTOCOL};

use super::{Error, call::Call};

const SOCKETS: [(&str, Descriptor); 3] = [
    ("envd.sock", Descriptor::EnvdListener),
    ("tunnel.sock", Descriptor::TunnelListener),
    ("report.sock", Descriptor::ReportListener),
];
const LOG: &str = "envd.log";

/// Its sockets, in its sandbox's directory.
pub(super) fn listen(directory: &Path) -> Result<Vec<(Descriptor, OwnedFd)>, Error> {
    let listen = |(name, role)| {
        let path = directory.join(name);
        let listener = UnixListener::bind(&path).call("bind", path.display())?;
        Ok((role, listener.into()))
    };
    SOCKETS.into_iter().map(listen).collect()
}

/// Appended to: a sandbox's log outlives the gateway.
pub(super) fn open_log(directory: &Path) -> Result<File, Error> {
    let path = directory.join(LOG);
    let mut options = OpenOptions::new();
    options.append(true).create(true).mode(0o600);
    options.open(&path).call("open", path.display())
}

/// Whether it serves, by its answer, which was waited for so long.
pub(super) fn judge(
    answer: io::Result<Attached>,
    directory: &Path,
    patience: Duration,
) -> Result<(), Error> {
    match answer {
        Ok(Attached::Ready { protocol: PROTOCOL }) => Ok(()),
        Ok(Attached::Ready { protocol }) => Err(Error::Attach {
            step: "speak the gateway's protocol".into(),
            message: format!("the gateway speaks version {PROTOCOL}, envd {protocol}"),
        }),
        Ok(Attached::Failed { step, message, .. }) => Err(Error::Attach { step, message }),
        Err(source) => Err(match source.kind() {
            io::ErrorKind::WouldBlock | io::ErrorKind::TimedOut => {
                Error::Timeout("envd's answer", patience)
            }
            _ => Error::Attach {
                step: "answer".into(),
                message: format!("{source}; its log ends: {}", log_end(directory)),
            },
        }),
    }
}

fn log_end(directory: &Path) -> String {
    const LENGTH: u64 = 600;
    let read = || {
        let mut log = File::open(directory.join(LOG))?;
        let length = log.metadata()?.len();
        log.seek(SeekFrom::Start(length.saturating_sub(LENGTH)))?;
        let mut text = Vec::new();
        log.take(LENGTH).read_to_end(&mut text)?;
        Ok::<_, io::Error>(String::from_utf8_lossy(&text).trim().to_owned())
    };
    read().unwrap_or_else(|error| error.to_string())
}

/// Removes its sockets, which nobody serves any more.
pub(super) fn remove_sockets(directory: &Path) -> Result<(), Error> {
    for (name, _) in SOCKETS {
        let path = directory.join(name);
        match fs::remove_file(&path) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => {
                return Err(error).call("unlink", path.display());
            }
            _ => {}
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_answer_that_is_none_says_how_the_log_ends() {
        let place = tempfile::tempdir().unwrap();
        let directory = place.path();
        assert_eq!(listen(directory).unwrap().len(), SOCKETS.len());
        fs::write(directory.join(LOG), "x".repeat(1000) + "panicked at last\n").unwrap();
        let judge = |answer| {
            judge(answer, directory, Duration::from_secs(1)).map_err(|error| error.to_string())
        };
        assert_eq!(judge(Ok(Attached::Ready { protocol: PROTOCOL })), Ok(()));
        let error = judge(Ok(Attached::Ready { protocol: PROTOCOL + 1 })).unwrap_err();
        assert!(error.contains("protocol"), "{error}");
        let error = judge(Err(io::ErrorKind::TimedOut.into())).unwrap_err();
        assert_eq!(error, "envd's answer did not finish within 1s");
        let error = judge(Err(io::ErrorKind::UnexpectedEof.into())).unwrap_err();
        assert!(error.ends_with("xpanicked at last") && error.len() < 800, "{error}");
        remove_sockets(directory).unwrap();
        remove_sockets(directory).unwrap();
        assert_eq!(fs::read_dir(directory).unwrap().count(), 1);
    }
}
