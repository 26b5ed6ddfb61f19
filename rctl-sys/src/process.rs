//! The process table: `kern.proc` of sysctl(3), `struct kinfo_proc` of sys/user.h.
//!
//! May be called from any thread, by root for processes of all users; allocates. A process that is
//! just being made by fork(2) is not in the table yet (sys/kern/kern_proc.c): two pictures in a row
//! are needed to know that none was missed.

use std::{io, time::Duration};

use crate::{Error, abi, bytes::Record, jail::Jid, sys, sysctl};

/// A process as the kernel shows it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Process {
    pub pid: i32,
    pub ppid: i32,
    pub pgid: i32,
    pub sid: i32,
    /// Effective.
    pub uid: u32,
    /// 0 for the jail that the caller is in, the host's included.
    pub jid: i32,
    /// Of its first thread.
    pub state: State,
    /// It was stopped by a signal or by who traces it, and none of its threads runs any more, or
    /// will in user mode before it is continued. Neither says the state of its first thread, nor
    /// does a stop that was just sent, while another still runs.
    pub stopped: bool,
    /// When it started, since the boot: setting the clock does not change it.
    pub started: Duration,
    /// CPU time of all its threads, of those that have ended too, exact to a microsecond; without
    /// that of its children. FreeBSD: of a thread that runs, up to when it was last taken off a CPU.
    pub run_time: Duration,
    /// CPU time of those of its descendants that were waited for, as far as each was waited for by
    /// its parent: `ruadd` in `proc_reap`, sys/kern/kern_exit.c.
    pub children_time: Duration,
    pub threads: u32,
    pub resident_pages: u64,
    /// Cut to 19 bytes by the kernel. The process can change it.
    pub command: String,
}

/// `ki_stat`
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum State {
    Idle,
    Running,
    Sleeping,
    Stopped,
    Zombie,
    Waiting,
    Locked,
    /// A number that this crate does not know.
    Other(u8),
}

/// Names one process, not the next that gets its number. kill(2) takes numbers only: who looks
/// this up right before still has the moment in between, in which the number would have to be
/// freed and given again.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Identity {
    pub pid: i32,
    pub started: Duration,
}

impl Process {
    #[must_use]
    pub fn identity(&self) -> Identity {
        Identity { pid: self.pid, started: self.started }
    }

    fn read(it: Record<'_>, boot: Duration) -> Self {
        let state = State::read(it.byte(abi::KI_STAT));
        let command = it.text(abi::KI_COMM, abi::KI_COMM_SIZE);
        let stopping = it.u64(abi::KI_FLAG) & (abi::P_STOPPED_SIG | abi::P_STOPPED_TRACE) != 0;
        Self {
            pid: it.i32(abi::KI_PID),
            ppid: it.i32(abi::KI_PPID),
            pgid: it.i32(abi::KI_PGID),
            sid: it.i32(abi::KI_SID),
            uid: it.u32(abi::KI_UID),
            jid: it.i32(abi::KI_JID),
            state,
            stopped: stopping && state == State::Stopped,
            // FreeBSD: the kernel keeps it since the boot, and adds when that was by the clock.
            started: timeval(it, abi::KI_START).saturating_sub(boot),
            run_time: Duration::from_micros(it.u64(abi::KI_RUNTIME)),
            children_time: timeval(it, abi::KI_CHILDTIME),
            threads: u32::try_from(it.i32(abi::KI_NUMTHREADS)).unwrap_or(0),
            resident_pages: u64::try_from(it.i64(abi::KI_RSSIZE)).unwrap_or(0),
            command: String::from_utf8_lossy(command).into_owned(),
        }
    }
}

impl State {
    fn read(raw: u8) -> Self {
        match raw {
            abi::SIDL => Self::Idle,
            abi::SRUN => Self::Running,
            abi::SSLEEP => Self::Sleeping,
            abi::SSTOP => Self::Stopped,
            abi::SZOMB => Self::Zombie,
            abi::SWAIT => Self::Waiting,
            abi::SLOCK => Self::Locked,
            other => Self::Other(other),
        }
    }
}

/// All processes that the caller may see, in one sweep: for the usage of many jails.
///
/// # Errors
/// As sysctl(3) says; when this kernel's `struct kinfo_proc` is not the one that is known here.
pub fn all() -> Result<Vec<Process>, Error> {
    let mut processes = table("kern.proc.proc", &[abi::KERN_PROC_PROC])?;
    refine(&mut processes)?;
    Ok(processes)
}

/// The processes of one jail, without those of jails in it.
///
/// # Errors
/// As [`all`].
pub fn in_jail(jid: Jid) -> Result<Vec<Process>, Error> {
    let mut processes = table("kern.proc.proc", &[abi::KERN_PROC_PROC])?;
    processes.retain(|process| process.jid == jid.raw());
    refine(&mut processes)?;
    Ok(processes)
}

/// One process, if it is there; as a zombie, too.
///
/// # Errors
/// As [`all`].
pub fn by_pid(pid: i32) -> Result<Option<Process>, Error> {
    let mut processes = of_pid(pid, abi::KERN_PROC_PID)?;
    refine(&mut processes)?;
    Ok(processes.pop())
}

/// The table tells the state of one thread. Where there are more, and that one is stopped, the
/// others are asked.
fn refine(processes: &mut [Process]) -> Result<(), Error> {
    for process in processes.iter_mut().filter(|it| it.stopped && it.threads > 1) {
        let threads = of_pid(process.pid, abi::KERN_PROC_PID | abi::KERN_PROC_INC_THREAD)?;
        process.stopped = threads.iter().all(|thread| thread.stopped);
    }
    Ok(())
}

fn of_pid(pid: i32, what: i32) -> Result<Vec<Process>, Error> {
    match table(&format!("kern.proc.pid.{pid}"), &[what, pid]) {
        Err(error) if error.errno() == Some(libc::ESRCH) => Ok(Vec::new()),
        other => other,
    }
}

/// Some hundred thousand processes.
const MOST: usize = 256 << 20;

/// Attempts at a table during which the clock was not set.
const ATTEMPTS: u32 = 8;

fn table(shown: &str, which: &[i32]) -> Result<Vec<Process>, Error> {
    let failed = |error| Error::new("sysctl", shown, error);
    let name: Vec<i32> = [abi::CTL_KERN, abi::KERN_PROC].iter().chain(which).copied().collect();
    let mut boot = boot_time()?;
    for _ in 0..ATTEMPTS {
        let bytes = sysctl::whole(MOST, |buffer| sys::sysctl(&name, buffer)).map_err(failed)?;
        let after = boot_time()?;
        if after == boot {
            return read_table(&bytes, boot).map_err(failed);
        }
        // The starts in it are by the old clock or by the new one.
        boot = after;
    }
    Err(failed(io::Error::other("the clock is being set all the time")))
}

fn boot_time() -> Result<Duration, Error> {
    let name = "kern.boottime";
    let bytes = sysctl::value(name)?.unwrap_or_default();
    if bytes.len() != abi::TIMEVAL_SIZE {
        let error = io::Error::new(io::ErrorKind::InvalidData, "no struct timeval");
        return Err(Error::new("sysctlbyname", name, error));
    }
    Ok(timeval(Record(&bytes), 0))
}

fn timeval(it: Record<'_>, offset: usize) -> Duration {
    let seconds = u64::try_from(it.i64(offset + abi::TV_SEC)).unwrap_or(0);
    let micros = u64::try_from(it.i64(offset + abi::TV_USEC)).unwrap_or(0);
    Duration::from_secs(seconds).saturating_add(Duration::from_micros(micros))
}

fn read_table(bytes: &[u8], boot: Duration) -> io::Result<Vec<Process>> {
    let odd = |why: String| io::Error::new(io::ErrorKind::InvalidData, why);
    let records = bytes.chunks_exact(abi::KINFO_PROC_SIZE);
    if !records.remainder().is_empty() {
        return Err(odd(format!("{} bytes are no whole processes", bytes.len())));
    }
    let read = |record| {
        let it = Record(record);
        let size = it.i32(abi::KI_STRUCTSIZE);
        if usize::try_from(size) == Ok(abi::KINFO_PROC_SIZE) {
            Ok(Process::read(it, boot))
        } else {
            Err(odd(format!("struct kinfo_proc of {size} bytes, not {}", abi::KINFO_PROC_SIZE)))
        }
    };
    records.map(read).collect()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const BOOT: Duration = Duration::from_secs(1_000_000);

    /// As the kernel would write one.
    fn record(state: u8, flags: u64) -> Vec<u8> {
        let mut bytes = vec![0; abi::KINFO_PROC_SIZE];
        let mut put = |at: usize, what: &[u8]| bytes[at..at + what.len()].copy_from_slice(what);
        put(abi::KI_STRUCTSIZE, &1088_i32.to_ne_bytes());
        put(abi::KI_PID, &123_i32.to_ne_bytes());
        put(abi::KI_PPID, &1_i32.to_ne_bytes());
        put(abi::KI_PGID, &120_i32.to_ne_bytes());
        put(abi::KI_SID, &119_i32.to_ne_bytes());
        put(abi::KI_UID, &1001_u32.to_ne_bytes());
        put(abi::KI_JID, &7_i32.to_ne_bytes());
        put(abi::KI_RSSIZE, &512_i64.to_ne_bytes());
        put(abi::KI_RUNTIME, &2_500_000_u64.to_ne_bytes());
        put(abi::KI_CHILDTIME, &7_i64.to_ne_bytes());
        put(abi::KI_CHILDTIME + abi::TV_USEC, &250_000_i64.to_ne_bytes());
        put(abi::KI_START, &1_000_042_i64.to_ne_bytes());
        put(abi::KI_START + abi::TV_USEC, &9_i64.to_ne_bytes());
        put(abi::KI_FLAG, &flags.to_ne_bytes());
        put(abi::KI_STAT, &[state]);
        put(abi::KI_COMM, b"python3.11");
        put(abi::KI_NUMTHREADS, &3_i32.to_ne_bytes());
        bytes
    }

    fn one(state: u8, flags: u64) -> Process {
        read_table(&record(state, flags), BOOT).unwrap().remove(0)
    }

    #[test]
    fn what_the_kernel_writes_of_a_process_is_read() {
        let process = one(abi::SSLEEP, 0);
        assert_eq!(
            process,
            Process {
                pid: 123,
                ppid: 1,
                pgid: 120,
                sid: 119,
                uid: 1001,
                jid: 7,
                state: State::Sleeping,
                stopped: false,
                started: Duration::from_micros(42_000_009),
                run_time: Duration::from_millis(2500),
                children_time: Duration::from_millis(7250),
                threads: 3,
                resident_pages: 512,
                command: "python3.11".to_owned(),
            }
        );
        assert_eq!(process.identity().pid, 123);
    }

    #[test]
    fn only_what_was_told_to_stop_and_did_is_stopped() {
        assert!(one(abi::SSTOP, abi::P_STOPPED_SIG).stopped);
        assert!(one(abi::SSTOP, abi::P_STOPPED_TRACE).stopped);
        // Told so, but still running.
        assert!(!one(abi::SRUN, abi::P_STOPPED_SIG).stopped);
        // Shown as stopped while one of its threads calls execve(2).
        assert!(!one(abi::SSTOP, 0x80000).stopped);
        assert!(!one(abi::SZOMB, abi::P_STOPPED_SIG).stopped);
    }

    #[test]
    fn the_table_is_read_whole_or_not_at_all() {
        let mut two = record(abi::SRUN, 0);
        two.extend(record(abi::SZOMB, 0));
        let states: Vec<_> = read_table(&two, BOOT).unwrap().iter().map(|it| it.state).collect();
        assert_eq!(states, [State::Running, State::Zombie]);
        assert_eq!(read_table(&[], BOOT).unwrap(), []);
        let error = read_table(&two[..1089], BOOT).unwrap_err().to_string();
        assert_eq!(error, "1089 bytes are no whole processes");
    }

    #[test]
    fn another_layout_of_the_structure_is_not_misread() {
        let mut bytes = record(abi::SRUN, 0);
        bytes[..4].copy_from_slice(&1096_i32.to_ne_bytes());
        let error = read_table(&bytes, BOOT).unwrap_err().to_string();
        assert_eq!(error, "struct kinfo_proc of 1096 bytes, not 1088");
    }

    #[test]
    fn a_state_of_a_newer_kernel_is_kept() {
        assert_eq!(one(9, 0).state, State::Other(9));
    }

    #[cfg(not(target_os = "freebsd"))]
    #[test]
    fn elsewhere_the_answer_is_enosys() {
        assert_eq!(all().unwrap_err().errno(), Some(libc::ENOSYS));
        assert_eq!(in_jail(Jid::new(1).unwrap()).unwrap_err().errno(), Some(libc::ENOSYS));
        assert_eq!(by_pid(1).unwrap_err().errno(), Some(libc::ENOSYS));
    }

    proptest! {
        #[test]
        fn no_bytes_make_it_panic(rest: Vec<u8>, boot: u64) {
            let mut bytes = record(0, 0);
            let len = rest.len().min(bytes.len() - 4);
            bytes[4..4 + len].copy_from_slice(&rest[..len]);
            prop_assert!(read_table(&bytes, Duration::from_secs(boot)).is_ok());
            let _ = read_table(&rest, BOOT);
        }
    }
}
