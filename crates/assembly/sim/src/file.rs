//! From a config file and a trace to an outcome.

use crate::{Capacity, Faults, LatencyModel, Outcome, SimConfig, SimError, Simulation, Trace};
use serde_json::Value;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;
use tyndall_config::file::{ApplicationKind, ApplicationSpec, ConfigFile, DeploymentOptions};
use tyndall_types::protocol::{
    ApplicationConfig, ApplicationPolicy, ApplicationSource, DeploymentConfig, ProgramConfig,
};
use tyndall_types::{DeploymentId, DeploymentName};

/// Reads the text of a file of a model that a config file names, or says why not.
pub type ReadModel<'a> = &'a mut dyn FnMut(&str) -> Result<String, String>;

/// What arrives.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum TraceSource {
    /// The text of a CSV file, see [`Trace::csv`].
    Csv(String),
    /// A rule, see [`Trace::generate`].
    Generator(String),
}

/// What a config file does not say.
#[derive(Debug, Clone, PartialEq)]
pub struct Options {
    /// How replicas of all deployments start and serve.
    pub latency: LatencyModel,
    /// What goes wrong.
    pub faults: Faults,
    /// What all nodes have together; what is absent is not scarce.
    pub capacity: Capacity,
    /// Machines.
    pub nodes: u32,
    /// Proxies.
    pub proxies: u32,
    /// Virtual time after the last arrival; absent is as long as idle replicas stay.
    pub after: Option<Duration>,
    /// Decides all that is by chance.
    pub seed: u64,
}

impl Default for Options {
    fn default() -> Self {
        Self {
            latency: LatencyModel::default(),
            faults: Faults::default(),
            capacity: Capacity::default(),
            nodes: 1,
            proxies: 1,
            after: None,
            seed: 0,
        }
    }
}

/// What a config file says, as far as a simulation is concerned.
#[derive(Debug, Clone, PartialEq)]
pub struct Scenario {
    /// What is deployed.
    pub applications: Vec<ApplicationConfig>,
    /// Percent of all replica counts.
    pub target_capacity: Option<f64>,
}

/// Simulates what a Ray Serve config file deploys under the load of a trace.
///
/// Models are not looked at: what a replica of one takes is what the file says. Of programs and of
/// code in Python, the deployments are those that the file names, with the options that it writes;
/// where it names none, one of the application's name with Ray's defaults. A trace names
/// deployments as `application#deployment`, by model id, by a name that only one has, or by an
/// application that has only one.
///
/// # Errors
/// Config, trace or generator are wrong; the [`SimError`] says where.
pub fn simulate(
    config_text: &str,
    trace: &TraceSource,
    options: &Options,
) -> Result<Outcome, SimError> {
    let mut unread = |path: &str| Err(format!("{path} is not read in a simulation"));
    applications(config_text, &mut unread)?.simulate(trace, options)
}

/// Reads a config file: applications as the controller would be asked to run them, with paths that
/// lead nowhere.
///
/// # Errors
/// [`SimError::Config`] with the first problem of the file.
pub fn applications(config_text: &str, read: ReadModel<'_>) -> Result<Scenario, SimError> {
    let wrong = |problem: tyndall_config::file::Problem| SimError::Config(problem.to_string());
    let file = ConfigFile::parse_with(config_text, read).map_err(wrong)?;
    let config = file.typed().map_err(wrong)?;
    let request_timeout_s = config.http.request_timeout_s;
    let of = |spec: &ApplicationSpec| application(spec, request_timeout_s);
    let applications: Vec<ApplicationConfig> = config.applications.iter().map(of).collect();
    if let Some(one) = applications.iter().find(|one| is_scaled_by_code(one)) {
        return Err(SimError::Config(format!(
            "the autoscaling policy of application {} is in Python, which is not run in a \
             simulation; name a built-in policy",
            one.name
        )));
    }
    let mut deployments = applications.iter().flat_map(|one| &one.deployments);
    if let Some(one) = deployments.find(|one| one.request_router.is_some()) {
        return Err(SimError::Config(format!(
            "the request router of deployment {} is in Python, which is not run in a simulation; \
             leave it out of request_router_config",
            one.id
        )));
    }
    Ok(Scenario { applications, target_capacity: config.target_capacity })
}

impl Scenario {
    /// Runs it.
    ///
    /// # Errors
    /// The trace is wrong.
    pub fn simulate(self, trace: &TraceSource, options: &Options) -> Result<Outcome, SimError> {
        let simulation = Simulation::new(SimConfig {
            target_capacity: self.target_capacity,
            capacity: options.capacity.clone(),
            nodes: options.nodes,
            proxies: options.proxies,
            latency: options.latency,
            faults: options.faults.clone(),
            after: options.after,
            seed: options.seed,
            ..SimConfig::new(self.applications.clone())
        });
        let find = |name: &str| self.find(name);
        let trace = match trace {
            TraceSource::Csv(text) => Trace::csv(text, &find)?,
            TraceSource::Generator(text) => Trace::generate(text, options.seed, &find)?,
        };
        Ok(simulation.run(trace))
    }

    /// The place of a deployment by what a trace calls it.
    fn find(&self, name: &str) -> Result<usize, String> {
        let all: Vec<&Arc<DeploymentConfig>> =
            self.applications.iter().flat_map(|app| &app.deployments).collect();
        let has_name = |one: &DeploymentConfig| one.id.deployment.as_str() == name;
        let has_id = |one: &DeploymentConfig| {
            let (app, deployment) = (&one.id.application, &one.id.deployment);
            one.id.to_string() == name || format!("{app}#{deployment}") == name
        };
        let has_model =
            |one: &DeploymentConfig| one.workload.model().is_some_and(|model| model.id == name);
        let has_application = |one: &DeploymentConfig| one.id.application.as_str() == name;
        let ways: [&dyn Fn(&DeploymentConfig) -> bool; 4] =
            [&has_id, &has_model, &has_name, &has_application];
        if let (true, [_]) = (name.is_empty(), all.as_slice()) {
            return Ok(0);
        }
        for way in ways {
            let mut found = all.iter().enumerate().filter(|(_, one)| way(one)).map(|(i, _)| i);
            match (found.next(), found.next()) {
                (Some(place), None) => return Ok(place),
                (Some(_), Some(_)) => {
                    return Err(format!("several deployments are called {name:?}; {}", hint(&all)));
                }
                (None, _) => {}
            }
        }
        Err(match name {
            "" => format!("which deployment it is for is missing; {}", hint(&all)),
            _ => format!("no deployment is called {name:?}; {}", hint(&all)),
        })
    }
}

fn hint(all: &[&Arc<DeploymentConfig>]) -> String {
    let ids: Vec<String> = all.iter().take(10).map(|one| one.id.to_string()).collect();
    format!("there are {}", ids.join(", "))
}

fn application(spec: &ApplicationSpec, request_timeout_s: Option<f64>) -> ApplicationConfig {
    let deployments = match &spec.kind {
        ApplicationKind::Models(models) => models
            .iter()
            .map(|model| {
                let path = PathBuf::from("/simulated");
                model.to_deployment(
                    &spec.name,
                    (path, Default::default()),
                    None,
                    None,
                    request_timeout_s,
                )
            })
            .collect(),
        ApplicationKind::Program { overrides, .. } | ApplicationKind::Python { overrides, .. } => {
            let one = |name: DeploymentName, options: &DeploymentOptions| {
                let program = ProgramConfig {
                    executable: PathBuf::from("/simulated"),
                    deployment: name.to_string(),
                    init: Value::Null,
                    ..ProgramConfig::default()
                };
                let id = DeploymentId { application: spec.name.clone(), deployment: name };
                let config = options.to_deployment(id, program, spec, request_timeout_s);
                // Nothing runs here that would be shared; starts take as long as the scenario says.
                DeploymentConfig { deployment_actors: Vec::new(), ..config }
            };
            let named = overrides.iter().map(|over| one(over.name.clone(), &over.options));
            let mut named: Vec<DeploymentConfig> = named.collect();
            let name = DeploymentName::new(spec.name.as_str()).ok().filter(|_| named.is_empty());
            named.extend(name.map(|name| one(name, &DeploymentOptions::default())));
            named
        }
    };
    ApplicationConfig {
        name: spec.name.clone(),
        route_prefix: spec.route_prefix.clone(),
        source: ApplicationSource::Declarative,
        external_scaler_enabled: spec.external_scaler_enabled,
        autoscaling_policy: spec.autoscaling_policy.clone(),
        submitted: Default::default(),
        deployments: deployments.into_iter().map(Arc::new).collect(),
    }
}

/// Whether code of the application decides how many replicas there are.
fn is_scaled_by_code(application: &ApplicationConfig) -> bool {
    let is_python = |policy: &ApplicationPolicy| matches!(policy, ApplicationPolicy::Python(_));
    application.autoscaling_policy.as_ref().is_some_and(is_python)
        || application.deployments.iter().any(|one| one.autoscaling.python_policy.is_some())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn policies_and_routers_in_python_are_refused() {
        let mut unread = |path: &str| Err(path.to_owned());
        for policy in [
            "autoscaling_policy: {policy_function: m:all}",
            "deployments: [{name: D, autoscaling_config: {policy: {policy_function: m:one}}}]",
            "deployments: [{name: D, request_router_config: {request_router_class: m:C}}]",
        ] {
            let text = format!("applications: [{{import_path: m:app, {policy}}}]");
            let error = applications(&text, &mut unread).unwrap_err().to_string();
            assert!(error.contains("is in Python, which is not run in a simulation"), "{error}");
        }
    }

    const TWO: &str = "\
applications:
- name: models
  route_prefix: /m
  args:
    llm_configs:
    - model_loading_config: {model_id: small, model_source: org/small}
      deployment_config: {autoscaling_config: {min_replicas: 0, max_replicas: 2}}
  import_path: ray.serve.llm:build_openai_app
- name: text
  import_path: text.main:app
  deployments:
  - name: Translator
    num_replicas: 2
  - name: Summarizer
- name: plain
  route_prefix: /p
  import_path: plain.main:app
";

    #[test]
    fn deployments_are_found_by_each_of_their_names() {
        let scenario =
            applications(TWO, &mut |path| Err(path.to_owned())).unwrap_or_else(|e| panic!("{e}"));
        for (name, place) in [
            ("small", 0),
            ("models#LLMServer:small", 0),
            ("LLMServer:small", 0),
            ("models", 0),
            ("Translator", 1),
            ("text#Summarizer", 2),
            ("plain", 3),
            ("plain#plain", 3),
        ] {
            assert_eq!(scenario.find(name), Ok(place), "{name}");
        }
        let error = scenario.find("other").unwrap_err();
        assert!(error.contains("there are models#LLMServer:small, text#Translator"), "{error}");
        assert!(scenario.find("").is_err());
        let error = scenario.find("text").unwrap_err();
        assert!(error.starts_with("several deployments are called \"text\""), "{error}");
    }

    #[test]
    fn a_file_and_a_trace_give_an_outcome() {
        let trace =
            TraceSource::Csv("time_s,deployment,service_s\n1,small,\n2,Translator,3\n".into());
        let outcome = simulate(TWO, &trace, &Options::default()).unwrap();
        assert_eq!((outcome.totals.sent, outcome.totals.answered), (2, 2));
        assert_eq!(outcome.deployments[0].model_id.as_deref(), Some("small"));
        let trace = TraceSource::Generator("Translator=constant:1:5s".into());
        let outcome = simulate(TWO, &trace, &Options::default()).unwrap();
        assert_eq!(outcome.deployments[1].totals.answered, 5);
    }

    #[test]
    fn what_is_wrong_is_told() {
        let error = |text: &str, trace: &str| {
            let trace = TraceSource::Csv(trace.to_owned());
            simulate(text, &trace, &Options::default()).unwrap_err().to_string()
        };
        assert!(error("applications: 3", "").starts_with("the config file cannot be used: 1:15"));
        assert!(error(TWO, "time_s,deployment\n1,x\n").starts_with("line 2 of the trace: no"));
        assert!(error(TWO, "time_s\n1\n").starts_with("line 2 of the trace: which deployment"));
    }
}
