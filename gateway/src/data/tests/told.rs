use std::sync::Arc;

use proptest::prelude::*;

use super::*;
use crate::{
    events::{Event, Next, Room, Subscription, Types},
    sandbox::SandboxId,
};

struct Heard<'a> {
    told: Told<'a>,
    all: Subscription,
    seq: u64,
    kernels: u32,
}

impl<'a> Heard<'a> {
    fn of(sandbox: &'a Sandbox) -> Self {
        let events = Events::default();
        let all = events.subscribe("all", Types::all(), Room::default());
        Self { told: Told::new(sandbox, &events), all, seq: 0, kernels: 0 }
    }

    fn take(&mut self, what: Said, of: Of, fresh: bool) {
        self.seq += 1;
        let at = u64::try_from(Utc::now().timestamp_millis()).unwrap();
        let (seq, more, part) = (self.seq, false, String::new());
        let report = Report { seq, at, kernels: self.kernels, commands: 0, what, more, part };
        self.told.take(&report, Some(Detail { trace: None, of }), fresh);
    }

    fn events(&mut self) -> Vec<Arc<Event>> {
        let mut events = Vec::new();
        while self.all.waiting() > 0 {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
            match runtime.unwrap().block_on(self.all.next()) {
                Next::Event(event) => events.push(event),
                other => panic!("{other:?}"),
            }
        }
        events
    }
}

fn with_sandbox(test: impl FnOnce(&Sandbox)) {
    let dir = tempfile::tempdir().unwrap();
    test(&crate::sandbox::testing::sandbox_in(SandboxId::random(), dir.path(), ""));
}

fn begun(pid: u32) -> Said {
    Said::ProcessStarted { pid, repeated: false }
}

fn over(pid: u32) -> Said {
    Said::ProcessEnded { pid, exit_code: 3, duration_ms: u64::MAX, out_of_memory: false }
}

fn started(command: &str) -> Of {
    Of::Started { command: command.into(), cwd: "/home/user".into(), pty: false }
}

fn ended(stdout: &str, stdout_bytes: u64, timeout_ms: Option<u64>) -> Of {
    let (stdout, stderr, signal) = (stdout.into(), "e".into(), None);
    Of::Ended { stdout, stderr, stdout_bytes, stderr_bytes: 1, timeout_ms, signal }
}

#[test]
fn the_end_of_a_command_follows_its_beginning_and_none_takes_longer_than_its_sandbox() {
    with_sandbox(|sandbox| {
        let mut heard = Heard::of(sandbox);
        heard.take(begun(7), started("npm test"), true);
        heard.take(over(7), ended("out", 3, None), true);
        heard.take(over(8), Of::Other, true);
        let events = heard.events();
        let [first, second, third] = &events[..] else { panic!("{events:?}") };
        let What::ExecStarted { command, cwd, pid, .. } = &first.what else { panic!() };
        assert_eq!(
            (command.as_str(), cwd.as_deref(), *pid),
            ("npm test", Some("/home/user"), Some(7))
        );
        let What::ExecCompleted { command, exit_code, duration_ms, stdout, .. } = &second.what
        else {
            panic!()
        };
        assert_eq!((command.as_deref(), *exit_code), (Some("npm test"), 3));
        assert_eq!((stdout.as_deref(), second.parent), (Some("out"), Some(first.id)));
        let lived = (Utc::now() - sandbox.facts().started_at).num_milliseconds();
        assert!(i64::try_from(*duration_ms).unwrap() <= lived);
        let What::ExecCompleted { command: None, stdout: None, .. } = &third.what else { panic!() };
        assert_eq!(third.parent, Some(sandbox.run_event()));
    });
}

#[test]
fn a_command_whose_time_is_up_is_told_of_by_that_and_by_its_end() {
    with_sandbox(|sandbox| {
        let mut heard = Heard::of(sandbox);
        heard.take(begun(7), started("sleep 9"), true);
        heard.take(over(7), ended("", 0, Some(1000)), true);
        let events = heard.events();
        let kinds: Vec<_> = events.iter().map(|event| event.what.kind()).collect();
        assert_eq!(kinds, ["exec.started", "exec.timed_out", "exec.completed"]);
        let expected = What::ExecTimedOut { timeout_ms: 1000, signal: KILLED.into(), pid: Some(7) };
        assert_eq!(events[1].what, expected);
        assert!(events[1..].iter().all(|event| event.parent == Some(events[0].id)));
    });
}

#[test]
fn the_next_gateway_knows_what_was_begun_and_gives_the_same_ids() {
    with_sandbox(|sandbox| {
        let (mut before, mut after) = (Heard::of(sandbox), Heard::of(sandbox));
        let at = u64::try_from(Utc::now().timestamp_millis()).unwrap();
        let report = |what, seq| {
            let (more, part) = (false, String::new());
            Report { seq, at, kernels: 0, commands: 0, what, more, part }
        };
        let detail = || Some(Detail { trace: None, of: started("make") });
        before.told.take(&report(begun(7), 1), detail(), true);
        after.told.take(&report(begun(7), 1), detail(), false);
        after.told.take(&report(over(7), 2), None, true);
        let (before, after) = (before.events(), after.events());
        assert_eq!((before.len(), after.len()), (1, 1));
        assert_eq!(after[0].parent, Some(before[0].id));
    });
}

#[test]
fn an_output_that_was_cut_short_is_left_out_since_the_cut_may_go_through_a_secret() {
    assert_eq!(output("all", 3), "all");
    assert_eq!(output("sk-0123", 100), "");
    let long = "x".repeat(MAX_TEXT);
    assert_eq!(output(&long, 1 << 40), long);
    assert_eq!(output(&"ü".repeat(MAX_TEXT), 1 << 40).len(), MAX_TEXT);
}

#[test]
fn files_are_told_by_what_became_of_them() {
    with_sandbox(|sandbox| {
        let mut heard = Heard::of(sandbox);
        let path = || "/a".to_owned();
        let written = Said::FileWritten { bytes: 5 };
        heard.take(written.clone(), Of::Written { path: path(), created: true }, true);
        heard.take(written, Of::Written { path: path(), created: false }, true);
        heard.take(Said::FileRead { bytes: 5 }, Of::Read { path: path() }, true);
        heard.take(Said::NOTHING, Of::Moved { from: path(), to: "/b".into(), size: 5 }, true);
        heard.take(Said::NOTHING, Of::Removed { path: "/b".into() }, true);
        heard.take(Said::NOTHING, Of::DirectoryMade { path: "/c".into() }, true);
        let error = Of::NotStarted { command: "x".into(), cwd: path(), error: "no x".into() };
        heard.take(Said::NOTHING, error, true);
        // An older envd tells of no path.
        heard.take(Said::FileRead { bytes: 5 }, Of::Other, true);
        heard.take(Said::NOTHING, Of::Removed { path: path() }, false);
        let events = heard.events();
        let told: Vec<_> = events.iter().map(|event| event.what.clone()).collect();
        let size_bytes = 5;
        assert_eq!(
            told,
            [
                What::FileCreated { path: path(), size_bytes },
                What::FileModified { path: path(), size_bytes },
                What::FileRead { path: path(), size_bytes },
                What::FileDeleted { path: path() },
                What::FileCreated { path: "/b".into(), size_bytes },
                What::FileDeleted { path: "/b".into() },
                What::FileCreated { path: "/c/".into(), size_bytes: 0 },
                What::ExecFailed { error: "no x".into(), command: Some("x".into()) },
            ]
        );
        assert_eq!(events[4].parent, Some(events[3].id));
    });
}

#[test]
fn the_kernels_that_are_left_end_with_their_sandbox() {
    with_sandbox(|sandbox| {
        let mut heard = Heard::of(sandbox);
        for _ in 0..3 {
            heard.take(Said::KernelStarted { language: "\u{1b}python".into() }, Of::Other, true);
        }
        heard.kernels = 2;
        heard.take(Said::KernelDied { language: "x".into(), exit_code: 1 }, Of::Other, true);
        // A gateway that ends says nothing of them.
        let mut other = Told::new(sandbox, &heard.told.events);
        other.kernels = 2;
        drop(other);
        assert_eq!(heard.all.waiting(), 4);
        sandbox.gone().cancel();
        drop(std::mem::replace(&mut heard.told, Told::new(sandbox, &Events::default())));
        let kinds: Vec<_> = heard.events().iter().map(|event| event.what.clone()).collect();
        let started = What::KernelStarted { language: Some("\u{fffd}python".into()) };
        let exited = |died| What::KernelExited { died };
        let expected =
            [started.clone(), started.clone(), started, exited(true), exited(false), exited(false)];
        assert_eq!(kinds, expected);
    });
}

fn said() -> impl Strategy<Value = (Said, Of)> {
    let text = || "[a-zü\u{0}\u{1b}]{0,9}".prop_map(|text| text.repeat(3000));
    prop_oneof![
        (0..50_u32, text()).prop_map(|(pid, text)| (begun(pid), started(&text))),
        (any::<u32>(), text()).prop_map(|(pid, text)| (begun(pid), started(&text))),
        (0..50_u32, text(), any::<(u64, Option<u64>)>())
            .prop_map(|(pid, text, (bytes, time))| (over(pid), ended(&text, bytes, time))),
        text().prop_map(|path| (Said::NOTHING, Of::Removed { path })),
        text().prop_map(|language| (Said::KernelStarted { language }, Of::Other)),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(32))]
    #[test]
    fn whatever_is_reported_what_is_remembered_and_told_is_bounded(
        all in prop::collection::vec((said(), any::<u64>()), 0..60),
    ) {
        with_sandbox(|sandbox| {
            let mut heard = Heard::of(sandbox);
            let began = sandbox.facts().started_at;
            for (seq, ((what, of), at)) in (1..).zip(all) {
                let (more, part) = (false, String::new());
                let report = Report { seq, at, kernels: 0, commands: 0, what, more, part };
                heard.told.take(&report, Some(Detail { trace: None, of }), true);
                let words: usize =
                    heard.told.commands.values().map(|command| command.line.len()).sum();
                assert_eq!(words, heard.told.words);
                assert!(words <= MOST_WORDS && heard.told.order.len() <= MOST_COMMANDS);
                assert!(heard.told.commands.len() <= heard.told.order.len());
            }
            for event in heard.events() {
                assert!(event.weight() < 20_000, "{}", event.weight());
                assert!(event.at >= began - chrono::TimeDelta::milliseconds(1) && event.at <= Utc::now());
            }
        });
    }
}
