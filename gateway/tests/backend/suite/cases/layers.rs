//! What a sandbox has written, when it has no processes, and as the beginning of another.

use std::{fs, path::PathBuf, sync::Arc, time::Duration};

use coppice::{
    backend::{Backend, Cell, CellSpec, Copied, Layer, NetworkMode},
    sandbox::SandboxId,
};
use tokio_util::sync::CancellationToken;

use super::{Case, cases, freezing::ticks_to};
use crate::suite::world::World;

pub(super) fn cases() -> Vec<Case> {
    cases![
        what_is_kept_is_found_again,
        what_stands_still_is_written_out,
        a_copy_is_of_one_moment_and_others_begin_with_it,
        a_copy_and_its_sandbox_go_in_either_order,
        an_end_cuts_a_copy_short,
    ]
}

/// Makes it again from what it has kept.
async fn again(world: &World, id: SandboxId) -> Cell {
    let spec = world.spec_of(id, NetworkMode::None);
    world.host.create(CellSpec { layer: Layer::Kept, ..spec }).await.expect("a sandbox again")
}

async fn what_is_kept_is_found_again(world: &World) {
    let (id, cell) = world.create().await;
    world.inside(id, "echo one > /tmp/kept; mkdir /root/more; echo two > /root/more/kept").await;
    world.start(id, &ticks_to("/tmp/ticks")).await;
    world.until_longer(id, "/tmp/ticks", 4).await;
    for round in 1..=2 {
        world.host.shut_down(id).await.unwrap();
        tokio::time::timeout(Duration::from_secs(10), cell.ended.cancelled()).await.unwrap();
        assert_eq!(world.host.list().await.unwrap(), [], "in round {round}");
        assert!(!world.envd(id).answers(Duration::from_millis(200)).await);
        let _cell = again(world, id).await;
        let said = world.inside(id, "cat /tmp/kept /root/more/kept; hostname").await;
        assert_eq!(said, format!("one\ntwo\n{id}\n"), "in round {round}");
        assert!(!world.host.frozen(id).await.unwrap());
    }
    // A gateway that dies meanwhile finds it as well, and so does one that clears up first.
    world.host.freeze(id).await.unwrap();
    world.host.shut_down(id).await.unwrap();
    let later = world.later().await;
    later.destroy(id).await.unwrap();
    drop(later);
    let _cell = again(world, id).await;
    assert_eq!(world.inside(id, "cat /tmp/kept").await, "one\n");
    world.destroy(id).await;
}

async fn what_stands_still_is_written_out(world: &World) {
    let (id, _cell) = world.create().await;
    world.inside(id, "echo one > /tmp/kept").await;
    world.host.freeze(id).await.unwrap();
    world.host.flush(id).await.unwrap();
    world.host.thaw(id).await.unwrap();
    assert_eq!(world.inside(id, "cat /tmp/kept").await, "one\n");
    world.host.shut_down(id).await.unwrap();
    world.host.flush(id).await.expect("without processes, too");
    world.destroy(id).await;
}

async fn copy(world: &World, of: SandboxId, name: &str) -> Copied {
    let to = world.settings.data_dir.join(name);
    let copied = world.host.copy_layer(of, &to, CancellationToken::new()).await.unwrap();
    println!("{copied:?}");
    world.host.flush_copy(&copied.root).await.unwrap();
    copied
}

/// A sandbox that begins with a copy, of one that may have begun with another.
async fn begin_with(world: &World, copies: &[&Copied]) -> SandboxId {
    let mut spec = world.spec(NetworkMode::None);
    let mut template = (*spec.template).clone();
    for copied in copies {
        match copied.whole {
            true => template.layers = vec![copied.root.clone()],
            false => template.layers.insert(0, copied.root.clone()),
        }
    }
    spec.template = Arc::new(template);
    let id = spec.id;
    world.host.create(spec).await.expect("a sandbox from a copy");
    id
}

async fn let_go(world: &World, name: &str, copied: &Copied) {
    world.host.release_copy(&copied.root).await.unwrap();
    world.host.release_copy(&copied.root).await.expect("twice is once");
    delete(world.settings.data_dir.join(name));
}

fn delete(left: PathBuf) {
    if !coppice::backend::remove_whole(&left) {
        fs::remove_dir_all(left).unwrap();
    }
}

async fn a_copy_is_of_one_moment_and_others_begin_with_it(world: &World) {
    let (id, _cell) = world.create().await;
    world.inside(id, "echo first > /tmp/mine; echo x > /root/gone; rm /root/gone").await;
    world.start(id, &ticks_to("/tmp/ticks")).await;
    world.until_longer(id, "/tmp/ticks", 4).await;
    let copied = copy(world, id, "copy").await;
    world.until_longer(id, "/tmp/ticks", 4).await;
    world.inside(id, "echo second > /tmp/mine").await;
    let (one, other) = (begin_with(world, &[&copied]).await, begin_with(world, &[&copied]).await);
    for fork in [one, other] {
        let said = world.inside(fork, "cat /tmp/mine; ls /root; hostname").await;
        assert_eq!(said, format!("first\n{fork}\n"));
        assert!(world.length(fork, "/tmp/mine") <= 6);
        world.inside(fork, &format!("echo {fork} > /tmp/mine")).await;
    }
    assert_eq!(world.inside(one, "cat /tmp/mine").await, format!("{one}\n"));
    assert_eq!(world.inside(id, "cat /tmp/mine").await, "second\n");
    for id in [id, one, other] {
        world.destroy(id).await;
    }
    let_go(world, "copy", &copied).await;
}

async fn a_copy_and_its_sandbox_go_in_either_order(world: &World) {
    for sandbox_first in [true, false] {
        let (id, _cell) = world.create().await;
        world.inside(id, "echo one > /tmp/mine").await;
        let first = copy(world, id, "first").await;
        world.inside(id, "echo two > /tmp/mine").await;
        let second = copy(world, id, "second").await;
        if sandbox_first {
            world.destroy(id).await;
        }
        let_go(world, "first", &first).await;
        let fork = begin_with(world, &[&second]).await;
        assert_eq!(world.inside(fork, "cat /tmp/mine").await, "two\n");
        // Of what began with a copy there are copies; those that are whole do without the first.
        let third = copy(world, fork, "third").await;
        world.destroy(fork).await;
        if third.whole {
            let_go(world, "second", &second).await;
        }
        let fork = begin_with(world, &[&second, &third]).await;
        assert_eq!(world.inside(fork, "cat /tmp/mine").await, "two\n");
        world.destroy(fork).await;
        let_go(world, "third", &third).await;
        if !third.whole {
            let_go(world, "second", &second).await;
        }
        if !sandbox_first {
            assert_eq!(world.inside(id, "cat /tmp/mine").await, "two\n");
            world.destroy(id).await;
        }
    }
}

async fn an_end_cuts_a_copy_short(world: &World) {
    let (id, _cell) = world.create().await;
    let fill =
        "i=0; while [ $i -lt 200 ]; do mkdir -p /tmp/d/$i; echo x > /tmp/d/$i/f; i=$((i+1)); done";
    world.inside(id, fill).await;
    let to = world.settings.data_dir.join("copy");
    let (copied, ended) = tokio::join!(
        world.host.copy_layer(id, &to, CancellationToken::new()),
        world.host.stop(id),
    );
    ended.unwrap();
    match copied {
        Ok(copied) => let_go(world, "copy", &copied).await,
        Err(error) => {
            println!("{error}");
            if to.exists() {
                delete(to.clone());
            }
        }
    }
    let stop = CancellationToken::new();
    stop.cancel();
    let (another, _cell) = world.create().await;
    match world.host.copy_layer(another, &to, stop).await {
        Ok(copied) => let_go(world, "copy", &copied).await,
        Err(error) => {
            println!("{error}");
            if to.exists() {
                delete(to.clone());
            }
        }
    }
    assert!(!world.host.frozen(another).await.unwrap());
    assert_eq!(world.inside(another, "echo here").await, "here\n");
    world.destroy(id).await;
    world.destroy(another).await;
}
