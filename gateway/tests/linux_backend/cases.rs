use std::{
    fs,
    net::{Ipv4Addr, TcpListener},
    path::Path,
    pin::Pin,
    time::{Duration, Instant},
};

use coppice::{
    backend::{Backend, Host, NetworkMode, Verdict},
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
    world::{World, run},
};

type Case = for<'a> fn(&'a World) -> Pin<Box<dyn Future<Output = ()> + 'a>>;

pub(crate) fn all() -> Vec<(&'static str, Case)> {
    macro_rules! cases {
        ($($name:ident),*) => { vec![$((stringify!($name), |world| Box::pin($name(world)))),*] };
    }
    cases![
        nothing_of_the_host_is_seen_inside,
        limits_are_shown_and_kept,
        memory_is_counted_with_all_that_takes_it,
        whatever_code_inside_did_its_end_is_quick,
        twenty_in_a_row_leave_nothing,
        ten_at_once_leave_nothing,
        destroying_twice_at_once_or_what_never_was_succeeds,
        its_own_end_is_noticed,
        a_new_gateway_adopts_and_destroys,
        a_failed_create_leaves_nothing,
        a_stopped_sandbox_runs_nothing_and_is_destroyed_later,
        an_end_that_cannot_be_seen_is_none,
        what_makes_first_processes_holds_nothing_and_may_die,
        what_makes_first_processes_is_replaced_now_and_then,
        a_create_nobody_waits_for_is_undone,
        only_the_internet_and_the_resolver_are_reached,
        rules_somebody_flushed_come_back,
        connections_are_counted_for_each_sandbox,
        what_one_sandbox_spends_no_other_lacks,
        what_is_uploaded_to_shared_memory_fits_envd,
        a_sound_host_passes_the_probe
    ]
}

async fn nothing_of_the_host_is_seen_inside(world: &World) {
    let (id, _cell) = world.create(NetworkMode::Nat).await;
    let mounts = world.inside(id, "cat /proc/self/mountinfo");
    assert!(!mounts.contains("/sys/fs/cgroup/"), "{mounts}");
    assert!(!mounts.contains(&*world.settings.data_dir.to_string_lossy()), "{mounts}");
    let processes = world.inside(id, "ls /proc");
    let pids = processes.lines().filter(|name| name.parse::<u32>().is_ok()).count();
    assert!(pids <= 3, "{processes}");
    assert_eq!(world.inside(id, "cat /etc/hostname"), format!("{id}\n"));
    assert_eq!(
        world.inside(id, "cat /etc/resolv.conf"),
        format!("nameserver {}\n", network::RESOLVER)
    );
    assert_eq!(world.inside(id, "echo x > /dev/null; echo y > /tmp/y; cat /tmp/y"), "y\n");
    // Root in there neither traces envd nor sees what it has open.
    assert!(world.inside(id, "ls /proc/1/fd; readlink /proc/1/exe").contains("Permission denied"));
    // Its files belong to a range of its own on the host.
    use std::os::unix::fs::MetadataExt;
    let owner = fs::metadata(world.directory(id).join("layer/upper/tmp/y")).unwrap().uid();
    assert_eq!(owner, 0, "the layer is shifted by its mount, not on disk");
    let status = fs::read_to_string(format!("/proc/{}/status", world.pid(id))).unwrap();
    let uid = status.lines().find(|line| line.starts_with("Uid:")).unwrap();
    assert!(uid.split_whitespace().nth(1).unwrap().parse::<u32>().unwrap() >= 0x1000_0000);
    assert_eq!(world.inside(id, "cat /proc/cmdline"), "");
    world.destroy(id).await;
}

/// Deaf to what is not SIGKILL, half of them stopped, and none with our output open.
const FILL_PROCESS_TABLE: &str = "trap '' TERM HUP INT
    exec 3>&2 </dev/null >/dev/null 2>/tmp/said
    (i=0; while [ $i -lt 100 ]; do
        sleep 1000 3>&- &
        [ $((i % 2)) = 0 ] && kill -STOP $!
        i=$((i+1))
    done) 3>&-
    read said </tmp/said
    echo $said >&3";

async fn limits_are_shown_and_kept(world: &World) {
    let (id, _cell) = world.create(NetworkMode::None).await;
    let meminfo = world.inside(id, "cat /proc/meminfo");
    assert!(meminfo.starts_with("MemTotal:           262144 kB\n"), "{meminfo}");
    let online = world.inside(id, "cat /sys/devices/system/cpu/online");
    assert!(online.trim().parse::<u16>().is_ok(), "{online}");
    // Doubling a text soon passes any limit.
    let eaten = world.inside(id, "(x=aaaaaaaa; while :; do x=$x$x; done); echo then $?");
    assert!(eaten.contains("then 137"), "{eaten}");
    let forked = world.inside(id, FILL_PROCESS_TABLE);
    assert!(forked.contains("fork"), "{forked}");
    // No link but loopback.
    let links = fs::read_to_string(format!("/proc/{}/net/dev", world.pid(id))).unwrap();
    assert!(links.contains("lo:") && !links.contains("eth0"), "{links}");
    world.destroy(id).await;
}

async fn memory_is_counted_with_all_that_takes_it(world: &World) {
    const TAKEN: u64 = 32 << 20;
    let (id, _cell) = world.create(NetworkMode::None).await;
    let idle = world.host.memory_used(id).await.unwrap();
    assert!(idle > 0 && idle < TAKEN, "{idle}");
    // A file in memory is its writer's.
    let doubled =
        "x=0123456789abcdef; for i in 0 1 2; do for j in 0 1 2 3 4 5 6; do x=$x$x; done; done";
    world.inside(id, &format!("{doubled}; printf %s $x > /dev/shm/taken"));
    let taken = world.host.memory_used(id).await.unwrap();
    assert!(taken >= idle + TAKEN / 10 * 9, "{idle}, then {taken}");
    world.destroy(id).await;
    assert!(world.host.memory_used(id).await.is_err());
}

async fn whatever_code_inside_did_its_end_is_quick(world: &World) {
    let (id, cell) = world.create(NetworkMode::Nat).await;
    world.inside(id, "mkdir /tmp/gone; cd /tmp/gone; rm -r /tmp/gone; exec sleep 1000 >/dev/null 2>&1 </dev/null &");
    world.inside(id, FILL_PROCESS_TABLE);
    let began = Instant::now();
    world.host.destroy(id).await.unwrap();
    assert!(began.elapsed() < Duration::from_secs(2), "{:?}", began.elapsed());
    cell.ended.cancelled().await;
    world.destroy(id).await;
}

async fn twenty_in_a_row_leave_nothing(world: &World) {
    let (mut creates, mut destroys) = (Vec::new(), Vec::new());
    let mut pss = String::new();
    for _ in 0..20 {
        let began = Instant::now();
        let (id, _cell) = world.create(NetworkMode::Nat).await;
        creates.push(began.elapsed());
        let path = format!("/proc/{}/smaps_rollup", world.pid(id));
        let rollup = fs::read_to_string(path).unwrap();
        pss = rollup.lines().find(|line| line.starts_with("Pss:")).unwrap_or_default().to_owned();
        let began = Instant::now();
        world.host.destroy(id).await.unwrap();
        destroys.push(began.elapsed());
        world.destroy(id).await;
    }
    creates.sort();
    destroys.sort();
    println!("create p50 {:?}, destroy p50 {:?}, envd {pss}", creates[10], destroys[10]);
}

async fn ten_at_once_leave_nothing(world: &World) {
    let made =
        futures_util::future::join_all((0..10).map(|_| world.create(NetworkMode::Nat))).await;
    for (id, _) in &made {
        // Children that have left their parent and session behind.
        world.inside(*id, "(sleep 1000 & sleep 1000 &) </dev/null >/dev/null 2>&1");
    }
    assert_eq!(world.host.list().await.unwrap().len(), 10);
    futures_util::future::join_all(made.iter().map(|(id, _)| world.destroy(*id))).await;
    for (_, cell) in made {
        cell.ended.cancelled().await;
    }
}

async fn destroying_twice_at_once_or_what_never_was_succeeds(world: &World) {
    world.host.destroy(SandboxId::random()).await.unwrap();
    let (id, _cell) = world.create(NetworkMode::Nat).await;
    let (one, two) = tokio::join!(world.host.destroy(id), world.host.destroy(id));
    one.unwrap();
    two.unwrap();
    world.destroy(id).await;
}

async fn its_own_end_is_noticed(world: &World) {
    let (id, cell) = world.create(NetworkMode::Nat).await;
    assert!(!cell.ended.is_cancelled());
    nix::sys::signal::kill(
        nix::unistd::Pid::from_raw(world.pid(id)),
        nix::sys::signal::Signal::SIGKILL,
    )
    .unwrap();
    tokio::time::timeout(Duration::from_secs(2), cell.ended.cancelled()).await.unwrap();
    assert!(world.host.adopt(id).await.unwrap().is_none());
    world.destroy(id).await;
}

async fn a_new_gateway_adopts_and_destroys(world: &World) {
    let (id, _cell) = world.create(NetworkMode::Nat).await;
    {
        let later = Host::new(world.settings.clone()).unwrap();
        later.prepare().await.unwrap();
        assert_eq!(later.list().await.unwrap(), [id]);
        let adopted = later.adopt(id).await.unwrap().expect("it lives");
        later.destroy(id).await.unwrap();
        adopted.ended.cancelled().await;
    }
    world.destroy(id).await;
}

async fn a_failed_create_leaves_nothing(world: &World) {
    let mut spec = world.spec(NetworkMode::Nat);
    let id = spec.id;
    let mut template = (*spec.template).clone();
    template.layers = vec!["/nonexistent".into()];
    spec.template = template.clone().into();
    let error = world.host.create(spec.clone()).await.unwrap_err().to_string();
    assert_eq!(error, "open_tree /nonexistent: No such file or directory (os error 2)");
    // What only envd notices comes back by name.
    fs::remove_dir_all(world.directory(id).join("layer")).unwrap();
    let file = world.directory(id).join("file");
    fs::write(&file, "no directory").unwrap();
    template.layers = vec![file];
    spec.template = template.into();
    let error = world.host.create(spec).await.unwrap_err().to_string();
    assert!(error.starts_with("envd could not attach a mount at /sys/0: "), "{error}");
    fs::remove_dir_all(world.directory(id)).unwrap();
}

async fn a_stopped_sandbox_runs_nothing_and_is_destroyed_later(world: &World) {
    let (id, cell) = world.create(NetworkMode::Nat).await;
    let pid = world.pid(id);
    world.host.stop(id).await.unwrap();
    assert!(!Path::new(&format!("/proc/{pid}")).exists());
    cell.ended.cancelled().await;
    assert_eq!(world.host.list().await.unwrap(), [id], "a gateway that starts now clears it");
    world.host.stop(id).await.expect("stopping twice");
    world.destroy(id).await;
}

async fn an_end_that_cannot_be_seen_is_none(world: &World) {
    let (id, cell) = world.create(NetworkMode::Nat).await;
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
    let spawner = world.spawner();
    let held = fs::read_dir(format!("/proc/{spawner}/fd")).unwrap();
    let mut held: Vec<_> = held.map(|entry| entry.unwrap().file_name()).collect();
    held.sort();
    assert_eq!(held, ["0", "1", "2", "3"]);
    kill(Pid::from_raw(spawner), Signal::SIGKILL).unwrap();
    let (id, _) = world.create(NetworkMode::Nat).await;
    assert_ne!(world.spawner(), spawner);
    world.destroy(id).await;
}

/// All that come of one share its addresses and its secrets.
async fn what_makes_first_processes_is_replaced_now_and_then(world: &World) {
    let first = world.spawner();
    let replaced = || !Path::new(&format!("/proc/{first}")).exists();
    let mut made = 0;
    while !replaced() && made < 128 {
        let eight = (0..8).map(|_| world.create(NetworkMode::None));
        let eight = futures_util::future::join_all(eight).await;
        made += eight.len();
        futures_util::future::join_all(eight.iter().map(|(id, _)| world.destroy(*id))).await;
    }
    let deadline = Instant::now() + Duration::from_secs(30);
    while !replaced() {
        assert!(Instant::now() < deadline, "it has made {made} and will make more");
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    assert_ne!(world.spawner(), first);
}

async fn a_create_nobody_waits_for_is_undone(world: &World) {
    let spec = world.spec(NetworkMode::Nat);
    let id = spec.id;
    let gone = tokio::time::timeout(Duration::from_millis(1), world.host.create(spec)).await;
    assert!(gone.is_err(), "a create takes longer than a millisecond");
    world.host.destroy(id).await.unwrap();
    tokio::time::sleep(Duration::from_millis(200)).await;
    fs::remove_dir_all(world.directory(id)).unwrap();
}

async fn only_the_internet_and_the_resolver_are_reached(world: &World) {
    let _services = [80, 53].map(|port| TcpListener::bind((Ipv4Addr::UNSPECIFIED, port)).unwrap());
    let (one, _) = world.create(NetworkMode::Nat).await;
    let (two, _) = world.create(NetworkMode::Nat).await;
    let (none, _) = world.create(NetworkMode::None).await;
    let pid = world.pid(one);
    let host = network::HOST.to_string();
    // From the host everything is reached, so what is closed below is closed by rules.
    for open in [network::PUBLIC, network::PRIVATE, network::METADATA, network::PLATFORM] {
        assert_eq!(ask(std::process::id() as i32, open, 80).as_deref(), Some(&*host), "{open}");
    }
    assert_eq!(ask(pid, network::PUBLIC, 80).as_deref(), Some(&*host), "by way of the host");
    assert_eq!(ask(pid, network::RESOLVER, 53).as_deref(), Some(&*host));
    let gateway = Ipv4Addr::new(198, 18, 0, 1);
    for closed in [
        network::PRIVATE,
        network::RESOLVER,
        network::METADATA,
        network::PLATFORM,
        network::HOST,
        gateway,
    ] {
        assert_eq!(ask(pid, closed, 80), None, "{closed}");
    }
    assert_eq!(ask(pid, network::PRIVATE, 53), None, "dns to whoever is no resolver");
    assert_eq!(ask(pid, address(world, two), 80), None, "a neighbour");
    assert_eq!(ask(world.pid(none), network::PUBLIC, 80), None, "network none");
    for id in [one, two, none] {
        world.destroy(id).await;
    }
}

fn address(world: &World, id: SandboxId) -> Ipv4Addr {
    let table = world.inside(id, "cat /proc/net/fib_trie");
    let mut addresses = table.lines().filter_map(|line| line.trim().strip_prefix("|-- "));
    addresses
        .find_map(|text| text.parse().ok().filter(|ip: &Ipv4Addr| ip.octets()[0] == 198))
        .expect("an address")
}

async fn rules_somebody_flushed_come_back(world: &World) {
    let _service = TcpListener::bind((Ipv4Addr::UNSPECIFIED, 80)).unwrap();
    let (one, _) = world.create(NetworkMode::Nat).await;
    let pid = world.pid(one);
    let gateway = Ipv4Addr::new(198, 18, 0, 1);
    for flush in [&["flush", "ruleset"][..], &["flush", "table", "inet", "coppice"]] {
        run("nft", flush);
        assert!(ask(pid, gateway, 80).is_some(), "it was the rules that closed the host");
        let deadline = Instant::now() + Duration::from_secs(10);
        while ask(pid, gateway, 80).is_some() {
            assert!(Instant::now() < deadline, "the host stays open after {flush:?}");
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
        assert!(ask(pid, network::PUBLIC, 80).is_some());
        assert!(ask(pid, network::RESOLVER, 53).is_some());
    }
    world.destroy(one).await;
}

async fn connections_are_counted_for_each_sandbox(world: &World) {
    let (one, _) = world.create(NetworkMode::Nat).await;
    let (two, _) = world.create(NetworkMode::Nat).await;
    // A datagram from each of many ports is a connection of its own to the host.
    network::send_from_many_ports(world.pid(one), network::RESOLVER, 5000);
    assert_eq!(ask(world.pid(one), network::PUBLIC, 80), None, "beyond its share");
    assert!(ask(world.pid(two), network::PUBLIC, 80).is_some(), "another has its own");
    let entries = fs::read_to_string("/proc/sys/net/netfilter/nf_conntrack_count").unwrap();
    let entries: u32 = entries.trim().parse().unwrap();
    assert!((4000..4200).contains(&entries), "{entries} of the host's connections");
    for id in [one, two] {
        world.destroy(id).await;
    }
}

async fn what_one_sandbox_spends_no_other_lacks(world: &World) {
    let (one, _) = world.create(NetworkMode::None).await;
    let (two, _) = world.create(NetworkMode::None).await;
    let limit = fs::read_to_string("/proc/sys/fs/inotify/max_user_instances").unwrap();
    let limit: usize = limit.trim().parse().unwrap();
    let spent = Spent::in_sandbox(world.pid(one));
    // envd may have some.
    assert!((limit / 2..=limit).contains(&spent.instances), "{}", spent.instances);
    Inotify::init(InitFlags::empty()).expect("the host's root has its own");
    assert_eq!(Spent::in_sandbox(world.pid(one)).instances, 0);
    assert_eq!(Spent::in_sandbox(world.pid(two)).instances, spent.instances);
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
        let mounts = world.inside(id, "cat /proc/self/mountinfo");
        let line = mounts.lines().find(|line| line.contains(" /dev/shm ")).unwrap();
        assert!(line.contains(shown), "{line}");
        world.host.destroy(id).await.unwrap();
        fs::remove_dir_all(world.directory(id)).unwrap();
        fs::create_dir(world.directory(id)).unwrap();
    }
    fs::remove_dir(world.directory(id)).unwrap();
}

async fn a_sound_host_passes_the_probe(world: &World) {
    for check in world.host.probe(4) {
        println!("  {:<20} {:?}: {}", check.what, check.verdict, check.found);
        assert_ne!(check.verdict, Verdict::Bad, "{check:?}");
        assert_eq!(check.mend.is_none(), check.verdict == Verdict::Good, "{check:?}");
    }
}
