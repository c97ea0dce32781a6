# U2A in Rust. `just --list` shows the recipes; each passes further flags to its program.
set positional-arguments

ingest := "target/release/ingest"
train := "target/release/train"
fetch := "target/release/fetch"
inspect := "target/release/inspect"

# Show the recipes
default:
    @just --list

# Build ingest and train, with CUDA if there is an NVIDIA driver and a toolkit (U2A_CUDA=0|1 decides otherwise); U2A_MPI=1 for MPI
build:
    @scripts/build

# From raw clips to a table: synthesise, ingest, train, evaluate with each modality missing
demo: build
    @scripts/demo

# Make a synthetic raw tree in a dataset's own layout
synth dataset *flags: build
    @{{ingest}} synth "$@"

# Get the raw data of a dataset, or the weights of the encoders, from their publishers: just fetch crema-d, just fetch weights
fetch what *flags: build
    @{{fetch}} "$@"

# Check a raw tree for completeness
check dataset *flags: build
    @{{ingest}} check "$@"

# Convert a raw tree to Parquet shards
ingest dataset *flags: build
    @{{ingest}} run "$@"

# Show what shards contain: schema, counts, availability; --sample ID writes images. The first call builds it
inspect dataset *flags:
    @scripts/build inspect
    @{{inspect}} "$@"

# Write an HTML page that shows what shards contain
browse dataset *flags: build
    @{{ingest}} browse "$@"

# Write a dataset card and Croissant metadata beside shards
publish shards *flags: build
    @{{ingest}} publish "$@"

# Write a missing-modality mask beside the shards
mask dataset *flags: build
    @{{ingest}} mask "$@"

# Train U2A on shards
train dataset *flags: build
    @{{train}} run "$@"

# Evaluate a run on its test split
eval run *flags: build
    @{{train}} eval "$@"

# Predict the labels of new media files, with any modality missing: just predict RUN FILE...
predict run *files: build
    @{{train}} predict "$@"

# Reproduce a table or figure of the paper, beside its own values: just reproduce table4 --scale small
reproduce artefact *flags: build
    @{{train}} reproduce "$@"

# Write an HTML report about runs
report *runs: build
    @{{train}} report "$@"

# Print a job for a cluster, with flags of `ingest run` or `train run`: just cluster slurm ingest crema-d > ingest.sh
cluster scheduler program dataset *flags: build
    @scripts/cluster "$@"

# Show what this machine and this build support
doctor *flags: build
    @{{train}} doctor "$@"

# Build the Python package u2a_features into target/wheels
wheel *flags:
    @scripts/wheel "$@"

# All tests that need neither Python nor a GPU; ends with the skipped ones
test *flags:
    @scripts/test "$@"

# Unit tests of the libraries that need no FFmpeg, for use after every edit
test-unit *flags:
    @scripts/test --unit "$@"

# Training in several processes by MPI: the losses of one process, lost ranks, errors
test-mpi *flags:
    @scripts/test-mpi "$@"

# Injected faults, thousands of damaged files and long runs; ends with a table of figures
test-faults *flags:
    @scripts/test-faults "$@"

# Fuzz the readers of foreign files: just fuzz [SECONDS [READER]]
fuzz *arguments:
    @scripts/fuzz "$@"

# Check licences, advisories and duplicates of the dependencies (needs cargo install --locked cargo-deny)
deny *flags:
    @cargo deny check "$@"

# All five datasets at full scale: real annotations of ../shared over stand-in media; half an hour and 5 GB
test-full:
    @cargo build --quiet --workspace --bins
    @cargo test -p tests --test full_scale -- --ignored --nocapture --test-threads 1

# Ingest in 64 parts on this machine, killed at random, compared with one run: --parts, --samples, --seed
simulate-scale *flags: build
    @scripts/simulate-scale "$@"

# Ingest and train as jobs of a real Slurm that the test starts; needs root. `./setup test-slurm` installs Slurm and munge
test-slurm *flags:
    @scripts/test-slurm "$@"

# The pages of browse and report in a headless Chromium. `./setup test-browser` installs it
test-browser *flags:
    @scripts/test-browser "$@"

# Shards in an object store: an S3 server on loopback, in a Python environment that the first call makes
test-s3 *flags:
    @scripts/test-s3 "$@"

# Tests against Python packages, in an environment that the first call makes
test-python *flags:
    @scripts/test-python "$@"

# Recompute the golden values and show which of them differ
golden:
    @scripts/golden

# Benchmark against Python packages: all, or the given names
bench *names:
    @scripts/bench "$@"

# Build for NVIDIA GPUs on any machine; --arch 75 for older GPUs
build-cuda *flags:
    @scripts/build-cuda "$@"

# Test the GPU build on a GPU; --bundle packs it for another machine, --cpu runs the check without a GPU
gpu-check *flags:
    @scripts/gpu-check "$@"

# Check format, clippy, documentation and licences; --exclude inspect does without compiling polars
lint *flags:
    @scripts/lint "$@"
