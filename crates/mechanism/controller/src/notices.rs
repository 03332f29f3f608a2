//! What is worth a line in the log and in the store.

use crate::store::Record;
use std::fmt::Write;
use std::time::Duration;
use tyndall_control::Notice;
use tyndall_types::DeploymentId;
use tyndall_types::protocol::ColdStartPhases;

/// `84 ms: spawn 12 · config 1 · weights 71`, in milliseconds.
pub(crate) fn phases_line(phases: &ColdStartPhases) -> String {
    let ms = |s: f64| tyndall_control::seconds(s + 0.0005).as_millis();
    let total: f64 = phases.0.iter().map(|(_, s)| s).sum();
    let mut line = format!("{} ms:", ms(total));
    for (i, (name, s)) in phases.0.iter().enumerate() {
        let separator = if i == 0 { "" } else { " ·" };
        write!(line, "{separator} {name} {}", ms(*s)).expect("writing to a string");
    }
    line
}

pub(crate) fn log(notice: &Notice) {
    match notice {
        Notice::Waking { deployment, replica } => {
            tracing::debug!(%deployment, %replica, "waking");
        }
        Notice::Ready { deployment, replica, phases } => {
            tracing::debug!(%deployment, %replica, "ready in {}", phases_line(phases));
        }
        Notice::WarmStart { deployment, is_taken } => {
            tracing::debug!(%deployment, is_taken, "starts while processes are kept that wait");
        }
        Notice::WaitingDied { deployment, reason, retry_in: Some(retry_in) } => {
            let retry_in_s = retry_in.as_secs_f64();
            tracing::warn!(%deployment, retry_in_s, "a process that waited is lost: {reason}");
        }
        Notice::WaitingDied { deployment, reason, retry_in: None } => {
            tracing::warn!(%deployment, "{}", no_more(reason));
        }
        Notice::FirstToken { deployment, phases, .. } => {
            tracing::info!("{deployment} woke in {}", phases_line(phases));
        }
        Notice::StartFailed { deployment, replica, reason, retry_in } => {
            let retry_in_s = retry_in.as_secs_f64();
            tracing::error!(%deployment, %replica, retry_in_s, "failed to start: {reason}");
        }
        Notice::Died { deployment, replica, reason, retry_in } => {
            let retry_in_s = retry_in.as_secs_f64();
            tracing::warn!(%deployment, %replica, retry_in_s, "lost: {reason}");
        }
        Notice::Exited { deployment, replica, is_expected, .. } => {
            tracing::debug!(%deployment, %replica, is_expected, "ended");
        }
        Notice::Scaled { deployment, from: 0, to } => {
            // The wake has a line of its own when it is done.
            tracing::debug!(%deployment, to, "scales from zero");
        }
        Notice::Scaled { deployment, from, to } => {
            tracing::info!("{deployment} scales from {from} to {to} replicas");
        }
        Notice::Policy { application, deployment, trouble } => {
            let deployment = deployment.as_ref().map(tracing::field::display);
            if trouble.is_empty() {
                tracing::info!(%application, deployment, "its autoscaling policy decides again");
            } else {
                tracing::warn!(%application, deployment, "{trouble}");
            }
        }
        Notice::Router { deployment, trouble } if trouble.is_empty() => {
            tracing::info!(%deployment, "its request router chooses again");
        }
        Notice::Router { deployment, trouble } => tracing::warn!(%deployment, "{trouble}"),
        Notice::Actor { deployment, actor, trouble } if trouble.is_empty() => {
            tracing::info!(%deployment, "the deployment actor {actor:?} is there again");
        }
        Notice::Actor { deployment, trouble, .. } => tracing::warn!(%deployment, "{trouble}"),
        Notice::Evicted { deployment, by } => {
            tracing::info!("{deployment} gives way to {by}, which needs its memory");
        }
    }
}

/// What of a notice is kept.
pub(crate) fn records(notice: &Notice, at: Duration) -> impl Iterator<Item = Record> {
    let used = match notice {
        Notice::Waking { deployment, .. } => Some((deployment, 1, 0.0)),
        Notice::Exited { deployment, lived, .. } => Some((deployment, 0, lived.as_secs_f64())),
        Notice::Ready { .. }
        | Notice::WarmStart { .. }
        | Notice::WaitingDied { .. }
        | Notice::FirstToken { .. }
        | Notice::StartFailed { .. }
        | Notice::Died { .. }
        | Notice::Scaled { .. }
        | Notice::Policy { .. }
        | Notice::Router { .. }
        | Notice::Actor { .. }
        | Notice::Evicted { .. } => None,
    };
    let used = used.map(|(id, wakes, replica_seconds)| Record::Use {
        at,
        id: id.clone(),
        wakes,
        replica_seconds,
    });
    let event = event(notice).map(|(id, kind, message)| Record::Event {
        at,
        application: id.application.to_string(),
        deployment: id.deployment.to_string(),
        kind,
        message,
    });
    let event = event.or_else(|| policy_event(notice, at));
    used.into_iter().chain(event)
}

fn event(notice: &Notice) -> Option<(&DeploymentId, &'static str, String)> {
    match notice {
        Notice::FirstToken { deployment, replica, phases } => {
            Some((deployment, "woke", format!("{replica} in {}", phases_line(phases))))
        }
        Notice::StartFailed { deployment, replica, reason, .. } => {
            Some((deployment, "start_failed", format!("{replica}: {reason}")))
        }
        Notice::Died { deployment, replica, reason, .. } => {
            Some((deployment, "replica_lost", format!("{replica}: {reason}")))
        }
        Notice::Scaled { deployment, from, to } => {
            Some((deployment, "scaled", format!("from {from} to {to}")))
        }
        Notice::Evicted { deployment, by } => Some((deployment, "gave_way", format!("to {by}"))),
        Notice::Router { deployment, trouble } => {
            let kind = if trouble.is_empty() { "router_chooses" } else { "router_failed" };
            Some((deployment, kind, trouble.clone()))
        }
        Notice::Actor { deployment, actor, trouble } => {
            let is_back = trouble.is_empty();
            let kind = if is_back { "actor_is_back" } else { "actor_failed" };
            Some((deployment, kind, if is_back { actor.clone() } else { trouble.clone() }))
        }
        Notice::WaitingDied { deployment, reason, retry_in: None } => {
            Some((deployment, "no_warm_processes", no_more(reason)))
        }
        Notice::WaitingDied { .. }
        | Notice::WarmStart { .. }
        | Notice::Waking { .. }
        | Notice::Ready { .. }
        | Notice::Exited { .. }
        | Notice::Policy { .. } => None,
    }
}

/// Why no process waits any more.
fn no_more(reason: &str) -> String {
    format!(
        "processes that wait for its replicas died three times in a row, the last because {reason}; \
         replicas start without one until the next deploy. Take modules out of tyndall.preload that \
         end the process"
    )
}

/// That of an application may be of none of its deployments.
fn policy_event(notice: &Notice, at: Duration) -> Option<Record> {
    let Notice::Policy { application, deployment, trouble } = notice else { return None };
    Some(Record::Event {
        at,
        application: application.to_string(),
        deployment: deployment.as_ref().map(ToString::to_string).unwrap_or_default(),
        kind: if trouble.is_empty() { "policy_decides" } else { "policy_failed" },
        message: trouble.clone(),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_wake_is_one_line() {
        let phases = [("spawn", 0.0124), ("config", 0.0006), ("weights", 0.071)];
        let phases = phases.map(|(name, s)| (name.to_owned(), s)).to_vec();
        let line = phases_line(&ColdStartPhases(phases));
        assert_eq!(line, "84 ms: spawn 12 · config 1 · weights 71");
        assert_eq!(phases_line(&ColdStartPhases::default()), "0 ms:");
    }
}
