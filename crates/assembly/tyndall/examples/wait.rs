//! A known capacity, for `tyndall bench overload`: each call takes the same time, and so many go at a
//! time.

use serde::{Deserialize, Serialize};
use std::process::ExitCode;
use std::time::Duration;
use tyndall::{Application, Deployment, DeploymentOptions, ReplicaContext, Result};

/// Arguments of the application.
#[derive(Serialize, Deserialize)]
#[serde(default)]
struct Args {
    /// Milliseconds of a call.
    ms: u64,
}

impl Default for Args {
    fn default() -> Self {
        Self { ms: 20 }
    }
}

struct Wait(Duration);

impl Deployment for Wait {
    type Init = Args;
    type Request = ();
    type Response = ();

    fn options() -> DeploymentOptions {
        DeploymentOptions::new("Wait").max_ongoing_requests(8)
    }

    async fn start(args: Args, _context: ReplicaContext) -> Result<Self> {
        Ok(Self(Duration::from_millis(args.ms)))
    }

    async fn call(&self, (): ()) -> Result<()> {
        tokio::time::sleep(self.0).await;
        Ok(())
    }
}

fn main() -> ExitCode {
    tyndall::main(|args| Ok(Application::new(Wait::bind(args))))
}
