//! A place that is kept for a call which its caller has not made yet.

use std::sync::{Arc, Mutex, PoisonError};
use tokio::task::AbortHandle;
use tokio::time::{Instant, sleep_until};

/// The place. It is given back when this is dropped and when the time of the call is over, whichever
/// is first: a request that forgets what it holds does not hold it for ever.
pub(crate) struct Kept<P> {
    place: Arc<Mutex<Option<P>>>,
    /// Takes the place back at the deadline.
    expiry: Option<AbortHandle>,
}

impl<P: Send + 'static> Kept<P> {
    /// # Panics
    /// Outside of a tokio runtime.
    pub(crate) fn until(deadline: Option<Instant>, place: P) -> Self {
        let place = Arc::new(Mutex::new(Some(place)));
        let expiry = deadline.map(|deadline| {
            let place = place.clone();
            let expiring = async move {
                sleep_until(deadline).await;
                drop(taken(&place));
            };
            tokio::spawn(expiring).abort_handle()
        });
        Self { place, expiry }
    }

    /// None when its time is over.
    pub(crate) fn take(&self) -> Option<P> {
        taken(&self.place)
    }
}

fn taken<P>(place: &Mutex<Option<P>>) -> Option<P> {
    place.lock().unwrap_or_else(PoisonError::into_inner).take()
}

impl<P> Drop for Kept<P> {
    fn drop(&mut self) {
        if let Some(expiry) = &self.expiry {
            expiry.abort();
        }
        // The task that is ended may hold the place for a moment longer.
        drop(taken(&self.place));
    }
}
