//! The flags of `train run`.

use crate::settings::SettingsOverrides;
use crate::training::memory;
use crate::training::ranks::Ranks;
use anyhow::Result;
use clap::{Args, ValueEnum};
use engine::{Compute, DeviceChoice};
use features::Folder;
use model::encoder::weights::WeightSource;
use std::path::PathBuf;

const EXAMPLES: &str = "\
Examples:
  train run crema-d --random-weights 0 --encoders tiny --epochs 3 --out runs/first
  train run crema-d --resume runs/first
  train run ave --train-mask missing-audio --set train_mask_rate=0.5 --device cuda:0";

/// Sizes of encoders without pretrained weights.
#[derive(Clone, Copy, PartialEq, ValueEnum)]
pub enum EncoderSize {
    /// Four layers of width 64
    Tiny,
    /// The sizes of the pretrained encoders
    Base,
}

/// Train into a run folder, or continue one
#[derive(Args)]
#[command(after_help = EXAMPLES)]
pub struct RunArgs {
    /// Name of a dataset, or the .toml file that describes your own
    #[arg(value_name = "DATASET")]
    pub dataset: String,
    /// Folder of the shards, or its URL (s3://, gs://, az://, https://)
    /// [default: data/shards/DATASET]
    #[arg(long)]
    pub shards: Option<Folder>,
    /// Most bytes of remote shards that are kept on this machine, such as 200GB; 0 for none
    /// [default: U2A_CACHE_SIZE, or 20GB]
    #[arg(long, value_name = "SIZE", value_parser = store::parse_size)]
    pub cache_size: Option<u64>,
    /// Run folder to make [default: runs/DATASET-TIME]
    #[arg(long)]
    pub out: Option<PathBuf>,
    /// Run folder to continue from its newest checkpoint
    #[arg(long, conflicts_with_all = ["out", "weights", "random_weights"])]
    pub resume: Option<PathBuf>,
    /// Folder with clip-vit-base-patch16/, bert-base-uncased/ and
    /// ast-finetuned-audioset-10-10-0.4593/, or with a CLIP, BERT or AST of other sizes in a folder
    /// of any name [default: the Hugging Face hub or its cache]
    #[arg(long)]
    pub weights: Option<PathBuf>,
    /// Random frozen weights from this seed instead of pretrained ones
    #[arg(long, value_name = "SEED", conflicts_with = "weights")]
    pub random_weights: Option<u64>,
    /// Size of the encoders with random weights
    #[arg(long, default_value = "base", requires = "random_weights")]
    pub encoders: EncoderSize,
    /// Most memory that a step may take (11GB, 900MB, ...): stores fewer activations and takes
    /// smaller micro-batches
    #[arg(long, value_name = "SIZE", value_parser = memory::parse_size)]
    pub memory_limit: Option<u64>,
    /// Device: auto (the first GPU if this build and this machine have one, else the CPU), cpu or
    /// cuda:N. Of several processes on a machine (mpirun, srun), each takes the next GPU
    #[arg(long, default_value_t)]
    pub device: DeviceChoice,
    /// Do not verify the shards against the SHA-256 in their manifest
    #[arg(long)]
    pub no_verify: bool,
    /// Threads for arithmetic [default: all cores; of several processes on a machine, each its
    /// part]
    #[arg(long)]
    pub threads: Option<usize>,
    /// Threads that load data ahead [default: as many as for arithmetic]
    #[arg(long)]
    pub loader_threads: Option<usize>,
    /// Print the parameter table and stop
    #[arg(long)]
    pub describe: bool,
    /// Print what would be done and stop
    #[arg(long)]
    pub dry_run: bool,
    /// Print the result as JSON
    #[arg(long)]
    pub json: bool,
    #[command(flatten)]
    settings: SettingsOverrides,
    /// Read the training split in the order of the shards
    #[arg(long)]
    no_shuffle: bool,
    /// Any setting of config.toml; may be given several times
    #[arg(long = "set", value_name = "KEY=VALUE")]
    set: Vec<String>,
}

impl RunArgs {
    /// The settings that the flags and `--set` give. A flag wins over `--set`.
    pub fn overrides(&self) -> Result<SettingsOverrides> {
        let mut flags = self.settings.clone();
        if self.no_shuffle {
            flags.shuffle = Some(false);
        }
        SettingsOverrides::parse(&self.set)?.updated_with(&flags)
    }

    /// The source of the encoders' weights.
    pub fn weights(&self) -> WeightSource {
        match (&self.weights, self.random_weights) {
            (Some(folder), _) => WeightSource::Folder(folder.clone()),
            (None, Some(seed)) => WeightSource::Random(seed),
            (None, None) => WeightSource::Hub,
        }
    }

    /// Whether the encoders are small random ones.
    pub fn tiny_encoders(&self) -> bool {
        self.encoders == EncoderSize::Tiny
    }

    /// Opens the device of this rank. `began` is the device that a run to be continued began on.
    /// For `reproducible`, see [`DeviceChoice::reproducible`]. All ranks have to call it.
    pub fn open_compute(
        &self,
        ranks: &Ranks,
        began: Option<DeviceChoice>,
        reproducible: bool,
    ) -> Result<Compute> {
        let (gpu, cores) = (ranks.place_among_gpus(), ranks.place_among_cores());
        let open = |asked| Compute::open_for(asked, self.threads, gpu.index, cores.count);
        if reproducible {
            return open(self.device.reproducible()?);
        }
        match (self.device, began) {
            (DeviceChoice::Auto, Some(DeviceChoice::Cpu)) => Ok(Compute {
                asked: DeviceChoice::Auto,
                reason: Some("where this run began; --device moves it".to_string()),
                ..open(DeviceChoice::Cpu)?
            }),
            (DeviceChoice::Auto, Some(DeviceChoice::Cuda(_))) => {
                let compute = open(DeviceChoice::Auto)?;
                let began_on_gpu = |reason| format!("{reason}; this run began on a GPU");
                Ok(Compute {
                    reason: compute.reason.map(began_on_gpu),
                    ..compute
                })
            }
            _ => open(self.device),
        }
    }
}
