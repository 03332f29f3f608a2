//! API keys, from the file to the table of usage.

use crate::{haiku, server};
use anyhow::{Context, Result, ensure};
use serde_json::{Value, json};
use std::process::Command;
use tyndall_testkit::{Server, eventually};

fn tyndall(args: &[&str]) -> Result<String> {
    let output = Command::new(env!("CARGO_BIN_EXE_tyndall")).args(args).output()?;
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    ensure!(output.status.success(), "{args:?} failed: {said}");
    Ok(String::from_utf8(output.stdout)?)
}

/// Waits until a key is told to have used this: requests, refused, tokens of prompts and completions.
fn usage_is(server: &Server, name: &str, expected: [u64; 4]) -> Result<()> {
    eventually("the usage is told", || {
        let days = server.admin_get("/api/tyndall/keys/usage").ok()?.json();
        let of = days.as_array()?.iter().find(|day| day["name"] == name)?.clone();
        let count = |field: &str| of[field].as_u64().unwrap_or_default();
        let fields = ["requests", "refused", "prompt_tokens", "completion_tokens"];
        (fields.map(count) == expected).then_some(())
    })
}

#[test]
fn keys_let_in_limit_and_count() -> Result<()> {
    let home = tempfile::tempdir()?;
    let file = home.path().join("keys.toml").display().to_string();
    let new = |name| -> Result<String> {
        Ok(tyndall(&["keys", "new", "--name", name, "--file", &file])?.trim().to_owned())
    };
    let (free, limited) = (new("free")?, new("limited")?);
    let limits = format!(
        "{}models = [\"demo\"]\ntokens_per_minute = 1\n\n",
        std::fs::read_to_string(&file)?
    );
    std::fs::write(&file, limits)?;
    let other = new("other")?;
    let text = std::fs::read_to_string(&file)?;
    std::fs::write(&file, format!("{text}models = [\"else\"]\n"))?;
    let server = server().arg("--api-keys", &file).env("TYNDALL_API_KEY", "plain").start("demo")?;

    let body = json!({"model": "demo", "prompt": "Hello", "max_tokens": 5, "ignore_eos": true});
    let bearer = |key: &str| format!("Bearer {key}");
    let ask =
        |header: &str, value: &str| server.post_with("/v1/completions", (header, value), &body);
    let refused = ask("authorization", &bearer("sk-tyndall-wrong"))?;
    assert_eq!((refused.status, refused.header("www-authenticate")), (401, "Bearer"));
    assert_eq!(server.post("/generate", &haiku())?.status, 401);
    assert_eq!(server.get("/healthz")?.status, 200);

    let answer = ask("authorization", &bearer(&free))?;
    assert_eq!(answer.status, 200, "{}", answer.text);
    let used = &answer.json()["usage"];
    let count = |used: &Value, field: &str| used[field].as_u64().context("no count");
    let expected = [1, 0, count(used, "prompt_tokens")?, count(used, "completion_tokens")?];
    usage_is(&server, "free", expected)?;

    let answer = ask("x-api-key", &limited)?;
    assert_eq!((answer.status, answer.header("x-ratelimit-limit-tokens")), (200, "1"));
    assert!(!answer.headers.contains_key("x-tyndall-usage"));
    let refused = ask("x-api-key", &limited)?;
    assert_eq!(refused.status, 429);
    assert!(refused.header("retry-after").parse::<u64>()? > 60);
    usage_is(&server, "limited", [1, 1, expected[2], expected[3]])?;

    let refused = ask("x-api-key", &other)?;
    assert_eq!((refused.status, &refused.json()["error"]["param"]), (403, &json!("model")));
    assert_eq!(ask("x-api-key", "plain")?.status, 200);

    let page = server.get("/metrics")?.text;
    assert!(page.contains("tyndall_api_key_completion_tokens_total{api_key=\"free\"} 5"), "{page}");
    let told = tyndall(&["keys", "usage", "--address", &server.admin])?;
    let line = told.lines().find(|line| line.starts_with("limited")).context(told.clone())?;
    assert!(line.split_whitespace().skip(1).take(2).eq(["1", "1"]), "{told}");
    Ok(())
}
