//! A limit on failed logins from one address.

use std::collections::HashMap;
use std::net::IpAddr;

use longtail_model::Timestamp;

/// How many failures are borne.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ThrottleLimits {
    /// Failures within one window before the address is shut out. Default 10.
    pub failures_max: u32,
    /// Length of a window, in milliseconds. Default one minute.
    pub window_ms: u64,
    /// How long an address is shut out, in milliseconds. Default one minute.
    pub block_ms: u64,
    /// Addresses remembered. Default 4,096; the one that matters least makes room for a new one.
    pub peers_max: usize,
}

impl Default for ThrottleLimits {
    fn default() -> Self {
        ThrottleLimits {
            failures_max: 10,
            window_ms: 60_000,
            block_ms: 60_000,
            peers_max: 4_096,
        }
    }
}

/// Counts failed logins by address. IPv6 addresses count by their /64, which is what one machine is given.
///
/// Successful logins change nothing: an attacker with an account of his own must not be able to wipe his slate.
#[derive(Debug)]
pub(crate) struct LoginThrottle {
    limits: ThrottleLimits,
    peers: HashMap<IpAddr, Failures>,
}

#[derive(Clone, Copy, Debug)]
struct Failures {
    count: u32,
    /// When the window ends or, once shut out, when that ends.
    until: Timestamp,
}

impl LoginThrottle {
    /// Nobody has failed yet.
    #[must_use]
    pub(crate) fn new(limits: ThrottleLimits) -> Self {
        LoginThrottle {
            limits,
            peers: HashMap::new(),
        }
    }

    /// Whether a login from `peer` may be tried.
    ///
    /// # Errors
    /// When it is shut out: until when.
    pub(crate) fn check(&self, peer: IpAddr, now: Timestamp) -> Result<(), Timestamp> {
        match self.peers.get(&network(peer)) {
            Some(failures)
                if failures.count >= self.limits.failures_max && now < failures.until =>
            {
                Err(failures.until)
            }
            _ => Ok(()),
        }
    }

    /// Notes that a login from `peer` failed.
    pub(crate) fn failed(&mut self, peer: IpAddr, now: Timestamp) {
        let network = network(peer);
        if !self.peers.contains_key(&network) && self.peers.len() >= self.limits.peers_max {
            self.make_room(now);
        }
        let window = Failures {
            count: 0,
            until: now.plus_millis(self.limits.window_ms),
        };
        let failures = self.peers.entry(network).or_insert(window);
        if now >= failures.until {
            *failures = window;
        }
        failures.count = failures.count.saturating_add(1);
        if failures.count == self.limits.failures_max {
            failures.until = now.plus_millis(self.limits.block_ms);
        }
    }

    #[cfg(test)]
    fn len(&self) -> usize {
        self.peers.len()
    }

    fn make_room(&mut self, now: Timestamp) {
        self.peers.retain(|_, failures| now < failures.until);
        if self.peers.len() < self.limits.peers_max {
            return;
        }
        let least = self
            .peers
            .iter()
            .min_by_key(|(_, failures)| (failures.count, failures.until));
        if let Some(least) = least.map(|(peer, _)| *peer) {
            self.peers.remove(&least);
        }
    }
}

fn network(peer: IpAddr) -> IpAddr {
    match peer.to_canonical() {
        IpAddr::V6(address) => IpAddr::V6((address.to_bits() >> 64 << 64).into()),
        v4 @ IpAddr::V4(_) => v4,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const LIMITS: ThrottleLimits = ThrottleLimits {
        failures_max: 3,
        window_ms: 100,
        block_ms: 500,
        peers_max: 4,
    };

    fn peer(text: &str) -> IpAddr {
        text.parse().unwrap()
    }

    #[test]
    fn too_many_failures_in_a_window_shut_an_address_out() {
        let mut throttle = LoginThrottle::new(LIMITS);
        let (mallory, alice) = (peer("192.0.2.1"), peer("192.0.2.2"));
        for now in [0, 10, 99] {
            assert_eq!(throttle.check(mallory, Timestamp(now)), Ok(()));
            throttle.failed(mallory, Timestamp(now));
        }
        assert_eq!(throttle.check(mallory, Timestamp(100)), Err(Timestamp(599)));
        // Those who were already at the door do not prolong it.
        throttle.failed(mallory, Timestamp(200));
        assert_eq!(throttle.check(mallory, Timestamp(598)), Err(Timestamp(599)));
        assert_eq!(
            throttle.check(peer("::ffff:192.0.2.1"), Timestamp(598)),
            Err(Timestamp(599))
        );
        assert_eq!(throttle.check(alice, Timestamp(598)), Ok(()));
        assert_eq!(throttle.check(mallory, Timestamp(599)), Ok(()));
        throttle.failed(mallory, Timestamp(599));
        assert_eq!(throttle.check(mallory, Timestamp(600)), Ok(()));
    }

    #[test]
    fn slow_failures_are_borne() {
        let mut throttle = LoginThrottle::new(LIMITS);
        for now in (0..10_000).step_by(60) {
            assert_eq!(throttle.check(peer("192.0.2.1"), Timestamp(now)), Ok(()));
            throttle.failed(peer("192.0.2.1"), Timestamp(now));
        }
    }

    #[test]
    fn an_ipv6_network_is_one_peer() {
        let mut throttle = LoginThrottle::new(LIMITS);
        for last in ["1", "2", "3"] {
            throttle.failed(peer(&format!("2001:db8::{last}")), Timestamp(0));
        }
        assert!(throttle.check(peer("2001:db8::4"), Timestamp(1)).is_err());
        assert!(
            throttle
                .check(peer("2001:db8:0:1::4"), Timestamp(1))
                .is_ok()
        );
    }

    #[test]
    fn the_table_is_bounded_and_forgets_the_harmless_first() {
        let mut throttle = LoginThrottle::new(LIMITS);
        for _ in 0..3 {
            throttle.failed(peer("192.0.2.99"), Timestamp(0));
        }
        for number in 0..50 {
            throttle.failed(peer(&format!("192.0.2.{number}")), Timestamp(1));
            assert!(throttle.len() <= 4);
        }
        assert!(throttle.check(peer("192.0.2.99"), Timestamp(1)).is_err());
    }
}
