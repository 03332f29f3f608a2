//! Applications: deployments that call each other, as a graph.
//!
//! [`Deployment::bind`] makes a node; a [`Handle`] of it in the `Init` of another makes an edge. A
//! node is complete when it is made, so an edge always leads to an older one, and there are no
//! cycles. Building walks from the ingress by serialising each node's `Init`: every handle that is
//! met there is visited, gets its final name, and is written as that name.

use crate::caller::{Caller, connected};
use crate::context::ReplicaContext;
use crate::deployment::Deployment;
use crate::described::{Described, DescribedDeployment, ProgramInit};
use crate::error::{Error, Result};
use crate::handle::Handle;
use crate::options::DeploymentOptions;
use crate::servant::{self, Servant};
use futures_util::FutureExt;
use futures_util::future::BoxFuture;
use serde_json::Value;
use std::cell::RefCell;
use std::collections::HashMap;
use std::fmt;
use std::marker::PhantomData;
use std::sync::Arc;

/// A deployment in an application.
pub struct Bound<D> {
    node: Arc<Node>,
    deployment: PhantomData<fn() -> D>,
}

impl<D> Clone for Bound<D> {
    fn clone(&self) -> Self {
        Self { node: self.node.clone(), deployment: PhantomData }
    }
}

impl<D> fmt::Debug for Bound<D> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Bound").field(&self.node.given_name()).finish()
    }
}

impl<D: Deployment> Bound<D> {
    pub(crate) fn new(options: DeploymentOptions, init: D::Init) -> Self {
        let init = move || {
            serde_json::to_value(&init).map_err(|error| {
                Error::options(format!("its init cannot be JSON: {error}; use string keys in maps"))
            })
        };
        let node = Node { options, init: Box::new(init), start: start::<D> };
        Self { node: Arc::new(node), deployment: PhantomData }
    }

    /// A handle for the `Init` of a deployment that calls this one. All handles of one `Bound` call
    /// the same deployment.
    #[must_use]
    pub fn handle(&self) -> Handle<D> {
        Handle::bound(self.node.clone())
    }
}

/// Deployments that call each other; one of them, the ingress, takes requests from outside.
#[derive(Clone)]
pub struct Application {
    ingress: Arc<Node>,
}

impl fmt::Debug for Application {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Application").field(&self.ingress.given_name()).finish()
    }
}

impl<D: Deployment> From<Bound<D>> for Application {
    fn from(ingress: Bound<D>) -> Self {
        Self { ingress: ingress.node }
    }
}

impl Application {
    /// The application of an ingress: it, and all that it calls.
    #[must_use]
    pub fn new<D: Deployment>(ingress: Bound<D>) -> Self {
        ingress.into()
    }

    /// What it consists of, for whoever runs it. `args` is what it was built with.
    ///
    /// # Errors
    /// [`Error::InvalidOptions`] names the deployment.
    pub fn describe(&self, args: Value) -> Result<Described> {
        let built = self.build()?;
        for part in built.parts.iter().filter(|part| part.name != part.node.given_name()) {
            let (given, name) = (part.node.given_name(), part.name.as_str());
            tracing::warn!(given, name, "several deployments have one name; this one was renamed");
        }
        let describe = |part: &Part| DescribedDeployment {
            options: part.node.options.clone().name(part.name.as_str()),
            init: ProgramInit { args: args.clone(), init: part.init.clone() },
            calls: part.calls.clone(),
        };
        Ok(Described {
            ingress: built.ingress().name.clone(),
            deployments: built.parts.iter().map(describe).collect(),
        })
    }

    /// Walks the graph.
    pub(crate) fn build(&self) -> Result<Built> {
        let walk = RefCell::new(Walk::default());
        let parts = WALK.sync_scope(walk, || {
            visit(&self.ingress)?;
            Ok::<_, Error>(WALK.with(|walk| walk.take().parts))
        });
        let mut parts = parts?;
        parts.reverse();
        Ok(Built { parts })
    }
}

type Start = fn(
    Value,
    Arc<dyn Caller>,
    ReplicaContext,
    user_config: Value,
) -> BoxFuture<'static, Result<Arc<dyn Servant>>>;

/// A deployment in the graph, without its type.
pub(crate) struct Node {
    options: DeploymentOptions,
    init: Box<dyn Fn() -> Result<Value> + Send + Sync>,
    start: Start,
}

impl Node {
    pub(crate) fn given_name(&self) -> &str {
        self.options.given_name()
    }
}

fn start<D: Deployment>(
    init: Value,
    caller: Arc<dyn Caller>,
    context: ReplicaContext,
    user_config: Value,
) -> BoxFuture<'static, Result<Arc<dyn Servant>>> {
    let init = connected(caller, || serde_json::from_value::<D::Init>(init));
    async move {
        let init = init.map_err(|error| {
            let name = context.deployment();
            Error::options(format!(
                "deployment {name:?}: its init is not what its type says: {error}; deploy the \
                 program again if it has changed"
            ))
        })?;
        servant::start::<D>(init, context, user_config).await
    }
    .boxed()
}

/// An application whose deployments have their names.
pub(crate) struct Built {
    /// Callers before those that they call; the ingress is the first.
    parts: Vec<Part>,
}

/// A deployment of it.
pub(crate) struct Part {
    pub(crate) name: String,
    pub(crate) init: Value,
    calls: Vec<String>,
    node: Arc<Node>,
}

impl Built {
    pub(crate) fn ingress(&self) -> &Part {
        self.parts.first().expect("a walk visits at least the ingress")
    }

    /// Those that are called before their callers.
    pub(crate) fn callees_first(&self) -> impl Iterator<Item = &Part> {
        self.parts.iter().rev()
    }

    pub(crate) fn find(&self, name: &str) -> Result<&Part> {
        self.parts.iter().find(|part| part.name == name).ok_or_else(|| {
            let known: Vec<&str> = self.parts.iter().map(|part| part.name.as_str()).collect();
            Error::options(format!(
                "Deployment '{name}' does not exist. Available: {known:?}; deploy the program \
                 again if it has changed"
            ))
        })
    }
}

impl Part {
    pub(crate) fn options(&self) -> DeploymentOptions {
        self.node.options.clone().name(self.name.as_str())
    }

    /// Starts a replica of it.
    pub(crate) fn start(
        &self,
        init: Value,
        caller: Arc<dyn Caller>,
        context: ReplicaContext,
        user_config: Value,
    ) -> BoxFuture<'static, Result<Arc<dyn Servant>>> {
        (self.node.start)(init, caller, context, user_config)
    }
}

/// What a walk has found.
#[derive(Default)]
struct Walk {
    names: HashMap<*const Node, String>,
    /// Callees before their callers.
    parts: Vec<Part>,
    /// Those that the nodes that are being visited call.
    calls: Vec<Vec<String>>,
}

tokio::task_local! {
    static WALK: RefCell<Walk>;
}

/// Visits a node and all that it calls, and gives its name.
pub(crate) fn visit(node: &Arc<Node>) -> Result<String> {
    let key = Arc::as_ptr(node);
    let known = WALK.try_with(|walk| walk.borrow().names.get(&key).cloned()).map_err(|_| {
        Error::options("a handle was written outside of an application; put it into an `Init`")
    })?;
    let name = match known {
        Some(name) => name,
        None => visit_new(node)?,
    };
    WALK.with(|walk| {
        if let Some(calls) = walk.borrow_mut().calls.last_mut()
            && !calls.contains(&name)
        {
            calls.push(name.clone());
        }
    });
    Ok(name)
}

fn visit_new(node: &Arc<Node>) -> Result<String> {
    WALK.with(|walk| walk.borrow_mut().calls.push(Vec::new()));
    // Nothing is borrowed here: the handles in it come back to `visit`.
    let init = (node.init)();
    WALK.with(|walk| {
        let mut walk = walk.borrow_mut();
        let calls = walk.calls.pop().unwrap_or_default();
        let name = walk.unique(node.given_name());
        let init = init.map_err(|error| Error::options(format!("deployment {name:?}: {error}")))?;
        node.options.clone().name(name.as_str()).check()?;
        walk.names.insert(Arc::as_ptr(node), name.clone());
        walk.parts.push(Part { name: name.clone(), init, calls, node: node.clone() });
        Ok(name)
    })
}

impl Walk {
    /// The name, or with the first suffix that is free.
    fn unique(&self, given: &str) -> String {
        let is_free = |name: &String| !self.parts.iter().any(|part| part.name == *name);
        let suffixed = (1_u32..).map(|number| format!("{given}_{number}"));
        let mut names = std::iter::once(given.to_owned()).chain(suffixed);
        names.find(is_free).expect("there are more numbers than deployments")
    }
}
