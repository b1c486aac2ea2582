//! The word to stop: given once, heard by tasks and by threads.

use tokio::sync::watch;

/// Gives the word. Dropping it gives it too, so that nothing outlives its owner.
#[derive(Debug)]
pub(crate) struct StopSource(watch::Sender<bool>);

/// Hears the word.
#[derive(Clone, Debug)]
pub(crate) struct Stop(watch::Receiver<bool>);

impl StopSource {
    /// A source and the first of its listeners; others are clones.
    pub(crate) fn new() -> (Self, Stop) {
        let (source, stop) = watch::channel(false);
        (Self(source), Stop(stop))
    }

    /// Says stop; from then on it is said.
    pub(crate) fn stop(&self) {
        self.0.send_replace(true);
    }
}

impl Stop {
    /// Whether stop was said.
    pub(crate) fn is_set(&self) -> bool {
        *self.0.borrow() || self.0.has_changed().is_err()
    }

    /// Waits until stop is said.
    pub(crate) async fn wait(&self) {
        let mut stop = self.0.clone();
        // An error means that the source is gone, which says stop as well.
        if stop.wait_for(|said| *said).await.is_err() {}
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_dropped_source_says_stop() {
        let (source, stop) = StopSource::new();
        assert!(!stop.is_set());
        drop(source);
        assert!(stop.is_set());
        stop.wait().await;
    }
}
