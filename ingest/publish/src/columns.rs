//! What the columns of a shard mean, for the card and for Croissant.

use arrow_schema::DataType;
use features::ShardSpec;

/// Describes a column in a sentence for people. Of two views of a modality, both have the same
/// sentence.
pub fn meaning(name: &str) -> &'static str {
    let of_view = name.strip_suffix("_a").or(name.strip_suffix("_b"));
    match of_view.unwrap_or(name) {
        "id" => "Identifier of the sample, unique in the dataset.",
        "split" => "The split: train, val or test.",
        "label" => "Class as an index into the list of classes.",
        "label_name" => "Class by name.",
        "labels" => "Classes as indices into the list of classes, ascending.",
        "label_names" => "Classes by name, in the order of `labels`.",
        "has_audio" => "Whether the sample has audio.",
        "has_video" => "Whether the sample has video.",
        "has_image" => "Whether the sample has an image.",
        "has_text" => "Whether the sample has text.",
        "mel" => {
            "Log-mel spectrogram: one row of 128 natural-log energies for every 10 ms, at most 1024 \
             rows, neither padded nor normalised. Null without audio."
        }
        "frames" => {
            "Frames of the video in time order as JPEG files, shorter side at most 256 pixels. Null \
             without video."
        }
        "frame_times" => "Times of the frames in seconds from the start of the clip.",
        "image" => "The image as a JPEG file, shorter side at most 256 pixels. Null without image.",
        "text" => "Cleaned text, not tokenised. Null without text.",
        "audio_seconds" => "Decoded duration of the audio in seconds.",
        "video_seconds" => "Decoded duration of the video in seconds.",
        "event_start" => "Start of the annotated event in seconds from the start of the clip.",
        "event_end" => "End of the annotated event in seconds from the start of the clip.",
        "source" => {
            "Path of the file that the sample was read from, below the folder of the raw data."
        }
        "error" => {
            "Why a modality that should be there is missing, or what is missing of one that is \
             there; else null."
        }
        _ => "",
    }
}

/// Names the type of a column for people.
pub fn words(kind: &DataType) -> String {
    match kind {
        DataType::Utf8 => "string".to_owned(),
        DataType::Boolean => "bool".to_owned(),
        DataType::Int32 => "int32".to_owned(),
        DataType::Float32 => "float32".to_owned(),
        DataType::Float16 => "float16".to_owned(),
        DataType::Struct(_) => "image (bytes, path)".to_owned(),
        DataType::List(of) => format!("list of {}", words(of.data_type())),
        DataType::FixedSizeList(of, length) => format!("{length} x {}", words(of.data_type())),
        other => other.to_string(),
    }
}

/// A column in the terms of Croissant.
pub struct CroissantType {
    /// The data type of a value, or of the elements of an array.
    pub data_type: &'static str,
    /// The shape of an array, with -1 for a length that differs; `None` for a single value.
    pub shape: Option<String>,
    /// Whether a value is a struct whose field `bytes` holds an image file.
    pub is_image: bool,
}

/// Returns the type of a column in Croissant.
pub fn croissant_type(kind: &DataType) -> CroissantType {
    let single = |data_type, is_image| CroissantType {
        data_type,
        shape: None,
        is_image,
    };
    match kind {
        DataType::Int32 => single("cr:Int32", false),
        DataType::Boolean => single("sc:Boolean", false),
        DataType::Float32 => single("cr:Float32", false),
        DataType::Float16 => single("cr:Float16", false),
        DataType::Struct(_) => single("sc:ImageObject", true),
        DataType::List(of) => array_of(of.data_type(), -1),
        DataType::FixedSizeList(of, length) => array_of(of.data_type(), *length),
        _ => single("sc:Text", false),
    }
}

fn array_of(element: &DataType, length: i32) -> CroissantType {
    let inner = croissant_type(element);
    let shape = match inner.shape {
        Some(shape) => format!("{length},{shape}"),
        None => length.to_string(),
    };
    CroissantType {
        shape: Some(shape),
        ..inner
    }
}

/// Returns the names of the columns of a shard with their types, in order.
pub fn of(spec: &ShardSpec) -> Vec<(String, DataType)> {
    let schema = spec.arrow_schema();
    let fields = schema.fields().iter();
    fields
        .map(|field| (field.name().clone(), field.data_type().clone()))
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use datasets::{Modalities, Modality};
    use features::MelDtype;

    #[test]
    fn every_column_has_a_meaning() {
        let (audio, video) = (Modality::Audio, Modality::Video);
        for (modalities, multi_label) in [
            (Modalities::Two(audio, video), false),
            (Modalities::Two(Modality::Image, Modality::Text), true),
            (Modalities::Two(video, video), false),
        ] {
            let spec = ShardSpec {
                dataset: "clips".into(),
                modalities,
                classes: vec!["a".into()],
                multi_label,
                mel_dtype: MelDtype::F32,
                frame_pool: 9,
                segment: !multi_label,
                tool_version: "0".into(),
                settings_hash: "0".into(),
            };
            for (name, _) in of(&spec) {
                assert!(meaning(&name).ends_with('.'), "{name}");
            }
        }
    }

    #[test]
    fn spectrograms_are_arrays_of_two_dimensions() {
        let field = |kind| std::sync::Arc::new(arrow_schema::Field::new("item", kind, true));
        let row = DataType::FixedSizeList(field(DataType::Float32), 128);
        let mel = croissant_type(&DataType::List(field(row)));
        assert_eq!(
            (mel.data_type, mel.shape.as_deref()),
            ("cr:Float32", Some("-1,128"))
        );
    }
}
