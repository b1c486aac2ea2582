//! Where wall time, randomness and ids come from, and on which threads actors live: the only source of each.

use std::sync::Arc;

use diesel::result::QueryResult;
use parking_lot::Mutex;
use rand::{Rng, RngCore, SeedableRng};
use rand_chacha::ChaCha12Rng;
use starling_schema::ids::RecordId;
use uuid::Uuid;

use crate::rig::{Limit, Point, Timer};

/// A wall clock in milliseconds since 1970. It may jump either way.
pub type WallClock = Arc<dyn Fn() -> u64 + Send + Sync>;

/// Which threads the actors of a peer live on.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Placement {
    /// The store, the readers, the network and the protocol each on threads of their own.
    Threads {
        /// How many read-only connections, each on its own thread.
        readers: usize,
    },
    /// Everything on the calling thread, for tests under virtual time.
    OneThread,
}

impl Default for Placement {
    fn default() -> Self {
        Self::Threads { readers: 2 }
    }
}

/// Time, randomness and placement of one peer.
#[derive(Clone)]
pub struct Environment {
    wall: WallClock,
    random: Arc<Mutex<ChaCha12Rng>>,
    started: tokio::time::Instant,
    #[cfg(feature = "rig")]
    injector: Option<Arc<dyn crate::rig::Injector>>,
    /// Which threads the actors live on.
    pub placement: Placement,
}

impl std::fmt::Debug for Environment {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Environment").field("placement", &self.placement).finish_non_exhaustive()
    }
}

impl Environment {
    /// The machine's clock and its randomness, actors on several threads.
    #[must_use]
    pub fn system() -> Self {
        Self {
            wall: Arc::new(system_wall_ms),
            random: Arc::new(Mutex::new(ChaCha12Rng::from_os_rng())),
            started: now(),
            #[cfg(feature = "rig")]
            injector: None,
            placement: Placement::default(),
        }
    }

    /// Everything from a seed and a given clock, on one thread: the same run every time.
    #[must_use]
    pub fn simulated(seed: u64, wall: WallClock) -> Self {
        Self {
            wall,
            random: Arc::new(Mutex::new(ChaCha12Rng::seed_from_u64(seed))),
            started: now(),
            #[cfg(feature = "rig")]
            injector: None,
            placement: Placement::OneThread,
        }
    }

    /// Milliseconds since 1970 by this device's clock.
    #[must_use]
    pub fn wall_ms(&self) -> u64 {
        (self.wall)()
    }

    /// Milliseconds since some moment before this peer started; never goes back. For waits, never for order.
    #[must_use]
    pub fn uptime_ms(&self) -> u64 {
        u64::try_from(now().saturating_duration_since(self.started).as_millis()).unwrap_or(u64::MAX)
    }

    /// Fills `N` bytes with randomness fit for keys.
    #[must_use]
    pub fn random_bytes<const N: usize>(&self) -> [u8; N] {
        let mut bytes = [0; N];
        self.random.lock().fill_bytes(&mut bytes);
        bytes
    }

    /// A fraction in `0.0..1.0`, for jitter.
    #[must_use]
    pub fn fraction(&self) -> f64 {
        self.random.lock().random()
    }

    /// A new record id that sorts by time (`UUIDv7`).
    #[must_use]
    pub fn new_id(&self) -> RecordId {
        let random: [u8; 10] = self.random_bytes();
        RecordId(uuid::Builder::from_unix_timestamp_millis(self.wall_ms(), &random).into_uuid())
    }

    /// `count` new record ids, ascending: ids made in bulk insert fastest in order.
    #[must_use]
    pub fn new_ids(&self, count: usize) -> Vec<RecordId> {
        let wall_ms = self.wall_ms();
        let mut ids: Vec<Uuid> = {
            let mut random = self.random.lock();
            let mut bytes = [0; 10];
            (0..count)
                .map(|_| {
                    random.fill_bytes(&mut bytes);
                    uuid::Builder::from_unix_timestamp_millis(wall_ms, &bytes).into_uuid()
                })
                .collect()
        };
        ids.sort_unstable();
        ids.into_iter().map(RecordId).collect()
    }
}

#[cfg(feature = "rig")]
impl Environment {
    /// The same with somebody who interferes.
    #[must_use]
    pub fn with_injector(mut self, injector: Arc<dyn crate::rig::Injector>) -> Self {
        self.injector = Some(injector);
        self
    }

    /// Tells whoever interferes that a point is reached.
    pub(crate) fn reach(&self, point: Point) {
        if let Some(injector) = &self.injector {
            injector.reach(point);
        }
    }

    /// The same where the disk may fail.
    pub(crate) fn edge(&self, point: Point) -> QueryResult<()> {
        let fault = self.injector.as_ref().and_then(|injector| injector.reach(point));
        fault.map_or(Ok(()), |fault| Err(fault.into()))
    }

    /// What a limit is here.
    pub(crate) fn limit(&self, limit: Limit, usual: usize) -> usize {
        self.injector.as_ref().map_or(usual, |injector| injector.limit(limit, usual))
    }

    /// How long to wait, in milliseconds.
    pub(crate) fn wait_ms(&self, timer: Timer, usual_ms: u64) -> u64 {
        self.injector.as_ref().map_or(usual_ms, |injector| injector.wait_ms(timer, usual_ms))
    }
}

#[cfg(not(feature = "rig"))]
#[allow(clippy::unused_self, reason = "nobody interferes: the calls are the same and do nothing")]
impl Environment {
    pub(crate) const fn reach(&self, _: Point) {}

    #[allow(clippy::unnecessary_wraps, reason = "as above")]
    pub(crate) const fn edge(&self, _: Point) -> QueryResult<()> {
        Ok(())
    }

    pub(crate) const fn limit(&self, _: Limit, usual: usize) -> usize {
        usual
    }

    pub(crate) const fn wait_ms(&self, _: Timer, usual_ms: u64) -> u64 {
        usual_ms
    }
}

/// Tokio's clock follows virtual time where there is one.
fn now() -> tokio::time::Instant {
    tokio::time::Instant::now()
}

#[expect(clippy::disallowed_methods, reason = "this is the time source")]
fn system_wall_ms() -> u64 {
    std::time::SystemTime::now()
        .duration_since(std::time::UNIX_EPOCH)
        .map_or(0, |since| u64::try_from(since.as_millis()).unwrap_or(u64::MAX))
}
