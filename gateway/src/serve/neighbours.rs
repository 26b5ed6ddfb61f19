//! How many connections come from each address, so that whoever has one takes only a part of the
//! places there are. This host itself, where a proxy speaks for everybody, may have all.

use std::{
    collections::HashMap,
    net::{IpAddr, Ipv6Addr},
    sync::Arc,
    time::Duration,
};

use parking_lot::Mutex;
use tokio::time::Instant;

/// Between one line of the log on those that are refused and the next.
const QUIET: Duration = Duration::from_secs(60);

/// By address; of IPv6 by what one customer commonly has of it (64 bits).
pub(super) struct Neighbours {
    /// Of each.
    most: usize,
    /// Of each that is this host's own.
    of_loopback: usize,
    present: Mutex<HashMap<IpAddr, usize>>,
    /// When the log was last told of one that is refused.
    told: Mutex<Option<Instant>>,
}

/// One connection, counted as long as this lives.
pub(super) struct Neighbour {
    all: Arc<Neighbours>,
    address: IpAddr,
}

impl Neighbours {
    pub(super) fn new(most: usize, of_loopback: usize) -> Arc<Self> {
        Arc::new(Self { most, of_loopback, present: Mutex::default(), told: Mutex::default() })
    }

    /// `None`: there are as many from there as there may be.
    pub(super) fn admit(self: &Arc<Self>, peer: IpAddr) -> Option<Neighbour> {
        let most = if peer.to_canonical().is_loopback() { self.of_loopback } else { self.most };
        let address = whole(peer);
        let mut present = self.present.lock();
        let count = present.entry(address).or_default();
        // Where it is refused it is not the first, so nothing is left behind.
        if *count >= most {
            return None;
        }
        *count += 1;
        Some(Neighbour { all: self.clone(), address })
    }

    /// Whether one that is refused is to be told in the log, which it could fill.
    pub(super) fn is_to_be_told(&self) -> bool {
        let now = Instant::now();
        let mut told = self.told.lock();
        let quiet = told.is_some_and(|last| now.duration_since(last) < QUIET);
        if !quiet {
            *told = Some(now);
        }
        !quiet
    }
}

impl Drop for Neighbour {
    fn drop(&mut self) {
        let mut present = self.all.present.lock();
        if let Some(count) = present.get_mut(&self.address) {
            *count -= 1;
            if *count == 0 {
                present.remove(&self.address);
            }
        }
    }
}

fn whole(peer: IpAddr) -> IpAddr {
    match peer.to_canonical() {
        IpAddr::V6(address) => {
            let [a, b, c, d, ..] = address.segments();
            Ipv6Addr::new(a, b, c, d, 0, 0, 0, 0).into()
        }
        address => address,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_address_has_so_many_and_others_theirs() {
        let all = Neighbours::new(2, 3);
        let admit = |peer: &str| all.admit(peer.parse().unwrap());
        let first = admit("192.0.2.1").unwrap();
        let mapped = admit("::ffff:192.0.2.1");
        assert!(mapped.is_some() && admit("192.0.2.1").is_none());
        let others = [admit("192.0.2.2"), admit("2001:db8::1"), admit("2001:db8::ffff:0:0:2")];
        assert!(others.iter().all(Option::is_some));
        assert!(admit("2001:db8:0:0:1::").is_none() && admit("2001:db8:0:1::").is_some());
        drop(first);
        assert!(admit("192.0.2.1").is_some());
        for own in ["127.0.0.1", "::ffff:127.0.0.2", "::1"] {
            let admitted = [admit(own), admit(own), admit(own), admit(own)];
            assert_eq!(admitted.map(|one| one.is_some()), [true, true, true, false], "{own}");
        }
        drop((mapped, others));
        assert!(all.present.lock().is_empty());
    }

    #[tokio::test(start_paused = true)]
    async fn many_that_are_refused_are_a_line_a_minute() {
        let all = Neighbours::new(0, 0);
        assert_eq!([all.is_to_be_told(), all.is_to_be_told()], [true, false]);
        tokio::time::advance(QUIET).await;
        assert_eq!([all.is_to_be_told(), all.is_to_be_told()], [true, false]);
    }
}
