//! `coppice top`: a table of all sandboxes and what they use, that stays up to date.
//!
//! On a terminal it takes the whole of it and is told by keys what to show; else it prints one table,
//! or JSON, and ends.

mod keys;
mod screen;
mod table;

use std::{
    io::{self, IsTerminal, Write},
    process::ExitCode,
    time::{Duration, Instant},
};

use anyhow::Context;
use tokio::{
    signal::unix::{Signal, SignalKind, signal},
    sync::mpsc::{self, Receiver},
    time::{MissedTickBehavior, interval},
};

use super::api::{self, Api, Reach};
use keys::{Key, Keys};
use screen::Screen;
use table::{Column, Overview, Shown, Table};

/// What the gateway is asked.
const PATH: &str = "/admin/sandboxes";
/// Without a terminal: as wide as it takes, and no end.
const UNBOUNDED: usize = usize::MAX;

#[derive(clap::Args)]
pub(crate) struct Top {
    #[command(flatten)]
    reach: Reach,
    /// Seconds between one look and the next
    #[arg(long, value_name = "SECONDS", default_value_t = 2, value_parser = clap::value_parser!(u64).range(1..=3600))]
    interval: u64,
    /// What to sort by: id, state, age, cpu, memory, disk, processes, rate, requests, tenant or template
    #[arg(long, value_name = "COLUMN", default_value = "cpu")]
    sort: Column,
    /// Only those with this in their id, tenant, template or state
    #[arg(long, value_name = "TEXT", default_value = "")]
    filter: String,
    /// Print one table and end, as it does where standard output is no terminal
    #[arg(long)]
    once: bool,
    /// Print what there is as JSON, and end
    #[arg(long)]
    json: bool,
}

pub(crate) fn run(top: Top) -> anyhow::Result<ExitCode> {
    api::run(async move {
        let gateway = Api::new(&top.reach)?;
        if top.json {
            let found: serde_json::Value = gateway.get(PATH).await?;
            writeln!(io::stdout(), "{found}")?;
        } else if top.once || !io::stdout().is_terminal() {
            let mut table = Table::new(top.sort, top.filter);
            table.take(gateway.get(PATH).await?, Instant::now());
            let lines = table.lines(UNBOUNDED, UNBOUNDED, None);
            writeln!(io::stdout(), "{}", plain(&lines))?;
        } else {
            watch(&top, gateway).await?;
        }
        Ok(ExitCode::SUCCESS)
    })
}

fn plain(lines: &[Shown]) -> String {
    let texts: Vec<&str> = lines.iter().map(|line| line.text.trim_end()).collect();
    texts.join("\n")
}

/// Until the user has had enough, or somebody else has.
async fn watch(top: &Top, gateway: Api) -> anyhow::Result<()> {
    let mut table = Table::new(top.sort, top.filter.clone());
    // Before the terminal is taken: what is wrong from the start is said where it stays.
    table.take(gateway.get(PATH).await?, Instant::now());
    let mut ends = Ends::caught()?;
    let mut resized = signal(SignalKind::window_change()).context("cannot catch SIGWINCH")?;
    let mut keys = Keys::read();
    let mut screen = Screen::take().context("the terminal cannot be taken; give --once")?;
    let mut found = looks(gateway, Duration::from_secs(top.interval));
    let mut trouble = None;
    loop {
        screen.show(|rows, columns| table.lines(rows, columns, trouble.as_deref()))?;
        tokio::select! {
            () = ends.any() => return Ok(()),
            _ = resized.recv() => {}
            Some(found) = found.recv() => match found {
                Ok(found) => {
                    table.take(found, Instant::now());
                    trouble = None;
                }
                // A gateway that is started anew is waited for.
                Err(error) => trouble = Some(format!("{error:#}")),
            },
            key = keys.next() => match key {
                Some(Key::Interrupt) | None => return Ok(()),
                Some(Key::Suspend) => {
                    screen.give_back();
                    screen::stop_until_continued();
                    screen.take_again().context("the terminal cannot be taken again")?;
                }
                Some(Key::Redraw) => screen.forget(),
                Some(key) if table.hears(key) => {}
                Some(_) => return Ok(()),
            },
        }
    }
}

/// What there is, again and again, by a task of its own: keys are heard while a gateway is slow.
fn looks(gateway: Api, every: Duration) -> Receiver<anyhow::Result<Overview>> {
    let (tell, told) = mpsc::channel(1);
    tokio::spawn(async move {
        let mut looks = interval(every);
        looks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        looks.reset();
        loop {
            looks.tick().await;
            if tell.send(gateway.get(PATH).await).await.is_err() {
                return;
            }
        }
    });
    told
}

/// Signals that end a program, so that the terminal is given back.
struct Ends([Signal; 4]);

impl Ends {
    fn caught() -> anyhow::Result<Self> {
        let caught = |kind| signal(kind).context("cannot catch signals");
        Ok(Self([
            caught(SignalKind::interrupt())?,
            caught(SignalKind::terminate())?,
            caught(SignalKind::hangup())?,
            caught(SignalKind::quit())?,
        ]))
    }

    async fn any(&mut self) {
        let [interrupt, terminate, hangup, quit] = &mut self.0;
        tokio::select! {
            _ = interrupt.recv() => {}
            _ = terminate.recv() => {}
            _ = hangup.recv() => {}
            _ = quit.recv() => {}
        }
    }
}
