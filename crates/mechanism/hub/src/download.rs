//! Downloads a repository's model files into the cache.
//!
//! Life cycle of a file: 1. a HEAD request tells its etag and size; 2. a whole blob of that etag is
//! taken as it is; 3. else, under the blob's lock, `<etag>.incomplete` is filled from where it
//! ends; 4. size and hash are compared; 5. it is renamed to `<etag>` and linked into the snapshot.
//! A crash between any two steps leaves nothing that a later run does not go on from.

use crate::cache::{ModelCache, create_parent};
use crate::choose::{choose, inspect};
use crate::client::{FileInfo, HubClient, RepositoryInfo, RequestError, Transfer, classify};
use crate::error::HubError;
use crate::id::{ModelId, Revision};
use crate::options::HubOptions;
use crate::progress::Progress;
use crate::verify::Hasher;
use std::collections::VecDeque;
use std::fs::{File, OpenOptions};
use std::io::{ErrorKind, Read, Write};
use std::path::{Path, PathBuf};
use std::sync::{Condvar, Mutex, PoisonError};
use std::time::{Duration, Instant};

const MAX_BACK_OFF: Duration = Duration::from_secs(10);
const MAX_RETRY_AFTER: Duration = Duration::from_secs(60);
const LOCK_POLL: Duration = Duration::from_millis(200);

/// Brings a model's files at `revision` into the cache and returns the snapshot's directory.
///
/// Files that are there already are not fetched again. When the hub cannot be reached and the
/// cache has the whole revision, the cached snapshot is the answer.
///
/// # Errors
/// [`HubError`]; what was downloaded so far stays and is gone on from next time.
pub fn pull(
    id: &ModelId,
    revision: &Revision,
    options: &HubOptions,
    progress: &dyn Progress,
) -> Result<PathBuf, HubError> {
    let cache = ModelCache::new(&options.cache_dir, id);
    match fetch(id, revision, options, progress, &cache) {
        Err(error @ (HubError::Unreachable { .. } | HubError::Offline { .. })) => {
            cache.snapshot(revision).ok_or(error)
        }
        other => other,
    }
}

fn fetch(
    id: &ModelId,
    revision: &Revision,
    options: &HubOptions,
    progress: &dyn Progress,
    cache: &ModelCache,
) -> Result<PathBuf, HubError> {
    if options.offline {
        let (id, cache_dir) = (id.to_string(), options.cache_dir.clone());
        return Err(HubError::Offline { id, lacking: cache.lacking(revision), cache: cache_dir });
    }
    let stop = Stop::default();
    let client = HubClient::new(options, id)?;
    let patience = Patience { options, stop: &stop, what: id.as_str(), progress };
    let RepositoryInfo { commit, files } =
        patience.retry(|| client.info(revision)).map_err(|e| unreachable_hub(e, id, options))?;
    let files = choose(&files).map_err(|missing| HubError::NotAModelRepository {
        id: id.to_string(),
        missing: missing.to_string(),
    })?;
    let job = Job { client: &client, options, progress, cache, commit: &commit, stop: &stop };
    job.run(files).map_err(|e| unreachable_hub(e, id, options))?;
    let dir = cache.snapshot_dir(&commit);
    inspect(&dir).map_err(|missing| HubError::NotAModelRepository {
        id: id.to_string(),
        missing: missing.to_string(),
    })?;
    cache.write_ref(revision, &commit)?;
    Ok(dir)
}

/// Names the model and the hub in an error of a connection.
fn unreachable_hub(error: HubError, id: &ModelId, options: &HubOptions) -> HubError {
    match error {
        HubError::Unreachable { reason, .. } => {
            HubError::Unreachable { id: id.to_string(), endpoint: options.endpoint.clone(), reason }
        }
        other => other,
    }
}

/// One download of one commit.
struct Job<'a> {
    client: &'a HubClient<'a>,
    options: &'a HubOptions,
    progress: &'a dyn Progress,
    cache: &'a ModelCache,
    commit: &'a str,
    stop: &'a Stop,
}

impl Job<'_> {
    /// Fetches every file, a few at a time; the first error stops the others.
    fn run(&self, files: Vec<String>) -> Result<(), HubError> {
        let workers = self.options.parallel_files.clamp(1, files.len().max(1));
        let queue = Mutex::new(VecDeque::from(files));
        let failed = Mutex::new(None);
        std::thread::scope(|scope| {
            for _ in 0..workers {
                scope.spawn(|| {
                    while let Some(file) = lock(&queue).pop_front() {
                        if let Err(error) = self.file(&file) {
                            lock(&failed).get_or_insert(error);
                            self.stop.set();
                        }
                        if self.stop.is_set() {
                            break;
                        }
                    }
                });
            }
        });
        lock(&failed).take().map_or(Ok(()), Err)
    }

    fn file(&self, file: &str) -> Result<(), HubError> {
        let info = self.patience(file).retry(|| self.client.file_info(self.commit, file))?;
        let blob = self.cache.blob(&info.etag);
        if !is_whole(&blob, &info) {
            let held = self.lock_blob(file, &info.etag)?;
            // Another process may have finished it while this one waited.
            if !is_whole(&blob, &info) {
                self.fill(file, &info, &blob)?;
            }
            drop(held);
        }
        self.cache.link(self.commit, file, &info.etag)?;
        self.progress.finished(file);
        Ok(())
    }

    fn patience<'b>(&'b self, what: &'b str) -> Patience<'b> {
        Patience { options: self.options, stop: self.stop, what, progress: self.progress }
    }

    fn lock_blob(&self, file: &str, etag: &str) -> Result<File, HubError> {
        let path = self.cache.lock_path(etag);
        create_parent(&path)?;
        let held = OpenOptions::new()
            .write(true)
            .create(true)
            .truncate(false)
            .open(&path)
            .map_err(|e| HubError::io("open", &path, e))?;
        let begin = Instant::now();
        loop {
            match held.try_lock() {
                Ok(()) => return Ok(held),
                Err(std::fs::TryLockError::WouldBlock) => {}
                Err(std::fs::TryLockError::Error(e)) => return Err(HubError::io("lock", &path, e)),
            }
            let waited = begin.elapsed();
            if waited >= self.options.lock_timeout {
                let waited_s = waited.as_secs();
                return Err(HubError::Locked { file: file.to_owned(), waited_s });
            }
            if self.stop.wait(LOCK_POLL) {
                return Err(HubError::Stopped);
            }
        }
    }

    /// Downloads to `<blob>.incomplete`, verifies, renames.
    fn fill(&self, file: &str, info: &FileInfo, blob: &Path) -> Result<(), HubError> {
        let mut partial = blob.as_os_str().to_owned();
        partial.push(".incomplete");
        let partial = PathBuf::from(partial);
        create_parent(&partial)?;
        let mut failures = 0;
        let mut was_damaged = false;
        loop {
            let before = len(&partial);
            let error = match self.transfer(file, info, &partial) {
                Ok(()) => break,
                Err(error) => error,
            };
            let (reason, retry_after) = match error {
                RequestError::Transient { reason, retry_after, .. } => (reason, retry_after),
                RequestError::Unreachable(reason) => (reason, None),
                RequestError::Fatal(HubError::Damaged { .. }) if !was_damaged => {
                    was_damaged = true;
                    remove(&partial)?;
                    ("it arrived damaged".to_owned(), None)
                }
                RequestError::Fatal(error @ HubError::Damaged { .. }) => {
                    remove(&partial)?;
                    return Err(error);
                }
                RequestError::Fatal(error) => return Err(error),
            };
            let at_byte = len(&partial);
            failures = if at_byte > before { 1 } else { failures + 1 };
            if failures >= self.options.attempts {
                let file = file.to_owned();
                return Err(HubError::Broken { file, attempts: failures, at_byte, reason });
            }
            self.patience(file).pause(failures, &reason, retry_after)?;
        }
        std::fs::rename(&partial, blob).map_err(|e| HubError::io("rename", &partial, e))
    }

    /// One try, from where the partial file ends to the verified end.
    fn transfer(&self, file: &str, info: &FileInfo, partial: &Path) -> Result<(), RequestError> {
        let broken = |action, e| RequestError::Fatal(HubError::io(action, partial, e));
        let mut output = OpenOptions::new()
            .read(true)
            .append(true)
            .create(true)
            .open(partial)
            .map_err(|e| broken("open", e))?;
        let mut have = output.metadata().map_err(|e| broken("read", e))?.len();
        if info.size_bytes.is_some_and(|size| have > size) {
            output.set_len(0).map_err(|e| broken("truncate", e))?;
            have = 0;
        }
        let mut hasher = Hasher::new(&info.etag, info.size_bytes);
        if info.size_bytes != Some(have) || have == 0 {
            let Transfer { from_byte, body } = self.client.open(self.commit, file, have)?;
            if from_byte == 0 && have > 0 {
                output.set_len(0).map_err(|e| broken("truncate", e))?;
                have = 0;
            }
            self.progress.started(file, info.size_bytes, have);
            hash_prefix(&mut hasher, partial, have).map_err(|e| broken("read", e))?;
            // One byte more shows that there is more; the rest of it is not taken.
            let most = info.size_bytes.map_or(u64::MAX, |size| (size - have).saturating_add(1));
            let body = body.into_reader().take(most);
            have += self.receive(file, body, &mut output, &mut hasher)?;
        } else {
            hash_prefix(&mut hasher, partial, have).map_err(|e| broken("read", e))?;
        }
        match info.size_bytes {
            Some(size) if have < size => Err(RequestError::Transient {
                reason: "the connection closed early".to_owned(),
                status: None,
                retry_after: None,
            }),
            Some(size) if have > size => Err(RequestError::Fatal(HubError::Damaged {
                file: file.to_owned(),
                what: "size",
                got: have.to_string(),
                expected: size.to_string(),
            })),
            _ => {
                output.sync_all().map_err(|e| broken("write", e))?;
                hasher.check(file, &info.etag).map_err(RequestError::Fatal)
            }
        }
    }

    /// Copies a body to its end; returns the number of bytes.
    fn receive(
        &self,
        file: &str,
        mut body: impl Read,
        output: &mut File,
        hasher: &mut Hasher,
    ) -> Result<u64, RequestError> {
        let mut buffer = vec![0; 256 << 10];
        let mut received = 0;
        loop {
            if self.stop.is_set() {
                return Err(RequestError::Fatal(HubError::Stopped));
            }
            let n = match body.read(&mut buffer) {
                Ok(0) => return Ok(received),
                Ok(n) => n,
                Err(error) if error.kind() == ErrorKind::Interrupted => continue,
                Err(error) => return Err(classify(ureq::Error::from(error))),
            };
            output
                .write_all(&buffer[..n])
                .map_err(|e| RequestError::Fatal(HubError::io("write", file, e)))?;
            hasher.update(&buffer[..n]);
            self.progress.advanced(file, n as u64);
            received += n as u64;
        }
    }
}

/// Retries with back-off, and stops waiting when another file failed.
struct Patience<'a> {
    options: &'a HubOptions,
    stop: &'a Stop,
    what: &'a str,
    progress: &'a dyn Progress,
}

impl Patience<'_> {
    fn retry<T>(&self, mut act: impl FnMut() -> Result<T, RequestError>) -> Result<T, HubError> {
        let mut failures = 0;
        loop {
            let (reason, status, retry_after) = match act() {
                Ok(value) => return Ok(value),
                Err(RequestError::Fatal(error)) => return Err(error),
                Err(RequestError::Unreachable(reason)) => return Err(self.unreachable(reason)),
                Err(RequestError::Transient { reason, status, retry_after }) => {
                    (reason, status, retry_after)
                }
            };
            failures += 1;
            if failures >= self.options.attempts {
                return Err(match status {
                    Some(status) => {
                        let url = format!("{} ({})", self.options.endpoint, self.what);
                        HubError::Status { url, status }
                    }
                    None => self.unreachable(reason),
                });
            }
            self.pause(failures, &reason, retry_after)?;
        }
    }

    fn unreachable(&self, reason: String) -> HubError {
        let (id, endpoint) = (self.what.to_owned(), self.options.endpoint.clone());
        HubError::Unreachable { id, endpoint, reason }
    }

    fn pause(
        &self,
        failures: u32,
        reason: &str,
        retry_after: Option<Duration>,
    ) -> Result<(), HubError> {
        let doubled = self.options.back_off * 2u32.saturating_pow(failures.min(16) - 1);
        let wait = retry_after.map_or(doubled.min(MAX_BACK_OFF), |wish| wish.min(MAX_RETRY_AFTER));
        self.progress.retrying(self.what, reason, wait);
        if self.stop.wait(wait) { Err(HubError::Stopped) } else { Ok(()) }
    }
}

/// Set once, when the download as a whole has failed.
#[derive(Default)]
struct Stop {
    is_set: Mutex<bool>,
    changed: Condvar,
}

impl Stop {
    fn set(&self) {
        *lock(&self.is_set) = true;
        self.changed.notify_all();
    }

    fn is_set(&self) -> bool {
        *lock(&self.is_set)
    }

    /// Waits so long at most; true when it was set.
    fn wait(&self, timeout: Duration) -> bool {
        let guard = lock(&self.is_set);
        let (is_set, _) = self
            .changed
            .wait_timeout_while(guard, timeout, |is_set| !*is_set)
            .unwrap_or_else(PoisonError::into_inner);
        *is_set
    }
}

fn lock<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

fn is_whole(blob: &Path, info: &FileInfo) -> bool {
    std::fs::metadata(blob).is_ok_and(|found| {
        found.is_file() && info.size_bytes.is_none_or(|size| found.len() == size)
    })
}

fn len(path: &Path) -> u64 {
    std::fs::metadata(path).map_or(0, |found| found.len())
}

fn remove(path: &Path) -> Result<(), HubError> {
    std::fs::remove_file(path).map_err(|e| HubError::io("remove", path, e))
}

fn hash_prefix(hasher: &mut Hasher, path: &Path, len: u64) -> std::io::Result<()> {
    if len == 0 || matches!(hasher, Hasher::None) {
        return Ok(());
    }
    let mut prefix = File::open(path)?.take(len);
    let mut buffer = vec![0; 256 << 10];
    loop {
        match prefix.read(&mut buffer)? {
            0 => return Ok(()),
            n => hasher.update(&buffer[..n]),
        }
    }
}
