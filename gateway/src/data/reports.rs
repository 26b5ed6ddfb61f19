//! What envd reports of a sandbox, followed from the gateway's side, counted and told as events.
//!
//! The lines may be written by hostile code: their length and rate are bounded, they decide
//! nothing, and they are counted as far as they can be true. No more code is counted than the
//! sandbox was given, no command ran for longer than the sandbox, and there are no more kernels
//! than there may be.

use std::{io, pin::pin, sync::Arc, time::Duration};

use chrono::Utc;
use envd::{
    tunnel::Handed,
    wire::{Assembly, Detail, MAX_REPORT, Report, What},
};
use futures_util::StreamExt;
use tokio::{
    io::AsyncWriteExt,
    time::{Instant, sleep, sleep_until, timeout},
};
use tokio_util::codec::{FramedRead, LinesCodec};

use super::{budget::Budget, told::Told};
use crate::{
    events::Events,
    metrics::{Account, Metrics},
    sandbox::Sandbox,
};

/// Reports read in one second; the rest waits in envd, which drops the oldest.
const PER_SECOND: u32 = 1000;
const CONNECT: Duration = Duration::from_secs(10);
const FIRST_PAUSE: Duration = Duration::from_millis(100);
const LONGEST_PAUSE: Duration = Duration::from_secs(10);
/// For what a sandbox had reported by its end to be read.
const LAST: Duration = Duration::from_millis(500);

/// Reads a sandbox's reports until it has ended; while it is paused there are none.
pub async fn follow(sandbox: Arc<Sandbox>, metrics: Arc<Metrics>, events: Events) {
    let mut follower = Follower::new(&sandbox, &metrics, &events);
    follower.run().await;
    if follower.missed > 0 {
        tracing::info!(sandbox = %sandbox.id(), missed = follower.missed, "reports were lost");
    }
}

struct Follower<'a> {
    sandbox: &'a Sandbox,
    metrics: &'a Metrics,
    account: Account,
    told: Told<'a>,
    /// Details that come in parts.
    parts: Assembly,
    /// Read of the report that is not whole yet (bytes).
    begun: usize,
    budget: Budget,
    /// Whether more was reported than is told, which has been logged.
    exceeded: bool,
    /// The last sequence number seen,
    last: u64,
    /// of the envd of that boot.
    boot: u64,
    missed: u64,
    /// Whether a malformed report has been logged already.
    complained: bool,
    /// When so many reports were begun to be read.
    window: Instant,
    read: u32,
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

impl<'a> Follower<'a> {
    fn new(sandbox: &'a Sandbox, metrics: &'a Arc<Metrics>, events: &Events) -> Self {
        Self {
            sandbox,
            metrics,
            account: metrics.account(),
            told: Told::new(sandbox, events),
            parts: Assembly::default(),
            begun: 0,
            budget: Budget::new(Instant::now().into_std()),
            exceeded: false,
            last: 0,
            boot: sandbox.boots(),
            missed: 0,
            complained: false,
            window: Instant::now(),
            read: 0,
        }
    }

    async fn run(&mut self) {
        let gone = self.sandbox.gone();
        let mut pause = FIRST_PAUSE;
        while !gone.is_cancelled() {
            let before = self.last;
            let ended = {
                let mut connection = pin!(self.connection());
                tokio::select! {
                    ended = &mut connection => ended,
                    // Its processes are ending, and with them the connection.
                    () = gone.cancelled() => timeout(LAST, connection).await.unwrap_or(Ok(())),
                }
            };
            if let Err(error) = ended {
                self.log(&error);
            }
            pause = if self.last > before { FIRST_PAUSE } else { pause };
            gone.run_until_cancelled(sleep(pause)).await;
            pause = (pause * 2).min(LONGEST_PAUSE);
        }
    }

    /// Follows one connection to its end.
    async fn connection(&mut self) -> Result<(), Error> {
        let path = self.sandbox.dir().join("report.sock");
        let boot = self.sandbox.boots();
        if boot != self.boot {
            (self.boot, self.last) = (boot, 0);
            self.told.forget();
        }
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
            self.read += 1;
            if self.read == PER_SECOND {
                sleep_until(self.window + Duration::from_secs(1)).await;
                (self.window, self.read) = (Instant::now(), 0);
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
            self.metrics.report_missed();
            tracing::debug!(sandbox = %self.sandbox.id(), gap, "reports are missing");
        }
        self.last = report.seq;
        tracing::debug!(sandbox = %self.sandbox.id(), seq = report.seq, what = ?report.what, "report");
        self.account.holds(report.kernels, report.commands);
        self.begun = self.begun.saturating_add(line.len());
        if let Some((report, detail)) = self.parts.take(report) {
            let bytes = std::mem::take(&mut self.begun);
            self.heard(&report, detail, bytes);
        }
        Ok(())
    }

    fn heard(&mut self, report: &Report, detail: Option<Detail>, bytes: usize) {
        let unheard = self.sandbox.journal().report(report);
        // What an adopted sandbox did before is in the figures of the gateway before; the end of
        // what ran when there was none is still to be told.
        let of_now = report.at >= self.metrics.began_at();
        if of_now
            && matches!(report.what, What::CodeExecuted { .. })
            && !self.sandbox.has_run_code()
        {
            return;
        }
        let mut fresh = of_now || unheard;
        if fresh && !self.budget.take(bytes, Instant::now().into_std()) {
            fresh = false;
            self.exceed();
        }
        self.told.take(report, detail, fresh);
        if of_now {
            self.count(&report.what);
        }
    }

    /// It is counted, but no event.
    fn exceed(&mut self) {
        self.metrics.report_missed();
        if !self.exceeded {
            self.exceeded = true;
            let sandbox = self.sandbox.id();
            tracing::warn!(%sandbox, "it reports more than becomes events; the rest is only counted");
        }
    }

    fn count(&mut self, what: &What) {
        match what {
            What::CodeExecuted { language, failed, repeated, .. } => {
                self.account.code_executed(language, *failed, *repeated);
            }
            What::KernelStarted { .. } => self.metrics.kernel_started(),
            What::KernelStopped { .. } => self.metrics.kernel_stopped(),
            What::KernelDied { .. } => self.metrics.kernel_died(),
            What::ProcessEnded { exit_code, duration_ms, .. } => {
                let lived = (Utc::now() - self.sandbox.facts().started_at).to_std();
                let took = Duration::from_millis(*duration_ms).min(lived.unwrap_or_default());
                self.metrics.command_ended(*exit_code, took);
            }
            What::ProcessStarted { repeated: true, .. } => self.metrics.command_repeated(),
            What::ProcessStarted { .. }
            | What::FileRead { .. }
            | What::FileWritten { .. }
            | What::Unknown => {}
        }
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
        let follower = tokio::spawn(follow(sandbox.clone(), Arc::default(), Events::default()));
        for (from, seq) in [(0, 1), (1, 7), (7, 8)] {
            let (asked, mut stream) = connections.recv().await.unwrap();
            assert_eq!(asked, from);
            stream.write_all(report(seq).as_bytes()).await.unwrap();
        }
        sandbox.gone().cancel();
        timeout(Duration::from_secs(5), follower).await.unwrap().unwrap();
    }

    #[tokio::test]
    async fn malformed_reports_end_the_connection() {
        let (sandbox, mut connections, _dir) = followed();
        tokio::spawn(follow(sandbox.clone(), Arc::default(), Events::default()));
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
        tokio::spawn(follow(sandbox.clone(), Arc::default(), Events::default()));
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

    #[tokio::test]
    async fn a_flood_over_many_connections_is_read_no_faster() {
        let (sandbox, mut connections, _dir) = followed();
        let (metrics, began) = (Arc::<Metrics>::default(), Instant::now());
        let follower = tokio::spawn(follow(sandbox.clone(), metrics.clone(), Events::default()));
        let mut seq = 0;
        let flood = async {
            while let Some((_, mut stream)) = connections.recv().await {
                for _ in 1..PER_SECOND {
                    seq += 1;
                    let line = now(
                        seq,
                        "process_ended\",\"pid\":1,\"exit_code\":0,\"duration_ms\":1,\"_\":\"",
                    );
                    stream.write_all(line.as_bytes()).await.unwrap();
                }
            }
        };
        let _ = timeout(Duration::from_millis(1500), flood).await;
        sandbox.gone().cancel();
        timeout(Duration::from_secs(5), follower).await.unwrap().unwrap();
        let windows = u32::try_from(began.elapsed().as_secs()).unwrap() + 1;
        let read = figure(&metrics, "coppice_command_exits_total{exit=\"0\"}");
        assert!(0 < read && read <= u64::from(PER_SECOND * windows), "{read} in {windows}");
    }

    #[tokio::test]
    async fn what_a_sandbox_has_reported_by_its_end_is_counted() {
        let (sandbox, mut connections, _dir) = followed();
        let metrics = Arc::<Metrics>::default();
        let follower = tokio::spawn(follow(sandbox.clone(), metrics.clone(), Events::default()));
        let (_, mut stream) = connections.recv().await.unwrap();
        sandbox.gone().cancel();
        tokio::task::yield_now().await;
        stream.write_all(now(1, "kernel_started\",\"language\":\"r").as_bytes()).await.unwrap();
        drop(stream);
        timeout(Duration::from_secs(5), follower).await.unwrap().unwrap();
        assert_eq!(figure(&metrics, "coppice_kernel_spawns_total"), 1);
    }

    /// A report of now, of that type, with three kernels.
    fn now(seq: u64, what: &str) -> String {
        let at = u64::MAX;
        format!("{{\"seq\":{seq},\"at\":{at},\"kernels\":3,\"type\":\"{what}\"}}\n")
    }

    fn figure(metrics: &Metrics, name: &str) -> u64 {
        let text = crate::metrics::told_of_work(metrics);
        let value = text.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(' '));
        value.unwrap_or_else(|| panic!("no {name} in {text}")).parse().unwrap()
    }

    #[test]
    fn what_cannot_be_true_is_not_counted() {
        let dir = tempfile::tempdir().unwrap();
        let sandbox = crate::sandbox::testing::sandbox_in(SandboxId::random(), dir.path(), "");
        let metrics = Arc::<Metrics>::default();
        let events = Events::default();
        let mut follower = Follower::new(&sandbox, &metrics, &events);
        let mut seq = 0;
        let mut take = |line: &dyn Fn(u64) -> String| {
            seq += 1;
            follower.take(line(seq).trim_end()).unwrap();
        };
        let ran = "code_executed\",\"failed\":true,\"duration_ms\":1,\"language\":\"klingon";
        for _ in 0..3 {
            take(&|seq| now(seq, ran));
        }
        assert_eq!(figure(&metrics, "coppice_execute_errors_total"), 0, "it was given no code");
        sandbox.give_code();
        for _ in 0..3 {
            take(&|seq| now(seq, ran));
        }
        assert_eq!(figure(&metrics, "coppice_execute_errors_total"), 1);
        let other = "coppice_execute_by_language_total{language=\"other\"}";
        assert_eq!(figure(&metrics, other), 1);

        let longest = u64::MAX;
        let ended = format!(
            "process_ended\",\"pid\":1,\"exit_code\":-1,\"duration_ms\":{longest},\"_\":\""
        );
        take(&|seq| now(seq, &ended));
        assert_eq!(figure(&metrics, "coppice_command_exits_total{exit=\"signal\"}"), 1);
        let minute = "coppice_command_duration_seconds_bucket{le=\"60.0\"}";
        assert_eq!(figure(&metrics, minute), 1, "it ran for no longer than the sandbox");

        let died = "kernel_died\",\"exit_code\":1,\"language\":\"r";
        take(&|seq| now(seq, died));
        assert_eq!(figure(&metrics, "coppice_kernel_deaths_total"), 1);
        assert_eq!(figure(&metrics, "coppice_kernels_alive"), 3);
        // Of before this gateway: the state is told, what happened is not counted again.
        take(&|seq| now(seq, died).replace(&u64::MAX.to_string(), "1"));
        assert_eq!(figure(&metrics, "coppice_kernel_deaths_total"), 1);
        drop(follower);
        assert_eq!(figure(&metrics, "coppice_kernels_alive"), 0);
        assert_eq!(figure(&metrics, "coppice_kernel_exits_total"), 1 + 3, "with the sandbox");
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
            let metrics = Arc::default();
            let events = Events::default();
        let mut follower = Follower::new(&sandbox, &metrics, &events);
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
