//! Running the few programs of the base system that have no system call of their own: pfctl(8),
//! zfs(8). Never on the path of a create but where its caller says so.

use std::{
    io::{self, Read, Write},
    process::{Child, Command, ExitStatus, Stdio},
    sync::mpsc,
    thread,
    time::{Duration, Instant},
};

use super::error::Call;
use crate::backend::Error;

/// Of what a program may print; the rest is dropped.
const MOST: u64 = 1 << 20;
/// Between two looks at whether it has ended.
const LOOK: Duration = Duration::from_millis(2);
/// For what a program has printed to arrive once it has ended.
const DRAIN: Duration = Duration::from_secs(2);

/// Runs a program with this on its standard input, and returns what it printed. Blocks, at most
/// `patience` and a little. It must not be given more to read than a pipe holds (64 KiB) before it
/// reads. On failure the error has its arguments, its status and what it said.
pub(super) fn run(arguments: &[&str], input: &str, patience: Duration) -> Result<String, Error> {
    let mut running = Running::start(arguments, Stdio::piped())?;
    running.output = running.child.stdout.take().map(collect);
    running.finish(input, patience)
}

struct Running {
    child: Child,
    arguments: String,
    output: Option<mpsc::Receiver<Vec<u8>>>,
    complaint: Option<mpsc::Receiver<Vec<u8>>>,
}

impl Running {
    fn start(arguments: &[&str], input: Stdio) -> Result<Self, Error> {
        let (program, rest) = arguments.split_first().unwrap_or((&"", &[]));
        let mut command = Command::new(program);
        command.args(rest).stdin(input).stdout(Stdio::piped()).stderr(Stdio::piped());
        // A shell's settings are nothing to them, and their words are to be understood.
        command.env_clear().env("PATH", "/sbin:/bin:/usr/sbin:/usr/bin").env("LC_ALL", "C");
        let arguments = arguments.join(" ");
        let mut child = command.spawn().call("exec", &arguments)?;
        let complaint = child.stderr.take().map(collect);
        Ok(Self { child, arguments, output: None, complaint })
    }

    fn finish(mut self, input: &str, patience: Duration) -> Result<String, Error> {
        if let Some(mut stdin) = self.child.stdin.take() {
            // One that has ended without reading says why by its status.
            let _ = stdin.write_all(input.as_bytes());
        }
        let status = wait(&mut self.child, Instant::now() + patience);
        let source = match status {
            Ok(Some(status)) if status.success() => return Ok(text(self.output)),
            Ok(Some(status)) => {
                io::Error::other(format!("{status}: {}", text(self.complaint).trim()))
            }
            Ok(None) => io::Error::new(
                io::ErrorKind::TimedOut,
                format!("did not end within {patience:?}: {}", text(self.complaint).trim()),
            ),
            Err(error) => error,
        };
        Err(source).call("run", self.arguments)
    }
}

fn text(stream: Option<mpsc::Receiver<Vec<u8>>>) -> String {
    let bytes = stream.and_then(|stream| stream.recv_timeout(DRAIN).ok()).unwrap_or_default();
    String::from_utf8_lossy(&bytes).into_owned()
}

/// `None` for one that had to be ended.
fn wait(child: &mut Child, deadline: Instant) -> io::Result<Option<ExitStatus>> {
    loop {
        if let Some(status) = child.try_wait()? {
            return Ok(Some(status));
        }
        if Instant::now() >= deadline {
            end(child);
            return Ok(None);
        }
        thread::sleep(LOOK);
    }
}

fn end(child: &mut Child) {
    let _ = child.kill();
    let _ = child.wait();
}

/// Reads all of a stream, so that nobody waits for room in it, and keeps its beginning.
fn collect(stream: impl Read + Send + 'static) -> mpsc::Receiver<Vec<u8>> {
    let (tell, told) = mpsc::channel();
    thread::spawn(move || {
        let mut kept = Vec::new();
        let mut stream = stream.take(MOST);
        let _ = stream.read_to_end(&mut kept);
        let _ = io::copy(&mut stream.into_inner(), &mut io::sink());
        let _ = tell.send(kept);
    });
    told
}

#[cfg(test)]
mod tests {
    use super::*;

    const LONG: Duration = Duration::from_secs(60);

    #[test]
    fn what_a_program_prints_is_returned() {
        assert_eq!(run(&["cat"], "one\ntwo\n", LONG).unwrap(), "one\ntwo\n");
    }

    #[test]
    fn a_failure_says_what_was_run_and_what_it_said() {
        let error = run(&["sh", "-c", "echo no such pool >&2; exit 3"], "", LONG).unwrap_err();
        let text = error.to_string();
        assert!(text.contains("run sh -c") && text.contains("no such pool"), "{text}");
        assert!(text.contains('3'), "{text}");
        let error = run(&["/no/such/program", "-x"], "", LONG).unwrap_err().to_string();
        assert!(error.starts_with("exec /no/such/program -x: "), "{error}");
    }

    #[test]
    fn one_that_does_not_end_is_ended() {
        let error = run(&["sleep", "1000"], "", Duration::from_millis(20)).unwrap_err();
        assert!(error.to_string().contains("did not end within 20ms"), "{error}");
    }

    #[test]
    fn a_flood_of_output_neither_blocks_nor_is_kept() {
        let printed = run(&["head", "-c", "3000000", "/dev/zero"], "", LONG).unwrap();
        assert_eq!(printed.len() as u64, MOST);
    }
}
