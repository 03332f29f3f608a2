//! The compact form of a tokenizer, kept between starts.
//!
//! A file is named by a hash of the tokenizer files' content and of the format, so a changed model
//! never meets an old file. It lies beside the model in `.tyndall`, or, where that cannot be
//! written, in a directory of the user's. A file that is damaged, cut short or foreign is as good as
//! none: the tokenizer is read from its own files, and the next one that is saved replaces it.

use std::io::{self, Write};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use tyndall_kernels::MappedFile;

use crate::vocabulary::{BpeImage, ImageBytes, checksum, signed};

/// Beside the model's own files.
const DIR: &str = ".tyndall";
/// Smaller tokenizers are read as fast as their cache.
const MIN_SOURCE_BYTES: usize = 128 << 10;

/// The places for a model's cache, best first.
#[derive(Debug, Clone)]
pub(crate) struct CacheDirs {
    beside_model: PathBuf,
    of_user: Option<PathBuf>,
}

impl CacheDirs {
    pub(crate) fn new(model: &Path, of_user: Option<&Path>) -> Self {
        Self { beside_model: model.join(DIR), of_user: of_user.map(Path::to_owned) }
    }

    fn all(&self) -> impl Iterator<Item = &Path> {
        std::iter::once(self.beside_model.as_path()).chain(self.of_user.as_deref())
    }
}

/// What a file was made from: one hash over all source files.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct SourceHash([u8; 32]);

impl SourceHash {
    /// The hash of these files, or nothing if they are too small to be worth a cache.
    pub(crate) fn of(sources: &[&[u8]]) -> Option<Self> {
        if sources.iter().map(|bytes| bytes.len()).sum::<usize>() < MIN_SOURCE_BYTES {
            return None;
        }
        let mut hasher = blake3::Hasher::new();
        for source in sources {
            hasher.update(&(source.len() as u64).to_le_bytes());
            hasher.update(source);
        }
        Some(Self(*hasher.finalize().as_bytes()))
    }

    fn file_name(&self) -> String {
        let hex = blake3::Hash::from(self.0).to_hex();
        format!("tokenizer-{}.v1.bin", &hex[..32])
    }
}

/// The vocabulary that was saved for these sources.
pub(crate) fn find(dirs: &CacheDirs, source: SourceHash) -> Option<BpeImage> {
    let name = source.file_name();
    dirs.all().find_map(|dir| open(&dir.join(&name), source))
}

fn open(path: &Path, source: SourceHash) -> Option<BpeImage> {
    let file = MappedFile::open(path).ok()?;
    // Page by page would be a fault for every few lines of the hash below.
    drop(file.prefault(0..file.bytes().len()));
    let (of, is_whole) = checksum(file.bytes())?;
    if of != source.0 || !is_whole {
        return None;
    }
    BpeImage::on(ImageBytes::Mapped(Arc::new(file)))
}

/// A tokenizer's compact form that is not on disk yet.
///
/// Loading does not write it, so that no start waits for the disk: save it when there is time.
#[derive(Debug)]
pub struct TokenizerCache {
    pub(crate) image: BpeImage,
    pub(crate) source: SourceHash,
    pub(crate) dirs: CacheDirs,
}

impl TokenizerCache {
    /// Writes the file, whole or not at all, beside the model or else into the user's directory.
    /// Returns where it is.
    ///
    /// # Errors
    /// Neither directory can be written; the model works without, and starts slower.
    pub fn save(&self) -> io::Result<PathBuf> {
        let dirs = self.dirs.all();
        let mut refused = io::Error::other("there is no directory for it");
        for dir in dirs {
            match self.save_in(dir) {
                Ok(path) => return Ok(path),
                Err(error) => refused = error,
            }
        }
        Err(refused)
    }

    fn save_in(&self, dir: &Path) -> io::Result<PathBuf> {
        std::fs::create_dir_all(dir)?;
        let path = dir.join(self.source.file_name());
        // Others who serve the same model read it too.
        let readable = std::fs::Permissions::from_mode(0o644);
        let mut file = tempfile::Builder::new().permissions(readable).tempfile_in(dir)?;
        let (head, checked) = signed(&self.image, &self.source.0);
        file.write_all(&head)?;
        file.write_all(checked)?;
        file.persist(&path)?;
        Ok(path)
    }
}
