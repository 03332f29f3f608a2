//! Runs the JSON Schema test suite against what the matcher lets through.
//!
//! `cargo run -p tyndall-structured-output --example json_schema_suite -- FOLDER [-v]`, where
//! FOLDER holds the suite's files of one draft. For each schema there is an error with a pointer,
//! or its valid instances can be written and its invalid ones cannot. A valid one that cannot is
//! counted as narrower, and listed with `-v`. An invalid one that can be written is a failure.

#![allow(clippy::print_stdout)]

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::Arc;

use serde_json::Value;
use tyndall_structured_output::{Compiler, Vocabulary};
use tyndall_types::StructuredOutput;

#[derive(Default)]
struct Totals {
    schemas: usize,
    refused: BTreeMap<String, usize>,
    accepted_valid: usize,
    rejected_invalid: usize,
    narrower: Vec<String>,
    too_wide: Vec<String>,
}

fn main() -> ExitCode {
    let mut arguments = std::env::args().skip(1);
    let Some(folder) = arguments.next() else {
        println!("usage: json_schema_suite FOLDER [-v]");
        return ExitCode::FAILURE;
    };
    let verbose = arguments.next().is_some();
    let tokens = (0..=255).map(|byte| vec![byte]).collect();
    let vocabulary = Vocabulary::new(tokens, &[256], 257).expect("bytes are a vocabulary");
    let compiler = Compiler::new(Arc::new(vocabulary));
    let mut totals = Totals::default();
    for file in files(Path::new(&folder)) {
        let text = std::fs::read_to_string(&file).expect("the file is readable");
        let groups: Vec<Value> = serde_json::from_str(&text).expect("the file is a list");
        for group in &groups {
            run(&compiler, &file, group, &mut totals);
        }
    }
    report(&totals, verbose);
    if totals.too_wide.is_empty() && totals.schemas > 0 {
        ExitCode::SUCCESS
    } else {
        ExitCode::FAILURE
    }
}

fn files(folder: &Path) -> Vec<PathBuf> {
    let entries = std::fs::read_dir(folder).expect("the folder is readable");
    let paths = entries.filter_map(|entry| Some(entry.ok()?.path()));
    let mut files: Vec<PathBuf> =
        paths.filter(|p| p.extension().is_some_and(|e| e == "json")).collect();
    files.sort();
    files
}

fn run(compiler: &Compiler, file: &Path, group: &Value, totals: &mut Totals) {
    totals.schemas += 1;
    let schema = group["schema"].clone();
    let output = StructuredOutput::Json { schema: schema.clone(), compact: false, closed: false };
    if let Err(error) = compiler.compile(&output) {
        *totals.refused.entry(format!("{}; {}", error.cause, error.cure)).or_default() += 1;
        return;
    }
    for test in group["tests"].as_array().expect("a group has tests") {
        let name = format!(
            "{}: {} / {}: {} under {schema}",
            file.file_name().unwrap_or_default().to_string_lossy(),
            group["description"],
            test["description"],
            test["data"],
        );
        let texts = [
            serde_json::to_string(&test["data"]).expect("values can be written"),
            serde_json::to_string_pretty(&test["data"]).expect("values can be written"),
        ];
        let written = texts.iter().filter(|text| is_possible(compiler, &output, text)).count();
        match (test["valid"] == true, written) {
            (true, 2) => totals.accepted_valid += 1,
            (true, _) => totals.narrower.push(name),
            (false, 0) => totals.rejected_invalid += 1,
            (false, _) => totals.too_wide.push(name),
        }
    }
}

fn is_possible(compiler: &Compiler, output: &StructuredOutput, text: &str) -> bool {
    let mut matcher = compiler.compile(output).expect("it was compiled before");
    text.bytes().all(|byte| matcher.accept(u32::from(byte)).is_ok()) && matcher.can_end()
}

fn report(totals: &Totals, verbose: bool) {
    let refused: usize = totals.refused.values().sum();
    println!("{} schemas, {refused} refused:", totals.schemas);
    for (cause, count) in &totals.refused {
        println!("  {count:4} {cause}");
    }
    println!("{} valid instances accepted", totals.accepted_valid);
    println!("{} invalid instances rejected", totals.rejected_invalid);
    println!("{} valid instances rejected (narrower)", totals.narrower.len());
    if verbose {
        totals.narrower.iter().for_each(|name| println!("  {name}"));
    }
    println!("{} invalid instances accepted (failures)", totals.too_wide.len());
    totals.too_wide.iter().for_each(|name| println!("  {name}"));
}
