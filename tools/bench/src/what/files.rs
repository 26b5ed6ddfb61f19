//! Files up and down through envd's `/files` (raw, as octet-stream), beside nginx storing a PUT
//! and serving a GET on the same file system, by itself and behind another nginx: the way of a
//! sandbox's file has a proxy in it too.

use std::{fs, sync::Arc};

use http::{Method, Request};

use super::{
    Stage,
    transfer::{Direction, Make, at_once, bytes, clients},
};
use crate::{
    client::Payload,
    load::{Lane, SEED, interleave},
    peers::{
        self,
        nginx::{self, Nginx},
    },
    report::{At, Of, Report},
    scratch::Scratch,
};

const LARGE: u64 = 64 << 20;
const SMALL: u64 = 1 << 10;
const CLIENTS: usize = 10;

pub(super) async fn measure(stage: &Stage, report: &mut Report) -> anyhow::Result<()> {
    let api = &stage.gateway.api;
    let mut client = api.client();
    let sandbox = api.create(&mut client).await?;
    let dir = Scratch::new()?;
    let peer = if stage.amount.no_peers {
        None
    } else {
        let binary = nginx::binary(stage.amount.nginx.as_deref())?;
        report.note(format!(
            "peer: {}, {} workers, sendfile, PUT by its WebDAV module, files on the same file \
             system as the sandbox's; and the same through another nginx in front, by connections \
             that are kept open",
            peers::version(&binary.display().to_string(), "-v"),
            crate::machine::cores(),
        ));
        let (server, direct) = Nginx::files(&binary, dir.path())?;
        let front = dir.path().join("front");
        fs::create_dir(&front)?;
        let (proxy, proxied, _) = Nginx::proxy(&binary, &front, direct)?;
        Some(([server, proxy], direct, proxied))
    };
    let large = if stage.amount.quick { 1 << 20 } else { LARGE };
    for (size, rounds, count) in [(large, 5, CLIENTS), (SMALL, 5, 1000)] {
        for direction in [Direction::Up, Direction::Down] {
            for number in [1, CLIENTS] {
                let ours: Make = {
                    let sandbox = sandbox.clone();
                    Arc::new(move |n| {
                        let path = format!("/home/user/{size}-{n}");
                        match direction {
                            Direction::Up => {
                                sandbox.upload(&path, Payload::random(size, SEED + n as u64))
                            }
                            Direction::Down => sandbox.download(&path),
                        }
                    })
                };
                let verb = if direction == Direction::Up { "upload" } else { "download" };
                let (what, how) = (format!("{verb} of {}", bytes(size)), at_once(number));
                let turn = clients(number, api.address(), direction, size, &ours);
                let mut lanes = vec![Lane::new(&what, "coppice", &how, turn)];
                if let Some((_, direct, proxied)) = &peer {
                    for (who, address) in [("nginx", direct), ("nginx behind nginx", proxied)] {
                        let make = theirs(direction, size);
                        let turn = clients(number, *address, direction, size, &make);
                        lanes.push(Lane::new(&what, who, &how, turn));
                    }
                }
                // Of ten clients each gets one, at the least.
                let mut rounds = stage.rounds(rounds, count);
                rounds.count = rounds.count.max(number);
                rounds.warmup = rounds.warmup.max(number);
                // What is downloaded has been uploaded before, by as many.
                interleave(&mut lanes, rounds).await?;
                report.lanes(&lanes, Of::Throughput);
                let aim = format!("{what}, {how}, by nginx");
                report.aim_ratio(&aim, At::Least, 0.8, &lanes[0], "nginx");
            }
        }
    }
    sandbox.kill(&mut client).await
}

fn theirs(direction: Direction, size: u64) -> Make {
    Arc::new(move |n| {
        let (method, body) = match direction {
            Direction::Up => (Method::PUT, Payload::random(size, SEED + n as u64)),
            Direction::Down => (Method::GET, Payload::empty()),
        };
        let request = Request::builder().method(method).uri(format!("/{size}-{n}"));
        Ok(request.header("host", "localhost").body(body)?)
    })
}
