//! Dynamic batching: single calls in, one call with all of them.
//!
//! Life of an item: 1. it waits in the queue; 2. a batch is formed: its first item, then what is
//! there or comes until the batch is full or `batch_wait_timeout_s` has passed since its first item
//! was taken; 3. the batch waits for one of `max_concurrent_batches` permits, and does not grow
//! while it waits; 4. items whose caller has gone are dropped, the rest is handed to the function;
//! 5. each caller gets the result at its item's place.
//!
//! Items of requests for different multiplexed models never meet in one call: a batch is split by
//! model, and its parts run side by side under one permit.
//!
//! Source: Ray Serve `serve/batching.py`.

mod former;
mod run;

#[cfg(test)]
mod tests;

use crate::error::{Error, Result};
use former::{Former, Settings};
use futures_util::{FutureExt, Stream, StreamExt, stream};
use std::fmt;
use std::future::Future;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::{mpsc, oneshot};

/// Waits that are longer are as good as endless, and keep the arithmetic of time in its range.
const MAX_WAIT: Duration = Duration::from_secs(365 * 24 * 3600);

/// Items that a caller of a stream may be behind before its batch waits for it.
const MAX_ITEMS_BEHIND: usize = 64;

/// How batches are formed, by Ray Serve's names.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct BatchOptions {
    /// Items in a batch, at least 1; 10 as in Ray. With
    /// [`Batcher::with_batch_size_fn`] what that function counts.
    pub max_batch_size: usize,
    /// Seconds from a batch's first item to its start, when it does not fill before; at least 0,
    /// which takes what waits already; 0.01 as in Ray.
    pub batch_wait_timeout_s: f64,
    /// Batches that run at a time, at least 1; 1 as in Ray.
    pub max_concurrent_batches: usize,
    /// Items that wait, at least 1; more are refused with [`Error::BackPressure`]. 65,536: the
    /// replica's `max_ongoing_requests` is the bound that is meant to be reached.
    pub max_queued_requests: u32,
}

impl Default for BatchOptions {
    fn default() -> Self {
        Self {
            max_batch_size: 10,
            batch_wait_timeout_s: 0.01,
            max_concurrent_batches: 1,
            max_queued_requests: 65_536,
        }
    }
}

impl BatchOptions {
    fn settings(&self) -> Result<Settings> {
        if self.max_concurrent_batches == 0 || self.max_queued_requests == 0 {
            return Err(Error::options(
                "max_concurrent_batches and max_queued_requests must be at least 1; raise them",
            ));
        }
        let settings = Settings { max_batch_size: self.max_batch_size, wait: Duration::ZERO };
        let mut settings = settings.with_size(self.max_batch_size)?;
        settings = settings.with_wait(self.batch_wait_timeout_s)?;
        Ok(settings)
    }
}

impl Settings {
    fn with_size(self, max_batch_size: usize) -> Result<Self> {
        if max_batch_size == 0 {
            return Err(Error::options("max_batch_size is 0; use at least 1"));
        }
        Ok(Self { max_batch_size, ..self })
    }

    fn with_wait(self, seconds: f64) -> Result<Self> {
        let is_time = seconds >= 0.0;
        if !is_time {
            return Err(Error::options(format!(
                "batch_wait_timeout_s is {seconds}; use a number of at least 0"
            )));
        }
        let wait = Duration::try_from_secs_f64(seconds).unwrap_or(MAX_WAIT).min(MAX_WAIT);
        Ok(Self { wait, ..self })
    }
}

macro_rules! setters {
    ($batcher:ident) => {
        impl<T: Send + 'static, R: Send + 'static> $batcher<T, R> {
            /// Sizes a batch by what this counts of its items, instead of by their number. An item
            /// that would make a batch too large goes to the back of the queue and closes the
            /// batch; one that is too large alone is refused. The first function that is set stays.
            #[must_use]
            pub fn with_batch_size_fn(
                self,
                size: impl Fn(&[T]) -> usize + Send + Sync + 'static,
            ) -> Self {
                self.former.set_size_fn(Box::new(size));
                self
            }

            /// Another size, from the next batch on that begins to form.
            ///
            /// # Errors
            /// [`Error::InvalidOptions`] for 0.
            pub fn set_max_batch_size(&self, max_batch_size: usize) -> Result<()> {
                self.former.change(|settings| settings.with_size(max_batch_size))
            }

            /// Another wait, from the next batch on that begins to form.
            ///
            /// # Errors
            /// [`Error::InvalidOptions`] for what is no time.
            pub fn set_batch_wait_timeout_s(&self, seconds: f64) -> Result<()> {
                self.former.change(|settings| settings.with_wait(seconds))
            }

            /// The size of the next batch.
            #[must_use]
            pub fn max_batch_size(&self) -> usize {
                self.former.settings().max_batch_size
            }

            /// The wait of the next batch, in seconds.
            #[must_use]
            pub fn batch_wait_timeout_s(&self) -> f64 {
                self.former.settings().wait.as_secs_f64()
            }

            /// Items that wait.
            #[must_use]
            pub fn num_queued_requests(&self) -> u32 {
                self.former.num_waiting()
            }
        }

        impl<T, R> Drop for $batcher<T, R> {
            fn drop(&mut self) {
                self.former.close();
            }
        }

        impl<T, R> fmt::Debug for $batcher<T, R> {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.debug_tuple(stringify!($batcher)).field(&self.former.settings()).finish()
            }
        }
    };
}

/// Batches calls that give one result each.
///
/// ```
/// use tyndall::{BatchOptions, Batcher};
///
/// # #[tokio::main(flavor = "current_thread")]
/// # async fn main() -> tyndall::Result<()> {
/// let lengths = Batcher::new(BatchOptions::default(), |words: Vec<String>| async move {
///     Ok(words.iter().map(String::len).collect())
/// })?;
/// let (a, b) = tokio::join!(lengths.call("one".into()), lengths.call("three".into()));
/// assert_eq!((a?, b?), (3, 5));
/// # Ok(())
/// # }
/// ```
pub struct Batcher<T, R> {
    former: Arc<Former<T, oneshot::Sender<Result<R>>>>,
}

setters!(Batcher);

impl<T: Send + 'static, R: Send + 'static> Batcher<T, R> {
    /// Batches calls of `function`, which gets the items of a batch in the order in which they came
    /// and gives as many results, in the same order. Its error goes to every caller of the batch.
    ///
    /// # Errors
    /// [`Error::InvalidOptions`].
    pub fn new<F, Fut>(options: BatchOptions, function: F) -> Result<Self>
    where
        F: Fn(Vec<T>) -> Fut + Send + Sync + 'static,
        Fut: Future<Output = Result<Vec<R>>> + Send + 'static,
    {
        let function = Arc::new(function);
        let run = Box::new(move |items, callers| {
            let function = function.clone();
            run::calls(move |items| function(items), items, callers).boxed()
        });
        let name = std::any::type_name::<F>();
        Ok(Self { former: Former::new(options.settings()?, options, run, name) })
    }

    /// The result of one item.
    ///
    /// # Errors
    /// What the function says; [`Error::BackPressure`] when too many items wait.
    ///
    /// # Cancel safety
    /// Dropping the future takes the item out, unless its batch runs already.
    pub async fn call(&self, item: T) -> Result<R> {
        let (sender, receiver) = oneshot::channel();
        self.former.submit(item, sender)?;
        receiver.await.unwrap_or_else(|_| Err(lost()))
    }
}

/// Batches calls that give a stream of results each.
///
/// ```
/// use futures_util::{StreamExt, stream};
/// use tyndall::{BatchOptions, StreamBatcher};
///
/// # #[tokio::main(flavor = "current_thread")]
/// # async fn main() -> tyndall::Result<()> {
/// // Counts each item down to zero; who is there gets nothing more.
/// let counts = StreamBatcher::new(BatchOptions::default(), |items: Vec<u32>| {
///     let steps = 0..=*items.iter().max().unwrap_or(&0) + 1;
///     stream::iter(steps).map(move |step| {
///         Ok(items.iter().map(|item| item.checked_sub(step)).collect())
///     })
/// })?;
/// let counted: Vec<_> = counts.stream(2)?.map(Result::unwrap).collect().await;
/// assert_eq!(counted, [2, 1, 0]);
/// # Ok(())
/// # }
/// ```
pub struct StreamBatcher<T, R> {
    former: Arc<Former<T, mpsc::Sender<run::Step<R>>>>,
}

setters!(StreamBatcher);

impl<T: Send + 'static, R: Send + 'static> StreamBatcher<T, R> {
    /// Batches calls of `function`. Each list of its stream has a place for every item of the
    /// batch: `Some` is that caller's next result, `None` the end of its stream. The end of the
    /// function's stream ends those that are left, and so does its error.
    ///
    /// A caller that is 64 results behind holds its batch up; one that takes none for a minute is
    /// given up.
    ///
    /// # Errors
    /// [`Error::InvalidOptions`].
    pub fn new<F, S>(options: BatchOptions, function: F) -> Result<Self>
    where
        F: Fn(Vec<T>) -> S + Send + Sync + 'static,
        S: Stream<Item = Result<Vec<Option<R>>>> + Send + 'static,
    {
        let function = Arc::new(function);
        let run = Box::new(move |items, callers| {
            let function = function.clone();
            run::streams(move |items| function(items), items, callers).boxed()
        });
        let name = std::any::type_name::<F>();
        Ok(Self { former: Former::new(options.settings()?, options, run, name) })
    }

    /// The results of one item; an error is the last. Dropping the stream takes the item out.
    ///
    /// # Errors
    /// [`Error::BackPressure`] when too many items wait.
    pub fn stream(
        &self,
        item: T,
    ) -> Result<impl Stream<Item = Result<R>> + Send + 'static + use<T, R>> {
        let (sender, receiver) = mpsc::channel(MAX_ITEMS_BEHIND);
        self.former.submit(item, sender)?;
        Ok(stream::unfold(Some(receiver), |receiver| async move {
            let mut receiver = receiver?;
            match receiver.recv().await {
                Some(run::Step::Next(result)) => Some((Ok(result), Some(receiver))),
                Some(run::Step::Failed(error)) => Some((Err(error), None)),
                Some(run::Step::End) => None,
                None => Some((Err(lost()), None)),
            }
        })
        .boxed())
    }
}

fn lost() -> Error {
    Error::ReplicaUnavailable {
        message: "the batch was given up: the replica ends, or its caller took nothing".to_owned(),
    }
}
