//! `tyndall shutdown`.

use crate::args::AdminArgs;
use crate::commands::admin::{APPLICATIONS, Admin};
use crate::failure::Failure;
use crate::output::print;
use std::time::Duration;
use tyndall_config::Environment;
use tyndall_transport::{Client, ClientError};

const GONE_POLL: Duration = Duration::from_millis(20);

pub(crate) fn shutdown(args: &AdminArgs, env: &Environment) -> Result<(), Failure> {
    let admin = Admin::new(args, env)?;
    admin.ask(|client| async move {
        match client.tell(http::Method::POST, "/api/shutdown", &()).await {
            // With nothing to finish, the server may be gone before its answer is out.
            Err(ClientError::Broken { .. }) => gone(&client).await,
            other => other,
        }
    })?;
    print("shutting down: running requests are finished first\n")
}

/// Waits until nobody listens any more.
async fn gone(client: &Client) -> Result<(), ClientError> {
    loop {
        match client.get::<serde_json::Value>(APPLICATIONS).await {
            Err(ClientError::Connect { .. }) => return Ok(()),
            Ok(_) | Err(_) => tokio::time::sleep(GONE_POLL).await,
        }
    }
}
