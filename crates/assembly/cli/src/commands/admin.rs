//! The admin API of a running server.

use crate::args::AdminArgs;
use crate::failure::Failure;
use std::future::Future;
use std::net::{SocketAddr, ToSocketAddrs};
use std::time::Duration;
use tyndall_config::Environment;
use tyndall_transport::{Client, ClientError};

/// What is deployed, by Ray Serve's path.
pub(crate) const APPLICATIONS: &str = "/api/serve/applications/";

const DEADLINE: Duration = Duration::from_secs(30);

/// A server's admin API.
pub(crate) struct Admin {
    address: String,
    client: Client,
}

impl Admin {
    pub(crate) fn new(args: &AdminArgs, env: &Environment) -> Result<Self, Failure> {
        let address = address(args, env);
        let socket = socket_address(&address).ok_or_else(|| {
            Failure::new(format!("{address:?} is no address of a server")).with_cure(
                "give the admin URL that `tyndall run` prints, such as http://127.0.0.1:8265",
            )
        })?;
        Ok(Self { address, client: Client::tcp(socket) })
    }

    /// Does one exchange, within a deadline, on a runtime of its own.
    pub(crate) fn ask<T, F>(&self, ask: impl FnOnce(Client) -> F) -> Result<T, Failure>
    where
        F: Future<Output = Result<T, ClientError>>,
    {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        let answer = runtime
            .block_on(async { tokio::time::timeout(DEADLINE, ask(self.client.clone())).await });
        match answer {
            Ok(Ok(value)) => Ok(value),
            Ok(Err(ClientError::Connect { .. })) => {
                Err(Failure::new(format!("no server runs at {}", self.address)).with_cure(
                    "start one with `tyndall run`, or name its admin URL with --address",
                ))
            }
            Ok(Err(ClientError::Status { status, body, .. })) => {
                Err(Failure::from_text(&refusal(status.as_u16(), &body)))
            }
            Ok(Err(error)) => Err(Failure::of(&error)),
            Err(_) => Err(Failure::new(format!(
                "{} did not answer within {} s",
                self.address,
                DEADLINE.as_secs()
            ))),
        }
    }
}

/// The flag, else the variable, else where `run` listens with the same environment.
fn address(args: &AdminArgs, env: &Environment) -> String {
    let var = |name: &str| env.get(name).filter(|value| !value.is_empty());
    let given = args.address.as_ref().or_else(|| var("TYNDALL_ADDRESS"));
    given.cloned().unwrap_or_else(|| {
        let port = var("TYNDALL_ADMIN_PORT").map_or("8265", String::as_str);
        format!("http://127.0.0.1:{port}")
    })
}

/// What the server says of a request that it refused; its words are `cause; cure`.
fn refusal(status: u16, body: &str) -> String {
    match body.trim() {
        "" => format!("the server answered {status}"),
        said if status < 500 => said.to_owned(),
        said => format!("the server answered {status}: {said}"),
    }
}

fn socket_address(address: &str) -> Option<SocketAddr> {
    let host = address.strip_prefix("http://").unwrap_or(address).trim_end_matches('/');
    host.to_socket_addrs().ok()?.next()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_are_urls_or_pairs() {
        for good in ["http://127.0.0.1:8265", "http://127.0.0.1:8265/", "127.0.0.1:8265"] {
            assert_eq!(socket_address(good).unwrap().to_string(), "127.0.0.1:8265");
        }
        for bad in ["", "http://", "127.0.0.1", "https://127.0.0.1:1"] {
            assert!(socket_address(bad).is_none(), "{bad:?}");
        }
    }

    #[test]
    fn the_address_follows_the_environment_of_run() {
        let check = |flag: Option<&str>, env: &[(&str, &str)], expected: &str| {
            let env = env.iter().map(|(k, v)| ((*k).to_owned(), (*v).to_owned())).collect();
            let args = AdminArgs { address: flag.map(str::to_owned) };
            assert_eq!(address(&args, &env), expected);
        };
        check(None, &[], "http://127.0.0.1:8265");
        check(None, &[("TYNDALL_ADMIN_PORT", "9")], "http://127.0.0.1:9");
        check(None, &[("TYNDALL_ADDRESS", "x:1"), ("TYNDALL_ADMIN_PORT", "9")], "x:1");
        check(Some("y:1"), &[("TYNDALL_ADDRESS", "x:1")], "y:1");
    }

    #[test]
    fn refusals_are_told() {
        assert_eq!(refusal(404, "no m; there is n\n"), "no m; there is n");
        assert_eq!(refusal(500, ""), "the server answered 500");
        assert_eq!(refusal(500, "oops"), "the server answered 500: oops");
    }
}
