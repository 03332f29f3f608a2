//! Where the hub, its cache and its token are.

use crate::error::HubError;
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::time::Duration;

const DEFAULT_ENDPOINT: &str = "https://huggingface.co";

/// Settings of the model store, by the variables that Python tools use too.
#[derive(Clone)]
pub struct HubOptions {
    /// `HF_HUB_CACHE`, else `HF_HOME/hub`, else `~/.cache/huggingface/hub`.
    pub cache_dir: PathBuf,
    /// `XDG_CACHE_HOME/tyndall`, else `~/.cache/tyndall`: the unpacked demo model.
    pub own_cache_dir: PathBuf,
    /// `HF_ENDPOINT` without a final slash; `https://huggingface.co`.
    pub endpoint: String,
    /// `HF_TOKEN`, else the file that `hf auth login` writes.
    pub token: Option<String>,
    /// `HF_HUB_OFFLINE`: never use the network.
    pub offline: bool,
    /// Files downloaded at a time; 4 fill a usual link without opening many connections.
    pub parallel_files: usize,
    /// Tries without a single new byte before a download fails.
    pub attempts: u32,
    /// Wait before the second try; doubles each time, at most 10 s.
    pub back_off: Duration,
    /// No byte for so long breaks a transfer; it is then resumed.
    pub stall_timeout: Duration,
    /// How long to wait for another process that downloads the same file.
    pub lock_timeout: Duration,
    /// `SSL_CERT_FILE`, else `REQUESTS_CA_BUNDLE`: trusted instead of the public authorities, as
    /// companies with their own need it.
    pub ca_bundle: Option<PathBuf>,
    /// Take `HTTPS_PROXY` and its relatives from the process's environment.
    pub use_system_proxy: bool,
}

impl std::fmt::Debug for HubOptions {
    /// Everything but the token's text.
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("HubOptions")
            .field("cache_dir", &self.cache_dir)
            .field("own_cache_dir", &self.own_cache_dir)
            .field("endpoint", &self.endpoint)
            .field("has_token", &self.token.is_some())
            .field("offline", &self.offline)
            .finish_non_exhaustive()
    }
}

impl HubOptions {
    /// Options for these directories, with the public hub and no token.
    #[must_use]
    pub fn new(cache_dir: PathBuf, own_cache_dir: PathBuf) -> Self {
        Self {
            cache_dir,
            own_cache_dir,
            endpoint: DEFAULT_ENDPOINT.to_owned(),
            token: None,
            offline: false,
            parallel_files: 4,
            attempts: 6,
            back_off: Duration::from_millis(500),
            stall_timeout: Duration::from_secs(30),
            lock_timeout: Duration::from_secs(3600),
            ca_bundle: None,
            use_system_proxy: true,
        }
    }

    /// Options from an environment.
    ///
    /// # Errors
    /// [`HubError::NoHome`] when no variable says where a cache may be.
    pub fn from_env(env: &BTreeMap<String, String>) -> Result<Self, HubError> {
        let var = |name: &str| env.get(name).filter(|value| !value.is_empty());
        let home = var("HOME").map(PathBuf::from);
        let user_cache = var("XDG_CACHE_HOME")
            .map(|dir| expand(dir, home.as_deref()))
            .or_else(|| home.as_ref().map(|home| home.join(".cache")));
        let own_cache_dir = user_cache
            .as_ref()
            .map(|dir| dir.join("tyndall"))
            .ok_or(HubError::NoHome { what: "the model cache", variable: "XDG_CACHE_HOME" })?;
        let hf_home = var("HF_HOME")
            .map(|dir| expand(dir, home.as_deref()))
            .or_else(|| user_cache.map(|dir| dir.join("huggingface")));
        let cache_dir = var("HF_HUB_CACHE")
            .or_else(|| var("HUGGINGFACE_HUB_CACHE"))
            .map(|dir| expand(dir, home.as_deref()))
            .or_else(|| hf_home.as_ref().map(|dir| dir.join("hub")))
            .ok_or(HubError::NoHome { what: "the model cache", variable: "HF_HOME" })?;
        let token_file = var("HF_TOKEN_PATH")
            .map(|path| expand(path, home.as_deref()))
            .or_else(|| hf_home.map(|dir| dir.join("token")));
        let implicit = !var("HF_HUB_DISABLE_IMPLICIT_TOKEN").is_some_and(|value| is_true(value));
        let token = var("HF_TOKEN")
            .or_else(|| var("HUGGING_FACE_HUB_TOKEN"))
            .cloned()
            .or_else(|| token_file.and_then(|path| std::fs::read_to_string(path).ok()))
            .map(|token| token.trim().to_owned())
            .filter(|token| !token.is_empty() && implicit);
        let mut options = Self::new(cache_dir, own_cache_dir);
        options.token = token;
        options.ca_bundle = var("SSL_CERT_FILE")
            .or_else(|| var("REQUESTS_CA_BUNDLE"))
            .map(|path| expand(path, home.as_deref()));
        options.offline = ["HF_HUB_OFFLINE", "TRANSFORMERS_OFFLINE"]
            .iter()
            .any(|name| var(name).is_some_and(|value| is_true(value)));
        if let Some(endpoint) = var("HF_ENDPOINT") {
            endpoint.trim_end_matches('/').clone_into(&mut options.endpoint);
        }
        Ok(options)
    }
}

fn expand(path: &str, home: Option<&Path>) -> PathBuf {
    match (path.strip_prefix("~/"), home) {
        (Some(rest), Some(home)) => home.join(rest),
        _ => PathBuf::from(path),
    }
}

fn is_true(value: &str) -> bool {
    ["1", "on", "yes", "true"].contains(&value.to_ascii_lowercase().as_str())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn env(pairs: &[(&str, &str)]) -> HubOptions {
        let map = pairs.iter().map(|(k, v)| ((*k).to_owned(), (*v).to_owned())).collect();
        HubOptions::from_env(&map).unwrap()
    }

    #[test]
    fn the_cache_is_where_python_tools_look() {
        let dir = |pairs: &[_]| env(pairs).cache_dir.to_str().unwrap().to_owned();
        assert_eq!(dir(&[("HOME", "/h")]), "/h/.cache/huggingface/hub");
        assert_eq!(dir(&[("HOME", "/h"), ("XDG_CACHE_HOME", "/c")]), "/c/huggingface/hub");
        assert_eq!(dir(&[("HOME", "/h"), ("HF_HOME", "~/hf")]), "/h/hf/hub");
        assert_eq!(dir(&[("HOME", "/h"), ("HF_HOME", "/x"), ("HF_HUB_CACHE", "/y")]), "/y");
        assert_eq!(dir(&[("HOME", "/h"), ("HF_HOME", "")]), "/h/.cache/huggingface/hub");
        assert!(HubOptions::from_env(&BTreeMap::new()).is_err());
    }

    #[test]
    fn endpoint_token_and_offline_are_read() {
        let dir = tempfile::tempdir().unwrap();
        std::fs::write(dir.path().join("token"), "from-file\n").unwrap();
        let home = dir.path().to_str().unwrap();
        let plain = env(&[("HOME", "/h"), ("HF_HOME", home)]);
        assert_eq!(plain.token.as_deref(), Some("from-file"));
        assert_eq!(plain.endpoint, "https://huggingface.co");
        assert!(!plain.offline);
        let full = env(&[
            ("HOME", "/h"),
            ("HF_HOME", home),
            ("HF_TOKEN", "t"),
            ("HF_ENDPOINT", "http://mirror/"),
            ("HF_HUB_OFFLINE", "1"),
        ]);
        assert_eq!(full.token.as_deref(), Some("t"));
        assert_eq!(full.endpoint, "http://mirror");
        assert!(full.offline);
        assert!(!format!("{full:?}").contains("\"t\""));
        assert!(!env(&[("HOME", "/h"), ("HF_HUB_OFFLINE", "0")]).offline);
    }
}
