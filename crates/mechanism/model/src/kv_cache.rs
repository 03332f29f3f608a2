//! The memory behind the paged KV cache.

use tyndall_kernels::{DType, KvLayer, ZeroedMemory};

use crate::plan::MemoryPlan;
use crate::spec::ModelSpec;
use crate::weights::LoadError;

/// Keys and values of all layers. The system hands out pages when blocks are first written.
pub(crate) struct KvCache {
    dtype: DType,
    num_blocks: usize,
    block_size: usize,
    layers: Vec<LayerMemory>,
}

struct LayerMemory {
    /// Keys, then as many values: see [`KvLayer`].
    memory: ZeroedMemory,
    num_kv_heads: usize,
    head_dim: usize,
}

impl KvCache {
    pub(crate) fn reserve(spec: &ModelSpec, plan: &MemoryPlan) -> Result<KvCache, LoadError> {
        let (num_blocks, block_size) = (plan.num_kv_blocks as usize, plan.block_size as usize);
        let slots = num_blocks * block_size;
        let reserve = |layer: &crate::spec::LayerSpec| {
            let (num_kv_heads, head_dim) = (layer.attention.num_kv_heads, layer.attention.head_dim);
            let bytes = 2 * slots * num_kv_heads * head_dim * plan.kv_dtype.size_bytes();
            let memory = ZeroedMemory::new(bytes)
                .map_err(|source| LoadError::KvCache { bytes: plan.kv_cache_bytes, source })?;
            Ok(LayerMemory { memory, num_kv_heads, head_dim })
        };
        let layers = spec.layers.iter().map(reserve).collect::<Result<_, LoadError>>()?;
        Ok(KvCache { dtype: plan.kv_dtype, num_blocks, block_size, layers })
    }

    pub(crate) fn num_blocks(&self) -> usize {
        self.num_blocks
    }

    pub(crate) fn block_size(&self) -> usize {
        self.block_size
    }

    pub(crate) fn layer(&mut self, index: usize) -> KvLayer<'_> {
        let layer = &mut self.layers[index];
        let bytes = layer.memory.as_mut();
        let half = bytes.len() / 2;
        let (k, v) = bytes.split_at_mut(half);
        KvLayer {
            dtype: self.dtype,
            k,
            v,
            num_blocks: self.num_blocks,
            num_kv_heads: layer.num_kv_heads,
            block_size: self.block_size,
            head_dim: layer.head_dim,
        }
    }
}
