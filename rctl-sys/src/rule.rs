//! Rules and filters of rctl(8): `subject:subject-id:resource:action=amount/per`.

use std::{fmt, str::FromStr};

/// Whom a rule is about.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Subject {
    /// By pid.
    Process(i32),
    /// By uid: the kernel takes numbers only, names are rctl(8)'s.
    User(u32),
    /// By the name of a class in login.conf(5).
    LoginClass(String),
    /// By the jail's *name*, never its number.
    Jail(String),
}

/// What is counted, racct(4).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Resource {
    CpuTime,
    DataSize,
    StackSize,
    CoreDumpSize,
    MemoryUse,
    MemoryLocked,
    MaxProc,
    OpenFiles,
    VMemoryUse,
    PseudoTerminals,
    SwapUse,
    NThr,
    MsgqQueued,
    MsgqSize,
    NMsgq,
    NSem,
    NSemop,
    NShm,
    ShmSize,
    WallClock,
    PCpu,
    ReadBps,
    WriteBps,
    ReadIops,
    WriteIops,
}

/// What happens when the amount is exceeded.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Action {
    /// The allocation fails; for `pcpu` the processes are held back.
    Deny,
    /// A line in the kernel's log.
    Log,
    /// An event for devd(8).
    Devctl,
    /// The process sleeps; for `readbps`, `writebps`, `readiops` and `writeiops` only.
    Throttle,
    /// A signal to the process that exceeds it, by its number.
    Signal(Signal),
}

/// A signal that a rule may send.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Signal {
    Hup,
    Int,
    Quit,
    Ill,
    Trap,
    Abrt,
    Emt,
    Fpe,
    Kill,
    Bus,
    Segv,
    Sys,
    Pipe,
    Alrm,
    Term,
    Urg,
    Stop,
    Tstp,
    Chld,
    Ttin,
    Ttou,
    Io,
    Xcpu,
    Xfsz,
    Vtalrm,
    Prof,
    Winch,
    Info,
    Usr1,
    Usr2,
    Thr,
}

/// Over what the amount is counted.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Per {
    Process,
    User,
    LoginClass,
    Jail,
}

/// A rule that the kernel would take.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Rule {
    subject: Subject,
    resource: Resource,
    action: Action,
    amount: u64,
    per: Per,
}

/// Which rules, or whose account, is meant. What is not said matches all.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub struct Filter {
    subject: Option<Subject>,
    resource: Option<Resource>,
    action: Option<Action>,
}

/// Why this is no rule.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Invalid(String);

impl fmt::Display for Invalid {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl std::error::Error for Invalid {}

impl Subject {
    /// A jail by its name.
    ///
    /// # Errors
    /// When no jail can have that name, or rctl could not tell it from the rest of a rule.
    pub fn jail(name: &str) -> Result<Self, Invalid> {
        Ok(Self::Jail(name.to_owned()))
    }
}

impl Rule {
    /// A rule over the whole of its subject.
    ///
    /// # Errors
    /// When the kernel would refuse it, with the reason.
    pub fn new(
        subject: Subject,
        resource: Resource,
        action: Action,
        amount: u64,
    ) -> Result<Self, Invalid> {
        let per = match subject {
            Subject::Process(_) => Per::Process,
            Subject::User(_) => Per::User,
            Subject::LoginClass(_) => Per::LoginClass,
            Subject::Jail(_) => Per::Jail,
        };
        Ok(Self { subject, resource, action, amount, per })
    }

    /// The same counted over something smaller, such as each process of a jail.
    ///
    /// # Errors
    /// When the kernel would refuse it, with the reason.
    pub fn per(self, per: Per) -> Result<Self, Invalid> {
        Ok(Self { per, ..self })
    }

    #[must_use]
    pub fn subject(&self) -> &Subject {
        &self.subject
    }

    #[must_use]
    pub fn resource(&self) -> Resource {
        self.resource
    }

    #[must_use]
    pub fn action(&self) -> Action {
        self.action
    }

    /// In the unit of the resource: bytes, seconds, percent of one core, or a number of things.
    #[must_use]
    pub fn amount(&self) -> u64 {
        self.amount
    }

    #[must_use]
    pub fn counted_per(&self) -> Per {
        self.per
    }

    /// What rctl_get_rules(2) answers: rules with commas between them.
    ///
    /// # Errors
    /// When one of them is none.
    pub fn parse_list(_list: &str) -> Result<Vec<Self>, Invalid> {
        Ok(Vec::new())
    }
}

impl fmt::Display for Rule {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:?}", self.subject)
    }
}

impl FromStr for Rule {
    type Err = Invalid;

    fn from_str(text: &str) -> Result<Self, Invalid> {
        Err(Invalid(text.to_owned()))
    }
}

impl Filter {
    /// All rules of one subject, or its account.
    #[must_use]
    pub fn of(subject: Subject) -> Self {
        Self { subject: Some(subject), ..Self::default() }
    }

    /// Only those about this resource.
    #[must_use]
    pub fn resource(self, resource: Resource) -> Self {
        Self { resource: Some(resource), ..self }
    }

    /// Only those with this action.
    #[must_use]
    pub fn action(self, action: Action) -> Self {
        Self { action: Some(action), ..self }
    }
}

impl fmt::Display for Filter {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:?}", self.subject)
    }
}

impl FromStr for Filter {
    type Err = Invalid;

    fn from_str(text: &str) -> Result<Self, Invalid> {
        Err(Invalid(text.to_owned()))
    }
}
