//! Tensors by name, checked when they are asked for.

use std::collections::BTreeSet;
use std::path::Path;

use tyndall_kernels::DType;

use super::{LinearWeights, LoadError, MatrixWeight, TableWeight, VectorWeight};
use crate::checkpoint::{Checkpoint, StoredType, TensorBytes, TensorInfo};

/// The tensors of a checkpoint, and which of them have found their place.
pub(crate) struct Tensors<'a> {
    dir: &'a Path,
    checkpoint: &'a Checkpoint,
    used: BTreeSet<String>,
}

impl<'a> Tensors<'a> {
    pub(crate) fn new(dir: &'a Path, checkpoint: &'a Checkpoint) -> Tensors<'a> {
        Tensors { dir, checkpoint, used: BTreeSet::new() }
    }

    /// The first of `prefixes` under which there is a `module`; the first of all if there is none.
    pub(crate) fn prefix_of(&self, prefixes: &[&'static str], module: &str) -> &'static str {
        let fits =
            |prefix: &&str| self.checkpoint.get(&format!("{prefix}{module}.weight")).is_some();
        prefixes.iter().copied().find(fits).unwrap_or(prefixes[0])
    }

    /// Whether there is a tensor of this name.
    pub(crate) fn has(&self, name: &str) -> bool {
        self.checkpoint.get(name).is_some()
    }

    /// Refuses tensors that have found no place, unless they are `ignored`.
    pub(crate) fn finish(
        &self,
        architecture: &'static str,
        ignored: impl Fn(&str) -> bool,
    ) -> Result<(), LoadError> {
        let unexpected = |name: &&str| !self.used.contains(*name) && !ignored(name);
        let tensors: Vec<String> =
            self.checkpoint.names().filter(unexpected).map(str::to_owned).collect();
        match tensors.is_empty() {
            true => Ok(()),
            false => Err(LoadError::Unexpected { tensors, architecture }),
        }
    }

    pub(crate) fn linear(
        &mut self,
        module: String,
        [rows, cols]: [usize; 2],
        bias: bool,
    ) -> Result<LinearWeights, LoadError> {
        let weight = self.matrix(module.clone(), rows, cols)?;
        let bias = match bias {
            true => Some(self.vector(format!("{module}.bias"), rows)?),
            false => None,
        };
        Ok(LinearWeights { weight, bias })
    }

    pub(crate) fn matrix(
        &mut self,
        module: String,
        rows: usize,
        cols: usize,
    ) -> Result<MatrixWeight, LoadError> {
        Ok(MatrixWeight::Plain(self.table(module, rows, cols)?))
    }

    pub(crate) fn table(
        &mut self,
        module: String,
        rows: usize,
        cols: usize,
    ) -> Result<TableWeight, LoadError> {
        let (bytes, dtype) = self.tensor(format!("{module}.weight"), &[rows, cols])?;
        Ok(TableWeight { bytes, dtype, rows, cols })
    }

    pub(crate) fn vector(&mut self, name: String, len: usize) -> Result<VectorWeight, LoadError> {
        let (bytes, dtype) = self.tensor(name, &[len])?;
        Ok(VectorWeight { bytes, dtype })
    }

    fn tensor(&mut self, name: String, shape: &[usize]) -> Result<(TensorBytes, DType), LoadError> {
        let Some(tensor) = self.checkpoint.get(&name) else {
            return Err(LoadError::MissingTensor { tensor: name, dir: self.dir.into() });
        };
        let path = |tensor: &TensorInfo| self.checkpoint.path_of(tensor).to_owned();
        let dtype = match &tensor.dtype {
            StoredType::Float(dtype) => *dtype,
            StoredType::Other(found) => {
                return Err(LoadError::DType {
                    tensor: name,
                    path: path(tensor),
                    found: found.clone(),
                });
            }
        };
        if tensor.shape != shape {
            return Err(LoadError::Shape {
                tensor: name,
                path: path(tensor),
                found: tensor.shape.clone(),
                expected: shape.to_vec(),
            });
        }
        self.used.insert(name);
        Ok((self.checkpoint.bytes(tensor, dtype), dtype))
    }
}
