//! From what a user types to a directory.

use crate::cache::ModelCache;
use crate::choose::inspect;
use crate::demo;
use crate::download::pull;
use crate::error::HubError;
use crate::id::{ModelId, Revision};
use crate::options::HubOptions;
use crate::progress::Progress;
use std::path::{Path, PathBuf};

/// Where a model came from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum TargetKind {
    /// The model inside the binary.
    Demo,
    /// A directory of the user's.
    Directory,
    /// The Hugging Face cache, maybe just filled.
    HuggingFace,
}

/// A model on disk.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ResolvedModel {
    /// `demo`, the Hugging Face id, or the directory's name.
    pub id: String,
    /// Holds config, weights and tokenizer.
    pub dir: PathBuf,
    /// Where it came from.
    pub kind: TargetKind,
}

/// Finds the model of a target; downloads it when it is a Hugging Face id that the cache lacks.
///
/// `demo` is the embedded model (`./demo` a directory of that name); what exists as a directory is
/// that directory; the rest is an id. A whole snapshot of `main` in the cache is used without
/// asking the hub, so a second start needs no network.
///
/// # Errors
/// [`HubError`], with the next step in [`HubError::cure`].
pub fn resolve(
    target: &str,
    options: &HubOptions,
    progress: &dyn Progress,
) -> Result<ResolvedModel, HubError> {
    if target == "demo" {
        let dir = demo::unpack(&options.own_cache_dir)?;
        return Ok(ResolvedModel { id: target.to_owned(), dir, kind: TargetKind::Demo });
    }
    let path = Path::new(target);
    if path.is_dir() {
        return directory(path);
    }
    if is_path(target) {
        return Err(HubError::NoDirectory { path: path.to_owned() });
    }
    let id = ModelId::new(target)?;
    let main = Revision::main();
    let dir = match ModelCache::new(&options.cache_dir, &id).snapshot(&main) {
        Some(dir) => dir,
        None => pull(&id, &main, options, progress)?,
    };
    Ok(ResolvedModel { id: target.to_owned(), dir, kind: TargetKind::HuggingFace })
}

fn directory(path: &Path) -> Result<ResolvedModel, HubError> {
    let dir = path.canonicalize().map_err(|e| HubError::io("open", path, e))?;
    inspect(&dir).map_err(|missing| HubError::NotAModel {
        dir: path.to_owned(),
        missing: missing.to_string(),
    })?;
    let id = dir.file_name().unwrap_or_default().to_string_lossy().into_owned();
    Ok(ResolvedModel { id, dir, kind: TargetKind::Directory })
}

/// Written like a path, so the user did not mean an id.
fn is_path(target: &str) -> bool {
    target.starts_with(['/', '.', '~']) || target.ends_with('/') || target.matches('/').count() > 1
}
