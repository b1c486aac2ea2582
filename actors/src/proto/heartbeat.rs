//! When to send a heartbeat: soon after a change, then ever more rarely.

use crate::proto::retry::jittered;

/// How long after a change the next heartbeat goes out: changes that come together share one, and people do not notice.
pub const SOON_MS: u64 = 100;

/// How long after that the same news is sent again, in case it was lost. Doubles while nothing changes.
pub const INTERVAL_MS_MIN: u64 = 1_000;

/// The longest pause between heartbeats: a loss that went unnoticed is made good within a minute.
pub const INTERVAL_MS_MAX: u64 = 60_000;

/// When to send a heartbeat: soon after a change, then ever more rarely.
#[derive(Clone, Debug)]
pub struct HeartbeatSchedule {
    due_at_ms: u64,
    interval_ms: u64,
}

impl HeartbeatSchedule {
    /// A schedule whose first heartbeat is due soon. `jitter` is drawn at random from 0 to 1.
    #[must_use]
    pub fn new(now_ms: u64, jitter: f64) -> Self {
        let due_at_ms = now_ms.saturating_add(jittered(SOON_MS, jitter));
        Self { due_at_ms, interval_ms: INTERVAL_MS_MIN }
    }

    /// Durable watermarks, membership or the circle of connected peers changed. More changes before the heartbeat goes
    /// out do not put it off.
    pub fn changed(&mut self, now_ms: u64, jitter: f64) {
        self.due_at_ms = self.due_at_ms.min(now_ms.saturating_add(jittered(SOON_MS, jitter)));
        self.interval_ms = INTERVAL_MS_MIN;
    }

    /// Whether to send one now. If so, the next one is scheduled.
    pub fn is_due(&mut self, now_ms: u64, jitter: f64) -> bool {
        if now_ms < self.due_at_ms {
            return false;
        }
        self.due_at_ms = now_ms.saturating_add(jittered(self.interval_ms, jitter));
        self.interval_ms = self.interval_ms.saturating_mul(2).min(INTERVAL_MS_MAX);
        true
    }

    /// Whether they are as rare as they get.
    #[must_use]
    pub fn rests(&self) -> bool {
        self.interval_ms >= INTERVAL_MS_MAX
    }

    /// When the next one is due, in milliseconds since 1970.
    #[must_use]
    pub fn next_due(&self) -> u64 {
        self.due_at_ms
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const EVEN: f64 = 0.5;

    #[test]
    fn a_heartbeat_follows_a_change_and_backs_off_to_a_minute() {
        let mut schedule = HeartbeatSchedule::new(0, EVEN);
        let mut gaps_s = Vec::new();
        let mut now_ms = schedule.next_due();
        assert_eq!(now_ms, 100);
        for _ in 0..8 {
            assert!(schedule.is_due(now_ms, EVEN));
            gaps_s.push((schedule.next_due() - now_ms) / 1_000);
            now_ms = schedule.next_due();
        }
        assert_eq!(gaps_s, [1, 2, 4, 8, 16, 32, 60, 60]);
        schedule.changed(now_ms - 10_000, EVEN);
        assert_eq!(schedule.next_due(), now_ms - 10_000 + SOON_MS);
    }

    #[test]
    fn changes_without_end_do_not_put_a_heartbeat_off() {
        let mut schedule = HeartbeatSchedule::new(0, EVEN);
        assert!(schedule.is_due(100, EVEN));
        for now_ms in 500..600 {
            schedule.changed(now_ms, EVEN);
            assert!(!schedule.is_due(now_ms, EVEN));
        }
        assert!(schedule.is_due(600, EVEN));
    }
}
