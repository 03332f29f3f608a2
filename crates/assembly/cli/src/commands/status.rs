//! `tyndall status`.

use crate::args::StatusArgs;
use crate::commands::admin::{APPLICATIONS, Admin};
use crate::commands::yaml;
use crate::failure::Failure;
use crate::output::print;
use serde_json::{Map, Value, json};
use tyndall_bench::table;
use tyndall_config::Environment;
use tyndall_types::ReplicaState;
use tyndall_types::protocol::{
    ActorDetails, ApplicationDetails, DeploymentDetails, InstanceDetails, ReplicaDetails,
};

/// `is_ray` when it was called as `serve`.
pub(crate) fn status(args: &StatusArgs, env: &Environment, is_ray: bool) -> Result<(), Failure> {
    let admin = Admin::new(&args.admin, env)?;
    if args.json {
        let details: serde_json::Value =
            admin.ask(|client| async move { client.get(APPLICATIONS).await })?;
        return print(&format!("{details:#}\n"));
    }
    let mut details: InstanceDetails =
        admin.ask(|client| async move { client.get(APPLICATIONS).await })?;
    if let Some(name) = &args.name {
        details.applications.retain(|known, _| known == name);
        if details.applications.is_empty() {
            return Err(Failure::new(format!("Application {name:?} does not exist."))
                .with_cure("`tyndall status` shows those that do"));
        }
    }
    if args.yaml || is_ray {
        return print(&yaml::spaced(&ray_status(&details, args.name.as_deref())));
    }
    print(&describe(&details))
}

/// What Ray's `serve status` prints: of one application only that.
fn ray_status(details: &InstanceDetails, name: Option<&str>) -> Value {
    let of_deployment = |deployment: &DeploymentDetails| {
        let mut states = Map::new();
        for replica in &deployment.replicas {
            let count = states.entry(replica.state.as_str()).or_insert_with(|| 0.into());
            *count = (count.as_u64().unwrap_or_default() + 1).into();
        }
        json!({
            "status": deployment.status,
            "status_trigger": deployment.status_trigger,
            "replica_states": states,
            "message": deployment.message,
        })
    };
    let of_application = |application: &ApplicationDetails| {
        let deployments: Map<String, Value> = application
            .deployments
            .iter()
            .map(|(name, deployment)| (name.clone(), of_deployment(deployment)))
            .collect();
        json!({
            "status": application.status,
            "message": application.message,
            "last_deployed_time_s": application.last_deployed_time_s,
            "deployments": deployments,
        })
    };
    if let Some(application) = name.and_then(|name| details.applications.get(name)) {
        return of_application(application);
    }
    let proxies: Map<String, Value> =
        details.proxies.iter().map(|proxy| (proxy.clone(), "HEALTHY".into())).collect();
    let applications: Map<String, Value> = details
        .applications
        .iter()
        .map(|(name, application)| (name.clone(), of_application(application)))
        .collect();
    json!({
        "proxies": proxies,
        "applications": applications,
        "target_capacity": details.target_capacity,
    })
}

fn describe(details: &InstanceDetails) -> String {
    if details.applications.is_empty() {
        return "nothing is deployed\n".to_owned();
    }
    let head = ["NAME", "STATUS", "MODEL", "REPLICAS", "QUEUED", "ONGOING", ""];
    let mut rows = vec![head.map(str::to_owned).to_vec()];
    let mut notes = String::new();
    for application in details.applications.values() {
        for deployment in application.deployments.values() {
            rows.push(deployment_row(application, deployment));
            rows.extend(deployment.actors.iter().map(actor_row));
            rows.extend(deployment.replicas.iter().map(replica_row));
            if !deployment.message.is_empty() {
                notes.push_str(&format!("\n{}: {}\n", deployment.name, deployment.message));
            }
        }
        if application.deployments.is_empty() {
            rows.push(vec![application.name.clone(), application.status.to_string()]);
        }
        if !application.message.is_empty() && !notes.contains(&application.message) {
            notes.push_str(&format!("\n{}: {}\n", application.name, application.message));
        }
    }
    format!("{}{notes}", table(&rows, &[]))
}

fn deployment_row(application: &ApplicationDetails, deployment: &DeploymentDetails) -> Vec<String> {
    // A deployment that is its application has one name.
    let name = match application.name == deployment.name {
        true => deployment.name.clone(),
        false => format!("{}#{}", application.name, deployment.name),
    };
    let running = deployment.replicas.iter().filter(|r| r.state.as_str() == "RUNNING").count();
    let status = if deployment.status_trigger.is_empty() {
        deployment.status.to_string()
    } else {
        format!("{} ({})", deployment.status, deployment.status_trigger)
    };
    vec![
        name,
        status,
        deployment.model_id.clone().unwrap_or_else(|| "-".to_owned()),
        format!("{running} of {}", deployment.target_num_replicas),
        deployment.queued_requests.to_string(),
        deployment.ongoing_requests.to_string(),
    ]
}

fn replica_row(replica: &ReplicaDetails) -> Vec<String> {
    let name = replica.replica_id.to_string();
    let note = note(Some(replica.since_s), &replica.message, replica.deadline_s);
    process_row(name, replica.state, replica.pid, note)
}

fn actor_row(actor: &ActorDetails) -> Vec<String> {
    let note = note(actor.since_s, &actor.message, actor.deadline_s);
    process_row(format!("actor {}", actor.name), actor.state, actor.pid, note)
}

/// How long, why, and until when.
fn note(since_s: Option<f64>, message: &str, deadline_s: Option<f64>) -> String {
    let since = since_s.map(|since_s| format!("for {since_s:.0} s"));
    let message = Some(message.to_owned()).filter(|message| !message.is_empty());
    let left = deadline_s.map(|deadline_s| format!("{deadline_s:.0} s left"));
    [since, message, left].into_iter().flatten().collect::<Vec<_>>().join(", ")
}

fn process_row(name: String, state: ReplicaState, pid: Option<u32>, note: String) -> Vec<String> {
    let pid = pid.map_or_else(|| "no process".to_owned(), |pid| format!("pid {pid}"));
    let mut row = vec![format!("  {name}"), state.to_string(), pid];
    // Under what only deployments have.
    row.resize(6, String::new());
    row.push(note);
    row
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn everything_that_runs_is_one_table() {
        let details: InstanceDetails = serde_json::from_value(serde_json::json!({
            "applications": {"m": {
                "name": "m", "route_prefix": "/", "status": "RUNNING", "message": "",
                "last_deployed_time_s": 1.0,
                "deployments": {"m": {
                    "name": "m", "status": "UPSCALING", "status_trigger": "AUTOSCALING",
                    "message": "", "model_id": "org/m", "target_num_replicas": 1,
                    "queued_requests": 3, "ongoing_requests": 0,
                    "actors": [
                        {"name": "a", "version": 1, "state": "RUNNING", "pid": 6, "since_s": 9.1,
                         "message": "", "deadline_s": null},
                        {"name": "b", "version": 1, "state": "STOPPED", "pid": null,
                         "since_s": null, "message": "it exited with 3", "deadline_s": 4.0}
                    ],
                    "replicas": [{
                        "replica_id": "m-1", "state": "STARTING", "pid": 7, "start_time_s": 1.0,
                        "since_s": 2.4, "message": "loading", "deadline_s": 597.6
                    }]
                }}
            }}
        }))
        .unwrap();
        assert_eq!(
            describe(&details),
            "\
NAME       STATUS                   MODEL       REPLICAS  QUEUED  ONGOING
m          UPSCALING (AUTOSCALING)  org/m       0 of 1    3       0
  actor a  RUNNING                  pid 6                                  for 9 s
  actor b  STOPPED                  no process                             it exited with 3, 4 s left
  m-1      STARTING                 pid 7                                  for 2 s, loading, 598 s left
"
        );
        assert_eq!(describe(&InstanceDetails::default()), "nothing is deployed\n");
    }
}
