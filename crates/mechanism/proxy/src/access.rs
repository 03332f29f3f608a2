//! Who may send requests: API keys, and what is left of their limits.
//!
//! Keys come from a file and, plain, from the command line or the environment. Where there are
//! neither, everybody may. The file is looked at before a request when the last look was a second
//! ago or more: one call of the system, and nothing happens while nobody asks. A file that cannot
//! be used changes nothing, and the log says why.
//!
//! A key that stays keeps what is left of its limits. Requests that were let in go on when their key
//! is taken out.

use crate::grant::Grant;
use crate::reply::Failed;
use crate::tally::Tally;
use http::{HeaderMap, HeaderName, HeaderValue, header};
use std::collections::HashMap;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, RwLock};
use std::time::{Duration, Instant};
use tyndall_api_keys::{Key, Keyring, Meter, Refusal, Windows};
use tyndall_openai::ApiError;
use tyndall_router::Flow;
use tyndall_telemetry::ProxyMetrics;

const X_API_KEY: HeaderName = HeaderName::from_static("x-api-key");
const LOOK_PERIOD: Duration = Duration::from_secs(1);

/// Where keys come from. Without any, nobody is asked for one.
#[derive(Debug, Default)]
pub struct KeySources {
    /// A file that is read again when it changes.
    pub file: Option<PathBuf>,
    /// Keys beside those of the file.
    pub keys: Vec<Key>,
}

impl KeySources {
    fn is_empty(&self) -> bool {
        self.file.is_none() && self.keys.is_empty()
    }
}

/// Lets requests in.
#[derive(Debug)]
pub(crate) struct Access {
    sources: KeySources,
    began: Instant,
    ring: RwLock<Arc<Ring>>,
    /// Milliseconds since the begin.
    next_look_ms: AtomicU64,
    /// The file when it was last read.
    seen: Mutex<Option<Stamp>>,
    /// Flows so far; 0 is that of requests without a key.
    num_flows: AtomicU64,
    metrics: Arc<ProxyMetrics>,
    tally: Arc<Tally>,
}

/// All keys at a time.
#[derive(Debug, Default)]
struct Ring {
    keyring: Keyring,
    /// In the order of the keys.
    holders: Vec<Arc<Holder>>,
}

/// A key and what is left of its limits.
#[derive(Debug)]
pub(crate) struct Holder {
    pub(crate) key: Key,
    pub(crate) flow: Flow,
    meter: Arc<Mutex<Meter>>,
    began: Instant,
}

/// Tells that a file is another than before.
#[derive(Debug, PartialEq, Eq)]
enum Stamp {
    Unreadable(String),
    File { modified: (i64, i64), length: u64, inode: u64 },
}

impl Stamp {
    fn of(path: &Path) -> Self {
        match std::fs::metadata(path) {
            Ok(file) => Self::File {
                modified: (file.mtime(), file.mtime_nsec()),
                length: file.len(),
                inode: file.ino(),
            },
            Err(error) => Self::Unreadable(error.to_string()),
        }
    }
}

impl Access {
    /// Reads the file. One that cannot be used lets nobody in until it can.
    pub(crate) fn new(sources: KeySources, metrics: Arc<ProxyMetrics>, tally: Arc<Tally>) -> Self {
        let access = Self {
            sources,
            began: Instant::now(),
            ring: RwLock::default(),
            next_look_ms: AtomicU64::new(0),
            seen: Mutex::new(None),
            num_flows: AtomicU64::new(0),
            metrics,
            tally,
        };
        access.set(Vec::new());
        access.look(Duration::ZERO);
        access
    }

    /// Whether everybody may send requests.
    pub(crate) fn is_open(&self) -> bool {
        self.sources.is_empty()
    }

    /// Whose key a request brings. Headers with keys of ours are taken out, so that they go to no
    /// replica; others may be a program's own and stay.
    pub(crate) fn identify(&self, headers: &mut HeaderMap) -> Option<Arc<Holder>> {
        self.look(self.began.elapsed());
        let ring = self.ring.read().unwrap_or_else(PoisonError::into_inner).clone();
        let mut holder = None;
        for name in [header::AUTHORIZATION, X_API_KEY] {
            let found = headers.get_all(&name).iter().find_map(|value| {
                let secret = if name == X_API_KEY { Some(value.as_bytes()) } else { bearer(value) };
                ring.keyring.find(secret?)
            });
            if let Some(place) = found {
                headers.remove(&name);
                holder.get_or_insert_with(|| ring.holders[place].clone());
            }
        }
        holder
    }

    /// A request had no key that is known.
    pub(crate) fn unauthorized(&self) -> ApiError {
        self.metrics.keys().unauthorized();
        ApiError::unauthorized()
    }

    /// Lets a request of a key in, within its limits.
    pub(crate) fn admit(&self, holder: &Arc<Holder>) -> Result<Grant, Failed> {
        let entered = holder.meter().enter(holder.now());
        if let Err(refusal) = entered {
            holder.count_refusal("limit", &self.metrics, &self.tally);
            return Err(beyond(&holder.key, refusal));
        }
        Ok(Grant::new(holder.clone(), self.metrics.clone(), self.tally.clone()))
    }

    /// Looks at the file, when it is time to.
    fn look(&self, now: Duration) {
        let Some(path) = &self.sources.file else { return };
        let now_ms = u64::try_from(now.as_millis()).unwrap_or(u64::MAX);
        let next_ms = self.next_look_ms.load(Ordering::Relaxed);
        let later_ms = now_ms.saturating_add(LOOK_PERIOD.as_millis() as u64);
        let order = Ordering::Relaxed;
        // Of several requests at a time, one looks.
        if now_ms < next_ms
            || self.next_look_ms.compare_exchange(next_ms, later_ms, order, order).is_err()
        {
            return;
        }
        let mut seen = self.seen.lock().unwrap_or_else(PoisonError::into_inner);
        let stamp = Stamp::of(path);
        if seen.as_ref() == Some(&stamp) {
            return;
        }
        // What is written while it is read is seen at the next look.
        *seen = Some(stamp);
        match read(path) {
            Ok(keys) => {
                tracing::info!(file = %path.display(), keys = keys.len(), "API keys were read");
                self.set(keys);
            }
            Err(why) => tracing::error!("{why}; the API keys stay as they were"),
        }
    }

    /// Other keys of the file.
    fn set(&self, of_file: Vec<Key>) {
        let mut ring = self.ring.write().unwrap_or_else(PoisonError::into_inner);
        let before: HashMap<_, _> =
            ring.holders.iter().map(|holder| (&holder.key.name, holder)).collect();
        let now = self.began.elapsed();
        let keys: Vec<Key> = of_file.into_iter().chain(self.sources.keys.iter().cloned()).collect();
        let holder = |key: &Key| {
            let (id, meter) = match before.get(&key.name) {
                Some(holder) => {
                    holder.meter().set_limits(key.limits, now);
                    (holder.flow.id, holder.meter.clone())
                }
                None => {
                    let id = self.num_flows.fetch_add(1, Ordering::Relaxed) + 1;
                    (id, Arc::new(Mutex::new(Meter::new(key.limits, now))))
                }
            };
            let flow = Flow { id, weight: key.weight };
            Arc::new(Holder { key: key.clone(), flow, meter, began: self.began })
        };
        let holders: Vec<_> = keys.iter().map(holder).collect();
        drop(before);
        *ring = Arc::new(Ring { keyring: Keyring::new(keys), holders });
    }
}

impl Holder {
    /// What is left of its limits.
    pub(crate) fn windows(&self) -> Windows {
        self.meter().windows(self.now())
    }

    /// A request was refused.
    pub(crate) fn count_refusal(
        &self,
        reason: &'static str,
        metrics: &ProxyMetrics,
        tally: &Tally,
    ) {
        let name = self.key.name.text();
        metrics.keys().refused(name, reason);
        tally.add(name, |usage| usage.refused += 1);
    }

    /// Tokens were used.
    pub(crate) fn charge(&self, num_tokens: u64) {
        self.meter().charge(num_tokens, self.now());
    }

    /// A request that was let in is over.
    pub(crate) fn leave(&self) {
        self.meter().leave();
    }

    fn meter(&self) -> MutexGuard<'_, Meter> {
        self.meter.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn now(&self) -> Duration {
        self.began.elapsed()
    }
}

fn read(path: &Path) -> Result<Vec<Key>, String> {
    let place = path.display();
    let text = std::fs::read_to_string(path).map_err(|error| format!("{place}: {error}"))?;
    tyndall_api_keys::parse(&text)
        .map_err(|error| format!("{place}:{}: {}", error.line, error.message))
}

fn bearer(value: &HeaderValue) -> Option<&[u8]> {
    let (scheme, secret) = value.as_bytes().split_at_checked("Bearer ".len())?;
    scheme.eq_ignore_ascii_case(b"Bearer ").then(|| secret.trim_ascii())
}

fn beyond(key: &Key, refusal: Refusal) -> Failed {
    let name = &key.name;
    let (message, retry_after) = match refusal {
        Refusal::Requests { limit, retry_after } => (
            format!("the key {name} has had its {limit} requests of a minute; try again later"),
            retry_after,
        ),
        Refusal::Tokens { limit, retry_after } => (
            format!("the key {name} has used its {limit} tokens of a minute; try again later"),
            retry_after,
        ),
        Refusal::Concurrent { limit } => (
            format!("the key {name} has {limit} requests at work already; try again later"),
            Duration::ZERO,
        ),
    };
    let retry_after_s = Some(retry_after.as_secs_f64());
    Failed { error: ApiError::rate_limited(message), retry_after_s, waits: None }
}

#[cfg(test)]
mod tests {
    use super::*;
    use tyndall_api_keys::{Digest, KeyName, entry};

    fn access(file: &Path, keys: Vec<Key>) -> Access {
        let sources = KeySources { file: Some(file.to_owned()), keys };
        Access::new(sources, Arc::default(), Arc::new(Tally::new("p")))
    }

    fn write(file: &Path, names: &[&str], limit: u64) {
        let one = |name: &&str| {
            let digest = Digest::of(format!("secret of {name}").as_bytes());
            let entry = entry(&KeyName::new(name).unwrap(), digest);
            format!("{entry}requests_per_minute = {limit}\n")
        };
        std::fs::write(file, names.iter().map(one).collect::<String>()).unwrap();
    }

    fn holder(access: &Access, name: &str) -> Option<Arc<Holder>> {
        let mut headers = HeaderMap::new();
        let value = format!("secret of {name}");
        headers.insert(X_API_KEY, HeaderValue::from_str(&value).unwrap());
        let holder = access.identify(&mut headers);
        assert_eq!(holder.is_some(), headers.is_empty(), "only what is known is taken out");
        holder
    }

    #[test]
    fn a_file_that_changes_is_read_again_and_one_that_is_broken_changes_nothing() {
        let home = tempfile::tempdir().unwrap();
        let file = home.path().join("keys.toml");
        let plain = Key::unlimited(KeyName::unnamed(1), "secret of plain");
        let access = access(&file, vec![plain]);
        assert!(!access.is_open());
        assert!(holder(&access, "a").is_none() && holder(&access, "plain").is_some());
        let mut hour = 0;
        let mut look = || {
            hour += 1;
            access.look(Duration::from_secs(hour * 3600));
        };
        write(&file, &["a", "b"], 5);
        look();
        let before = holder(&access, "a").unwrap();
        drop(access.admit(&before).unwrap());
        write(&file, &["a"], 20);
        look();
        let after = holder(&access, "a").unwrap();
        let left = after.windows().requests.unwrap();
        assert_eq!((left.limit, left.remaining), (20, 19), "what was used stays used");
        assert_eq!(before.flow, after.flow);
        assert!(holder(&access, "b").is_none());
        for broken in ["[[keys]]", "\u{0}"] {
            std::fs::write(&file, broken).unwrap();
            look();
            assert!(holder(&access, "a").is_some());
        }
        std::fs::remove_file(&file).unwrap();
        look();
        assert!(holder(&access, "a").is_some());
        std::fs::write(&file, "# nobody\n").unwrap();
        look();
        assert!(holder(&access, "a").is_none() && holder(&access, "plain").is_some());
    }

    #[test]
    fn keys_come_in_either_header_and_others_are_left_to_programs() {
        let key = |n, secret| Key::unlimited(KeyName::unnamed(n), secret);
        let sources = KeySources { file: None, keys: vec![key(1, "one"), key(2, "two")] };
        let access = Access::new(sources, Arc::default(), Arc::new(Tally::new("p")));
        let check = |sent: &[(&'static str, &'static str)], name: Option<&str>, left: &[&str]| {
            let sent = sent.iter().map(|(name, value)| {
                (HeaderName::from_static(name), HeaderValue::from_static(value))
            });
            let mut headers: HeaderMap = sent.collect();
            let holder = access.identify(&mut headers);
            assert_eq!(holder.as_ref().map(|holder| holder.key.name.as_str()), name);
            let values: Vec<_> = headers.values().map(|value| value.to_str().unwrap()).collect();
            assert_eq!(values, left);
        };
        check(&[("authorization", "Bearer one")], Some("api-key-1"), &[]);
        check(&[("authorization", "bearer  two ")], Some("api-key-2"), &[]);
        check(&[("x-api-key", "two")], Some("api-key-2"), &[]);
        check(&[("authorization", "Bearer one"), ("x-api-key", "two")], Some("api-key-1"), &[]);
        let own = ("authorization", "Bearer token of the program");
        check(&[own, ("x-api-key", "one")], Some("api-key-1"), &[own.1]);
        check(&[own], None, &[own.1]);
        for wrong in ["one", "Basic one", "Bearer", "Bearer ", ""] {
            check(&[("authorization", wrong)], None, &[wrong]);
        }
        check(&[], None, &[]);
        assert!(
            Access::new(KeySources::default(), Arc::default(), Arc::new(Tally::new("p"))).is_open()
        );
    }
}
