//! `tyndall config`: what is in a config file, and what is wrong with it.

use crate::args::ConfigArgs;
use crate::failure::Failure;
use crate::output::print;
use std::fs::File;
use std::io::Read;
use std::path::Path;
use tyndall_bench::table;
use tyndall_config::file::{self, ConfigFile, Problem, Severity};

/// Longer files are no configuration.
const MAX_FILE_BYTES: u64 = 8 << 20;

pub(crate) fn config(args: &ConfigArgs) -> Result<(), Failure> {
    match args {
        ConfigArgs::Check { files } => check(files),
        ConfigArgs::Show { file } => show(file),
        ConfigArgs::Schema { markdown: true } => print(&file::table()),
        ConfigArgs::Schema { markdown: false } => print(&format!("{:#}\n", file::schema())),
    }
}

fn check(files: &[impl AsRef<Path>]) -> Result<(), Failure> {
    let mut is_valid = true;
    for path in files.iter().map(AsRef::as_ref) {
        let told = match read(path)? {
            Err(problem) => {
                is_valid = false;
                line(path, &problem)
            }
            Ok(file) => {
                is_valid &= file.is_valid();
                let lines: String =
                    file.problems().iter().map(|problem| line(path, problem)).collect();
                lines + &summary(path, &file)
            }
        };
        print(&told)?;
    }
    if is_valid { Ok(()) } else { Err(Failure::told()) }
}

fn show(path: &Path) -> Result<(), Failure> {
    let told = format!("`tyndall config check {}` tells what", path.display());
    let unusable = || Failure::new(format!("{} cannot be used", path.display())).with_cure(&told);
    let file = read(path)?.ok().filter(ConfigFile::is_valid).ok_or_else(unusable)?;
    let row = |value: file::EffectiveValue| {
        let origin = value.line.map_or_else(|| "default".to_owned(), |line| format!("line {line}"));
        vec![value.path, origin, value.value]
    };
    let rows: Vec<Vec<String>> = file.effective().into_iter().map(row).collect();
    print(&table(&rows, &[]))
}

fn is_error(problem: &Problem) -> bool {
    problem.severity == Severity::Error
}

/// `FILE:line:column: error: …`, which editors follow.
fn line(path: &Path, problem: &Problem) -> String {
    let text = problem.to_string();
    let place = format!("{}:{}: ", problem.line, problem.column);
    let text = text.strip_prefix(&place).unwrap_or(&text);
    let severity = if is_error(problem) { "error" } else { "warning" };
    format!("{}:{place}{severity}: {text}\n", path.display())
}

fn summary(path: &Path, file: &ConfigFile) -> String {
    let (applications, deployments) = file.counts();
    let errors = file.problems().iter().filter(|problem| is_error(problem)).count();
    let warnings = file.problems().len() - errors;
    let count = |n: usize, what: &str| format!("{n} {what}{}", if n == 1 { "" } else { "s" });
    format!(
        "{}: {}, {}: {}, {}\n",
        path.display(),
        count(applications, "application"),
        count(deployments, "deployment"),
        count(errors, "error"),
        count(warnings, "warning"),
    )
}

fn read(path: &Path) -> Result<Result<ConfigFile, Problem>, Failure> {
    let failed = |why: String| Failure::new(format!("failed to read {}: {why}", path.display()));
    let mut text = String::new();
    let file = File::open(path).map_err(|error| failed(error.to_string()))?;
    let length = file
        .take(MAX_FILE_BYTES + 1)
        .read_to_string(&mut text)
        .map_err(|error| failed(error.to_string()))?;
    if length as u64 > MAX_FILE_BYTES {
        let most = MAX_FILE_BYTES >> 20;
        return Err(failed(format!("it has more than {most} MiB"))
            .with_cure("split it: a configuration of applications is some kilobytes"));
    }
    Ok(ConfigFile::parse(&text))
}
