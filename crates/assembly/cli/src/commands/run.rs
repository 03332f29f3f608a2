//! `tyndall run`: a model, or the applications of a config file, in the foreground.

use crate::args::RunArgs;
use crate::commands::files::{self, Source};
use crate::commands::node::{ControllerExtras, Node, START_DEADLINE};
use crate::commands::plan::{Planned, find};
use crate::commands::template;
use crate::failure::Failure;
use crate::output::print;
use bytes::Bytes;
use http::{Method, Request};
use std::net::SocketAddr;
use std::process::ExitCode;
use std::sync::Arc;
use std::time::Duration;
use tyndall_bench::table;
use tyndall_config::file::{ConfigFile, GrpcOptions, HttpOptions};
use tyndall_config::{Environment, Origin, RawSettings, RunConfig};
use tyndall_hub::ResolvedModel;
use tyndall_transport::Client;
use tyndall_types::DeploymentName;
use tyndall_types::protocol::{
    ApplicationConfig, ApplicationSource, ModelTask, RuntimeDir, Workload,
};

const READY_POLL: Duration = Duration::from_millis(10);

pub(crate) fn run(args: RunArgs, env: &Environment) -> Result<ExitCode, Failure> {
    let config = tyndall_config::resolve(&args.settings.0, env)?;
    if args.print_config {
        print(&effective(&config))?;
        return Ok(ExitCode::SUCCESS);
    }
    crate::roles::init_logs("run", &config.log_filter, config.log_format)?;
    let target = config.target.value.clone();
    let name = config.name.as_ref().map(DeploymentName::as_str);
    let source = Source { target: &target, name, options: &args.application };
    if source.is_application() {
        return run_applications(args.settings.0, source, env);
    }
    if let Some(pair) = args.application.arguments.first() {
        return Err(Failure::new(format!("a model takes no arguments, and {pair:?} is one"))
            .with_cure("leave it out; flags say how a model runs"));
    }
    let node = Node::new(&config)?;
    let model = find(&config, env)?;
    let name = public_name(&config, &model)?;
    let planned = Planned::new(&config, &model)?;
    let template = config.model.chat.template.as_deref().map(template::source).transpose()?;
    let (url, admin_url) = (node.url()?, node.admin_url()?);
    print(&format!(
        "{}\nserving {name} at {url}  (admin API at {admin_url})\ntry it:\n  {}\n",
        planned.describe(&config, &model),
        curl(&url, planned.spec.task())
    ))?;
    let mut deployment = config.deployment(name.clone(), name.into(), model.dir.clone());
    if let Workload::Model(model) = &mut deployment.workload {
        model.memory_budget_bytes = Some(planned.budget_bytes());
        model.max_model_len = Some(planned.memory.max_model_len());
        model.task = planned.spec.task();
        model.chat.template = template;
    }
    let application = ApplicationConfig {
        name: deployment.id.application.clone(),
        route_prefix: Some("/".to_owned()),
        source: ApplicationSource::Imperative,
        external_scaler_enabled: false,
        autoscaling_policy: None,
        submitted: Default::default(),
        deployments: vec![Arc::new(deployment)],
    };
    let public = node.public_address()?;
    node.supervise(&config, env, &ControllerExtras::default(), |runtime_dir| async move {
        serve(&runtime_dir, &application, public).await
    })
}

/// Serves the applications of a config file, of a program, or in Python, until the end.
fn run_applications(
    mut settings: RawSettings,
    source: Source<'_>,
    env: &Environment,
) -> Result<ExitCode, Failure> {
    if source.is_config() && !source.options.arguments.is_empty() {
        tracing::warn!("arguments have no effect beside a config file; it has args: of its own");
    }
    let (text, file) = source.read(env)?;
    let typed = file.typed().map_err(|problem| Failure::new(problem.to_string()))?;
    let http = typed.http;
    take_listeners(&mut settings, &http, &typed.grpc, env)?;
    let config = tyndall_config::resolve(&settings, env)?;
    let node = Node::new(&config)?;
    let (url, admin_url) = (node.url()?, node.admin_url()?);
    let (applications, _) = file.counts();
    let what = if applications == 1 { "application" } else { "applications" };
    let kind = if source.is_import_path() { "import path" } else { "config file" };
    let target = source.target;
    print(&format!(
        "Running {kind}: {target:?}.\n{applications} {what} at {url}  (admin API at \
         {admin_url})\n"
    ))?;
    let extras = ControllerExtras {
        request_timeout_s: http.request_timeout_s,
        ..ControllerExtras::default()
    };
    let admin = node.admin_address()?;
    let token = crate::commands::admin::token(env);
    node.supervise(&config, env, &extras, |_| async move {
        let client = Client::tcp(admin);
        let client = token.iter().fold(client, |client, token| client.with_token(token));
        files::submit(&client, text).await?;
        print("Submitted deploy config successfully.\n")?;
        let names = applications_of(&file);
        let failed = files::wait_until_deployed(&client, &names, print).await?;
        if failed.len() == names.len() && !failed.is_empty() {
            return Err(Failure::from_text(&failed.join("\n")));
        }
        for failure in failed {
            tracing::error!("{failure}");
        }
        print("ready; Ctrl-C ends everything\n")
    })
}

fn applications_of(file: &ConfigFile) -> Vec<String> {
    let applications = file.typed().map(|config| config.applications).unwrap_or_default();
    applications.into_iter().map(|application| application.name.to_string()).collect()
}

/// A flag or a variable wins over the file. Another address than loopback wants `--insecure`, also
/// from a file.
fn take_listeners(
    settings: &mut RawSettings,
    http: &HttpOptions,
    grpc: &GrpcOptions,
    env: &Environment,
) -> Result<(), Failure> {
    let given = tyndall_config::resolve(settings, env)?;
    let is_default = |key: &str| {
        given.effective.iter().any(|line| line.key == key && line.origin == Origin::Default)
    };
    let values = [
        ("host", http.host.map(|host| host.to_string())),
        ("port", http.port.map(|port| port.to_string())),
        ("request_timeout", http.request_timeout_s.map(|timeout| timeout.to_string())),
        ("grpc_port", grpc.port.map(|port| port.to_string())),
        ("grpc_servicer_functions", Some(grpc.servicer_functions.join(","))),
        ("grpc_request_timeout", grpc.request_timeout_s.map(|timeout| timeout.to_string())),
        ("grpc_disable_reflection", grpc.enable_reflection.map(|enable| (!enable).to_string())),
    ];
    for (key, value) in values {
        if let Some(value) = value.filter(|_| is_default(key)) {
            settings.set(key, value).expect("rows of the table are known keys");
        }
    }
    Ok(())
}

/// The public id: what the user says, else what the model is called where it came from.
fn public_name(config: &RunConfig, model: &ResolvedModel) -> Result<DeploymentName, Failure> {
    if let Some(name) = &config.name {
        return Ok(name.clone());
    }
    DeploymentName::new(&model.id).map_err(|error| {
        Failure::of(&error).with_cure(format!("call it something else: --name {}", tame(&model.id)))
    })
}

/// A usable name near an unusable one.
fn tame(id: &str) -> String {
    let mapped: String =
        id.chars().map(|c| if c.is_ascii_alphanumeric() || c == '_' { c } else { '-' }).collect();
    let name = mapped.trim_matches('-');
    if name.is_empty() { "my-model".to_owned() } else { name.chars().take(64).collect() }
}

/// A request that a model for `task` answers.
fn curl(url: &str, task: ModelTask) -> String {
    let (route, body) = match task {
        ModelTask::Generate => ("/generate", r#"{"prompt": "Write a haiku about Ray Serve."}"#),
        ModelTask::Embed => ("/v1/embeddings", r#"{"input": "Rays of light"}"#),
        ModelTask::Classify => ("/classify", r#"{"input": "Rays of light"}"#),
        ModelTask::Score => {
            ("/v1/rerank", r#"{"query": "What is light?", "documents": ["A lamp", "Waves"]}"#)
        }
    };
    format!("curl -s {url}{route} -H 'content-type: application/json' -d '{body}'")
}

fn effective(config: &RunConfig) -> String {
    let rows: Vec<Vec<String>> = config
        .effective
        .iter()
        .map(|line| {
            let value = if line.value.is_empty() { "-" } else { &line.value };
            vec![line.key.to_owned(), value.to_owned(), line.origin.to_string()]
        })
        .collect();
    table(&rows, &[])
}

/// Deploys, and returns when the first request can be sent.
async fn serve(
    runtime_dir: &RuntimeDir,
    application: &ApplicationConfig,
    public: SocketAddr,
) -> Result<(), Failure> {
    let controller = Client::unix(runtime_dir.controller_socket());
    let path = format!("/-/applications/{}", application.name);
    controller.tell(Method::PUT, &path, application).await?;
    let proxy = Client::tcp(public);
    let deployment = application.deployments.first();
    let model = deployment.and_then(|deployment| deployment.workload.model());
    let model_id = model.map(|model| model.id.clone()).unwrap_or_default();
    let ready = tokio::time::timeout(START_DEADLINE, async {
        while !is_ready(&proxy, &model_id).await {
            tokio::time::sleep(READY_POLL).await;
        }
    });
    ready.await.map_err(|_| {
        let waited_s = START_DEADLINE.as_secs();
        Failure::new(format!("the proxy was not ready within {waited_s} s"))
            .with_cure("its log above says why")
    })?;
    let when = match deployment.map_or(0, |deployment| deployment.autoscaling.min_replicas) {
        0 => "the first request wakes the model",
        _ => "the model is loading",
    };
    print(&format!("ready: {when}; Ctrl-C ends everything\n"))
}

/// The proxy is ready and knows the model.
async fn is_ready(proxy: &Client, model_id: &str) -> bool {
    let request = Request::get("/readyz").body(Bytes::new()).expect("a constant path");
    let is_ready = proxy.send(request).await.is_ok_and(|answer| answer.status().is_success());
    if !is_ready {
        return false;
    }
    // Unlike the list of models, it wants no API key.
    let health = proxy.get::<serde_json::Value>("/healthz").await;
    health.is_ok_and(|health| health["model"] == model_id)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn unusable_names_get_a_usable_proposal() {
        for (id, expected) in [("my model", "my-model"), ("é", "my-model"), ("-x-", "x")] {
            assert_eq!(tame(id), expected);
            DeploymentName::new(tame(id)).unwrap();
        }
    }
}
