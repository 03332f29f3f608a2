//! The directory of a node's sockets.

use rustix::process::{Pid, geteuid, test_kill_process};
use std::fs::{self, DirBuilder, Metadata};
use std::io;
use std::os::unix::fs::{DirBuilderExt, MetadataExt};
use std::path::{Path, PathBuf};
use tyndall_types::protocol::RuntimeDir;

const PREFIX: &str = "tyndall-";
/// A socket's path has 107 bytes; a replica's name in it has at most 54.
const MAX_PATH_BYTES: usize = 50;

/// Why there is no runtime directory.
#[derive(Debug, thiserror::Error)]
pub enum RuntimeDirError {
    /// The path leaves no room for a socket's name.
    #[error(
        "{path} is too long for a directory of sockets ({max} bytes at most); choose a shorter one"
    )]
    TooLong {
        /// The directory.
        path: PathBuf,
        /// The bound, in bytes.
        max: usize,
    },
    /// The system refused.
    #[error("failed to create {path}; choose another base directory")]
    Create {
        /// The directory.
        path: PathBuf,
        /// Why.
        #[source]
        source: io::Error,
    },
}

/// Owns the runtime directory of this process; removed when dropped.
#[derive(Debug)]
pub struct NodeDir(RuntimeDir);

impl NodeDir {
    /// Creates `<base>/tyndall-<pid>`, for this user only, and removes what dead nodes left there.
    ///
    /// # Errors
    /// [`RuntimeDirError`].
    pub fn create(base: &Path) -> Result<Self, RuntimeDirError> {
        let pid = std::process::id();
        let path = base.join(format!("{PREFIX}{pid}"));
        if path.as_os_str().len() > MAX_PATH_BYTES {
            return Err(RuntimeDirError::TooLong { path, max: MAX_PATH_BYTES });
        }
        remove_leftovers(base, pid);
        match DirBuilder::new().mode(0o700).create(&path) {
            Ok(()) => Ok(Self(RuntimeDir(path))),
            Err(source) => Err(RuntimeDirError::Create { path, source }),
        }
    }

    /// Where the sockets lie.
    #[must_use]
    pub fn runtime_dir(&self) -> &RuntimeDir {
        &self.0
    }
}

impl Drop for NodeDir {
    fn drop(&mut self) {
        if let Err(error) = fs::remove_dir_all(self.0.path()) {
            tracing::warn!(%error, path = %self.0.path().display(), "failed to remove");
        }
    }
}

/// Removes the directories of dead processes, and of dead ones that had this process's id.
fn remove_leftovers(base: &Path, own_pid: u32) {
    let Ok(entries) = fs::read_dir(base) else { return };
    for entry in entries.flatten() {
        let name = entry.file_name();
        let pid = name.to_str().and_then(|name| name.strip_prefix(PREFIX)?.parse::<i32>().ok());
        let Some(pid) = pid.and_then(Pid::from_raw) else { continue };
        let is_own = u32::try_from(pid.as_raw_nonzero().get()) == Ok(own_pid);
        let is_dead = is_own || test_kill_process(pid) == Err(rustix::io::Errno::SRCH);
        // Not through a link: the base may be writable by everybody.
        let is_ours = |m: Metadata| m.is_dir() && m.uid() == geteuid().as_raw();
        if is_dead && entry.path().symlink_metadata().is_ok_and(is_ours) {
            match fs::remove_dir_all(entry.path()) {
                Ok(()) => tracing::debug!(path = %entry.path().display(), "removed a leftover"),
                Err(error) => tracing::debug!(%error, "failed to remove a leftover"),
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::PermissionsExt;

    #[test]
    fn it_is_private_cleans_up_and_goes() {
        let base = tempfile::tempdir_in("/tmp").unwrap();
        let at = |name: &str| base.path().join(name);
        let dead = std::process::Command::new("/bin/true").spawn().unwrap();
        let dead_pid = dead.id();
        drop(dead.wait_with_output().unwrap());
        let init = at("tyndall-1");
        for dir in [at(&format!("tyndall-{dead_pid}")), init.clone(), at("tyndall-x")] {
            fs::create_dir(&dir).unwrap();
            fs::write(dir.join("a.sock"), "").unwrap();
        }
        let own = at(&format!("tyndall-{}", std::process::id()));
        fs::create_dir(&own).unwrap();
        fs::write(own.join("stale"), "").unwrap();
        let node = NodeDir::create(base.path()).unwrap();
        assert_eq!(node.runtime_dir().path(), own);
        assert_eq!(fs::metadata(&own).unwrap().permissions().mode() & 0o777, 0o700);
        assert_eq!(fs::read_dir(&own).unwrap().count(), 0);
        assert!(!at(&format!("tyndall-{dead_pid}")).exists());
        assert!(init.exists() && at("tyndall-x").exists(), "not ours to remove");
        drop(node);
        assert!(!own.exists());
    }

    #[test]
    fn a_base_that_is_too_long_or_missing_is_refused() {
        let long = PathBuf::from("/tmp").join("x".repeat(60));
        assert!(matches!(NodeDir::create(&long), Err(RuntimeDirError::TooLong { .. })));
        let missing = Path::new("/tmp/no-such-base");
        assert!(matches!(NodeDir::create(missing), Err(RuntimeDirError::Create { .. })));
    }
}
