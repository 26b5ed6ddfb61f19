//! What the Linux backend owes beside the promises of the trait.

use std::{
    fs,
    net::{Ipv4Addr, TcpListener},
    os::unix::fs::MetadataExt,
    path::Path,
    time::{Duration, Instant},
};

use coppice::{
    backend::{Backend, NetworkMode},
    sandbox::SandboxId,
};
use nix::{
    sys::{
        inotify::{InitFlags, Inotify},
        resource::{Resource, getrlimit, setrlimit},
        signal::{Signal, kill},
    },
    unistd::Pid,
};

use super::{
    network::{self, ask},
    quota::Spent,
};
use crate::suite::{
    Case,
    cases::cases,
    platform::{children, first_process, say},
    world::{RESOLVER, World},
};

pub(super) fn all() -> Vec<Case> {
    cases![
        nothing_of_the_host_is_seen_inside,
        limits_are_shown,
        no_descriptor_is_left_of_twenty_in_a_row,
        an_end_is_quick,
        what_only_envd_notices_comes_back_by_name,
        an_end_that_cannot_be_seen_is_none,
        what_makes_first_processes_holds_nothing_and_may_die,
        what_makes_first_processes_is_replaced_now_and_then,
        only_the_internet_and_the_resolver_are_reached,
        rules_somebody_flushed_come_back,
        connections_are_counted_for_each_sandbox,
        what_one_sandbox_spends_no_other_lacks,
        what_is_uploaded_to_shared_memory_fits_envd,
        a_shared_file_in_memory_is_its_writers,
    ]
}

/// The first process of a sandbox.
fn first(world: &World, id: SandboxId) -> i32 {
    first_process(&world.settings.data_dir, id)
}

/// The child of ours that is in no sandbox.
fn find_spawner() -> i32 {
    let is_envd = |pid: &i32| {
        let line = fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
        let groups = fs::read_to_string(format!("/proc/{pid}/cgroup")).unwrap_or_default();
        line == b"coppice\0envd\0" && !groups.contains("coppice-")
    };
    children().into_iter().find(is_envd).expect("a spawner")
}

async fn nothing_of_the_host_is_seen_inside(world: &World) {
    let (id, _cell) = world.create_in(NetworkMode::Nat).await;
    let mounts = world.inside(id, "cat /proc/self/mountinfo").await;
    assert!(!mounts.contains("/sys/fs/cgroup/"), "{mounts}");
    assert!(!mounts.contains(&*world.settings.data_dir.to_string_lossy()), "{mounts}");
    let processes = world.inside(id, "ls /proc").await;
    let pids = processes.lines().filter(|name| name.parse::<u32>().is_ok()).count();
    assert!(pids <= 3, "{processes}");
    assert_eq!(world.inside(id, "cat /etc/hostname").await, format!("{id}\n"));
    assert_eq!(
        world.inside(id, "cat /etc/resolv.conf").await,
        format!("nameserver {}\n", RESOLVER)
    );
    assert_eq!(world.inside(id, "echo x > /dev/null; echo y > /tmp/y; cat /tmp/y").await, "y\n");
    // Root in there neither traces envd nor sees what it has open.
    assert!(
        world.inside(id, "ls /proc/1/fd; readlink /proc/1/exe").await.contains("Permission denied")
    );
    // Its files belong to a range of its own on the host.
    let owner = fs::metadata(world.directory(id).join("layer/upper/tmp/y")).unwrap().uid();
    assert_eq!(owner, 0, "the layer is shifted by its mount, not on disk");
    let status = fs::read_to_string(format!("/proc/{}/status", first(world, id))).unwrap();
    let uid = status.lines().find(|line| line.starts_with("Uid:")).unwrap();
    assert!(uid.split_whitespace().nth(1).unwrap().parse::<u32>().unwrap() >= 0x1000_0000);
    assert_eq!(world.inside(id, "cat /proc/cmdline").await, "");
    world.destroy(id).await;
}

async fn an_end_that_cannot_be_seen_is_none(world: &World) {
    let (id, cell) = world.create_in(NetworkMode::Nat).await;
    let (soft, hard) = getrlimit(Resource::RLIMIT_NOFILE).unwrap();
    // Nothing can be opened, nor looked into.
    setrlimit(Resource::RLIMIT_NOFILE, 0, hard).unwrap();
    let (stopped, adopted) = (world.host.stop(id).await, world.host.adopt(id).await);
    setrlimit(Resource::RLIMIT_NOFILE, soft, hard).unwrap();
    assert!(stopped.is_err() && adopted.is_err());
    assert!(!cell.ended.is_cancelled());
    world.host.stop(id).await.unwrap();
    cell.ended.cancelled().await;
    world.destroy(id).await;
}

async fn what_makes_first_processes_holds_nothing_and_may_die(world: &World) {
    let spawner = find_spawner();
    let held = fs::read_dir(format!("/proc/{spawner}/fd")).unwrap();
    let mut held: Vec<_> = held.map(|entry| entry.unwrap().file_name()).collect();
    held.sort();
    assert_eq!(held, ["0", "1", "2", "3"]);
    kill(Pid::from_raw(spawner), Signal::SIGKILL).unwrap();
    let (id, _) = world.create_in(NetworkMode::Nat).await;
    assert_ne!(find_spawner(), spawner);
    world.destroy(id).await;
}

/// All that come of one share its addresses and its secrets.
async fn what_makes_first_processes_is_replaced_now_and_then(world: &World) {
    let first = find_spawner();
    let replaced = || !Path::new(&format!("/proc/{first}")).exists();
    let mut made = 0;
    while !replaced() && made < 128 {
        let eight = (0..8).map(|_| world.create());
        let eight = futures_util::future::join_all(eight).await;
        made += eight.len();
        futures_util::future::join_all(eight.iter().map(|(id, _)| world.destroy(*id))).await;
    }
    let deadline = Instant::now() + Duration::from_secs(30);
    while !replaced() {
        assert!(Instant::now() < deadline, "it has made {made} and will make more");
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    assert_ne!(find_spawner(), first);
}

async fn only_the_internet_and_the_resolver_are_reached(world: &World) {
    let _services = [80, 53].map(|port| TcpListener::bind((Ipv4Addr::UNSPECIFIED, port)).unwrap());
    let (one, _) = world.create_in(NetworkMode::Nat).await;
    let (two, _) = world.create_in(NetworkMode::Nat).await;
    let (none, _) = world.create().await;
    let pid = first(world, one);
    let host = network::HOST.to_string();
    // From the host everything is reached, so what is closed below is closed by rules.
    for open in [network::PUBLIC, network::PRIVATE, network::METADATA, network::PLATFORM] {
        assert_eq!(ask(std::process::id() as i32, open, 80).as_deref(), Some(&*host), "{open}");
    }
    assert_eq!(ask(pid, network::PUBLIC, 80).as_deref(), Some(&*host), "by way of the host");
    assert_eq!(ask(pid, RESOLVER, 53).as_deref(), Some(&*host));
    let gateway = Ipv4Addr::new(198, 18, 0, 1);
    for closed in
        [network::PRIVATE, RESOLVER, network::METADATA, network::PLATFORM, network::HOST, gateway]
    {
        assert_eq!(ask(pid, closed, 80), None, "{closed}");
    }
    assert_eq!(ask(pid, network::PRIVATE, 53), None, "dns to whoever is no resolver");
    assert_eq!(ask(pid, address(world, two).await, 80), None, "a neighbour");
    assert_eq!(ask(first(world, none), network::PUBLIC, 80), None, "network none");
    for id in [one, two, none] {
        world.destroy(id).await;
    }
}

async fn address(world: &World, id: SandboxId) -> Ipv4Addr {
    let table = world.inside(id, "cat /proc/net/fib_trie").await;
    let mut addresses = table.lines().filter_map(|line| line.trim().strip_prefix("|-- "));
    addresses
        .find_map(|text| text.parse().ok().filter(|ip: &Ipv4Addr| ip.octets()[0] == 198))
        .expect("an address")
}

async fn rules_somebody_flushed_come_back(world: &World) {
    let _service = TcpListener::bind((Ipv4Addr::UNSPECIFIED, 80)).unwrap();
    let (one, _) = world.create_in(NetworkMode::Nat).await;
    let pid = first(world, one);
    let gateway = Ipv4Addr::new(198, 18, 0, 1);
    for flush in [&["flush", "ruleset"][..], &["flush", "table", "inet", "coppice"]] {
        say("nft", flush);
        assert!(ask(pid, gateway, 80).is_some(), "it was the rules that closed the host");
        let deadline = Instant::now() + Duration::from_secs(10);
        while ask(pid, gateway, 80).is_some() {
            assert!(Instant::now() < deadline, "the host stays open after {flush:?}");
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
        assert!(ask(pid, network::PUBLIC, 80).is_some());
        assert!(ask(pid, RESOLVER, 53).is_some());
    }
    world.destroy(one).await;
}

async fn connections_are_counted_for_each_sandbox(world: &World) {
    let (one, _) = world.create_in(NetworkMode::Nat).await;
    let (two, _) = world.create_in(NetworkMode::Nat).await;
    // A datagram from each of many ports is a connection of its own to the host.
    network::send_from_many_ports(first(world, one), RESOLVER, 5000);
    assert_eq!(ask(first(world, one), network::PUBLIC, 80), None, "beyond its share");
    assert!(ask(first(world, two), network::PUBLIC, 80).is_some(), "another has its own");
    let entries = fs::read_to_string("/proc/sys/net/netfilter/nf_conntrack_count").unwrap();
    let entries: u32 = entries.trim().parse().unwrap();
    assert!((4000..4200).contains(&entries), "{entries} of the host's connections");
    for id in [one, two] {
        world.destroy(id).await;
    }
}

async fn what_one_sandbox_spends_no_other_lacks(world: &World) {
    let (one, _) = world.create().await;
    let (two, _) = world.create().await;
    let limit = fs::read_to_string("/proc/sys/fs/inotify/max_user_instances").unwrap();
    let limit: usize = limit.trim().parse().unwrap();
    let spent = Spent::in_sandbox(first(world, one));
    // envd may have some.
    assert!((limit / 2..=limit).contains(&spent.instances), "{}", spent.instances);
    Inotify::init(InitFlags::empty()).expect("the host's root has its own");
    assert_eq!(Spent::in_sandbox(first(world, one)).instances, 0);
    assert_eq!(Spent::in_sandbox(first(world, two)).instances, spent.instances);
    drop(spent);
    for id in [one, two] {
        world.destroy(id).await;
    }
}

async fn what_is_uploaded_to_shared_memory_fits_envd(world: &World) {
    let mut spec = world.spec(NetworkMode::None);
    let id = spec.id;
    for (memory, shown) in [(4 << 30, "size=262144k"), (256 << 20, "size=131072k")] {
        spec.limits.memory_bytes = memory;
        world.host.create(spec.clone()).await.unwrap();
        let mounts = world.inside(id, "cat /proc/self/mountinfo").await;
        let line = mounts.lines().find(|line| line.contains(" /dev/shm ")).unwrap();
        assert!(line.contains(shown), "{line}");
        world.host.destroy(id).await.unwrap();
        fs::remove_dir_all(world.directory(id)).unwrap();
        fs::create_dir(world.directory(id)).unwrap();
    }
    fs::remove_dir(world.directory(id)).unwrap();
}

async fn limits_are_shown(world: &World) {
    let (id, _cell) = world.create().await;
    let meminfo = world.inside(id, "cat /proc/meminfo").await;
    assert!(meminfo.starts_with("MemTotal:           262144 kB\n"), "{meminfo}");
    let online = world.inside(id, "cat /sys/devices/system/cpu/online").await;
    assert!(online.trim().parse::<u16>().is_ok(), "{online}");
    // No link but loopback.
    let links = fs::read_to_string(format!("/proc/{}/net/dev", first(world, id))).unwrap();
    assert!(links.contains("lo:") && !links.contains("eth0"), "{links}");
    world.destroy(id).await;
}

async fn no_descriptor_is_left_of_twenty_in_a_row(world: &World) {
    let descriptors = || fs::read_dir("/proc/self/fd").unwrap().count();
    let mut before = 0;
    for number in 0..=20 {
        let (id, cell) = world.create_in(NetworkMode::Nat).await;
        world.destroy(id).await;
        cell.ended.cancelled().await;
        // The first opens what lasts: the netlink socket, the runtime's own.
        if number == 0 {
            before = descriptors();
        }
    }
    crate::suite::world::eventually("all are closed", async || descriptors() <= before).await;
}

async fn an_end_is_quick(world: &World) {
    let (id, cell) = world.create_in(NetworkMode::Nat).await;
    world.inside(id, "(sleep 1000 & sleep 1000 &) </dev/null >/dev/null 2>&1").await;
    let began = Instant::now();
    world.host.destroy(id).await.unwrap();
    assert!(began.elapsed() < Duration::from_secs(2), "{:?}", began.elapsed());
    cell.ended.cancelled().await;
    world.destroy(id).await;
}

async fn what_only_envd_notices_comes_back_by_name(world: &World) {
    let mut spec = world.spec(NetworkMode::Nat);
    let id = spec.id;
    let file = world.directory(id).join("file");
    fs::write(&file, "no directory").unwrap();
    let mut template = (*spec.template).clone();
    template.layers = vec![file];
    spec.template = template.into();
    let error = world.host.create(spec).await.unwrap_err().to_string();
    assert!(error.starts_with("envd could not attach a mount at /sys/0: "), "{error}");
    fs::remove_dir_all(world.directory(id)).unwrap();
}

async fn a_shared_file_in_memory_is_its_writers(world: &World) {
    const TAKEN: u64 = 32 << 20;
    let (id, _cell) = world.create().await;
    let idle = world.host.memory_used(id).await.unwrap();
    let doubled =
        "x=0123456789abcdef; for i in 0 1 2; do for j in 0 1 2 3 4 5 6; do x=$x$x; done; done";
    world.inside(id, &format!("{doubled}; printf %s $x > /dev/shm/taken")).await;
    let taken = world.host.memory_used(id).await.unwrap();
    assert!(taken >= idle + TAKEN / 10 * 9, "{idle}, then {taken}");
    world.destroy(id).await;
}
