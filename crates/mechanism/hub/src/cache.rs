//! The Hugging Face cache on disk.
//!
//! ```text
//! models--org--name/refs/main                     the commit that `main` was last seen at
//! models--org--name/blobs/<etag>                  contents, each once
//! models--org--name/snapshots/<commit>/<file>     relative links to blobs
//! .locks/models--org--name/<etag>.lock            held while a blob is being written
//! ```
//! Source of the layout: huggingface_hub, "Understand caching".

use crate::choose::{Missing, inspect};
use crate::error::HubError;
use crate::id::{ModelId, Revision, is_commit};
use std::hash::{BuildHasher, Hasher, RandomState};
use std::path::{Path, PathBuf};

/// One repository in the cache.
#[derive(Debug, Clone)]
pub struct ModelCache {
    repository: PathBuf,
    locks: PathBuf,
}

impl ModelCache {
    /// The place of `id` in the cache at `cache_dir`; nothing is created.
    #[must_use]
    pub fn new(cache_dir: &Path, id: &ModelId) -> Self {
        Self {
            repository: cache_dir.join(id.folder()),
            locks: cache_dir.join(".locks").join(id.folder()),
        }
    }

    /// The snapshot of a revision, when it is whole.
    #[must_use]
    pub fn snapshot(&self, revision: &Revision) -> Option<PathBuf> {
        let dir = self.snapshot_dir(&self.commit(revision)?);
        inspect(&dir).ok().map(|()| dir)
    }

    /// What the snapshot of a revision lacks; nothing when there is no snapshot at all.
    pub(crate) fn lacking(&self, revision: &Revision) -> Option<Missing> {
        let dir = self.snapshot_dir(&self.commit(revision)?);
        if dir.is_dir() { inspect(&dir).err() } else { None }
    }

    /// The commit that a revision was last seen at.
    fn commit(&self, revision: &Revision) -> Option<String> {
        if revision.is_commit() {
            return Some(revision.as_str().to_owned());
        }
        let commit = std::fs::read_to_string(self.ref_path(revision)).ok()?;
        let commit = commit.trim();
        is_commit(commit).then(|| commit.to_owned())
    }

    pub(crate) fn snapshot_dir(&self, commit: &str) -> PathBuf {
        self.repository.join("snapshots").join(commit)
    }

    pub(crate) fn blob(&self, etag: &str) -> PathBuf {
        self.repository.join("blobs").join(etag)
    }

    pub(crate) fn lock_path(&self, etag: &str) -> PathBuf {
        self.locks.join(format!("{etag}.lock"))
    }

    fn ref_path(&self, revision: &Revision) -> PathBuf {
        self.repository.join("refs").join(revision.as_str())
    }

    /// Notes the commit of a branch or tag. Readers see the old one or the new one.
    pub(crate) fn write_ref(&self, revision: &Revision, commit: &str) -> Result<(), HubError> {
        if revision.is_commit() {
            return Ok(());
        }
        let path = self.ref_path(revision);
        create_parent(&path)?;
        let temporary = temporary(&path);
        std::fs::write(&temporary, commit).map_err(|e| HubError::io("write", &temporary, e))?;
        std::fs::rename(&temporary, &path).map_err(|e| HubError::io("write", &path, e))
    }

    /// Makes `file` of a snapshot a relative link to its blob.
    pub(crate) fn link(&self, commit: &str, file: &str, etag: &str) -> Result<(), HubError> {
        let path = self.snapshot_dir(commit).join(file);
        create_parent(&path)?;
        let up = "../".repeat(2 + file.matches('/').count());
        let target = PathBuf::from(format!("{up}blobs/{etag}"));
        if std::fs::read_link(&path).is_ok_and(|existing| existing == target) {
            return Ok(());
        }
        let temporary = temporary(&path);
        std::os::unix::fs::symlink(&target, &temporary)
            .and_then(|()| std::fs::rename(&temporary, &path))
            .map_err(|e| HubError::io("link", &path, e))
    }
}

/// A name beside `path` that nobody else uses: no other thread, and no process of another machine or
/// container with the same cache.
pub(crate) fn temporary(path: &Path) -> PathBuf {
    let name = path.file_name().unwrap_or_default().to_string_lossy();
    let random = RandomState::new().build_hasher().finish();
    path.with_file_name(format!(".{name}.{random:016x}.tmp"))
}

pub(crate) fn create_parent(path: &Path) -> Result<(), HubError> {
    let parent = path.parent().unwrap_or(Path::new("."));
    std::fs::create_dir_all(parent).map_err(|e| HubError::io("create", parent, e))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_snapshot_counts_only_when_whole() {
        let dir = tempfile::tempdir().unwrap();
        let cache = ModelCache::new(dir.path(), &ModelId::new("org/m").unwrap());
        let commit = "a".repeat(40);
        let main = Revision::main();
        assert_eq!(cache.snapshot(&main), None);
        cache.write_ref(&main, &commit).unwrap();
        for (file, text) in
            [("config.json", "{}"), ("model.safetensors", "w"), ("tokenizer.json", "{}")]
        {
            assert_eq!(cache.snapshot(&main), None, "before {file}");
            let blob = cache.blob(file);
            create_parent(&blob).unwrap();
            std::fs::write(&blob, text).unwrap();
            cache.link(&commit, file, file).unwrap();
            cache.link(&commit, file, file).unwrap();
        }
        let snapshot = cache.snapshot(&main).unwrap();
        assert_eq!(snapshot, dir.path().join("models--org--m/snapshots").join(&commit));
        assert_eq!(
            std::fs::read_link(snapshot.join("config.json")).unwrap(),
            Path::new("../../blobs/config.json")
        );
        assert_eq!(cache.snapshot(&Revision::new(&commit).unwrap()), Some(snapshot));
        std::fs::remove_file(cache.blob("model.safetensors")).unwrap();
        assert_eq!(cache.snapshot(&main), None, "a dangling link is no file");
        std::fs::write(dir.path().join("models--org--m/refs/main"), "../../x").unwrap();
        assert_eq!(cache.snapshot(&main), None);
    }

    #[test]
    fn one_file_may_be_linked_by_many_at_a_time() {
        let dir = tempfile::tempdir().unwrap();
        let cache = ModelCache::new(dir.path(), &ModelId::new("org/m").unwrap());
        let commit = "a".repeat(40);
        std::thread::scope(|scope| {
            for etag in ["0", "1", "2", "3"] {
                scope.spawn(|| (0..200).for_each(|_| cache.link(&commit, "f", etag).unwrap()));
            }
        });
        let left: Vec<_> = std::fs::read_dir(cache.snapshot_dir(&commit)).unwrap().collect();
        assert_eq!(left.len(), 1, "nothing temporary is left: {left:?}");
    }
}
