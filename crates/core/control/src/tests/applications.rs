//! Applications of several deployments.

use super::*;

#[test]
fn an_application_has_as_many_deployments_as_its_config() {
    let of = |name: &str| {
        let application = ApplicationName::new("app").unwrap();
        let deployment = DeploymentName::new(name).unwrap();
        DeploymentConfig { id: DeploymentId { application, deployment }, ..fixed(1) }
    };
    let mut sim = Sim::deployed(fixed(1));
    let actions = sim.deploy_all(vec![of("x"), of("y")]).to_vec();
    settle(&mut sim, actions);
    let names = |sim: &Sim| {
        let details = sim.state.details(sim.now);
        let app = &details.applications["app"];
        (app.status, app.deployments.keys().cloned().collect::<Vec<_>>())
    };
    assert_eq!(names(&sim), (ApplicationStatus::Running, vec!["x".to_owned(), "y".to_owned()]));
    let actions = sim.deploy_all(vec![of("y"), of("z")]).to_vec();
    assert_eq!((starts(&actions).len(), stops(&actions).len()), (1, 1));
    settle(&mut sim, actions);
    assert_eq!(names(&sim), (ApplicationStatus::Running, vec!["y".to_owned(), "z".to_owned()]));
    sim.apply(Event::Building {
        application: ApplicationName::new("app").unwrap(),
        source: ApplicationSource::Declarative,
        at: sim.now,
    });
    assert_eq!(names(&sim).0, ApplicationStatus::Deploying);
    let application = ApplicationName::new("app").unwrap();
    sim.apply(Event::BuildFailed { application, reason: "no such file".into() });
    assert_eq!(names(&sim).0, ApplicationStatus::DeployFailed);
    assert_eq!(sim.routed().len(), 2, "what ran goes on");
}

#[test]
fn a_model_of_an_application_of_code_has_no_place_of_its_own() {
    let of = |name: &str| {
        let application = ApplicationName::new("app").unwrap();
        let deployment = DeploymentName::new(name).unwrap();
        DeploymentConfig { id: DeploymentId { application, deployment }, ..fixed(1) }
    };
    let code = DeploymentConfig { workload: Workload::Program(Default::default()), ..of("code") };
    let places = |sim: &Sim| {
        let routes = sim.state.routes(None).unwrap().deployments;
        let place = |name: &str| {
            let found = routes.iter().find(|one| one.deployment.deployment.as_str() == name);
            found.map(|one| (one.route_prefix.clone(), one.is_ingress)).unwrap()
        };
        (place("code"), place("model"))
    };
    let mut sim = Sim::deployed(fixed(1));
    let mounted = |is_ingress| (Some("/".to_owned()), is_ingress);
    sim.deploy_all(vec![code.clone(), of("model")]);
    assert_eq!(places(&sim), (mounted(true), (None, false)));
    sim.deploy_all(vec![of("model"), code]);
    assert_eq!(places(&sim), (mounted(false), mounted(true)));
}
