//! Commands against a running server, with a model of one layer whose weights are all zero.
#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

use serde_json::json;
use std::path::Path;
use std::process::{Command, Output};
use tyndall_testkit::{Server, descendants, eventually};

const BINARY: &str = env!("CARGO_BIN_EXE_tyndall");

/// Writes a checkpoint that answers every prompt with the same token.
fn write_model(dir: &Path) {
    let (hidden, intermediate, vocab) = (64, 128, 100);
    let config = json!({
        "architectures": ["LlamaForCausalLM"], "model_type": "llama", "hidden_size": hidden,
        "intermediate_size": intermediate, "num_hidden_layers": 1, "num_attention_heads": 2,
        "num_key_value_heads": 2, "vocab_size": vocab, "max_position_embeddings": 128,
        "rms_norm_eps": 1e-5, "hidden_act": "silu", "rope_theta": 10000.0,
        "torch_dtype": "bfloat16", "tie_word_embeddings": true,
    });
    let tokenizer = json!({
        "version": "1.0", "added_tokens": [],
        "model": {"type": "BPE", "vocab": {"a": 0, "b": 1}, "merges": []},
    });
    let layer = |name: &str| format!("model.layers.0.{name}.weight");
    let tensors = [
        ("model.embed_tokens.weight".to_owned(), vec![vocab, hidden]),
        ("model.norm.weight".to_owned(), vec![hidden]),
        (layer("input_layernorm"), vec![hidden]),
        (layer("post_attention_layernorm"), vec![hidden]),
        (layer("self_attn.q_proj"), vec![hidden, hidden]),
        (layer("self_attn.k_proj"), vec![hidden, hidden]),
        (layer("self_attn.v_proj"), vec![hidden, hidden]),
        (layer("self_attn.o_proj"), vec![hidden, hidden]),
        (layer("mlp.gate_proj"), vec![intermediate, hidden]),
        (layer("mlp.up_proj"), vec![intermediate, hidden]),
        (layer("mlp.down_proj"), vec![hidden, intermediate]),
    ];
    let mut end = 0;
    let mut header = serde_json::Map::new();
    for (name, shape) in tensors {
        let begin = end;
        end += 2 * shape.iter().product::<usize>();
        let entry = json!({"dtype": "BF16", "shape": shape, "data_offsets": [begin, end]});
        header.insert(name, entry);
    }
    let header = serde_json::to_vec(&header).unwrap();
    let mut weights = (header.len() as u64).to_le_bytes().to_vec();
    weights.extend(header);
    weights.resize(weights.len() + end, 0);
    std::fs::create_dir(dir).unwrap();
    std::fs::write(dir.join("model.safetensors"), weights).unwrap();
    std::fs::write(dir.join("config.json"), config.to_string()).unwrap();
    std::fs::write(dir.join("tokenizer.json"), tokenizer.to_string()).unwrap();
}

struct Running {
    server: Server,
    _dir: tempfile::TempDir,
}

fn start(name: &str) -> Running {
    let dir = tempfile::tempdir().unwrap();
    let model = dir.path().join("zeros");
    write_model(&model);
    let server = Server::builder(BINARY).arg("--name", name).start(&model).unwrap();
    Running { server, _dir: dir }
}

impl Running {
    fn command(&self, args: &[&str]) -> Output {
        let mut command = Command::new(BINARY);
        command.args(args).env("TYNDALL_ADDRESS", &self.server.admin);
        command.output().unwrap()
    }

    fn prints(&self, args: &[&str]) -> String {
        let output = self.command(args);
        assert_eq!(String::from_utf8_lossy(&output.stderr), "");
        assert!(output.status.success());
        String::from_utf8(output.stdout).unwrap()
    }

    fn generate(&self) -> String {
        let body = json!({
            "prompt": "a", "generation_kwargs": {"max_new_tokens": 3, "temperature": 0}
        });
        let answer = self.server.post("/generate", &body).unwrap();
        assert_eq!(answer.status, 200, "{}", answer.text);
        answer.text
    }
}

#[test]
fn a_server_is_watched_and_ended_from_another_terminal() {
    let mut s = start("org/zeros");
    let said = s.server.output();
    for part in ["KV cache", "serving org/zeros at http", "curl -s http", "the first request wakes"]
    {
        assert!(said.contains(part), "{part:?} is not in:\n{said}");
    }
    assert!(s.prints(&["status"]).contains("0 of 0"));
    assert!(s.generate().starts_with(r#"{"model":"org/zeros","prompts":["a"],"completions":"#));
    let status = s.prints(&["status"]);
    assert!(status.contains("RUNNING") && status.contains("1 of 1"), "{status}");
    let details: serde_json::Value =
        serde_json::from_str(&s.prints(&["status", "--json"])).unwrap();
    assert_eq!(details["applications"]["org/zeros"]["status"], "RUNNING");
    let woke = eventually("the wake is told by phases", || {
        let output = s.server.output();
        output.lines().find(|line| line.contains("org/zeros woke in")).map(str::to_owned)
    });
    let woke = woke.unwrap();
    assert!(woke.contains("weights") && woke.contains("first_step"), "{woke}");

    let started = descendants(s.server.pid());
    assert!(s.prints(&["shutdown"]).starts_with("shutting down"));
    assert!(s.server.wait(&started).unwrap().success());
    assert_eq!(s.command(&["status"]).status.code(), Some(1));
}

#[test]
fn a_deployment_is_deleted_by_name() {
    let s = start("zeros");
    s.generate();
    let output = s.command(&["delete", "nobody"]);
    assert_eq!(output.status.code(), Some(1));
    assert_eq!(
        String::from_utf8_lossy(&output.stderr),
        "error: no application nobody\nhelp: there are: zeros\n"
    );
    assert!(s.prints(&["delete", "zeros"]).starts_with("deleting zeros"));
    s.server.wait_for_replicas(0).unwrap();
    eventually("nothing is deployed", || {
        (s.prints(&["status"]) == "nothing is deployed\n").then_some(())
    })
    .unwrap();
    let answer = s.server.post("/generate", &json!({"prompt": "a"})).unwrap();
    assert!((400..504).contains(&answer.status), "{}", answer.text);
}

#[test]
fn log_flags_reach_every_process() {
    let dir = tempfile::tempdir().unwrap();
    let model = dir.path().join("zeros");
    write_model(&model);
    let builder = Server::builder(BINARY).arg("--log", "debug").arg("--log-format", "json");
    let server = builder.env("TYNDALL_ISA", "portable").start(&model).unwrap();
    let s = Running { server, _dir: dir };
    s.generate();
    let roles = |output: &str| {
        let lines = output.lines().filter_map(|line| serde_json::from_str(line).ok());
        let mut roles: Vec<String> = lines
            .filter_map(|line: serde_json::Value| Some(line["role"].as_str()?.to_owned()))
            .collect();
        roles.sort();
        roles.dedup();
        roles
    };
    let found = eventually("four processes log JSON", || {
        Some(roles(&s.server.output())).filter(|roles| roles.len() >= 3)
    });
    assert!(found.unwrap().iter().any(|role| role.starts_with("zeros-")));
    assert!(s.server.output().contains("Portable"), "the instruction set is handed down");
}
