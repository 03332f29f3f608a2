//! What is asked: a model, or a program.

use super::OverloadArgs;
use crate::error::BenchError;
use bytes::Bytes;
use serde_json::{Map, Value, json};
use std::path::{Path, PathBuf};
use std::process::Command;

const PROMPT: &str = "Write a haiku about rain.";
/// Headers of every request but its length.
const HEADERS: &str = "content-type: application/json\r\n";

/// What is served.
#[derive(Debug)]
pub(super) enum Target {
    /// A language model.
    Model(String),
    /// A program, and the deployment that takes its requests.
    Program { path: PathBuf, args: Value, ingress: String },
}

impl Target {
    /// A file is a program, everything else a model.
    pub(super) fn of(args: &OverloadArgs) -> Result<Self, BenchError> {
        let path = Path::new(&args.target);
        if !path.is_file() {
            return Ok(Self::Model(args.target.clone()));
        }
        let shown = path.display();
        let path = path
            .canonicalize()
            .map_err(|error| BenchError::of(&format!("failed to find {shown}"), &error))?;
        let of_program: Value = serde_json::from_str(&args.args)
            .map_err(|error| BenchError::of("--args is no JSON", &error))?;
        let output = Command::new(&path)
            .args(["role", "describe", "--args", &args.args])
            .output()
            .map_err(|error| BenchError::of(&format!("failed to run {shown}"), &error))?;
        let described: Value = serde_json::from_slice(&output.stdout).unwrap_or_default();
        let Some(ingress) = described["ingress"].as_str() else {
            let said = String::from_utf8_lossy(&output.stderr).trim().to_owned();
            return Err(BenchError::new(format!("{shown} is no deployment program: {said}"))
                .with_cure("name an executable that is built with the tyndall crate"));
        };
        Ok(Self::Program { path, args: of_program, ingress: ingress.to_owned() })
    }

    /// A config file with one replica of it.
    pub(super) fn config(&self, args: &OverloadArgs) -> Value {
        let mut options = Map::new();
        options.insert("num_replicas".to_owned(), 1.into());
        for (name, bound) in [
            ("max_ongoing_requests", args.max_ongoing_requests),
            ("max_queued_requests", args.max_queued_requests),
        ] {
            if let Some(bound) = bound {
                options.insert(name.to_owned(), bound.into());
            }
        }
        if let Some(cpus) = args.num_cpus {
            options.insert("ray_actor_options".to_owned(), json!({"num_cpus": cpus}));
        }
        let application = match self {
            Self::Model(model) => json!({"model": model, "deployment_config": options}),
            Self::Program { path, args, ingress } => {
                options.insert("name".to_owned(), ingress.as_str().into());
                json!({"program": path, "args": args, "deployments": [options]})
            }
        };
        let mut application = application;
        application["name"] = "overload".into();
        application["route_prefix"] = "/".into();
        json!({"applications": [application]})
    }

    /// The request, as it is sent.
    pub(super) fn request(
        &self,
        args: &OverloadArgs,
        host: &str,
        deadline_s: Option<f64>,
    ) -> Bytes {
        let (path, body) = match self {
            Self::Model(_) => {
                let most = args.output_len;
                let kwargs = json!({
                    "max_new_tokens": most, "min_new_tokens": most, "do_sample": false,
                });
                let body = json!({"prompt": PROMPT, "generation_kwargs": kwargs}).to_string();
                ("/generate", body)
            }
            Self::Program { .. } => ("/", args.body.clone()),
        };
        let deadline = deadline_s.map(|s| format!("x-request-timeout-seconds: {s}\r\n"));
        let deadline = deadline.unwrap_or_default();
        let length = body.len();
        let text = format!(
            "POST {path} HTTP/1.1\r\nhost: {host}\r\n{HEADERS}{deadline}content-length: {length}\
             \r\n\r\n{body}"
        );
        text.into()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::Parser;

    #[derive(Parser)]
    struct Line {
        #[command(flatten)]
        args: OverloadArgs,
    }

    #[test]
    fn bounds_reach_the_deployment_that_is_asked() {
        let line = [
            "x",
            "--max-queued-requests",
            "7",
            "-d",
            "1",
            "--args",
            "{\"a\":2}",
            "--num-cpus",
            "2",
        ];
        let args = Line::parse_from(line).args;
        let target = Target::of(&args).unwrap();
        let config = target.config(&args);
        let options = &config["applications"][0]["deployment_config"];
        let cpus = json!({"num_cpus": 2.0});
        let expected =
            json!({"num_replicas": 1, "max_queued_requests": 7, "ray_actor_options": cpus});
        assert_eq!(*options, expected);
        let text = target.request(&args, "h:1", Some(0.5));
        let text = std::str::from_utf8(&text).unwrap();
        assert!(text.starts_with("POST /generate HTTP/1.1\r\nhost: h:1\r\n"), "{text}");
        assert!(text.contains("\r\nx-request-timeout-seconds: 0.5\r\n"), "{text}");

        let (path, ingress) = (PathBuf::from("/p"), "D".to_owned());
        let target = Target::Program { path, args: json!({"a": 2}), ingress };
        let config = target.config(&args);
        let application = &config["applications"][0];
        assert_eq!((&application["program"], &application["args"]["a"]), (&json!("/p"), &json!(2)));
        assert_eq!(application["deployments"][0]["name"], "D");
        let text = target.request(&args, "h:1", None);
        assert!(text.ends_with(b"content-length: 1\r\n\r\n1"));
    }
}
