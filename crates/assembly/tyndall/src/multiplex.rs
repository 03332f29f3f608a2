//! Many models in one replica: loaded when they are asked for, the least recently used one goes.
//!
//! One lock orders loads and unloads, so that a replica never holds more than its limit, and
//! several requests for one model wait for one load. A load goes on when its caller goes away: it
//! runs in a task of its own, so that no model is left half unloaded.
//!
//! Source: Ray Serve `serve/multiplex.py`.

use crate::context::{self, ReplicaContext};
use crate::error::{Error, Result};
use crate::held::ModelsOfPart;
use futures_util::FutureExt;
use futures_util::future::BoxFuture;
use std::fmt;
use std::future::Future;
use std::panic::AssertUnwindSafe;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Instant;
use tokio::sync::watch;

type Load<M> = Box<dyn Fn(String) -> BoxFuture<'static, Result<M>> + Send + Sync>;
type Unload<M> = Box<dyn Fn(String, Arc<M>) -> BoxFuture<'static, Result<()>> + Send + Sync>;

/// Models of type `M` by their ids.
///
/// ```
/// use tyndall::Multiplexed;
///
/// # #[tokio::main(flavor = "current_thread")]
/// # async fn main() -> tyndall::Result<()> {
/// let models = Multiplexed::new(2, |id: String| async move { Ok(format!("model {id}")) })?;
/// assert_eq!(*models.get("a").await?, "model a");
/// assert_eq!(models.ids(), ["a"]);
/// # Ok(())
/// # }
/// ```
pub struct Multiplexed<M> {
    shared: Arc<Shared<M>>,
}

struct Shared<M> {
    /// Absent is no limit.
    limit: Option<usize>,
    load: Load<M>,
    unload: Unload<M>,
    models: Mutex<Models<M>>,
    /// Held over every load and unload.
    order: tokio::sync::Mutex<()>,
    ids: watch::Sender<Vec<String>>,
    /// Of one that was made in a replica.
    held: Option<ModelsOfPart>,
}

struct Models<M> {
    /// The one that was used last is the last.
    loaded: Vec<(String, Arc<M>)>,
    loading: Vec<String>,
}

impl<M> Clone for Multiplexed<M> {
    fn clone(&self) -> Self {
        Self { shared: self.shared.clone() }
    }
}

impl<M> fmt::Debug for Multiplexed<M> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Multiplexed").field(&*self.shared.ids.borrow()).finish()
    }
}

impl<M: Send + Sync + 'static> Multiplexed<M> {
    /// At most `max_num_models_per_replica` models at a time, -1 for no limit; Ray's default is 3.
    ///
    /// # Errors
    /// [`Error::InvalidOptions`] for another limit below 1.
    pub fn new<F, Fut>(max_num_models_per_replica: i64, load: F) -> Result<Self>
    where
        F: Fn(String) -> Fut + Send + Sync + 'static,
        Fut: Future<Output = Result<M>> + Send + 'static,
    {
        Self::with_unload(max_num_models_per_replica, load, |_, _| async { Ok(()) })
    }

    /// [`Self::new`], with what is done before a model is dropped. Requests that still use the
    /// model keep it until they end.
    ///
    /// # Errors
    /// As [`Self::new`].
    pub fn with_unload<F, Fut, U, Done>(
        max_num_models_per_replica: i64,
        load: F,
        unload: U,
    ) -> Result<Self>
    where
        F: Fn(String) -> Fut + Send + Sync + 'static,
        Fut: Future<Output = Result<M>> + Send + 'static,
        U: Fn(String, Arc<M>) -> Done + Send + Sync + 'static,
        Done: Future<Output = Result<()>> + Send + 'static,
    {
        let limit = match max_num_models_per_replica {
            -1 => None,
            limit => {
                Some(usize::try_from(limit).ok().filter(|limit| *limit > 0).ok_or_else(|| {
                    Error::options(format!(
                        "max_num_models_per_replica is {limit}; use at least 1, or -1 for no limit"
                    ))
                })?)
            }
        };
        let ids = watch::Sender::new(Vec::new());
        let held = context::replica().as_ref().map(ReplicaContext::models_of_part);
        let shared = Shared {
            limit,
            load: Box::new(move |id| load(id).boxed()),
            unload: Box::new(move |id, model| unload(id, model).boxed()),
            models: Mutex::new(Models { loaded: Vec::new(), loading: Vec::new() }),
            order: tokio::sync::Mutex::new(()),
            ids,
            held,
        };
        Ok(Self { shared: Arc::new(shared) })
    }

    /// The model of this id, loaded first where needed. At the limit the least recently used model
    /// is unloaded before.
    ///
    /// # Errors
    /// What loading it, or unloading the other, fails with; [`Error::InvalidRequest`] for an empty
    /// id.
    ///
    /// # Cancel safety
    /// Cancel safe: a load that has begun goes on.
    pub async fn get(&self, id: &str) -> Result<Arc<M>> {
        if id.is_empty() {
            return Err(Error::invalid_request(
                "the id of the model is empty; send it as the header serve_multiplexed_model_id",
            ));
        }
        if let Some(held) = &self.shared.held {
            held.asked();
        }
        if let Some(model) = self.shared.touch(id) {
            return Ok(model);
        }
        self.shared.begin(id);
        let (shared, id) = (self.shared.clone(), id.to_owned());
        let task = tokio::spawn(context::carried(async move {
            let _order = shared.order.lock().await;
            let work = AssertUnwindSafe(shared.load(&id)).catch_unwind().await;
            let loaded = work.unwrap_or_else(|panic| Err(Error::panicked(&*panic)));
            shared.end(&id, loaded)
        }));
        task.await.unwrap_or_else(|_| {
            Err(Error::ReplicaUnavailable { message: "the replica ends".to_owned() })
        })
    }

    /// The model that the current request asks for.
    ///
    /// # Errors
    /// As [`Self::get`].
    ///
    /// # Cancel safety
    /// As [`Self::get`].
    pub async fn current(&self) -> Result<Arc<M>> {
        self.get(&context::multiplexed_model_id()).await
    }

    /// The ids of all models that are loaded, the least recently used one first, then of those that
    /// are being loaded.
    #[must_use]
    pub fn ids(&self) -> Vec<String> {
        self.shared.ids.borrow().clone()
    }

    /// [`Self::ids`], and every change of them.
    #[must_use]
    pub fn watch_ids(&self) -> watch::Receiver<Vec<String>> {
        self.shared.ids.subscribe()
    }

    /// Unloads all models, for [`Deployment::stop`](crate::Deployment::stop).
    ///
    /// # Errors
    /// The first that unloading one failed with; the others are unloaded all the same.
    pub async fn unload_all(&self) -> Result<()> {
        let _order = self.shared.order.lock().await;
        let mut outcome = Ok(());
        while let Some(unloaded) = self.shared.unload_oldest().await {
            outcome = outcome.and(unloaded);
        }
        outcome
    }
}

impl<M: Send + Sync + 'static> Shared<M> {
    fn models(&self) -> MutexGuard<'_, Models<M>> {
        self.models.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A loaded model, which is now the most recently used one.
    fn touch(&self, id: &str) -> Option<Arc<M>> {
        let mut models = self.models();
        let at = models.loaded.iter().position(|(loaded, _)| loaded == id)?;
        let used = models.loaded.remove(at);
        let model = used.1.clone();
        models.loaded.push(used);
        self.publish(&models);
        Some(model)
    }

    fn begin(&self, id: &str) {
        let mut models = self.models();
        models.loading.push(id.to_owned());
        self.publish_change(&models);
    }

    fn end(&self, id: &str, loaded: Result<Arc<M>>) -> Result<Arc<M>> {
        let mut models = self.models();
        if let Some(at) = models.loading.iter().position(|loading| loading == id) {
            models.loading.remove(at);
        }
        if let Ok(model) = &loaded
            && !models.loaded.iter().any(|(known, _)| known == id)
        {
            models.loaded.push((id.to_owned(), model.clone()));
        }
        self.publish_change(&models);
        loaded
    }

    /// Loads a model, unless whoever held the lock before has. The lock is held.
    async fn load(&self, id: &str) -> Result<Arc<M>> {
        if let Some(model) = self.touch(id) {
            return Ok(model);
        }
        while self.limit.is_some_and(|limit| self.models().loaded.len() >= limit) {
            if let Some(unloaded) = self.unload_oldest().await {
                unloaded?;
            }
        }
        let begun = Instant::now();
        let model = (self.load)(id.to_owned()).await.map(Arc::new)?;
        if let Some(held) = &self.held {
            held.loaded(begun.elapsed());
        }
        Ok(model)
    }

    /// Unloads the least recently used model, if there is one. The lock is held.
    async fn unload_oldest(&self) -> Option<Result<()>> {
        let (id, model) = {
            let mut models = self.models();
            if models.loaded.is_empty() {
                return None;
            }
            let oldest = models.loaded.remove(0);
            self.publish_change(&models);
            oldest
        };
        let begun = Instant::now();
        let work = AssertUnwindSafe((self.unload)(id, model)).catch_unwind().await;
        if let Some(held) = &self.held {
            held.unloaded(begun.elapsed());
        }
        Some(work.unwrap_or_else(|panic| Err(Error::panicked(&*panic))))
    }

    /// Not only the order has changed.
    fn publish_change(&self, models: &Models<M>) {
        self.publish(models);
        if let Some(held) = &self.held {
            held.set(self.ids.borrow().iter().map(String::as_str));
        }
    }

    fn publish(&self, models: &Models<M>) {
        let loaded = models.loaded.iter().map(|(id, _)| id);
        let mut loading: Vec<&String> = Vec::new();
        for id in &models.loading {
            let is_loaded = models.loaded.iter().any(|(loaded, _)| loaded == id);
            if !is_loaded && !loading.contains(&id) {
                loading.push(id);
            }
        }
        let ids: Vec<String> = loaded.chain(loading).cloned().collect();
        self.ids.send_if_modified(|published| {
            let is_new = *published != ids;
            *published = ids;
            is_new
        });
    }
}

#[cfg(test)]
mod tests;
