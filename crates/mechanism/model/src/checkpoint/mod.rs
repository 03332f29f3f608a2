//! The tensors of a checkpoint directory, found but not read.
//!
//! Opening maps the files and reads their headers; a tensor's bytes are touched when a kernel needs
//! them. Every offset is checked here, once, so that later slicing cannot fail.

mod pytorch;
mod safetensors;

use std::collections::{BTreeMap, BTreeSet};
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use serde::Deserialize;
use tyndall_kernels::{DType, MappedFile};

/// All tensors of a checkpoint, by name.
pub(crate) struct Checkpoint {
    files: Vec<CheckpointFile>,
    tensors: BTreeMap<String, TensorInfo>,
}

pub(crate) struct CheckpointFile {
    pub(crate) path: PathBuf,
    pub(crate) map: Arc<MappedFile>,
}

/// Where a tensor lies and what it is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct TensorInfo {
    /// Index into the checkpoint's files.
    pub(crate) file: usize,
    pub(crate) dtype: StoredType,
    pub(crate) shape: Vec<usize>,
    pub(crate) layout: Layout,
}

/// The element type on disk.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum StoredType {
    /// One that kernels read.
    Float(DType),
    /// Any other, by the file's name for it.
    Other(String),
}

/// Which bytes of the file are the tensor's.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Layout {
    /// These, row-major.
    Contiguous(Range<usize>),
    /// Some of these, with a step in elements for each dimension.
    Strided {
        /// Bytes of the first element up to the end of the storage.
        storage: Range<usize>,
        /// In elements.
        strides: Vec<usize>,
    },
}

/// A tensor's bytes.
#[derive(Clone)]
pub(crate) enum TensorBytes {
    /// In the file, used in place.
    Mapped(Arc<MappedFile>, Range<usize>),
    /// Copied, because the file has them in another order, or made up.
    Owned(Arc<[u8]>),
}

impl TensorBytes {
    pub(crate) fn as_slice(&self) -> &[u8] {
        match self {
            TensorBytes::Mapped(map, range) => &map.bytes()[range.clone()],
            TensorBytes::Owned(bytes) => bytes,
        }
    }
}

/// Why the weight files of a checkpoint cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum CheckpointError {
    /// No weight file.
    #[error(
        "no weights in '{dir}': looked for {SINGLE_SAFETENSORS}, {SINGLE_PYTORCH} and \
         the .index.json of each"
    )]
    NoWeights {
        /// The checkpoint's directory.
        dir: PathBuf,
    },
    /// A file cannot be opened.
    #[error("failed to open '{path}'")]
    Open {
        /// Which.
        path: PathBuf,
        /// Why.
        #[source]
        source: std::io::Error,
    },
    /// Files that the index names do not exist.
    #[error(
        "'{index}' names files that are missing: {}; download the checkpoint again",
        .missing.join(", ")
    )]
    MissingShards {
        /// The index.
        index: PathBuf,
        /// The absent files.
        missing: Vec<String>,
    },
    /// A file is damaged or of another kind.
    #[error("'{path}' is not usable: {reason}")]
    Malformed {
        /// Which.
        path: PathBuf,
        /// What is wrong, and what to do.
        reason: String,
    },
    /// One tensor's entry is damaged.
    #[error("tensor '{tensor}' in '{path}' is not usable: {reason}")]
    Tensor {
        /// In which file.
        path: PathBuf,
        /// Its name.
        tensor: String,
        /// What is wrong.
        reason: String,
    },
}

/// What is wrong with a file, before its path is known.
#[derive(Debug)]
pub(crate) enum Flaw {
    File(String),
    Tensor { name: String, reason: String },
}

impl Flaw {
    fn file(reason: impl Into<String>) -> Flaw {
        Flaw::File(reason.into())
    }

    fn tensor(name: &str, reason: impl Into<String>) -> Flaw {
        Flaw::Tensor { name: name.to_owned(), reason: reason.into() }
    }

    fn at(self, path: &Path) -> CheckpointError {
        match self {
            Flaw::File(reason) => CheckpointError::Malformed { path: path.into(), reason },
            Flaw::Tensor { name, reason } => {
                CheckpointError::Tensor { path: path.into(), tensor: name, reason }
            }
        }
    }
}

/// A tensor as a file's header describes it: type, shape, bytes.
type Entry = (String, StoredType, Vec<usize>, Layout);

const SINGLE_SAFETENSORS: &str = "model.safetensors";
const SINGLE_PYTORCH: &str = "pytorch_model.bin";
/// Kernels know vectors and matrices; a few dimensions more do no harm until a tensor is used.
const MAX_RANK: usize = 8;

impl Checkpoint {
    /// Finds and maps the weight files of `dir` as transformers would: safetensors before PyTorch
    /// files, one file before shards.
    pub(crate) fn open(dir: &Path) -> Result<Checkpoint, CheckpointError> {
        for single in [SINGLE_SAFETENSORS, SINGLE_PYTORCH] {
            if dir.join(single).is_file() {
                let mut checkpoint = Checkpoint::empty();
                checkpoint.add_file(dir.join(single), |_| true)?;
                return Ok(checkpoint);
            }
            let index = dir.join(format!("{single}.index.json"));
            if index.is_file() {
                return Checkpoint::open_shards(dir, index);
            }
        }
        Err(CheckpointError::NoWeights { dir: dir.into() })
    }

    fn empty() -> Checkpoint {
        Checkpoint { files: Vec::new(), tensors: BTreeMap::new() }
    }

    fn open_shards(dir: &Path, index: PathBuf) -> Result<Checkpoint, CheckpointError> {
        #[derive(Deserialize)]
        struct Index {
            weight_map: BTreeMap<String, String>,
        }
        let text = std::fs::read(&index)
            .map_err(|source| CheckpointError::Open { path: index.clone(), source })?;
        let Index { weight_map } = serde_json::from_slice(&text)
            .map_err(|error| Flaw::file(format!("no valid shard index: {error}")).at(&index))?;
        let shards: BTreeSet<&String> = weight_map.values().collect();
        for shard in &shards {
            let plain = Path::new(shard).file_name().is_some_and(|name| name == shard.as_str());
            if !plain {
                return Err(Flaw::file(format!("'{shard}' is not a plain file name")).at(&index));
            }
        }
        let absent = |shard: &&&String| !dir.join(shard.as_str()).is_file();
        let missing: Vec<String> =
            shards.iter().filter(absent).map(|shard| shard.to_string()).collect();
        if !missing.is_empty() {
            return Err(CheckpointError::MissingShards { index, missing });
        }
        let mut checkpoint = Checkpoint::empty();
        for shard in shards {
            // The index decides between files that hold a tensor of the same name.
            let here = |name: &str| weight_map.get(name).is_none_or(|file| file == shard);
            checkpoint.add_file(dir.join(shard), here)?;
        }
        match weight_map.keys().find(|name| !checkpoint.tensors.contains_key(*name)) {
            None => Ok(checkpoint),
            Some(name) => {
                let path = dir.join(&weight_map[name]);
                let reason = format!("it is not there, although '{}' says so", index.display());
                Err(Flaw::tensor(name, reason).at(&path))
            }
        }
    }

    fn add_file(
        &mut self,
        path: PathBuf,
        wanted: impl Fn(&str) -> bool,
    ) -> Result<(), CheckpointError> {
        let map = MappedFile::open(&path)
            .map_err(|source| CheckpointError::Open { path: path.clone(), source })?;
        let entries = match path.extension().is_some_and(|extension| extension == "safetensors") {
            true => safetensors::read(map.bytes()),
            false => pytorch::read(map.bytes()),
        };
        let file = self.files.len();
        for (name, dtype, shape, layout) in entries.map_err(|flaw| flaw.at(&path))? {
            if wanted(&name) {
                self.tensors.insert(name, TensorInfo { file, dtype, shape, layout });
            }
        }
        self.files.push(CheckpointFile { path, map: Arc::new(map) });
        Ok(())
    }

    pub(crate) fn get(&self, name: &str) -> Option<&TensorInfo> {
        self.tensors.get(name)
    }

    pub(crate) fn names(&self) -> impl Iterator<Item = &str> {
        self.tensors.keys().map(String::as_str)
    }

    pub(crate) fn files(&self) -> &[CheckpointFile] {
        &self.files
    }

    /// Bytes of all files.
    pub(crate) fn file_bytes(&self) -> u64 {
        self.files.iter().map(|file| file.map.bytes().len() as u64).sum()
    }

    /// The file that holds a tensor.
    pub(crate) fn path_of(&self, tensor: &TensorInfo) -> &Path {
        &self.files[tensor.file].path
    }

    /// The bytes of a tensor of kernel type, row-major; copied only where the file has them in
    /// another order.
    pub(crate) fn bytes(&self, tensor: &TensorInfo, dtype: DType) -> TensorBytes {
        let map = &self.files[tensor.file].map;
        match &tensor.layout {
            Layout::Contiguous(range) => TensorBytes::Mapped(Arc::clone(map), range.clone()),
            Layout::Strided { storage, strides } => {
                let storage = &map.bytes()[storage.clone()];
                TensorBytes::Owned(
                    gather(storage, &tensor.shape, strides, dtype.size_bytes()).into(),
                )
            }
        }
    }

    /// Bytes of all vectors: norms and biases.
    pub(crate) fn vector_bytes(&self) -> u64 {
        let vectors = self.tensors.values().filter(|tensor| tensor.shape.len() == 1);
        let size = |tensor: &TensorInfo| match tensor.dtype {
            StoredType::Float(dtype) => tensor.num_elements() * dtype.size_bytes(),
            StoredType::Other(_) => 0,
        };
        vectors.map(|tensor| size(tensor) as u64).sum()
    }

    /// The type that most of the weights have, by bytes.
    pub(crate) fn main_dtype(&self) -> Option<DType> {
        let mut totals: Vec<(DType, usize)> = Vec::new();
        for tensor in self.tensors.values() {
            if let StoredType::Float(dtype) = tensor.dtype {
                let bytes = tensor.num_elements() * dtype.size_bytes();
                match totals.iter_mut().find(|(other, _)| *other == dtype) {
                    Some((_, total)) => *total += bytes,
                    None => totals.push((dtype, bytes)),
                }
            }
        }
        totals.into_iter().max_by_key(|&(_, total)| total).map(|(dtype, _)| dtype)
    }
}

impl TensorInfo {
    pub(crate) fn num_elements(&self) -> usize {
        self.shape.iter().product()
    }
}

impl StoredType {
    /// Bytes of an element, where the type is known.
    fn named(name: &str) -> (StoredType, Option<usize>) {
        let float = |dtype: DType| (StoredType::Float(dtype), Some(dtype.size_bytes()));
        let other = |size| (StoredType::Other(name.to_owned()), size);
        match name {
            "F32" => float(DType::F32),
            "F16" => float(DType::F16),
            "BF16" => float(DType::BF16),
            "BOOL" | "U8" | "I8" | "F8_E5M2" | "F8_E4M3" | "F8_E8M0" => other(Some(1)),
            "U16" | "I16" => other(Some(2)),
            "U32" | "I32" => other(Some(4)),
            "U64" | "I64" | "F64" | "C64" => other(Some(8)),
            _ => other(None),
        }
    }
}

/// Copies elements in row-major order of `shape`; the caller has checked that all are in `storage`.
fn gather(storage: &[u8], shape: &[usize], strides: &[usize], size: usize) -> Vec<u8> {
    let count: usize = shape.iter().product();
    let mut out = Vec::with_capacity(count * size);
    let mut index = vec![0usize; shape.len()];
    let mut element = 0usize;
    for _ in 0..count {
        out.extend_from_slice(&storage[element * size..(element + 1) * size]);
        for axis in (0..shape.len()).rev() {
            index[axis] += 1;
            element += strides[axis];
            if index[axis] < shape[axis] {
                break;
            }
            element -= strides[axis] * shape[axis];
            index[axis] = 0;
        }
    }
    out
}

#[cfg(test)]
mod tests;
