//! Autoscaling policies in Python: what they are asked when, and what becomes of their answers.
//!
//! They run in a [`Sidecar`] of their application. Each policy has at most one question under way. It
//! is asked when something that it sees has changed, not sooner than [`SOONEST`] after the last time,
//! and at the latest after [`LATEST`], because it may look at what nobody here sees: the clock, a
//! file, another server. What it asks for holds until its next answer. One that fails, or whose
//! process is gone, changes nothing: the last target stays, and why is told once.

use crate::deployment::Deployment;
use crate::event::{Action, Notice, PolicyOutcome};
use crate::replica::Replica;
use crate::sidecar::{self, Sidecar, SidecarConfig};
use crate::state::{Outbox, State};
use crate::{Instant, seconds};
use serde_json::{Value, json};
use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;
use tyndall_autoscaling::Bounds;
use tyndall_types::protocol::{
    ApplicationConfig, ApplicationPolicy, DeploymentConfig, PolicyAnswer, PolicyContext,
    PolicyQuestion, ProgramConfig, ReplicaReport, Workload,
};
use tyndall_types::{ApplicationName, DeploymentId, DeploymentName, ReplicaId};

/// Between two questions where something has changed: a tick of Ray's control loop.
const SOONEST: Duration = Duration::from_millis(100);
/// Between two questions where nothing has.
const LATEST: Duration = Duration::from_secs(1);
/// Between two questions to a policy that keeps failing.
const CAP: Duration = Duration::from_secs(8);
/// A policy that takes longer hangs, and its process is ended.
const DEADLINE: Duration = Duration::from_secs(10);
const ROLE: &str = "policies";

/// What a policy in Python says of a deployment.
#[derive(Debug, Clone, Default)]
pub(crate) struct Asked {
    /// Replicas that it asks for; none until it has answered.
    pub(crate) replicas: Option<f64>,
    /// Why its newest answer is none; empty when it is.
    pub(crate) trouble: String,
}

/// The policies of an application.
#[derive(Debug, Clone, Default)]
pub(crate) struct Policies {
    pub(crate) sidecar: Sidecar,
    /// By deployment; that of the application has none.
    questions: BTreeMap<Option<DeploymentName>, Question>,
    /// What was told of the process last.
    told: String,
}

#[derive(Debug, Clone, Default)]
struct Question {
    is_under_way: bool,
    asked_at: Option<Instant>,
    /// What the policy has seen when it was asked last.
    seen: Vec<Seen>,
    states: BTreeMap<DeploymentName, String>,
    num_failures: u32,
    trouble: String,
    due: Option<Instant>,
}

/// What a policy is asked about once more when it changes.
type Seen = (DeploymentName, u32, Vec<ReplicaId>, (u32, u32));

impl Question {
    fn due_at(&self, is_changed: bool) -> Instant {
        let Some(asked_at) = self.asked_at else { return Instant::ZERO };
        let wait = match (self.num_failures, is_changed) {
            (0, true) => SOONEST,
            (0, false) => LATEST,
            (failures, _) => LATEST.saturating_mul(1 << (failures - 1).min(8)).min(CAP),
        };
        asked_at.saturating_add(wait)
    }
}

impl State {
    /// Takes over which policies in Python an application has.
    pub(crate) fn register_policies(&mut self, config: &ApplicationConfig) {
        let wanted = sidecar(config);
        if wanted.is_none() && !self.policies.contains_key(&config.name) {
            self.govern(config);
            return;
        }
        let policies = self.policies.entry(config.name.clone()).or_default();
        if policies.sidecar.want(wanted) {
            let names = policies_of(config);
            policies.questions = names.into_iter().map(|n| (n, Question::default())).collect();
            policies.told.clear();
            if let Some(application) = self.applications.get_mut(&config.name) {
                application.trouble.clear();
            }
            self.govern(config);
        }
        self.unattended.insert(config.name.clone());
    }

    /// An application is deleted: it has none.
    pub(crate) fn forget_policies(&mut self, name: &ApplicationName) {
        if let Some(policies) = self.policies.get_mut(name) {
            policies.sidecar.want(None);
            policies.questions.clear();
            self.unattended.insert(name.clone());
        }
    }

    /// Marks the deployments whose replicas a policy in Python counts.
    fn govern(&mut self, config: &ApplicationConfig) {
        let is_of_all = matches!(config.autoscaling_policy, Some(ApplicationPolicy::Python(_)));
        for one in &config.deployments {
            let is_governed = one.num_replicas.is_none()
                && (is_of_all || one.autoscaling.python_policy.is_some());
            if let Some(deployment) = self.deployments.get_mut(&one.id) {
                deployment.asked = is_governed.then(Asked::default);
            }
        }
    }

    /// True for a process of policies that may run.
    pub(crate) fn home_of_policies(&self, process: &ReplicaId) -> Option<ApplicationName> {
        sidecar::home(self.policies.iter().map(|(name, one)| (name, &one.sidecar)), process)
    }

    /// Something happened to a process of policies. False where it is none.
    pub(crate) fn with_policies_of(
        &mut self,
        process: &ReplicaId,
        change: impl FnOnce(&mut Sidecar),
    ) -> bool {
        let Some(name) = self.home_of_policies(process) else { return false };
        if let Some(policies) = self.policies.get_mut(&name)
            && policies.sidecar.is_another_after(change)
        {
            // Whatever was under way there has no answer; a new one is asked at once.
            for (deployment, question) in &mut policies.questions {
                (question.is_under_way, question.asked_at) = (false, None);
                if deployment.is_none() {
                    // What is told of the process stands in its place.
                    question.trouble.clear();
                }
            }
        }
        self.unattended.insert(name);
        true
    }

    pub(crate) fn report_of_policies(&mut self, process: &ReplicaId, report: ReplicaReport) {
        self.with_policies_of(process, |sidecar| sidecar.report(process, report));
    }

    /// The answer to a question; returns the deployments that it concerns.
    pub(crate) fn policy_answered(
        &mut self,
        process: &ReplicaId,
        deployment: Option<DeploymentName>,
        outcome: PolicyOutcome,
        now: Instant,
        out: &mut Outbox,
    ) -> BTreeSet<DeploymentId> {
        let Some(name) = self.home_of_policies(process) else { return BTreeSet::new() };
        let Some(policies) = self.policies.get_mut(&name) else { return BTreeSet::new() };
        self.unattended.insert(name.clone());
        // One that is late is of a process, or of a version, that does not count any more.
        let is_newest = policies.sidecar.ready() == Some(process);
        let question = policies.questions.get_mut(&deployment).filter(|one| one.is_under_way);
        let Some(question) = question.filter(|_| is_newest) else { return BTreeSet::new() };
        question.is_under_way = false;
        let trouble = match outcome {
            PolicyOutcome::Answered(answer) => {
                question.num_failures = 0;
                let trouble = std::mem::take(&mut question.trouble);
                question.states.clone_from(&answer.states);
                if !trouble.is_empty() {
                    self.policy_trouble(&name, deployment.as_ref(), "", out);
                }
                return self.take_decisions(&name, answer);
            }
            PolicyOutcome::Failed(reason) => reason,
            PolicyOutcome::Silent => {
                let reason = format!("it did not answer within {} s", DEADLINE.as_secs());
                let what = match &deployment {
                    Some(of) => format!("the policy of {of}: {reason}"),
                    None => reason.clone(),
                };
                policies.sidecar.end(&what, now);
                for one in policies.questions.values_mut() {
                    (one.is_under_way, one.asked_at) = (false, None);
                }
                reason
            }
        };
        let Some(question) = self
            .policies
            .get_mut(&name)
            .and_then(|policies| policies.questions.get_mut(&deployment))
        else {
            return BTreeSet::new();
        };
        question.num_failures = question.num_failures.saturating_add(1);
        let trouble =
            format!("its autoscaling policy failed, and the last target stays: {trouble}");
        if question.trouble != trouble {
            question.trouble.clone_from(&trouble);
            self.policy_trouble(&name, deployment.as_ref(), &trouble, out);
        }
        BTreeSet::new()
    }

    fn take_decisions(
        &mut self,
        name: &ApplicationName,
        answer: PolicyAnswer,
    ) -> BTreeSet<DeploymentId> {
        let mut touched = BTreeSet::new();
        for (deployment, replicas) in answer.decisions {
            let id = DeploymentId { application: name.clone(), deployment };
            let known = self.deployments.get_mut(&id).and_then(|one| one.asked.as_mut());
            if let Some(asked) = known.filter(|_| replicas.is_finite()) {
                asked.replicas = Some(replicas);
                touched.insert(id);
            }
        }
        touched
    }

    /// Tells why a policy does not decide, where it is looked for; empty when it does again.
    fn policy_trouble(
        &mut self,
        name: &ApplicationName,
        deployment: Option<&DeploymentName>,
        trouble: &str,
        out: &mut Outbox,
    ) {
        match deployment {
            Some(of) => {
                let id = DeploymentId { application: name.clone(), deployment: of.clone() };
                let known = self.deployments.get_mut(&id).and_then(|one| one.asked.as_mut());
                if let Some(asked) = known {
                    trouble.clone_into(&mut asked.trouble);
                }
            }
            None => {
                if let Some(application) = self.applications.get_mut(name) {
                    trouble.clone_into(&mut application.trouble);
                }
            }
        }
        out.rest.push(Action::Notice(Notice::Policy {
            application: name.clone(),
            deployment: deployment.cloned(),
            trouble: trouble.to_owned(),
        }));
    }

    /// Starts, asks and ends what is due of the policies of an application.
    pub(crate) fn attend_policies(
        &mut self,
        name: &ApplicationName,
        now: Instant,
        can_start: bool,
        out: &mut Outbox,
    ) {
        let Some(mut policies) = self.policies.remove(name) else { return };
        policies.sidecar.reconcile(now, can_start, &mut self.ids, out);
        let process = policies.sidecar.ready().cloned();
        for (deployment, question) in &mut policies.questions {
            question.due = None;
            if let Some(process) = &process {
                self.ask(name, process, deployment.as_ref(), question, now, out);
            }
        }
        if policies.told != policies.sidecar.trouble {
            policies.told.clone_from(&policies.sidecar.trouble);
            let trouble = match policies.told.as_str() {
                "" => String::new(),
                why => format!(
                    "the process of its autoscaling policies is gone, and the last targets stay: {why}"
                ),
            };
            self.policy_trouble(name, None, &trouble, out);
        }
        if !policies.sidecar.is_over() {
            self.policies.insert(name.clone(), policies);
        }
    }

    /// Asks a policy, if it is time; notes when it will be.
    fn ask(
        &mut self,
        name: &ApplicationName,
        process: &ReplicaId,
        deployment: Option<&DeploymentName>,
        question: &mut Question,
        now: Instant,
        out: &mut Outbox,
    ) {
        if question.is_under_way {
            return;
        }
        let Some(config) = self.applications.get(name).map(|application| &application.config)
        else {
            return;
        };
        let ids: Vec<DeploymentId> = config
            .deployments
            .iter()
            .map(|one| one.id.clone())
            .filter(|id| deployment.is_none_or(|of| *of == id.deployment))
            .filter(|id| self.deployments.get(id).is_some_and(|one| one.is_asked_for()))
            .collect();
        let seen: Vec<Seen> = ids.iter().filter_map(|id| self.seen(id)).collect();
        // Whether the first replica is needed is not the policy's to say.
        let is_cold = seen.iter().all(|(.., running, load)| running.is_empty() && *load != (0, 0));
        if seen.is_empty() || (deployment.is_some() && is_cold) {
            return;
        }
        let due = question.due_at(seen != question.seen);
        if due > now {
            question.due = Some(due);
            return;
        }
        let mut contexts: Vec<PolicyContext> =
            ids.iter().filter_map(|id| self.context(id, now)).collect();
        for context in &mut contexts {
            context.policy_state = question.states.get(&context.deployment_name).cloned();
        }
        (question.is_under_way, question.asked_at, question.seen) = (true, Some(now), seen);
        out.rest.push(Action::AskPolicy {
            process: process.clone(),
            question: PolicyQuestion { deployment: deployment.cloned(), contexts },
            timeout: DEADLINE,
        });
    }

    fn seen(&self, id: &DeploymentId) -> Option<Seen> {
        let deployment = self.deployments.get(id)?;
        let load = (deployment.queued, deployment.ongoing);
        let target = deployment.scaler.target();
        Some((id.deployment.clone(), target, deployment.running_ids(), load))
    }

    fn context(&mut self, id: &DeploymentId, now: Instant) -> Option<PolicyContext> {
        let (capacity, direction) = (self.target_capacity, self.direction);
        let deployment = self.deployments.get_mut(id)?;
        let config = deployment.config.clone();
        let load = deployment.load(now);
        let (total, queued) = deployment.scaler.observed(&config.autoscaling, load, now);
        let bounds = Bounds::new(&config.autoscaling, capacity, direction);
        let s = |at: Instant| at.as_secs_f64();
        Some(PolicyContext {
            deployment_name: id.deployment.clone(),
            current_num_replicas: load.num_running,
            target_num_replicas: deployment.scaler.target(),
            running_replicas: deployment.running_ids(),
            total_num_requests: total,
            total_queued_requests: queued,
            raw_metrics: deployment.raw_metrics(now),
            capacity_adjusted_min_replicas: bounds.lower,
            capacity_adjusted_max_replicas: bounds.upper,
            policy_state: None,
            last_scale_up_time: deployment.scaler.last_scale_up().map(s),
            last_scale_down_time: deployment.scaler.last_scale_down().map(s),
            current_time: s(now),
            config: config.autoscaling.clone(),
        })
    }

    /// Applications whose policies have something due.
    pub(crate) fn due_policies(&self, now: Instant) -> Vec<ApplicationName> {
        let is_due = |one: &Policies| one.deadline().is_some_and(|at| at <= now);
        let due = self.policies.iter().filter(|(_, one)| is_due(one));
        due.map(|(name, _)| name.clone()).collect()
    }
}

impl Policies {
    pub(crate) fn deadline(&self) -> Option<Instant> {
        let questions = self.questions.values().filter_map(|question| question.due);
        questions.chain(self.sidecar.deadline()).min()
    }
}

impl Deployment {
    /// A policy in Python counts its replicas, and nobody has set another number.
    fn is_asked_for(&self) -> bool {
        self.asked.is_some() && self.set_replicas.is_none() && !self.is_deleting
    }

    fn running_ids(&self) -> Vec<ReplicaId> {
        let running = self.replicas.iter().filter(|replica| replica.is_running());
        running.map(|replica| replica.id.clone()).collect()
    }

    /// The points in the window of what its replicas say of themselves.
    fn raw_metrics(&self, now: Instant) -> BTreeMap<String, BTreeMap<ReplicaId, Vec<(f64, f64)>>> {
        let look_back = seconds(self.config.autoscaling.look_back_period_s);
        let since = now.saturating_sub(look_back);
        let mut metrics: BTreeMap<String, BTreeMap<ReplicaId, Vec<(f64, f64)>>> = BTreeMap::new();
        for replica in self.replicas.iter().filter(|replica| Replica::is_running(replica)) {
            for (at, values) in replica.stats.iter().filter(|(at, _)| *at >= since) {
                for (metric, value) in values {
                    let of = metrics.entry(metric.clone()).or_default();
                    of.entry(replica.id.clone()).or_default().push((at.as_secs_f64(), *value));
                }
            }
        }
        metrics
    }
}

/// Whose policies are in Python; none stands for the application.
fn policies_of(config: &ApplicationConfig) -> Vec<Option<DeploymentName>> {
    if let Some(ApplicationPolicy::Python(_)) = config.autoscaling_policy {
        return vec![None];
    }
    let is_own = |one: &&DeploymentConfig| {
        one.num_replicas.is_none() && one.autoscaling.python_policy.is_some()
    };
    let own = config.deployments.iter().map(|one| &**one).filter(is_own);
    own.map(|one| Some(one.id.deployment.clone())).collect()
}

/// The process that an application's policies need: that of its first deployment whose policy is in
/// Python, where its code and its variables are.
fn sidecar(config: &ApplicationConfig) -> Option<SidecarConfig> {
    let names = policies_of(config);
    let first = names.first()?.clone();
    let mut of_code = config.deployments.iter().filter_map(|one| program(one).map(|p| (one, p)));
    let (home, program) =
        of_code.find(|(one, _)| first.as_ref().is_none_or(|name| *name == one.id.deployment))?;
    let application = match &config.autoscaling_policy {
        Some(ApplicationPolicy::Python(policy)) => json!(policy),
        Some(ApplicationPolicy::SharedBudget { .. }) | None => Value::Null,
    };
    let is_named = |one: &&DeploymentConfig| names.contains(&Some(one.id.deployment.clone()));
    let named = config.deployments.iter().map(|one| &**one).filter(is_named);
    let deployments: BTreeMap<String, Value> = named
        .map(|one| (one.id.deployment.to_string(), json!(one.autoscaling.python_policy)))
        .collect();
    let version =
        |one: &DeploymentConfig| json!([one.id.deployment, one.code_version, one.autoscaling]);
    let versions: Vec<Value> = config.deployments.iter().map(|one| version(one)).collect();
    Some(SidecarConfig {
        role: ROLE,
        program: program.clone(),
        env_vars: home.env_vars.clone(),
        told: json!({
            "application": config.name,
            "args": program.init["args"],
            "policy": application,
            "deployments": deployments,
        }),
        outlasts_replicas: false,
        startup_timeout_s: home.startup_timeout_s,
        identity: Value::from(versions),
    })
}

/// What carries it out, where it is no model.
pub(crate) fn program(deployment: &DeploymentConfig) -> Option<&ProgramConfig> {
    match &deployment.workload {
        Workload::Model(_) => None,
        Workload::Program(program) => Some(program),
    }
}
