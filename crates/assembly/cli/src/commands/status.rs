//! `tyndall status`.

use crate::args::StatusArgs;
use crate::commands::admin::{APPLICATIONS, Admin};
use crate::failure::Failure;
use crate::output::print;
use tyndall_bench::table;
use tyndall_config::Environment;
use tyndall_types::protocol::{DeploymentDetails, InstanceDetails, ReplicaDetails};

pub(crate) fn status(args: &StatusArgs, env: &Environment) -> Result<(), Failure> {
    let admin = Admin::new(&args.admin, env)?;
    if args.json {
        let details: serde_json::Value =
            admin.ask(|client| async move { client.get(APPLICATIONS).await })?;
        return print(&format!("{details:#}\n"));
    }
    let details: InstanceDetails =
        admin.ask(|client| async move { client.get(APPLICATIONS).await })?;
    print(&describe(&details))
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
            rows.push(deployment_row(deployment));
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

fn deployment_row(deployment: &DeploymentDetails) -> Vec<String> {
    let running = deployment.replicas.iter().filter(|r| r.state.as_str() == "RUNNING").count();
    let status = if deployment.status_trigger.is_empty() {
        deployment.status.to_string()
    } else {
        format!("{} ({})", deployment.status, deployment.status_trigger)
    };
    vec![
        deployment.name.clone(),
        status,
        deployment.model_id.clone(),
        format!("{running} of {}", deployment.target_num_replicas),
        deployment.queued_requests.to_string(),
        deployment.ongoing_requests.to_string(),
    ]
}

fn replica_row(replica: &ReplicaDetails) -> Vec<String> {
    let pid = replica.pid.map_or_else(|| "no process".to_owned(), |pid| format!("pid {pid}"));
    let mut note = format!("for {:.0} s", replica.since_s);
    if !replica.message.is_empty() {
        note.push_str(&format!(", {}", replica.message));
    }
    if let Some(deadline_s) = replica.deadline_s {
        note.push_str(&format!(", {deadline_s:.0} s left"));
    }
    vec![
        format!("  {}", replica.replica_id),
        replica.state.to_string(),
        pid,
        String::new(),
        String::new(),
        String::new(),
        note,
    ]
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
NAME   STATUS                   MODEL  REPLICAS  QUEUED  ONGOING
m      UPSCALING (AUTOSCALING)  org/m  0 of 1    3       0
  m-1  STARTING                 pid 7                             for 2 s, loading, 598 s left
"
        );
        assert_eq!(describe(&InstanceDetails::default()), "nothing is deployed\n");
    }
}
