//! Updates under load.

use crate::applications::{file, stdout};
use crate::{demo_copy, server};
use anyhow::{Result, ensure};
use serde_json::{Value, json};
use std::path::Path;
use std::process::Command;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::thread;
use std::time::Duration;
use tyndall_testkit::{Server, eventually, pause};
use tyndall_types::ApplicationStatus;
use tyndall_types::protocol::ApplicationDetails;

fn config(model: &Path, replicas: u32) -> Value {
    json!({"applications": [{
        "name": "app", "route_prefix": "/", "external_scaler_enabled": true,
        "model": {
            "model_loading_config": {"model_id": "m", "model_source": model},
            "engine_kwargs": {"max_model_len": 512},
            "deployment_config": {"num_replicas": replicas, "graceful_shutdown_timeout_s": 60},
        },
    }]})
}

/// Asks without a pause until told to stop, whole answers and streams in turn; how many were
/// answered. Anything but a whole answer is an error.
fn keep_asking(server: &Server, is_over: &AtomicBool, answered: &AtomicUsize) -> Result<()> {
    let mut is_stream = false;
    while !is_over.load(Ordering::SeqCst) {
        is_stream = !is_stream;
        let body = json!({
            "model": "m", "prompt": "Write a haiku about rain.", "max_tokens": 40,
            "ignore_eos": true, "stream": is_stream,
        });
        if is_stream {
            let stream = server.stream("/v1/completions", &body)?;
            ensure!(stream.status == 200, "a stream began with {}", stream.status);
            let events: Vec<String> = stream.collect();
            let error = events.iter().find(|event| event.contains("\"error\""));
            ensure!(error.is_none(), "a stream had an error: {error:?}");
            ensure!(events.last().is_some_and(|last| last == "[DONE]"), "a stream broke off");
        } else {
            let answer = server.post("/v1/completions", &body)?;
            ensure!(answer.status == 200, "{}: {}", answer.status, answer.text);
        }
        answered.fetch_add(1, Ordering::SeqCst);
    }
    Ok(())
}

fn until(
    server: &Server,
    what: &str,
    is_so: impl Fn(&ApplicationDetails) -> bool,
) -> Result<ApplicationDetails> {
    eventually(what, || server.application("app").ok().filter(&is_so))
}

fn is_done(app: &ApplicationDetails, version: u64) -> bool {
    let settled = app.deployments.values().all(|deployment| {
        deployment.status.as_str() == "HEALTHY" && deployment.replicas.len() == 2
    });
    app.status == ApplicationStatus::Running && app.version == version && settled
}

#[test]
fn a_good_update_a_bad_one_and_a_rollback_lose_nothing() -> Result<()> {
    let (_first_home, first) = demo_copy()?;
    let (_second_home, second) = demo_copy()?;
    let (_third_home, third) = demo_copy()?;
    // It can be planned, and cannot start.
    std::fs::write(third.join("tokenizer.json"), "no tokenizer")?;
    let server = server().start(file(&config(&first, 2))?.path)?;
    let (is_over, answered) = (AtomicBool::new(false), AtomicUsize::new(0));
    let some_more = |what: &str| {
        let before = answered.load(Ordering::SeqCst);
        eventually(what, || (answered.load(Ordering::SeqCst) > before + 8).then_some(()))
    };
    thread::scope(|scope| {
        let clients: Vec<_> =
            (0..4).map(|_| scope.spawn(|| keep_asking(&server, &is_over, &answered))).collect();
        let steps = || -> Result<()> {
            some_more("answers before")?;
            assert_eq!(server.deploy(&config(&second, 2))?.status, 200);
            until(&server, "the update is done", |app| is_done(app, 2))?;
            some_more("answers of the second version")?;
            assert_eq!(server.deploy(&config(&third, 2))?.status, 200);
            let app = until(&server, "the bad one is rolled back", |app| is_done(app, 4))?;
            let told = "version 3 was rolled back to version 2: LLMServer:m: a replica failed";
            assert!(app.message.starts_with(told), "{}", app.message);
            some_more("answers after the rollback")?;
            let output = Command::new(env!("CARGO_BIN_EXE_tyndall"))
                .args(["rollback", "app", "--to", "1", "--address", &server.admin])
                .output()?;
            assert_eq!(stdout(&output), "app goes back to version 1\n");
            until(&server, "the first is back", |app| is_done(app, 5))?;
            some_more("answers of the first version")
        };
        let outcome = steps();
        is_over.store(true, Ordering::SeqCst);
        for client in clients {
            client.join().expect("the thread does not panic")?;
        }
        outcome
    })?;
    let list = Command::new(env!("CARGO_BIN_EXE_tyndall"))
        .args(["rollback", "app", "--list", "--address", &server.admin])
        .output()?;
    let list = stdout(&list);
    assert_eq!(list.lines().count(), 6, "{list}");
    assert!(list.contains("rolled back to version 2"), "{list}");
    Ok(())
}

#[test]
fn slow_streams_survive_a_hundred_changes_of_membership() -> Result<()> {
    let (_home, model) = demo_copy()?;
    let server = server().start(file(&config(&model, 3))?.path)?;
    let scale = |target: u32| -> Result<()> {
        let path = "/api/v1/applications/app/deployments/LLMServer:m/scale";
        let answer = server.admin_post(path, &json!({"target_num_replicas": target}))?;
        ensure!(answer.status == 200, "{}", answer.text);
        Ok(())
    };
    let (is_over, unused) = (AtomicBool::new(false), AtomicUsize::new(0));
    // A reader that pauses keeps its stream open for as long as the test takes.
    let read = || -> Result<usize> {
        let body = json!({
            "model": "m", "prompt": "Hello", "n": 4, "max_tokens": 400, "ignore_eos": true,
            "stream": true,
        });
        let stream = server.stream("/v1/completions", &body)?;
        ensure!(stream.status == 200, "{}", stream.status);
        let mut num_events = 0;
        let mut last = String::new();
        for event in stream {
            ensure!(!event.contains("\"error\""), "{event}");
            num_events += 1;
            last = event;
            if !is_over.load(Ordering::SeqCst) {
                pause(Duration::from_millis(20));
            }
        }
        ensure!(last == "[DONE]", "broke off after {num_events} events");
        Ok(num_events)
    };
    thread::scope(|scope| {
        let readers: Vec<_> = (0..6).map(|_| scope.spawn(read)).collect();
        let asker = scope.spawn(|| keep_asking(&server, &is_over, &unused));
        let changes = || -> Result<()> {
            let mut num_changes = 0;
            let mut target = 3;
            while num_changes < 100 {
                let next = if target == 3 { 1 } else { target + 1 };
                scale(next)?;
                until(&server, "the number of replicas is as asked", |app| {
                    let replicas = app.deployments.values().flat_map(|d| &d.replicas);
                    let running = replicas.filter(|r| r.state.as_str() == "RUNNING").count();
                    running == next as usize
                })?;
                num_changes += u32::abs_diff(target, next);
                target = next;
            }
            Ok(())
        };
        let outcome = changes();
        is_over.store(true, Ordering::SeqCst);
        for reader in readers {
            assert!(reader.join().expect("the thread does not panic")? > 1000);
        }
        asker.join().expect("the thread does not panic")?;
        outcome
    })
}
