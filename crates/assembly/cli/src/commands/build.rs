//! Applications as they are described become what the controller can run: models are found and
//! planned, programs and applications in Python are asked what they have.
//!
//! `tyndall role build` does it for the controller, in a process of its own; `tyndall build` writes
//! config files.

use crate::args::BuildArgs;
use crate::commands::{python, template, yaml};
use crate::failure::Failure;
use crate::output::print;
use serde_json::{Value, json};
use std::io::Read;
use std::path::Path;
use std::process::{Command, Stdio};
use std::sync::Arc;
use tyndall_config::Environment;
use tyndall_config::file::{
    ApplicationKind, ApplicationSpec, ConfigFile, DeploymentOverride, DescribedError,
    DescribedProgram, Launch, ModelSpec as FileModel, Problem, Severity, sort_as_described,
};
use tyndall_hub::{HubOptions, Silent};
use tyndall_model::{CheckpointSpec, PlanRequest};
use tyndall_types::ApplicationName;
use tyndall_types::protocol::{ApplicationConfig, ApplicationSource, DeploymentConfig, ModelTask};

/// Longer submissions are no configuration.
const MAX_INPUT_BYTES: u64 = 8 << 20;

/// What says of an application in Python that it is one of models, which no Python serves.
const NATIVE: &str = "application";

/// What a build may take for granted.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Machine {
    /// Bytes of memory for all models.
    pub(crate) memory_bytes: u64,
    /// Seconds, where an application says nothing.
    pub(crate) request_timeout_s: Option<f64>,
}

/// The hidden `role build`: a config file of one application on standard input, the application on
/// standard output.
pub(crate) fn role(machine: Machine, env: &Environment) -> Result<(), Failure> {
    let mut text = String::new();
    std::io::stdin().lock().take(MAX_INPUT_BYTES).read_to_string(&mut text)?;
    let unusable = |why: String| Failure::new(format!("the submission cannot be used: {why}"));
    let file = ConfigFile::parse(&text).map_err(|problem| unusable(problem.to_string()))?;
    let config = file.typed().map_err(|problem| unusable(problem.to_string()))?;
    let request_timeout_s = config.http.request_timeout_s.or(machine.request_timeout_s);
    let machine = Machine { request_timeout_s, ..machine };
    let spec = config.applications.into_iter().next();
    let spec = spec.ok_or_else(|| unusable("there is no application in it".to_owned()))?;
    let around = Around { machine, shared: &config.shared, env };
    let application = application(spec, around)?;
    let json = serde_json::to_string(&application).expect("wire types have string keys only");
    print(&json)
}

/// What holds for an application beside what it says itself.
#[derive(Debug, Clone, Copy)]
struct Around<'a> {
    machine: Machine,
    /// What its file says of all applications.
    shared: &'a Value,
    env: &'a Environment,
}

fn application(spec: ApplicationSpec, around: Around<'_>) -> Result<ApplicationConfig, Failure> {
    let Around { machine, env, .. } = around;
    let deployments = match &spec.kind {
        ApplicationKind::Models(models) => models_of(&spec, models, machine, env)?,
        ApplicationKind::Program { executable, args, overrides } => {
            program_of(&spec, Path::new(executable), args, overrides, machine)?
        }
        ApplicationKind::Python { import_path, args, overrides } => {
            python_of(&spec, import_path, args, overrides, around)?
        }
    };
    Ok(ApplicationConfig {
        name: spec.name,
        route_prefix: spec.route_prefix,
        source: ApplicationSource::Declarative,
        external_scaler_enabled: spec.external_scaler_enabled,
        autoscaling_policy: spec.autoscaling_policy,
        submitted: (&spec.submitted).into(),
        deployments: deployments.into_iter().map(Arc::new).collect(),
    })
}

fn models_of(
    spec: &ApplicationSpec,
    models: &[FileModel],
    machine: Machine,
    env: &Environment,
) -> Result<Vec<DeploymentConfig>, Failure> {
    // Each gets an equal share where it fits into that, else all there is: then they take turns.
    let share = machine.memory_bytes / models.iter().map(max_replicas).sum::<u64>().max(1);
    let options = HubOptions::from_env(env)?;
    let one = |model: &FileModel| -> Result<DeploymentConfig, Failure> {
        let resolved = tyndall_hub::resolve(&model.source, &options, &Silent)?;
        let checkpoint = CheckpointSpec::from_dir(&resolved.dir)?;
        check_task(model, checkpoint.task())?;
        let engine = model.engine;
        let request = |available_bytes| PlanRequest {
            max_model_len: engine.max_model_len,
            memory_budget_bytes: model.memory_bytes(),
            available_bytes,
            max_num_seqs: engine.max_num_seqs,
            max_num_batched_tokens: engine.max_num_batched_tokens,
            quantization: tyndall_model::grouped_type(engine.quantization),
        };
        let plan = |bytes| checkpoint.plan(&resolved.dir, &request(bytes));
        let planned = plan(share).or_else(|_| plan(machine.memory_bytes)).map_err(|error| {
            let failure = Failure::from(error);
            failure.with_context(&format!("model {}", model.model_id))
        })?;
        let kv_bytes = engine.kv_cache_memory_bytes.unwrap_or(planned.kv_cache_bytes());
        let bytes = planned.weights_bytes() + planned.activation_bytes() + kv_bytes;
        if bytes > machine.memory_bytes {
            let gib = |bytes: u64| format!("{:.2} GiB", bytes as f64 / f64::from(1 << 30));
            let (total, weights) = (gib(machine.memory_bytes), gib(planned.weights_bytes()));
            return Err(Failure::new(format!(
                "model {} needs {}: weights {weights}, KV cache {}, activations {}; replicas may \
                 use {total} together",
                model.model_id,
                gib(bytes),
                gib(kv_bytes),
                gib(planned.activation_bytes()),
            ))
            .with_cure("lower kv_cache_memory_bytes, or raise --node-memory"));
        }
        let mut model = model.clone();
        if let Some(given) = &model.chat.template {
            model.chat.template = Some(template::source(given)?);
        }
        Ok(model.to_deployment(
            &spec.name,
            (resolved.dir, checkpoint.task()),
            Some(bytes),
            Some(planned.max_model_len()),
            machine.request_timeout_s,
        ))
    };
    models.iter().map(one).collect()
}

/// Whether a model is what the file takes it for.
fn check_task(model: &FileModel, task: ModelTask) -> Result<(), Failure> {
    let id = &model.model_id;
    let failure = match (model.generates, task) {
        (Some(false), ModelTask::Generate) => Failure::new(format!(
            "model {id} writes text, and the file takes it for one that reads texts only"
        ))
        .with_cure(
            "leave out task, runner and convert, or serve an encoder, such as one of BERT's kind",
        ),
        (Some(true), ModelTask::Embed | ModelTask::Classify | ModelTask::Score) => Failure::new(
            format!("model {id} writes no text, and the file takes it for one that does"),
        )
        .with_cure("leave out task and runner"),
        _ => return Ok(()),
    };
    Err(failure)
}

fn max_replicas(model: &FileModel) -> u64 {
    let name = tyndall_types::ApplicationName::new("a").expect("a letter is a name");
    let config = model.to_deployment(&name, Default::default(), None, None, None);
    u64::from(config.num_replicas.unwrap_or(config.autoscaling.max_replicas)).max(1)
}

/// Asks a program what it has, and lays the file's options over it.
fn program_of(
    spec: &ApplicationSpec,
    executable: &Path,
    args: &Value,
    overrides: &[DeploymentOverride],
    machine: Machine,
) -> Result<Vec<DeploymentConfig>, Failure> {
    python::check_paths(&spec.paths)?;
    let mut command = Command::new(executable);
    command.envs(&spec.env_vars);
    if let Some(dir) = &spec.paths.working_dir {
        command.current_dir(dir);
    }
    let described = describe(executable, command, args)?;
    let metadata = executable.metadata()?;
    let modified =
        metadata.modified().ok().and_then(|at| at.duration_since(std::time::UNIX_EPOCH).ok());
    let program = DescribedProgram {
        executable,
        launch: &|paths| {
            let dir = paths.working_dir.as_ref();
            let working_dir = dir.and_then(|dir| std::path::absolute(dir).ok());
            Launch { args: Vec::new(), working_dir }
        },
        identity: json!([modified.map(|at| at.as_nanos().to_string()), metadata.len()]),
        described: &described,
    };
    let deployments = spec.deployments(&program, overrides, machine.request_timeout_s);
    deployments.map_err(|error| {
        strange(error, executable, "build it with the tyndall crate of this release")
    })
}

/// The same for an application in Python.
fn python_of(
    spec: &ApplicationSpec,
    import_path: &str,
    args: &Value,
    overrides: &[DeploymentOverride],
    around: Around<'_>,
) -> Result<Vec<DeploymentConfig>, Failure> {
    let Around { machine, env, .. } = around;
    let interpreter = python::interpreter(env)?;
    let described = python::describe(&interpreter, import_path, spec, args)?;
    if let Some(native) = described[NATIVE].as_object() {
        let mut application = spec.submitted.as_object().cloned().unwrap_or_default();
        application.extend(native.clone());
        return native_of(&spec.name, application.into(), around);
    }
    let program = DescribedProgram {
        executable: &interpreter,
        launch: &|paths| python::launch(import_path, paths),
        identity: json!(interpreter),
        described: &described,
    };
    let deployments = spec.deployments(&program, overrides, machine.request_timeout_s);
    let mut deployments = deployments.map_err(|error| {
        strange(error, Path::new(import_path), "mend what its code says of the deployment")
    })?;
    if let Some(models) = spec.described_models(&described) {
        deployments.extend(native_of(&spec.name, models, around)?);
        sort_as_described(&mut deployments, &described);
    }
    Ok(deployments)
}

/// Code in Python has said which models its application has: it is as if a file named these itself.
fn native_of(
    name: &ApplicationName,
    application: Value,
    around: Around<'_>,
) -> Result<Vec<DeploymentConfig>, Failure> {
    let mut file = around.shared.as_object().cloned().unwrap_or_default();
    file.insert("applications".to_owned(), json!([application]));
    let failed = |why: String| Failure::new(format!("the models of '{name}': {why}"));
    let file = ConfigFile::parse(&Value::from(file).to_string());
    let file = file.map_err(|problem| failed(problem.to_string()))?;
    let is_error = |problem: &&Problem| problem.severity == Severity::Error;
    if let Some(problem) = file.problems().iter().find(is_error) {
        let path = problem.path.strip_prefix("applications[0].").unwrap_or(&problem.path);
        let failure = failed(format!("{path}: {}", problem.message));
        return Err(match &problem.cure {
            Some(cure) => failure.with_cure(cure.clone()),
            None => failure,
        });
    }
    let config = file.typed().map_err(|problem| failed(problem.to_string()))?;
    match config.applications.first() {
        Some(spec @ ApplicationSpec { kind: ApplicationKind::Models(models), .. }) => {
            models_of(spec, models, around.machine, around.env)
        }
        _ => Err(failed("there are none".to_owned())),
    }
}

fn strange(error: DescribedError, program: &Path, cure: &str) -> Failure {
    match error {
        DescribedError::Unknown { .. } => {
            Failure::new(error.to_string()).with_cure("mend its name under deployments:")
        }
        DescribedError::Unusable(what) => {
            Failure::new(format!("{} describes itself in a strange way: {what}", program.display()))
                .with_cure(cure)
        }
    }
}

/// What `PROGRAM role describe` prints.
fn describe(executable: &Path, mut command: Command, args: &Value) -> Result<Value, Failure> {
    let shown = executable.display();
    let output = command
        .args(["role", "describe", "--args"])
        .arg(args.to_string())
        .stdin(Stdio::null())
        .output()
        .map_err(|error| {
            Failure::new(format!("failed to run {shown}: {error}"))
                .with_cure("name an executable that is built with the tyndall crate")
        })?;
    let said = String::from_utf8_lossy(&output.stderr).trim().to_owned();
    if !output.status.success() {
        return Err(Failure::new(format!("{shown} ended with {}: {said}", output.status))
            .with_cure("run it with `role describe` by hand"));
    }
    serde_json::from_slice(&output.stdout).map_err(|error| {
        Failure::new(format!("{shown} is no deployment program: {error}"))
            .with_cure("name an executable that is built with the tyndall crate")
    })
}

/// `tyndall build`: a config file for models, programs and applications in Python.
pub(crate) fn build(args: &BuildArgs, env: &Environment) -> Result<(), Failure> {
    let is_alone = args.targets.len() == 1;
    let mut applications = Vec::new();
    for (i, target) in args.targets.iter().enumerate() {
        let number = i + 1;
        let route = if is_alone { "/".to_owned() } else { format!("/app{number}") };
        let mut application = json!({"name": format!("app{number}"), "route_prefix": route});
        let path = Path::new(target);
        if path.is_file() {
            let described = describe(path, Command::new(path), &json!({}))?;
            application["program"] = target.as_str().into();
            application["args"] = json!({});
            application["deployments"] = options_of(&described);
        } else if let Some(import_path) = python::import_path(target) {
            let described = python::describe_alone(&import_path, &args.app_dir, env)?;
            application["import_path"] = import_path.into();
            application["runtime_env"] = json!({});
            application["args"] = json!({});
            if let Some(native) = described[NATIVE].as_object() {
                application.as_object_mut().into_iter().for_each(|app| app.extend(native.clone()));
            } else {
                application["deployments"] = options_of(&described);
            }
        } else {
            application["model"] = target.as_str().into();
            application["deployment_config"] = json!({
                "autoscaling_config": {"min_replicas": 0, "max_replicas": 1},
            });
        }
        applications.push(application);
    }
    let document = json!({
        "proxy_location": "EveryNode",
        "http_options": {"host": "127.0.0.1", "port": 8000},
        "grpc_options": {
            "port": 9000,
            "grpc_servicer_functions": args.grpc_servicer_functions,
            "enable_reflection": !args.grpc_disable_reflection,
        },
        "applications": applications,
    });
    let header = format!(
        "# This file was generated using the `tyndall build` command on tyndall {}.\n\n",
        env!("CARGO_PKG_VERSION")
    );
    let text = header + &yaml::spaced(&document);
    match &args.output_path {
        None => print(&text),
        Some(path) => Ok(std::fs::write(path, text)?),
    }
}

/// The options that a program's code sets.
fn options_of(described: &Value) -> Value {
    let list = described["deployments"].as_array().into_iter().flatten();
    let options = |one: &Value| {
        let mut options = one.as_object().cloned().unwrap_or_default();
        ["init", "calls", "model"].iter().for_each(|own| drop(options.remove(*own)));
        Value::Object(options)
    };
    list.map(options).collect()
}
