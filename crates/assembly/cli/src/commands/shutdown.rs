//! `tyndall shutdown`.

use crate::args::ShutdownArgs;
use crate::commands::admin::Admin;
use crate::failure::Failure;
use crate::output::print;
use tyndall_config::Environment;

pub(crate) fn shutdown(args: &ShutdownArgs, env: &Environment) -> Result<(), Failure> {
    let admin = Admin::new(&args.admin, env)?;
    admin
        .ask(|client| async move { client.tell(http::Method::POST, "/api/shutdown", &()).await })?;
    print("shutting down: running requests are finished first\n")
}
