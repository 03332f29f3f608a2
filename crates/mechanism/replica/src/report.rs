//! Telling the controller, also one that is away for a while.

use http::Method;
use std::time::Duration;
use tyndall_transport::Client;
use tyndall_types::ReplicaId;
use tyndall_types::protocol::ReplicaReport;

const FIRST_PAUSE: Duration = Duration::from_millis(10);
const MAX_PAUSE: Duration = Duration::from_millis(500);
const ANSWER_TIMEOUT: Duration = Duration::from_secs(5);

/// Sends a report until the controller has taken it.
///
/// # Cancel safety
/// Cancel safe: a report may arrive twice, which means the same.
pub(crate) async fn send(controller: &Client, id: &ReplicaId, report: &ReplicaReport) {
    let path = format!("/-/replicas/{id}/report");
    let mut pause = FIRST_PAUSE;
    loop {
        let told = controller.tell(Method::POST, &path, report);
        match tokio::time::timeout(ANSWER_TIMEOUT, told).await {
            Ok(Ok(())) => return,
            Ok(Err(error)) => tracing::debug!(%error, "the controller did not take a report"),
            Err(_) => tracing::debug!("the controller does not answer"),
        }
        tokio::time::sleep(pause).await;
        pause = (pause * 2).min(MAX_PAUSE);
    }
}
