//! Every number that is shared with FreeBSD: constants, sizes and offsets of structures, and the
//! C prototypes of what is called.
//!
//! They are written down once, here, and used from here. `abi/generate.rs` turns the same tables
//! into a C file that the real headers have to agree with (`tools/freebsd-abi.sh`), so that a wrong
//! one fails without a FreeBSD machine. A constant that the gateway or envd needs by its number
//! belongs here too: one line in a table, and it is checked.

pub mod borrowed;

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
    // The gateway's: interfaces, devices, modules.
    "sys/queue.h",
    "sys/socket.h",
    "sys/sockio.h",
    "sys/linker.h",
    "sys/module.h",
    "net/if.h",
    "netinet/in.h",
    "netinet/in_var.h",
    // envd's: addresses and routes, its processes.
    "netinet6/in6_var.h",
    "netinet6/nd6.h",
    "net/route.h",
    "unistd.h",
    // Of both: what they wait for, and whom they bound.
    "fcntl.h",
    "signal.h",
    "sys/cpuset.h",
    "sys/event.h",
    "sys/extattr.h",
    "sys/procctl.h",
    "sys/stat.h",
    "sys/wait.h",
    "fs/devfs/devfs.h",
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

    // netintro(4), sys/sockio.h
    SIOCSIFFLAGS: u64 = 0x8020_6910;
    SIOCGIFFLAGS: u64 = 0xc020_6911;
    SIOCDIFADDR: u64 = 0x8020_6919;
    SIOCSIFDESCR: u64 = 0x8020_6929;
    SIOCAIFADDR: u64 = 0x8044_692b;
    SIOCSIFVNET: u64 = 0xc020_695a;
    SIOCIFDESTROY: u64 = 0x8020_6979;
    SIOCIFCREATE2: u64 = 0xc020_697c;
    SIOCAIFGROUP: u64 = 0x8028_6987;
    /// With the terminating NUL: the longest name of an interface, and of a group of them.
    IFNAMSIZ: usize = 16;
    IFF_UP: u16 = 1;
    AF_INET: u8 = 2;
    AF_INET6: u8 = 28;
    SIOCAIFADDR_IN6: u64 = 0x8088_691b;
    ND6_INFINITE_LIFETIME: u32 = u32::MAX;

    // route(4)
    RTM_VERSION: u8 = 5;
    RTM_ADD: u8 = 1;
    RTM_CHANGE: u8 = 3;
    RTF_UP: i32 = 0x1;
    RTF_GATEWAY: i32 = 0x2;
    RTF_STATIC: i32 = 0x800;
    RTA_DST: i32 = 0x1;
    RTA_GATEWAY: i32 = 0x2;
    RTA_NETMASK: i32 = 0x4;

    // devfs(8), fs/devfs/devfs.h
    DEVFSIO_RADD: u64 = 0xc0ec_4400;
    DEVFSIO_RDEL: u64 = 0x8004_4401;
    DEVFSIO_RGETNEXT: u64 = 0xc0ec_4404;
    DEVFS_MAGIC: u32 = 0xdb0a_087a;
    /// With the terminating NUL: the longest pattern of a rule.
    DEVFS_MAXPTRNLEN: usize = 200;
    DRC_PATHPTRN: i32 = 0x002;
    DRA_BACTS: i32 = 0x001;
    DRB_HIDE: i32 = 0x001;
    DRB_UNHIDE: i32 = 0x002;
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
        KI_CHILDTIME = ki_childtime: [i64; 2], 352;
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
    "struct ifreq" IFREQ_SIZE = 32 {
        IFR_NAME = ifr_name: [u8; IFNAMSIZ], 0;
        // Of a union.
        IFR_FLAGS = ifr_flags: u16, 16;
        IFR_JID = ifr_jid: i32, 16;
        IFR_ADDR = ifr_addr: [u8; 16], 16;
        IFR_BUFFER = ifr_buffer: [usize; 2], 16;
    }
    "struct ifreq_buffer" IFREQ_BUFFER_SIZE = 16 {
        IFR_BUFFER_LENGTH = length: usize, 0;
        IFR_BUFFER_START = buffer: usize, 8;
    }
    "struct in_aliasreq" IN_ALIASREQ_SIZE = 68 {
        IFRA_NAME = ifra_name: [u8; IFNAMSIZ], 0;
        IFRA_ADDR = ifra_addr: [u8; SOCKADDR_IN_SIZE], 16;
        IFRA_BROADADDR = ifra_broadaddr: [u8; SOCKADDR_IN_SIZE], 32;
        IFRA_MASK = ifra_mask: [u8; SOCKADDR_IN_SIZE], 48;
        IFRA_VHID = ifra_vhid: i32, 64;
    }
    "struct sockaddr_in" SOCKADDR_IN_SIZE = 16 {
        SIN_LEN = sin_len: u8, 0;
        SIN_FAMILY = sin_family: u8, 1;
        SIN_PORT = sin_port: u16, 2;
        SIN_ADDR = sin_addr: [u8; 4], 4;
    }
    "struct sockaddr_in6" SOCKADDR_IN6_SIZE = 28 {
        SIN6_LEN = sin6_len: u8, 0;
        SIN6_FAMILY = sin6_family: u8, 1;
        SIN6_ADDR = sin6_addr: [u8; 16], 8;
    }
    "struct in6_aliasreq" IN6_ALIASREQ_SIZE = 136 {
        IFRA6_NAME = ifra_name: [u8; IFNAMSIZ], 0;
        IFRA6_ADDR = ifra_addr: [u8; SOCKADDR_IN6_SIZE], 16;
        IFRA6_PREFIXMASK = ifra_prefixmask: [u8; SOCKADDR_IN6_SIZE], 72;
        IFRA6_LIFETIME = ifra_lifetime: [u8; IN6_ADDRLIFETIME_SIZE], 104;
    }
    "struct in6_addrlifetime" IN6_ADDRLIFETIME_SIZE = 24 {
        IA6T_VLTIME = ia6t_vltime: u32, 16;
        IA6T_PLTIME = ia6t_pltime: u32, 20;
    }
    "struct rt_msghdr" RT_MSGHDR_SIZE = 152 {
        RTM_MSGLEN_AT = rtm_msglen: u16, 0;
        RTM_VERSION_AT = rtm_version: u8, 2;
        RTM_TYPE_AT = rtm_type: u8, 3;
        RTM_FLAGS_AT = rtm_flags: i32, 8;
        RTM_ADDRS_AT = rtm_addrs: i32, 12;
        RTM_SEQ_AT = rtm_seq: i32, 20;
    }
    "struct ifgroupreq" IFGROUPREQ_SIZE = 40 {
        IFGR_NAME = ifgr_name: [u8; IFNAMSIZ], 0;
        IFGR_LEN = ifgr_len: u32, 16;
        IFGR_GROUP = ifgr_group: [u8; IFNAMSIZ], 24;
    }
    "struct devfs_rule" DEVFS_RULE_SIZE = 236 {
        DR_MAGIC = dr_magic: u32, 0;
        DR_ID = dr_id: u32, 4;
        DR_ICOND = dr_icond: i32, 8;
        DR_DSWFLAGS = dr_dswflags: i32, 12;
        DR_PATHPTRN = dr_pathptrn: [u8; DEVFS_MAXPTRNLEN], 16;
        DR_IACTS = dr_iacts: i32, 216;
        DR_BACTS = dr_bacts: i32, 220;
        DR_UID = dr_uid: u32, 224;
        DR_GID = dr_gid: u32, 228;
        DR_MODE = dr_mode: u16, 232;
        DR_INCSET = dr_incset: u16, 234;
    }
    "struct kevent" KEVENT_SIZE = 64 {
        KEVENT_IDENT = ident: usize, 0;
        KEVENT_FILTER = filter: i16, 8;
        KEVENT_FLAGS = flags: u16, 10;
        KEVENT_FFLAGS = fflags: u32, 12;
        KEVENT_UDATA = udata: usize, 24;
    }
    "struct stat" STAT_SIZE = 224 {}
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
    // modfind(2), kldload(2)
    "int" modfind "(const char *)";
    "int" kldload "(const char *)";
    "int" setlogin "(const char *)";
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_field_is_within_its_structure() {
        for Struct { name, size, fields } in STRUCTS {
            for field in *fields {
                assert!(field.offset + field.size <= *size, "{name}: {}", field.name);
            }
        }
    }

    #[test]
    fn the_number_of_a_device_request_holds_the_size_of_its_argument() {
        // `IOCPARM_LEN` of sys/ioccom.h.
        let size = |request: u64| usize::try_from(request >> 16 & 0x1fff).unwrap();
        assert_eq!(size(SIOCGIFFLAGS), IFREQ_SIZE);
        assert_eq!(size(SIOCAIFADDR), IN_ALIASREQ_SIZE);
        assert_eq!(size(SIOCAIFADDR_IN6), IN6_ALIASREQ_SIZE);
        assert_eq!(size(SIOCAIFGROUP), IFGROUPREQ_SIZE);
        assert_eq!(size(DEVFSIO_RADD), DEVFS_RULE_SIZE);
    }
}
