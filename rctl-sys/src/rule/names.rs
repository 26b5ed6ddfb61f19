//! The words of rctl(8), as sys/kern/kern_rctl.c has them.

/// An enumeration whose values the kernel knows by name. It compares without regard to case.
macro_rules! named {
    ($(#[$doc:meta])* $enum:ident { $($(#[$each:meta])* $value:ident = $name:literal,)* }) => {
        $(#[$doc])*
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
        pub enum $enum {
            $($(#[$each])* $value,)*
        }

        impl $enum {
            pub const ALL: &'static [Self] = &[$(Self::$value),*];

            /// As the kernel writes it.
            #[must_use]
            pub fn name(self) -> &'static str {
                match self {
                    $(Self::$value => $name,)*
                }
            }

            /// The one of that name.
            #[must_use]
            pub fn from_name(name: &str) -> Option<Self> {
                Self::ALL.iter().copied().find(|value| value.name().eq_ignore_ascii_case(name))
            }
        }
    };
}

named! {
    /// What is counted, and in which unit an amount of it is given: rctl(8), RESOURCES.
    Resource {
        /// Seconds.
        CpuTime = "cputime",
        /// Bytes, as all sizes.
        DataSize = "datasize",
        StackSize = "stacksize",
        CoreDumpSize = "coredumpsize",
        /// Resident bytes. A `deny` rule is taken, but stops no allocation: the kernel pages the
        /// subject out instead (seen on 13.2: 300 MB were used under a limit of 200).
        MemoryUse = "memoryuse",
        MemoryLocked = "memorylocked",
        /// Processes.
        MaxProc = "maxproc",
        /// Entries of descriptor tables.
        OpenFiles = "openfiles",
        /// Address space in bytes.
        VMemoryUse = "vmemoryuse",
        PseudoTerminals = "pseudoterminals",
        /// Bytes of swap that may be reserved or used.
        SwapUse = "swapuse",
        /// Threads.
        NThr = "nthr",
        MsgqQueued = "msgqqueued",
        MsgqSize = "msgqsize",
        NMsgq = "nmsgq",
        NSem = "nsem",
        NSemop = "nsemop",
        NShm = "nshm",
        ShmSize = "shmsize",
        /// Seconds.
        WallClock = "wallclock",
        /// Percent of one core.
        PCpu = "pcpu",
        /// Bytes per second read from block devices.
        ReadBps = "readbps",
        WriteBps = "writebps",
        /// Reads per second from block devices.
        ReadIops = "readiops",
        WriteIops = "writeiops",
    }
}

impl Resource {
    /// `RACCT_IN_MILLIONS` of sys/kern/kern_racct.c: kept times a million, so that an amount may
    /// be only a millionth of the most.
    pub(crate) fn in_millions(self) -> bool {
        matches!(self, Self::CpuTime | Self::WallClock | Self::PCpu)
    }

    /// Whether `deny` is possible: `RACCT_DENIABLE`, or one of the two that `rctl_rule_add` lets
    /// pass nevertheless.
    pub(crate) fn deniable(self) -> bool {
        !matches!(self, Self::CpuTime | Self::WallClock) && !self.throttled()
    }

    /// Whether `throttle` is possible: `RACCT_DECAYING`, but not `pcpu`.
    pub(crate) fn throttled(self) -> bool {
        matches!(self, Self::ReadBps | Self::WriteBps | Self::ReadIops | Self::WriteIops)
    }

    /// `RACCT_SLOPPY`: has no meaning for a single process.
    pub(crate) fn sloppy(self) -> bool {
        matches!(
            self,
            Self::PseudoTerminals
                | Self::SwapUse
                | Self::MsgqQueued
                | Self::MsgqSize
                | Self::NMsgq
                | Self::NSem
                | Self::NShm
                | Self::ShmSize
        )
    }
}

named! {
    /// A kind of subject: whose rule it is, or over what an amount is counted.
    Per {
        Process = "process",
        User = "user",
        LoginClass = "loginclass",
        Jail = "jail",
    }
}

named! {
    /// A signal that a rule may send.
    Signal {
        Hup = "sighup",
        Int = "sigint",
        Quit = "sigquit",
        Ill = "sigill",
        Trap = "sigtrap",
        Abrt = "sigabrt",
        Emt = "sigemt",
        Fpe = "sigfpe",
        Kill = "sigkill",
        Bus = "sigbus",
        Segv = "sigsegv",
        Sys = "sigsys",
        Pipe = "sigpipe",
        Alrm = "sigalrm",
        Term = "sigterm",
        Urg = "sigurg",
        Stop = "sigstop",
        Tstp = "sigtstp",
        Chld = "sigchld",
        Ttin = "sigttin",
        Ttou = "sigttou",
        Io = "sigio",
        Xcpu = "sigxcpu",
        Xfsz = "sigxfsz",
        Vtalrm = "sigvtalrm",
        Prof = "sigprof",
        Winch = "sigwinch",
        Info = "siginfo",
        Usr1 = "sigusr1",
        Usr2 = "sigusr2",
        Thr = "sigthr",
    }
}

/// What happens when an amount is exceeded: rctl(8), ACTIONS.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Action {
    /// The allocation fails; for `pcpu` the processes are held back.
    Deny,
    /// A line in the kernel's log, once for each process.
    Log,
    /// An event for devd(8).
    Devctl,
    /// The process sleeps a while; for the input and output of block devices only.
    Throttle,
    /// A signal to the process that is charged when the amount is exceeded.
    Signal(Signal),
}

impl Action {
    /// As the kernel writes it.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Deny => "deny",
            Self::Log => "log",
            Self::Devctl => "devctl",
            Self::Throttle => "throttle",
            Self::Signal(signal) => signal.name(),
        }
    }

    /// The one of that name.
    #[must_use]
    pub fn from_name(name: &str) -> Option<Self> {
        let not_signals = [Self::Deny, Self::Log, Self::Devctl, Self::Throttle];
        let found = not_signals.into_iter().find(|it| it.name().eq_ignore_ascii_case(name));
        found.or_else(|| Signal::from_name(name).map(Self::Signal))
    }
}
