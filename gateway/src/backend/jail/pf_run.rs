//! The packet filter as it is: asked and told by pfctl(8), which belongs to the base system and so
//! to the kernel it speaks to. (The ioctls behind it have changed with every release from 13 to
//! 15, and what guards sandboxes must not guess.) It runs when a gateway starts and every few
//! seconds from then on, not when a sandbox is made.
//!
//! What keeps sandboxes from the host and from private networks are rules, and rules can be turned
//! off by others: `service pf stop`, another `/etc/pf.conf`. So the filter is looked at time and
//! again; while it does not hold, all links are down and no sandbox gets a new one.

use std::{
    net::IpAddr,
    path::Path,
    sync::{
        Arc,
        mpsc::{RecvTimeoutError, Sender, channel},
    },
    thread::{self, JoinHandle},
    time::Duration,
};

use parking_lot::Mutex;
use tracing::{error, info, warn};

use super::{
    fences::{Fence, Kept},
    net_slot::Slot,
    net_sys,
    pf::{self, ANCHORS, Rules, Tag},
    program::run,
};
use crate::backend::Error;

const PATIENCE: Duration = Duration::from_secs(20);
/// Between two looks.
const PERIOD: Duration = Duration::from_secs(5);

pub(super) struct Filter {
    tag: Tag,
    dns: Vec<IpAddr>,
    seen: Mutex<Seen>,
    fences: Kept,
    /// Held while rules are loaded, so that the last ones are the latest.
    turn: Mutex<()>,
}

#[derive(Default)]
struct Seen {
    /// The rules, and how pfctl lists them since they were loaded.
    loaded: Option<(Rules, String)>,
    /// Why links may not be up, as of the last look.
    closed: Option<String>,
}

impl Filter {
    pub(super) fn new(tag: Tag, dns: Vec<IpAddr>, run: &Path) -> Self {
        let closed = Some("the packet filter was not looked at yet".to_owned());
        let seen = Mutex::new(Seen { loaded: None, closed });
        Self { tag, dns, seen, fences: Kept::new(run), turn: Mutex::default() }
    }

    pub(super) fn fences(&self) -> &Kept {
        &self.fences
    }

    /// Has that fence in force, and no state of before. Blocks.
    pub(super) fn fence(&self, slot: Slot, fence: &Fence) -> Result<(), Error> {
        let before = self.fences.of(slot);
        if before == *fence {
            return Ok(());
        }
        self.fences.set(slot, fence)?;
        let loaded = {
            let _turn = self.turn.lock();
            self.load()
        };
        if let Err(error) = loaded {
            self.fences.set(slot, &before)?;
            return Err(error);
        }
        // pfctl(8): states outlive the rules that made them.
        ask(&["-k", &slot.address().to_string()]).map(drop)
    }

    /// Whether links may be up, as of the last look.
    pub(super) fn holds(&self) -> Result<(), Error> {
        match &self.seen.lock().closed {
            None => Ok(()),
            Some(why) => Err(Error::Unsupported(format!(
                "network nat needs the packet filter: {why}; `coppice doctor` says more"
            ))),
        }
    }

    /// Takes a fence away with the link that it was about; there may be none. Where the filter does
    /// not hold, its rules are loaded anew when it does again. Blocks.
    pub(super) fn lift(&self, slot: Slot) -> Result<(), Error> {
        let was_open = self.fences.of(slot).is_open();
        self.fences.set(slot, &Fence::default())?;
        if was_open || self.holds().is_err() {
            return Ok(());
        }
        let _turn = self.turn.lock();
        self.load()
    }

    /// Sees to it that our rules are in force, and returns whether they are. Blocks.
    pub(super) fn look(&self) -> bool {
        let looked = self.see_to_it();
        let mut seen = self.seen.lock();
        let closed = looked.err().map(|error| error.to_string());
        match (&closed, &seen.closed) {
            (Some(why), before) if before.as_ref() != Some(why) => {
                warn!("no sandbox has a network, as its links are down: {why}");
            }
            (None, Some(_)) => info!("the packet filter holds: sandboxes have their network"),
            _ => {}
        }
        seen.closed = closed;
        seen.closed.is_none()
    }

    fn see_to_it(&self) -> Result<(), Error> {
        if !pf::is_enabled(&ask(&["-s", "info"])?) {
            return Err(Error::Unsupported("pf is not enabled".into()));
        }
        for (anchor, kind) in ANCHORS.into_iter().zip(["nat", "rules"]) {
            let listing = ask(&["-s", kind])?;
            if !pf::leads_here(&listing, anchor) {
                let problem = format!("the rules of /etc/pf.conf that are loaded lack: {anchor}");
                return Err(Error::Unsupported(problem));
            }
            if let Some(rule) = pf::decides_before(&listing, anchor) {
                let problem = format!("a rule of /etc/pf.conf decides before {anchor}: {rule}");
                return Err(Error::Unsupported(problem));
            }
        }
        let _turn = self.turn.lock();
        let rules = self.rules()?;
        // An anchor that is not there yet cannot be listed.
        let listed = self.list().ok();
        let before = self.seen.lock().loaded.take();
        let was_loaded = before.is_some();
        if let Some((known, listing)) = before
            && known == rules
            && listed.as_ref() == Some(&listing)
        {
            self.seen.lock().loaded = Some((known, listing));
            return Ok(());
        }
        if was_loaded {
            warn!("the rules that keep sandboxes apart, or the host's interfaces, have changed");
        }
        self.load()
    }

    fn rules(&self) -> Result<Rules, Error> {
        let (tag, uplinks) = (self.tag.clone(), net_sys::uplinks()?);
        Ok(Rules::new(tag, &self.dns, uplinks, self.fences.all()))
    }

    /// In turn.
    fn load(&self) -> Result<(), Error> {
        let rules = self.rules()?;
        load(&self.tag, &rules.to_string())?;
        let listed = self.list()?;
        self.seen.lock().loaded = Some((rules, listed));
        Ok(())
    }

    /// Filter rules and translations as the kernel has them, without figures.
    fn list(&self) -> Result<String, Error> {
        let anchor = self.tag.anchor();
        Ok(ask(&["-a", &anchor, "-s", "rules"])? + &ask(&["-a", &anchor, "-s", "nat"])?)
    }

    /// Takes our rules away; without any the anchor goes too.
    pub(super) fn unload(&self) -> Result<(), Error> {
        load(&self.tag, "")
    }
}

fn load(tag: &Tag, rules: &str) -> Result<(), Error> {
    run(&["/sbin/pfctl", "-q", "-a", &tag.anchor(), "-f", "-"], rules, PATIENCE).map(drop)
}

fn ask(what: &[&str]) -> Result<String, Error> {
    run(&[&["/sbin/pfctl"][..], what].concat(), "", PATIENCE)
}

/// Looks time and again, and tells `told` whether the rules hold whenever that matters. Dropped, it ends.
pub(super) struct Guard {
    stop: Option<Sender<()>>,
    thread: Option<JoinHandle<()>>,
}

impl Guard {
    pub(super) fn start(filter: Arc<Filter>, told: impl Fn(bool) + Send + 'static) -> Self {
        let (stop, stopped) = channel();
        let work = move || {
            let mut held = filter.holds().is_ok();
            while stopped.recv_timeout(PERIOD) == Err(RecvTimeoutError::Timeout) {
                let holds = filter.look();
                // Down again and again: there may be new ones of a gateway that was killed.
                if !holds || !held {
                    told(holds);
                }
                held = holds;
            }
        };
        let thread = thread::Builder::new().name("packet filter".into()).spawn(work);
        if let Err(error) = &thread {
            error!(%error, "the packet filter is not looked after: no thread");
        }
        Self { stop: Some(stop), thread: thread.ok() }
    }
}

impl Drop for Guard {
    /// Returns when it can load nothing any more.
    fn drop(&mut self) {
        self.stop = None;
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}
