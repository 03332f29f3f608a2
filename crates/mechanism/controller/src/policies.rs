//! Processes of applications beside their replicas, and what their policies are asked.

use crate::service::{API_KEY_VARIABLE, Message, Service, TOKEN_VARIABLE};
use http::Method;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::mpsc;
use tyndall_control::{Event, PolicyOutcome, SidecarConfig};
use tyndall_transport::{Client, ClientError};
use tyndall_types::ReplicaId;
use tyndall_types::protocol::{
    ApplicationConfig, ApplicationPolicy, DeploymentConfig, PolicyAnswer, PolicyQuestion,
    ProcessSpec, ScalingPolicy,
};

impl Service {
    /// The process beside the replicas of an application.
    pub(crate) fn sidecar(&self, process: &ReplicaId, config: &SidecarConfig) -> ProcessSpec {
        let directory = self.runtime_dir.path().display().to_string();
        let told = config.told.to_string();
        let role = ["role", config.role, "--runtime-dir", &directory, "--id", process.as_str()];
        let mut args = config.program.args.clone();
        args.extend(role.into_iter().chain(["--told", &told]).map(str::to_owned));
        let mut env = config.env_vars.clone();
        // As with replicas: the keys of the node and of its clients are not the application's.
        for secret in [TOKEN_VARIABLE, API_KEY_VARIABLE] {
            env.entry(secret.to_owned()).or_default();
        }
        ProcessSpec {
            id: process.as_str().to_owned(),
            executable: Some(config.program.executable.clone()),
            args,
            working_dir: config.program.working_dir.clone(),
            env,
        }
    }

    /// Asks a policy; the answer comes as an event.
    pub(crate) fn ask_policy(
        &self,
        process: ReplicaId,
        question: PolicyQuestion,
        timeout: Duration,
    ) {
        let client = self.replica(&process);
        tokio::spawn(ask(client, process, question, timeout, self.messages.clone()));
    }
}

/// Warns of deployments whose own policy does not decide, in Ray's words.
pub(crate) fn warn_of_overridden(application: &ApplicationConfig) {
    if !matches!(application.autoscaling_policy, Some(ApplicationPolicy::Python(_))) {
        return;
    }
    let has_own = |one: &&Arc<DeploymentConfig>| {
        one.autoscaling.python_policy.is_some()
            || one.autoscaling.policy != ScalingPolicy::OngoingRequests
    };
    for one in application.deployments.iter().filter(has_own) {
        tracing::warn!(
            "User provided both a deployment-level and an application-level policy for deployment \
             {}. The application-level policy will take precedence.",
            one.id
        );
    }
}

async fn ask(
    client: Client,
    process: ReplicaId,
    question: PolicyQuestion,
    timeout: Duration,
    messages: mpsc::Sender<Message>,
) {
    let call = client.call::<_, PolicyAnswer>(Method::POST, "/-/decide", &question);
    let outcome = match tokio::time::timeout(timeout, call).await {
        Ok(Ok(answer)) => PolicyOutcome::Answered(answer),
        Ok(Err(ClientError::Status { body, .. })) => PolicyOutcome::Failed(body),
        Ok(Err(error)) => {
            PolicyOutcome::Failed(tyndall_types::with_causes(error.to_string(), &error))
        }
        Err(_) => PolicyOutcome::Silent,
    };
    let event = Event::PolicyAnswered { process, deployment: question.deployment, outcome };
    // Nobody is left to hear it when the controller ends.
    drop(messages.send(Message::Event(event)).await);
}
