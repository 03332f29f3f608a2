//! Search in two steps: an ingress asks an embedder, which works in batches, for the vector of a
//! question, and a ranker for the passages that are near to it.
//!
//! `curl 'localhost:8000/search?question=where+do+whales+live'` is answered with the best passages.
//! The "models" count letters, so that the example is about the serving.

use serde::{Deserialize, Serialize};
use serde_json::Value;
use std::process::ExitCode;
use std::sync::{Arc, PoisonError, RwLock};
use tyndall::axum::extract::{Query, State};
use tyndall::axum::routing::get;
use tyndall::axum::{Json, Router};
use tyndall::{
    Application, BatchOptions, Batcher, Deployment, DeploymentOptions, Error, Handle, Methods,
    ReplicaContext, Result,
};

type Vector = Vec<f32>;

/// Texts to vectors, as many at a time as wait.
struct Embedder {
    batches: Batcher<String, Vector>,
}

impl Deployment for Embedder {
    type Init = BatchSize;
    type Request = String;
    type Response = Vector;

    fn options() -> DeploymentOptions {
        DeploymentOptions::new("Embedder").max_ongoing_requests(64)
    }

    async fn start(init: BatchSize, _context: ReplicaContext) -> Result<Self> {
        let options =
            BatchOptions { max_batch_size: init.max_batch_size, ..BatchOptions::default() };
        let embed =
            |texts: Vec<String>| async move { Ok(texts.iter().map(|text| embed(text)).collect()) };
        Ok(Self { batches: Batcher::new(options, embed)? })
    }

    async fn call(&self, text: String) -> Result<Vector> {
        self.batches.call(text).await
    }
}

#[derive(Serialize, Deserialize)]
struct BatchSize {
    max_batch_size: usize,
}

/// How often each letter occurs, of length 1.
fn embed(text: &str) -> Vector {
    let mut counts = [0.0_f32; 26];
    for letter in text.to_ascii_lowercase().bytes().filter(u8::is_ascii_lowercase) {
        counts[usize::from(letter - b'a')] += 1.0;
    }
    let length = counts.iter().map(|count| count * count).sum::<f32>().sqrt().max(1.0);
    counts.iter().map(|count| count / length).collect()
}

/// The passages that are near to a vector. Which there are is its `user_config`.
struct Ranker {
    passages: RwLock<Vec<String>>,
}

#[derive(Serialize, Deserialize)]
struct Near {
    vector: Vector,
    at_most: usize,
}

impl Ranker {
    fn sorted(&self, near: &Near) -> Vec<String> {
        let mut passages = self.passages.read().unwrap_or_else(PoisonError::into_inner).clone();
        let distance = |passage: &String| {
            let dot: f32 = embed(passage).iter().zip(&near.vector).map(|(a, b)| a * b).sum();
            -dot
        };
        passages.sort_by(|a, b| distance(a).total_cmp(&distance(b)));
        passages.truncate(near.at_most);
        passages
    }
}

impl Deployment for Ranker {
    type Init = ();
    type Request = Near;
    type Response = Vec<String>;

    fn options() -> DeploymentOptions {
        let passages = ["Whales live in the sea.", "Rust has no collector.", "Tea is hot."];
        DeploymentOptions::new("Ranker").user_config(serde_json::json!(passages))
    }

    async fn start(_init: (), _context: ReplicaContext) -> Result<Self> {
        Ok(Self { passages: RwLock::default() })
    }

    async fn reconfigure(&self, user_config: Value) -> Result<()> {
        let passages = serde_json::from_value(user_config).map_err(Error::user)?;
        *self.passages.write().unwrap_or_else(PoisonError::into_inner) = passages;
        Ok(())
    }

    async fn call(&self, near: Near) -> Result<Vec<String>> {
        Ok(self.sorted(&near))
    }

    fn methods() -> Methods<Self> {
        Methods::new().call("count", |this: Arc<Self>, (): ()| async move {
            Ok(this.passages.read().unwrap_or_else(PoisonError::into_inner).len())
        })
    }
}

/// Takes questions over HTTP.
struct Search {
    models: Models,
}

#[derive(Serialize, Deserialize)]
struct Models {
    embedder: Handle<Embedder>,
    ranker: Handle<Ranker>,
}

#[derive(Deserialize)]
struct Question {
    question: String,
}

async fn search(
    State(search): State<Arc<Search>>,
    Query(asked): Query<Question>,
) -> Result<Json<Vec<String>>> {
    search.call(asked.question).await.map(Json)
}

async fn count(State(search): State<Arc<Search>>) -> Result<Json<usize>> {
    search.models.ranker.method::<(), usize>("count").remote(()).await.map(Json)
}

impl Deployment for Search {
    type Init = Models;
    type Request = String;
    type Response = Vec<String>;

    fn options() -> DeploymentOptions {
        DeploymentOptions::new("Search").max_ongoing_requests(64)
    }

    async fn start(models: Models, _context: ReplicaContext) -> Result<Self> {
        Ok(Self { models })
    }

    async fn call(&self, question: String) -> Result<Vec<String>> {
        let vector = self.models.embedder.remote(question).await?;
        self.models.ranker.remote(Near { vector, at_most: 2 }).await
    }

    fn router(self: Arc<Self>) -> Router {
        Router::new().route("/search", get(search)).route("/passages", get(count)).with_state(self)
    }
}

/// Arguments of the application.
#[derive(Deserialize)]
#[serde(default)]
struct Args {
    max_batch_size: usize,
}

impl Default for Args {
    fn default() -> Self {
        Self { max_batch_size: 32 }
    }
}

fn app(args: Args) -> Result<Application> {
    let embedder = Embedder::bind(BatchSize { max_batch_size: args.max_batch_size });
    let ranker = Ranker::bind(());
    let models = Models { embedder: embedder.handle(), ranker: ranker.handle() };
    Ok(Application::new(Search::bind(models)))
}

fn main() -> ExitCode {
    tyndall::main(app)
}

#[cfg(test)]
mod tests {
    use super::*;
    use tyndall::axum::body::Body;
    use tyndall::axum::http::Request;
    use tyndall::testing;

    #[tokio::test]
    async fn questions_find_their_passage() {
        let local = testing::start(&app(Args::default()).unwrap()).await.unwrap();
        let found = local.handle::<Search>().remote("where do whales live".into()).await.unwrap();
        assert_eq!(found[0], "Whales live in the sea.");
        assert_eq!(found.len(), 2);

        let ask = Request::get("/search?question=hot+tea").body(Body::empty()).unwrap();
        let answer = local.http(ask).await;
        let body = tyndall::axum::body::to_bytes(answer.into_body(), 1 << 20).await.unwrap();
        let found: Vec<String> = serde_json::from_slice(&body).unwrap();
        assert_eq!(found[0], "Tea is hot.");

        local.reconfigure("Ranker", serde_json::json!(["a"])).await.unwrap();
        let ranker = local.handle_of::<Ranker>("Ranker");
        assert_eq!(ranker.method::<(), usize>("count").remote(()).await.unwrap(), 1);
        local.shutdown().await;
    }
}
