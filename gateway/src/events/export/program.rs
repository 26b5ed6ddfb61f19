//! A program of the operator's, started once for each event, which it is given on its stdin as one
//! line of JSON.
//!
//! It runs as a user that is named, in a process group of its own, with an environment that is made
//! here and has nothing of the gateway's; at most so many run at once, each for a bounded time. Exit
//! status 0 is a success, [`LATER`] asks for another try, and with every other it has failed for good.

use std::{
    collections::HashSet,
    io,
    path::PathBuf,
    process::{ExitStatus, Stdio},
    sync::Arc,
    time::Duration,
};

use async_trait::async_trait;
use futures_util::{StreamExt, stream};
use nix::{
    sys::signal::{Signal, killpg},
    unistd::{Pid, User},
};
use serde::Deserialize;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    process::{Child, ChildStderr, Command},
    time::{error::Elapsed, timeout},
};

use super::{Exporter, Failure};
use crate::events::{Event, EventId};

/// `EX_TEMPFAIL` of sysexits(3).
const LATER: i32 = 75;
const PATH: &str = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";
const USER: &str = "nobody";
/// Of what it says on stderr, for the log (bytes).
const SAID: usize = 1024;
/// For what it said last, when it has ended.
const LAST_WORDS: Duration = Duration::from_millis(200);
const MOST_AT_ONCE: usize = 64;

#[derive(Clone, Debug)]
pub struct Settings {
    path: PathBuf,
    args: Vec<String>,
    user: String,
    pub(super) at_once: usize,
    patience: Duration,
}

/// As it stands in the file of settings.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Said {
    path: PathBuf,
    #[serde(default)]
    args: Vec<String>,
    user: Option<String>,
    at_once: Option<usize>,
    timeout_ms: Option<u64>,
}

impl Said {
    pub(crate) fn settings(self) -> Result<Settings, String> {
        if !self.path.is_absolute() {
            return Err("path is that of a program, from / on".to_owned());
        }
        let at_once = self.at_once.unwrap_or(4);
        if !(1..=MOST_AT_ONCE).contains(&at_once) {
            return Err(format!("at_once is a whole number from 1 to {MOST_AT_ONCE}"));
        }
        let millis = self.timeout_ms.unwrap_or(10_000);
        if !(1..=60_000).contains(&millis) {
            return Err("timeout_ms is a whole number from 1 to 60000".to_owned());
        }
        let (path, args) = (self.path, self.args);
        let user = self.user.unwrap_or_else(|| USER.to_owned());
        Ok(Settings { path, args, user, at_once, patience: Duration::from_millis(millis) })
    }
}

pub(super) struct Program {
    run: Run,
    at_once: usize,
    /// Of those that were asked for and not all over, what is, and is not started again.
    over: HashSet<EventId>,
    /// How many of them have failed for good, and how the last of those did.
    failed: usize,
    said: String,
}

/// How it is started.
struct Run {
    path: PathBuf,
    args: Vec<String>,
    user: Option<User>,
    patience: Duration,
}

/// What came of one.
enum Ended {
    Done,
    Later(String),
    Failed(String),
}

impl Program {
    /// Looks its user up.
    pub(super) fn new(settings: &Settings) -> Result<Self, String> {
        let Settings { path, args, user: name, at_once, patience } = settings.clone();
        let found = User::from_name(&name).map_err(|error| format!("user {name}: {error}"))?;
        let found = found.ok_or_else(|| format!("there is no user {name} on this host"))?;
        // Who is that user already need not be root.
        let user = (found.uid != nix::unistd::geteuid()).then_some(found);
        let run = Run { path, args, user, patience };
        Ok(Self { run, at_once, over: HashSet::new(), failed: 0, said: String::new() })
    }
}

#[async_trait]
impl Exporter for Program {
    async fn send(&mut self, events: &[Arc<Event>]) -> Result<(), Failure> {
        let Self { run, at_once, over, failed, said } = self;
        let left: Vec<_> = events.iter().filter(|it| !over.contains(&it.id)).cloned().collect();
        let run = &*run;
        let ended =
            stream::iter(left).map(|event| async move { (event.id, run.once(&event).await) });
        let mut ended = ended.buffer_unordered(*at_once);
        let mut later = None;
        while let Some((id, ended)) = ended.next().await {
            match ended {
                Ended::Later(why) => {
                    later = Some(why);
                    continue;
                }
                Ended::Done => {}
                Ended::Failed(why) => {
                    *failed += 1;
                    *said = why;
                }
            }
            over.insert(id);
        }
        drop(ended);
        if let Some(why) = later {
            return Err(Failure::later(why));
        }
        self.over.clear();
        match (std::mem::take(&mut self.failed), std::mem::take(&mut self.said)) {
            (0, _) => Ok(()),
            (refused, why) => Err(Failure::Partly { refused, why }),
        }
    }
}

impl Run {
    async fn once(&self, event: &Event) -> Ended {
        let mut line = event.line();
        line.push(b'\n');
        let mut group = match self.start(event) {
            Ok(child) => Group(child),
            // What an operator mends.
            Err(error) => return Ended::Later(format!("{}: {error}", self.path.display())),
        };
        let (stdin, mut stderr) = (group.0.stdin.take(), group.0.stderr.take());
        let mut said = Vec::new();
        let ended = timeout(self.patience, async {
            let told = async {
                if let Some(mut stdin) = stdin {
                    // It may not want to know.
                    let _ = stdin.write_all(&line).await;
                }
            };
            let listened = async {
                if let Some(stderr) = &mut stderr {
                    listen(stderr, &mut said).await;
                }
            };
            // What it started may hold both pipes open when it has ended.
            tokio::select! {
                ended = group.0.wait() => ended,
                _ = async { tokio::join!(told, listened) } => group.0.wait().await,
            }
        });
        let ended = ended.await;
        if let Some(stderr) = &mut stderr {
            let _ = timeout(LAST_WORDS, listen(stderr, &mut said)).await;
        }
        self.judge(ended, &said)
    }

    fn start(&self, event: &Event) -> io::Result<Child> {
        let mut command = Command::new(&self.path);
        command.args(&self.args).current_dir("/").env_clear();
        command.env("PATH", PATH);
        command.env("COPPICE_EVENT_ID", event.id.to_string());
        command.env("COPPICE_EVENT_TYPE", event.what.kind());
        command.env("COPPICE_SANDBOX_ID", event.sandbox.to_string());
        if let Some(user) = &self.user {
            // And of no other group.
            command.uid(user.uid.as_raw()).gid(user.gid.as_raw());
        }
        command.stdin(Stdio::piped()).stdout(Stdio::null()).stderr(Stdio::piped());
        command.process_group(0).kill_on_drop(true).spawn()
    }

    fn judge(&self, ended: Result<io::Result<ExitStatus>, Elapsed>, said: &[u8]) -> Ended {
        let program = self.path.display();
        let said = match String::from_utf8_lossy(said).trim() {
            "" => String::new(),
            text => format!("; it said: {}", text.escape_debug()),
        };
        match ended {
            Err(_) => {
                let most = self.patience.as_millis();
                Ended::Failed(format!("{program}: not done within {most} ms{said}"))
            }
            Ok(Err(error)) => Ended::Later(format!("{program}: cannot wait for it: {error}")),
            Ok(Ok(status)) if status.success() => Ended::Done,
            Ok(Ok(status)) => {
                let why = format!("{program}: {status}{said}");
                if status.code() == Some(LATER) { Ended::Later(why) } else { Ended::Failed(why) }
            }
        }
    }
}

/// Reads to the end, and keeps as much as is told.
async fn listen(stderr: &mut ChildStderr, said: &mut Vec<u8>) {
    let mut some = [0; 512];
    while let Ok(length @ 1..) = stderr.read(&mut some).await {
        let room = SAID.saturating_sub(said.len());
        said.extend_from_slice(&some[..length.min(room)]);
    }
}

/// A program in a process group of its own, which is ended unless the program has ended by itself.
struct Group(Child);

impl Drop for Group {
    fn drop(&mut self) {
        if let Some(id) = self.0.id().and_then(|id| i32::try_from(id).ok()) {
            // Nobody has waited for it, so it is there, and the id is its own.
            let _ = killpg(Pid::from_raw(id), Signal::SIGKILL);
        }
    }
}

#[cfg(test)]
#[path = "program_tests.rs"]
mod tests;
