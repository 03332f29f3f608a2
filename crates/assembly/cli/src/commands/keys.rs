//! `tyndall keys`: the API keys of clients.

use crate::args::KeysArgs;
use crate::commands::admin::Admin;
use crate::commands::files;
use crate::failure::Failure;
use crate::output::print;
use serde_json::json;
use std::collections::BTreeMap;
use std::fs::OpenOptions;
use std::io::{ErrorKind, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;
use tyndall_api_keys::{Digest, Key, KeyName, entry, fresh_secret, parse};
use tyndall_bench::table;
use tyndall_config::{ApiKeys, Environment};
use tyndall_types::protocol::{KeyUsage, KeyUsageOfDay};

/// By which the server's processes learn of keys that are in no file.
pub(crate) const VARIABLE: &str = "TYNDALL_API_KEY";
/// Who reads the hashes cannot do much, but needs not know them.
const MODE: u32 = 0o600;

pub(crate) fn keys(args: &KeysArgs, env: &Environment) -> Result<(), Failure> {
    match args {
        KeysArgs::New { name, file } => new(name, file.as_deref()),
        KeysArgs::Check { file } => {
            let num_keys = read(file)?.len();
            let keys = if num_keys == 1 { "key" } else { "keys" };
            print(&format!("{}: {num_keys} {keys}, nothing wrong\n", file.display()))
        }
        KeysArgs::Usage { admin, days, json } => {
            let path = format!("/api/tyndall/keys/usage?days={days}");
            let usage: Vec<KeyUsageOfDay> =
                Admin::new(admin, env)?.ask(|client| async move { client.get(&path).await })?;
            if *json {
                return print(&format!("{:#}\n", json!(usage)));
            }
            print(&table_of_usage(usage))
        }
    }
}

/// The keys of a file.
pub(crate) fn read(path: &Path) -> Result<Vec<Key>, Failure> {
    checked(path, &files::text(path)?)
}

/// Keys that came without names.
pub(crate) fn unnamed(keys: &ApiKeys) -> Vec<Key> {
    let numbered = keys.secrets.iter().enumerate();
    numbered.map(|(n, secret)| Key::unlimited(KeyName::unnamed(n + 1), secret)).collect()
}

fn checked(path: &Path, text: &str) -> Result<Vec<Key>, Failure> {
    parse(text).map_err(|error| {
        Failure::from_text(&format!("{}:{}: {}", path.display(), error.line, error.message))
    })
}

fn new(name: &str, file: Option<&Path>) -> Result<(), Failure> {
    let name = KeyName::new(name).map_err(|error| Failure::of(&error))?;
    let mut random = [0; 32];
    getrandom::fill(&mut random)
        .map_err(|error| Failure::new(format!("the system gave no random numbers: {error}")))?;
    let secret = fresh_secret(&random);
    let entry = entry(&name, Digest::of(secret.as_bytes()));
    match file {
        Some(path) => {
            append(path, &entry)?;
            print(&format!("{secret}\n"))
        }
        None => print(&format!("{secret}\n\n{entry}")),
    }
}

/// Adds an entry to a file that is in order, and is with it.
fn append(path: &Path, entry: &str) -> Result<(), Failure> {
    let failed = |error: std::io::Error| {
        Failure::new(format!("failed to write {}: {error}", path.display()))
    };
    let before = match std::fs::metadata(path) {
        Err(error) if error.kind() == ErrorKind::NotFound => String::new(),
        Ok(_) | Err(_) => files::text(path)?,
    };
    let gap = match before.as_str() {
        "" => "",
        text if text.ends_with('\n') => "\n",
        _ => "\n\n",
    };
    let added = format!("{gap}{entry}");
    checked(path, &before)?;
    checked(path, &format!("{before}{added}"))?;
    let mut options = OpenOptions::new();
    let mut file = options.append(true).create(true).mode(MODE).open(path).map_err(failed)?;
    // In one piece: a server may read it at any moment.
    file.write_all(added.as_bytes()).and_then(|()| file.sync_all()).map_err(failed)
}

fn table_of_usage(usage: Vec<KeyUsageOfDay>) -> String {
    let mut sums: BTreeMap<String, KeyUsage> = BTreeMap::new();
    for KeyUsageOfDay { usage, .. } in usage {
        let sum = sums.entry(usage.name).or_default();
        sum.requests += usage.requests;
        sum.refused += usage.refused;
        sum.prompt_tokens += usage.prompt_tokens;
        sum.cached_tokens += usage.cached_tokens;
        sum.completion_tokens += usage.completion_tokens;
    }
    let head = ["KEY", "REQUESTS", "REFUSED", "PROMPT", "CACHED", "COMPLETION"];
    let row = |(name, sum): (String, KeyUsage)| {
        let KeyUsage { requests, refused, prompt_tokens, cached_tokens, completion_tokens, .. } =
            sum;
        let counts = [requests, refused, prompt_tokens, cached_tokens, completion_tokens];
        std::iter::once(name).chain(counts.map(|count| count.to_string())).collect()
    };
    let head = head.map(str::to_owned).to_vec();
    let rows: Vec<Vec<String>> = std::iter::once(head).chain(sums.into_iter().map(row)).collect();
    table(&rows, &[1, 2, 3, 4, 5])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_grows_by_entries_and_stays_in_order() {
        let home = tempfile::tempdir().unwrap();
        let path = home.path().join("keys.toml");
        let name = |name| KeyName::new(name).unwrap();
        let of = |secret: &[u8]| Digest::of(secret);
        append(&path, &entry(&name("a"), of(b"one"))).unwrap();
        append(&path, &entry(&name("b"), of(b"two"))).unwrap();
        assert!(append(&path, &entry(&name("a"), of(b"three"))).is_err());
        let keys = read(&path).unwrap();
        assert_eq!(keys.iter().map(|key| key.name.as_str()).collect::<Vec<_>>(), ["a", "b"]);
        std::fs::write(&path, "weight = 1").unwrap();
        assert!(append(&path, &entry(&name("c"), of(b"three"))).is_err());
        assert_eq!(std::fs::read_to_string(&path).unwrap(), "weight = 1");
    }

    #[test]
    fn usage_is_summed_over_days() {
        let of = |day, requests| KeyUsageOfDay {
            day,
            usage: KeyUsage { name: "a".to_owned(), requests, ..KeyUsage::default() },
        };
        let told = table_of_usage(vec![of(1, 2), of(2, 40)]);
        let words: Vec<&str> = told.lines().nth(1).unwrap().split_whitespace().collect();
        assert_eq!(words, ["a", "42", "0", "0", "0", "0"]);
    }
}
