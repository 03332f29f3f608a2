//! Policies in Python: their process, their questions and their answers.

use super::*;
use std::collections::BTreeMap;
use tyndall_types::protocol::{
    ApplicationPolicy, PolicyAnswer, PolicyQuestion, ProgramConfig, PythonPolicy,
};

fn python(path: &str) -> PythonPolicy {
    PythonPolicy { policy_function: path.into(), ..PythonPolicy::default() }
}

/// A deployment of a program with a policy.
fn with_policy() -> DeploymentConfig {
    let mut config = config();
    config.workload = Workload::Program(ProgramConfig::default());
    config.autoscaling.python_policy = Some(python("m:policy"));
    config
}

/// The process of policies that the last event started.
fn sidecar(actions: &[Action]) -> Option<ReplicaId> {
    actions.iter().find_map(|action| match action {
        Action::StartSidecar { process, .. } => Some(process.clone()),
        _ => None,
    })
}

fn question(actions: &[Action]) -> Option<PolicyQuestion> {
    actions.iter().find_map(|action| match action {
        Action::AskPolicy { question, .. } => Some(question.clone()),
        _ => None,
    })
}

fn troubles(actions: &[Action]) -> Vec<String> {
    let trouble = |action: &Action| match action {
        Action::Notice(Notice::Policy { trouble, .. }) => Some(trouble.clone()),
        _ => None,
    };
    actions.iter().filter_map(trouble).collect()
}

fn replicas(number: f64) -> PolicyOutcome {
    let decisions = BTreeMap::from([(name().deployment, number)]);
    let states = BTreeMap::from([(name().deployment, format!("state of {number}"))]);
    PolicyOutcome::Answered(PolicyAnswer { decisions, states })
}

impl Sim {
    fn policies_ready(&mut self, process: &ReplicaId) -> &[Action] {
        let report = ReplicaReport::Ready { phases: ColdStartPhases::default(), card: None };
        self.apply(Event::Report { replica: process.clone(), report })
    }

    fn answered(&mut self, process: &ReplicaId, outcome: PolicyOutcome) -> &[Action] {
        let deployment = Some(name().deployment);
        self.apply(Event::PolicyAnswered { process: process.clone(), deployment, outcome })
    }

    /// A deployment whose policy has been asked once.
    fn asked(config: DeploymentConfig) -> (Self, ReplicaId) {
        let mut sim = Self::deployed(config);
        let process = sidecar(&sim.last).unwrap();
        assert!(sim.state.knows(&process));
        assert!(question(sim.policies_ready(&process)).is_some());
        (sim, process)
    }
}

#[test]
fn what_a_policy_says_is_carried_out_and_it_is_asked_again() {
    let (mut sim, process) = Sim::asked(with_policy());
    let asked = question(&sim.last).unwrap();
    let [context] = &asked.contexts[..] else { panic!("{asked:?}") };
    assert_eq!((context.current_num_replicas, context.target_num_replicas), (0, 0));
    assert_eq!((context.capacity_adjusted_max_replicas, &context.policy_state), (3, &None));
    assert_eq!(context.current_time, 1000.0);
    // Nobody asks for replicas, but the policy does.
    sim.answered(&process, replicas(1.2));
    let [first, _] = sim.started().try_into().unwrap();
    assert_eq!((question(&sim.last), sim.details().target_num_replicas), (None, 2));
    // What it sees has changed, so it is asked soon, with what it wanted to have back.
    let again = question(&sim.wait(0.1)).unwrap();
    assert_eq!(again.contexts[0].policy_state.as_deref(), Some("state of 1.2"));
    assert_eq!(again.contexts[0].last_scale_up_time, Some(1000.0));
    sim.ready(&first);
    assert_eq!(question(&sim.last), None, "one question at a time");
    sim.answered(&process, replicas(2.0));
    let seen = question(&sim.wait(0.1)).unwrap();
    assert_eq!(seen.contexts[0].running_replicas, [first]);
    sim.answered(&process, replicas(2.0));
    assert_eq!(question(&sim.wait(0.9)), None);
    assert!(question(&sim.wait(0.1)).is_some(), "it is asked each second whatever happens");
}

#[test]
fn a_policy_that_fails_changes_nothing_and_is_told_once() {
    let (mut sim, process) = Sim::asked(with_policy());
    sim.answered(&process, replicas(2.0));
    sim.wait(0.1);
    let shown = "its autoscaling policy failed, and the last target stays: ValueError: on purpose";
    let failed = || PolicyOutcome::Failed("ValueError: on purpose".into());
    assert_eq!(troubles(sim.answered(&process, failed())), [shown]);
    let details = sim.details();
    assert_eq!(details.target_num_replicas, 2);
    assert!(details.message.ends_with(shown), "{}", details.message);
    // The same again is no news, and it is asked less and less often.
    for wait in [1.0, 2.0, 4.0, 8.0, 8.0] {
        assert_eq!(question(&sim.wait(wait - 0.2)), None);
        assert!(question(&sim.wait(0.2)).is_some());
        assert_eq!(troubles(sim.answered(&process, failed())), [] as [&str; 0]);
    }
    sim.wait(8.0);
    assert_eq!(troubles(sim.answered(&process, replicas(2.0))), [""]);
    assert!(!sim.details().message.contains("policy"));
}

#[test]
fn a_policy_that_hangs_and_a_process_that_dies_are_replaced() {
    let (mut sim, process) = Sim::asked(with_policy());
    sim.answered(&process, PolicyOutcome::Silent);
    let next = sidecar(&sim.last).unwrap();
    assert_eq!(stops(&sim.last), [(process.clone(), 1)]);
    assert_eq!(troubles(&sim.last).len(), 2, "of the policy and of the process");
    let message = sim.state.details(sim.now).applications["org/demo"].message.clone();
    assert!(message.contains("did not answer within 10 s"), "{message}");
    // An answer that comes after all is nobody's any more.
    sim.answered(&process, replicas(3.0));
    assert_eq!(sim.details().target_num_replicas, 0);
    sim.exited(&process);
    assert!(question(sim.policies_ready(&next)).is_some());
    sim.exited(&next);
    let third = sidecar(&sim.last).unwrap();
    sim.policies_ready(&third);
    assert_eq!(sim.state.details(sim.now).applications["org/demo"].message, "");
    // From the third in a row on it takes longer.
    sim.exited(&third);
    assert_eq!(sidecar(&sim.last), None);
    let fourth = sidecar(&sim.wait(0.3)).unwrap();
    // One that cannot start says why.
    sim.failed(&fourth, "no module m");
    sim.exited(&fourth);
    let message = sim.state.details(sim.now).applications["org/demo"].message.clone();
    assert!(message.ends_with("and the last targets stay: no module m"), "{message}");
    assert!(sidecar(&sim.wait(1.0)).is_some());
}

#[test]
fn the_process_goes_with_what_needs_it() {
    let (mut sim, process) = Sim::asked(with_policy());
    // The same again changes nothing; another policy has another process, and begins anew.
    sim.deploy(with_policy());
    assert_eq!((sidecar(&sim.last), stops(&sim.last)), (None, vec![]));
    let mut other = with_policy();
    other.autoscaling.python_policy = Some(python("m:other"));
    sim.deploy(other);
    let second = sidecar(&sim.last).unwrap();
    assert_eq!(stops(&sim.last), [(process.clone(), 1)]);
    // It did not hear: it is killed.
    assert_eq!(stops(&sim.wait(3.0)), [(process.clone(), 0)]);
    sim.exited(&process);
    sim.deploy(DeploymentConfig { num_replicas: Some(1), ..with_policy() });
    assert_eq!((sidecar(&sim.last), stops(&sim.last)), (None, vec![(second.clone(), 1)]));
    sim.exited(&second);
    assert!(!sim.state.knows(&second));
    let (mut sim, process) = Sim::asked(with_policy());
    sim.apply(Event::Delete(name().application));
    assert_eq!(stops(&sim.last), [(process.clone(), 1)]);
    sim.exited(&process);
    assert_eq!(sim.state.next_deadline(), None);
    // A new controller ends what the one before has left.
    let mut new = Sim::new();
    let found = FoundReplica {
        replica: process.clone(),
        pid: 7,
        config: None,
        gpus: Vec::new(),
        gang: None,
        actor: None,
    };
    assert_eq!(stops(new.apply(Event::Snapshot(vec![found]))), [(process, 5)]);
}

#[test]
fn a_policy_of_the_application_sees_all_of_it() {
    let second = DeploymentId { deployment: DeploymentName::new("second").unwrap(), ..name() };
    let fixed = DeploymentId { deployment: DeploymentName::new("fixed").unwrap(), ..name() };
    let of = |id: &DeploymentId| DeploymentConfig { id: id.clone(), ..with_policy() };
    let fixed = DeploymentConfig { num_replicas: Some(0), ..of(&fixed) };
    let config = application(vec![of(&name()), of(&second), fixed]);
    let config = Arc::new(ApplicationConfig {
        autoscaling_policy: Some(ApplicationPolicy::Python(python("m:all"))),
        ..(*config).clone()
    });
    let mut sim = Sim::new();
    sim.apply(Event::Snapshot(Vec::new()));
    sim.apply(Event::Deploy { config, version: 1, deployed_at: sim.now, fallback: None });
    let process = sidecar(&sim.last).unwrap();
    let asked = question(sim.policies_ready(&process)).unwrap();
    let named = asked.contexts.iter().map(|context| &context.deployment_name);
    assert_eq!(named.collect::<Vec<_>>(), [&name().deployment, &second.deployment]);
    assert_eq!(asked.deployment, None);
    // What it leaves out keeps its target.
    let decisions = BTreeMap::from([(second.deployment.clone(), 2.0)]);
    let outcome = PolicyOutcome::Answered(PolicyAnswer { decisions, ..PolicyAnswer::default() });
    let answer =
        |outcome| Event::PolicyAnswered { process: process.clone(), deployment: None, outcome };
    sim.apply(answer(outcome));
    assert_eq!(sim.started().len(), 2);
    assert!(sim.started().iter().all(|id| id.as_str().starts_with("second-")));
    sim.wait(0.1);
    sim.apply(answer(PolicyOutcome::Failed("it raised".into())));
    let told = sim.state.details(sim.now).applications["org/demo"].clone();
    assert!(told.message.ends_with("the last target stays: it raised"), "{}", told.message);
    assert_eq!(told.deployments["second"].target_num_replicas, 2);
}

#[test]
fn the_first_request_waits_for_no_policy() {
    let (mut sim, process) = Sim::asked(with_policy());
    sim.answered(&process, replicas(0.0));
    sim.demand(1, 0);
    let [replica] = sim.started().try_into().unwrap();
    assert_eq!(question(&sim.wait(5.0)), None, "there is nothing to say of it");
    sim.ready(&replica);
    assert!(question(&sim.last).is_some());
    sim.answered(&process, replicas(0.0));
    // It does not go while somebody is with it, and goes when the policy's word has lasted.
    sim.demand(0, 1);
    assert_eq!(stops(&sim.wait(100.0)), []);
    sim.demand(0, 0);
    assert_eq!(stops(&sim.wait(30.0)), [(replica, 20)]);
}

#[test]
fn what_replicas_say_of_themselves_is_handed_on() {
    let mut config = with_policy();
    config.autoscaling.min_replicas = 1;
    config.autoscaling.look_back_period_s = 10.0;
    let (mut sim, process) = Sim::asked(config);
    let replica = sim.state.details(sim.now).applications["org/demo"].deployments["org/demo"]
        .replicas[0]
        .replica_id
        .clone();
    sim.ready(&replica);
    for (wait, value) in [(0.0, 1.0), (8.0, 2.0), (8.0, f64::NAN), (0.0, 3.0)] {
        sim.wait(wait);
        let stats = ReplicaReport::Stats { metrics: BTreeMap::from([("depth".to_owned(), value)]) };
        sim.apply(Event::Report { replica: replica.clone(), report: stats });
    }
    sim.answered(&process, replicas(1.0));
    let context = question(&sim.last).unwrap().contexts.remove(0);
    assert_eq!(context.raw_metrics["depth"][&replica], [(1008.0, 2.0), (1016.0, 3.0)]);
}
