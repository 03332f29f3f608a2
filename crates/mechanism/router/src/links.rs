//! The two links to the controller: route tables come down one, counts go up the other. Both
//! outlive the controller: they reconnect, with back-off, for ever.

use crate::router::Router;
use http::Method;
use std::time::Duration;
use tyndall_transport::{Client, ClientError};
use tyndall_types::protocol::{DemandReport, RouteTable};

const FIRST_PAUSE: Duration = Duration::from_millis(5);
const MAX_PAUSE: Duration = Duration::from_millis(500);
const PUSH_TIMEOUT: Duration = Duration::from_secs(5);
/// So late may the counts of requests be told that have their replica: of thousands a second each
/// would otherwise cost the controller two reports.
const MAX_LAG: Duration = Duration::from_millis(2);

#[derive(Debug)]
struct Pause(Duration);

impl Pause {
    async fn wait(&mut self) {
        tokio::time::sleep(self.0).await;
        self.0 = (self.0 * 2).min(MAX_PAUSE);
    }
}

/// Applies every route table that the controller sends.
pub(crate) async fn follow_routes(router: &Router, controller: &Client, id: &str) {
    let path = format!("/-/proxies/{id}/routes");
    let mut pause = Pause(FIRST_PAUSE);
    loop {
        match controller.lines::<RouteTable>(&path).await {
            Err(error) => tracing::debug!(%error, "no routes from the controller"),
            Ok(mut lines) => {
                // A new controller knows no counts.
                router.repeat_demand();
                loop {
                    match lines.next().await {
                        Ok(Some(table)) => {
                            tracing::debug!(version = table.version, "route table");
                            router.apply(table);
                            pause = Pause(FIRST_PAUSE);
                        }
                        Ok(None) => break,
                        Err(error) => {
                            let error = &error as &(dyn std::error::Error + 'static);
                            tracing::debug!(error, "the routes ended");
                            break;
                        }
                    }
                }
            }
        }
        pause.wait().await;
    }
}

/// Tells the controller every change of the counts, one report in flight at a time: at once after a
/// while without one and when a request waits, else [`MAX_LAG`] after the last report.
pub(crate) async fn push_demand(router: &Router, controller: &Client, id: &str) {
    let path = format!("/-/proxies/{id}/demand");
    let mut sequence = 0;
    loop {
        router.demand_changed().await;
        let mut pause = Pause(FIRST_PAUSE);
        // Counts are read anew for each try, so what is sent is never old.
        while let Err(error) = push(router, controller, &path, &mut sequence).await {
            tracing::debug!(%error, "the controller did not take the demand");
            pause.wait().await;
        }
        tokio::select! {
            () = router.queued_changed() => {}
            () = tokio::time::sleep(MAX_LAG) => {}
        }
    }
}

async fn push(
    router: &Router,
    controller: &Client,
    path: &str,
    sequence: &mut u64,
) -> Result<(), ClientError> {
    *sequence += 1;
    let report = DemandReport { sequence: *sequence, deployments: router.demand() };
    let told = controller.tell(Method::POST, path, &report);
    // A controller that hangs is asked again.
    tokio::time::timeout(PUSH_TIMEOUT, told).await.unwrap_or(Err(ClientError::Broken {
        to: path.to_owned(),
        source: "no answer in time".into(),
    }))
}
