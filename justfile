# U2A in Rust. `just --list` shows the recipes; each hands further flags to its program.
set positional-arguments

ingest := "target/release/ingest"
train := "target/release/train"
inspect := "target/release/inspect"

# Show the recipes
default:
    @just --list

# Build the two programs, with CUDA where an NVIDIA driver and a toolkit are (U2A_CUDA=0|1 decides by hand)
build:
    @scripts/build

# From raw clips to a table: synthesise, ingest, train, evaluate with each modality gone
demo: build
    @scripts/demo

# Make a miniature raw tree in a dataset's own layout
synth dataset *flags: build
    @{{ingest}} synth "$@"

# Hold a raw tree against what the dataset should hold
check dataset *flags: build
    @{{ingest}} check "$@"

# Raw tree to Parquet shards
ingest dataset *flags: build
    @{{ingest}} run "$@"

# Look into shards with polars: schema, counts, availability; --sample ID writes images. Built on the first call
inspect dataset *flags:
    @scripts/build inspect
    @{{inspect}} "$@"

# Write a missing-modality mask beside the shards
mask dataset *flags: build
    @{{ingest}} mask "$@"

# Train U2A on shards
train dataset *flags: build
    @{{train}} run "$@"

# Score a run on its test split
eval run *flags: build
    @{{train}} eval "$@"

# Label new media files, whichever modality they have: just predict RUN FILE...
predict run *files: build
    @{{train}} predict "$@"

# A table or figure of the paper anew, beside the paper's own: just reproduce table4 --scale small
reproduce artefact *flags: build
    @{{train}} reproduce "$@"

# One HTML page about runs
report *runs: build
    @{{train}} report "$@"

# What this machine and this build can do
doctor *flags: build
    @{{train}} doctor "$@"

# All tests that need neither Python nor a GPU
test *flags:
    @scripts/test "$@"

# Unit tests of the libraries that need no FFmpeg: below a minute after an edit
test-unit *flags:
    @scripts/test --unit "$@"

# Faults of every kind, thousands of bad files, long runs: everything lost or let in would show. Ends with the figures
test-faults *flags:
    @scripts/test-faults "$@"

# Readers of foreign files against ever new input: just fuzz [SECONDS [READER]]
fuzz *arguments:
    @scripts/fuzz "$@"

# Licences, advisories and duplicates of the dependencies (cargo install --locked cargo-deny)
deny *flags:
    @cargo deny check "$@"

# All five datasets at full scale: real annotations over stand-in media, where ../shared has them; half an hour and 5 GB
test-full:
    @cargo build --quiet --workspace --bins
    @cargo test -p tests --test full_scale -- --ignored --nocapture --test-threads 1

# Tests against Python peers, in an environment that is made on the first call
test-python *flags:
    @scripts/test-python "$@"

# Make the golden values anew and show whether anything moved
golden:
    @scripts/golden

# Time ours against Python peers in turns: all of it, or the names given
bench *names:
    @scripts/bench "$@"

# Build for NVIDIA GPUs, with or without one here: just build-cuda --arch 75 for older cards
build-cuda *flags:
    @scripts/build-cuda "$@"

# Prove the GPU build where a GPU is; --bundle packs it for another machine, --cpu walks through it without one
gpu-check *flags:
    @scripts/gpu-check "$@"

# Format, clippy, documentation and the licences of dependencies: just lint --exclude inspect spares polars
lint *flags:
    @scripts/lint "$@"
