//! `tyndall delete NAME`.

use crate::args::DeleteArgs;
use crate::commands::admin::{APPLICATIONS, Admin};
use crate::failure::Failure;
use crate::output::print;
use tyndall_config::Environment;
use tyndall_types::ApplicationName;

pub(crate) fn delete(args: &DeleteArgs, env: &Environment) -> Result<(), Failure> {
    let admin = Admin::new(&args.admin, env)?;
    let name = ApplicationName::new(&args.name).map_err(|error| Failure::of(&error))?;
    // A name needs no encoding in a path. One that is not deployed is refused with those that are.
    let path = format!("{APPLICATIONS}{name}");
    admin.ask(|client| async move { client.tell(http::Method::DELETE, &path, &()).await })?;
    print(&format!("deleting {name}: its replicas finish what they have\n"))
}
