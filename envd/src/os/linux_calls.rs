//! Which of the kernel's calls code in a sandbox has: those that containers commonly have.
//!
//! All others answer as on a kernel that has not got them (ENOSYS), which programs know how to do
//! without. The list of what is there is long, and so installed once, in the process that sandboxes'
//! first ones are cloned from, which hand it on. It has to leave what entering a sandbox takes:
//! those few another filter takes away, when that is done.
//!
//! To ask for a socket is to have the kernel load the module of a protocol, before it looks at who
//! asks. So those of the protocols that are not in common use are refused, in words that programs
//! expect there: Go, which would have MPTCP, takes EPROTONOSUPPORT for a kernel without it, and so
//! does whatever would write to the audit log.
//!
//! A sync(2) does nothing and succeeds. What a sandbox writes is not to survive the host, and the
//! kernel's would write out what all of the host's file systems have dirty, and wait for it.
//!
//! The kernel remembers of each call whether the filters let it through whatever its arguments, so
//! that such a call is as fast as without them; that they are installed does not show either
//! (no-new-privileges is not set: sudo works).
//!
//! Programs of another architecture's calls, those of 32 bits, are killed.

#![allow(unsafe_code)]

use std::{collections::BTreeMap, io, sync::OnceLock};

use nix::errno::Errno;
use seccompiler::{
    BackendError, BpfProgram, SeccompAction, SeccompCmpArgLen::Dword, SeccompCmpOp,
    SeccompCondition, SeccompFilter, SeccompRule,
};

use crate::walls::{self, Wall};

macro_rules! calls {
    ($($name:ident)*) => { &[$(libc::$name),*] };
}

/// Whatever their arguments.
#[rustfmt::skip]
const THERE: &[libc::c_long] = calls![
    SYS_accept SYS_accept4 SYS_adjtimex SYS_bind SYS_brk SYS_capget SYS_capset SYS_chdir SYS_chroot
    SYS_clock_adjtime SYS_clock_getres SYS_clock_gettime SYS_clock_nanosleep SYS_close
    SYS_close_range SYS_connect SYS_copy_file_range SYS_dup SYS_dup3 SYS_epoll_create1
    SYS_epoll_ctl SYS_epoll_pwait SYS_epoll_pwait2 SYS_eventfd2 SYS_execve SYS_execveat SYS_exit
    SYS_exit_group SYS_faccessat SYS_faccessat2 SYS_fadvise64 SYS_fallocate SYS_fanotify_mark
    SYS_fchdir SYS_fchmod SYS_fchmodat SYS_fchown SYS_fchownat SYS_fcntl SYS_fdatasync SYS_fgetxattr
    SYS_flistxattr SYS_flock SYS_fremovexattr SYS_fsetxattr SYS_fstat SYS_fstatfs SYS_fsync
    SYS_ftruncate SYS_futex SYS_futex_waitv SYS_get_robust_list SYS_getcpu SYS_getcwd
    SYS_getdents64 SYS_getegid SYS_geteuid SYS_getgid SYS_getgroups SYS_getitimer SYS_getpeername
    SYS_getpgid SYS_getpid SYS_getppid SYS_getpriority SYS_getrandom SYS_getresgid SYS_getresuid
    SYS_getrusage SYS_getsid SYS_getsockname SYS_getsockopt SYS_gettid SYS_gettimeofday SYS_getuid
    SYS_getxattr SYS_inotify_add_watch SYS_inotify_init1 SYS_inotify_rm_watch SYS_io_cancel
    SYS_io_destroy SYS_io_getevents SYS_io_setup SYS_io_submit SYS_ioctl SYS_ioprio_get
    SYS_ioprio_set SYS_kill SYS_landlock_add_rule SYS_landlock_create_ruleset
    SYS_landlock_restrict_self SYS_lgetxattr SYS_linkat SYS_listen SYS_listxattr SYS_llistxattr
    SYS_lremovexattr SYS_lseek SYS_lsetxattr SYS_madvise SYS_membarrier SYS_memfd_create
    SYS_memfd_secret SYS_mincore SYS_mkdirat SYS_mknodat SYS_mlock SYS_mlock2 SYS_mlockall SYS_mmap
    SYS_mprotect SYS_mq_getsetattr SYS_mq_notify SYS_mq_open SYS_mq_timedreceive SYS_mq_timedsend
    SYS_mq_unlink SYS_mremap SYS_mseal SYS_msgctl SYS_msgget SYS_msgrcv SYS_msgsnd SYS_msync
    SYS_munlock SYS_munlockall SYS_munmap SYS_name_to_handle_at SYS_nanosleep SYS_newfstatat
    SYS_openat SYS_openat2 SYS_pidfd_open SYS_pidfd_send_signal SYS_pipe2 SYS_pkey_alloc
    SYS_pkey_free SYS_pkey_mprotect SYS_ppoll SYS_prctl SYS_pread64 SYS_preadv SYS_preadv2
    SYS_prlimit64 SYS_process_mrelease SYS_process_vm_readv SYS_process_vm_writev SYS_pselect6
    SYS_ptrace SYS_pwrite64 SYS_pwritev SYS_pwritev2 SYS_read SYS_readahead SYS_readlinkat SYS_readv
    SYS_recvfrom SYS_recvmmsg SYS_recvmsg SYS_remap_file_pages SYS_removexattr SYS_renameat2
    SYS_restart_syscall SYS_rseq SYS_rt_sigaction SYS_rt_sigpending SYS_rt_sigprocmask
    SYS_rt_sigqueueinfo SYS_rt_sigreturn SYS_rt_sigsuspend SYS_rt_sigtimedwait SYS_rt_tgsigqueueinfo
    SYS_sched_get_priority_max SYS_sched_get_priority_min SYS_sched_getaffinity SYS_sched_getattr
    SYS_sched_getparam SYS_sched_getscheduler SYS_sched_rr_get_interval SYS_sched_setaffinity
    SYS_sched_setattr SYS_sched_setparam SYS_sched_setscheduler SYS_sched_yield SYS_seccomp
    SYS_semctl SYS_semget SYS_semop SYS_semtimedop SYS_sendfile SYS_sendmmsg SYS_sendmsg SYS_sendto
    SYS_set_robust_list SYS_set_tid_address SYS_setfsgid SYS_setfsuid SYS_setgid SYS_setgroups
    SYS_setitimer SYS_setpgid SYS_setpriority SYS_setregid SYS_setresgid SYS_setresuid SYS_setreuid
    SYS_setsid SYS_setsockopt SYS_setuid SYS_setxattr SYS_shmat SYS_shmctl SYS_shmdt SYS_shmget
    SYS_shutdown SYS_sigaltstack SYS_signalfd4 SYS_socketpair SYS_splice SYS_statfs SYS_statx
    SYS_symlinkat SYS_sync SYS_syncfs SYS_sysinfo SYS_tee SYS_tgkill SYS_timer_create
    SYS_timer_delete SYS_timer_getoverrun SYS_timer_gettime SYS_timer_settime SYS_timerfd_create
    SYS_timerfd_gettime SYS_timerfd_settime SYS_times SYS_tkill SYS_truncate SYS_umask SYS_uname
    SYS_unlinkat SYS_utimensat SYS_vmsplice SYS_wait4 SYS_waitid SYS_write SYS_writev
];

/// Those of old that newer architectures never had.
#[cfg(target_arch = "x86_64")]
#[rustfmt::skip]
const THERE_TOO: &[libc::c_long] = calls![
    SYS_access SYS_alarm SYS_arch_prctl SYS_chmod SYS_chown SYS_creat SYS_dup2 SYS_epoll_create
    SYS_epoll_wait SYS_eventfd SYS_fchmodat2 SYS_fork SYS_futimesat SYS_get_thread_area SYS_getdents
    SYS_getpgrp SYS_getrlimit SYS_inotify_init SYS_lchown SYS_link SYS_lstat SYS_mkdir SYS_mknod
    SYS_modify_ldt SYS_open SYS_pause SYS_pipe SYS_poll SYS_readlink SYS_rename SYS_renameat
    SYS_rmdir SYS_select SYS_set_thread_area SYS_setrlimit SYS_signalfd SYS_stat SYS_symlink
    SYS_sync_file_range SYS_time SYS_unlink SYS_utime SYS_utimes SYS_vfork
];
#[cfg(not(target_arch = "x86_64"))]
const THERE_TOO: &[libc::c_long] = &[];

/// What it takes to make a sandbox's first process and to enter with it.
#[rustfmt::skip]
const TO_ENTER: &[libc::c_long] = calls![
    SYS_clone3 SYS_keyctl SYS_mount SYS_mount_setattr SYS_move_mount SYS_open_tree SYS_pivot_root
    SYS_sethostname SYS_umount2 SYS_unshare
];

/// The others' code is such as hardly anybody has looked at.
const FAMILIES: [libc::c_int; 5] =
    [libc::AF_UNIX, libc::AF_INET, libc::AF_INET6, libc::AF_NETLINK, libc::AF_PACKET];

/// Without `SOCK_CLOEXEC` and `SOCK_NONBLOCK`, which go along with a socket's type.
const TYPE: u64 = 0xf;

/// Of the internet's protocols those of a stream's sockets and those of datagrams'. Whichever goes
/// for raw ones, for which the kernel looks for no module.
const INTERNET: [(libc::c_int, [&[libc::c_int]; 2]); 2] = [
    (libc::AF_INET, [&[0, libc::IPPROTO_TCP], &[0, libc::IPPROTO_UDP, libc::IPPROTO_ICMP]]),
    (libc::AF_INET6, [&[0, libc::IPPROTO_TCP], &[0, libc::IPPROTO_UDP, libc::IPPROTO_ICMPV6]]),
];

/// What tells of addresses and routes, of sockets, and of devices that come and go: not the generic
/// one, of which the kernel loads families by their names.
const NETLINK: [libc::c_int; 3] =
    [libc::NETLINK_ROUTE, libc::NETLINK_SOCK_DIAG, libc::NETLINK_KOBJECT_UEVENT];

/// The plain one, with addresses of 32 bits (PER_LINUX32), with a release of the 2.6 kind told
/// (UNAME26), both, and asking which it is. Not one that would let memory be executed or its
/// layout be known.
const PERSONALITIES: [libc::c_int; 5] = [0, 0x8, 0x2_0000, 0x2_0008, -1];

/// Flags of clone(2), which has none for the one of time.
const NAMESPACES: libc::c_int = libc::CLONE_NEWCGROUP
    | libc::CLONE_NEWIPC
    | libc::CLONE_NEWNET
    | libc::CLONE_NEWNS
    | libc::CLONE_NEWPID
    | libc::CLONE_NEWUSER
    | libc::CLONE_NEWUTS;

/// Ready before there is anybody who waits for it.
static SECOND: OnceLock<Filter> = OnceLock::new();

/// Leaves this process, and all that come of it, what a sandbox has and what entering one takes.
pub(super) fn confine() -> io::Result<()> {
    if walls::is_down(Wall::SystemCalls) {
        return Ok(());
    }
    Filter::first()?.install()?;
    Filter::protocols()?.install()?;
    Filter::sync()?.install()?;
    let second = Filter::second()?;
    SECOND.get_or_init(|| second);
    Ok(())
}

/// Leaves it what a sandbox has.
pub(super) fn confine_more() -> io::Result<()> {
    SECOND.get().map_or(Ok(()), Filter::install)
}

struct Filter(BpfProgram);

impl Filter {
    /// What is there, and what entering takes.
    fn first() -> io::Result<Self> {
        let mut rules = whatever(&[THERE, THERE_TOO, TO_ENTER].concat());
        let one_of = |values: &[libc::c_int]| -> Result<_, BackendError> {
            values.iter().map(|value| argument(SeccompCmpOp::Eq, *value)).collect()
        };
        rules.insert(libc::SYS_socket, one_of(&FAMILIES).map_err(failed)?);
        rules.insert(libc::SYS_personality, one_of(&PERSONALITIES).map_err(failed)?);
        let none_of = SeccompCmpOp::MaskedEq(u64::from(NAMESPACES.cast_unsigned()));
        rules.insert(libc::SYS_clone, vec![argument(none_of, 0).map_err(failed)?]);
        compile(rules, NOT_THERE, SeccompAction::Allow)
    }

    /// All sockets but those of the protocols that are there.
    fn protocols() -> io::Result<Self> {
        let sockets = refused_sockets().map_err(failed)?;
        // The kernel makes both before it asks whether the family has pairs.
        let pairs = vec![argument(SeccompCmpOp::Ne, libc::AF_UNIX).map_err(failed)?];
        let rules = [(libc::SYS_socket, sockets), (libc::SYS_socketpair, pairs)];
        let not_supported = SeccompAction::Errno(libc::EPROTONOSUPPORT as u32);
        compile(Rules::from(rules), SeccompAction::Allow, not_supported)
    }

    fn sync() -> io::Result<Self> {
        compile(whatever(&[libc::SYS_sync]), SeccompAction::Allow, SeccompAction::Errno(0))
    }

    /// All but what entering takes.
    fn second() -> io::Result<Self> {
        compile(whatever(TO_ENTER), SeccompAction::Allow, NOT_THERE)
    }

    /// For this process and all that come of it, for ever. It takes `CAP_SYS_ADMIN` in the
    /// process's own user namespace.
    fn install(&self) -> io::Result<()> {
        let program = libc::sock_fprog {
            len: self.0.len() as libc::c_ushort,
            filter: self.0.as_ptr().cast_mut().cast(),
        };
        // SAFETY: both structures are those of the kernel's <linux/filter.h>, and it copies the
        // program, which lives for the call, and writes to neither.
        let installed = unsafe {
            let (operation, flags) = (libc::SECCOMP_SET_MODE_FILTER, 0);
            libc::syscall(libc::SYS_seccomp, operation, flags, &raw const program)
        };
        Ok(Errno::result(installed).map(drop)?)
    }
}

const NOT_THERE: SeccompAction = SeccompAction::Errno(libc::ENOSYS as u32);

type Rules = BTreeMap<i64, Vec<SeccompRule>>;

fn whatever(calls: &[libc::c_long]) -> Rules {
    calls.iter().map(|call| (*call, Vec::new())).collect()
}

/// Of the first argument, of which the kernel takes 32 bits in each of these calls.
fn argument(op: SeccompCmpOp, value: libc::c_int) -> Result<SeccompRule, BackendError> {
    let value = u64::from(value.cast_unsigned());
    SeccompRule::new(vec![SeccompCondition::new(0, Dword, op, value)?])
}

/// One rule for each way of not being there.
fn refused_sockets() -> Result<Vec<SeccompRule>, BackendError> {
    let is = |index, op, value: libc::c_int| {
        SeccompCondition::new(index, Dword, op, u64::from(value.cast_unsigned()))
    };
    let family = |family| is(0, SeccompCmpOp::Eq, family);
    let of_type = |mask, kind| is(1, SeccompCmpOp::MaskedEq(mask), kind);
    let none_of = |protocols: &[libc::c_int]| -> Result<Vec<_>, _> {
        protocols.iter().map(|protocol| is(2, SeccompCmpOp::Ne, *protocol)).collect()
    };
    let mut rules = Vec::new();
    for (internet, protocols) in INTERNET {
        for (kind, there) in [libc::SOCK_STREAM, libc::SOCK_DGRAM].into_iter().zip(protocols) {
            let its = vec![family(internet)?, of_type(TYPE, kind)?];
            rules.push(SeccompRule::new([its, none_of(there)?].concat())?);
        }
        // Types beyond 3, the raw one, and the type that is none.
        for (mask, kind) in [(8, 8), (4, 4), (TYPE, 0)] {
            rules.push(SeccompRule::new(vec![family(internet)?, of_type(mask, kind)?])?);
        }
    }
    let netlink = vec![family(libc::AF_NETLINK)?];
    rules.push(SeccompRule::new([netlink, none_of(&NETLINK)?].concat())?);
    Ok(rules)
}

fn compile(rules: Rules, else_: SeccompAction, then: SeccompAction) -> io::Result<Filter> {
    let arch = std::env::consts::ARCH.try_into().map_err(failed)?;
    let filter = SeccompFilter::new(rules, else_, then, arch).map_err(failed)?;
    filter.try_into().map(Filter).map_err(failed)
}

fn failed(error: BackendError) -> io::Error {
    io::Error::other(format!("compile a filter of system calls: {error}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_kernel_takes_filters_of_that_length() {
        let (first, second) = (Filter::first().unwrap(), Filter::second().unwrap());
        assert!(first.0.len() < 4096);
        // It is installed for every sandbox, and its length is what that costs.
        assert!(second.0.len() < 80);
    }

    #[test]
    fn what_entering_takes_is_taken_away_again() {
        let there = [THERE, THERE_TOO].concat();
        assert!(TO_ENTER.iter().all(|call| !there.contains(call)));
    }
}
