//! The admin API of a running server.

use crate::args::AdminArgs;
use crate::failure::Failure;
use std::future::Future;
use std::net::{SocketAddr, ToSocketAddrs};
use std::time::Duration;
use tyndall_config::Environment;
use tyndall_transport::{Client, ClientError};

/// What is deployed, in Ray Serve's shape; files are sent there.
pub(crate) const RAY_APPLICATIONS: &str = "/api/serve/applications/";
/// What is deployed, in full.
pub(crate) const APPLICATIONS: &str = "/api/tyndall/applications/";

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
        let client = Client::tcp(socket);
        let client = token(env).iter().fold(client, |client, token| client.with_token(token));
        Ok(Self { address, client })
    }

    /// Does one exchange, within a deadline, on a runtime of its own.
    pub(crate) fn ask<T, F>(&self, ask: impl FnOnce(Client) -> F) -> Result<T, Failure>
    where
        F: Future<Output = Result<T, ClientError>>,
    {
        let address = &self.address;
        self.carry_out(|client| async move {
            ask(client).await.map_err(|error| match error {
                ClientError::Connect { .. } => Failure::new(format!("no server runs at {address}"))
                    .with_cure(
                        "start one with `tyndall run`, or name its admin URL with --address",
                    ),
                error => error.into(),
            })
        })
    }

    /// Does several exchanges, within a deadline, on a runtime of their own.
    pub(crate) fn carry_out<T, F>(&self, work: impl FnOnce(Client) -> F) -> Result<T, Failure>
    where
        F: Future<Output = Result<T, Failure>>,
    {
        self.carry_out_within(Some(DEADLINE), work)
    }

    /// The same, within another deadline or none.
    pub(crate) fn carry_out_within<T, F>(
        &self,
        deadline: Option<Duration>,
        work: impl FnOnce(Client) -> F,
    ) -> Result<T, Failure>
    where
        F: Future<Output = Result<T, Failure>>,
    {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        let work = work(self.client.clone());
        runtime.block_on(async {
            let Some(deadline) = deadline else { return work.await };
            let late = || {
                let waited_s = deadline.as_secs();
                Failure::new(format!("{} did not answer within {waited_s} s", self.address))
            };
            tokio::time::timeout(deadline, work).await.unwrap_or_else(|_| Err(late()))
        })
    }
}

/// What the admin API is asked with, and what a controller asks for.
pub(crate) fn token(env: &Environment) -> Option<String> {
    env.get("TYNDALL_ADMIN_TOKEN").filter(|token| !token.is_empty()).cloned()
}

/// The flag, else the variable, else where `run` listens with the same environment.
fn address(args: &AdminArgs, env: &Environment) -> String {
    let var = |name: &str| env.get(name).filter(|value| !value.is_empty());
    let given = args.address.as_ref().or_else(|| var("TYNDALL_ADDRESS"));
    let given = given.or_else(|| var("RAY_DASHBOARD_ADDRESS"));
    given.cloned().unwrap_or_else(|| {
        let port = var("TYNDALL_ADMIN_PORT").map_or("8265", String::as_str);
        format!("http://127.0.0.1:{port}")
    })
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
}
