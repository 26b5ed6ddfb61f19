//! What a sandbox is once it has been made.

use std::{
    collections::BTreeMap,
    net::{Ipv4Addr, TcpListener},
    time::Duration,
};

use coppice::{
    backend::{Backend, Error, NetworkMode, Verdict},
    network::NetworkPolicy,
};
use envd::wire::TunnelReply;

use super::{Case, cases};
use crate::suite::{
    platform::LEADS_OUT,
    runner,
    world::{LIMITS, World},
};

pub(super) fn cases() -> Vec<Case> {
    cases![
        the_host_is_fit,
        a_created_sandbox_serves_its_sockets,
        commands_run_in_it_with_what_it_started_with,
        only_who_has_its_token_may_call,
        its_files_are_its_own_and_the_host_has_none_there,
        its_loopback_is_its_own,
        one_with_a_network_is_made_and_ended,
        one_made_without_a_network_is_given_one,
        ten_at_once_leave_nothing,
        preparing_and_retiring_can_be_repeated,
    ]
}

async fn the_host_is_fit(world: &World) {
    let checks = world.host.probe(4);
    for check in &checks {
        println!("  {:<20} {:?}: {}", check.what, check.verdict, check.found);
    }
    for check in checks {
        assert_ne!(check.verdict, Verdict::Bad, "{check:?}");
        assert_eq!(check.mend.is_none(), check.verdict == Verdict::Good, "{check:?}");
    }
}

async fn a_created_sandbox_serves_its_sockets(world: &World) {
    let (id, cell) = world.create().await;
    let envd = world.envd(id);
    assert!(envd.answers(Duration::from_secs(10)).await);
    assert_eq!(envd.tunnel(9).await.unwrap(), TunnelReply::Refused as u8);
    envd.run(":").await;
    let report = envd.report().await.unwrap();
    assert_eq!((&report["seq"], &report["type"]), (&1.into(), &"process_started".into()));
    assert!(!cell.ended.is_cancelled());
    world.destroy(id).await;
}

async fn commands_run_in_it_with_what_it_started_with(world: &World) {
    let mut spec = world.spec(NetworkMode::None);
    let id = spec.id;
    spec.init.env_vars = Some(BTreeMap::from([("COLOUR".into(), "green".into())]));
    world.host.create(spec).await.unwrap();
    let said = world.envd(id).run("echo $COLOUR; hostname; echo $E2B_SANDBOX_ID; exit 3").await;
    assert_eq!((said.text, said.exit_code), (format!("green\n{id}\n{id}\n"), 3));
    let killed = world.envd(id).run("echo ouch >&2; kill -9 $$").await;
    assert_eq!((killed.text.as_str(), killed.exit_code), ("ouch\n", -1));
    world.destroy(id).await;
}

async fn only_who_has_its_token_may_call(world: &World) {
    let mut spec = world.spec(NetworkMode::None);
    let id = spec.id;
    spec.init.access_token = Some("secret".into());
    world.host.create(spec).await.unwrap();
    let process = serde_json::json!({"process": {"cmd": "/bin/sh", "args": ["-c", ":"]}});
    let refused = world.envd(id).try_start(process).await.err().map(|error| error.to_string());
    assert_eq!(refused.as_deref(), Some("POST /process.Process/Start: 401"));
    assert_eq!(world.envd(id).with_token("secret").run("echo in").await.text, "in\n");
    world.destroy(id).await;
}

async fn its_files_are_its_own_and_the_host_has_none_there(world: &World) {
    let (one, _) = world.create().await;
    let (two, _) = world.create().await;
    for id in [one, two] {
        let said = world.inside(id, &format!("echo {id} > /tmp/mine; cat /tmp/*")).await;
        assert_eq!(said, format!("{id}\n"));
        let here = world.settings.data_dir.display();
        let ours = world.envd(id).run(&format!("ls {here}")).await;
        assert_ne!(ours.exit_code, 0, "{ours:?}");
        let running = world.envd(id).run(&format!("kill -0 {}", std::process::id())).await;
        assert_ne!(running.exit_code, 0, "{running:?}");
    }
    assert!(!world.root().join("tmp/mine").exists());
    // A host name is a host's own in the file that names it, too.
    assert!(world.inside(one, "cat /etc/hosts").await.contains(&one.to_string()));
    world.destroy(one).await;
    assert_eq!(world.inside(two, "cat /tmp/mine").await, format!("{two}\n"));
    world.destroy(two).await;
}

async fn its_loopback_is_its_own(world: &World) {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
    let port = listener.local_addr().unwrap().port();
    let (id, _cell) = world.create().await;
    assert_eq!(world.envd(id).tunnel(port).await.unwrap(), TunnelReply::Refused as u8);
    world.destroy(id).await;
}

async fn one_with_a_network_is_made_and_ended(world: &World) {
    let spec = world.spec(NetworkMode::Nat);
    let id = spec.id;
    match world.host.create(spec).await {
        // A kernel without VIMAGE, a host whose pf(4) is off: the probe says what mends it.
        Err(Error::Unsupported(why)) => {
            std::fs::remove_dir_all(world.directory(id)).unwrap();
            runner::ignore(why);
        }
        made => drop(made.unwrap()),
    }
    let resolvers = world.inside(id, "cat /etc/resolv.conf").await;
    assert_eq!(resolvers, format!("nameserver {}\n", crate::suite::world::RESOLVER));
    // Kept from some, from all but one, and from nothing.
    for denied in [&["192.0.2.0/24", "198.51.100.1"][..], &["0.0.0.0/0"], &[]] {
        let denied: Vec<String> = denied.iter().map(|&range| range.to_owned()).collect();
        let allowed = ["203.0.113.1".to_owned()];
        let policy = NetworkPolicy::new(None, &allowed, &denied, None).unwrap();
        world.host.set_network(id, &policy.filter(NetworkMode::Nat), LIMITS).await.unwrap();
    }
    assert!(world.envd(id).answers(Duration::from_secs(10)).await);
    world.destroy(id).await;
}

async fn one_made_without_a_network_is_given_one(world: &World) {
    let (id, cell) = world.create().await;
    let leads_out = async || world.envd(id).run(LEADS_OUT).await.exit_code == 0;
    assert!(!leads_out().await);
    let filter = |denied: &[String]| {
        let policy = NetworkPolicy::new(None, &[], denied, None).unwrap();
        policy.filter(NetworkMode::Nat)
    };
    match world.host.set_network(id, &filter(&[]), LIMITS).await {
        Err(Error::Unsupported(why)) => {
            world.destroy(id).await;
            runner::ignore(why);
        }
        set => set.unwrap(),
    }
    assert!(leads_out().await);
    // Closed again it keeps its link, and another change finds that.
    for denied in [&["0.0.0.0/0".to_owned()][..], &["192.0.2.0/24".to_owned()]] {
        world.host.set_network(id, &filter(denied), LIMITS).await.unwrap();
        assert!(leads_out().await);
    }
    assert!(world.envd(id).answers(Duration::from_secs(10)).await && !cell.ended.is_cancelled());
    world.destroy(id).await;
}

async fn ten_at_once_leave_nothing(world: &World) {
    let made = futures_util::future::join_all((0..10).map(|_| world.create())).await;
    for (id, _) in &made {
        // Children that have left their parent behind.
        world.inside(*id, "(sleep 1000 & sleep 1000 &) </dev/null >/dev/null 2>&1").await;
    }
    let mut ids: Vec<_> = made.iter().map(|(id, _)| *id).collect();
    ids.sort_unstable();
    assert_eq!(world.host.list().await.unwrap(), ids);
    futures_util::future::join_all(made.iter().map(|(id, _)| world.destroy(*id))).await;
    for (_, cell) in made {
        cell.ended.cancelled().await;
    }
}

async fn preparing_and_retiring_can_be_repeated(world: &World) {
    world.host.prepare().await.expect("preparing twice");
    let (id, _cell) = world.create().await;
    world.destroy(id).await;
    world.host.retire().await.unwrap();
    world.host.retire().await.expect("retiring twice");
    world.host.prepare().await.expect("preparing again");
    let (id, _cell) = world.create().await;
    assert_eq!(world.inside(id, "echo there").await, "there\n");
    world.destroy(id).await;
}
