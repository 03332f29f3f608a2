//! `tyndall plan MODEL`, and the plan that `run` makes before it starts anything.

use crate::failure::Failure;
use crate::machine::available_memory_bytes;
use crate::output::print;
use tyndall_config::{Environment, RawSettings, RunConfig, human_bytes};
use tyndall_hub::{HubOptions, ResolvedModel, for_terminal};
use tyndall_model::{CheckpointPlan, CheckpointSpec, PlanRequest};

pub(crate) fn plan(settings: &RawSettings, env: &Environment) -> Result<(), Failure> {
    let config = tyndall_config::resolve(settings, env)?;
    let model = find(&config, env)?;
    let planned = Planned::new(&config, &model)?;
    print(&planned.describe(&config, &model))
}

/// The model on disk; downloads it where needed.
pub(crate) fn find(config: &RunConfig, env: &Environment) -> Result<ResolvedModel, Failure> {
    let options = HubOptions::from_env(env)?;
    Ok(tyndall_hub::resolve(&config.target.value, &options, for_terminal().as_ref())?)
}

/// A model that can be served, with the arithmetic that says so.
pub(crate) struct Planned {
    pub(crate) spec: CheckpointSpec,
    pub(crate) memory: CheckpointPlan,
    available_bytes: u64,
}

impl Planned {
    /// Reads `config.json` and the headers of the weights. Each replica gets an equal share of the
    /// memory that is free now.
    pub(crate) fn new(config: &RunConfig, model: &ResolvedModel) -> Result<Self, Failure> {
        let spec = CheckpointSpec::from_dir(&model.dir)?;
        let free = config.node.memory_bytes.or_else(available_memory_bytes);
        let available_bytes = match (free, config.model.memory_bytes) {
            (Some(bytes), _) => bytes,
            (None, Some(stated)) => stated,
            (None, None) => {
                return Err(Failure::new("the machine does not say how much memory is free")
                    .with_cure("state what a replica may use: --memory 8GiB"));
            }
        };
        let request = PlanRequest {
            max_model_len: config.model.max_model_len,
            memory_budget_bytes: config.model.memory_bytes,
            available_bytes: available_bytes / u64::from(config.scaling.max_replicas),
            max_num_seqs: config.model.max_num_seqs,
            max_num_batched_tokens: config.model.max_num_batched_tokens,
            quantization: tyndall_model::grouped_type(config.model.quantization),
        };
        let memory = spec.plan(&model.dir, &request)?;
        Ok(Self { spec, memory, available_bytes })
    }

    /// What a replica is told to stay within, so that it plans the very numbers shown.
    pub(crate) fn budget_bytes(&self) -> u64 {
        self.memory.total_bytes()
    }

    pub(crate) fn describe(&self, config: &RunConfig, model: &ResolvedModel) -> String {
        let replicas = config.scaling.max_replicas;
        let free = human_bytes(self.available_bytes);
        let share = match (config.model.memory_bytes, replicas) {
            (Some(bytes), _) => format!("{} of memory, as stated", human_bytes(bytes)),
            (None, 1) => format!("one replica, {free} free"),
            (None, _) => format!("one of at most {replicas} replicas, {free} free for all"),
        };
        let (id, dir, architecture) = (&model.id, model.dir.display(), self.spec.architecture());
        format!(
            "model         {id} ({architecture})\nfiles         {dir}\nplan for      {share}\n{}\n",
            self.memory
        )
    }
}
