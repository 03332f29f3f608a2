//! `tyndall deploy`.

use crate::args::DeployArgs;
use crate::commands::admin::Admin;
use crate::commands::files::{self, Source};
use crate::failure::Failure;
use crate::output::print;
use tyndall_config::Environment;

pub(crate) fn deploy(args: &DeployArgs, env: &Environment) -> Result<(), Failure> {
    let source =
        Source { target: &args.source, name: args.name.as_deref(), options: &args.application };
    if !source.is_application() {
        let source = &args.source;
        let failure =
            Failure::new(format!("{source:?} is no config file, no program and no import path"));
        return Err(failure.with_cure(
            "name a .yaml or .json file, an executable, or module:app; a model is written as \
             `model: NAME` in a file",
        ));
    }
    if source.is_config() && !args.application.arguments.is_empty() {
        let cause = "arguments go with a program or an import path, and this is a config file";
        return Err(Failure::new(cause).with_cure("write them under args: in the file"));
    }
    let (text, file) = source.read(env)?;
    let config = file.typed().map_err(|problem| Failure::new(problem.to_string()))?;
    let names: Vec<String> =
        config.applications.iter().map(|application| application.name.to_string()).collect();
    if config.http.has_listener() {
        print("host and port are those of the running server; they are not changed\n")?;
    }
    if !config.grpc.servicer_functions.is_empty() {
        print("grpc_options are those of the running server; they are not changed\n")?;
    }
    let admin = Admin::new(&args.admin, env)?;
    admin.carry_out(|client| async move { files::submit(&client, text).await })?;
    print(
        "Sent deploy request successfully.\n\
         * Use `tyndall status` to check the applications' statuses.\n\
         * Use `tyndall config` to see what is deployed.\n",
    )?;
    if !args.wait {
        return Ok(());
    }
    let failed = admin.carry_out_within(None, |client| async move {
        files::wait_until_deployed(&client, &names, print).await
    })?;
    if failed.is_empty() { Ok(()) } else { Err(Failure::from_text(&failed.join("\n"))) }
}
