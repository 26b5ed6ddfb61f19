//! What the gateway and its envd say to each other; never seen by a client.
//!
//! * **Control socket** (descriptor [`CONTROL_FD`] of a fresh envd, a stream pair). The gateway
//!   sends one frame, a [`Spec`], with its descriptors as `SCM_RIGHTS` on the first byte, and on
//!   Linux one more byte when the link is there, if the sandbox has one (a jail's is there before);
//!   envd answers with one frame, a [`Attached`], and both ends close. A frame is a big-endian `u32`
//!   length and that many bytes of JSON.
//! * **Spawn socket** (Linux: descriptor [`CONTROL_FD`] of the one envd that is in no sandbox, a
//!   stream pair). It says with one byte that it is ready. The gateway sends one byte with the
//!   control socket, the log and, if there is one, the v2 cgroup of a sandbox as `SCM_RIGHTS`, then
//!   the owner of its user namespace as a big-endian `u32`; it is answered with the pid of the
//!   sandbox's first process, or the negative errno, as a big-endian `i32`. That process waits for
//!   one byte on its control socket.
//! * **envd socket** (`envd.sock`): HTTP/1.1, the E2B API of port 49983, `POST /init`, by which a
//!   sandbox that was made before anybody wanted it becomes somebody's, `POST /warm` (204 when the
//!   default Python kernel answers), and with [`CODE_HEADER`] that of port 49999.
//! * **Tunnel socket** (`tunnel.sock`): the gateway writes the port as a big-endian `u16`, envd
//!   answers one [`TunnelReply`] byte; with [`TunnelReply::Open`] comes, as `SCM_RIGHTS`, a socket
//!   that is connected to that port.
//! * **Report socket** (`report.sock`): the gateway writes the last sequence number it has seen as
//!   a big-endian `u64`; envd answers with one [`Report`] per line of JSON, from the next one it
//!   still holds, and follows.
//!
//! Whatever comes out of envd may be written by hostile code: the reader bounds and times it out.

mod detail;

use std::collections::BTreeMap;

pub(crate) use self::detail::parts;
pub use self::detail::{Assembly, Detail, MARGIN, MAX_DETAIL, MAX_OUTPUT, MAX_TEXT, Of, text};
use serde::{Deserialize, Serialize};

/// Raised when a gateway and an envd of different builds would misunderstand each other.
pub const PROTOCOL: u32 = 2;

/// The envd version told to SDKs, which unlock features by it.
pub const ENVD_VERSION: &str = "0.6.13";

/// Where a fresh envd finds its control socket; it inherits nothing else but 0, 1 and 2.
pub const CONTROL_FD: i32 = 3;

/// The port under which clients address envd itself.
pub const ENVD_PORT: u16 = 49983;

/// The port under which clients address the code interpreter, in sandboxes that have kernels.
pub const CODE_PORT: u16 = 49999;

/// What is asked of that port comes on envd's own socket, with this header, which the gateway
/// takes out of all other requests.
pub const CODE_HEADER: &str = "coppice-code";

/// Contexts of a sandbox, each of which may have a kernel.
pub const MAX_CONTEXTS: usize = 64;

/// A control frame longer than this is refused (bytes).
pub const MAX_FRAME: u32 = 4 << 20;

/// A report line longer than this is refused (bytes, newline included).
pub const MAX_REPORT: usize = 4096;

/// Everything envd needs to enter its sandbox and serve.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Spec {
    pub protocol: u32,
    pub sandbox_id: String,
    pub template_id: String,
    /// What each descriptor that came with the frame is, in order.
    pub descriptors: Vec<Descriptor>,
    pub attach: Attach,
    pub init: Init,
}

/// What tells a program that it is in a sandbox, and in which: in its environment, and in
/// `/run/e2b`, in a file for each with a dot before its name.
pub fn identity(sandbox_id: &str, template_id: &str) -> [(String, String); 3] {
    [
        ("E2B_SANDBOX".to_owned(), "true".to_owned()),
        ("E2B_SANDBOX_ID".to_owned(), sandbox_id.to_owned()),
        ("E2B_TEMPLATE_ID".to_owned(), template_id.to_owned()),
    ]
}

/// The role of one descriptor passed along with a [`Spec`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Descriptor {
    /// Listening unix sockets, bound on the host.
    EnvdListener,
    TunnelListener,
    ReportListener,
    /// Detached, idmapped mount of a read-only layer; the topmost first.
    LowerLayer,
    /// Detached, idmapped mount of the directory that holds `upper` and `work`.
    WritableLayer,
    /// Detached mount of a file system of its own, with the sandbox's devices.
    Devices,
    /// `cgroup.procs` (v1: of each hierarchy in use), open for writing; user processes write `0`.
    UserCgroup,
    /// A file with the bytes of memory in use by user processes, read anew at offset 0.
    MemoryUsage,
    /// A file with the CPU time of user processes, read anew at offset 0: either v1's
    /// `cpuacct.usage` (nanoseconds) or v2's `cpu.stat` (`usage_usec` line).
    CpuUsage,
    /// A file that says how many processes were killed for want of memory (`oom_kill` line), read
    /// anew at offset 0: v1's `memory.oom_control` or v2's `memory.events`.
    MemoryKills,
}

/// How to enter, by platform.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Attach {
    Linux(LinuxAttach),
    Jail(JailAttach),
}

impl Attach {
    /// What `/metrics` shows as total (bytes).
    pub fn memory_bytes(&self) -> u64 {
        match self {
            Self::Linux(linux) => linux.memory_bytes,
            Self::Jail(jail) => jail.memory_bytes,
        }
    }

    /// Most files that a user process may have open. Those of a jail are counted together, by its
    /// rules.
    pub fn open_files(&self) -> Option<u64> {
        match self {
            Self::Linux(linux) => linux.open_files,
            Self::Jail(_) => None,
        }
    }

    /// Whether there is an envd already, and nothing to serve.
    pub fn is_only_network(&self) -> bool {
        matches!(self, Self::Jail(JailAttach { only_network: true, .. }))
    }

    /// The CPUs user processes may run on.
    pub fn cpus(&self) -> &[u16] {
        match self {
            Self::Linux(linux) => &linux.cpus,
            Self::Jail(jail) => &jail.cpus,
        }
    }
}

/// The new namespaces are already there (clone3); what is left is to furnish them.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct LinuxAttach {
    pub hostname: String,
    /// What `/proc/meminfo` and `/metrics` show as total (bytes).
    pub memory_bytes: u64,
    /// Most of `/dev/shm` (bytes); what envd writes there it must survive.
    pub shm_bytes: u64,
    /// The CPUs user processes may run on; what `nproc` counts.
    pub cpus: Vec<u16>,
    /// Most processes and threads of the user cgroup.
    pub processes: u64,
    /// Most files that a user process may raise its limit to; `None` is as many as any may.
    pub open_files: Option<u64>,
    /// `None`: loopback only.
    pub network: Option<LinuxNetwork>,
}

/// The sandbox's end of the veth pair, named `eth0` and already in its namespace.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct LinuxNetwork {
    pub address: std::net::Ipv4Addr,
    /// On-link host address that is the default route.
    pub gateway: std::net::Ipv4Addr,
}

/// The jail is already there, with its root, mounts, limits and cpuset; what is left is to attach
/// to it and, where it has a network stack of its own, to bring that up.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct JailAttach {
    pub jid: i32,
    /// What the jail is called already (`host.hostname`), for the log.
    pub hostname: String,
    /// What `/metrics` shows as total (bytes).
    pub memory_bytes: u64,
    /// Most processes of the jail, envd among them.
    pub processes: u64,
    /// The CPUs of the jail's cpuset; what `/metrics` counts.
    pub cpus: Vec<u16>,
    /// `None`: loopback only, or the addresses that the jail was given.
    pub network: Option<JailNetwork>,
    /// The jail has an envd, and was made without that network: this one brings it up, and ends.
    #[serde(default)]
    pub only_network: bool,
}

/// The jail's end of the epair, already in its network stack and without address.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct JailNetwork {
    pub interface: String,
    pub address: std::net::Ipv4Addr,
    pub prefix: u8,
    /// The default route; an address within the prefix.
    pub gateway: std::net::Ipv4Addr,
}

/// What the sandbox starts with; also the body of `POST /init`, by which one that was made before
/// anybody wanted it becomes somebody's, and where an absent field stays as it was.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct Init {
    /// Environment of every process in the sandbox.
    pub env_vars: Option<BTreeMap<String, String>>,
    pub access_token: Option<String>,
    pub default_user: Option<String>,
    pub default_workdir: Option<String>,
}

/// envd's one answer on the control socket.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Attached {
    /// All listeners are being served.
    Ready { protocol: u32 },
    /// The step that failed, e.g. `mount overlay at /`, and what the kernel said.
    Failed { step: String, errno: Option<i32>, message: String },
}

/// One byte on the tunnel socket.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum TunnelReply {
    Open = 0,
    /// Nothing listens on that port.
    Refused = 1,
    /// Anything else, e.g. out of descriptors.
    Failed = 2,
}

/// Something that happened inside. Feeds events and metrics; never decides state.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Report {
    /// Starts at 1 and rises by one per report; a gap is what was dropped.
    pub seq: u64,
    /// Milliseconds since the epoch.
    pub at: u64,
    /// Kernels that live after it: with any one report that comes through, that is known.
    #[serde(default)]
    pub kernels: u32,
    /// And so are commands and terminals that have begun and not ended.
    #[serde(default)]
    pub commands: u32,
    #[serde(flatten)]
    pub what: What,
    /// This one is only for its part, and the next has the rest, or more of it.
    #[serde(default, skip_serializing_if = "is_false")]
    pub more: bool,
    /// Of its [`Detail`], see [`Assembly`].
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub part: String,
}

fn is_false(value: &bool) -> bool {
    !value
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(tag = "type", rename_all = "snake_case")]
pub enum What {
    ProcessStarted {
        pid: u32,
        /// It was begun again and again, word for word.
        #[serde(default)]
        repeated: bool,
    },
    /// `exit_code` is -1 when a signal ended it.
    ProcessEnded {
        pid: u32,
        exit_code: i32,
        duration_ms: u64,
        /// It was killed, and while it ran some of the sandbox were for want of memory.
        #[serde(default)]
        out_of_memory: bool,
    },
    FileRead {
        bytes: u64,
    },
    FileWritten {
        bytes: u64,
    },
    KernelStarted {
        language: String,
    },
    /// By itself; `exit_code` is -1 when a signal ended it.
    KernelDied {
        language: String,
        exit_code: i32,
    },
    /// As it was told to, with its context or for a new one in its place.
    KernelStopped {
        language: String,
    },
    /// Its turn came and is over.
    CodeExecuted {
        language: String,
        /// The client was told of an error.
        failed: bool,
        duration_ms: u64,
        /// It was run again and again, word for word.
        #[serde(default)]
        repeated: bool,
    },
    /// Of a newer envd: what there will be besides should rather be a [`Detail`], which all
    /// gateways survive.
    #[serde(other)]
    Unknown,
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn what() -> impl Strategy<Value = What> {
        prop_oneof![
            any::<(u32, bool)>().prop_map(|(pid, repeated)| What::ProcessStarted { pid, repeated }),
            any::<(u32, i32, u64, bool)>().prop_map(
                |(pid, exit_code, duration_ms, out_of_memory)| {
                    What::ProcessEnded { pid, exit_code, duration_ms, out_of_memory }
                }
            ),
            any::<u64>().prop_map(|bytes| What::FileRead { bytes }),
            any::<u64>().prop_map(|bytes| What::FileWritten { bytes }),
            "\\PC{0,64}".prop_map(|language| What::KernelStarted { language }),
            ("\\PC{0,64}", any::<i32>())
                .prop_map(|(language, exit_code)| What::KernelDied { language, exit_code }),
            "\\PC{0,64}".prop_map(|language| What::KernelStopped { language }),
            ("\\PC{0,64}", any::<(bool, u64, bool)>()).prop_map(
                |(language, (failed, duration_ms, repeated))| {
                    What::CodeExecuted { language, failed, duration_ms, repeated }
                }
            ),
        ]
    }

    fn jail() -> impl Strategy<Value = JailAttach> {
        let network = ("[a-z0-9_.]{1,15}", any::<[u8; 4]>(), 0..=32_u8, any::<[u8; 4]>()).prop_map(
            |(interface, address, prefix, gateway)| JailNetwork {
                interface,
                address: address.into(),
                prefix,
                gateway: gateway.into(),
            },
        );
        let limits = (any::<u64>(), any::<u64>(), any::<Vec<u16>>());
        let network = (proptest::option::of(network), any::<bool>());
        (any::<i32>(), "\\PC{0,64}", limits, network).prop_map(
            |(jid, hostname, (memory_bytes, processes, cpus), (network, only_network))| {
                JailAttach { jid, hostname, memory_bytes, processes, cpus, network, only_network }
            },
        )
    }

    proptest! {
        #[test]
        fn how_to_enter_a_jail_is_read_as_it_was_written(jail in jail()) {
            let attach = Attach::Jail(jail);
            let text = serde_json::to_string(&attach).unwrap();
            let named = text.starts_with(r#"{"jail":"#);
            prop_assert!(named, "{}", text);
            prop_assert_eq!(serde_json::from_str::<Attach>(&text).unwrap(), attach);
        }

        #[test]
        fn a_report_is_one_short_line_and_read_as_it_was_written(seq: u64, at: u64, what in what()) {
            let (more, part) = (seq % 2 == 0, at.to_string());
            let (kernels, commands) = (at as u32, seq as u32);
            let report = Report { seq, at, kernels, commands, what, more, part };
            let line = serde_json::to_string(&report).unwrap();
            prop_assert!(line.len() < MAX_REPORT && !line.contains('\n'));
            prop_assert_eq!(serde_json::from_str::<Report>(&line).unwrap(), report);
        }
    }

    /// Sandboxes outlive the gateway they were made by, and its build.
    #[test]
    fn a_report_of_an_older_envd_is_read() {
        let line = r#"{"seq":1,"at":2,"type":"file_read","bytes":3}"#;
        let what = What::FileRead { bytes: 3 };
        let (more, part) = (false, String::new());
        let report = Report { seq: 1, at: 2, kernels: 0, commands: 0, what, more, part };
        assert_eq!(serde_json::from_str::<Report>(line).unwrap(), report);
        let newer = line.replace("file_read", "file_dreamt_of");
        assert_eq!(serde_json::from_str::<Report>(&newer).unwrap().what, What::Unknown);
    }
}
