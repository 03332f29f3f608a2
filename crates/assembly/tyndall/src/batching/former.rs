//! The queue, and the task that forms batches of it.
//!
//! One task forms; it never waits for a batch to run, so that the next one forms meanwhile. What
//! bounds it is the number of items that wait, in the queue or in a formed batch. The task starts
//! with the first item and ends when the batcher is dropped and the queue is empty; one that went
//! down with its runtime is started again with the next item.

use super::BatchOptions;
use crate::context::{self, RequestContext, Scope};
use crate::error::{Error, Result};
use futures_util::future::{BoxFuture, join_all};
use std::collections::VecDeque;
use std::fmt;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};
use std::task::Poll;
use std::time::Duration;
use tokio::sync::{Notify, Semaphore};
use tokio::task::JoinHandle;
use tokio::time::{Instant, timeout_at};
use tyndall_telemetry::BatchMetrics;

/// Whoever waits for an item's result.
pub(super) trait Caller: Send + 'static {
    /// Whether nobody waits any more.
    fn is_gone(&self) -> bool;

    /// There will be no result.
    fn fail(self, error: Error);
}

/// What holds for the next batch.
#[derive(Clone, Copy)]
pub(super) struct Settings {
    pub(super) max_batch_size: usize,
    pub(super) wait: Duration,
}

impl fmt::Debug for Settings {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { max_batch_size, wait } = self;
        f.debug_struct("Settings").field("size", max_batch_size).field("wait", wait).finish()
    }
}

type SizeFn<T> = Box<dyn Fn(&[T]) -> usize + Send + Sync>;
type Run<T, C> = Box<dyn Fn(Vec<T>, Vec<C>) -> BoxFuture<'static, ()> + Send + Sync>;

pub(super) struct Former<T, C> {
    queue: Mutex<Queue<T, C>>,
    arrived: Notify,
    settings: Mutex<Settings>,
    size_fn: OnceLock<SizeFn<T>>,
    permits: Arc<Semaphore>,
    options: BatchOptions,
    waiting: Arc<AtomicU32>,
    run: Run<T, C>,
    /// Of a batcher that was made in a replica.
    metrics: Option<BatchMetrics>,
    task: Mutex<Option<JoinHandle<()>>>,
}

struct Queue<T, C> {
    entries: VecDeque<Entry<T, C>>,
    is_closed: bool,
}

struct Entry<T, C> {
    item: T,
    ticket: Ticket<C>,
}

/// An item's caller and context.
struct Ticket<C> {
    caller: C,
    scope: Option<Scope>,
    place: Place,
}

impl<C> Ticket<C> {
    fn model_id(&self) -> &str {
        self.scope.as_ref().map_or("", |scope| &scope.request.multiplexed_model_id)
    }
}

/// One of the items that wait.
struct Place(Arc<AtomicU32>);

impl Drop for Place {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}

/// A batch: items, and at the same index their tickets.
struct Batch<T, C> {
    items: Vec<T>,
    tickets: Vec<Ticket<C>>,
    /// When its first item was taken.
    since: Instant,
    /// Of the largest size, what it has.
    share: f64,
}

impl<T, C> Batch<T, C> {
    fn new() -> Self {
        Self { items: Vec::new(), tickets: Vec::new(), since: Instant::now(), share: 0.0 }
    }

    fn push(&mut self, entry: Entry<T, C>) {
        self.items.push(entry.item);
        self.tickets.push(entry.ticket);
    }

    fn pop(&mut self) -> Option<Entry<T, C>> {
        let item = self.items.pop()?;
        let ticket = self.tickets.pop()?;
        Some(Entry { item, ticket })
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl<T, C> Former<T, C> {
    /// `function` is the name of the type of what batches are handed to.
    pub(super) fn new(
        settings: Settings,
        options: BatchOptions,
        run: Run<T, C>,
        function: &str,
    ) -> Arc<Self> {
        let permits = options.max_concurrent_batches.min(Semaphore::MAX_PERMITS);
        let waiting = Arc::<AtomicU32>::default();
        let metrics = context::replica().map(|replica| {
            let waiting = waiting.clone();
            let name = function_name(function);
            replica.facts.metrics.batcher(&name, move || waiting.load(Ordering::Relaxed))
        });
        Arc::new(Self {
            queue: Mutex::new(Queue { entries: VecDeque::new(), is_closed: false }),
            arrived: Notify::new(),
            settings: Mutex::new(settings),
            size_fn: OnceLock::new(),
            permits: Arc::new(Semaphore::new(permits)),
            options,
            waiting,
            run,
            metrics,
            task: Mutex::new(None),
        })
    }

    pub(super) fn settings(&self) -> Settings {
        *lock(&self.settings)
    }

    pub(super) fn change(&self, change: impl FnOnce(Settings) -> Result<Settings>) -> Result<()> {
        let mut settings = lock(&self.settings);
        *settings = change(*settings)?;
        Ok(())
    }

    pub(super) fn set_size_fn(&self, size: SizeFn<T>) {
        drop(self.size_fn.set(size));
    }

    pub(super) fn num_waiting(&self) -> u32 {
        self.waiting.load(Ordering::Relaxed)
    }

    /// No further item comes.
    pub(super) fn close(&self) {
        lock(&self.queue).is_closed = true;
        self.arrived.notify_one();
    }

    fn try_pop(&self) -> Option<Entry<T, C>> {
        lock(&self.queue).entries.pop_front()
    }

    /// Waits for an item; none when the queue is closed and empty. Only the forming task waits.
    async fn pop(&self) -> Option<Entry<T, C>> {
        loop {
            {
                let mut queue = lock(&self.queue);
                if let Some(entry) = queue.entries.pop_front() {
                    return Some(entry);
                }
                if queue.is_closed {
                    return None;
                }
            }
            self.arrived.notified().await;
        }
    }

    /// The size of a batch of these items.
    fn size(&self, items: &[T]) -> Result<usize> {
        match self.size_fn.get() {
            None => Ok(items.len()),
            Some(size) => catch_unwind(AssertUnwindSafe(|| size(items)))
                .map_err(|panic| Error::panicked(&*panic)),
        }
    }
}

impl<T: Send + 'static, C: Caller> Former<T, C> {
    /// Puts an item into the queue.
    pub(super) fn submit(self: &Arc<Self>, item: T, caller: C) -> Result<()> {
        let before = self.waiting.fetch_add(1, Ordering::Relaxed);
        let place = Place(self.waiting.clone());
        if before >= self.options.max_queued_requests {
            return Err(Error::BackPressure {
                num_queued_requests: before,
                max_queued_requests: self.options.max_queued_requests,
                status_code: 503,
                retry_after_s: None,
            });
        }
        self.ensure_running()?;
        let ticket = Ticket { caller, scope: Scope::current(), place };
        lock(&self.queue).entries.push_back(Entry { item, ticket });
        self.arrived.notify_one();
        Ok(())
    }

    fn ensure_running(self: &Arc<Self>) -> Result<()> {
        let mut task = lock(&self.task);
        if task.as_ref().is_some_and(|task| !task.is_finished()) {
            return Ok(());
        }
        let runtime = tokio::runtime::Handle::try_current().map_err(|_| {
            Error::invalid_request("a batcher was called outside of a tokio runtime")
        })?;
        if task.is_none() {
            self.warn_of_small_bound();
        }
        *task = Some(runtime.spawn(self.clone().form()));
        Ok(())
    }

    /// A replica that takes fewer requests than its batches hold never fills them.
    fn warn_of_small_bound(&self) {
        let Some(replica) = context::replica() else { return };
        let wanted = self.settings().max_batch_size * self.options.max_concurrent_batches;
        let max_ongoing_requests = replica.max_ongoing_requests();
        if (max_ongoing_requests as usize) < wanted {
            tracing::warn!(
                max_ongoing_requests,
                wanted,
                "max_ongoing_requests is below max_batch_size times max_concurrent_batches: \
                 batches will not fill; raise it"
            );
        }
    }

    async fn form(self: Arc<Self>) {
        while let Some(first) = self.pop().await {
            if let Some(batch) = self.collect(first).await {
                self.launch(batch).await;
            }
        }
    }

    /// Fills the batch of a first item. None when that item is refused.
    async fn collect(&self, first: Entry<T, C>) -> Option<Batch<T, C>> {
        let Settings { max_batch_size, wait } = self.settings();
        let mut batch = Batch::new();
        let deadline = batch.since + wait;
        batch.push(first);
        let mut size = match self.size(&batch.items) {
            Ok(size) if size <= max_batch_size => size,
            refused => {
                let error = refused.err().unwrap_or_else(|| too_large(max_batch_size));
                batch.tickets.pop()?.caller.fail(error);
                return None;
            }
        };
        while size < max_batch_size {
            let next = match self.try_pop() {
                Some(next) => next,
                None => match timeout_at(deadline, self.pop()).await {
                    Ok(Some(next)) => next,
                    Ok(None) | Err(_) => break,
                },
            };
            batch.push(next);
            match self.size(&batch.items) {
                Ok(larger) if larger <= max_batch_size => size = larger,
                Ok(_) => {
                    lock(&self.queue).entries.extend(batch.pop());
                    break;
                }
                Err(error) => {
                    if let Some(refused) = batch.pop() {
                        refused.ticket.caller.fail(error);
                    }
                }
            }
        }
        batch.share = size as f64 / max_batch_size as f64;
        Some(batch)
    }

    /// Runs a batch when it has its permit. Takes its turn for it here, so that batches get theirs
    /// in the order in which they were formed.
    async fn launch(self: &Arc<Self>, batch: Batch<T, C>) {
        let mut permit = Box::pin(self.permits.clone().acquire_owned());
        let at_once = std::future::poll_fn(|cx| match permit.as_mut().poll(cx) {
            Poll::Ready(permit) => Poll::Ready(Some(permit)),
            Poll::Pending => Poll::Ready(None),
        })
        .await;
        let former = self.clone();
        drop(tokio::spawn(async move {
            let permit = match at_once {
                Some(permit) => permit,
                None => permit.await,
            };
            former.execute(batch).await;
            drop(permit);
        }));
    }

    /// Runs a batch, split by the models that its requests ask for.
    async fn execute(&self, batch: Batch<T, C>) {
        let mut parts: Vec<(Scope, Vec<T>, Vec<C>)> = Vec::new();
        let (begun, share) = (Instant::now(), batch.share);
        let waited = begun.duration_since(batch.since);
        for (item, ticket) in batch.items.into_iter().zip(batch.tickets) {
            if ticket.caller.is_gone() {
                continue;
            }
            let same = |(scope, ..): &&mut (Scope, _, _)| {
                scope.request.multiplexed_model_id == ticket.model_id()
            };
            let part = match parts.iter_mut().find(same) {
                Some(part) => part,
                None => {
                    parts.push((batch_scope(&ticket), Vec::new(), Vec::new()));
                    parts.last_mut().expect("a part was pushed the line before")
                }
            };
            part.1.push(item);
            part.2.push(ticket.caller);
            drop(ticket.place);
        }
        let num_items = parts.iter().map(|(_, items, _)| items.len()).sum();
        let run = |(scope, items, callers): (Scope, _, _)| scope.run((self.run)(items, callers));
        join_all(parts.into_iter().map(run)).await;
        if let (Some(metrics), 1..) = (&self.metrics, num_items) {
            metrics.processed(num_items, share, waited, begun.elapsed());
        }
    }
}

/// Where a closure stands, in two words: of `<app::Embedder as tyndall::Deployment>::start::{{closure}}`
/// it is `Embedder::start`.
pub(super) fn function_name(path: &str) -> String {
    let path = path.split("::{{closure}}").next().unwrap_or(path);
    let short = |path: &str| path.rsplit("::").next().unwrap_or(path).to_owned();
    let (holder, function) = match path.strip_prefix('<').and_then(|path| path.split_once(" as ")) {
        Some((holder, rest)) => (holder, short(rest)),
        None => match path.rsplit_once("::") {
            Some((holder, function)) => (holder, function.to_owned()),
            None => return path.to_owned(),
        },
    };
    let holder = holder.split('<').next().unwrap_or(holder);
    format!("{}::{function}", short(holder))
}

/// What holds in the function: the model of its items, and the trace of the first.
fn batch_scope<C>(first: &Ticket<C>) -> Scope {
    let mut request =
        RequestContext { request_id: context::new_request_id(), ..RequestContext::default() };
    let Some(scope) = &first.scope else { return Scope { request: request.into(), replica: None } };
    request.multiplexed_model_id.clone_from(&scope.request.multiplexed_model_id);
    request.traceparent.clone_from(&scope.request.traceparent);
    request.tracestate.clone_from(&scope.request.tracestate);
    Scope { request: request.into(), replica: scope.replica.clone() }
}

fn too_large(max_batch_size: usize) -> Error {
    Error::user(format!(
        "Size of item is greater than max_batch_size. Raise max_batch_size ({max_batch_size}), or \
         send a smaller item"
    ))
}
