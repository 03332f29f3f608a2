//! A model in this process, found and loaded as `tyndall run` does.

use crate::Context;
use crate::error::BenchError;
use std::path::PathBuf;
use std::sync::Arc;
use tyndall_hub::{HubOptions, for_terminal};
use tyndall_kernels::{Cpu, CpuOptions, Isa};
use tyndall_model::{MemoryPlan, Model, ModelSpec, PlanRequest, QuantizeOptions};

/// A checkpoint on disk.
#[derive(Debug)]
pub(crate) struct Found {
    /// What it is called.
    pub(crate) id: String,
    pub(crate) dir: PathBuf,
    pub(crate) spec: ModelSpec,
    /// Rounded weights are kept here where the checkpoint's directory cannot be written.
    kept_in: Option<PathBuf>,
}

impl Found {
    /// Finds a target, downloads it where needed, and reads its `config.json`.
    pub(crate) fn target(target: &str, context: &Context) -> Result<Self, BenchError> {
        let options = HubOptions::from_env(&context.env)
            .map_err(|error| BenchError::of("the model was not found", &error))?;
        let model = tyndall_hub::resolve(target, &options, for_terminal().as_ref());
        let model = model.map_err(|error| {
            let cure = error.cure();
            let failed = BenchError::of("the model was not found", &error);
            cure.into_iter().fold(failed, BenchError::with_cure)
        })?;
        // As a replica does, so that both use the same files.
        let kept_in = Some(options.own_cache_dir.join("quantized"));
        Self::checkpoint(model.id, model.dir, kept_in)
    }

    /// A directory that is known.
    pub(crate) fn checkpoint(
        id: String,
        dir: PathBuf,
        kept_in: Option<PathBuf>,
    ) -> Result<Self, BenchError> {
        let spec = ModelSpec::from_dir(&dir).map_err(|error| unusable(&error))?;
        Ok(Self { id, dir, spec, kept_in })
    }

    pub(crate) fn plan(&self, request: &PlanRequest) -> Result<MemoryPlan, BenchError> {
        tyndall_model::plan(&self.dir, &self.spec, request).map_err(|error| unusable(&error))
    }

    /// Maps the weights, rounded where the plan says so, and waits until they are in reach.
    pub(crate) fn load(&self, memory: &MemoryPlan, cpu: Arc<Cpu>) -> Result<Model, BenchError> {
        let quantize =
            QuantizeOptions { fallback_dir: self.kept_in.as_deref(), on_event: &mut |_| {} };
        let model = Model::load_with(&self.dir, self.spec.clone(), memory, cpu, quantize)
            .map_err(|error| unusable(&error))?;
        let prefault = model.prefault().map_err(|error| unusable(&error))?;
        prefault.wait();
        Ok(model)
    }
}

/// A worker pool for a model.
pub(crate) fn cpu(threads: Option<u32>, isa: Option<Isa>) -> Result<Arc<Cpu>, BenchError> {
    let threads = threads.map(|threads| threads as usize);
    let cpu = Cpu::new(CpuOptions { threads, isa }).map_err(|error| unusable(&error))?;
    Ok(Arc::new(cpu))
}

pub(crate) fn unusable(error: &dyn std::error::Error) -> BenchError {
    BenchError::of("the model is not usable", error)
}
