//! `coppice events tail`: what happens, line by line, across restarts of the gateway.

use std::{process::ExitCode, time::Duration};

use anyhow::{Context, bail};
use chrono::{DateTime, Utc};
use http::{Method, StatusCode};
use http_body_util::BodyExt;
use tokio::{
    signal::unix::{SignalKind, signal},
    time::{sleep, timeout},
};

use super::{
    super::api::{Api, Reach, Refused, Stream},
    Known, Told, Unheard, about, escape, instant, say, shown,
};

/// After which a stream that is silent is taken for broken: three of the gateway's comments.
const SILENCE: Duration = Duration::from_secs(45);
/// Between attempts to go on.
const FIRST_PAUSE: Duration = Duration::from_millis(200);
const LONGEST_PAUSE: Duration = Duration::from_secs(10);
/// Of one event (bytes).
const LONGEST: usize = 1 << 20;
/// Of what it is about (characters).
const WORDS: usize = 160;

/// Ids that are remembered: what comes again does so soon after a restart.
const MOST_KNOWN: usize = 100_000;

/// How far it has come.
struct Place {
    /// The last event's.
    last: Option<String>,
    known: Known,
}

#[derive(clap::Args)]
pub(crate) struct Tail {
    #[command(flatten)]
    reach: Reach,
    /// Types and globs, by commas
    #[arg(long, value_name = "GLOB,...", default_value = "*")]
    types: String,
    /// Of these sandboxes alone, by commas
    #[arg(long, value_name = "ID,...")]
    sandbox: Option<String>,
    /// Begin with what happened since then: 5m, 24h or 7d ago, or a time of RFC 3339 [default: now]
    #[arg(long, value_name = "WHEN", value_parser = instant)]
    since: Option<DateTime<Utc>>,
    /// Begin behind the event of that id
    #[arg(long, value_name = "ID")]
    after: Option<String>,
    /// Each as a line of JSON, for programs
    #[arg(long)]
    json: bool,
}

impl Tail {
    /// Until Ctrl-C, or until nobody reads.
    pub(super) async fn run(self) -> anyhow::Result<ExitCode> {
        let api = Api::new(&self.reach)?;
        let mut place = Place { last: self.after.clone(), known: Known::default() };
        let mut pause = FIRST_PAUSE;
        let mut connected = false;
        let mut pressed = signal(SignalKind::interrupt()).context("cannot catch Ctrl-C")?;
        loop {
            let before = place.last.clone();
            let ended = tokio::select! {
                ended = self.follow(&api, &mut place, &mut connected) => ended,
                _ = pressed.recv() => return Ok(ExitCode::SUCCESS),
            };
            if let Err(error) = ended {
                let refused = error.downcast_ref::<Refused>().map(|refused| refused.status);
                let lasting = refused.is_some_and(|status| {
                    status.is_client_error() && status != StatusCode::TOO_MANY_REQUESTS
                });
                if error.is::<Unheard>() {
                    return Ok(ExitCode::SUCCESS);
                }
                // Or it was never any good.
                if lasting || !connected {
                    return Err(error);
                }
                eprintln!("coppice: {error:#}; trying again");
            }
            pause = if place.last == before { (pause * 2).min(LONGEST_PAUSE) } else { FIRST_PAUSE };
            tokio::select! {
                () = sleep(pause) => {}
                _ = pressed.recv() => return Ok(ExitCode::SUCCESS),
            }
        }
    }

    /// One stream to its end.
    async fn follow(
        &self,
        api: &Api,
        place: &mut Place,
        connected: &mut bool,
    ) -> anyhow::Result<()> {
        let mut path = format!("/events/sandboxes/watch?types={}", escape(&self.types));
        if let Some(ids) = &self.sandbox {
            path += &format!("&sandboxId={}", escape(ids));
        }
        if let Some(since) = self.since {
            path += &format!("&start={}", since.timestamp_millis().max(0));
        }
        let last = place.last.clone();
        let headers: Vec<_> = last.iter().map(|last| ("last-event-id", last.as_str())).collect();
        let Stream { answer, connection: _connection } =
            api.open(Method::GET, &path, &headers, None).await?;
        *connected = true;
        let mut body = answer.into_body();
        let mut text = Vec::new();
        loop {
            let frame = timeout(SILENCE, body.frame()).await.context("the stream is silent")?;
            let Some(frame) = frame else { return Ok(()) };
            let Ok(data) = frame.context("the stream broke off")?.into_data() else { continue };
            text.extend_from_slice(&data);
            while let Some(end) = text.windows(2).position(|pair| pair == b"\n\n") {
                let part: Vec<u8> = text.drain(..end + 2).collect();
                self.show(&String::from_utf8_lossy(&part), place)?;
            }
            if text.len() > LONGEST {
                bail!("the stream has no events");
            }
        }
    }

    /// What stands between two empty lines.
    fn show(&self, part: &str, place: &mut Place) -> anyhow::Result<()> {
        let field = |name: &str| part.lines().find_map(|line| line.strip_prefix(name));
        if field("event: ") == Some("lost") {
            eprintln!("coppice: some events are no longer kept");
        }
        let (Some(id), Some(data)) = (field("id: "), field("data: ")) else { return Ok(()) };
        place.last = Some(id.to_owned());
        if place.known.0.len() >= MOST_KNOWN {
            place.known = Known::default();
        }
        if !place.known.add(id) {
            return Ok(());
        }
        if self.json {
            say(&format!("{data}\n"))?;
        } else if let Ok(told) = serde_json::from_str::<Told>(data) {
            say(&format!("{}\n", line(&told)))?;
        }
        Ok(())
    }
}

fn line(told: &Told) -> String {
    let time = told.timestamp.format("%H:%M:%S%.3f");
    let sandbox = told.sandbox_id.get(..12).unwrap_or(&told.sandbox_id);
    format!("{time} {sandbox} {:<16} {}", told.kind, shown(&about(told), WORDS))
        .trim_end()
        .to_owned()
}
