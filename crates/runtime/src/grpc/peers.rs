//! Who is connected: so many peers and no more, of which the longest idle makes room for a new one.

use std::{
    collections::HashMap,
    net::IpAddr,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicU64, AtomicUsize, Ordering},
    },
    time::Duration,
};

use tokio::{
    sync::{OwnedSemaphorePermit, Semaphore},
    time::{Instant, timeout},
};
use tokio_util::sync::CancellationToken;

/// How long a new connection waits for an idle one to close, or for any to become idle, before it
/// looks again.
const LOOK_AGAIN: Duration = Duration::from_millis(100);

/// All connections of a listener.
pub(super) struct Peers {
    places: Arc<Semaphore>,
    of_one_address: usize,
    state: Mutex<State>,
    started: Instant,
}

#[derive(Default)]
struct State {
    next: u64,
    connected: HashMap<u64, Arc<Peer>>,
}

/// One connection. Idle means that no call is in flight, whatever else its peer sends.
pub(super) struct Peer {
    address: IpAddr,
    started: Instant,
    calls: AtomicUsize,
    /// Milliseconds after `started` at which it last became idle.
    idle_since: AtomicU64,
    /// Cancelled when the connection shall make room for another.
    pub(super) close: CancellationToken,
}

/// A connection's place, until dropped.
pub(super) struct Place {
    pub(super) peer: Arc<Peer>,
    peers: Arc<Peers>,
    key: u64,
    _permit: OwnedSemaphorePermit,
}

impl Peers {
    /// At most `all` connections, and `of_one_address` of each address.
    pub(super) fn new(all: usize, of_one_address: usize) -> Arc<Self> {
        Arc::new(Self {
            places: Arc::new(Semaphore::new(all)),
            of_one_address,
            state: Mutex::default(),
            started: Instant::now(),
        })
    }

    /// Makes room for a connection from `address`, by closing the longest idle one where there is no
    /// room. None when `address` has as many as one may have, and none of them is idle.
    pub(super) async fn admit(self: &Arc<Self>, address: IpAddr) -> Option<Place> {
        if self.count(address) >= self.of_one_address {
            self.longest_idle(Some(address))?.close.cancel();
        }
        loop {
            // In a statement of its own: the permit must not be waited for when it can be had.
            if let Ok(permit) = self.places.clone().try_acquire_owned() {
                return Some(self.enter(address, permit));
            }
            if let Some(idle) = self.longest_idle(None) {
                idle.close.cancel();
            }
            let room = timeout(LOOK_AGAIN, self.places.clone().acquire_owned()).await;
            if let Ok(Ok(permit)) = room {
                return Some(self.enter(address, permit));
            }
        }
    }

    fn enter(self: &Arc<Self>, address: IpAddr, permit: OwnedSemaphorePermit) -> Place {
        let peer = Arc::new(Peer {
            address,
            started: self.started,
            calls: AtomicUsize::new(0),
            idle_since: AtomicU64::new(millis_since(self.started)),
            close: CancellationToken::new(),
        });
        let mut state = self.lock();
        let key = state.next;
        state.next += 1;
        state.connected.insert(key, peer.clone());
        Place {
            peer,
            peers: self.clone(),
            key,
            _permit: permit,
        }
    }

    /// Those of one address that are not about to close.
    fn count(&self, address: IpAddr) -> usize {
        let state = self.lock();
        let of_address = state.connected.values().filter(|peer| peer.is_of(address));
        of_address.count()
    }

    fn longest_idle(&self, of: Option<IpAddr>) -> Option<Arc<Peer>> {
        let state = self.lock();
        let candidates = state.connected.iter().filter(|(_, peer)| match of {
            Some(address) => peer.is_of(address),
            None => !peer.close.is_cancelled(),
        });
        // Of several within a millisecond the one that came first.
        let longest = candidates
            .filter(|(_, peer)| peer.is_idle())
            .min_by_key(|(key, peer)| (peer.idle_since.load(Ordering::Relaxed), **key));
        longest.map(|(_, peer)| peer.clone())
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Peer {
    fn is_of(&self, address: IpAddr) -> bool {
        self.address == address && !self.close.is_cancelled()
    }

    /// Whether no call is in flight.
    pub(super) fn is_idle(&self) -> bool {
        self.calls.load(Ordering::Relaxed) == 0
    }

    /// A call begins on this connection.
    pub(super) fn busy(self: &Arc<Self>) -> Busy {
        self.calls.fetch_add(1, Ordering::Relaxed);
        Busy(self.clone())
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        self.peers.lock().connected.remove(&self.key);
    }
}

/// A call in flight on a connection, until dropped.
pub(super) struct Busy(Arc<Peer>);

impl Drop for Busy {
    fn drop(&mut self) {
        let Self(peer) = self;
        let idle_since = millis_since(peer.started);
        peer.idle_since.store(idle_since, Ordering::Relaxed);
        peer.calls.fetch_sub(1, Ordering::Relaxed);
    }
}

fn millis_since(start: Instant) -> u64 {
    u64::try_from(start.elapsed().as_millis()).unwrap_or(u64::MAX)
}
