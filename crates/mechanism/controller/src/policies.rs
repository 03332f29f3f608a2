//! What policies of applications are asked, and what they answer.

use crate::service::{Message, Service};
use http::Method;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::mpsc;
use tyndall_control::{Event, PolicyOutcome};
use tyndall_transport::{Client, ClientError};
use tyndall_types::ReplicaId;
use tyndall_types::protocol::{
    ApplicationConfig, ApplicationPolicy, DeploymentConfig, PolicyAnswer, PolicyQuestion,
    ScalingPolicy,
};

impl Service {
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
