//! What single sandboxes are kept from beyond what all are: elements of two sets, in which the
//! rules look up a packet's two addresses. Changed by one batch of netlink messages each, which
//! takes effect as a whole or not at all; a sandbox that may reach what any may has no element, and
//! costs nothing.
//!
//! The kernel has what is in force. What is known here of it is of this gateway's own sandboxes,
//! so that nothing need be asked when one changes, and all can be put back when somebody else has
//! flushed the rules.

use std::{
    collections::{BTreeMap, HashMap},
    fmt::Write,
    io,
    net::Ipv4Addr,
    sync::{
        OnceLock,
        atomic::{AtomicU64, Ordering},
    },
    time::{Duration, Instant},
};

use envd::walls::{self, Wall};
use parking_lot::Mutex;
use tokio::sync::Mutex as Turn;
use tokio_util::sync::CancellationToken;

use super::{
    error::Call,
    netfilter::{self, Change, Element},
    nft::{ALLOWED, ANSWERED, DENIED, LED, LINGER, NAMED, REFUSALS},
};
use crate::{
    backend::Error,
    network::{Cidr, Filter, Pattern},
};

/// Addresses that names have led one sandbox to, at once.
const MOST_NAMED: usize = 1024;

/// First and last of a range.
type Range = (Ipv4Addr, Ipv4Addr);

#[derive(Default)]
pub(super) struct Fences {
    known: Mutex<BTreeMap<Ipv4Addr, Fence>>,
    /// Held while what is known and what is in force are made to agree.
    pub(super) turn: Turn<()>,
    detours: OnceLock<Detours>,
    /// Names, and connections by them.
    refused: AtomicU64,
}

/// Ports of this host's for sandboxes that may reach names.
#[derive(Clone, Copy, Debug)]
pub(super) struct Detours {
    pub(super) answers: u16,
    pub(super) web: u16,
}

#[derive(Default)]
struct Fence {
    lists: Lists,
    named: Named,
    /// When those that names have led to go, if nothing is sent there.
    led_to: HashMap<Ipv4Addr, Instant>,
}

/// What one may reach by name.
#[derive(Clone, Default)]
pub(super) struct Named {
    pub(super) names: Vec<Pattern>,
    /// `None`: the gateway's own.
    pub(super) servers: Option<Vec<Ipv4Addr>>,
    /// Cancelled when it may reach less.
    pub(super) cut: CancellationToken,
}

impl Named {
    pub(super) fn allows(&self, name: &str) -> bool {
        self.names.iter().any(|pattern| pattern.fits(name))
    }
}

#[derive(Clone, Debug, Default, PartialEq, Eq)]
struct Lists {
    allowed: Vec<Range>,
    denied: Vec<Range>,
    /// Whether it goes by the detours.
    detours: bool,
}

impl Lists {
    fn of(filter: &Filter) -> Self {
        let ranges = |list: &[Cidr]| list.iter().map(|it| (it.first(), it.last())).collect();
        let (allowed, denied) = (ranges(&filter.allowed), ranges(&filter.denied));
        Self { allowed, denied, detours: !filter.names.is_empty() }
    }

    fn is_empty(&self) -> bool {
        self.allowed.is_empty() && self.denied.is_empty()
    }

    fn of_set(&self) -> [(&'static str, &[Range]); 2] {
        [(ALLOWED, &self.allowed), (DENIED, &self.denied)]
    }
}

impl Fences {
    /// Where sandboxes are told addresses and taken to web servers, from here on.
    pub(super) fn detour_by(&self, detours: Detours) {
        // There is one of each for the life of a gateway.
        let _ = self.detours.set(detours);
    }

    pub(super) fn detours(&self) -> Option<Detours> {
        self.detours.get().copied()
    }

    /// Takes up what is in force for this gateway's sandboxes, and removes what is nobody's. The
    /// detours of a gateway that is gone lead nowhere, until they are put up anew.
    pub(super) async fn take_up(
        &self,
        ours: impl Fn(Ipv4Addr) -> bool,
        anybodys: impl Fn(Ipv4Addr) -> bool,
    ) -> Result<(), Error> {
        let _turn = self.turn.lock().await;
        let mut known = BTreeMap::new();
        for (source, lists) in in_force()? {
            if ours(source) {
                known.insert(source, Fence { lists, ..Fence::default() });
            } else if !anybodys(source) {
                let none = Lists::default();
                self.change(source, &lists, &none, true).call("remove the fence of", source)?;
            }
        }
        *self.known.lock() = known;
        Ok(())
    }

    /// Has the filter be all that is in force for that address. Blocks, and not for one that needs
    /// no fence and has none.
    pub(super) fn set(&self, source: Ipv4Addr, filter: &Filter) -> Result<(), Error> {
        let none = Filter::default();
        let filter = if walls::is_down(Wall::NetworkPolicy) { &none } else { filter };
        let wanted = Lists::of(filter);
        if wanted.is_empty() && !self.known.lock().contains_key(&source) {
            return Ok(());
        }
        let _turn = self.turn.blocking_lock();
        let (before, narrower) = match self.known.lock().get(&source) {
            Some(fence) => {
                let stays = |name| filter.names.contains(name);
                (fence.lists.clone(), !fence.named.names.iter().all(stays))
            }
            None => Default::default(),
        };
        // Of a gateway of before, nobody knows which names led where.
        let unknown = before.detours && !self.knows_names(source);
        let changed = self.change(source, &before, &wanted, narrower || unknown).or_else(|_| {
            // It is not as it was left: somebody else has been at it.
            let found = in_force().map_err(io::Error::other)?.remove(&source);
            self.change(source, &found.unwrap_or_default(), &wanted, true)
        });
        match changed {
            // The rules are gone, and all that was in them.
            Err(error) if wanted.is_empty() && error.kind() == io::ErrorKind::NotFound => {}
            changed => changed.call("change the fence of", source)?,
        }
        let mut known = self.known.lock();
        let mut fence = known.remove(&source).unwrap_or_default();
        if narrower || unknown || filter.names.is_empty() {
            fence.named.cut.cancel();
            fence.named.cut = CancellationToken::new();
            fence.led_to.clear();
        }
        if !wanted.is_empty() {
            (fence.lists, fence.named.names) = (wanted, filter.names.clone());
            fence.named.servers.clone_from(&filter.servers);
            known.insert(source, fence);
        }
        Ok(())
    }

    fn knows_names(&self, source: Ipv4Addr) -> bool {
        self.known.lock().get(&source).is_some_and(|fence| !fence.named.names.is_empty())
    }

    /// What that address may reach by name, if anything.
    pub(super) fn named(&self, source: Ipv4Addr) -> Option<Named> {
        let known = self.known.lock();
        let named = &known.get(&source)?.named;
        (!named.names.is_empty()).then(|| named.clone())
    }

    /// Takes note that a name was refused.
    pub(super) fn note_refused(&self) {
        self.refused.fetch_add(1, Ordering::Relaxed);
    }

    /// What was refused, by name or otherwise.
    pub(super) fn refused(&self) -> io::Result<u64> {
        Ok(netfilter::packets(REFUSALS)? + self.refused.load(Ordering::Relaxed))
    }

    /// Opens addresses to who may reach that name, for so long after they were last used.
    /// `false` where he may not any more, or has opened too many.
    pub(super) async fn lead(
        &self,
        source: Ipv4Addr,
        name: &str,
        addresses: &[Ipv4Addr],
        lasts: Duration,
    ) -> Result<bool, Error> {
        let _turn = self.turn.lock().await;
        {
            let mut known = self.known.lock();
            let Some(fence) = known.get_mut(&source).filter(|it| it.named.allows(name)) else {
                return Ok(false);
            };
            let now = Instant::now();
            if fence.led_to.len() + addresses.len() > MOST_NAMED {
                fence.led_to.retain(|_, goes| *goes > now);
            }
            if fence.led_to.len() + addresses.len() > MOST_NAMED {
                return Ok(false);
            }
            // Once something was sent there, that counts.
            let goes = now + lasts.max(LINGER);
            fence.led_to.extend(addresses.iter().map(|address| (*address, goes)));
        }
        let element = |target: &Ipv4Addr| Element {
            key: key(source, *target),
            lasts: Some(lasts),
            ..Element::default()
        };
        let elements = addresses.iter().map(element).collect();
        netfilter::commit(&[Change { set: NAMED, add: true, elements }])
            .call("open addresses to", source)?;
        Ok(true)
    }

    /// For `nft -f`, beside the rules: all that is to be in force. In turn.
    pub(super) fn text(&self) -> String {
        let mut text = String::new();
        for (source, fence) in &*self.known.lock() {
            for (set, ranges) in fence.lists.of_set() {
                for (first, last) in ranges {
                    let _ = writeln!(
                        text,
                        "add element inet coppice {set} {{ {source} . {first}-{last} }}"
                    );
                }
            }
            if let Some(detours) = self.detours().filter(|_| fence.lists.detours) {
                for (map, port) in [(ANSWERED, detours.answers), (LED, detours.web)] {
                    let _ =
                        writeln!(text, "add element inet coppice {map} {{ {source} : {port} }}");
                }
            }
        }
        text
    }

    /// `anew`: what names have led to is closed, and whatever detours there are go first.
    fn change(
        &self,
        source: Ipv4Addr,
        before: &Lists,
        after: &Lists,
        anew: bool,
    ) -> io::Result<()> {
        let mut changes = Vec::new();
        for ((set, before), (_, after)) in before.of_set().into_iter().zip(after.of_set()) {
            let gone = before.iter().filter(|range| !after.contains(range));
            let new = after.iter().filter(|range| !before.contains(range));
            let range = |(first, last): &Range| Element {
                key: key(source, *first),
                end: Some(key(source, *last)),
                ..Element::default()
            };
            changes.push(Change { set, add: false, elements: gone.map(range).collect() });
            changes.push(Change { set, add: true, elements: new.map(range).collect() });
        }
        if anew || (before.detours && !after.detours) {
            for set in [NAMED, ANSWERED, LED] {
                let mut elements = netfilter::elements(set)?;
                elements.retain(|element| element.key.starts_with(&source.octets()));
                changes.push(Change { set, add: false, elements });
            }
        }
        if after.detours && (anew || !before.detours) {
            let detours =
                self.detours().ok_or_else(|| io::Error::other("nobody resolves names"))?;
            for (set, port) in [(ANSWERED, detours.answers), (LED, detours.web)] {
                let value = Some(port.to_be_bytes().to_vec());
                let key = source.octets().to_vec();
                let elements = vec![Element { key, value, ..Element::default() }];
                changes.push(Change { set, add: true, elements });
            }
        }
        // All that goes first: what comes may overlap it.
        changes.sort_by_key(|change| change.add);
        netfilter::commit(&changes)
    }
}

/// Of every sandbox of any gateway.
fn in_force() -> Result<BTreeMap<Ipv4Addr, Lists>, Error> {
    let mut found: BTreeMap<Ipv4Addr, Lists> = BTreeMap::new();
    for set in [ALLOWED, DENIED, ANSWERED] {
        for element in netfilter::elements(set).call("list the set", set)? {
            let Some((source, target)) = element.key.split_first_chunk::<4>() else { continue };
            let lists = found.entry((*source).into()).or_default();
            let Ok(first) = <[u8; 4]>::try_from(target) else {
                lists.detours = true;
                continue;
            };
            let last = element.end.as_deref().and_then(|end| end.last_chunk::<4>());
            let range = (first.into(), (*last.unwrap_or(&first)).into());
            if set == ALLOWED { lists.allowed.push(range) } else { lists.denied.push(range) }
        }
    }
    for lists in found.values_mut() {
        lists.allowed.sort_unstable();
        lists.denied.sort_unstable();
    }
    Ok(found)
}

fn key(source: Ipv4Addr, target: Ipv4Addr) -> Vec<u8> {
    [source.octets(), target.octets()].concat()
}

#[cfg(test)]
mod tests {
    use nix::sched::{CloneFlags, unshare};

    use super::{super::nft, *};
    use crate::{
        backend::{NetworkMode, host::require_root},
        network::NetworkPolicy,
    };

    const ONE: Ipv4Addr = Ipv4Addr::new(198, 18, 0, 16);
    const OTHER: Ipv4Addr = Ipv4Addr::new(198, 18, 0, 17);

    fn filter(allow: &[&str], deny: &[&str]) -> Filter {
        let texts = |entries: &[&str]| -> Vec<String> {
            entries.iter().map(|&entry| entry.to_owned()).collect()
        };
        let policy = NetworkPolicy::new(None, &texts(allow), &texts(deny), None).unwrap();
        policy.filter(NetworkMode::Nat)
    }

    /// In a network of its own, with the rules loaded.
    fn alone(test: impl FnOnce(Fences) + Send + 'static) {
        std::thread::spawn(|| {
            unshare(CloneFlags::CLONE_NEWNET).unwrap();
            nft::tests::load(&nft::rules(&[]));
            test(Fences::default());
        })
        .join()
        .unwrap();
    }

    fn now(source: Ipv4Addr) -> Option<Lists> {
        in_force().unwrap().remove(&source)
    }

    #[test]
    fn a_fence_is_put_up_changed_and_taken_down_and_is_one_sandbox_s() {
        require_root!();
        alone(|fences| {
            fences.set(ONE, &Filter::default()).unwrap();
            assert_eq!(in_force().unwrap(), BTreeMap::new());
            fences.note_refused();
            assert_eq!(fences.refused().unwrap(), 1);
            let other = filter(&[], &["9.9.9.0/24"]);
            fences.set(OTHER, &other).unwrap();
            for wanted in [
                filter(&["1.1.1.1", "8.8.0.0/16"], &["0.0.0.0/0"]),
                // What is new lies across what was there.
                filter(&["8.0.0.0/8", "1.1.1.1"], &["0.0.0.0/1", "200.0.0.0/7"]),
                filter(&[], &["0.0.0.0/0"]),
            ] {
                fences.set(ONE, &wanted).unwrap();
                assert_eq!(now(ONE), Some(Lists::of(&wanted)));
            }
            fences.set(ONE, &Filter::default()).unwrap();
            assert_eq!(now(ONE), None);
            assert_eq!(now(OTHER), Some(Lists::of(&other)));
        });
    }

    /// Where names have led that sandbox.
    fn led_to(source: Ipv4Addr) -> Vec<Vec<u8>> {
        let mut found = netfilter::elements(NAMED).unwrap();
        found.retain(|element| element.key.starts_with(&source.octets()));
        found.into_iter().map(|element| element.key[4..].to_vec()).collect()
    }

    #[test]
    fn a_name_opens_addresses_until_it_is_taken_back() {
        require_root!();
        alone(|fences| {
            let names = |names: &[&str]| filter(names, &["0.0.0.0/0"]);
            assert!(fences.set(ONE, &names(&["a.test"])).is_err(), "nobody would resolve it");
            fences.detour_by(Detours { answers: 5300, web: 8000 });
            fences.set(ONE, &names(&["a.test"])).unwrap();
            assert!(now(ONE).unwrap().detours);
            let cut = fences.named(ONE).unwrap().cut;
            let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
            let lead = |source, name| {
                let lasts = Duration::from_secs(60);
                runtime.block_on(fences.lead(source, name, &[OTHER], lasts)).unwrap()
            };
            assert!(lead(ONE, "a.test") && lead(ONE, "a.test"));
            assert!(!lead(ONE, "b.test") && !lead(OTHER, "a.test"));
            assert_eq!(led_to(ONE), [OTHER.octets()]);

            fences.set(ONE, &names(&["a.test", "b.test"])).unwrap();
            assert_eq!(led_to(ONE).len(), 1, "what is still allowed stays open");
            assert!(!cut.is_cancelled());
            fences.set(ONE, &names(&["b.test"])).unwrap();
            assert!(led_to(ONE).is_empty() && cut.is_cancelled());
            assert!(lead(ONE, "b.test"));
            fences.set(ONE, &Filter::default()).unwrap();
            assert!(led_to(ONE).is_empty() && now(ONE).is_none() && fences.named(ONE).is_none());

            // The next gateway has other ports.
            fences.set(ONE, &names(&["a.test"])).unwrap();
            let next = Fences::default();
            next.detour_by(Detours { answers: 5301, web: 8001 });
            runtime.block_on(next.take_up(|_| true, |_| true)).unwrap();
            next.set(ONE, &names(&["a.test"])).unwrap();
            let ports = netfilter::elements(ANSWERED).unwrap();
            assert_eq!(ports[0].value.as_deref(), Some(&5301_u16.to_be_bytes()[..]));
        });
    }

    #[test]
    fn what_somebody_else_has_changed_is_found_and_put_right() {
        require_root!();
        alone(|fences| {
            let wanted = filter(&["1.1.1.1"], &["0.0.0.0/0"]);
            fences.set(ONE, &wanted).unwrap();
            nft::tests::load("flush set inet coppice denied\n");
            let more = filter(&["1.1.1.1", "2.2.2.2"], &["0.0.0.0/1"]);
            fences.set(ONE, &more).unwrap();
            assert_eq!(now(ONE), Some(Lists::of(&more)));

            nft::tests::load("flush ruleset\n");
            assert!(fences.set(ONE, &wanted).is_err(), "there is nothing to put it into");
            nft::tests::load(&format!("{}{}", nft::rules(&[]), fences.text()));
            assert_eq!(now(ONE), Some(Lists::of(&more)), "as it was last said");
            nft::tests::load("flush ruleset\n");
            fences.set(ONE, &Filter::default()).unwrap();
        });
    }

    #[test]
    fn the_next_gateway_takes_up_its_own_and_removes_what_is_nobodys() {
        require_root!();
        alone(|fences| {
            let wanted = filter(&["1.1.1.1"], &["0.0.0.0/0"]);
            let [stranger, nobody] = [18, 19].map(|last| Ipv4Addr::new(198, 18, 0, last));
            for source in [ONE, stranger, nobody] {
                fences.set(source, &wanted).unwrap();
            }
            let next = Fences::default();
            let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
            let take_up = next.take_up(|it| it == ONE, |it| it != nobody);
            runtime.block_on(take_up).unwrap();
            assert_eq!(in_force().unwrap().into_keys().collect::<Vec<_>>(), [ONE, stranger]);
            assert_eq!(next.known.lock().keys().collect::<Vec<_>>(), [&ONE]);
            next.set(ONE, &Filter::default()).unwrap();
            assert_eq!(now(ONE), None);
        });
    }
}
