//! A kernel's process: starting it until it answers, interrupting it, holding it up, its end.
//!
//! It runs as root of the sandbox in a session of its own, among the user's processes and their
//! limits, and is not among those that clients see. Its sockets and its connection file lie in a
//! directory that goes with it.

use std::{
    fs::{self, DirBuilder, File, OpenOptions},
    future::pending,
    io::{self, Read, Seek, SeekFrom, Write},
    os::unix::fs::{DirBuilderExt, OpenOptionsExt},
    path::{Path, PathBuf},
    sync::Arc,
    time::{Duration, Instant},
};

use nix::sys::signal::Signal;
use serde_json::json;
use tokio::{
    sync::oneshot,
    time::{sleep, timeout},
};

use super::{
    channel::Channel,
    request::{Execute, Key, RequestId, SILENT, Session, random},
    seldom::LOG,
    spec::{InterruptMode, KernelSpec},
    variables::Variables,
    zmtp::Kind,
};
use crate::{
    awake,
    os::Exit,
    process::{self, CHILDREN, Program, exit_words},
    state::Envd,
};

/// Holds a directory for each kernel. Short: a socket's path has little room.
const HOME: &str = "/run/e2b/kernel";

/// Until a kernel answers. A hundred of them may start at once on a small host.
const START: Duration = Duration::from_secs(240);

/// Between looks for its sockets.
const LOOK: Duration = Duration::from_millis(5);

/// For what it publishes to reach a subscriber that is new.
const SUBSCRIPTION: Duration = Duration::from_millis(300);

/// Between the end of a kernel's connections and its own.
const ENDING: Duration = Duration::from_secs(1);

/// For a message on the control socket to be taken.
const CONTROL: Duration = Duration::from_secs(5);

/// Of what a kernel that did not start had to say (bytes).
const LAST_WORDS: u64 = 2 << 10;

/// As the connection file numbers them; nobody reads the others.
const SHELL: u8 = 1;
const IOPUB: u8 = 2;
const CONTROL_PORT: u8 = 4;
const PORTS: std::ops::RangeInclusive<u8> = 1..=5;

/// Messages that wait to be published are never thrown away, however many: `zmq.SNDHWM` (23).
/// They would be when there are a thousand of them, and we are as slow as a busy host may be.
const KEEP_ALL_OUTPUT: &str = "if True: (lambda t: t.io_loop.add_callback(\
    lambda: t.socket.setsockopt(23, 0)))(get_ipython().kernel.iopub_thread)";

/// A kernel that answers.
pub(super) struct Kernel {
    pub(super) shell: Channel,
    pub(super) iopub: Channel,
    pub(super) life: Life,
    pub(super) variables: Variables,
}

/// The process itself; dropped, it is killed with its group.
pub(super) struct Life {
    pid: u32,
    exit: oneshot::Receiver<Exit>,
    ended: Option<Exit>,
    held: bool,
    interrupt_mode: InterruptMode,
    session: Arc<Session>,
    dir: Directory,
}

struct Directory(PathBuf);

/// Why there is no kernel.
#[derive(Debug)]
pub(super) struct Unstarted {
    /// For the client. Most of it is what something in the sandbox said.
    pub(super) why: String,
    pub(super) exit: Option<Exit>,
}

impl From<String> for Unstarted {
    fn from(why: String) -> Self {
        Self { why, exit: None }
    }
}

impl Unstarted {
    fn ended(exit: Exit, last_words: &str) -> Self {
        let why = format!("the kernel ended as it started: {}{last_words}", exit_words(exit));
        Self { why, exit: Some(exit) }
    }
}

impl Kernel {
    /// Starts one and returns when it answers.
    pub(super) async fn start(
        envd: &Envd,
        spec: &KernelSpec,
        language: &str,
        cwd: &str,
    ) -> Result<Self, Unstarted> {
        let starting = Self::try_start(envd, spec, language, cwd);
        let patience = START.as_secs();
        awake::timeout(START, starting).await.unwrap_or_else(|_| {
            Err(format!("the kernel does not answer within {patience} s").into())
        })
    }

    async fn try_start(
        envd: &Envd,
        spec: &KernelSpec,
        language: &str,
        cwd: &str,
    ) -> Result<Self, Unstarted> {
        let failed = |error: io::Error| format!("the kernel cannot be started: {error}");
        let dir = Directory::make().map_err(failed)?;
        let session =
            Session { key: Key::random().map_err(failed)?, id: random().map_err(failed)? };
        let connection = dir.connection_file(&session.key, &spec.name).map_err(failed)?;
        let log = dir.log().map_err(failed)?;
        let user = envd.user(Some("root")).map_err(|error| error.to_string())?;
        let settings = envd.settings();
        let program = Program {
            user: &user,
            command: spec.command(&connection),
            env: &process::environment(&user, &spec.env, settings.env.iter()),
            directory: cwd,
            output: log.try_clone().map_err(failed)?.into(),
        };
        let (pid, exit) = process::run(envd, program).await.map_err(|error| {
            error.message.unwrap_or_else(|| "the kernel cannot be started".into())
        })?;
        let mut life = Life {
            pid,
            exit,
            ended: None,
            held: false,
            interrupt_mode: spec.interrupt_mode,
            session: Arc::new(session),
            dir,
        };
        let connected = tokio::select! {
            connected = connect(&life.dir, life.session.clone()) => connected.map_err(failed)?,
            exit = wait(&mut life.exit, &mut life.ended) => {
                return Err(Unstarted::ended(exit, &last_words(log)));
            }
        };
        let (mut shell, mut iopub) = connected;
        tokio::select! {
            met = meet(&mut shell, &mut iopub, &spec.language) => met.map_err(failed)?,
            exit = life.end() => return Err(Unstarted::ended(exit, "")),
        }
        let own = process::environment(&user, &spec.env, [].into_iter());
        let variables = Variables::inherited(language, own, settings.env.clone());
        Ok(Self { shell, iopub, life, variables })
    }
}

/// Both channels, as soon as the kernel listens.
async fn connect(dir: &Directory, session: Arc<Session>) -> io::Result<(Channel, Channel)> {
    let shell = dir.connect(SHELL, Kind::Dealer, session.clone()).await?;
    let iopub = dir.connect(IOPUB, Kind::Sub, session).await?;
    Ok((shell, iopub))
}

/// Returns when answers and publications both come through.
async fn meet(shell: &mut Channel, iopub: &mut Channel, language: &str) -> io::Result<()> {
    loop {
        let request = RequestId::random()?;
        shell.send(&request, "kernel_info_request", &json!({})).await?;
        shell.next(&request).await?;
        // What was published before the subscription came is lost.
        if let Ok(heard) = timeout(SUBSCRIPTION, iopub.next(&request)).await {
            heard?;
            break;
        }
    }
    if language.eq_ignore_ascii_case("python") {
        let request = RequestId::random()?;
        let content = Execute { code: KEEP_ALL_OUTPUT, ..SILENT };
        shell.send(&request, "execute_request", &content).await?;
        shell.next(&request).await?;
    }
    Ok(())
}

impl Life {
    /// Of no process: there is only what is said of its end.
    #[cfg(test)]
    pub(super) fn of_nothing(exit: oneshot::Receiver<Exit>, session: Arc<Session>) -> Self {
        Self {
            pid: 0,
            exit,
            ended: None,
            held: false,
            interrupt_mode: InterruptMode::Signal,
            session,
            dir: Directory(PathBuf::from("/nonexistent")),
        }
    }

    /// How it ended, once it has. Can be given up and called again.
    pub(super) async fn end(&mut self) -> Exit {
        wait(&mut self.exit, &mut self.ended).await
    }

    /// The end of one whose connections broke: it is ending, or else it is ended.
    pub(super) async fn end_soon(&mut self, why: &io::Error) -> Option<Exit> {
        if let Ok(exit) = timeout(ENDING, self.end()).await {
            return Some(exit);
        }
        if LOG.has_turn(Instant::now()) {
            tracing::warn!(%why, "a kernel speaks nonsense");
        }
        None
    }

    /// Interrupts whatever it executes.
    pub(super) fn interrupt(&mut self) {
        match self.interrupt_mode {
            InterruptMode::Signal => CHILDREN.signal_group(self.pid, Signal::SIGINT),
            InterruptMode::Message => self.tell("interrupt_request", json!({})),
        }
        self.go_on();
    }

    /// Asks it to end by itself.
    pub(super) fn shut_down(&mut self) {
        self.tell("shutdown_request", json!({"restart": false}));
        self.go_on();
    }

    /// Ends it, with all that it started and that is still in its group.
    pub(super) fn kill(&self) {
        CHILDREN.signal_group(self.pid, Signal::SIGKILL);
    }

    /// Stops it where it is: nobody takes what it says, and it may have no end.
    pub(super) fn hold(&mut self) {
        if !self.held {
            self.held = true;
            CHILDREN.signal_group(self.pid, Signal::SIGSTOP);
        }
    }

    pub(super) fn go_on(&mut self) {
        if self.held {
            self.held = false;
            CHILDREN.signal_group(self.pid, Signal::SIGCONT);
        }
    }

    fn tell(&self, kind: &'static str, content: serde_json::Value) {
        let (path, session) = (self.dir.sockets(CONTROL_PORT), self.session.clone());
        tokio::spawn(timeout(CONTROL, async move {
            let told = async {
                let mut control = connect_any(&path, Kind::Dealer, session).await?;
                let request = RequestId::random()?;
                control.send(&request, kind, &content).await?;
                // The connection has to last until it has been read.
                control.next(&request).await
            };
            if let Err(error) = told.await {
                tracing::debug!(%error, kind, "the kernel was not told");
            }
        }));
    }
}

impl Drop for Life {
    fn drop(&mut self) {
        self.kill();
    }
}

async fn wait(exit: &mut oneshot::Receiver<Exit>, ended: &mut Option<Exit>) -> Exit {
    if let Some(exit) = *ended {
        return exit;
    }
    // The sender lives until the child has been collected.
    let Ok(exit) = exit.await else { return pending().await };
    *ended = Some(exit);
    exit
}

fn last_words(mut log: File) -> String {
    let mut text = Vec::new();
    let length = log.metadata().map_or(0, |metadata| metadata.len());
    let from = SeekFrom::Start(length.saturating_sub(LAST_WORDS));
    let read = log.seek(from).and_then(|_| (&log).take(LAST_WORDS).read_to_end(&mut text));
    match String::from_utf8_lossy(&text).trim() {
        "" => String::new(),
        _ if read.is_err() => String::new(),
        text => format!("\n{text}"),
    }
}

impl Directory {
    fn make() -> io::Result<Self> {
        DirBuilder::new().recursive(true).mode(0o700).create(HOME)?;
        let dir = Path::new(HOME).join(&random()?[..8]);
        DirBuilder::new().mode(0o700).create(&dir)?;
        Ok(Self(dir))
    }

    fn create(&self, name: &str) -> io::Result<File> {
        let mut options = OpenOptions::new();
        options.read(true).write(true).create_new(true).mode(0o600).open(self.0.join(name))
    }

    fn log(&self) -> io::Result<File> {
        self.create("log")
    }

    /// Says where the kernel is to listen; returns its path.
    fn connection_file(&self, key: &Key, kernel: &str) -> io::Result<String> {
        let prefix = self.0.join("s");
        let content = json!({
            "transport": "ipc",
            "ip": prefix,
            "shell_port": SHELL,
            "iopub_port": IOPUB,
            "stdin_port": 3,
            "control_port": CONTROL_PORT,
            "hb_port": 5,
            "signature_scheme": "hmac-sha256",
            "key": key.as_str(),
            "kernel_name": kernel,
        });
        self.create("c.json")?.write_all(content.to_string().as_bytes())?;
        Ok(self.0.join("c.json").to_string_lossy().into_owned())
    }

    /// The two ways to name the socket of a port; kernels do not agree.
    fn sockets(&self, port: u8) -> [PathBuf; 2] {
        ['-', ':'].map(|separator| self.0.join(format!("s{separator}{port}")))
    }

    async fn connect(&self, port: u8, kind: Kind, session: Arc<Session>) -> io::Result<Channel> {
        let paths = self.sockets(port);
        loop {
            match connect_any(&paths, kind, session.clone()).await {
                Err(error) if not_yet(&error) => sleep(LOOK).await,
                connected => return connected,
            }
        }
    }
}

async fn connect_any(
    paths: &[PathBuf; 2],
    kind: Kind,
    session: Arc<Session>,
) -> io::Result<Channel> {
    let path = paths.iter().find(|path| path.exists()).unwrap_or(&paths[0]);
    Channel::connect(path, kind, session).await
}

fn not_yet(error: &io::Error) -> bool {
    use io::ErrorKind::{ConnectionRefused, NotFound, WouldBlock};
    // The last: it listens, and others have filled its queue.
    matches!(error.kind(), NotFound | ConnectionRefused | WouldBlock)
}

impl Drop for Directory {
    fn drop(&mut self) {
        // One by one: whatever else somebody put there is not ours to look at.
        for path in PORTS.flat_map(|port| self.sockets(port)) {
            let _ = fs::remove_file(path);
        }
        for name in ["c.json", "log"] {
            let _ = fs::remove_file(self.0.join(name));
        }
        let _ = fs::remove_dir(&self.0);
    }
}
