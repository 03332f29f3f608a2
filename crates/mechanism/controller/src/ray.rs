//! Ray Serve's `ServeInstanceDetails`, made from ours.
//!
//! Ray's clients refuse keys that they do not know, so there are exactly Ray's here; what Ray does
//! not tell is at `/api/tyndall/applications/`. Actors and workers are processes here, and their ids
//! are those of processes.
//!
//! Source: ray 2.60.0 `python/ray/serve/schema.py`.

use serde_json::{Map, Value, json};
use tyndall_types::protocol::{
    ApplicationDetails, DeploymentActor, DeploymentConfig, DeploymentDetails, InstanceDetails,
    ReplicaDetails, Workload,
};

/// What is told of this instance.
#[derive(Debug, Clone, Default)]
pub struct Instance {
    /// The machine's name, as its node's id.
    pub node_id: String,
    /// The machine's address, as its own processes see it.
    pub node_ip: String,
    /// The public listener.
    pub http: Http,
    /// The listener of gRPC, where there is one.
    pub grpc: Option<Grpc>,
}

/// The listener of gRPC, on the address of the public one.
#[derive(Debug, Clone, Default)]
pub struct Grpc {
    /// Port.
    pub port: u16,
    /// What says which methods there are.
    pub servicer_functions: Vec<String>,
    /// Seconds that a call may take; absent is as long as its client waits.
    pub request_timeout_s: Option<f64>,
    /// Whether clients may ask which methods there are.
    pub has_reflection: bool,
}

/// The public listener.
#[derive(Debug, Clone, Default)]
pub struct Http {
    /// Address.
    pub host: String,
    /// Port.
    pub port: u16,
}

/// The fields that Ray tells of every actor; here they are those of a process.
fn actor(instance: &Instance, name: &str, pid: Option<u32>) -> Map<String, Value> {
    let pid = pid.map_or_else(|| Value::Null, |pid| Value::from(pid.to_string()));
    let mut actor = Map::new();
    actor.insert("node_id".into(), instance.node_id.clone().into());
    actor.insert("node_ip".into(), instance.node_ip.clone().into());
    actor.insert("node_instance_id".into(), instance.node_id.clone().into());
    actor.insert("actor_id".into(), pid.clone());
    actor.insert("actor_name".into(), name.into());
    actor.insert("worker_id".into(), pid);
    actor.insert("log_file_path".into(), Value::Null);
    actor
}

/// The body of `GET /api/serve/applications/` but for `applications`.
pub(crate) fn instance_details(overview: &InstanceDetails, instance: &Instance) -> Value {
    let proxy_name = format!("SERVE_PROXY_ACTOR-{}", instance.node_id);
    let mut proxies = Map::new();
    let mut target_groups = Vec::new();
    if !overview.proxies.is_empty() {
        let mut proxy = actor(instance, &proxy_name, None);
        proxy.insert("status".into(), "HEALTHY".into());
        proxies.insert(instance.node_id.clone(), proxy.into());
        let grpc = instance.grpc.as_ref().map(|grpc| ("gRPC", grpc.port));
        for (protocol, port) in [("HTTP", instance.http.port)].into_iter().chain(grpc) {
            target_groups.push(json!({
                "targets": [{
                    "ip": instance.node_ip,
                    "port": port,
                    "instance_id": instance.node_id,
                    "name": proxy_name,
                }],
                "route_prefix": "/",
                "protocol": protocol,
                "app_name": "",
                "ingress_request_router_targets": [],
                "ingress_deployment_name": "",
            }));
        }
    }
    let grpc = instance.grpc.as_ref().map(|grpc| {
        json!({
            "port": grpc.port,
            "grpc_servicer_functions": grpc.servicer_functions,
            "request_timeout_s": grpc.request_timeout_s,
            "enable_reflection": grpc.has_reflection,
        })
    });
    json!({
        "target_capacity": overview.target_capacity,
        "controller_info": actor(instance, "SERVE_CONTROLLER_ACTOR", Some(std::process::id())),
        "proxy_location": "EveryNode",
        "http_options": {"host": instance.http.host, "port": instance.http.port},
        "grpc_options": grpc.unwrap_or_else(|| json!({})),
        "proxies": proxies,
        "target_groups": target_groups,
        "restores_unset_config_options": true,
    })
}

/// One application.
pub(crate) fn application_details(application: &ApplicationDetails, instance: &Instance) -> Value {
    let deployments: Map<String, Value> = application
        .deployments
        .values()
        .map(|deployment| {
            let details = deployment_details(&application.name, deployment, instance);
            (deployment.name.clone(), details)
        })
        .collect();
    json!({
        "name": application.name,
        "route_prefix": application.route_prefix,
        "docs_path": null,
        "status": application.status,
        "message": application.message,
        "last_deployed_time_s": application.last_deployed_time_s,
        "deployed_app_config": application.submitted,
        "source": application.source,
        "external_scaler_enabled": application.external_scaler_enabled,
        "deployments": deployments,
        "deployment_topology": topology(application),
    })
}

fn topology(application: &ApplicationDetails) -> Value {
    let name = &application.name;
    let is_model = |deployment: &DeploymentDetails| {
        let config = deployment.config.as_deref();
        config.is_some_and(|config| matches!(config.workload, Workload::Model(_)))
    };
    let first = application.ingress.as_ref().and_then(|first| application.deployments.get(first));
    let is_of_models = first.is_some_and(is_model);
    let is_ingress = |deployment: &DeploymentDetails| {
        is_of_models && is_model(deployment)
            || application.ingress.as_ref() == Some(&deployment.name)
    };
    let nodes: Map<String, Value> = application
        .deployments
        .values()
        .map(|deployment| {
            let node = json!({
                "name": deployment.name,
                "app_name": name,
                "outbound_deployments": [],
                "is_ingress": is_ingress(deployment),
            });
            (deployment.name.clone(), node)
        })
        .collect();
    json!({"app_name": name, "ingress_deployment": application.ingress, "nodes": nodes})
}

fn deployment_details(
    application: &str,
    deployment: &DeploymentDetails,
    instance: &Instance,
) -> Value {
    let config = deployment.config.as_deref();
    let replicas: Vec<Value> = deployment
        .replicas
        .iter()
        .map(|replica| replica_details(application, &deployment.name, replica, instance))
        .collect();
    let dead: Vec<Value> = deployment
        .dead_replicas
        .iter()
        .map(|dead| {
            let name = actor_name(application, &deployment.name, dead.replica_id.as_str());
            let mut replica = actor(instance, &name, dead.pid);
            replica.insert("replica_id".into(), dead.replica_id.as_str().into());
            replica.insert("state".into(), "STOPPED".into());
            replica.insert("pid".into(), dead.pid.into());
            replica.insert("start_time_s".into(), dead.start_time_s.into());
            replica.into()
        })
        .collect();
    json!({
        "name": deployment.name,
        "status": deployment.status,
        "status_trigger": deployment.status_trigger,
        "message": deployment.message,
        "deployment_config": config.map(deployment_config),
        "target_num_replicas": deployment.target_num_replicas,
        "required_resources": config.map(required_resources),
        "replicas": replicas,
        "recent_dead_replicas": dead,
    })
}

fn actor_name(application: &str, deployment: &str, replica: &str) -> String {
    format!("SERVE_REPLICA::{application}#{deployment}#{replica}")
}

fn replica_details(
    application: &str,
    deployment: &str,
    replica: &ReplicaDetails,
    instance: &Instance,
) -> Value {
    let name = actor_name(application, deployment, replica.replica_id.as_str());
    let mut details = actor(instance, &name, replica.pid);
    details.insert("replica_id".into(), replica.replica_id.as_str().into());
    details.insert("state".into(), replica.state.as_str().into());
    details.insert("pid".into(), replica.pid.into());
    details.insert("start_time_s".into(), replica.start_time_s.into());
    details.into()
}

fn required_resources(config: &DeploymentConfig) -> Value {
    let mut resources = Map::new();
    let own = &config.resources;
    for (name, amount) in [("CPU", own.num_cpus), ("GPU", own.num_gpus)] {
        if amount > 0.0 {
            resources.insert(name.into(), amount.into());
        }
    }
    if let Some(bytes) = own.memory_bytes {
        resources.insert("memory".into(), bytes.into());
    }
    resources.extend(own.custom.iter().map(|(name, amount)| (name.clone(), (*amount).into())));
    resources.into()
}

/// Ray's `DeploymentSchema`, with either a fixed number or autoscaling.
fn deployment_config(config: &DeploymentConfig) -> Value {
    // -1 is Ray's word for no bound.
    let bounded = i64::from(config.max_queued_requests);
    let queued = if config.max_queued_requests == u32::MAX { -1 } else { bounded };
    let mut actor = Map::from_iter([("num_cpus".to_owned(), config.resources.num_cpus.into())]);
    if config.resources.num_gpus > 0.0 {
        actor.insert("num_gpus".into(), config.resources.num_gpus.into());
    }
    if !config.env_vars.is_empty() {
        actor.insert("runtime_env".into(), json!({"env_vars": config.env_vars}));
    }
    let mut schema = json!({
        "name": config.id.deployment,
        "max_ongoing_requests": config.max_ongoing_requests,
        "max_queued_requests": queued,
        "backpressure_config": config.backpressure,
        "user_config": config.user_config,
        "graceful_shutdown_wait_loop_s": 2.0,
        "graceful_shutdown_timeout_s": config.graceful_shutdown_timeout_s,
        "health_check_period_s": config.health_check.period_s,
        "health_check_timeout_s": config.health_check.timeout_s,
        "ray_actor_options": actor,
        "request_router_config": request_router_config(config),
        "rolling_update_percentage": config.rollout.rolling_update_percentage,
        "max_surge_percent": config.rollout.max_surge_percent,
    });
    if let Some(most) = config.resources.max_replicas_per_node {
        schema["max_replicas_per_node"] = most.into();
    }
    if let Some(gang) = config.gang_scheduling {
        schema["gang_scheduling_config"] = json!(gang);
    }
    if !config.deployment_actors.is_empty() {
        schema["deployment_actors"] = config.deployment_actors.iter().map(actor_config).collect();
    }
    match config.num_replicas {
        Some(number) => schema["num_replicas"] = number.into(),
        None => schema["autoscaling_config"] = autoscaling_config(config),
    }
    schema
}

/// Ray's `DeploymentActorConfig`.
fn actor_config(actor: &DeploymentActor) -> Value {
    let own = &actor.resources;
    let set = |amount: f64| Some(amount).filter(|amount| *amount > 0.0);
    let options = [
        ("num_cpus", set(own.num_cpus).map(Value::from)),
        ("num_gpus", set(own.num_gpus).map(Value::from)),
        ("memory", own.memory_bytes.map(Value::from)),
        ("resources", (!own.custom.is_empty()).then(|| json!(own.custom))),
        ("max_concurrency", actor.max_concurrency.map(Value::from)),
        ("max_pending_calls", actor.max_pending_calls.map(Value::from)),
        ("runtime_env", (!actor.env_vars.is_empty()).then(|| json!({"env_vars": actor.env_vars}))),
    ];
    let options = options.into_iter().filter_map(|(name, value)| Some((name.to_owned(), value?)));
    json!({
        "name": actor.name,
        "actor_class": actor.actor_class,
        "init_args": actor.init_args,
        "init_kwargs": actor.init_kwargs,
        "actor_options": Map::from_iter(options),
    })
}

fn request_router_config(config: &DeploymentConfig) -> Value {
    if let Some(router) = &config.request_router {
        return json!(router);
    }
    let Some(affinity) = &config.prefix_affinity else { return json!({}) };
    json!({
        "request_router_class": "ray.serve.llm.request_router:PrefixCacheAffinityRouter",
        "request_router_kwargs": {
            "imbalanced_threshold": affinity.imbalanced_threshold,
            "match_rate_threshold": affinity.match_rate_threshold,
            "eviction_threshold_chars": affinity.max_bytes,
        },
    })
}

fn autoscaling_config(config: &DeploymentConfig) -> Value {
    let own = &config.autoscaling;
    json!({
        "min_replicas": own.min_replicas,
        "initial_replicas": own.initial_replicas,
        "max_replicas": own.max_replicas,
        "target_ongoing_requests": own.target_ongoing_requests,
        "metrics_interval_s": 10.0,
        "look_back_period_s": own.look_back_period_s,
        "aggregation_function": own.aggregation_function,
        "upscale_delay_s": own.upscale_delay_s,
        "downscale_delay_s": own.downscale_delay_s,
        "downscale_to_zero_delay_s": own.downscale_to_zero_delay_s,
        "upscaling_factor": own.upscaling_factor,
        "downscaling_factor": own.downscaling_factor,
        "smoothing_factor": 1.0,
        "upscale_smoothing_factor": null,
        "downscale_smoothing_factor": null,
    })
}
