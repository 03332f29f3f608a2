//! How busy the engine is, as the controller hears it.
//!
//! The engine's thread says that something changed and goes on; a task looks at the engine's
//! counters then, and only what differs from the last report is told. The thread says so last when
//! nothing is left, so the zeros are told too, and after that nobody wakes up.

use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use tokio::sync::Notify;
use tyndall_engine::EngineStats;
use tyndall_types::protocol::EngineLoad;

/// What the engine's thread leaves for the task that reports.
#[derive(Debug, Default)]
pub(crate) struct LoadSignal {
    changed: Notify,
    /// Times to first tokens since the last look: their number in the upper half, and as an `f32`
    /// their sum in seconds in the lower one. Together, so that a look takes both at once.
    first_tokens: AtomicU64,
}

impl LoadSignal {
    /// The engine's counters changed.
    pub(crate) fn notify(&self) {
        self.changed.notify_one();
    }

    /// A request got its first token, which is no change yet: the step's end is one.
    pub(crate) fn first_token(&self, ttft_s: f64) {
        let add = |packed| {
            let (num, sum_s) = unpack(packed);
            Some(pack(num.saturating_add(1), sum_s + ttft_s as f32))
        };
        // It fails only when `add` refuses.
        _ = self.first_tokens.fetch_update(Relaxed, Relaxed, add);
    }

    /// The load once it is another than `told`.
    ///
    /// # Cancel safety
    /// Cancel safe: it gives up waiting only.
    pub(crate) async fn other_than(
        &self,
        told: EngineLoad,
        stats: impl Fn() -> EngineStats,
    ) -> EngineLoad {
        loop {
            let load = self.take(&stats());
            if load != told {
                return load;
            }
            self.changed.notified().await;
        }
    }

    fn take(&self, stats: &EngineStats) -> EngineLoad {
        let (num, sum_s) = unpack(self.first_tokens.swap(0, Relaxed));
        EngineLoad {
            running_tokens: stats.running_tokens,
            waiting_tokens: stats.waiting_tokens,
            kv_use: stats.kv_usage,
            ttft_s: (num > 0).then(|| f64::from(sum_s) / f64::from(num)),
        }
    }
}

fn pack(num: u32, sum_s: f32) -> u64 {
    u64::from(num) << 32 | u64::from(sum_s.to_bits())
}

fn unpack(packed: u64) -> (u32, f32) {
    ((packed >> 32) as u32, f32::from_bits(packed as u32))
}

#[cfg(test)]
mod tests {
    use super::*;
    use futures_util::FutureExt;
    use std::cell::Cell;

    fn stats(running_tokens: u64) -> EngineStats {
        EngineStats {
            running: 0,
            waiting: 0,
            kv_usage: 0.0,
            num_preemptions: 0,
            running_tokens,
            waiting_tokens: 0,
            prompt_tokens: 0,
            generation_tokens: 0,
            prefix_cache_queries: 0,
            prefix_cache_hits: 0,
            draft_tokens: 0,
            accepted_tokens: 0,
            steps: 0,
            step_age: None,
        }
    }

    #[test]
    fn the_time_to_first_token_is_the_mean_since_the_last_look() {
        let signal = LoadSignal::default();
        assert_eq!(signal.take(&stats(0)), EngineLoad::default());
        signal.first_token(1.0);
        signal.first_token(2.0);
        assert_eq!(signal.take(&stats(0)).ttft_s, Some(1.5));
        assert_eq!(signal.take(&stats(0)).ttft_s, None);
    }

    #[test]
    fn only_another_load_is_told() {
        let (signal, tokens) = (LoadSignal::default(), Cell::new(0));
        let told = EngineLoad::default();
        let mut next = Box::pin(signal.other_than(told, || stats(tokens.get())));
        assert_eq!(next.as_mut().now_or_never(), None);
        signal.notify();
        assert_eq!(next.as_mut().now_or_never(), None, "it is the same still");
        tokens.set(7);
        assert_eq!(next.as_mut().now_or_never(), None, "nobody looks before the signal");
        signal.notify();
        let load = next.as_mut().now_or_never().unwrap();
        assert_eq!(load.running_tokens, 7);
        // What changes while nobody waits is found by the next look.
        tokens.set(0);
        let next = signal.other_than(load, || stats(tokens.get())).now_or_never();
        assert_eq!(next, Some(told));
    }
}
