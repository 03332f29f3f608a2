//! What a broken connection says of its replica.
//!
//! A process that was killed loses its connections one by one, and its socket last: a request that
//! is sent to it in between is lost without need. So nothing new goes to a replica whose connection
//! broke until it answers, which one that lives does at once. Of one that does not, the controller
//! will say soon that it is gone.

use crate::permit::Permit;
use std::time::Duration;
use tokio::time::{sleep, timeout};
use tyndall_transport::ClientError;
use tyndall_types::protocol::ALIVE_PATH;

const FIRST_PAUSE: Duration = Duration::from_millis(5);
const MAX_PAUSE: Duration = Duration::from_millis(500);
/// One that accepts and says nothing is busy or hangs, which is for health checks to find out.
const PATIENCE: Duration = Duration::from_secs(1);

/// The replica of this permit gets nothing new until it has answered.
pub(crate) fn suspect(permit: &Permit) {
    let (deployment, replica) = (permit.deployment().clone(), permit.replica().clone());
    if !deployment.suspect(&replica) {
        return;
    }
    let client = permit.client().clone();
    tokio::spawn(async move {
        let mut pause = FIRST_PAUSE;
        while deployment.has(&replica) {
            match timeout(PATIENCE, client.get_text(ALIVE_PATH)).await {
                Ok(Err(ClientError::Connect { .. } | ClientError::Broken { .. })) => {}
                Ok(_) | Err(_) => break,
            }
            sleep(pause).await;
            pause = (pause * 2).min(MAX_PAUSE);
        }
        deployment.trust(&replica);
    });
}
