//! The demo model that the binary carries.
//!
//! It is unpacked once into a directory named by its content's hash, because the loader maps files.
//! The directory appears whole, by a rename; a directory that does not hold exactly the embedded
//! bytes is replaced.

use crate::cache::{create_parent, temporary};
use crate::error::HubError;
use std::path::{Path, PathBuf};

type Files = [(&'static str, &'static [u8])];

const FILES: &Files = &[
    ("config.json", include_bytes!("../demo/config.json")),
    ("generation_config.json", include_bytes!("../demo/generation_config.json")),
    ("model.safetensors", include_bytes!("../demo/model.safetensors")),
    ("tokenizer.json", include_bytes!("../demo/tokenizer.json")),
    ("tokenizer_config.json", include_bytes!("../demo/tokenizer_config.json")),
    ("chat_template.jinja", include_bytes!("../demo/chat_template.jinja")),
];

/// The hash of these files, which takes as long to make as all the rest of a start. A test makes it.
const HASH: &str = "f47e19dd59ab5a5a2a2256c19848bd2e";

/// The directory of the unpacked demo model below `own_cache_dir`.
pub(crate) fn unpack(own_cache_dir: &Path) -> Result<PathBuf, HubError> {
    unpack_files(FILES, own_cache_dir.join("demo").join(HASH))
}

fn unpack_files(files: &Files, dir: PathBuf) -> Result<PathBuf, HubError> {
    if holds(&dir, files) {
        return Ok(dir);
    }
    create_parent(&dir)?;
    let fresh = temporary(&dir);
    std::fs::create_dir(&fresh).map_err(|e| HubError::io("create", &fresh, e))?;
    for (name, bytes) in files {
        let path = fresh.join(name);
        std::fs::write(&path, bytes).map_err(|e| HubError::io("write", &path, e))?;
    }
    if std::fs::rename(&fresh, &dir).is_err() {
        // Something is there already: what another process just unpacked, or a damaged copy.
        if holds(&dir, files) {
            remove_all(&fresh)?;
            return Ok(dir);
        }
        let old = fresh.with_extension("old");
        std::fs::rename(&dir, &old)
            .and_then(|()| std::fs::rename(&fresh, &dir))
            .map_err(|e| HubError::io("replace", &dir, e))?;
        remove_all(&old)?;
    }
    Ok(dir)
}

fn holds(dir: &Path, files: &Files) -> bool {
    files
        .iter()
        .all(|(name, bytes)| std::fs::read(dir.join(name)).is_ok_and(|found| found == *bytes))
}

fn remove_all(dir: &Path) -> Result<(), HubError> {
    match std::fs::remove_dir_all(dir) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
            Err(HubError::io("remove", dir, error))
        }
        Ok(()) | Err(_) => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::verify::hex;
    use sha2::Digest as _;

    /// Half a SHA-256 over names, lengths and contents.
    fn content_hash(files: &Files) -> String {
        let mut hasher = sha2::Sha256::new();
        for (name, bytes) in files {
            hasher.update(format!("{name}\0{}\0", bytes.len()));
            hasher.update(bytes);
        }
        hex(&hasher.finalize()[..16])
    }

    #[test]
    fn the_embedded_model_is_whole() {
        let root = tempfile::tempdir().unwrap();
        let dir = unpack(root.path()).unwrap();
        assert!(dir.starts_with(root.path().join("demo")));
        crate::inspect(&dir).unwrap();
        assert_eq!(unpack(root.path()).unwrap(), dir);
        assert_eq!(HASH, content_hash(FILES), "the files have changed: this is their hash");
    }

    #[test]
    fn a_damaged_copy_is_replaced_and_a_whole_one_kept() {
        let files: &Files = &[("a", b"one"), ("b", b"two")];
        let root = tempfile::tempdir().unwrap();
        let parent = root.path().join("not/yet/there");
        let unpack = || unpack_files(files, parent.join("hash")).unwrap();
        let dir = unpack();
        assert_eq!(std::fs::read(dir.join("b")).unwrap(), b"two");
        let inode = |path: &Path| {
            use std::os::unix::fs::MetadataExt as _;
            std::fs::metadata(path).unwrap().ino()
        };
        let first = inode(&dir);
        assert_eq!(inode(&unpack()), first);
        std::fs::write(dir.join("b"), "tw").unwrap();
        assert_eq!(unpack(), dir);
        assert_eq!(std::fs::read(dir.join("b")).unwrap(), b"two");
        assert_eq!(std::fs::read_dir(&parent).unwrap().count(), 1, "nothing temporary is left");
        assert_ne!(content_hash(files), content_hash(&[("a", b"onet"), ("b", b"wo")]));
    }
}
