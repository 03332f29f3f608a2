//! `tyndall config`: what is in a config file, and what is wrong with it.

use crate::args::{ConfigArgs, ConfigCommand};
use crate::commands::admin::{APPLICATIONS, Admin};
use crate::commands::{files, yaml};
use crate::failure::Failure;
use crate::output::print;
use std::path::Path;
use tyndall_bench::table;
use tyndall_config::Environment;
use tyndall_config::file::{self, ConfigFile, Problem, Severity};
use tyndall_types::protocol::{ApplicationDetails, InstanceDetails};

pub(crate) fn config(command: &ConfigCommand, env: &Environment) -> Result<(), Failure> {
    let Some(args) = &command.what else { return deployed(command, env) };
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
                files::line(path, &problem)
            }
            Ok(file) => {
                is_valid &= file.is_valid();
                let lines: String =
                    file.problems().iter().map(|problem| files::line(path, problem)).collect();
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
    let text = files::text(path)?;
    Ok(files::parse(path, &text))
}

/// What is deployed from config files, as Ray's `serve config` prints it.
fn deployed(args: &ConfigCommand, env: &Environment) -> Result<(), Failure> {
    let admin = Admin::new(&args.admin, env)?;
    let details: InstanceDetails =
        admin.ask(|client| async move { client.get(APPLICATIONS).await })?;
    let submitted = |app: &ApplicationDetails| {
        (!app.submitted.is_null()).then(|| yaml::document(&app.submitted))
    };
    if let Some(name) = &args.name {
        let found = details.applications.get(name).and_then(submitted);
        let none = || format!("No config has been deployed for application {name:?}.\n");
        return print(&found.unwrap_or_else(none));
    }
    let all: Vec<String> = details.applications.values().filter_map(submitted).collect();
    if all.is_empty() {
        return print("No configuration was found.\n");
    }
    print(&all.join("\n---\n\n"))
}
