//! What keys used, on its way to the controller.
//!
//! Sums go as batches, at most one a second. A batch is sent until the controller has kept it, and
//! has a number by which it is counted once. What this process has not sent when it is killed is
//! lost; one that drains sends all first.

use http::Method;
use std::collections::BTreeMap;
use std::hash::{BuildHasher, Hasher, RandomState};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;
use tokio::sync::Notify;
use tyndall_transport::{Client, ClientError};
use tyndall_types::protocol::{KeyUsage, KeyUsageReport};

const PUSH_PERIOD: Duration = Duration::from_secs(1);
const PUSH_TIMEOUT: Duration = Duration::from_secs(5);
/// For each of the last batches: the supervisor waits no more than two seconds beyond the drain time.
const LAST_TIMEOUT: Duration = Duration::from_millis(400);

/// Sums that the controller does not have yet.
#[derive(Debug)]
pub(crate) struct Tally {
    path: String,
    instance: String,
    state: Mutex<State>,
    changed: Notify,
}

#[derive(Debug, Default)]
struct State {
    sums: BTreeMap<Arc<str>, KeyUsage>,
    num_batches: u64,
    /// Sent, and not known to have come.
    pending: Option<KeyUsageReport>,
}

impl Tally {
    /// Of the proxy with this id.
    pub(crate) fn new(proxy: &str) -> Self {
        Self {
            path: format!("/-/proxies/{proxy}/usage"),
            instance: format!("{:016x}", RandomState::new().build_hasher().finish()),
            state: Mutex::default(),
            changed: Notify::new(),
        }
    }

    /// Adds to what a key used.
    pub(crate) fn add(&self, name: &Arc<str>, add: impl FnOnce(&mut KeyUsage)) {
        let mut state = self.state();
        match state.sums.get_mut(name) {
            Some(sum) => add(sum),
            None => {
                let mut sum = KeyUsage { name: name.to_string(), ..KeyUsage::default() };
                add(&mut sum);
                state.sums.insert(name.clone(), sum);
            }
        }
        drop(state);
        self.changed.notify_one();
    }

    /// Sends what there is, whenever there is something. Never ends by itself.
    ///
    /// # Cancel safety
    /// What may not have come is sent again by [`Tally::push_last`].
    pub(crate) async fn push(&self, controller: &Client) {
        loop {
            self.changed.notified().await;
            // A controller that is away is asked again, for as long as it takes.
            while !self.push_once(controller, PUSH_TIMEOUT).await {
                tokio::time::sleep(PUSH_PERIOD).await;
            }
            tokio::time::sleep(PUSH_PERIOD).await;
        }
    }

    /// Sends the rest: no request goes on.
    pub(crate) async fn push_last(&self, controller: &Client) {
        // The batch before may be on its way still.
        for _ in 0..2 {
            if !self.push_once(controller, LAST_TIMEOUT).await {
                tracing::error!("the controller did not take the last usage of API keys");
                return;
            }
        }
    }

    /// Whether nothing is left to send, or a batch was taken.
    async fn push_once(&self, controller: &Client, limit: Duration) -> bool {
        let Some(report) = self.batch() else { return true };
        let told = controller.tell(Method::POST, &self.path, &report);
        let told: Result<(), ClientError> = match tokio::time::timeout(limit, told).await {
            Ok(told) => told,
            Err(_) => return false,
        };
        match told {
            Ok(()) => {
                self.state().pending = None;
                true
            }
            Err(error) => {
                tracing::debug!(%error, "the controller did not take the usage of API keys");
                false
            }
        }
    }

    /// The batch to send: the last one again, if it may not have come.
    fn batch(&self) -> Option<KeyUsageReport> {
        let mut state = self.state();
        if state.pending.is_none() && !state.sums.is_empty() {
            state.num_batches += 1;
            let sums = std::mem::take(&mut state.sums);
            state.pending = Some(KeyUsageReport {
                instance: self.instance.clone(),
                batch: state.num_batches,
                keys: sums.into_values().collect(),
            });
        }
        state.pending.clone()
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
