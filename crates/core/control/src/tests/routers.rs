//! Request routers in Python: their process, where it is told of, and what it says of itself.

use super::*;
use std::collections::BTreeMap;
use tyndall_types::protocol::{
    PrefixAffinity, ProgramConfig, PythonRouter, RouterBackoff, RouterRoute,
};

/// A deployment of a program with one replica and a router.
fn with_router(class: &str) -> DeploymentConfig {
    let mut config = with_min(1);
    config.workload = Workload::Program(ProgramConfig::default());
    config.code_version = class.into();
    config.request_router = Some(router(class));
    config
}

pub(crate) fn router(class: &str) -> Box<PythonRouter> {
    Box::new(PythonRouter {
        request_router_class: class.into(),
        request_router_kwargs: Default::default(),
        request_routing_stats_period_s: 10.0,
        request_routing_stats_timeout_s: 30.0,
        backoff: RouterBackoff::default(),
    })
}

fn sidecar(actions: &[Action]) -> Option<ReplicaId> {
    actions.iter().find_map(|action| match action {
        Action::StartSidecar { process, config, .. } => {
            assert_eq!(config.role, "router");
            Some(process.clone())
        }
        _ => None,
    })
}

fn troubles(actions: &[Action]) -> Vec<String> {
    let trouble = |action: &Action| match action {
        Action::Notice(Notice::Router { trouble, .. }) => Some(trouble.clone()),
        _ => None,
    };
    actions.iter().filter_map(trouble).collect()
}

impl Sim {
    fn router(&self) -> Option<RouterRoute> {
        let table = self.state.routes(None).unwrap();
        table.deployments[0].router.as_deref().cloned()
    }

    fn router_fails(&mut self, process: &ReplicaId, why: Option<&str>) -> Vec<Action> {
        let troubles = why.map(|why| (name().deployment, why.to_owned()));
        let report = ReplicaReport::RouterTroubles { troubles: troubles.into_iter().collect() };
        self.apply(Event::Report { replica: process.clone(), report }).to_vec()
    }

    /// A deployment whose router and replica are ready.
    fn routing() -> (Self, ReplicaId) {
        let mut sim = Self::deployed(with_router("m:C"));
        let (process, [replica]) = (sidecar(&sim.last).unwrap(), sim.started().try_into().unwrap());
        assert!(sim.state.knows(&process));
        sim.ready(&replica);
        sim.ready(&process);
        (sim, process)
    }
}

#[test]
fn a_deployment_is_healthy_when_its_router_is_there_too() {
    let mut sim = Sim::deployed(with_router("m:C"));
    let (process, [replica]) = (sidecar(&sim.last).unwrap(), sim.started().try_into().unwrap());
    sim.ready(&replica);
    assert_eq!(sim.status().0, DeploymentStatus::Updating);
    assert_eq!((sim.routed(), sim.router()), (vec![replica], None), "requests do not wait for it");
    assert_eq!(sim.ready(&process)[0], Action::Publish);
    assert_eq!(sim.status().0, DeploymentStatus::Healthy);
    let socket = format!("/tmp/t/{process}.sock").into();
    assert_eq!(sim.router(), Some(RouterRoute { socket, backoff: RouterBackoff::default() }));
}

#[test]
fn why_a_router_does_not_choose_is_told_once_and_taken_back() {
    let (mut sim, process) = Sim::routing();
    let shown = "its request router failed, and the built-in rule chooses replicas: it raised";
    assert_eq!(troubles(&sim.router_fails(&process, Some("it raised"))), [shown]);
    assert!(sim.details().message.ends_with(shown), "{}", sim.details().message);
    assert_eq!(sim.status().0, DeploymentStatus::Healthy);
    assert_eq!(troubles(&sim.router_fails(&process, Some("it raised"))), [] as [&str; 0]);
    assert!(sim.router().is_some(), "it is asked on");
    assert_eq!(troubles(&sim.router_fails(&process, None)), [""]);
    assert_eq!(sim.details().message, "");
}

#[test]
fn a_process_that_dies_is_replaced_and_asked_by_nobody_meanwhile() {
    let (mut sim, process) = Sim::routing();
    sim.router_fails(&process, Some("it raised"));
    let actions = sim.exited(&process).to_vec();
    let next = sidecar(&actions).unwrap();
    assert!(actions.contains(&Action::Publish) && sim.router().is_none());
    let told = troubles(&actions).remove(0);
    assert!(told.contains("is gone, and the built-in rule chooses"), "{told}");
    assert_eq!(sim.status().0, DeploymentStatus::Healthy);
    // What comes late of the one before says nothing.
    assert_eq!(troubles(&sim.router_fails(&process, Some("late"))), [] as [&str; 0]);
    assert_eq!(troubles(sim.ready(&next)), [""]);
    assert!(sim.router().is_some() && sim.details().message.is_empty());
    // One that cannot start says why, and the deployment serves nevertheless.
    let mut sim = Sim::deployed(with_router("m:C"));
    let (process, [replica]) = (sidecar(&sim.last).unwrap(), sim.started().try_into().unwrap());
    sim.ready(&replica);
    sim.failed(&process, "no module m");
    sim.exited(&process);
    assert_eq!(sim.status().0, DeploymentStatus::Healthy);
    assert!(sim.details().message.ends_with("no module m"), "{}", sim.details().message);
}

#[test]
fn the_process_goes_with_what_needs_it() {
    let (mut sim, process) = Sim::routing();
    sim.deploy(with_router("m:C"));
    assert_eq!((sidecar(&sim.last), stops(&sim.last)), (None, vec![]));
    sim.deploy(with_router("m:Other"));
    let next = sidecar(&sim.last).unwrap();
    // The one before answers until the next can.
    assert!(stops(&sim.last).is_empty() && sim.status().0 == DeploymentStatus::Updating);
    let socket = |sim: &Sim| sim.router().unwrap().socket.display().to_string();
    assert!(socket(&sim).contains(process.as_str()));
    assert!(stops(sim.ready(&next)).contains(&(process.clone(), 1)));
    assert!(socket(&sim).contains(next.as_str()));
    sim.exited(&process);
    sim.deploy(DeploymentConfig { request_router: None, ..with_router("m:Other") });
    assert!(stops(&sim.last).contains(&(next.clone(), 1)));
    assert_eq!(sim.router(), None);
    sim.exited(&next);
    assert!(!sim.state.knows(&next));
    // One that fails takes the place of the one before all the same: it would choose for other code.
    let (mut sim, process) = Sim::routing();
    sim.deploy(with_router("m:Other"));
    let next = sidecar(&sim.last).unwrap();
    sim.failed(&next, "no module m");
    assert!(stops(sim.exited(&next)).contains(&(process.clone(), 1)));
    assert!(sim.router().is_none() && sim.details().message.ends_with("no module m"));
    let (mut sim, process) = Sim::routing();
    sim.deploy(with_router("m:Other"));
    let next = sidecar(&sim.last).unwrap();
    sim.exited(&process);
    assert!(sim.router().is_none() && !sim.state.knows(&process));
    sim.ready(&next);
    assert!(sim.router().is_some());
    let (mut sim, process) = Sim::routing();
    sim.apply(Event::Delete(name().application));
    assert!(stops(&sim.last).contains(&(process.clone(), 1)));
    sim.exited(&process);
    assert!(!sim.state.knows(&process));
}

#[test]
fn what_replicas_say_of_themselves_is_in_the_route_table() {
    let (mut sim, _) = Sim::routing();
    let replica = sim.routed().remove(0);
    let stats = serde_json::json!({"throughput": 3});
    let report = ReplicaReport::RoutingStats { stats: (&stats).into() };
    assert_eq!(sim.apply(Event::Report { replica, report }), [Action::Publish]);
    let table = sim.state.routes(None).unwrap();
    assert_eq!(table.deployments[0].replicas[0].routing_stats.value(), stats);
}

#[test]
fn one_process_has_the_routers_of_all_deployments() {
    let second = DeploymentId { deployment: DeploymentName::new("second").unwrap(), ..name() };
    let plain = DeploymentId { deployment: DeploymentName::new("plain").unwrap(), ..name() };
    let plain = DeploymentConfig { id: plain, request_router: None, ..with_router("unused") };
    let second = DeploymentConfig { id: second, ..with_router("m:Second") };
    let mut sim = Sim::new();
    sim.apply(Event::Snapshot(Vec::new()));
    sim.deploy_all(vec![with_router("m:C"), plain, second]);
    let told: Vec<_> = sim
        .last
        .iter()
        .filter_map(|action| match action {
            Action::StartSidecar { config, .. } => Some(&config.told),
            _ => None,
        })
        .collect();
    let [told] = told[..] else { panic!("{told:?}") };
    let classes: BTreeMap<_, _> = told["deployments"]
        .as_object()
        .unwrap()
        .iter()
        .map(|(name, router)| (name.as_str(), router["request_router_class"].as_str().unwrap()))
        .collect();
    assert_eq!(classes, [("org/demo", "m:C"), ("second", "m:Second")].into());
}

#[test]
fn how_prompts_of_a_model_are_routed_is_told_and_changes_without_a_restart() {
    let affinity = |sim: &Sim| {
        let table = sim.state.routes(None).unwrap();
        table.deployments[0].model.as_ref().unwrap().prefix_affinity
    };
    let mut sim = Sim::deployed(with_min(1));
    let [replica] = sim.started().try_into().unwrap();
    sim.ready(&replica);
    assert_eq!(affinity(&sim), None);
    let version = sim.state.routes(None).unwrap().version;
    let changed =
        DeploymentConfig { prefix_affinity: Some(PrefixAffinity::default()), ..with_min(1) };
    sim.deploy(changed);
    assert_eq!(affinity(&sim), Some(PrefixAffinity::default()));
    assert!(sim.started().is_empty() && sim.state.knows(&replica));
    assert!(sim.state.routes(None).unwrap().version > version);
}
