//! The extension module `tyndall._tyndall`: the `tyndall` crate under Python code.
//!
//! Rust has its own threads and never waits for Python's lock there. What arrives is put into a
//! [`queue`](queue::Queue), which the asyncio loop of the replica drains when a file descriptor says
//! that there is something; what Python answers goes through channels. So the lock is taken by the
//! threads that run the user's code, and by those only, but for calls of handles outside of a loop.
//!
//! | module | what |
//! |---|---|
//! | `queue` | work for the loop, in order |
//! | `request` | who a request of the loop belongs to, and its end |
//! | `access` | lines of the access log |
//! | `batch` | batches of `serve.batch` |
//! | `http` | a request of HTTP as ASGI sees it, and its answer |
//! | `receiving` | what ASGI awaits of `receive` and `send`, for both |
//! | `websocket` | a WebSocket as ASGI sees it |
//! | `scope` | the scope of both |
//! | `call` | a call of a method by a handle, and its answer |
//! | `caller` | calls that Python's handles make |
//! | `reservation` | a place that a replica keeps for such a call |
//! | `replica` | a replica whose deployment is a Python object |
//! | `watchdog` | tells of code that keeps the loop from everything else |

#![forbid(unsafe_code)]

mod access;
mod batch;
mod call;
mod caller;
mod http;
mod queue;
mod receiving;
mod replica;
mod request;
mod reservation;
mod scope;
mod watchdog;
mod websocket;

use pyo3::exceptions::{PyOSError, PyProcessLookupError};
use pyo3::prelude::*;
use tyndall_cluster::process::{PrepareError, prepare_child};

/// Makes the kernel kill this process when its parent dies.
#[pyfunction]
fn end_with(parent_pid: u32) -> PyResult<()> {
    prepare_child(parent_pid).map_err(|error| match error {
        PrepareError::Orphan { .. } => PyProcessLookupError::new_err(error.to_string()),
        PrepareError::System(errno) => {
            PyOSError::new_err((errno.raw_os_error(), error.to_string()))
        }
    })
}

/// The module.
#[pymodule]
fn _tyndall(module: &Bound<'_, PyModule>) -> PyResult<()> {
    module.add("__version__", env!("CARGO_PKG_VERSION"))?;
    module.add_class::<queue::Bridge>()?;
    module.add_class::<http::HttpRequest>()?;
    module.add_class::<websocket::WebSocket>()?;
    module.add_class::<call::CallRequest>()?;
    module.add_class::<access::AccessLines>()?;
    module.add_class::<replica::Job>()?;
    module.add_class::<batch::Batcher>()?;
    module.add_class::<caller::Caller>()?;
    module.add_class::<caller::Calling>()?;
    module.add_class::<caller::Items>()?;
    module.add_class::<reservation::Reservation>()?;
    module.add_class::<request::Context>()?;
    module.add_class::<watchdog::Probe>()?;
    module.add_function(wrap_pyfunction!(replica::run_replica, module)?)?;
    module.add_function(wrap_pyfunction!(caller::connect, module)?)?;
    module.add_function(wrap_pyfunction!(end_with, module)?)?;
    Ok(())
}
