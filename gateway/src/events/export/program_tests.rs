use std::{
    fs,
    path::Path,
    time::{Duration, Instant},
};

use super::*;
use crate::{
    events::{New, What},
    sandbox::{SandboxId, Tenant},
};

fn event(n: u64) -> Arc<Event> {
    let what = What::FileRead { path: "/x".into(), size_bytes: n };
    let new = New::of(SandboxId::random(), Tenant::default(), "base", what);
    let events = crate::events::Events::default();
    let mut heard = events.subscribe("test", "*".parse().unwrap(), crate::events::Room::default());
    events.emit(new);
    let heard = futures_util::FutureExt::now_or_never(heard.next());
    match heard {
        Some(crate::events::Next::Event(event)) => event,
        other => panic!("{other:?}"),
    }
}

/// A program that says in `said`, below the directory it is given, what it was told.
fn program(dir: &Path, script: &str, more: &str) -> Program {
    let path = dir.join("program");
    // By another process: what another test starts meanwhile would inherit a file that is open for
    // writing here, and no system starts a program that is.
    let write = "printf '#!/bin/sh\\ncd \"$1\"\\n%s\\n' \"$1\" >\"$0\" && chmod 700 \"$0\"";
    let mut shell = std::process::Command::new("/bin/sh");
    assert!(shell.arg("-c").arg(write).arg(&path).arg(script).status().unwrap().success());
    let user = nix::unistd::User::from_uid(nix::unistd::geteuid()).unwrap().unwrap().name;
    let toml = format!("path = {path:?}\nargs = [{dir:?}]\nuser = {user:?}\n{more}");
    Program::new(&toml::from_str::<Said>(&toml).unwrap().settings().unwrap()).unwrap()
}

fn said(dir: &Path, file: &str) -> String {
    fs::read_to_string(dir.join(file)).unwrap_or_default()
}

#[tokio::test]
async fn it_is_given_each_event_and_nothing_of_the_gateways() {
    let dir = tempfile::tempdir().unwrap();
    let mut program = program(dir.path(), "cat >>\"$COPPICE_EVENT_ID\"; env >>env; pwd >>pwd", "");
    let events = [event(1), event(2)];
    program.send(&events).await.unwrap();
    for event in &events {
        let line = said(dir.path(), &event.id.to_string());
        assert_eq!(serde_json::from_str::<Event>(&line).unwrap(), **event);
        assert!(line.ends_with("}\n"));
    }
    let env = said(dir.path(), "env");
    let mut names: Vec<_> = env.lines().filter_map(|line| Some(line.split_once('=')?.0)).collect();
    names.sort_unstable();
    names.dedup();
    // The shell has some of its own.
    names.retain(|name| !["PWD", "OLDPWD", "SHLVL", "_"].contains(name));
    assert_eq!(names, ["COPPICE_EVENT_ID", "COPPICE_EVENT_TYPE", "COPPICE_SANDBOX_ID", "PATH"]);
    assert!(env.contains("COPPICE_EVENT_TYPE=file.read\n"));
}

#[tokio::test]
async fn its_status_says_whether_it_is_tried_again_and_what_is_over_is_not() {
    let dir = tempfile::tempdir().unwrap();
    let script = "echo \"$COPPICE_EVENT_ID\" >>runs; read line
        case $line in
        *'\"sizeBytes\":1}'*) exit 0 ;;
        *'\"sizeBytes\":2}'*) echo not this one >&2; exit 3 ;;
        *) [ -e mended ] || { echo in a minute >&2; exit 75; } ;;
        esac";
    let mut program = program(dir.path(), script, "");
    let events = [event(1), event(2), event(3)];
    let Err(Failure::Later { why, .. }) = program.send(&events).await else { panic!() };
    assert!(why.ends_with("exit status: 75; it said: in a minute"), "{why}");
    fs::write(dir.path().join("mended"), "").unwrap();
    let Err(Failure::Partly { refused: 1, why }) = program.send(&events).await else { panic!() };
    assert!(why.ends_with("exit status: 3; it said: not this one"), "{why}");
    let runs = said(dir.path(), "runs");
    let times = events.map(|event| runs.matches(&event.id.to_string()).count());
    assert_eq!(times, [1, 1, 2]);
    // Which is of that batch alone.
    program.send(&[event(1)]).await.unwrap();
}

#[tokio::test]
async fn some_run_at_once_and_one_that_takes_too_long_is_ended_with_all_it_started() {
    let dir = tempfile::tempdir().unwrap();
    let script = "echo >>begun; sleep 600 & echo $! >>children; wait";
    let mut program = program(dir.path(), script, "at_once = 2\ntimeout_ms = 400");
    let begun = Instant::now();
    let sent = program.send(&[event(1), event(2), event(3), event(4)]).await;
    let Err(Failure::Partly { refused: 4, why }) = sent else { panic!("{sent:?}") };
    assert!(why.contains("not done within 400 ms"), "{why}");
    assert!(begun.elapsed() >= Duration::from_millis(800), "{:?}", begun.elapsed());
    for child in said(dir.path(), "children").lines() {
        let pid = nix::unistd::Pid::from_raw(child.parse().unwrap());
        // Nobody waits for it but this system's first process, which does in its own time.
        for _ in 0..500 {
            if nix::sys::signal::kill(pid, None).is_err() {
                break;
            }
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        assert!(nix::sys::signal::kill(pid, None).is_err(), "{pid} runs");
    }
}

#[tokio::test]
async fn one_that_does_not_listen_or_says_too_much_or_is_not_there_is_borne() {
    let dir = tempfile::tempdir().unwrap();
    program(dir.path(), "exec <&-; exit 0", "").send(&[event(1)]).await.unwrap();
    let loud = "head -c 1000000 /dev/zero | tr '\\0' x >&2; exit 1";
    let sent = program(dir.path(), loud, "").send(&[event(1)]).await;
    let Err(Failure::Partly { why, .. }) = sent else { panic!("{sent:?}") };
    assert!((SAID..SAID + 300).contains(&why.len()), "{}", why.len());
    let mut gone = program(dir.path(), "", "");
    fs::remove_file(dir.path().join("program")).unwrap();
    assert!(matches!(gone.send(&[event(1)]).await, Err(Failure::Later { .. })));
}

#[test]
fn settings_say_what_is_wrong_with_them() {
    for (toml, why) in [
        ("path = \"x\"", "path is that of a program"),
        ("path = \"/x\"\nat_once = 65", "at_once"),
        ("path = \"/x\"\ntimeout_ms = 0", "timeout_ms"),
        ("path = \"/x\"\nshell = true", "unknown field `shell`"),
        ("", "missing field `path`"),
    ] {
        let said = toml::from_str::<Said>(toml).map_err(|error| error.to_string());
        let error = said.and_then(Said::settings).unwrap_err();
        assert!(error.contains(why), "{error}");
    }
    let toml = "path = \"/x\"\nuser = \"no-such-user\"";
    let settings = toml::from_str::<Said>(toml).unwrap().settings().unwrap();
    assert!(Program::new(&settings).err().unwrap().contains("there is no user no-such-user"));
}
