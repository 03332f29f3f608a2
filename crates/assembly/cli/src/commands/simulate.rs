//! `tyndall simulate`.

use crate::failure::Failure;
use crate::output::print;
use tyndall_sim::SimulateArgs;

pub(crate) fn simulate(args: &SimulateArgs) -> Result<(), Failure> {
    let mut told = Vec::new();
    tyndall_sim::run(args, &mut told).map_err(|error| Failure::of(&error))?;
    print(&String::from_utf8_lossy(&told))
}
