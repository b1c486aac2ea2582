//! The program `stress` itself: a short run of what people run for longer.

use std::sync::Arc;
use std::time::Duration;

use starling_tests::processes::{Arguments, stress};

#[test]
fn three_devices_lose_nothing_acknowledged_while_they_are_killed_and_frozen() {
    let arguments = Arguments {
        nodes: 3,
        rate: 30,
        length: Duration::from_secs(10),
        faults: "kill=1/4s,stop=1/5s".to_owned(),
        seed: 3,
        report: None,
        starling: None,
    };
    let outcome = stress(&arguments, &Arc::default()).unwrap();
    assert_eq!(outcome.failures, Vec::<String>::new(), "{outcome}");
    assert_eq!((outcome.equal, outcome.lost), (true, 0), "{outcome}");
    assert_eq!((outcome.kills, outcome.faults), (2, 4), "{outcome}");
    assert!(outcome.acked > 0 && outcome.p50_ms.is_some(), "nothing was measured: {outcome}");
}
