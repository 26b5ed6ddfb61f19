//! What envd reports of a sandbox, followed from the gateway's side.
//!
//! The lines may be written by hostile code: their length and rate are bounded, and they decide
//! nothing.

use std::{io, sync::Arc, time::Duration};

use envd::{
    tunnel::Handed,
    wire::{MAX_REPORT, Report},
};
use futures_util::StreamExt;
use tokio::{
    io::AsyncWriteExt,
    time::{Instant, sleep, sleep_until, timeout},
};
use tokio_util::codec::{FramedRead, LinesCodec};

use crate::sandbox::Sandbox;

/// Reports read in one second; the rest waits in envd, which drops the oldest.
const PER_SECOND: u32 = 1000;
const CONNECT: Duration = Duration::from_secs(10);
const FIRST_PAUSE: Duration = Duration::from_millis(100);
const LONGEST_PAUSE: Duration = Duration::from_secs(10);

/// Reads a sandbox's reports until it ends; while it is paused there are none.
pub async fn follow(sandbox: Arc<Sandbox>) {
    let mut follower = Follower { sandbox: &sandbox, last: 0, missed: 0, complained: false };
    sandbox.gone().run_until_cancelled(follower.run()).await;
    if follower.missed > 0 {
        tracing::info!(sandbox = %sandbox.id(), missed = follower.missed, "reports were lost");
    }
}

struct Follower<'a> {
    sandbox: &'a Sandbox,
    /// The last sequence number seen.
    last: u64,
    missed: u64,
    /// Whether a malformed report has been logged already.
    complained: bool,
}

#[derive(Debug, thiserror::Error)]
enum Error {
    #[error("connect: {0}")]
    Connect(io::Error),
    #[error("read: {0}")]
    Read(io::Error),
    #[error("malformed report: {0}")]
    Malformed(String),
}

impl Follower<'_> {
    async fn run(&mut self) {
        let mut pause = FIRST_PAUSE;
        loop {
            let before = self.last;
            if let Err(error) = self.connection().await {
                self.log(&error);
            }
            pause = if self.last > before { FIRST_PAUSE } else { pause };
            sleep(pause).await;
            pause = (pause * 2).min(LONGEST_PAUSE);
        }
    }

    /// Follows one connection to its end.
    async fn connection(&mut self) -> Result<(), Error> {
        let path = self.sandbox.dir().join("report.sock");
        let last = self.last;
        let open = async {
            let mut stream = Handed::dial(&path)?;
            stream.write_u64(last).await?;
            Ok(stream)
        };
        let stream = timeout(CONNECT, open)
            .await
            .unwrap_or_else(|_| Err(io::ErrorKind::TimedOut.into()))
            .map_err(Error::Connect)?;

        let mut lines = FramedRead::new(stream, LinesCodec::new_with_max_length(MAX_REPORT - 1));
        let (mut window, mut read) = (Instant::now(), 0);
        while let Some(line) = lines.next().await {
            let line = line.map_err(|error| match error {
                tokio_util::codec::LinesCodecError::Io(error)
                    if error.kind() != io::ErrorKind::InvalidData =>
                {
                    Error::Read(error)
                }
                other => Error::Malformed(other.to_string()),
            })?;
            self.take(&line)?;
            read += 1;
            if read == PER_SECOND {
                sleep_until(window + Duration::from_secs(1)).await;
                (window, read) = (Instant::now(), 0);
            }
        }
        Ok(())
    }

    fn take(&mut self, line: &str) -> Result<(), Error> {
        let report: Report =
            serde_json::from_str(line).map_err(|error| Error::Malformed(error.to_string()))?;
        let Some(gap) = report.seq.checked_sub(self.last).and_then(|step| step.checked_sub(1))
        else {
            let (seq, last) = (report.seq, self.last);
            return Err(Error::Malformed(format!("number {seq} after {last}")));
        };
        if gap > 0 {
            self.missed = self.missed.saturating_add(gap);
            tracing::debug!(sandbox = %self.sandbox.id(), gap, "reports are missing");
        }
        self.last = report.seq;
        tracing::debug!(sandbox = %self.sandbox.id(), ?report, "report");
        Ok(())
    }

    fn log(&mut self, error: &Error) {
        let sandbox = self.sandbox.id();
        if matches!(error, Error::Malformed(_)) && !self.complained {
            self.complained = true;
            tracing::warn!(%sandbox, %error, "report stream");
        } else {
            tracing::debug!(%sandbox, %error, "report stream");
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use tokio::{
        io::AsyncReadExt,
        net::{UnixListener, UnixStream},
        sync::mpsc,
    };

    use super::*;
    use crate::data::tests::insert;
    use crate::sandbox::{Registry, SandboxId};

    /// A sandbox whose report stream is the test's: yields each connection with the number the
    /// gateway asked from.
    fn followed() -> (Arc<Sandbox>, mpsc::Receiver<(u64, UnixStream)>, tempfile::TempDir) {
        let (dir, registry, id) =
            (tempfile::tempdir().unwrap(), Registry::default(), SandboxId::random());
        insert(&registry, id, dir.path());
        let listener = UnixListener::bind(dir.path().join("report.sock")).unwrap();
        let (sender, receiver) = mpsc::channel(1);
        tokio::spawn(async move {
            loop {
                let (mut stream, _) = listener.accept().await.unwrap();
                let from = stream.read_u64().await.unwrap();
                if sender.send((from, stream)).await.is_err() {
                    return;
                }
            }
        });
        (registry.running(id).unwrap(), receiver, dir)
    }

    fn report(seq: u64) -> String {
        format!("{{\"seq\":{seq},\"at\":1,\"type\":\"file_read\",\"bytes\":1}}\n")
    }

    #[tokio::test]
    async fn a_broken_stream_is_resumed_where_it_broke() {
        let (sandbox, mut connections, _dir) = followed();
        let follower = tokio::spawn(follow(sandbox.clone()));
        for (from, seq) in [(0, 1), (1, 7), (7, 8)] {
            let (asked, mut stream) = connections.recv().await.unwrap();
            assert_eq!(asked, from);
            stream.write_all(report(seq).as_bytes()).await.unwrap();
        }
        sandbox.gone().cancel();
        timeout(Duration::from_secs(1), follower).await.unwrap().unwrap();
    }

    #[tokio::test]
    async fn malformed_reports_end_the_connection() {
        let (sandbox, mut connections, _dir) = followed();
        tokio::spawn(follow(sandbox.clone()));
        for wrong in ["garbage\n", "\n", "\u{0}\u{ff}\n", &"x".repeat(MAX_REPORT * 2), &report(0)] {
            let (asked, mut stream) = connections.recv().await.unwrap();
            assert_eq!(asked, 0);
            // May meet the end already.
            let _ = stream.write_all(wrong.as_bytes()).await;
            let end = timeout(Duration::from_secs(1), stream.read(&mut [0])).await.unwrap();
            assert!(!matches!(end, Ok(1)), "{wrong}");
        }
        sandbox.gone().cancel();
    }

    #[tokio::test]
    async fn a_flood_is_read_at_a_bounded_rate() {
        let (sandbox, mut connections, _dir) = followed();
        tokio::spawn(follow(sandbox.clone()));
        let (_, mut stream) = connections.recv().await.unwrap();
        let mut written = 0;
        let flood = async {
            for seq in 1.. {
                stream.write_all(report(seq).as_bytes()).await.unwrap();
                written = seq;
            }
        };
        let _ = timeout(Duration::from_millis(1500), flood).await;
        // Two seconds' worth, and what the socket and the line buffer hold.
        assert!(written < 30_000, "{written}");
        sandbox.gone().cancel();
    }

    proptest! {
        #[test]
        fn whatever_a_sandbox_reports_its_numbers_only_rise(
            lines in prop::collection::vec(
                prop_oneof![any::<u64>().prop_map(report), (0..9_u64).prop_map(report), "\\PC{0,60}"],
                0..12,
            ),
        ) {
            let dir = tempfile::tempdir().unwrap();
            let sandbox = crate::sandbox::testing::sandbox_in(SandboxId::random(), dir.path(), "");
            let mut follower = Follower { sandbox: &sandbox, last: 0, missed: 0, complained: false };
            for line in lines {
                let before = (follower.last, follower.missed);
                match follower.take(line.trim_end()) {
                    Ok(()) => {
                        prop_assert!(follower.last > before.0);
                        let gap = follower.last - before.0 - 1;
                        prop_assert_eq!(follower.missed, before.1.saturating_add(gap));
                    }
                    Err(_) => prop_assert_eq!((follower.last, follower.missed), before),
                }
            }
        }
    }
}
