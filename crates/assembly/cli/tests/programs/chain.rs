//! A program for end-to-end tests: a front, which calls a middle, which calls a back. Tests see
//! what happens in it by its answers and by files in the directory of its arguments.

use futures_util::{Stream, StreamExt};
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use std::io::Write;
use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::{Arc, PoisonError, RwLock};
use std::time::Duration;
use tyndall::axum::body::Body;
use tyndall::axum::extract::{Path, State};
use tyndall::axum::response::Response;
use tyndall::axum::routing::get;
use tyndall::axum::{Json, Router};
use tyndall::{
    Application, CallOptions, Deployment, DeploymentOptions, Error, Handle, Methods,
    ReplicaContext, Result, context, http,
};

/// Arguments of the application. From the command line all of them are text.
#[derive(Clone, Serialize, Deserialize)]
struct Args {
    directory: PathBuf,
    #[serde(default)]
    version: u32,
}

/// What the back does.
#[derive(Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
enum Task {
    /// Tells of itself.
    Who,
    /// Takes so many milliseconds.
    Work(u64),
}

struct Back {
    args: Args,
    user_config: RwLock<Value>,
    rank: u32,
}

impl Back {
    fn line(&self, file: &str) {
        let path = self.args.directory.join(file);
        let opened = std::fs::OpenOptions::new().append(true).create(true).open(path);
        let written = opened.and_then(|mut file| writeln!(file, "{}", std::process::id()));
        written.expect("the directory of the test can be written to");
    }
}

/// Writes down that a call was dropped.
struct Dropped<'a>(Option<&'a Back>);

impl Drop for Dropped<'_> {
    fn drop(&mut self) {
        if let Some(back) = self.0 {
            back.line("cancelled");
        }
    }
}

impl Deployment for Back {
    type Init = Args;
    type Request = Task;
    type Response = Value;

    fn options() -> DeploymentOptions {
        DeploymentOptions::new("Back")
    }

    async fn start(args: Args, context: ReplicaContext) -> Result<Self> {
        Ok(Self { args, user_config: RwLock::default(), rank: context.rank() })
    }

    async fn call(&self, task: Task) -> Result<Value> {
        match task {
            Task::Who => Ok(json!({
                "pid": std::process::id(),
                "version": self.args.version,
                "user_config": *self.user_config.read().unwrap_or_else(PoisonError::into_inner),
                "rank": self.rank,
                "request_id": context::request().map(|request| request.request_id.clone()),
                "has_deadline": context::request().is_some_and(|request| request.deadline.is_some()),
            })),
            Task::Work(ms) => {
                self.line("begun");
                let mut dropped = Dropped(Some(self));
                tokio::time::sleep(Duration::from_millis(ms)).await;
                dropped.0 = None;
                Ok(json!(ms))
            }
        }
    }

    async fn reconfigure(&self, user_config: Value) -> Result<()> {
        *self.user_config.write().unwrap_or_else(PoisonError::into_inner) = user_config;
        Ok(())
    }

    async fn check_health(&self) -> Result<()> {
        let ill = self.args.directory.join(format!("ill-{}", std::process::id()));
        if ill.exists() { Err(Error::user("told to be ill")) } else { Ok(()) }
    }

    fn methods() -> Methods<Self> {
        Methods::new().stream("count", |this: Arc<Self>, to: u64| {
            let back = this.clone();
            let ended = futures_util::stream::once(async move { back.line("counted") });
            futures_util::stream::iter(0..to)
                .then(|n| async move {
                    tokio::time::sleep(Duration::from_millis(2)).await;
                    Ok(n)
                })
                .chain(ended.filter_map(|()| async { None }))
        })
    }
}

struct Middle {
    back: Handle<Back>,
    directory: PathBuf,
}

impl Deployment for Middle {
    type Init = (Handle<Back>, PathBuf);
    type Request = Task;
    type Response = Value;

    fn options() -> DeploymentOptions {
        DeploymentOptions::new("Middle")
    }

    async fn start(
        (back, directory): (Handle<Back>, PathBuf),
        _context: ReplicaContext,
    ) -> Result<Self> {
        Ok(Self { back, directory })
    }

    async fn call(&self, task: Task) -> Result<Value> {
        self.back.remote(task).await
    }

    fn methods() -> Methods<Self> {
        Methods::new()
            .stream("count", |this: Arc<Self>, to: u64| {
                this.back.method::<u64, u64>("count").stream(to)
            })
            .call("chosen", |this: Arc<Self>, ms: u64| async move {
                let chosen = this.back.choose_replica().await?;
                let replica = chosen.replica_id().to_owned();
                let told = this.directory.join("chosen");
                std::fs::write(told, &replica).map_err(Error::user)?;
                while !this.directory.join("dispatch").exists() {
                    tokio::time::sleep(Duration::from_millis(5)).await;
                }
                let worked = chosen.dispatch(Task::Work(ms)).await?;
                Ok(json!({"replica": replica, "worked": worked}))
            })
    }
}

struct Front {
    callees: Callees,
}

#[derive(Serialize, Deserialize)]
struct Callees {
    middle: Handle<Middle>,
    back: Handle<Back>,
}

impl Front {
    fn count(&self, to: u64) -> impl Stream<Item = Result<u64>> + Send + 'static {
        self.callees.middle.method::<u64, u64>("count").stream(to)
    }
}

type Shared = State<Arc<Front>>;

async fn who(State(front): Shared) -> Result<Json<Value>> {
    front.callees.back.remote(Task::Who).await.map(Json)
}

async fn work(State(front): Shared, Path(ms): Path<u64>) -> Result<Json<Value>> {
    front.callees.back.remote(Task::Work(ms)).await.map(Json)
}

async fn through(State(front): Shared, Path(ms): Path<u64>) -> Result<Json<Value>> {
    front.callees.middle.remote(Task::Work(ms)).await.map(Json)
}

async fn hurried(State(front): Shared) -> Result<Json<Value>> {
    let options = CallOptions { timeout_s: Some(60.0), ..CallOptions::default() };
    front.callees.middle.options(options).remote(Task::Who).await.map(Json)
}

async fn late(State(front): Shared) -> Result<Json<Value>> {
    let options = CallOptions { timeout_s: Some(0.2), ..CallOptions::default() };
    front.callees.back.options(options).remote(Task::Work(60_000)).await.map(Json)
}

/// All backs tell of themselves.
async fn everyone(State(front): Shared) -> Result<Json<Vec<Value>>> {
    let answers = front.callees.back.broadcast(Task::Who).await?;
    answers.into_iter().collect::<Result<_>>().map(Json)
}

/// A back is chosen, and works for that long when there is the file `dispatch`.
async fn chosen(State(front): Shared, Path(ms): Path<u64>) -> Result<Json<Value>> {
    let middle = front.callees.middle.method::<u64, Value>("chosen");
    middle.remote(ms).await.map(Json)
}

async fn count(State(front): Shared, Path(to): Path<u64>) -> Result<Response> {
    http::events(front.count(to)).await
}

impl Deployment for Front {
    type Init = Callees;
    type Request = ();
    type Response = u32;

    fn options() -> DeploymentOptions {
        DeploymentOptions::new("Front").max_ongoing_requests(64)
    }

    async fn start(callees: Callees, _context: ReplicaContext) -> Result<Self> {
        Ok(Self { callees })
    }

    async fn call(&self, (): ()) -> Result<u32> {
        Ok(std::process::id())
    }

    fn router(self: Arc<Self>) -> Router {
        Router::new()
            .route("/who", get(who))
            .route("/work/{ms}", get(work))
            .route("/through/{ms}", get(through))
            .route("/hurried", get(hurried))
            .route("/late", get(late))
            .route("/everyone", get(everyone))
            .route("/chosen/{ms}", get(chosen))
            .route("/count/{to}", get(count))
            .fallback(get(|| async { Response::new(Body::from("front")) }))
            .with_state(self)
    }
}

fn app(args: Args) -> Result<Application> {
    let directory = args.directory.clone();
    let back = Back::bind(args);
    let middle = Middle::bind((back.handle(), directory));
    let callees = Callees { middle: middle.handle(), back: back.handle() };
    Ok(Application::new(Front::bind(callees)))
}

fn main() -> ExitCode {
    tyndall::main(app)
}
