//! Walls that tests take down one by one, to see that the attacks which they stop are real.
//!
//! Only a build with debug assertions can: there the variable [`VARIABLE`] names those that are
//! down, for the gateway and all it starts. A release has all its walls, whatever it is told, and
//! refuses to serve when it is told otherwise. Never leave one down where code of others runs.

use std::{ffi::CString, sync::LazyLock};

/// Names of walls, with commas between them.
pub const VARIABLE: &str = "COPPICE_UNSAFE_WALLS_DOWN";

/// Something between a sandbox and what is not its own.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Wall {
    /// Root in a sandbox has few capabilities, in its own user namespace too.
    Capabilities,
    /// Where its processes are in the host's cgroups is not shown.
    CgroupNamespace,
    /// A server in it is not told what opens the gateway.
    Credentials,
    /// The memory of its first process is not to be read.
    EnvdMemory,
    /// A request of which nobody can say where it ends is refused.
    Framing,
    /// A client has so long for the head of a request.
    HeadTime,
    /// Without keys, only hosts that are this machine's are served.
    Hosts,
    /// The host's files are not below its root.
    HostTree,
    /// It has user ids that no other has, nor the host.
    Ids,
    /// Nobody but the gateway tells envd what the gateway says to it.
    InnerHeaders,
    /// Its System V memory, semaphores and queues are its own.
    IpcNamespace,
    /// It begins without the keys of whoever started the gateway.
    Keyring,
    /// What it writes goes into a layer that is new and nobody else's.
    Layer,
    /// Memory, processes and CPU time are bounded.
    Limits,
    /// What `/proc` tells of the host is covered.
    Masks,
    /// envd takes only as much as a message may have.
    MessageSize,
    /// Its links, ports and abstract sockets are its own.
    NetworkNamespace,
    /// It reaches what its policy leaves open.
    NetworkPolicy,
    /// What keeps the gateway from being killed for want of memory does not keep a sandbox.
    OomScore,
    /// It reaches neither the host, nor private networks, nor its like.
    PacketFilter,
    /// It sees its own processes, and no others.
    PidNamespace,
    /// Few of the kernel's calls are to be had.
    SystemCalls,
}

impl Wall {
    const ALL: [Self; 22] = [
        Self::Capabilities,
        Self::CgroupNamespace,
        Self::Credentials,
        Self::EnvdMemory,
        Self::Framing,
        Self::HeadTime,
        Self::Hosts,
        Self::HostTree,
        Self::Ids,
        Self::InnerHeaders,
        Self::IpcNamespace,
        Self::Keyring,
        Self::Layer,
        Self::Limits,
        Self::Masks,
        Self::MessageSize,
        Self::NetworkNamespace,
        Self::NetworkPolicy,
        Self::OomScore,
        Self::PacketFilter,
        Self::PidNamespace,
        Self::SystemCalls,
    ];

    fn named(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|wall| wall.name() == name)
    }

    const fn name(self) -> &'static str {
        match self {
            Self::Capabilities => "capabilities",
            Self::CgroupNamespace => "cgroup-namespace",
            Self::Credentials => "credentials",
            Self::EnvdMemory => "envd-memory",
            Self::Framing => "framing",
            Self::HeadTime => "head-time",
            Self::Hosts => "hosts",
            Self::HostTree => "host-tree",
            Self::Ids => "ids",
            Self::InnerHeaders => "inner-headers",
            Self::IpcNamespace => "ipc-namespace",
            Self::Keyring => "keyring",
            Self::Layer => "layer",
            Self::Limits => "limits",
            Self::Masks => "masks",
            Self::MessageSize => "message-size",
            Self::NetworkNamespace => "network-namespace",
            Self::NetworkPolicy => "network-policy",
            Self::OomScore => "oom-score",
            Self::PacketFilter => "packet-filter",
            Self::PidNamespace => "pid-namespace",
            Self::SystemCalls => "system-calls",
        }
    }
}

static DOWN: LazyLock<Vec<Wall>> = LazyLock::new(|| read(&told()).unwrap_or_default());

fn told() -> String {
    if !cfg!(debug_assertions) {
        return String::new();
    }
    std::env::var(VARIABLE).unwrap_or_default()
}

/// Whether it is down; never in a release.
#[must_use]
pub fn is_down(wall: Wall) -> bool {
    cfg!(debug_assertions) && DOWN.contains(&wall)
}

fn read(list: &str) -> Result<Vec<Wall>, String> {
    let names = list.split(',').filter(|name| !name.is_empty());
    let wall = |name: &str| Wall::named(name).ok_or_else(|| format!("there is no wall `{name}`"));
    names.map(wall).collect()
}

/// Which are down, to be told to whoever looks at the log; to be called before any is asked for.
///
/// # Errors
/// That this is a release and was told to take some down, or that there are none of that name.
pub fn check() -> Result<Vec<&'static str>, String> {
    if !cfg!(debug_assertions) && std::env::var_os(VARIABLE).is_some() {
        return Err(format!("{VARIABLE} is set: only builds for tests can take walls down"));
    }
    let walls = read(&told()).map_err(|error| format!("{VARIABLE}: {error}"))?;
    Ok(walls.into_iter().map(Wall::name).collect())
}

/// What a process of ours is started with, so that the same are down there.
#[must_use]
pub fn environment() -> Option<CString> {
    let list = told();
    if list.is_empty() {
        return None;
    }
    CString::new(format!("{VARIABLE}={list}")).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_wall_has_a_name_of_its_own() {
        for wall in Wall::ALL {
            assert_eq!(Wall::named(wall.name()), Some(wall));
        }
    }

    #[test]
    fn a_list_names_walls_and_nothing_else() {
        assert_eq!(read("").unwrap(), []);
        assert_eq!(read("masks,ids").unwrap(), [Wall::Masks, Wall::Ids]);
        assert!(read("masks,moat").unwrap_err().contains("moat"));
    }
}
