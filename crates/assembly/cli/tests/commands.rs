//! The real binary: what it prints, where, and with which exit code.
#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::net::TcpListener;
use std::path::Path;
use std::process::{Command, Output};

struct Tyndall {
    command: Command,
    home: tempfile::TempDir,
}

/// The binary in an environment of its own, without any way to a network.
fn tyndall(args: &[&str]) -> Tyndall {
    let home = tempfile::tempdir().unwrap();
    let mut command = Command::new(env!("CARGO_BIN_EXE_tyndall"));
    command
        .args(args)
        .env_clear()
        .env("HOME", home.path())
        .env("HF_HUB_OFFLINE", "1")
        .current_dir(home.path());
    Tyndall { command, home }
}

impl Tyndall {
    fn env(mut self, name: &str, value: &str) -> Self {
        self.command.env(name, value);
        self
    }

    fn output(&mut self) -> Output {
        self.command.output().unwrap()
    }

    /// Fails with this code and exactly these lines, where `HOME` stands for the home directory.
    fn fails(mut self, code: i32, stderr: &str) {
        let output = self.output();
        let home = self.home.path().to_str().unwrap();
        let said = String::from_utf8(output.stderr).unwrap().replace(home, "HOME");
        assert_eq!(said, stderr);
        assert_eq!(output.status.code(), Some(code));
        assert_eq!(String::from_utf8_lossy(&output.stdout), "");
    }

    /// Succeeds, says nothing on standard error, and prints this.
    fn prints(mut self) -> String {
        let output = self.output();
        assert_eq!(String::from_utf8_lossy(&output.stderr), "");
        assert!(output.status.success());
        String::from_utf8(output.stdout).unwrap()
    }

    fn file(self, name: &str, content: &[u8]) -> Self {
        let path = self.home.path().join(name);
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::write(path, content).unwrap();
        self
    }
}

#[test]
fn help_teaches() {
    let help = tyndall(&["--help"]).prints();
    for part in
        ["tyndall run demo", "curl -s", "run", "status", "delete", "shutdown", "plan", "pull"]
    {
        assert!(help.contains(part), "{part:?} is not in:\n{help}");
    }
    assert!(!help.contains("role"), "roles are not for users:\n{help}");

    let run = tyndall(&["run", "--help"]).prints();
    let all = ["min-replicas", "idle-timeout", "state-dir", "memory", "insecure", "print-config"];
    for flag in all {
        assert!(run.contains(&format!("--{flag}")), "{flag} is not in:\n{run}");
    }
    let words = run.split_whitespace().collect::<Vec<_>>().join(" ");
    assert!(words.contains("[env: TYNDALL_MAX_REPLICAS MAX_REPLICAS] [default: auto]"), "{words}");
    assert!(words.contains("Examples: tyndall run demo --port 9000"), "{words}");
}

#[test]
fn no_command_is_a_usage_error() {
    let output = tyndall(&[]).output();
    assert_eq!(output.status.code(), Some(2));
    assert!(String::from_utf8_lossy(&output.stderr).contains("Usage: tyndall <COMMAND>"));
    let output = tyndall(&["run", "--no-such-flag"]).output();
    assert_eq!(output.status.code(), Some(2));
    assert!(String::from_utf8_lossy(&output.stderr).contains("--no-such-flag"));
}

#[test]
fn every_shell_gets_completions() {
    for shell in ["bash", "zsh", "fish", "elvish", "powershell"] {
        assert!(tyndall(&["completions", shell]).prints().contains("idle-timeout"), "{shell}");
    }
}

#[test]
fn the_configuration_shows_where_values_come_from() {
    let text = tyndall(&["run", "demo", "--port", "9000", "--print-config"])
        .env("TYNDALL_MAX_REPLICAS", "3")
        .env("RAY_SERVE_AUTOSCALER_IDLE_TIMEOUT_S", "5")
        .prints();
    let line = |key: &str| {
        let line = text.lines().find(|line| line.starts_with(key)).unwrap();
        line.split_whitespace().skip(1).collect::<Vec<_>>().join(" ")
    };
    assert_eq!(line("target "), "demo TARGET");
    assert_eq!(line("port "), "9000 --port");
    assert_eq!(line("max_replicas"), "3 TYNDALL_MAX_REPLICAS");
    assert_eq!(line("idle_timeout"), "5 RAY_SERVE_AUTOSCALER_IDLE_TIMEOUT_S");
    assert_eq!(line("min_replicas"), "0 default");
}

#[test]
fn keys_are_made_and_files_of_them_checked() {
    let out = tyndall(&["keys", "new", "--name", "team"]).prints();
    let (secret, entry) = out.split_once("\n\n").unwrap();
    assert!(secret.starts_with("sk-tyndall-") && !entry.contains(secret), "{out}");
    let check = || tyndall(&["keys", "check", "keys.toml"]);
    let said = check().file("keys.toml", entry.as_bytes()).prints();
    assert_eq!(said, "keys.toml: 1 key, nothing wrong\n");
    let wrong = format!("{entry}weight = 0\n");
    let expected = "error: keys.toml:4: weight is 0, which is not a whole number from 1 to 1000\n";
    check().file("keys.toml", wrong.as_bytes()).fails(1, expected);
    // A server does not start with it either.
    let run =
        tyndall(&["run", "demo", "--port", "0", "--admin-port", "0", "--api-keys", "keys.toml"]);
    run.file("keys.toml", wrong.as_bytes()).fails(1, expected);
    tyndall(&["keys", "new", "--name", "a b"]).fails(
        1,
        "error: \"a b\" is no name of a key\nhelp: use 1 to 64 letters, digits, '.', '_' or '-', a \
         letter or digit first, and not api-key- at the beginning, which keys without a file have\n",
    );
}

#[test]
fn bad_settings_are_usage_errors_that_name_their_origin() {
    tyndall(&["run", "demo"]).env("MAX_REPLICAS", "two").fails(
        2,
        "error: MAX_REPLICAS is \"two\", which is not auto or a whole number from 1 to 1000\n",
    );
    tyndall(&["run", "demo", "--host", "0.0.0.0"]).fails(
        2,
        "error: --host 0.0.0.0 lets other machines in, and nothing asks who they are\n\
         help: give keys with --api-keys FILE, keep 127.0.0.1, or add --insecure if the network \
         is trusted\n",
    );
    tyndall(&["run", "demo"]).env("NUM_GPUS_PER_REPLICA", "1").fails(
        2,
        "error: NUM_GPUS_PER_REPLICA asks for 1 GPUs per replica, and this build runs models on \
         CPUs only\nhelp: unset NUM_GPUS_PER_REPLICA, or set it to 0\n",
    );
    tyndall(&["run", "demo"]).env("TYNDALL_ISA", "mmx").fails(
        2,
        "error: TYNDALL_ISA is \"mmx\", which is not one of auto, amx, avx512bf16, avx512, avx2 and portable\n",
    );
}

#[test]
fn config_files_are_checked_with_places_that_editors_follow() {
    let bad = b"applications:\n- import_path: a:b\n  deployments: [{name: D, num_repicas: 2}]\n";
    let good = b"applications:\n- import_path: a:b\n";
    let with_files = |args: &[&str]| tyndall(args).file("bad.yaml", bad).file("good.yaml", good);
    let output = with_files(&["config", "check", "bad.yaml", "good.yaml"]).output();
    assert_eq!(
        String::from_utf8(output.stdout).unwrap(),
        "bad.yaml:3:27: error: applications[0].deployments[0].num_repicas: \"num_repicas\" is no \
         field of DeploymentSchema\n  help: did you mean num_replicas?\n\
         bad.yaml: 1 application, 1 deployment: 1 error, 0 warnings\n\
         good.yaml: 1 application, 0 deployments: 0 errors, 0 warnings\n"
    );
    assert_eq!(output.status.code(), Some(1));
    let shown = with_files(&["config", "show", "good.yaml"]).prints();
    assert!(shown.contains("applications[0].import_path"), "{shown}");
    with_files(&["config", "show", "bad.yaml"]).fails(
        1,
        "error: bad.yaml cannot be used\nhelp: `tyndall config check bad.yaml` tells what\n",
    );
    let schema: serde_json::Value =
        serde_json::from_str(&tyndall(&["config", "schema"]).prints()).unwrap();
    assert_eq!(schema["$ref"], "#/$defs/ServeDeploySchema");
}

#[test]
fn a_model_that_is_not_there_is_one_line_of_cause_and_one_of_cure() {
    tyndall(&["run", "org/m", "--port", "0", "--admin-port", "0"]).fails(
        1,
        "error: org/m is not in the cache at HOME/.cache/huggingface/hub and HF_HUB_OFFLINE is set\n\
         help: unset HF_HUB_OFFLINE and `tyndall pull org/m`, or serve the model inside this \
         binary: `tyndall run demo`\n",
    );
    tyndall(&["pull", "org/m"])
        .env("HF_HUB_OFFLINE", "0")
        .env("HF_ENDPOINT", "http://127.0.0.1:1")
        .fails(
            1,
            "error: org/m is not in the cache and http://127.0.0.1:1 cannot be reached: connection \
         refused\n\
         help: check the network and HF_ENDPOINT, or serve the model inside this binary: \
         `tyndall run demo`\n",
        );
    tyndall(&["plan", "./nowhere"]).fails(
        1,
        "error: there is no directory ./nowhere\n\
         help: check the path, or serve the model inside this binary: `tyndall run demo`\n",
    );
    tyndall(&["plan", "what is this"]).fails(
        1,
        "error: \"what is this\" is neither a directory nor a Hugging Face model id: an id has \
         only letters, digits, '.', '_' and '-'\n\
         help: give `demo`, a directory such as ./my-model, or an id such as facebook/opt-125m\n",
    );
    tyndall(&["pull", "demo"]).fails(
        1,
        "error: demo is inside this binary and needs no download\n\
         help: serve it: `tyndall run demo`\n",
    );
}

#[test]
fn a_directory_without_a_model_is_refused_before_anything_starts() {
    tyndall(&["run", ".", "--port", "0", "--admin-port", "0"]).fails(
        1,
        "error: . is not a model: it has no config.json\n\
         help: a model directory holds config.json, *.safetensors or pytorch_model.bin, and \
         tokenizer.json or vocab.json with merges.txt\n",
    );
    let refused = |config: &[u8], weights: &[u8]| {
        let output = tyndall(&["plan", "m"])
            .file("m/config.json", config)
            .file("m/model.safetensors", weights)
            .file("m/tokenizer.json", b"{}")
            .output();
        assert_eq!(output.status.code(), Some(1));
        let said = String::from_utf8(output.stderr).unwrap();
        assert!(said.starts_with("error: "), "{said}");
        assert!(said.lines().count() <= 2, "{said}");
        said
    };
    let unknown = br#"{"architectures": ["NoSuchForCausalLM"], "model_type": "no_such"}"#;
    let said = refused(unknown, b"");
    assert!(said.contains("NoSuchForCausalLM") && said.contains("LlamaForCausalLM"), "{said}");
    assert!(refused(b"{", b"").contains("config.json"));
    let said = refused(LLAMA, b"\xff\xff\xff");
    assert!(said.contains("model.safetensors"), "{said}");
}

const LLAMA: &[u8] = br#"{
    "architectures": ["LlamaForCausalLM"], "model_type": "llama", "hidden_size": 64,
    "intermediate_size": 128, "num_hidden_layers": 1, "num_attention_heads": 2,
    "num_key_value_heads": 2, "vocab_size": 100, "max_position_embeddings": 128,
    "rms_norm_eps": 1e-5, "hidden_act": "silu", "rope_theta": 10000.0, "torch_dtype": "bfloat16"
}"#;

#[test]
fn a_port_in_use_is_told_before_anything_starts() {
    let taken = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = taken.local_addr().unwrap().port().to_string();
    for flag in ["--port", "--admin-port"] {
        let other = if flag == "--port" { "--admin-port" } else { "--port" };
        tyndall(&["run", "demo", flag, &port, other, "0"]).fails(
            1,
            &format!(
                "error: port {port} is in use\nhelp: end what listens on 127.0.0.1:{port}, or \
                 choose another port: {flag} 0 takes any\n"
            ),
        );
    }
}

#[test]
fn commands_for_a_server_say_when_there_is_none() {
    let unused = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    let url = format!("http://{unused}");
    for args in [&["status"][..], &["status", "--json"], &["delete", "m"], &["shutdown"]] {
        let args: Vec<&str> = args.iter().copied().chain(["--address", &url]).collect();
        tyndall(&args).fails(
            1,
            &format!(
                "error: no server runs at {url}\nhelp: start one with `tyndall run`, or name its \
                 admin URL with --address\n"
            ),
        );
    }
    tyndall(&["status", "--address", "nonsense"]).fails(
        1,
        "error: \"nonsense\" is no address of a server\nhelp: give the admin URL that `tyndall \
         run` prints, such as http://127.0.0.1:8265\n",
    );
}

#[test]
fn roles_refuse_to_be_started_by_hand() {
    let home = tempfile::tempdir().unwrap();
    let dir = home.path().to_str().unwrap();
    let role = ["role", "proxy", "--id", "p", "--runtime-dir", dir, "--parent-pid", "1"];
    tyndall(&role).fails(
        1,
        "error: the supervisor 1 is gone\nhelp: roles are started by `tyndall run` only\n",
    );
}

#[test]
fn output_may_be_cut_off_by_its_reader() {
    let script = format!("{} completions bash | head -c 1", env!("CARGO_BIN_EXE_tyndall"));
    let output = Command::new("bash").args(["-o", "pipefail", "-c", &script]).output().unwrap();
    assert!(output.status.success(), "{output:?}");
    assert!(Path::new(env!("CARGO_BIN_EXE_tyndall")).exists());
}
