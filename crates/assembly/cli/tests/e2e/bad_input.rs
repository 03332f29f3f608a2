//! Bad input: a clear message, the right status, and the server goes on.

use crate::{demo_copy, haiku, server};
use anyhow::Result;
use serde_json::json;
use std::process::{Command, Output};

fn tyndall(args: &[&str]) -> Result<Output> {
    Ok(Command::new(env!("CARGO_BIN_EXE_tyndall")).args(args).output()?)
}

#[test]
fn bad_requests_are_refused_without_a_wake() -> Result<()> {
    let server = server().start("demo")?;
    let generate = |body: &str| server.post_bytes("/generate", body.as_bytes());
    for body in [
        "",
        "{",
        "[]",
        "{}",
        r#"{"prompt": null}"#,
        r#"{"prompts": []}"#,
        r#"{"prompts": [{}]}"#,
        r#"{"prompt": "x", "generation_kwargs": []}"#,
        r#"{"prompt": "x", "generation_kwargs": {"max_new_tokens": 0}}"#,
        r#"{"prompt": "x", "generation_kwargs": {"max_new_tokens": -1}}"#,
        r#"{"prompt": "x", "generation_kwargs": {"max_new_tokens": "many"}}"#,
        r#"{"prompt": "x", "generation_kwargs": {"temperature": -0.5}}"#,
        r#"{"prompt": "x", "generation_kwargs": {"temperature": NaN}}"#,
        r#"{"prompt": "x", "generation_kwargs": {"top_p": 0}}"#,
    ] {
        let answer = generate(body)?;
        assert_eq!(answer.status, 400, "{body}: {}", answer.text);
        assert!(answer.json()["error"].as_str().is_some_and(|e| !e.is_empty()), "{body}");
    }
    for (path, body, status) in [
        ("/v1/completions", r#"{"model": "demo"}"#, 400),
        ("/v1/completions", r#"{"model": "demo", "prompt": 5}"#, 400),
        ("/v1/completions", r#"{"model": "nobody", "prompt": "x"}"#, 404),
        ("/v1/completions", r#"{"model": "demo", "prompt": "x", "max_tokens": -1}"#, 400),
        ("/v1/completions", r#"{"model": "demo", "prompt": "x", "top_p": 2}"#, 400),
        ("/v1/chat/completions", r#"{"model": "demo"}"#, 400),
        ("/v1/chat/completions", r#"{"model": "demo", "messages": "hi"}"#, 400),
        ("/v1/chat/completions", "", 400),
    ] {
        let answer = server.post_bytes(path, body.as_bytes())?;
        assert_eq!(answer.status, status, "{path} {body}: {}", answer.text);
        assert!(answer.json()["error"]["message"].is_string(), "{path} {body}");
    }
    assert_eq!(server.get("/generate")?.status, 405);
    assert_eq!(server.get("/v1/nowhere")?.status, 404);
    assert_eq!(server.pids_of("replica").len(), 0, "none of it woke the model");
    assert_eq!(server.post("/generate", &haiku())?.status, 200);
    Ok(())
}

#[test]
fn a_prompt_over_the_context_is_refused_with_both_numbers() -> Result<()> {
    let server = server().arg("--max-model-len", "64").start("demo")?;
    let long = json!({"model": "demo", "prompt": "light ".repeat(200)});
    let answer = server.post("/v1/completions", &long)?;
    assert_eq!(answer.status, 400, "{}", answer.text);
    let message = answer.json()["error"]["message"].to_string();
    assert!(message.contains("64"), "{message}");
    assert_eq!(server.post("/generate", &json!({"prompt": "light ".repeat(200)}))?.status, 400);
    assert_eq!(server.post("/generate", &haiku())?.status, 200);
    Ok(())
}

#[test]
fn a_target_that_is_no_model_is_refused_before_anything_starts() -> Result<()> {
    let (home, model) = demo_copy()?;
    let check = |expected: &str| -> Result<()> {
        let path = model.to_string_lossy();
        let output = tyndall(&["run", &path, "--port", "0", "--admin-port", "0"])?;
        let said = String::from_utf8_lossy(&output.stderr).into_owned();
        assert_eq!(output.status.code(), Some(1), "{said}");
        assert!(said.contains(expected) && said.contains("help: "), "{said}");
        Ok(())
    };
    let config = std::fs::read_to_string(model.join("config.json"))?;
    std::fs::write(
        model.join("config.json"),
        config.replace("LlamaForCausalLM", "BloomForCausalLM"),
    )?;
    check("BloomForCausalLM")?;
    std::fs::write(model.join("config.json"), "{")?;
    check("config.json")?;
    std::fs::remove_file(model.join("config.json"))?;
    check("config.json")?;
    let empty = home.path().join("nothing");
    std::fs::create_dir(&empty)?;
    let output = tyndall(&["run", &empty.to_string_lossy(), "--port", "0"])?;
    assert_eq!(output.status.code(), Some(1));
    Ok(())
}

#[test]
fn a_port_in_use_is_named() -> Result<()> {
    let taken = std::net::TcpListener::bind("127.0.0.1:0")?;
    let port = taken.local_addr()?.port().to_string();
    let output = tyndall(&["run", "demo", "--port", &port, "--admin-port", "0"])?;
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    assert_eq!(output.status.code(), Some(1), "{said}");
    assert!(said.contains(&port) && said.contains("help: "), "{said}");
    Ok(())
}

#[test]
fn a_state_directory_has_one_owner_and_outlives_it() -> Result<()> {
    let home = tempfile::tempdir()?;
    let state = home.path().join("state");
    let state = state.to_string_lossy();
    let mut first = server().arg("--state-dir", &state).start("demo")?;
    let run = ["run", "demo", "--port", "0", "--admin-port", "0", "--state-dir", &state];
    let output = tyndall(&run)?;
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    assert_eq!(output.status.code(), Some(1), "{said}");
    assert!(said.contains("in use") && said.contains("help: "), "{said}");
    assert_eq!(first.post("/generate", &haiku())?.status, 200);
    let started = tyndall_testkit::descendants(first.pid());
    first.signal(tyndall_testkit::Signal::TERM);
    assert!(first.wait(&started)?.success());

    let again = server().arg("--state-dir", &state).start("demo")?;
    assert_eq!(again.post("/generate", &haiku())?.status, 200);
    assert_eq!(again.status()?.applications.len(), 1);
    Ok(())
}

#[test]
fn log_flags_reach_every_process() -> Result<()> {
    let server = server().arg("--log-format", "json").arg("--log", "debug").start("demo")?;
    assert_eq!(server.post("/generate", &haiku())?.status, 200);
    for role in ["controller", "proxy", "replica"] {
        let pids = server.pids_of(role);
        let environment = std::fs::read_to_string(format!("/proc/{}/environ", pids[0]))?;
        let variables: Vec<&str> = environment.split('\0').collect();
        assert!(variables.contains(&"TYNDALL_LOG=debug"), "{role}");
        assert!(variables.contains(&"TYNDALL_LOG_FORMAT=json"), "{role}");
    }
    Ok(())
}

#[test]
fn commands_without_a_server_say_so() -> Result<()> {
    for command in [&["status"][..], &["delete", "demo"], &["shutdown"]] {
        let address = ["--address", "http://127.0.0.1:9"];
        let output = tyndall(&[command, &address].concat())?;
        let said = String::from_utf8_lossy(&output.stderr).into_owned();
        assert_eq!(output.status.code(), Some(1), "{said}");
        assert!(said.contains("help: "), "{said}");
    }
    Ok(())
}
