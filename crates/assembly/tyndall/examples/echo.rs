//! The no-op of the benchmarks: what comes in goes out.
//!
//! Over HTTP, `curl -d '{"any": "json"}' localhost:8000` is answered with the same.

use serde_json::Value;
use std::process::ExitCode;
use tyndall::{Application, Deployment, DeploymentOptions, ReplicaContext, Result};

struct Echo;

impl Deployment for Echo {
    type Init = ();
    type Request = Value;
    type Response = Value;

    fn options() -> DeploymentOptions {
        DeploymentOptions::new("Echo").max_ongoing_requests(256)
    }

    async fn start(_init: (), _context: ReplicaContext) -> Result<Self> {
        Ok(Self)
    }

    async fn call(&self, request: Value) -> Result<Value> {
        Ok(request)
    }
}

fn main() -> ExitCode {
    tyndall::main(|| Ok(Application::new(Echo::bind(()))))
}
