//! The receiving end of a request.

use crate::shared::Shared;
use crate::{Finished, TokenEvent};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use tokio::sync::mpsc;
use tyndall_types::FinishReason;

/// A request's tokens. Dropping it before the end aborts the request before the next step.
#[derive(Debug)]
pub struct TokenStream {
    events: mpsc::Receiver<TokenEvent>,
    cancelled: Arc<AtomicBool>,
    shared: Arc<Shared>,
    finished: bool,
}

impl TokenStream {
    pub(crate) fn new(
        events: mpsc::Receiver<TokenEvent>,
        cancelled: Arc<AtomicBool>,
        shared: Arc<Shared>,
    ) -> Self {
        Self { events, cancelled, shared, finished: false }
    }

    /// The next event; `None` after [`TokenEvent::Finished`].
    ///
    /// # Cancel safety
    /// No event is lost when the future is dropped.
    pub async fn next(&mut self) -> Option<TokenEvent> {
        if self.finished {
            return None;
        }
        let event = self.events.recv().await.unwrap_or_else(|| self.lost());
        self.finished = matches!(event, TokenEvent::Finished(_));
        Some(event)
    }

    /// The engine ended without an answer.
    fn lost(&self) -> TokenEvent {
        let cause = self.shared.stop_cause();
        let cause = cause.map_or_else(|| "it ended".to_owned(), ToString::to_string);
        let error = format!("the engine does not run any more: {cause}");
        TokenEvent::Finished(Finished::unstarted(FinishReason::Error, Some(error)))
    }
}

impl Drop for TokenStream {
    fn drop(&mut self) {
        if !self.finished {
            self.cancelled.store(true, Ordering::Release);
            // The thread looks at the flags when this number has changed.
            self.shared.cancellations.fetch_add(1, Ordering::Release);
        }
    }
}
