//! What a resource account holds: the line that rctl_get_racct(2) answers, with units.

use std::{collections::BTreeMap, fmt};

use crate::rule::Resource;

/// A resource account, racct(4); the resources are those of rctl(8).
///
/// What has no meaning for a single process is `None` in the account of one (`RACCT_SLOPPY`,
/// sys/kern/kern_racct.c).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Usage {
    /// CPU time, that of processes which have ended included; whole seconds.
    pub cputime_seconds: u64,
    pub datasize_bytes: u64,
    pub stacksize_bytes: u64,
    pub coredumpsize_bytes: u64,
    /// Resident memory; a page that several processes share counts for each. Brought up to date
    /// once a second.
    pub memoryuse_bytes: u64,
    pub memorylocked_bytes: u64,
    /// Processes.
    pub maxproc: u64,
    /// The size of the descriptor tables, not the number of files that are open.
    pub openfiles: u64,
    pub vmemoryuse_bytes: u64,
    pub pseudoterminals: Option<u64>,
    /// Swap that is reserved, whether or not it is used.
    pub swapuse_bytes: Option<u64>,
    /// Threads.
    pub nthr: u64,
    /// System V messages that are queued, and their size.
    pub msgqqueued: Option<u64>,
    pub msgqsize_bytes: Option<u64>,
    /// System V message queues.
    pub nmsgq: Option<u64>,
    /// System V semaphores.
    pub nsem: Option<u64>,
    /// Semaphores changed by one semop(2).
    pub nsemop: u64,
    /// System V shared memory segments, and their size.
    pub nshm: Option<u64>,
    pub shmsize_bytes: Option<u64>,
    /// Summed over the processes, so that it runs faster than a clock.
    pub wallclock_seconds: u64,
    /// Percent of one core, a decaying average: of a subject that stands still it takes tens of
    /// seconds to fall to nothing.
    pub pcpu_percent: u64,
    /// Of block devices, as the four below; FreeBSD counts no filesystem that has none.
    pub readbps_bytes_per_second: u64,
    pub writebps_bytes_per_second: u64,
    pub readiops_per_second: u64,
    pub writeiops_per_second: u64,
}

/// Why a line is no resource account.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ParseError {
    /// What stands between two commas is not `resource=number`.
    Entry(String),
    /// A resource that every account has is not there.
    Missing(&'static str),
}

impl fmt::Display for ParseError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Entry(entry) => write!(f, "not resource=number: {entry:?}"),
            Self::Missing(resource) => write!(f, "no {resource} in the account"),
        }
    }
}

impl std::error::Error for ParseError {}

impl Usage {
    /// Reads what rctl_get_racct(2) answers. The kernel prints signed numbers; one below nothing
    /// counts as nothing.
    ///
    /// # Errors
    /// When an entry is not `resource=number`, or one that every account has is missing. Resources
    /// that this crate does not know are passed over: a newer kernel may count more.
    pub fn parse(line: &str) -> Result<Self, ParseError> {
        let mut amounts = BTreeMap::new();
        for entry in line.split(',').filter(|entry| !entry.is_empty()) {
            let bad = || ParseError::Entry(entry.chars().take(80).collect());
            let (name, amount) = entry.split_once('=').ok_or_else(bad)?;
            let amount: i64 = amount.parse().map_err(|_| bad())?;
            if let Some(resource) = Resource::from_name(name) {
                amounts.insert(resource, u64::try_from(amount).unwrap_or(0));
            }
        }
        let maybe = |resource| amounts.get(&resource).copied();
        let always =
            |resource: Resource| maybe(resource).ok_or(ParseError::Missing(resource.name()));
        Ok(Self {
            cputime_seconds: always(Resource::CpuTime)?,
            datasize_bytes: always(Resource::DataSize)?,
            stacksize_bytes: always(Resource::StackSize)?,
            coredumpsize_bytes: always(Resource::CoreDumpSize)?,
            memoryuse_bytes: always(Resource::MemoryUse)?,
            memorylocked_bytes: always(Resource::MemoryLocked)?,
            maxproc: always(Resource::MaxProc)?,
            openfiles: always(Resource::OpenFiles)?,
            vmemoryuse_bytes: always(Resource::VMemoryUse)?,
            pseudoterminals: maybe(Resource::PseudoTerminals),
            swapuse_bytes: maybe(Resource::SwapUse),
            nthr: always(Resource::NThr)?,
            msgqqueued: maybe(Resource::MsgqQueued),
            msgqsize_bytes: maybe(Resource::MsgqSize),
            nmsgq: maybe(Resource::NMsgq),
            nsem: maybe(Resource::NSem),
            nsemop: always(Resource::NSemop)?,
            nshm: maybe(Resource::NShm),
            shmsize_bytes: maybe(Resource::ShmSize),
            wallclock_seconds: always(Resource::WallClock)?,
            pcpu_percent: always(Resource::PCpu)?,
            readbps_bytes_per_second: always(Resource::ReadBps)?,
            writebps_bytes_per_second: always(Resource::WriteBps)?,
            readiops_per_second: always(Resource::ReadIops)?,
            writeiops_per_second: always(Resource::WriteIops)?,
        })
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// From a FreeBSD 13.2 with three processes in the jail.
    const JAIL: &str = "cputime=1,datasize=24576,stacksize=0,coredumpsize=0,memoryuse=7643136,\
        memorylocked=0,maxproc=3,openfiles=0,vmemoryuse=41127936,pseudoterminals=0,\
        swapuse=33177600,nthr=3,msgqqueued=0,msgqsize=0,nmsgq=0,nsem=0,nsemop=0,nshm=0,shmsize=0,\
        wallclock=11,pcpu=84,readbps=0,writebps=0,readiops=0,writeiops=0";

    #[test]
    fn a_line_of_a_real_kernel_is_read() {
        assert_eq!(
            Usage::parse(JAIL).unwrap(),
            Usage {
                cputime_seconds: 1,
                datasize_bytes: 24_576,
                memoryuse_bytes: 7_643_136,
                maxproc: 3,
                vmemoryuse_bytes: 41_127_936,
                pseudoterminals: Some(0),
                swapuse_bytes: Some(33_177_600),
                nthr: 3,
                msgqqueued: Some(0),
                msgqsize_bytes: Some(0),
                nmsgq: Some(0),
                nsem: Some(0),
                nshm: Some(0),
                shmsize_bytes: Some(0),
                wallclock_seconds: 11,
                pcpu_percent: 84,
                ..Usage::default()
            }
        );
    }

    #[test]
    fn every_resource_is_read_into_a_field_of_its_own() {
        let text = |amount: u64| {
            let entry = |(at, resource): (usize, &Resource)| {
                format!("{}={}", resource.name(), amount + at as u64)
            };
            Resource::ALL.iter().enumerate().map(entry).collect::<Vec<_>>().join(",")
        };
        let usage = Usage::parse(&text(100)).unwrap();
        let shown = format!("{usage:?}");
        for amount in 100..125 {
            assert_eq!(shown.matches(&format!("{amount}")).count(), 1, "{amount} in {shown}");
        }
        assert_eq!(usage.cputime_seconds, 100);
        assert_eq!(usage.writeiops_per_second, 124);
    }

    #[test]
    fn the_account_of_a_process_lacks_what_only_several_have() {
        let lacks = ["pseudoterminals", "swapuse", "msgq", "nmsgq", "nsem=", "nshm", "shmsize"];
        let line: Vec<&str> = JAIL
            .split(',')
            .filter(|entry| !lacks.iter().any(|name| entry.starts_with(name)))
            .collect();
        let usage = Usage::parse(&line.join(",")).unwrap();
        assert_eq!((usage.swapuse_bytes, usage.nsem), (None, None));
        assert_eq!((usage.pcpu_percent, usage.nthr), (84, 3));
    }

    #[test]
    fn what_a_newer_kernel_counts_besides_is_passed_over() {
        assert_eq!(Usage::parse(&format!("gpu=3,{JAIL},nsock=9")), Usage::parse(JAIL));
    }

    #[test]
    fn less_than_nothing_is_nothing() {
        let usage = Usage::parse(&JAIL.replace("pcpu=84", "pcpu=-3")).unwrap();
        assert_eq!(usage.pcpu_percent, 0);
    }

    #[test]
    fn what_is_no_account_is_said() {
        let error = |line: &str| Usage::parse(line).unwrap_err().to_string();
        assert_eq!(error(""), "no cputime in the account");
        assert_eq!(error("cputime"), "not resource=number: \"cputime\"");
        assert_eq!(error("cputime=one"), "not resource=number: \"cputime=one\"");
        assert_eq!(error(&JAIL.replace("nthr=3,", "")), "no nthr in the account");
    }

    proptest! {
        #[test]
        fn no_line_makes_it_panic(line in "\\PC*") {
            let _ = Usage::parse(&line);
        }

        #[test]
        fn no_mixture_of_its_own_words_makes_it_panic(line in "([a-z]{0,6}|cputime|=|,|-?[0-9]{0,25}){0,40}") {
            let _ = Usage::parse(&line);
        }
    }
}
