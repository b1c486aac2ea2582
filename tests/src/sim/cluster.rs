//! A cluster: real peers on one thread under virtual time, all chance from one seed. It owns the nodes and the network.

use std::cell::{Cell, RefCell};
use std::panic;
use std::sync::Once;
use std::time::Duration;

use tempfile::TempDir;
use tokio::time::Instant;

use super::node::scratch;
use super::{Network, Node, Report};
use crate::check;

/// How often a waiting test looks, in virtual milliseconds.
const LOOK_MS: u64 = 200;

/// How long devices of a test may take to become one library.
const JOIN_TIME_MAX: Duration = Duration::from_mins(5);

thread_local! {
    static PANICS: Cell<u64> = const { Cell::new(0) };
}

/// A cluster of simulated devices.
#[derive(Debug)]
pub struct Cluster {
    seed: u64,
    network: Network,
    nodes: RefCell<Vec<Node>>,
    directory: TempDir,
    epoch: Instant,
    skipped: Cell<Duration>,
}

impl Cluster {
    /// Runs a scenario on a fresh cluster under virtual time, and gives what the scenario gave. Afterwards the standing
    /// claims are checked: no actor panicked, no message was larger than allowed, every database is intact.
    ///
    /// The seed is printed when anything fails; `SIM_SEED` in the environment replaces it.
    pub fn run<T>(seed: u64, scenario: impl AsyncFnOnce(&Self) -> T) -> T {
        let seed = std::env::var("SIM_SEED").ok().and_then(|text| text.parse().ok()).unwrap_or(seed);
        let _printed = PrintedOnPanic(seed);
        Self::simulate(seed, async |cluster| {
            let given = scenario(cluster).await;
            cluster.end().await;
            given
        })
    }

    /// Runs a scenario on a fresh cluster under virtual time, and leaves all judgement to it.
    pub fn simulate<T>(seed: u64, scenario: impl AsyncFnOnce(&Self) -> T) -> T {
        count_panics();
        log();
        let runtime = || {
            let mut builder = tokio::runtime::Builder::new_current_thread();
            builder.enable_all().start_paused(true).build().expect("a runtime starts")
        };
        actix::System::with_tokio_rt(runtime).block_on(async {
            let cluster = Self::new(seed);
            scenario(&cluster).await
        })
    }

    /// How many panics there were on this thread since the simulation began.
    #[must_use]
    pub fn panics() -> u64 {
        PANICS.get()
    }

    fn new(seed: u64) -> Self {
        let (network, nodes, directory) = (Network::start(seed), RefCell::default(), scratch("starling-sim"));
        Self { seed, network, nodes, directory, epoch: Instant::now(), skipped: Cell::default() }
    }

    async fn end(&self) {
        for node in self.running() {
            check::intact(&node).await;
            node.stop().await;
        }
        for (node, tally) in self.report().await.tallies {
            assert_eq!(tally.oversized, 0, "node {node} sent messages that are larger than the protocol allows");
        }
        assert_no_panic();
    }

    /// What decides all chance.
    #[must_use]
    pub fn seed(&self) -> u64 {
        self.seed
    }

    /// The network.
    #[must_use]
    pub fn network(&self) -> &Network {
        &self.network
    }

    /// What the network carried so far.
    pub async fn report(&self) -> Report {
        self.network.report().await
    }

    /// Starts a device with a library of its own.
    pub async fn device(&self, name: &str) -> Node {
        let node = self.place(name);
        node.start().await;
        node
    }

    /// A device that was never started.
    pub fn place(&self, name: &str) -> Node {
        let number = self.nodes.borrow().len();
        let data = self.directory.path().join(name);
        let node = Node::new(number, name, data, self.seed, self.epoch, self.network.clone());
        node.shift_clock(self.skipped.get());
        self.nodes.borrow_mut().push(node.clone());
        node
    }

    /// Starts devices that all belong to the library of the first, and waits until they are equal.
    pub async fn library<const N: usize>(&self, names: [&str; N]) -> [Node; N] {
        let mut devices = Vec::with_capacity(N);
        for name in names {
            let device = self.device(name).await;
            devices.push(device);
        }
        for device in &devices[1..] {
            device.join(&devices[0]).await;
        }
        self.settle(JOIN_TIME_MAX).await;
        devices.try_into().unwrap_or_else(|_| unreachable!("as many devices as names"))
    }

    /// The devices that run, in the order in which they were made.
    #[must_use]
    pub fn running(&self) -> Vec<Node> {
        self.nodes.borrow().iter().filter(|node| node.is_running()).cloned().collect()
    }

    /// How much virtual time has passed.
    #[must_use]
    pub fn elapsed(&self) -> Duration {
        self.epoch.elapsed()
    }

    /// Lets virtual time pass.
    pub async fn pass(&self, time: Duration) {
        tokio::time::sleep(time).await;
        assert_no_panic();
    }

    /// Waits until all running devices say that they are in sync and hold the same, and gives how long that took.
    ///
    /// # Panics
    /// When they do not within `limit` of virtual time; says what each lacks and the first line that differs.
    pub async fn settle(&self, limit: Duration) -> Duration {
        let begun = Instant::now();
        let mut wait = Duration::from_millis(LOOK_MS);
        loop {
            let nodes = self.running();
            let lagging = check::lagging(&nodes).await;
            if lagging.is_none() {
                if check::are_equal(&nodes).await {
                    return begun.elapsed();
                }
                // Comparing whole databases is dear: the longer it takes, the more rarely.
                wait = (2 * wait).min(limit / 8);
            }
            assert_no_panic();
            if begun.elapsed() >= limit {
                let difference = check::difference(&nodes).await.unwrap_or_default();
                panic!("not equal within {limit:?}\n{}\n{difference}", lagging.unwrap_or_default());
            }
            tokio::time::sleep(wait).await;
        }
    }

    /// Waits until `obstacle` finds none, and gives how long that took.
    ///
    /// # Panics
    /// When there still is one after `limit` of virtual time; shows it.
    pub async fn until(
        &self,
        claim: &str,
        limit: Duration,
        mut obstacle: impl AsyncFnMut() -> Option<String>,
    ) -> Duration {
        let begun = Instant::now();
        while let Some(obstacle) = obstacle().await {
            assert_no_panic();
            assert!(begun.elapsed() < limit, "not within {limit:?}: {claim}\n{obstacle}");
            tracing::debug!(%claim, %obstacle, "not yet");
            tokio::time::sleep(Duration::from_millis(LOOK_MS)).await;
        }
        begun.elapsed()
    }

    /// Waits until nothing is in the peer log of any running device.
    pub async fn until_pruned(&self, limit: Duration) {
        self.until("every log is empty", limit, async || {
            for node in self.running() {
                let entries = node.status().await.log.entries;
                if entries > 0 {
                    return Some(format!("{}: {entries} log entries", node.name()));
                }
            }
            None
        })
        .await;
    }

    /// Sets every device's wall clock ahead, as if so much time had passed with nothing happening.
    ///
    /// Timers do not notice. Days of virtual time with running devices would cost minutes of real time.
    pub fn skip(&self, time: Duration) {
        self.skipped.set(self.skipped.get() + time);
        for node in self.nodes.borrow().iter() {
            node.shift_clock(time);
        }
    }

    /// Splits the devices into groups that do not hear each other.
    pub async fn partition(&self, groups: &[&[&Node]]) {
        let groups: Vec<Vec<_>> = groups.iter().map(|group| group.iter().map(|node| node.number()).collect()).collect();
        let change = move |conditions: &mut super::Conditions| {
            conditions.partition(&groups.iter().map(Vec::as_slice).collect::<Vec<_>>());
        };
        self.network.change(change).await;
    }

    /// Lets nothing pass from one device to another; the other way stays as it is.
    pub async fn cut(&self, from: &Node, to: &Node) {
        let cut = (from.number(), to.number());
        self.network
            .change(move |conditions| {
                conditions.cuts.insert(cut);
            })
            .await;
    }

    /// Pulls a device's cable.
    pub async fn unplug(&self, node: &Node) {
        let number = node.number();
        self.network
            .change(move |conditions| {
                conditions.down.insert(number);
            })
            .await;
    }

    /// Takes every partition, cut and pulled cable back.
    pub async fn heal(&self) {
        self.network.change(super::Conditions::heal).await;
    }
}

/// Shows logs when `RUST_LOG` asks for them.
fn log() {
    let filter = tracing_subscriber::EnvFilter::from_default_env();
    let shown = tracing_subscriber::fmt().with_env_filter(filter).with_test_writer().try_init();
    if shown.is_err() {
        tracing::trace!("logs are shown already");
    }
}

/// Has panics counted per thread: tokio catches those of actors, and a test must not pass over them.
fn count_panics() {
    static HOOK: Once = Once::new();
    HOOK.call_once(|| {
        let print = panic::take_hook();
        panic::set_hook(Box::new(move |info| {
            PANICS.set(PANICS.get() + 1);
            print(info);
        }));
    });
    PANICS.set(0);
}

fn assert_no_panic() {
    assert_eq!(PANICS.get(), 0, "an actor panicked, see above");
}

/// Names the seed of a failed run.
struct PrintedOnPanic(u64);

impl Drop for PrintedOnPanic {
    fn drop(&mut self) {
        if std::thread::panicking() {
            eprintln!("the seed of this run is {}: SIM_SEED={} repeats it", self.0, self.0);
        }
    }
}
