//! The Linux backend on the real kernel, as root, in a network and a mount namespace of the
//! test's own: what is loaded into the packet filter or put under `/run` stays in there.
//!
//! The program plays both parts: started as `coppice envd` it is the first process of a sandbox.
//! Its sandboxes start from a root directory made of a few of the host's programs, or from the one
//! that `COPPICE_TEST_ROOTFS` names.

mod cases;
mod network;
mod quota;
mod root;
mod world;

use std::process::ExitCode;

use self::world::World;

pub(crate) fn main() -> ExitCode {
    if std::env::args().nth(1).as_deref() == Some("envd") {
        return envd::run();
    }
    if std::env::args().nth(1).as_deref() == Some(quota::SPEND) {
        quota::spend(&std::env::args().nth(2).expect("a process"));
        return ExitCode::SUCCESS;
    }
    if !nix::unistd::geteuid().is_root() {
        println!("skipped: namespaces with uid ranges of their own need root");
        return if std::env::var_os("CI").is_some() {
            ExitCode::FAILURE
        } else {
            ExitCode::SUCCESS
        };
    }
    // Before any thread is started, so that all have it.
    world::leave_host();
    let filter = std::env::args().skip(1).find(|argument| !argument.starts_with('-'));
    let runtime = tokio::runtime::Runtime::new().expect("a runtime");
    runtime.block_on(async {
        let world = World::new().await;
        for (name, case) in cases::all() {
            if filter.as_ref().is_some_and(|filter| !name.contains(filter.as_str())) {
                continue;
            }
            case(&world).await;
            world.assert_as_before().await;
            println!("test {name} ... ok");
        }
        world.retire().await;
    });
    ExitCode::SUCCESS
}
