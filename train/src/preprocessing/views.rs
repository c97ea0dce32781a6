//! How images and spectrograms are normalized, by `preprocessor_config.json`.

use super::side_file::SideFile;
use anyhow::{Result, bail};
use features::mel::{MEL_BINS, SAMPLE_RATE};
use features::{ImageTransform, MelTransform};
use model::pretrained::PREPROCESSOR_FILES;
use serde_json::Value;
use std::path::Path;

/// Pillow's number of the bicubic filter.
const BICUBIC: u64 = 3;

/// Reads the file that describes how CLIP or AST preprocesses, if the checkpoint has one.
pub(super) fn preprocessor(folder: Option<&Path>) -> Result<Option<SideFile>> {
    let Some(folder) = folder else {
        return Ok(None);
    };
    for name in PREPROCESSOR_FILES {
        let Some(mut file) = SideFile::read(folder.join(name))? else {
            continue;
        };
        // The file of a processor for several inputs holds one object for each of them.
        for part in ["image_processor", "feature_extractor"] {
            if file.json[part].is_object() {
                file.json = file.json[part].take();
            }
        }
        return Ok(Some(file));
    }
    Ok(None)
}

impl SideFile {
    /// The transform of images, whose views are `size x size`.
    pub fn image(&self, size: usize) -> Result<ImageTransform> {
        self.check_class(
            &["image_processor_type", "feature_extractor_type"],
            &["CLIP"],
        )?;
        for key in ["do_resize", "do_center_crop", "do_rescale"] {
            self.only(key, true)?;
        }
        self.only("resample", BICUBIC)?;
        if (self.number("rescale_factor", 1.0 / 255.0)? * 255.0 - 1.0).abs() > 1e-5 {
            self.only("rescale_factor", 1.0 / 255.0)?;
        }
        // Older files have a number; newer ones an object with the shorter side, or with both.
        for (key, shorter) in [("size", true), ("crop_size", false)] {
            let value = &self.json[key];
            let both = [&value["height"], &value["width"]];
            let side = match value {
                Value::Null => continue,
                Value::Object(_) if shorter => value["shortest_edge"].as_u64(),
                Value::Object(_) => both[0].as_u64().filter(|_| both[0] == both[1]),
                value => value.as_u64(),
            };
            if side != Some(size as u64) {
                let meaning = match shorter {
                    true => "the shorter side becomes",
                    false => "the view has sides of",
                };
                bail!(
                    "{key} is {value}; here {meaning} {size} pixels, the image_size of config.json: take both files from one checkpoint"
                );
            }
        }
        let default = ImageTransform::clip(size);
        if !self.switch("do_normalize", true)? {
            return Ok(ImageTransform {
                size,
                mean: [0.0; 3],
                std: [1.0; 3],
            });
        }
        let transform = ImageTransform {
            size,
            mean: self.channels("image_mean", default.mean)?,
            std: self.channels("image_std", default.std)?,
        };
        if transform.std.iter().any(|std| *std <= 0.0) {
            bail!("image_std is {}, not positive", self.json["image_std"]);
        }
        Ok(transform)
    }

    /// The transform of spectrograms of `frames` mel frames.
    pub fn mel(&self, frames: usize) -> Result<MelTransform> {
        self.check_class(&["feature_extractor_type"], &["AST"])?;
        self.only("sampling_rate", SAMPLE_RATE)?;
        self.only("num_mel_bins", MEL_BINS)?;
        self.only("feature_size", 1)?;
        let length = &self.json["max_length"];
        if !length.is_null() && length.as_u64() != Some(frames as u64) {
            bail!(
                "max_length is {length}, that of config.json is {frames}; take both files from one checkpoint"
            );
        }
        let default = MelTransform::ast(frames);
        if !self.switch("do_normalize", true)? {
            // Values are divided by twice the standard deviation.
            return Ok(MelTransform {
                frames,
                mean: 0.0,
                std: 0.5,
            });
        }
        let transform = MelTransform {
            frames,
            mean: self.number("mean", default.mean)?,
            std: self.number("std", default.std)?,
        };
        if transform.std <= 0.0 {
            bail!("std is {}, not positive", self.json["std"]);
        }
        Ok(transform)
    }
}
