//! Processes over raw Connect, as the SDKs speak it.

#![allow(clippy::unwrap_used)]

mod common;

use std::time::{Duration, Instant};

use common::{Frame, PATIENCE, Server, b64, ended_well, eventually};
use serde_json::json;

#[tokio::test]
async fn a_command_says_its_output_and_its_end() {
    let server = Server::start();
    let mut stream = server.sh("echo hello").await;
    assert_eq!(stream.headers["content-type"], "application/connect+json");
    for absent in ["content-length", "content-encoding", "connect-content-encoding"] {
        assert!(!stream.headers.contains_key(absent), "{absent}");
    }
    assert!(stream.pid().await >= 1);
    assert_eq!(stream.event().await, json!({"data": {"stdout": b64("hello\n")}}));
    assert_eq!(stream.event().await, json!({"end": ended_well()}));
    assert_eq!(stream.next().await, Frame::End(json!({})));
}

#[tokio::test]
async fn an_exit_code_and_stderr_arrive() {
    let server = Server::start();
    let finished = server.sh("echo oops >&2; exit 3").await.finish().await;
    assert_eq!(finished.stderr, b"oops\n");
    assert_eq!(
        finished.end,
        json!({"exitCode": 3, "exited": true, "status": "exit status 3", "error": "exit status 3"})
    );
    assert!(finished.error.is_null());
}

#[tokio::test]
async fn a_signal_is_told_in_gos_words() {
    let server = Server::start();
    for (signal, says) in
        [("TERM", "terminated"), ("SEGV", "segmentation fault"), ("ABRT", "aborted")]
    {
        let finished = server.sh(&format!("ulimit -c 0; kill -{signal} $$")).await.finish().await;
        let says = format!("signal: {says}");
        assert_eq!(finished.end, json!({"exitCode": -1, "status": says, "error": says}));
    }
}

#[tokio::test]
async fn large_output_comes_whole_and_in_bounded_chunks() {
    let server = Server::start();
    let finished = server.sh("head -c 5000000 /dev/zero").await.finish().await;
    assert_eq!(finished.stdout.len(), 5_000_000);
    assert!(finished.largest <= 32 << 10, "{}", finished.largest);
    assert_eq!(finished.end, ended_well());
}

#[tokio::test]
async fn stdin_is_an_open_pipe_unless_refused() {
    let server = Server::start();
    let mut stream = server.start_sh("cat", &[], json!({})).await;
    let process = json!({"pid": stream.pid().await});
    for text in ["one ", "two"] {
        let body = json!({"process": process, "input": {"stdin": b64(text)}});
        assert_eq!(server.unary("SendInput", body).await, (200, json!({})));
    }
    let close = json!({"process": process});
    assert_eq!(server.unary("CloseStdin", close.clone()).await, (200, json!({})));
    let finished = stream.finish().await;
    assert_eq!(finished.out(), "one two");
    assert_eq!(finished.end, ended_well());
}

#[tokio::test]
async fn stdin_false_reads_its_end_at_once() {
    let server = Server::start();
    let mut stream = server.sh("cat; sleep 5").await;
    let pid = stream.pid().await;
    let body = json!({"process": {"pid": pid}, "input": {"stdin": b64("x")}});
    let error = json!({
        "code": "internal",
        "message": "error writing to stdin: stdin not enabled or closed"
    });
    assert_eq!(server.unary("SendInput", body).await, (500, error));
    let body = json!({"process": {"pid": pid}, "input": {"pty": b64("x")}});
    let (status, error) = server.unary("SendInput", body).await;
    assert_eq!((status, &error["code"]), (500, &json!("internal")));
    let kill = json!({"process": {"pid": pid}, "signal": "SIGNAL_SIGKILL"});
    assert_eq!(server.unary("SendSignal", kill).await.0, 200);
}

#[tokio::test]
async fn stream_input_takes_megabytes() {
    let server = Server::start();
    let mut stream = server.start_sh("wc -c", &[], json!({})).await;
    let process = json!({"pid": stream.pid().await});
    let mut body = common::envelope(&json!({"start": {"process": process}})).to_vec();
    let data = b64(vec![b'x'; 4 << 20]);
    for _ in 0..2 {
        body.extend(common::envelope(&json!({"data": {"input": {"stdin": data}}})));
        body.extend(common::envelope(&json!({"keepalive": {}})));
    }
    let headers = [("content-type", "application/connect+json")];
    let request = common::request("POST", "/process.Process/StreamInput", &headers, body.into());
    let response = server.send(request).await;
    assert_eq!(response.status(), 200);
    let answer = http_body_util::BodyExt::collect(response.into_body()).await.unwrap().to_bytes();
    assert_eq!(&answer[..], b"\x00\x00\x00\x00\x02{}\x02\x00\x00\x00\x02{}");
    let body = json!({"process": process, "input": {"stdin": data}});
    assert_eq!(server.unary("SendInput", body).await, (200, json!({})));
    server.unary("CloseStdin", json!({"process": process})).await;
    assert_eq!(stream.finish().await.out().trim(), (12 << 20).to_string());
}

#[tokio::test]
async fn a_terminal_has_a_size_and_an_input_and_can_be_killed() {
    let server = Server::start();
    let body = json!({
        "process": {"cmd": "/bin/sh", "args": ["-i"], "envs": {"TERM": "xterm", "PS1": "$ "}},
        "pty": {"size": {"cols": 91, "rows": 17}},
    });
    let mut stream = server.call("Start", &[], body).await;
    let process = json!({"pid": stream.pid().await});
    let typed = |text: &str| json!({"process": process, "input": {"pty": b64(text)}});
    server.unary("SendInput", typed("stty size; tty; echo pid=$$\n")).await;
    let resize = json!({"process": process, "pty": {"size": {"cols": 40, "rows": 10}}});
    tokio::time::sleep(Duration::from_millis(300)).await;
    assert_eq!(server.unary("Update", resize).await, (200, json!({})));
    let stdin = json!({"process": process, "input": {"stdin": b64("x")}});
    assert_eq!(server.unary("SendInput", stdin).await.1["code"], "internal");
    let close = server.unary("CloseStdin", json!({"process": process})).await;
    assert_eq!((close.0, &close.1["code"]), (500, &json!("unknown")));
    assert!(close.1["message"].as_str().unwrap().starts_with("error closing stdin: "));
    server.unary("SendInput", typed("stty size; exit 4\n")).await;
    let finished = stream.finish().await;
    let text = finished.terminal();
    for expect in ["17 91", "10 40", "/dev/pts/", &format!("pid={}", process["pid"])] {
        assert!(text.contains(expect), "{expect:?} in {text}");
    }
    assert!(finished.largest <= 16 << 10);
    assert_eq!(finished.end["exitCode"], 4);
}

#[tokio::test]
async fn resizing_what_is_no_terminal_is_an_error() {
    let server = Server::start();
    let mut stream = server.sh("sleep 60").await;
    let process = json!({"pid": stream.pid().await});
    let resize = json!({"process": process, "pty": {"size": {"cols": 40, "rows": 10}}});
    assert_eq!(server.unary("Update", resize).await.1["code"], "internal");
    let kill = json!({"process": process, "signal": 9});
    assert_eq!(server.unary("SendSignal", kill).await, (200, json!({})));
    stream.finish().await;
}

#[tokio::test]
async fn a_kill_ends_it_at_once_even_with_children_on_its_pipes() {
    let server = Server::start();
    let mut stream = server.sh("echo before; sleep 60 & sleep 60").await;
    let pid = stream.pid().await;
    assert_eq!(server.pids().await, [pid]);
    assert_eq!(stream.event().await["data"]["stdout"], b64("before\n"));
    let start = Instant::now();
    let kill = json!({"process": {"pid": pid}, "signal": "SIGNAL_SIGKILL"});
    assert_eq!(server.unary("SendSignal", kill.clone()).await, (200, json!({})));
    let finished = stream.finish().await;
    assert!(start.elapsed() < Duration::from_secs(5));
    assert_eq!(
        finished.end,
        json!({"exitCode": -1, "status": "signal: killed", "error": "signal: killed"})
    );
    let (status, error) = server.unary("SendSignal", kill).await;
    let message = format!("process with pid {pid} not found");
    assert_eq!((status, error), (404, json!({"code": "not_found", "message": message})));
    let other = json!({"process": {"pid": pid}, "signal": "SIGNAL_UNSPECIFIED"});
    assert_eq!(server.unary("SendSignal", other).await.0, 404);
}

#[tokio::test]
async fn a_background_child_holds_the_end_back() {
    let server = Server::start();
    let start = Instant::now();
    let finished = server.sh("(sleep 1; echo late) & echo early").await.finish().await;
    assert!(start.elapsed() >= Duration::from_secs(1));
    assert_eq!(finished.out(), "early\nlate\n");
    assert_eq!(finished.end, ended_well());
}

#[tokio::test]
async fn killing_what_has_exited_lets_go_of_its_children() {
    let server = Server::start();
    let mut stream = server.sh("sleep 60 & echo done").await;
    let pid = stream.pid().await;
    stream.event().await;
    tokio::time::sleep(Duration::from_millis(100)).await;
    assert_eq!(server.pids().await, [pid], "not ended while its child holds the pipe");
    let kill = json!({"process": {"pid": pid}, "signal": "SIGNAL_SIGTERM"});
    assert_eq!(server.unary("SendSignal", kill).await.0, 200);
    assert_eq!(stream.finish().await.end, ended_well());
}

#[tokio::test]
async fn the_timeout_kills_the_process_and_ends_the_stream() {
    let server = Server::start();
    let timeout = [("connect-timeout-ms", "300")];
    let stream = server.start_sh("echo x; sleep 60 & sleep 60", &timeout, json!({})).await;
    let start = Instant::now();
    let finished = stream.finish().await;
    assert_eq!(finished.error["code"], "deadline_exceeded");
    assert!(finished.end.is_null());
    assert_eq!(finished.out(), "x\n");
    assert!(start.elapsed() < Duration::from_secs(5));
    eventually("the process is gone", async || server.pids().await.is_empty()).await;
}

#[tokio::test]
async fn the_timeout_reaches_a_process_whose_client_is_gone() {
    let server = Server::start();
    let timeout = [("connect-timeout-ms", "300")];
    let mut stream = server.start_sh("sleep 60", &timeout, json!({})).await;
    let pid = stream.pid().await;
    drop(stream);
    assert_eq!(server.pids().await, [pid]);
    eventually("the process is gone", async || server.pids().await.is_empty()).await;
    let finished =
        server.call("Connect", &[], json!({"process": {"pid": pid}})).await.finish().await;
    assert_eq!(finished.end["status"], "signal: killed");
}

#[tokio::test]
async fn without_a_timeout_or_with_zero_there_is_none() {
    let server = Server::start();
    for headers in [&[][..], &[("connect-timeout-ms", "0")][..]] {
        let finished = server.start_sh("sleep 0.3", headers, json!({})).await.finish().await;
        assert_eq!(finished.end, ended_well());
    }
}

#[tokio::test]
async fn a_connects_timeout_ends_its_stream_only() {
    let server = Server::start();
    let mut stream = server.sh("sleep 1").await;
    let pid = stream.pid().await;
    let timeout = [("connect-timeout-ms", "200")];
    let connect = server.call("Connect", &timeout, json!({"process": {"pid": pid}})).await;
    let finished = connect.finish().await;
    assert_eq!((finished.pid, &finished.error["code"]), (Some(pid), &json!("deadline_exceeded")));
    assert_eq!(stream.finish().await.end, ended_well());
}

#[tokio::test]
async fn all_who_are_connected_hear_the_same() {
    let server = Server::start();
    let mut first = server.start_sh("read x; echo $x; exit 2", &[], json!({"tag": "twins"})).await;
    let pid = first.pid().await;
    let mut second = server.call("Connect", &[], json!({"process": {"tag": "twins"}})).await;
    assert_eq!(second.pid().await, pid);
    let input = json!({"process": {"tag": "twins"}, "input": {"stdin": b64("hi\n")}});
    assert_eq!(server.unary("SendInput", input).await.0, 200);
    for stream in [first, second] {
        let finished = stream.finish().await;
        assert_eq!((finished.out().as_str(), &finished.end["exitCode"]), ("hi\n", &json!(2)));
    }
}

#[tokio::test]
async fn after_the_end_a_connect_hears_start_and_end() {
    let server = Server::start();
    let finished =
        server.start_sh("echo gone; exit 7", &[], json!({"tag": "t"})).await.finish().await;
    for process in [json!({"pid": finished.pid}), json!({"tag": "t"})] {
        let again = server.call("Connect", &[], json!({"process": process})).await.finish().await;
        assert_eq!((again.pid, again.out().as_str()), (finished.pid, ""));
        assert_eq!(again.end["exitCode"], 7);
    }
    let error =
        server.call("Connect", &[], json!({"process": {"tag": "x"}})).await.finish().await.error;
    assert_eq!(error, json!({"code": "not_found", "message": "process with tag x not found"}));
}

#[tokio::test]
async fn a_silent_process_gives_signs_of_life() {
    let server = Server::start();
    let every_second = [("keepalive-ping-interval", "1")];
    let finished = server.start_sh("sleep 2.5", &every_second, json!({})).await.finish().await;
    assert_eq!(finished.keepalives, 2);
    let busy = "for i in 1 2 3 4 5 6; do echo $i; sleep 0.4; done";
    let finished = server.start_sh(busy, &every_second, json!({})).await.finish().await;
    assert_eq!(finished.keepalives, 0, "data resets the timer");
}

#[tokio::test]
async fn a_client_that_goes_away_kills_nothing_and_blocks_nothing() {
    let server = Server::start();
    let file = tempfile::NamedTempFile::new().unwrap();
    let path = file.path().display();
    let mut stream =
        server.sh(&format!("sleep 0.2; head -c 3000000 /dev/zero; echo survived > {path}")).await;
    stream.pid().await;
    drop(stream);
    eventually("it ran to its end", async || {
        std::fs::read_to_string(file.path()).unwrap() == "survived\n"
    })
    .await;
}

#[tokio::test]
async fn a_slow_client_holds_the_process_back_and_not_envd() {
    let server = Server::start();
    let mut stream = server.sh("head -c 50000000 /dev/zero; echo end >&2").await;
    let pid = stream.pid().await;
    tokio::time::sleep(Duration::from_millis(300)).await;
    assert_eq!(server.pids().await, [pid], "still has much to write");
    let finished = stream.finish().await;
    assert_eq!((finished.stdout.len(), &finished.stderr[..]), (50_000_000, &b"end\n"[..]));
}

#[tokio::test]
async fn a_kill_ends_it_at_once_even_with_clients_that_do_not_read() {
    let server = Server::start();
    let mut reads = server.sh("exec yes").await;
    let process = json!({"pid": reads.pid().await});
    let mut stuck = Vec::new();
    for _ in 0..2 {
        stuck.push(server.call("Connect", &[], json!({"process": process})).await);
    }
    let reading = tokio::spawn(reads.finish());
    // Long enough for all that is on the way to them to fill up.
    tokio::time::sleep(Duration::from_secs(1)).await;
    let at = std::time::Instant::now();
    let kill = json!({"process": process, "signal": "SIGNAL_SIGKILL"});
    assert_eq!(server.unary("SendSignal", kill).await.0, 200);
    assert_eq!(reading.await.unwrap().end["status"], "signal: killed");
    assert!(at.elapsed() < Duration::from_secs(2), "took {:?}", at.elapsed());
    for stream in stuck {
        let finished = stream.finish().await;
        assert_eq!(finished.end["status"], "signal: killed", "late, and yet whole");
        assert!(finished.out().split_inclusive('\n').skip(1).all(|line| line.starts_with('y')));
    }
}

#[tokio::test]
async fn what_cannot_start_says_why() {
    let server = Server::start();
    let sh = json!({"cmd": "/bin/sh", "args": ["-c", "true"]});
    let with = |key: &str, value: &str| {
        let mut process = sh.clone();
        process[key] = value.into();
        json!({"process": process})
    };
    for (body, code, message) in [
        (with("cwd", "/x"), "invalid_argument", "cwd '/x' does not exist"),
        (
            with("cmd", "nope"),
            "invalid_argument",
            "exec: \"nope\": executable file not found in $PATH",
        ),
        (
            with("cmd", "/bin/nope"),
            "invalid_argument",
            "fork/exec /bin/nope: no such file or directory",
        ),
        (with("cmd", "/etc"), "invalid_argument", "fork/exec /etc: permission denied"),
    ] {
        let finished = server.call("Start", &[], body).await.finish().await;
        assert_eq!(finished.error, json!({"code": code, "message": message}));
    }
    let nobody = [("authorization", "Basic bm9ib2R5aGVyZTo=")];
    let finished = server.call("Start", &nobody, json!({"process": sh})).await.finish().await;
    assert_eq!(
        finished.error,
        json!({"code": "unauthenticated", "message": "invalid username: 'nobodyhere'"})
    );
    assert!(server.pids().await.is_empty());
}

#[tokio::test]
async fn a_process_runs_as_its_user_in_a_session_of_its_own() {
    let server = Server::start();
    let script = "id -un; id -G; umask; ulimit -n; ulimit -Hn; pwd; echo $HOME $USER $LOGNAME; \
                  ps -o sid= -p $$ | tr -d ' '; ls /proc/self/fd | wc -l; \
                  grep -E 'Sig(Blk|Ign)' /proc/self/status";
    let nobody = [("authorization", "Basic bm9ib2R5Og==")];
    let body = json!({"process": {"cmd": "sh", "args": ["-c", script], "cwd": "/tmp"}});
    let finished = server.call("Start", &nobody, body).await.finish().await;
    let out = finished.out();
    let lines: Vec<_> = out.lines().collect();
    let pid = finished.pid.unwrap().to_string();
    assert_eq!(lines[..4], ["nobody", "65534", "0022", "1024"], "{out}");
    assert!(lines[4] == "unlimited" || lines[4].parse::<u64>().unwrap() <= 524_288);
    assert_eq!(lines[5..8], ["/tmp", "/nonexistent nobody nobody", pid.as_str()]);
    assert_eq!(lines[8], "4", "0, 1, 2 and the directory that ls reads");
    assert!(lines[9..].iter().all(|line| line.ends_with("\t0000000000000000")), "{out}");
}

#[tokio::test]
async fn the_sandbox_and_the_request_add_to_the_environment() {
    let server = Server::start();
    let body = json!({"envVars": {"GREETING": "hello", "BOTH": "sandbox"}});
    assert_eq!(server.rest("POST", "/init", &[], body.to_string()).await.0, 204);
    let body = json!({"process": {"cmd": "env", "envs": {"BOTH": "request"}}});
    let out = server.call("Start", &[], body).await.finish().await.out();
    for line in [
        "GREETING=hello",
        "BOTH=request",
        "E2B_SANDBOX=true",
        "E2B_SANDBOX_ID=0123456789abcdef0123456789abcdef",
        "E2B_TEMPLATE_ID=base",
        "USER=root",
    ] {
        assert!(out.lines().any(|got| got == line), "{line} in {out}");
    }
}

#[tokio::test]
async fn json_is_read_generously_and_written_tersely() {
    let server = Server::start();
    let body = json!({
        "process": {"cmd": "sleep", "args": ["60"], "envs": null, "cwd": null, "unknown": {"a": [1]}},
        "pty": null, "tag": "t", "stdin": false, "another_unknown": 1,
    });
    let mut stream = server.call("Start", &[], body).await;
    let pid = stream.pid().await;
    assert_eq!(
        server.unary("List", json!({})).await.1,
        json!({"processes": [{
            "config": {"cmd": "sleep", "args": ["60"]}, "pid": pid, "tag": "t"
        }]})
    );
    let kill = json!({"process": {"pid": pid.to_string()}, "signal": 9});
    assert_eq!(server.unary("SendSignal", kill).await, (200, json!({})));
    stream.finish().await;
    let (status, error) = server.unary("SendSignal", json!({"process": 5})).await;
    assert_eq!((status, &error["code"]), (400, &json!("invalid_argument")));
    let other = json!({"process": {"pid": 1}, "signal": "SIGNAL_UNSPECIFIED"});
    assert_eq!(server.unary("SendSignal", other).await.0, 404);
}

#[tokio::test]
async fn the_binary_codec_works_too() {
    let server = Server::start();
    let mut stream = server.sh("sleep 60").await;
    let pid = stream.pid().await;
    let headers = [("content-type", "application/proto")];
    let request = common::request("POST", "/process.Process/List", &headers, "".into());
    let response = server.send(request).await;
    assert_eq!(response.headers()["content-type"], "application/proto");
    let body = http_body_util::BodyExt::collect(response.into_body()).await.unwrap().to_bytes();
    assert_eq!(body[0], 0x0a, "field 1, length-delimited");
    let text = String::from_utf8_lossy(&body);
    assert!(text.contains("/bin/sh") && text.contains("sleep 60"));
    let kill = json!({"process": {"pid": pid}, "signal": "SIGNAL_SIGKILL"});
    server.unary("SendSignal", kill).await;
}

/// On Linux, where a program can ask for this by a call that nix has.
#[cfg(target_os = "linux")]
#[tokio::test]
async fn orphans_are_collected_and_nobodys_status_is_lost() {
    // Orphans come to this process, as they do to pid 1 of a sandbox.
    nix::sys::prctl::set_child_subreaper(true).unwrap();
    let server = Server::start();
    let mut streams = Vec::new();
    for code in 0..20 {
        let script = format!("for i in 1 2 3 4 5; do (sleep 0.1 & ) ; done; exit {code}");
        streams.push((code, server.sh(&script).await));
    }
    for (code, stream) in streams {
        let finished = stream.finish().await;
        assert_eq!(finished.end["exitCode"].as_i64().unwrap_or(0), code);
    }
    let me = std::process::id();
    eventually("no zombie is left", async || {
        let ps = server.sh(&format!("ps -o stat=,ppid= --ppid {me}")).await.finish().await.out();
        !ps.lines().any(|line| line.starts_with('Z'))
    })
    .await;
    assert!(server.pids().await.is_empty());
}

#[tokio::test]
async fn many_at_once_all_end() {
    let server = Server::start();
    let all = (0..60).map(async |number: usize| {
        let finished =
            server.sh(&format!("echo {number}; exit {}", number % 7)).await.finish().await;
        (finished.out(), finished.end["exitCode"].as_u64().unwrap_or(0))
    });
    let all = tokio::time::timeout(PATIENCE, futures_util::future::join_all(all)).await.unwrap();
    for (number, (out, code)) in all.into_iter().enumerate() {
        assert_eq!((out, code), (format!("{number}\n"), number as u64 % 7));
    }
}
