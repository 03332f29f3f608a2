//! A directory for the time of a benchmark.

use crate::Context;
use crate::error::BenchError;
use std::fs::DirBuilder;
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};

/// A new directory of this user; it goes with everything in it.
#[derive(Debug)]
pub(crate) struct Scratch(PathBuf);

impl Scratch {
    /// Makes it where temporary files lie. Its path is short, so that sockets find room in it, and
    /// in no other process's arguments or environment unless this one puts it there.
    pub(crate) fn new(context: &Context) -> Result<Self, BenchError> {
        let base = context.env.get("TMPDIR").map_or(Path::new("/tmp"), Path::new);
        let path = base.join(format!("tyndall-bench-{}", std::process::id()));
        let made = DirBuilder::new().mode(0o700).create(&path);
        made.map_err(|error| {
            BenchError::of(&format!("failed to create {}", path.display()), &error)
                .with_cure("set TMPDIR to a directory that may be written")
        })?;
        Ok(Self(path))
    }

    pub(crate) fn path(&self) -> &Path {
        &self.0
    }

    /// Copies the files of a directory, not its folders, into a new one of this name.
    pub(crate) fn copy(&self, from: &Path, name: &str) -> Result<PathBuf, BenchError> {
        let to = self.0.join(name);
        let copied = std::fs::create_dir_all(&to).and_then(|()| {
            for entry in std::fs::read_dir(from)? {
                let entry = entry?;
                if entry.path().is_file() {
                    std::fs::copy(entry.path(), to.join(entry.file_name()))?;
                }
            }
            Ok(())
        });
        copied.map_err(|error| {
            BenchError::of(
                &format!("failed to copy {} to {}", from.display(), to.display()),
                &error,
            )
        })?;
        Ok(to)
    }

    /// Writes a file.
    pub(crate) fn write(&self, name: &str, text: &str) -> Result<PathBuf, BenchError> {
        let path = self.0.join(name);
        let written = std::fs::write(&path, text);
        written.map_err(|error| {
            BenchError::of(&format!("failed to write {}", path.display()), &error)
        })?;
        Ok(path)
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        // What cannot be removed is left for whoever cleans temporary files.
        drop(std::fs::remove_dir_all(&self.0));
    }
}
