//! `tyndall bench` with the real binary against real servers: that figures are there and consistent,
//! never how good they are.
#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

use serde_json::Value;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::TcpListener;
use std::path::PathBuf;
use std::process::{Command, Output};
use tyndall_testkit::Server;

const BINARY: &str = env!("CARGO_BIN_EXE_tyndall");

/// A directory that the binary has for itself.
struct Home(tempfile::TempDir);

impl Home {
    fn new() -> Self {
        Self(tempfile::tempdir().unwrap())
    }

    fn path(&self, name: &str) -> PathBuf {
        self.0.path().join(name)
    }

    fn output(&self, args: &[&str]) -> Output {
        let mut command = Command::new(BINARY);
        command.arg("bench").args(args).env_clear().env("HOME", self.0.path());
        command.env("HF_HUB_OFFLINE", "1").current_dir(self.0.path()).output().unwrap()
    }

    /// Succeeds and prints; says nothing on standard error, which is no terminal.
    fn prints(&self, args: &[&str]) -> String {
        let output = self.output(args);
        assert_eq!(String::from_utf8_lossy(&output.stderr), "");
        assert!(output.status.success());
        String::from_utf8(output.stdout).unwrap()
    }

    /// Succeeds and leaves a result as JSON.
    fn result(&self, args: &[&str]) -> Value {
        let text = self.prints(&[args, &["--json", "result.json"]].concat());
        let json: Value =
            serde_json::from_slice(&std::fs::read(self.path("result.json")).unwrap()).unwrap();
        for field in ["cpu", "cores", "flags", "memory_bytes", "kernel"] {
            assert!(!json["machine"][field].is_null(), "{field}: {}", json["machine"]);
        }
        assert_eq!(json["command"][1], "bench");
        let label = json["metrics"][0]["label"].as_str().unwrap();
        assert!(text.contains(label), "{label} is not in:\n{text}");
        json
    }

    fn fails(&self, args: &[&str], parts: &[&str]) {
        let output = self.output(args);
        let said = String::from_utf8(output.stderr).unwrap();
        assert!(!output.status.success(), "{said}");
        for part in parts {
            assert!(said.contains(part), "{part:?} is not in:\n{said}");
        }
    }
}

fn metric(json: &Value, name: &str) -> f64 {
    let metrics = json["metrics"].as_array().unwrap();
    let found = metrics.iter().find(|metric| metric["name"] == name);
    found.unwrap_or_else(|| panic!("no {name} in {metrics:?}"))["value"].as_f64().unwrap()
}

fn count(json: &Value, name: &str) -> u64 {
    let all = json["distributions"].as_array().unwrap();
    let found = all.iter().find(|distribution| distribution["name"] == name);
    found.map_or(0, |distribution| distribution["summary"]["count"].as_u64().unwrap())
}

#[test]
fn help_teaches_by_examples() {
    let home = Home::new();
    let all = home.prints(&["--help"]);
    let names = [
        "machine",
        "engine",
        "quality",
        "serve",
        "http",
        "cold-start",
        "idle",
        "memory",
        "chaos",
        "cycles",
        "overload",
        "compare",
    ];
    for name in names {
        assert!(all.contains(name), "{name}");
        let help = home.prints(&[name, "--help"]);
        assert!(help.contains(&format!("Examples:\n  tyndall bench {name}")) || name == "compare");
        assert!(help.contains("tyndall bench compare before.json after.json") || name != "compare");
    }
}

#[test]
fn the_machine_has_ceilings() {
    let json = Home::new().result(&["machine", "--each", "0.001", "--buffer", "4"]);
    for name in ["read_one_thread", "read", "peak_f32", "barrier", "spawn"] {
        assert!(metric(&json, name) > 0.0, "{name}");
    }
}

#[test]
fn the_engine_is_measured_at_each_batch_size() {
    let home = Home::new();
    let flags = ["--batch", "1,3", "--prompt-len", "20", "--output-len", "8", "--runs", "1"];
    let json = home.result(&[&["engine", "demo"][..], &flags[..]].concat());
    for name in ["prefill_b1", "decode_b1", "prefill_b3", "decode_b3", "decode_of_read_b3"] {
        assert!(metric(&json, name) > 0.0, "{name}");
    }
    assert!(json["ceilings"].as_array().unwrap().len() >= 4);
    assert_eq!(json["settings"]["quantization"], "none");
    let as_they_are = metric(&json, "weights");

    let flags = ["--batch", "2", "--prompt-len", "20", "--output-len", "8", "--runs", "1"];
    let run = [&["engine", "demo", "--quantization", "int8"][..], &flags[..]].concat();
    let json = home.result(&run);
    assert_eq!(json["settings"]["quantization"], "int8");
    assert!(metric(&json, "decode_b2") > 0.0);
    let share = metric(&json, "weights") / as_they_are;
    // 8.5 bits of 16, and vectors that stay as they are.
    assert!((0.5..0.6).contains(&share), "{share}");
    home.fails(&["engine", "demo", "--quantization", "int2"], &["int2", "int4"]);
    home.fails(&["engine", "./nowhere"], &["error: the model was not found", "help: "]);
    home.fails(&["engine", "demo", "--prompt-len", "4000000"], &["error: ", "help: "]);
}

#[test]
fn what_rounding_changes_is_measured() {
    let home = Home::new();
    let quality = |quantization: &str, more: &[&str]| {
        let args = ["quality", "demo", "--quantization", quantization, "--sequences", "3"];
        home.result(&[&args[..], &["--tokens", "70"], more].concat())
    };
    let int8 = quality("int8", &["--html", "page.html"]);
    let int4 = quality("int4", &[]);
    for (json, name) in [(&int8, "int8"), (&int4, "int4")] {
        assert_eq!(json["settings"]["quantization"], name);
        assert!((metric(json, "positions") - 210.0).abs() < 1e-9);
        let [mean, p99, max] = ["kl_mean", "kl_p99", "kl_max"].map(|name| metric(json, name));
        assert!(mean.is_finite() && 0.0 <= mean && mean <= max && p99 <= max, "{mean} {p99} {max}");
        assert!((0.0..=100.0).contains(&metric(json, "top1_agreement")));
        assert!(metric(json, "perplexity_quantized") >= 1.0);
    }
    assert!(metric(&int8, "kl_mean") < metric(&int4, "kl_mean"));
    let base = [&int8, &int4].map(|json| metric(json, "perplexity_base"));
    assert!((base[0] - base[1]).abs() < 1e-9, "the texts are the same: {base:?}");
    let page = std::fs::read_to_string(home.path("page.html")).unwrap();
    assert_eq!(page.matches("<svg").count(), 1);

    let itself = quality("none", &[]);
    assert!(metric(&itself, "kl_max") == 0.0);
    home.fails(&["quality", "demo"], &["--quantization"]);
    let long = ["quality", "demo", "--quantization", "int8", "--tokens", "4000000"];
    home.fails(&long, &["error: ", "help: use fewer --tokens"]);
}

#[test]
fn a_server_of_its_own_is_started_and_compared() {
    let home = Home::new();
    let flags = ["--num-requests", "6", "--concurrency", "2", "--prompt-len", "uniform:3:9"];
    let more = ["--output-len", "5", "--ignore-eos", "--goodput", "e2el:1000000"];
    let serve = [&["serve"][..], &flags[..], &more[..]].concat();
    let json = home.result(&[&serve[..], &["--html", "page.html"]].concat());
    assert_eq!(json["benchmark"], "serve");
    assert_eq!(json["settings"]["model"], "demo");
    for (name, expected) in [("completed", 6.0), ("failed", 0.0), ("total_output_tokens", 30.0)] {
        assert!((metric(&json, name) - expected).abs() < 1e-9, "{name}: {}", metric(&json, name));
    }
    assert!((metric(&json, "request_goodput") - metric(&json, "request_throughput")).abs() < 1e-9);
    assert_eq!((count(&json, "ttft"), count(&json, "tpot"), count(&json, "e2el")), (6, 6, 6));
    assert_eq!(json["notes"], serde_json::json!([]), "the server states its usage");

    let page = std::fs::read_to_string(home.path("page.html")).unwrap();
    assert!(page.starts_with("<!doctype html>") && page.matches("<svg").count() >= 3);
    for loads in ["http://", "https://", "src=", "href=", "url(", "@import", "<script"] {
        assert!(!page.contains(loads), "{loads}");
    }

    let mut other = json.clone();
    other["machine"]["cores"] = 999.into();
    other["settings"]["seed"] = "1".into();
    std::fs::write(home.path("other.json"), other.to_string()).unwrap();
    let compared = home.prints(&["compare", "result.json", "other.json"]);
    for part in [
        "machines differ in cores",
        "flags differ in seed",
        "output_throughput",
        "p99_ttft_ms",
        "same (higher is better)",
        "same (lower is better)",
    ] {
        assert!(compared.contains(part), "{part:?} is not in:\n{compared}");
    }
    std::fs::write(home.path("other.json"), "{}").unwrap();
    home.fails(
        &["compare", "result.json", "other.json"],
        &["is no result of a benchmark", "help:"],
    );
    home.fails(&["compare", "result.json", "none.json"], &["failed to read none.json"]);
}

#[test]
fn a_server_that_runs_is_asked_in_every_way() -> anyhow::Result<()> {
    let server = Server::builder(BINARY).start("demo")?;
    let home = Home::new();
    let base = ["serve", "--url", &server.url, "--num-requests", "4", "--prompt-len", "4"];
    let base = [&base[..], &["--output-len", "3", "--ignore-eos"]].concat();
    for api in ["completions", "chat", "generate"] {
        let open = home.result(&[&base[..], &["--api", api, "--rate", "1000"]].concat());
        assert!((metric(&open, "completed") - 4.0).abs() < 1e-9, "{api}");
        assert_eq!(count(&open, "e2el"), 4);
        assert_eq!(count(&open, "ttft"), if api == "generate" { 0 } else { 4 });
        assert!((metric(&open, "total_output_tokens") - 12.0).abs() < 1e-9, "{api}");
    }
    let trace =
        "{\"arrival_s\": 0.02, \"output_len\": 2}\n{\"timestamp\": 0, \"output_length\": 7}\n";
    std::fs::write(home.path("trace.jsonl"), trace)?;
    let traced = ["serve", "--url", &server.url, "--trace", "trace.jsonl", "--ignore-eos"];
    let traced = home.result(&[&traced[..], &["--prefix-len", "8", "--prompt-len", "2"]].concat());
    assert!((metric(&traced, "total_output_tokens") - 9.0).abs() < 1e-9);

    std::fs::write(home.path("trace.jsonl"), "{\"arrival_s\": -1}\n")?;
    let bad = ["serve", "--url", &server.url, "--trace", "trace.jsonl"];
    home.fails(&bad, &["trace.jsonl:1:", "help: each line is one request"]);
    let unknown = [&base[..], &["--model", "nobody"]].concat();
    home.fails(&unknown, &["status 404", "help: "]);
    home.fails(&["serve", "--url", "https://127.0.0.1"], &["TLS"]);
    home.fails(&["serve", "--prompt-len", "0"], &["accepted: 128, uniform"]);

    let http = ["http", &format!("{}/v1/models", server.url), "--warmup", "0"];
    let http = home.result(&[&http[..], &["--num-requests", "50", "--connections", "3"]].concat());
    assert!((metric(&http, "completed") - 50.0).abs() < 1e-9);
    assert_eq!(count(&http, "e2el"), 50);
    home.fails(&["http", "http://127.0.0.1:1/"], &["no request was answered", "help: "]);
    Ok(())
}

/// Answers every POST with the same stream and returns its URL; it ends with the test's process.
fn stream_of(events: &'static [&'static str]) -> String {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let url = format!("http://{}", listener.local_addr().unwrap());
    let answer = move |connection: std::net::TcpStream| -> std::io::Result<()> {
        let (mut reader, mut length) = (BufReader::new(&connection), 0);
        for line in reader.by_ref().lines() {
            match line?.to_ascii_lowercase().split_once(": ") {
                Some(("content-length", bytes)) => length = bytes.parse().unwrap(),
                Some(_) => {}
                None if length > 0 => break,
                // The request line comes first, and the blank one after the length.
                None => {}
            }
        }
        reader.read_exact(&mut vec![0; length])?;
        let body: String = events.iter().map(|event| format!("data: {event}\n\n")).collect();
        let head = "HTTP/1.1 200 OK\r\nconnection: close\r\ncontent-type: text/event-stream";
        write!(&connection, "{head}\r\n\r\n{body}")
    };
    std::thread::spawn(move || listener.incoming().flatten().try_for_each(answer));
    url
}

#[test]
fn tokens_without_text_are_no_failure() {
    let home = Home::new();
    let url = stream_of(&[
        r#"{"choices": [{"text": "", "finish_reason": "length"}], "usage": null}"#,
        r#"{"choices": [], "usage": {"prompt_tokens": 2, "completion_tokens": 4}}"#,
        "[DONE]",
    ]);
    let args = ["serve", "--url", &url, "--model", "silent", "--num-requests", "3"];
    let json = home.result(&args);
    for (name, expected) in [("completed", 3.0), ("failed", 0.0), ("total_output_tokens", 12.0)] {
        assert!((metric(&json, name) - expected).abs() < 1e-9, "{name}: {}", metric(&json, name));
    }
    assert_eq!((count(&json, "ttft"), count(&json, "tpot"), count(&json, "e2el")), (3, 0, 3));
    assert!(json["notes"][0].as_str().unwrap().starts_with("3 streams had tokens but no text"));
}

#[test]
fn wakes_are_taken_apart() {
    let json = Home::new().result(&["cold-start", "demo", "--num-wakes", "2"]);
    assert_eq!(count(&json, "cold_start"), 2);
    assert!(metric(&json, "cold_start_ratio") > 0.0 && metric(&json, "floor") > 0.0);
    let all = json["distributions"].as_array().unwrap();
    let phases = all.iter().filter(|d| d["name"].as_str().unwrap().starts_with("phase_"));
    assert!(phases.count() >= 3, "{all:?}");
}

#[test]
fn memory_is_counted_once() {
    let home = Home::new();
    let idle = home.result(&["idle", "demo", "--seconds", "0.2", "--settle", "0.1"]);
    assert!((metric(&idle, "processes") - 3.0).abs() < 1e-9);
    assert!(metric(&idle, "pss") > 0.0 && metric(&idle, "pss") <= metric(&idle, "rss"));
    let held = home.result(&["memory", "demo", "--replicas", "2"]);
    assert!(metric(&held, "pss") < metric(&held, "rss"), "replicas share the binary at least");
    home.fails(&["memory", "./nowhere"], &["error: the server did not start: ", "help: "]);
}
