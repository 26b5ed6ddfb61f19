//! Programs a template build runs: bounded in time, ended with all their descendants, their last
//! lines kept for the error.
//!
//! On Linux every program gets mount and pid namespaces of its own through `unshare(1)`, so that
//! whatever it mounted or left running goes with it; `setpriv(1)` ends it when the gateway dies.
//! FreeBSD has neither: there a shell holds the program on a leash, a pipe whose other end the
//! gateway has, and ends the process group when that is let go.

use std::{
    collections::VecDeque,
    ffi::{OsStr, OsString},
    io::{self, BufRead, BufReader, Read},
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    thread,
    time::{Duration, Instant},
};

use nix::{
    sys::signal::{Signal, killpg},
    unistd::Pid,
};
use tokio_util::sync::CancellationToken;

use super::recipe::ON_FREEBSD;

/// Lines of output an error carries.
const KEPT_LINES: usize = 20;

/// A line is cut here (bytes); the rest of it counts as the next one.
const LINE: u64 = 1024;

const POLL: Duration = Duration::from_millis(50);

/// What of the gateway's environment a program sees: how to reach the network, nothing else. The
/// gateway's own settings hold keys.
const PASSED: &[&str] = &[
    "http_proxy",
    "https_proxy",
    "no_proxy",
    "HTTP_PROXY",
    "HTTPS_PROXY",
    "NO_PROXY",
    "NODE_EXTRA_CA_CERTS",
    "PIP_INDEX_URL",
    "PIP_EXTRA_INDEX_URL",
    "PIP_TRUSTED_HOST",
    "PIP_DEFAULT_TIMEOUT",
    "HOME",
    "PATH",
];

/// Before a program: the image's modes are the packages', whatever the gateway's own mask.
const PLAIN: &str = "umask 022 && exec \"$@\"";

/// The same, ending with the one who holds the other end of stdin. A shell gives its background
/// processes `/dev/null` for a stdin, hence the copy.
const LEASH: &str = r#"umask 022
exec 3<&0 </dev/null
"$@" 3<&- &
program=$!
(read -r _ <&3; kill -KILL 0) &
watcher=$!
wait $program
status=$?
kill $watcher
exit $status"#;

#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error("cannot start {argv}: {source}")]
    Start { argv: String, source: io::Error },
    #[error("{argv}: {status}\n{output}")]
    Failed { argv: String, status: String, output: String },
    #[error("{argv} did not finish within {after:?}\n{output}")]
    Timeout { argv: String, after: Duration, output: String },
    #[error("the gateway is stopping")]
    Stopped,
}

/// One program and its arguments.
#[derive(Clone, Debug)]
pub(super) struct Tool {
    argv: Vec<OsString>,
    dir: PathBuf,
    env: Vec<(&'static str, OsString)>,
    limit: Duration,
}

impl Tool {
    pub(super) fn new(program: &str, dir: &Path, limit: Duration) -> Self {
        Self { argv: vec![program.into()], dir: dir.to_owned(), env: Vec::new(), limit }
    }

    pub(super) fn args<S: AsRef<OsStr>>(mut self, args: impl IntoIterator<Item = S>) -> Self {
        self.argv.extend(args.into_iter().map(|arg| arg.as_ref().to_owned()));
        self
    }

    pub(super) fn env(mut self, name: &'static str, value: impl Into<OsString>) -> Self {
        self.env.push((name, value.into()));
        self
    }

    /// Runs it to its end on this thread, which must be one that lives as long as the program:
    /// the kernel takes the end of the starting thread for the gateway's.
    pub(super) fn run(
        &self,
        stop: &CancellationToken,
        on_line: impl Fn(&str) + Send,
    ) -> Result<(), Error> {
        let argv = self.argv.join(OsStr::new(" ")).to_string_lossy().into_owned();
        let start = |source| Error::Start { argv: argv.clone(), source };
        let (reader, writer) = io::pipe().map_err(start)?;
        let child = self.command(writer).and_then(|mut command| command.spawn()).map_err(start)?;
        let mut group = Group(child);

        let (end, output) = thread::scope(|scope| {
            let output = scope.spawn(move || last_lines(reader, on_line));
            let end = group.wait(self.limit, stop);
            // All writers are gone with the group, so the reader sees the end of the pipe.
            drop(group);
            (end, output.join().unwrap_or_default())
        });
        match end.map_err(start)? {
            End::Exited(status) if status.success() => Ok(()),
            End::Exited(status) => Err(Error::Failed { argv, status: status.to_string(), output }),
            End::Late => Err(Error::Timeout { argv, after: self.limit, output }),
            End::Stopped => Err(Error::Stopped),
        }
    }

    fn command(&self, output: io::PipeWriter) -> io::Result<Command> {
        use std::os::unix::process::CommandExt;

        let mut command = if ON_FREEBSD { leashed() } else { in_namespaces() };
        command
            .args(&self.argv)
            .current_dir(&self.dir)
            .env_clear()
            .envs(PASSED.iter().filter_map(|name| Some((name, std::env::var_os(name)?))))
            .envs(self.env.iter().map(|(name, value)| (name, value)))
            .env("LC_ALL", "C.UTF-8")
            .stderr(output.try_clone()?)
            .stdout(output)
            .process_group(0);
        Ok(command)
    }
}

fn in_namespaces() -> Command {
    let mut command = Command::new("setpriv");
    command
        .args(["--pdeathsig", "KILL", "--", "unshare", "--mount", "--pid", "--fork"])
        .args(["--kill-child=KILL", "--mount-proc", "--", "sh", "-c", PLAIN, "sh"])
        .stdin(Stdio::null());
    command
}

fn leashed() -> Command {
    let mut command = Command::new("sh");
    command.args(["-c", LEASH, "sh"]).stdin(Stdio::piped());
    command
}

enum End {
    Exited(std::process::ExitStatus),
    Late,
    Stopped,
}

/// A child that leads a process group; dropping it ends the group.
struct Group(Child);

impl Group {
    fn wait(&mut self, limit: Duration, stop: &CancellationToken) -> io::Result<End> {
        let deadline = Instant::now() + limit;
        loop {
            if let Some(status) = self.0.try_wait()? {
                return Ok(End::Exited(status));
            }
            if stop.is_cancelled() {
                return Ok(End::Stopped);
            }
            if Instant::now() >= deadline {
                return Ok(End::Late);
            }
            thread::sleep(POLL);
        }
    }
}

impl Drop for Group {
    fn drop(&mut self) {
        if matches!(self.0.try_wait(), Ok(None)) {
            // Not reaped yet, so the number still is this group's.
            if let Ok(id) = i32::try_from(self.0.id()) {
                let _ = killpg(Pid::from_raw(id), Signal::SIGKILL);
            }
            let _ = self.0.wait();
        }
    }
}

/// Reads to the end; hands every line on and returns the last ones.
fn last_lines(input: impl Read, on_line: impl Fn(&str)) -> String {
    let mut input = BufReader::new(input);
    let mut kept = VecDeque::with_capacity(KEPT_LINES);
    let mut line = Vec::new();
    loop {
        line.clear();
        match input.by_ref().take(LINE).read_until(b'\n', &mut line) {
            Ok(0) | Err(_) => break,
            Ok(_) => {}
        }
        let text = String::from_utf8_lossy(&line);
        let text = text.trim_end();
        if text.is_empty() {
            continue;
        }
        on_line(text);
        if kept.len() == KEPT_LINES {
            kept.pop_front();
        }
        kept.push_back(text.to_owned());
    }
    Vec::from(kept).join("\n")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_last_lines_are_kept_and_long_ones_are_cut() {
        let mut text: String = (0..50).map(|n| format!("line {n}\n")).collect();
        text.push_str(&"x".repeat(3000));
        let kept = last_lines(text.as_bytes(), |_| {});
        let lines: Vec<&str> = kept.lines().collect();
        assert_eq!(lines.len(), KEPT_LINES);
        assert_eq!(lines[0], "line 33");
        assert!(lines.iter().all(|line| line.len() <= 1024));
    }

    #[test]
    fn every_line_is_handed_on_as_it_comes() {
        let seen = parking_lot::Mutex::new(Vec::new());
        last_lines("a\n\nb".as_bytes(), |line| seen.lock().push(line.to_owned()));
        assert_eq!(*seen.lock(), ["a", "b"]);
    }

    #[test]
    fn a_program_that_is_not_there_is_named() {
        let tool = Tool::new("no-such-program", Path::new("/"), Duration::from_secs(5));
        let error = tool.run(&CancellationToken::new(), |_| {}).unwrap_err();
        assert!(error.to_string().contains("no-such-program"), "{error}");
    }

    #[test]
    fn a_cancelled_program_is_not_waited_for() {
        let stop = CancellationToken::new();
        stop.cancel();
        let started = Instant::now();
        let tool = Tool::new("sleep", Path::new("/"), Duration::from_secs(60)).args(["60"]);
        assert!(tool.run(&stop, |_| {}).is_err());
        assert!(started.elapsed() < Duration::from_secs(5));
    }

    #[test]
    fn whatever_a_program_started_ends_with_it() {
        if !nix::unistd::geteuid().is_root() {
            eprintln!("skipped: namespaces take root");
            return;
        }
        let dir = tempfile::tempdir().unwrap();
        let script = "setsid sh -c 'echo started; sleep 2; echo > late' & sleep 60";
        let tool = Tool::new("sh", dir.path(), Duration::from_secs(30)).args(["-c", script]);
        let stop = CancellationToken::new();
        let error = tool.run(&stop, |_| stop.cancel()).unwrap_err();
        assert!(matches!(error, Error::Stopped), "{error}");
        thread::sleep(Duration::from_millis(2500));
        assert!(!dir.path().join("late").exists());
    }

    fn on_a_leash(script: &str) -> Command {
        use std::os::unix::process::CommandExt;

        let mut command = leashed();
        command.args(["sh", "-c", script]).process_group(0).stdout(Stdio::piped());
        command
    }

    #[test]
    fn a_program_on_a_leash_ends_as_it_does_without() {
        let mut group = Group(on_a_leash("umask; exit 7").spawn().unwrap());
        let end = group.wait(Duration::from_secs(30), &CancellationToken::new()).unwrap();
        let End::Exited(status) = end else { panic!("it did not end by itself") };
        assert_eq!(status.code(), Some(7));
        let mut said = String::new();
        // Read to the end: nothing that still runs holds the pipe.
        group.0.stdout.take().unwrap().read_to_string(&mut said).unwrap();
        assert_eq!(said.trim_end(), "0022");
    }

    #[test]
    fn a_program_on_a_leash_ends_with_who_holds_it() {
        let mut group = Group(on_a_leash("echo up; sleep 60 & sleep 60").spawn().unwrap());
        let mut output = BufReader::new(group.0.stdout.take().unwrap());
        let mut said = String::new();
        output.read_line(&mut said).unwrap();
        assert_eq!(said, "up\n");
        drop(group.0.stdin.take());
        // The end of the pipe: nobody is left who could write.
        output.read_to_string(&mut said).unwrap();
        let end = group.wait(Duration::from_secs(30), &CancellationToken::new()).unwrap();
        let End::Exited(status) = end else { panic!("it did not end") };
        assert!(!status.success());
    }

    #[test]
    fn a_program_that_hangs_is_ended_when_its_time_is_up() {
        let tool = Tool::new("sleep", Path::new("/"), Duration::from_millis(300)).args(["60"]);
        let error = tool.run(&CancellationToken::new(), |_| {}).unwrap_err();
        // Without root there are no namespaces to run it in.
        let late = matches!(error, Error::Timeout { .. });
        assert!(late || !nix::unistd::geteuid().is_root(), "{error}");
    }

    #[test]
    fn the_gateway_s_own_settings_are_not_passed_on() {
        if !nix::unistd::geteuid().is_root() {
            eprintln!("skipped: namespaces take root");
            return;
        }
        let seen = parking_lot::Mutex::new(String::new());
        Tool::new("env", Path::new("/"), Duration::from_secs(10))
            .env("GIVEN", "yes")
            .run(&CancellationToken::new(), |line| {
                *seen.lock() += line;
                *seen.lock() += "\n";
            })
            .unwrap();
        let seen = seen.into_inner();
        assert!(seen.contains("GIVEN=yes") && seen.contains("PATH="), "{seen}");
        // Cargo sets it for tests, as an operator sets COPPICE_API_KEYS.
        assert!(!seen.contains("CARGO_MANIFEST_DIR"), "{seen}");
    }
}
