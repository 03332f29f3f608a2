//! `tyndall pull MODEL`.

use crate::args::PullArgs;
use crate::failure::Failure;
use crate::output::print;
use tyndall_config::Environment;
use tyndall_hub::{HubOptions, ModelId, Revision, for_terminal};

pub(crate) fn pull(args: &PullArgs, env: &Environment) -> Result<(), Failure> {
    if args.model == "demo" {
        return Err(Failure::new("demo is inside this binary and needs no download")
            .with_cure("serve it: `tyndall run demo`"));
    }
    let id = ModelId::new(&args.model)?;
    let revision = Revision::new(&args.revision)?;
    let options = HubOptions::from_env(env)?;
    let dir = tyndall_hub::pull(&id, &revision, &options, for_terminal().as_ref())?;
    print(&format!("{}\n", dir.display()))
}
