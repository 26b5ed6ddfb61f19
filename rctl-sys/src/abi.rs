//! Every number that is shared with FreeBSD: constants, sizes and offsets of structures, and the
//! C prototypes of what is called.
//!
//! They are written down once, here, and used from here. `abi/generate.rs` turns the same tables
//! into a C file that the real headers have to agree with (`tools/freebsd-abi.sh`), so that a wrong
//! one fails without a FreeBSD machine. A constant that the gateway or envd needs by its number
//! belongs here too: one line in a table, and it is checked.

/// What a C header calls a number, and which number this crate takes it for.
#[derive(Clone, Copy, Debug)]
pub struct Constant {
    pub name: &'static str,
    pub value: i128,
}

/// Where a structure of a C header has a field.
#[derive(Clone, Copy, Debug)]
pub struct Field {
    pub name: &'static str,
    pub offset: usize,
    pub size: usize,
}

/// A structure of a C header, as far as it is used.
#[derive(Clone, Copy, Debug)]
pub struct Struct {
    /// As C says it, e.g. `struct kinfo_proc`.
    pub name: &'static str,
    pub size: usize,
    pub fields: &'static [Field],
}

/// A function of libc: its name, and the C type of a pointer to it, with `*` for the name.
#[derive(Clone, Copy, Debug)]
pub struct Prototype {
    pub name: &'static str,
    pub returns: &'static str,
    pub takes: &'static str,
}

/// In the order in which they may be included.
pub const HEADERS: &[&str] = &[
    "stddef.h",
    "stdint.h",
    "sys/param.h",
    "sys/types.h",
    "sys/uio.h",
    "sys/jail.h",
    "sys/mount.h",
    "sys/proc.h",
    "sys/rctl.h",
    "sys/sysctl.h",
    "sys/time.h",
    "sys/user.h",
];

macro_rules! constants {
    ($($(#[$doc:meta])* $name:ident: $type:ty = $value:expr;)*) => {
        $($(#[$doc])* pub const $name: $type = $value;)*

        pub const CONSTANTS: &[Constant] =
            &[$(Constant { name: stringify!($name), value: $name as i128 }),*];
    };
}

constants! {
    // jail(2)
    JAIL_CREATE: i32 = 0x01;
    JAIL_UPDATE: i32 = 0x02;
    JAIL_ATTACH: i32 = 0x04;
    JAIL_DYING: i32 = 0x08;
    JAIL_SYS_DISABLE: i32 = 0;
    JAIL_SYS_NEW: i32 = 1;
    JAIL_SYS_INHERIT: i32 = 2;

    // mount(2), getfsstat(2)
    MNT_NOWAIT: i32 = 2;
    MNT_RDONLY: u64 = 0x01;
    MNT_FORCE: i32 = 0x0008_0000;
    MNT_BYFSID: i32 = 0x0800_0000;
    /// Version 2 of `struct statfs`, FreeBSD 12 and later.
    STATFS_VERSION: u32 = 0x2014_0518;
    MFSNAMELEN: usize = 16;
    MNAMELEN: usize = 1024;

    // sysctl(3)
    CTL_KERN: i32 = 1;
    KERN_PROC: i32 = 14;
    KERN_PROC_PID: i32 = 1;
    KERN_PROC_PROC: i32 = 8;
    KERN_PROC_INC_THREAD: i32 = 0x10;

    // sys/proc.h: `ki_stat`, `ki_flag`
    SIDL: u8 = 1;
    SRUN: u8 = 2;
    SSLEEP: u8 = 3;
    SSTOP: u8 = 4;
    SZOMB: u8 = 5;
    SWAIT: u8 = 6;
    SLOCK: u8 = 7;
    P_STOPPED_SIG: u64 = 0x0002_0000;
    P_STOPPED_TRACE: u64 = 0x0004_0000;

    // sys/param.h
    /// With the terminating NUL: the longest name of a jail, and of a host.
    MAXHOSTNAMELEN: usize = 256;
    /// With the terminating NUL: the longest name of a login class.
    MAXLOGNAME: usize = 33;
    MAXPATHLEN: usize = 1024;
}

/// `COMMLEN` and a NUL.
pub const KI_COMM_SIZE: usize = 20;

macro_rules! offsets {
    ($($struct:literal $size:ident = $bytes:literal {
        $($const:ident = $field:ident: $type:ty, $offset:literal;)*
    })*) => {
        $(
            pub const $size: usize = $bytes;
            $(pub const $const: usize = $offset;)*
        )*

        pub const STRUCTS: &[Struct] = &[$(Struct {
            name: $struct,
            size: $size,
            fields: &[$(Field {
                name: stringify!($field),
                offset: $const,
                size: size_of::<$type>(),
            }),*],
        }),*];
    };
}

offsets! {
    // Of 64-bit systems.
    "struct kinfo_proc" KINFO_PROC_SIZE = 1088 {
        KI_STRUCTSIZE = ki_structsize: i32, 0;
        KI_PID = ki_pid: i32, 72;
        KI_PPID = ki_ppid: i32, 76;
        KI_PGID = ki_pgid: i32, 80;
        KI_SID = ki_sid: i32, 88;
        KI_UID = ki_uid: u32, 168;
        KI_RSSIZE = ki_rssize: i64, 264;
        KI_RUNTIME = ki_runtime: u64, 328;
        KI_START = ki_start: [i64; 2], 336;
        KI_FLAG = ki_flag: u64, 368;
        KI_STAT = ki_stat: u8, 388;
        KI_COMM = ki_comm: [u8; KI_COMM_SIZE], 447;
        KI_JID = ki_jid: i32, 592;
        KI_NUMTHREADS = ki_numthreads: i32, 596;
    }
    "struct statfs" STATFS_SIZE = 2344 {
        F_VERSION = f_version: u32, 0;
        F_FLAGS = f_flags: u64, 8;
        F_BSIZE = f_bsize: u64, 16;
        F_BLOCKS = f_blocks: u64, 32;
        F_BFREE = f_bfree: u64, 40;
        F_BAVAIL = f_bavail: i64, 48;
        F_FSID = f_fsid: [i32; 2], 192;
        F_FSTYPENAME = f_fstypename: [u8; MFSNAMELEN], 280;
        F_MNTFROMNAME = f_mntfromname: [u8; MNAMELEN], 296;
        F_MNTONNAME = f_mntonname: [u8; MNAMELEN], 1320;
    }
    "struct timeval" TIMEVAL_SIZE = 16 {
        TV_SEC = tv_sec: i64, 0;
        TV_USEC = tv_usec: i64, 8;
    }
    "struct iovec" IOVEC_SIZE = 16 {
        IOV_BASE = iov_base: u64, 0;
        IOV_LEN = iov_len: u64, 8;
    }
}

macro_rules! prototypes {
    ($($returns:literal $name:ident $takes:literal;)*) => {
        pub const PROTOTYPES: &[Prototype] = &[$(Prototype {
            name: stringify!($name),
            returns: $returns,
            takes: $takes,
        }),*];
    };
}

prototypes! {
    "int" rctl_get_racct "(const char *, size_t, char *, size_t)";
    "int" rctl_get_rules "(const char *, size_t, char *, size_t)";
    "int" rctl_get_limits "(const char *, size_t, char *, size_t)";
    "int" rctl_add_rule "(const char *, size_t, char *, size_t)";
    "int" rctl_remove_rule "(const char *, size_t, char *, size_t)";
    "int" jail_set "(struct iovec *, unsigned int, int)";
    "int" jail_get "(struct iovec *, unsigned int, int)";
    "int" jail_attach "(int)";
    "int" jail_remove "(int)";
    "int" nmount "(struct iovec *, uint32_t, int)";
    "int" unmount "(const char *, int)";
    "int" getfsstat "(struct statfs *, long, int)";
    "int" statfs "(const char *, struct statfs *)";
    "int" sysctl "(const int *, unsigned int, void *, size_t *, const void *, size_t)";
    "int" sysctlbyname "(const char *, void *, size_t *, const void *, size_t)";
}
