//! Streams the training split of a folder of shards: `cargo run --example stream_shards
//! data/shards/ave`, or `s3://BUCKET/shards/ave`.

use std::{error::Error, sync::Arc};

use datasets::Split;
use features::{Folder, Loader, Shards};

fn main() -> Result<(), Box<dyn Error>> {
    let folder: Folder = std::env::args()
        .nth(1)
        .ok_or("give a folder of shards")?
        .parse()?;
    let shards = Arc::new(Shards::open(&folder)?);
    let loader = Loader::builder(&shards)
        .split(Split::Train)
        .batch_size(16)
        .seed(0);
    for batch in loader.shuffle(true).epoch(0)? {
        let batch = batch?;
        println!("{} samples, present: {:?}", batch.ids.len(), batch.present);
    }
    Ok(())
}
