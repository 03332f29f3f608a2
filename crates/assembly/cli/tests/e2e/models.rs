//! Many models on one machine.

use crate::applications::file;
use crate::{demo_copy, server};
use anyhow::{Context, Result};
use serde_json::{Value, json};
use std::sync::atomic::{AtomicBool, Ordering};
use tyndall_testkit::{Server, eventually, pause};
use tyndall_types::ApplicationStatus;

/// An application of one model that takes so much of the memory beside its weights.
fn model(name: &str, source: &str, kv_cache: &str) -> Value {
    json!({
        "name": name, "route_prefix": format!("/{name}"),
        "model": {
            "model_loading_config": {"model_id": name, "model_source": source},
            "engine_kwargs": {"kv_cache_memory_bytes": kv_cache},
            "deployment_config": {"autoscaling_config": {"min_replicas": 0, "max_replicas": 1}},
        },
    })
}

fn ask(server: &Server, name: &str) -> Result<(u16, String)> {
    let body = json!({"model": name, "prompt": "Once", "max_tokens": 4, "temperature": 0});
    let answer = server.post(&format!("/{name}/v1/completions"), &body)?;
    Ok((answer.status, answer.text))
}

/// Processes of models, by what the controller knows of them.
fn num_replicas(server: &Server) -> Result<usize> {
    let applications = server.status()?.applications;
    let deployments = applications.values().flat_map(|app| app.deployments.values());
    Ok(deployments.map(|deployment| deployment.replicas.len()).sum())
}

#[test]
fn models_that_do_not_fit_together_take_turns() -> Result<()> {
    let names = ["a", "b", "c"];
    let apps: Vec<Value> = names.iter().map(|name| model(name, "demo", "100MiB")).collect();
    let config = file(&json!({"applications": apps}))?;
    let server = server().arg("--node-memory", "300MiB").start(&config.path)?;
    let is_over = AtomicBool::new(false);
    std::thread::scope(|scope| -> Result<()> {
        let clients: Vec<_> = names
            .iter()
            .map(|name| {
                let server = &server;
                scope.spawn(move || -> Result<()> {
                    for _ in 0..5 {
                        let (status, text) = ask(server, name)?;
                        anyhow::ensure!(status == 200, "{name}: {status} {text}");
                    }
                    Ok(())
                })
            })
            .collect();
        let look = scope.spawn(|| -> Result<usize> {
            let mut most = 0;
            while !is_over.load(Ordering::Relaxed) {
                most = most.max(num_replicas(&server)?);
                pause(std::time::Duration::from_millis(5));
            }
            Ok(most)
        });
        let answered: Result<()> =
            clients.into_iter().try_for_each(|client| client.join().expect("it does not panic"));
        is_over.store(true, Ordering::Relaxed);
        let most = look.join().expect("it does not panic")?;
        answered?;
        assert_eq!(most, 2, "as many as fit");
        Ok(())
    })?;
    let events = server.admin_get("/api/tyndall/events")?.text;
    assert!(events.contains("gave_way"), "{events}");
    Ok(())
}

#[test]
fn what_cannot_fit_or_start_is_refused_and_leaves_the_others_alone() -> Result<()> {
    let (_home, broken) = demo_copy()?;
    let broken_path = broken.display().to_string();
    let apps = [
        model("good", "demo", "64MiB"),
        model("large", "demo", "1GiB"),
        model("broken", &broken_path, "64MiB"),
    ];
    let config = file(&json!({"applications": apps}))?;
    let server = server().arg("--node-memory", "600MiB").start(&config.path)?;
    let large = eventually("it is refused", || {
        let app = server.application("large").ok()?;
        (app.status == ApplicationStatus::DeployFailed).then_some(app)
    })?;
    let told = "needs 1.01 GiB: weights 0.00 GiB, KV cache 1.00 GiB";
    assert!(large.message.contains(told), "{}", large.message);
    // It was whole when it was deployed, and can no longer be started.
    std::fs::write(broken.join("tokenizer.json"), "{")?;
    let (status, text) = ask(&server, "broken")?;
    assert_eq!(status, 503, "{text}");
    assert!(text.contains("tokenizer"), "{text}");
    for _ in 0..5 {
        assert_eq!(ask(&server, "good")?.0, 200);
        assert_eq!(ask(&server, "broken")?.0, 503);
    }
    let good = server.application("good")?;
    let deployment = good.deployments.values().next().context("it has one")?;
    assert_eq!(deployment.replicas.len(), 1);
    Ok(())
}
