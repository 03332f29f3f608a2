//! Runs the code blocks of the README and of the guide to Rust, in order, as a reader would.
//!
//! - `sh` blocks run in bash from the repository's root and must succeed; `python` blocks run in the
//!   environment of the client tests.
//! - A comment before a block says what is special about it: `<!-- background until URL -->` starts
//!   it and waits for the URL to answer 200; `<!-- nested -->` is the command that runs these very
//!   tests; `<!-- interrupts the background -->` is followed by the end of the background process.
//! - A `json` block is the answer of the block before it: same keys, same kinds of values.
//! - `rust` blocks are tests of their crate, and `yaml` blocks are config files without errors.

use crate::metadata;
use crate::python;
use anyhow::{Context, Result, bail, ensure};
use serde_json::Value;
use std::io::{Read, Write};
use std::net::TcpStream;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

/// A release build on two cores may come before the first answer.
const BACKGROUND_DEADLINE: Duration = Duration::from_secs(30 * 60);

#[derive(Debug, PartialEq, Eq)]
struct Block {
    language: String,
    note: String,
    code: String,
    line: usize,
}

/// The pages, in the order in which they are run.
const PAGES: [&str; 2] = ["README.md", "docs/rust.md"];

/// What the pages build first, which can be done before.
pub(crate) const BUILDS: &[&[&str]] =
    &[&["build", "--release"], &["build", "--release", "-p", "tyndall", "--example", "search"]];

/// What a `yaml` block is checked by; the file is its standard input.
const CHECK: &str = "cargo run --release -- config check /dev/stdin";

/// Runs all blocks of all pages.
pub(crate) fn run() -> Result<()> {
    PAGES.into_iter().try_for_each(run_page)
}

fn run_page(page: &str) -> Result<()> {
    let text = std::fs::read_to_string(metadata::root().join(page))?;
    let mut background: Option<Background> = None;
    let mut output = String::new();
    for block in blocks(&text) {
        eprintln!("   {page}:{}", block.line);
        let where_ = || format!("{page}:{}:\n{}", block.line, block.code);
        match (block.language.as_str(), block.note.as_str()) {
            ("sh", "nested") => {}
            ("sh", note) if note.starts_with("background until ") => {
                let url = note.trim_start_matches("background until ");
                background = Some(Background::start(&block.code, url).with_context(where_)?);
            }
            ("sh", note) => {
                output = shell(&block.code).with_context(where_)?;
                if note == "interrupts the background" {
                    background.take().context("nothing runs")?.wait().with_context(where_)?;
                }
            }
            ("python", _) => output = python(&block.code).with_context(where_)?,
            ("rust", _) => {}
            ("yaml", _) => {
                let check = format!("{CHECK} <<'END'\n{}\nEND", block.code);
                shell(&check).with_context(where_)?;
            }
            ("json", _) => same_shape(&block.code, &output).with_context(where_)?,
            (other, _) => bail!("a block of {other:?} is neither run nor compared: {}", where_()),
        }
    }
    Ok(())
}

fn blocks(text: &str) -> Vec<Block> {
    let mut blocks = Vec::new();
    let mut note = String::new();
    let mut lines = text.lines().enumerate();
    while let Some((number, line)) = lines.next() {
        if let Some(language) = line.strip_prefix("```") {
            let code: Vec<&str> =
                lines.by_ref().map(|(_, line)| line).take_while(|line| *line != "```").collect();
            blocks.push(Block {
                language: language.to_owned(),
                note: std::mem::take(&mut note),
                code: code.join("\n"),
                line: number + 1,
            });
        } else if let Some(comment) = line.strip_prefix("<!-- ") {
            comment.trim_end_matches(" -->").clone_into(&mut note);
        } else if !line.is_empty() {
            note.clear();
        }
    }
    blocks
}

fn shell(code: &str) -> Result<String> {
    capture(Command::new("bash").args(["-euo", "pipefail", "-c", code]))
}

fn python(code: &str) -> Result<String> {
    capture(Command::new(python::environment()?).args(["-c", code]))
}

fn capture(command: &mut Command) -> Result<String> {
    // `cargo xtask` sets variables that would make a nested cargo build everything again.
    command.env_remove("CARGO_MANIFEST_DIR").stdin(Stdio::null()).stderr(Stdio::inherit());
    let output = command.output()?;
    let text = String::from_utf8(output.stdout)?;
    ensure!(output.status.success(), "ended with {}, printed:\n{text}", output.status);
    Ok(text)
}

fn same_shape(expected: &str, actual: &str) -> Result<()> {
    let expected = serde_json::from_str(expected).context("the block is not JSON")?;
    let actual = serde_json::from_str(actual).context("the answer is not JSON")?;
    ensure!(shape(&expected) == shape(&actual), "expected the shape of\n{expected}\ngot\n{actual}");
    Ok(())
}

/// The value with every leaf replaced by the name of its kind; lists by their first item's shape.
fn shape(value: &Value) -> Value {
    match value {
        Value::Object(map) => map.iter().map(|(key, value)| (key.clone(), shape(value))).collect(),
        Value::Array(items) => Value::Array(items.first().map(shape).into_iter().collect()),
        Value::Null => "null".into(),
        Value::Bool(_) => "bool".into(),
        Value::Number(_) => "number".into(),
        Value::String(_) => "string".into(),
    }
}

struct Background(Child);

impl Background {
    fn start(code: &str, url: &str) -> Result<Self> {
        let mut command = Command::new("bash");
        command.args(["-euo", "pipefail", "-c", &format!("exec {code}")]).stdin(Stdio::null());
        let mut background = Self(command.env_remove("CARGO_MANIFEST_DIR").spawn()?);
        let start = Instant::now();
        while !answers(url) {
            if let Some(status) = background.0.try_wait()? {
                bail!("it ended with {status} before {url} answered");
            }
            ensure!(start.elapsed() < BACKGROUND_DEADLINE, "{url} did not answer");
            pause();
        }
        Ok(background)
    }

    fn wait(mut self) -> Result<()> {
        let start = Instant::now();
        loop {
            if let Some(status) = self.0.try_wait()? {
                ensure!(status.success(), "the background process ended with {status}");
                return Ok(());
            }
            ensure!(start.elapsed() < Duration::from_secs(60), "the background process goes on");
            pause();
        }
    }
}

impl Drop for Background {
    fn drop(&mut self) {
        // A failure on the way leaves the process; what it started ends with it.
        if let Err(error) = self.0.kill().and_then(|()| self.0.wait()) {
            eprintln!("failed to end the background process: {error}");
        }
    }
}

#[expect(clippy::disallowed_methods, reason = "polls another process, which sends no event")]
fn pause() {
    std::thread::sleep(Duration::from_millis(200));
}

fn answers(url: &str) -> bool {
    let Some((host, path)) = url.strip_prefix("http://").and_then(|rest| rest.split_once('/'))
    else {
        return false;
    };
    let ask = || -> std::io::Result<String> {
        let mut stream = TcpStream::connect(host)?;
        stream.set_read_timeout(Some(Duration::from_secs(5)))?;
        write!(stream, "GET /{path} HTTP/1.1\r\nhost: {host}\r\nconnection: close\r\n\r\n")?;
        let mut answer = String::new();
        stream.read_to_string(&mut answer)?;
        Ok(answer)
    };
    ask().is_ok_and(|answer| answer.starts_with("HTTP/1.1 200"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn blocks_are_found_with_their_notes() {
        let text =
            "a\n<!-- nested -->\n```sh\nx\ny\n```\n\n<!-- lost -->\ntext\n```json\n{}\n```\n";
        let found = blocks(text);
        assert_eq!(found.len(), 2);
        assert_eq!((found[0].note.as_str(), found[0].code.as_str()), ("nested", "x\ny"));
        assert_eq!((found[1].note.as_str(), found[1].language.as_str()), ("", "json"));
    }

    #[test]
    fn answers_are_compared_by_shape() {
        same_shape(r#"{"a": 1, "b": ["x"]}"#, r#"{"a": 2, "b": ["y", "z"]}"#).unwrap();
        assert!(same_shape(r#"{"a": 1}"#, r#"{"a": "1"}"#).is_err());
        assert!(same_shape(r#"{"a": 1}"#, r#"{"b": 1}"#).is_err());
    }
}
