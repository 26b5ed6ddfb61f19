//! The operator's program that sets a record in the domain's zone and takes it away again.
//!
//! It has the gateway's rights and its environment without the gateway's own variables, some of
//! which are secret, and a bounded time, after which all that it started is ended.

use std::{env, path::PathBuf, process::Stdio, time::Duration};

use nix::{
    sys::signal::{Signal, killpg},
    unistd::Pid,
};
use tokio::{
    io::AsyncReadExt,
    process::{Child, ChildStderr, Command},
    time::timeout,
};

use super::Error;

/// It is to come back when the record can be seen, which with some providers takes minutes.
const PATIENCE: Duration = Duration::from_secs(5 * 60);
/// Of what it says, for the log.
const SAID: usize = 4096;
const LAST_WORDS: Duration = Duration::from_secs(1);

#[derive(Clone, Debug)]
pub(super) struct Hook(pub(super) PathBuf);

/// A record that is there, or may be.
#[derive(Debug)]
pub(super) struct Record {
    pub(super) name: String,
    pub(super) value: String,
}

impl Hook {
    pub(super) async fn present(&self, record: &Record) -> Result<(), Error> {
        self.call("present", record, PATIENCE).await
    }

    pub(super) async fn cleanup(&self, record: &Record) -> Result<(), Error> {
        self.call("cleanup", record, PATIENCE).await
    }

    async fn call(
        &self,
        what: &'static str,
        record: &Record,
        patience: Duration,
    ) -> Result<(), Error> {
        let error =
            |how| Err(Error::Hook { hook: self.0.clone(), what, name: record.name.clone(), how });
        let mut command = Command::new(&self.0);
        command.args([what, &record.name, &record.value]);
        for (name, _) in env::vars_os() {
            if name.as_encoded_bytes().starts_with(b"COPPICE_") {
                command.env_remove(name);
            }
        }
        command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::piped());
        command.process_group(0).kill_on_drop(true);
        let mut group = match command.spawn() {
            Ok(child) => Group(child),
            Err(source) => return error(format!("cannot start it: {source}")),
        };
        let mut stderr = group.0.stderr.take();
        let mut text = Vec::new();
        let ended = timeout(patience, async {
            tokio::select! {
                ended = group.0.wait() => return ended,
                () = read(stderr.as_mut(), &mut text) => {}
            }
            group.0.wait().await
        });
        let ended = ended.await;
        // What was said last may still be on its way; what is left running may hold the pipe open.
        let _ = timeout(LAST_WORDS, read(stderr.as_mut(), &mut text)).await;
        let said = match String::from_utf8_lossy(&text).trim() {
            "" => "it said nothing on stderr".to_owned(),
            text => format!("it said: {}", text.escape_debug()),
        };
        match ended {
            Err(_) => error(format!("not done within {} s; {said}", patience.as_secs())),
            Ok(Err(source)) => error(format!("cannot wait for it: {source}")),
            Ok(Ok(status)) if !status.success() => error(format!("{status}; {said}")),
            Ok(Ok(_)) => {
                tracing::debug!(hook = %self.0.display(), what, name = %record.name, said);
                Ok(())
            }
        }
    }
}

/// Reads to the end, and keeps as much as is told.
async fn read(stderr: Option<&mut ChildStderr>, text: &mut Vec<u8>) {
    let Some(stderr) = stderr else { return };
    let mut some = [0; 1024];
    while let Ok(length @ 1..) = stderr.read(&mut some).await {
        let room = SAID.saturating_sub(text.len());
        text.extend_from_slice(&some[..length.min(room)]);
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
mod tests {
    use std::{fs, path::Path};

    use super::*;

    fn hook(dir: &Path, script: &str) -> Hook {
        let path = dir.join("hook");
        // By another process: what another test starts meanwhile would inherit a file that is open
        // for writing here, and no system starts a program that is.
        let write = "printf '#!/bin/sh\\n%s\\n' \"$1\" >\"$0\" && chmod 700 \"$0\"";
        let mut shell = std::process::Command::new("/bin/sh");
        assert!(shell.arg("-c").arg(write).arg(&path).arg(script).status().unwrap().success());
        Hook(path)
    }

    fn record() -> Record {
        Record { name: "_acme-challenge.a.test".into(), value: "v-_1".into() }
    }

    async fn failure(script: &str, patience: Duration) -> String {
        let dir = tempfile::tempdir().unwrap();
        let hook = hook(dir.path(), script);
        hook.call("present", &record(), patience).await.unwrap_err().to_string()
    }

    #[tokio::test]
    async fn it_is_told_what_to_do_with_which_record() {
        let dir = tempfile::tempdir().unwrap();
        let hook = hook(dir.path(), "echo \"$# $*\" >>\"$0.said\"");
        hook.present(&record()).await.unwrap();
        hook.cleanup(&record()).await.unwrap();
        let said = fs::read_to_string(dir.path().join("hook.said")).unwrap();
        let args = "_acme-challenge.a.test v-_1\n";
        assert_eq!(said, format!("3 present {args}3 cleanup {args}"));
    }

    #[tokio::test]
    async fn why_it_failed_is_what_it_said_within_bounds() {
        let error = failure("echo no such zone >&2; exit 3", PATIENCE).await;
        assert!(error.contains("hook present _acme-challenge.a.test: exit status: 3"), "{error}");
        assert!(error.ends_with("it said: no such zone"), "{error}");
        let much = failure("head -c 1000000 /dev/zero | tr '\\0' x >&2; exit 1", PATIENCE).await;
        assert!((SAID..SAID + 500).contains(&much.len()), "{}", much.len());
        let missing = Hook("/no/such/hook".into()).present(&record()).await.unwrap_err();
        assert!(missing.to_string().contains("cannot start it"), "{missing}");
    }

    #[tokio::test]
    async fn it_ends_with_all_it_started_when_it_takes_too_long() {
        let dir = tempfile::tempdir().unwrap();
        let lock = fs::File::create(dir.path().join("lock")).unwrap();
        // Held by what the program starts, for as long as that runs.
        let script =
            format!("exec 9<{}; flock -s 9; sleep 600 & wait", dir.path().join("lock").display());
        let error = failure(&script, Duration::from_millis(300)).await;
        assert!(error.contains("not done within"), "{error}");
        tokio::task::spawn_blocking(move || lock.lock()).await.unwrap().unwrap();
    }
}
