//! From a Start request to a running program.

use std::{
    collections::BTreeMap,
    ffi::CString,
    io, mem,
    os::fd::{AsFd, OwnedFd},
    sync::Arc,
    time::{Duration, Instant},
};

use connectrpc::ConnectError;
use nix::{errno::Errno, fcntl::OFlag, sys::signal::Signal, unistd::pipe2};
use tokio::sync::oneshot;

use super::{
    children::CHILDREN,
    input::Input,
    running::{Process, Sources, Started},
    stream::Stream,
};
use crate::{
    attach,
    connect::proto::process::{PTY, ProcessConfig, StartRequest},
    os::{self, Exit, Plan, Standard, Step},
    paths,
    state::Envd,
    trace::{self, Traceparent},
    users::User,
};

/// How long a child may take to exec its program: it may be throttled or stopped meanwhile.
const EXEC_PATIENCE: Duration = Duration::from_secs(30);

/// Where programs are looked for when nothing says otherwise.
const PATH: &str = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";

/// A tag is held for as long as its process is remembered.
const MAX_TAG: usize = 1024;

/// Where the program is to run, as far as it can be said.
pub(super) fn directory(envd: &Envd, user: &User, config: &ProcessConfig) -> String {
    let cwd = config.cwd.as_deref().unwrap_or_default();
    paths::resolve(cwd, user, envd.settings().default_workdir.as_deref())
        .map_or_else(|_| cwd.to_owned(), |path| path.to_string_lossy().into_owned())
}

/// Starts the program as `user`; on success it runs. It is told whose doing it is, unless the
/// request says otherwise.
pub(super) async fn start(
    envd: &Envd,
    user: &User,
    request: &StartRequest,
    traceparent: Option<Traceparent>,
) -> Result<Started, ConnectError> {
    let config = &request.process;
    if config.cmd.is_empty() {
        return Err(ConnectError::invalid_argument("no command"));
    }
    if request.tag.as_ref().is_some_and(|tag| tag.len() > MAX_TAG) {
        let error = format!("tag is longer than {MAX_TAG} bytes");
        return Err(ConnectError::invalid_argument(error));
    }
    let settings = envd.settings();
    let cwd = config.cwd.as_deref().unwrap_or_default();
    let cwd = paths::resolve(cwd, user, settings.default_workdir.as_deref())
        .map_err(|error| ConnectError::invalid_argument(error.to_string()))?;
    let cwd = cwd.into_os_string().into_string().unwrap_or_default();
    let mut env = environment(user, &settings.env, config.envs.iter());
    if let Some(traceparent) = traceparent
        && !config.envs.contains_key(trace::VARIABLE)
    {
        env.insert(trace::VARIABLE.to_owned(), traceparent.to_string());
    }
    let path = env.get("PATH").map_or(PATH, |path| path);
    let strings = Strings {
        programs: c_strings(candidates(&config.cmd, path))?,
        args: c_strings([&config.cmd].into_iter().chain(&config.args).cloned())?,
        env: c_strings(env.iter().map(|(name, value)| format!("{name}={value}")))?,
        directory: c_strings([cwd.clone()])?.remove(0),
    };

    let (at, killed_before) = (Instant::now(), envd.gauges.killed_for_memory());
    let (channels, (pid, outcome, exit)) = if request.pty.is_set() {
        start_on_terminal(envd, user, strings, &request.pty)
    } else {
        start_on_pipes(envd, user, strings, request.stdin.unwrap_or(true))
    }
    .map_err(|error| cannot_start(&error))?;

    until_it_runs(pid, outcome, &config.cmd, &cwd).await?;
    let (input, sources) = channels;
    let process = Process::new(pid.unsigned_abs(), request.tag.clone(), input);
    Ok(Started { process, sources, exit, at, killed_before })
}

/// A program that envd runs for itself; no client sees it in a list.
pub(crate) struct Program<'a> {
    pub(crate) user: &'a User,
    pub(crate) command: Vec<String>,
    /// All of it, see [`environment`].
    pub(crate) env: &'a BTreeMap<String, String>,
    pub(crate) directory: &'a str,
    pub(crate) output: OwnedFd,
}

/// Starts it, with nothing to read, and returns when it runs: its pid, which is that of its group
/// as well, and how it ends.
///
/// # Errors
/// What kept it from running.
pub(crate) async fn run(
    envd: &Envd,
    program: Program<'_>,
) -> Result<(u32, oneshot::Receiver<Exit>), ConnectError> {
    let Program { user, command, env, directory, output } = program;
    let path = env.get("PATH").map_or(PATH, |path| path);
    let name = command.first().cloned().unwrap_or_default();
    let strings = Strings {
        programs: c_strings(candidates(&name, path))?,
        args: c_strings(command)?,
        env: c_strings(env.iter().map(|(name, value)| format!("{name}={value}")))?,
        directory: c_strings([directory.to_owned()])?.remove(0),
    };
    let fork = || {
        let input = std::fs::File::open("/dev/null")?.into();
        let standard = Standard::Streams([input, output.try_clone()?, output]);
        let plan = plan(envd, user, strings, standard);
        CHILDREN.start(|| os::fork(&plan))
    };
    let (pid, outcome, exit) = fork().map_err(|error| cannot_start(&error))?;
    until_it_runs(pid, outcome, &name, directory).await?;
    Ok((pid.unsigned_abs(), exit))
}

/// A child that may yet come to run. Dropped, it and its group are killed: nobody would know of it.
struct Unwatched(libc::pid_t);

impl Drop for Unwatched {
    fn drop(&mut self) {
        // Before it has a group of its own, and after.
        let _ = CHILDREN.signal(self.0, Signal::SIGKILL);
        CHILDREN.signal_group(self.0.unsigned_abs(), Signal::SIGKILL);
    }
}

/// Waits for the child to become its program. Given up, or in vain, the child is killed.
async fn until_it_runs(
    pid: libc::pid_t,
    outcome: OwnedFd,
    cmd: &str,
    cwd: &str,
) -> Result<(), ConnectError> {
    let unwatched = Unwatched(pid);
    match tokio::time::timeout(EXEC_PATIENCE, verdict(outcome)).await {
        Ok(Ok(None)) => {
            mem::forget(unwatched);
            Ok(())
        }
        Ok(Ok(Some((step, errno)))) => Err(failure(step, errno, cmd, cwd)),
        Ok(Err(error)) => Err(cannot_start(&error)),
        Err(_) => {
            let error = format!("no room to start a program within {} s", EXEC_PATIENCE.as_secs());
            Err(ConnectError::resource_exhausted(error))
        }
    }
}

type Channels = (Input, Sources);
type Forked = (libc::pid_t, OwnedFd, oneshot::Receiver<Exit>);

struct Strings {
    programs: Vec<CString>,
    args: Vec<CString>,
    env: Vec<CString>,
    directory: CString,
}

fn start_on_pipes(
    envd: &Envd,
    user: &User,
    strings: Strings,
    stdin: bool,
) -> io::Result<(Channels, Forked)> {
    let pipe = || pipe2(OFlag::O_CLOEXEC);
    let (their_stdin, input) = if stdin {
        let (theirs, ours) = pipe()?;
        (theirs, Input::pipe(Stream::new(ours)?))
    } else {
        (std::fs::File::open("/dev/null")?.into(), Input::closed())
    };
    let (stdout, their_stdout) = pipe()?;
    let (stderr, their_stderr) = pipe()?;
    let sources = Sources::Streams { stdout: Stream::new(stdout)?, stderr: Stream::new(stderr)? };
    let standard = Standard::Streams([their_stdin, their_stdout, their_stderr]);
    let plan = plan(envd, user, strings, standard);
    let forked = CHILDREN.start(|| os::fork(&plan))?;
    Ok(((input, sources), forked))
}

fn start_on_terminal(
    envd: &Envd,
    user: &User,
    strings: Strings,
    pty: &PTY,
) -> io::Result<(Channels, Forked)> {
    let (cols, rows) = size(pty);
    let mut ours = None;
    let (pid, outcome, exit) = CHILDREN.start(|| {
        let (controlling, theirs) = os::open(cols, rows, user.uid)?;
        ours = Some(controlling);
        os::fork(&plan(envd, user, strings, Standard::Terminal(theirs)))
    })?;
    let ours = ours.ok_or_else(|| io::Error::other("no terminal"))?;
    let stream = Arc::new(Stream::new(ours)?);
    let channels = (Input::terminal(stream.clone()), Sources::Terminal(stream));
    Ok((channels, (pid, outcome, exit)))
}

fn plan<'a>(envd: &'a Envd, user: &User, strings: Strings, standard: Standard) -> Plan<'a> {
    let Strings { programs, args, env, directory } = strings;
    // What it may ask first is how much memory is free.
    attach::refresh_meminfo(|| envd.gauges.memory_used());
    Plan {
        programs,
        args,
        env,
        directory,
        // Its line has been found by it, and no line has a zero in it.
        login: CString::new(user.name.as_str()).unwrap_or_default(),
        uid: user.uid,
        gid: user.gid,
        groups: user.groups(),
        cgroups: &envd.confines.cgroups,
        affinity: envd.confines.affinity,
        open_files: envd.confines.open_files,
        standard,
    }
}

/// Columns and rows; what a terminal cannot have is cut.
pub(super) fn size(pty: &PTY) -> (u16, u16) {
    let cut = |number: u32| u16::try_from(number).unwrap_or(u16::MAX);
    (cut(pty.size.cols), cut(pty.size.rows))
}

/// The user's own, the sandbox's, then the request's; the last wins.
pub(crate) fn environment<'a>(
    user: &User,
    sandbox: &'a BTreeMap<String, String>,
    request: impl Iterator<Item = (&'a String, &'a String)>,
) -> BTreeMap<String, String> {
    let own = [("PATH", PATH), ("HOME", &user.home), ("USER", &user.name), ("LOGNAME", &user.name)];
    let mut env: BTreeMap<_, _> =
        own.map(|(name, value)| (name.to_owned(), value.to_owned())).into();
    env.extend(sandbox.iter().chain(request).map(|(name, value)| (name.clone(), value.clone())));
    env.retain(|name, _| !name.is_empty() && !name.contains('='));
    env
}

/// What `cmd` can be: itself where it is a path, else one in each directory of `path`.
fn candidates(cmd: &str, path: &str) -> Vec<String> {
    if cmd.contains('/') {
        return vec![cmd.to_owned()];
    }
    path.split(':').filter(|dir| !dir.is_empty()).map(|dir| format!("{dir}/{cmd}")).collect()
}

fn c_strings(strings: impl IntoIterator<Item = String>) -> Result<Vec<CString>, ConnectError> {
    let all: Result<Vec<_>, _> = strings.into_iter().map(CString::new).collect();
    all.map_err(|_| {
        ConnectError::invalid_argument("command, arguments, environment and cwd cannot contain NUL")
    })
}

async fn verdict(outcome: OwnedFd) -> io::Result<Option<(Step, i32)>> {
    let outcome = os::watch(outcome)?;
    loop {
        let mut ready = outcome.readable().await?;
        if let Ok(verdict) = ready.try_io(|outcome| os::verdict(outcome.get_ref().as_fd())) {
            return verdict;
        }
    }
}

/// The child said what it could not do.
fn failure(step: Step, errno: i32, cmd: &str, cwd: &str) -> ConnectError {
    let errno = Errno::from_raw(errno);
    let says = errno.desc().to_lowercase();
    match step {
        Step::Directory if errno == Errno::ENOENT => {
            ConnectError::invalid_argument(format!("cwd '{cwd}' does not exist"))
        }
        Step::Directory => ConnectError::invalid_argument(format!("cwd '{cwd}': {says}")),
        Step::Exec if errno == Errno::ENOENT && !cmd.contains('/') => {
            let error = format!("exec: \"{cmd}\": executable file not found in $PATH");
            ConnectError::invalid_argument(error)
        }
        Step::Exec if matches!(errno, Errno::EAGAIN | Errno::ENOMEM) => {
            ConnectError::resource_exhausted(format!("fork/exec {cmd}: {says}"))
        }
        Step::Exec => ConnectError::invalid_argument(format!("fork/exec {cmd}: {says}")),
        Step::ProcessTable => process_table_full(),
        Step::JoinCgroup | Step::Session | Step::Descriptors | Step::Identity => {
            ConnectError::internal(format!("error starting process: {step:?}: {says}"))
        }
    }
}

/// It did not come to a child.
fn cannot_start(error: &io::Error) -> ConnectError {
    let errno = error.raw_os_error().map(Errno::from_raw);
    match errno {
        Some(Errno::EAGAIN) => process_table_full(),
        Some(Errno::ENOMEM | Errno::EMFILE | Errno::ENFILE | Errno::ENOSPC) => {
            ConnectError::resource_exhausted(format!("error starting process: {error}"))
        }
        _ => ConnectError::internal(format!("error starting process: {error}")),
    }
}

fn process_table_full() -> ConnectError {
    ConnectError::resource_exhausted("the sandbox's process table is full")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_request_has_the_last_word_on_the_environment() {
        let user = User { name: "user".into(), uid: 1000, gid: 1000, home: "/home/user".into() };
        let strings = |pairs: &[(&str, &str)]| -> BTreeMap<String, String> {
            pairs.iter().map(|(name, value)| ((*name).into(), (*value).into())).collect()
        };
        let sandbox = strings(&[("E2B_SANDBOX", "true"), ("HOME", "/srv"), ("A", "sandbox")]);
        let request = strings(&[("A", "request"), ("", "x"), ("B=C", "x")]);
        let expect = strings(&[
            ("A", "request"),
            ("E2B_SANDBOX", "true"),
            ("HOME", "/srv"),
            ("LOGNAME", "user"),
            ("PATH", PATH),
            ("USER", "user"),
        ]);
        assert_eq!(environment(&user, &sandbox, request.iter()), expect);
    }

    #[test]
    fn a_plain_name_is_looked_for_in_path() {
        assert_eq!(candidates("ls", "/a::/b"), ["/a/ls", "/b/ls"]);
        assert_eq!(candidates("./ls", "/a"), ["./ls"]);
    }

    #[tokio::test]
    async fn a_child_that_is_given_up_before_it_runs_is_killed() {
        use std::os::unix::process::{CommandExt as _, ExitStatusExt as _};

        for group in [true, false] {
            let (outcome, _never) = pipe2(OFlag::O_CLOEXEC | OFlag::O_NONBLOCK).unwrap();
            let mut command = std::process::Command::new("sleep");
            command.arg("100");
            if group {
                command.process_group(0);
            }
            let start = || {
                let child = command.spawn()?;
                Ok((child.id() as libc::pid_t, child))
            };
            let (pid, mut child, _exit) = CHILDREN.start(start).unwrap();
            let running = until_it_runs(pid, outcome, "sleep", "/");
            assert!(tokio::time::timeout(Duration::from_millis(20), running).await.is_err());
            let status = tokio::task::spawn_blocking(move || child.wait()).await.unwrap();
            assert_eq!(status.unwrap().signal(), Some(libc::SIGKILL));
        }
    }
}
