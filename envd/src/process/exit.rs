//! How an end is told: Go's words, which clients compare.

use crate::{connect::proto::process::process_event::EndEvent, os::Exit};

/// The code in events and reports; -1 when a signal ended the process.
pub(crate) fn code(exit: Exit) -> i32 {
    match exit {
        Exit::Code(code) => code,
        Exit::Signal { .. } => -1,
    }
}

pub(crate) fn words(exit: Exit) -> String {
    match exit {
        Exit::Code(code) => format!("exit status {code}"),
        Exit::Signal { number, core_dumped } => {
            let dumped = if core_dumped { " (core dumped)" } else { "" };
            format!("signal: {}{dumped}", signal_name(number))
        }
    }
}

/// Which ended it, as the system calls it.
pub(super) fn signal(exit: Exit) -> Option<String> {
    let Exit::Signal { number, .. } = exit else { return None };
    let known = nix::sys::signal::Signal::try_from(number);
    Some(known.map_or_else(|_| number.to_string(), |signal| signal.as_str().to_owned()))
}

/// By SIGKILL, itself or what it waited for, as shells tell it.
pub(super) fn was_killed(exit: Exit) -> bool {
    match exit {
        Exit::Code(code) => code == 128 + libc::SIGKILL,
        Exit::Signal { number, .. } => number == libc::SIGKILL,
    }
}

/// `out_of_memory`: for want of it some processes of the sandbox were killed meanwhile.
pub(super) fn event(exit: Exit, out_of_memory: bool) -> EndEvent {
    let status = words(exit);
    let why = if out_of_memory { " (the sandbox's memory had run out)" } else { "" };
    EndEvent {
        exit_code: code(exit),
        exited: matches!(exit, Exit::Code(_)),
        error: (exit != Exit::Code(0)).then(|| format!("{status}{why}")),
        status,
        ..EndEvent::default()
    }
}

fn signal_name(number: i32) -> String {
    let name = match number {
        libc::SIGHUP => "hangup",
        libc::SIGINT => "interrupt",
        libc::SIGQUIT => "quit",
        libc::SIGILL => "illegal instruction",
        libc::SIGTRAP => "trace/breakpoint trap",
        libc::SIGABRT => "aborted",
        libc::SIGBUS => "bus error",
        libc::SIGFPE => "floating point exception",
        libc::SIGKILL => "killed",
        libc::SIGUSR1 => "user defined signal 1",
        libc::SIGSEGV => "segmentation fault",
        libc::SIGUSR2 => "user defined signal 2",
        libc::SIGPIPE => "broken pipe",
        libc::SIGALRM => "alarm clock",
        libc::SIGTERM => "terminated",
        libc::SIGXCPU => "CPU time limit exceeded",
        libc::SIGXFSZ => "file size limit exceeded",
        libc::SIGVTALRM => "virtual timer expired",
        libc::SIGPROF => "profiling timer expired",
        libc::SIGIO => "I/O possible",
        libc::SIGSYS => "bad system call",
        other => return format!("signal {other}"),
    };
    name.to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ends_are_told_in_gos_words() {
        let signal = |number, core_dumped| Exit::Signal { number, core_dumped };
        for (exit, code, exited, status, error) in [
            (Exit::Code(0), 0, true, "exit status 0", None),
            (Exit::Code(3), 3, true, "exit status 3", Some("exit status 3")),
            (signal(9, false), -1, false, "signal: killed", Some("signal: killed")),
            (
                signal(libc::SIGSEGV, true),
                -1,
                false,
                "signal: segmentation fault (core dumped)",
                Some("signal: segmentation fault (core dumped)"),
            ),
            (signal(40, false), -1, false, "signal: signal 40", Some("signal: signal 40")),
        ] {
            let event = event(exit, false);
            assert_eq!(super::signal(exit).is_some(), !exited);
            assert_eq!(
                (event.exit_code, event.exited, event.status.as_str(), event.error.as_deref()),
                (code, exited, status, error)
            );
        }
    }

    #[test]
    fn who_was_killed_for_want_of_memory_is_told_so_beside_the_words() {
        let killed = Exit::Signal { number: libc::SIGKILL, core_dumped: false };
        let told = event(killed, true);
        assert_eq!(told.status, "signal: killed");
        let error = told.error.unwrap();
        assert_eq!(error, "signal: killed (the sandbox's memory had run out)");
        // A shell, of its last command.
        assert!(was_killed(killed) && was_killed(Exit::Code(137)));
        let others =
            [Exit::Code(0), Exit::Code(9), Exit::Signal { number: 15, core_dumped: false }];
        assert!(!others.into_iter().any(was_killed));
    }
}
