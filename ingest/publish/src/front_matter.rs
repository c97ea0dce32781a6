//! The YAML at the beginning of a dataset card, as the Hugging Face hub and `datasets` read it:
//! <https://github.com/huggingface/hub-docs/blob/main/datasetcard.md>.

use anyhow::Context;
use datasets::Modality;
use serde_json::{Map, Value, json};
use serde_saphyr::ser_options;

use crate::dataset::Dataset;

/// The key of the Arrow schema's metadata in which a shard carries its features.
const HUGGINGFACE_KEY: &str = "huggingface";

/// Returns the YAML, without the lines of dashes around it.
///
/// # Errors
/// The features of the schema cannot be expressed, which no shard of this tool brings about.
pub fn front_matter(dataset: &Dataset) -> anyhow::Result<String> {
    let licence = &dataset.licence;
    let mut yaml = Map::new();
    put(&mut yaml, "license", licence.id.as_str());
    if licence.id == "other" {
        put(&mut yaml, "license_name", licence.slug());
        if let Some(url) = licence.url {
            put(&mut yaml, "license_link", url);
        }
    }
    put(&mut yaml, "pretty_name", dataset.title());
    if let Some(language) = licence.terms.and_then(|terms| terms.language) {
        put(&mut yaml, "language", vec![language]);
    }
    put(&mut yaml, "task_categories", tasks(dataset));
    put(&mut yaml, "tags", tags(dataset));
    put(&mut yaml, "size_categories", vec![size(dataset.rows())]);
    put(&mut yaml, "configs", configs(dataset));
    put(&mut yaml, "dataset_info", info(dataset)?);
    to_yaml(&Value::Object(yaml))
}

fn put(mapping: &mut Map<String, Value>, key: &str, value: impl Into<Value>) {
    mapping.insert(key.to_owned(), value.into());
}

/// Writes YAML that means the same to readers of YAML 1.1, such as PyYAML, and of 1.2: words such as
/// `no` and `1:30`, which are truth values and numbers in 1.1, are quoted.
fn to_yaml(value: &Value) -> anyhow::Result<String> {
    let options = ser_options! { compact_list_indent: true, prefer_block_scalars: false };
    Ok(serde_saphyr::to_string_with_options(value, options)?)
}

/// Returns the tasks of the hub that fit the modalities.
fn tasks(dataset: &Dataset) -> Vec<&'static str> {
    let names = dataset.spec.modalities.names();
    let mut tasks: Vec<&str> = names
        .map(|name| match name.modality {
            Modality::Audio => "audio-classification",
            Modality::Video => "video-classification",
            Modality::Image => "image-classification",
            Modality::Text => "text-classification",
        })
        .collect();
    tasks.dedup();
    tasks
}

fn tags(dataset: &Dataset) -> Vec<&'static str> {
    let mut tags = vec!["multimodal", "missing-modalities"];
    let names = dataset.spec.modalities.names();
    tags.extend(names.map(|name| name.modality.as_str()));
    tags.dedup();
    tags
}

/// Returns the hub's category of a number of rows.
fn size(rows: usize) -> &'static str {
    match rows {
        0..1_000 => "n<1K",
        1_000..10_000 => "1K<n<10K",
        10_000..100_000 => "10K<n<100K",
        100_000..1_000_000 => "100K<n<1M",
        1_000_000..10_000_000 => "1M<n<10M",
        _ => "10M<n<100M",
    }
}

/// Names the files of each split, so that tables of failures and masks beside the shards are no
/// part of the dataset.
fn configs(dataset: &Dataset) -> Vec<Value> {
    let files = dataset.splits().map(
        |(split, _)| json!({"split": split.as_str(), "path": format!("{split}-*-of-*.parquet")}),
    );
    let files: Vec<Value> = files.collect();
    vec![json!({"config_name": "default", "data_files": files})]
}

/// Returns features, splits and sizes. All sizes are those of the Parquet files; `datasets` itself
/// would give those of its Arrow files as `num_bytes`, which are up to a tenth larger.
fn info(dataset: &Dataset) -> anyhow::Result<Value> {
    let schema = dataset.spec.arrow_schema();
    let stored = &schema.metadata()[HUGGINGFACE_KEY];
    let stored: Value = serde_json::from_str(stored)?;
    let stored = stored["info"]["features"].as_object();
    let mut features = Vec::new();
    for (name, feature) in stored.context("the schema has no features")? {
        features.push(named_feature(name, feature)?);
    }
    let splits = dataset.splits().map(|(split, totals)| {
        json!({
            "name": split.as_str(),
            "num_bytes": dataset.bytes_of(split),
            "num_examples": totals.rows,
        })
    });
    let splits: Vec<Value> = splits.collect();
    Ok(json!({
        "features": features,
        "splits": splits,
        "download_size": dataset.bytes(),
        "dataset_size": dataset.bytes(),
    }))
}

/// Returns a feature with its name. A list is a key of its own beside the name, anything else is
/// the `dtype`.
fn named_feature(name: &str, feature: &Value) -> anyhow::Result<Value> {
    let mut yaml = Map::new();
    put(&mut yaml, "name", name);
    match feature_of(feature)? {
        Value::Object(list) if list.contains_key("sequence") => yaml.extend(list),
        kind => put(&mut yaml, "dtype", kind),
    }
    Ok(Value::Object(yaml))
}

/// Converts a feature from the JSON of the Arrow schema to the YAML of a card.
fn feature_of(feature: &Value) -> anyhow::Result<Value> {
    let text = |key: &str| feature[key].as_str();
    Ok(match text("_type") {
        Some("Value") => text("dtype").context("a value has no dtype")?.into(),
        Some("Image") => "image".into(),
        Some("ClassLabel") => {
            let names = feature["names"].as_array().context("no class names")?;
            let names = names.iter().enumerate();
            let names: Map<String, Value> = names
                .map(|(index, name)| (index.to_string(), name.clone()))
                .collect();
            json!({"class_label": {"names": names}})
        }
        // The name that every version of datasets reads; "list" is new in version 4.
        Some("Sequence") => {
            let mut list = Map::new();
            put(&mut list, "sequence", feature_of(&feature["feature"])?);
            if let Some(length) = feature["length"].as_u64() {
                put(&mut list, "length", length);
            }
            Value::Object(list)
        }
        other => anyhow::bail!("no feature of type {other:?}"),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn features_become_the_yaml_of_datasets() {
        let class = json!({"names": ["yes", "1"], "_type": "ClassLabel"});
        let value = json!({"dtype": "float16", "_type": "Value"});
        let inner = json!({"feature": value, "length": 128, "_type": "Sequence"});
        let yaml = |name, feature| {
            let feature = named_feature(name, &feature).unwrap();
            to_yaml(&feature).unwrap()
        };
        assert_eq!(
            yaml(
                "labels",
                json!({"feature": class.clone(), "_type": "Sequence"})
            ),
            "name: labels\nsequence:\n  class_label:\n    names:\n      \"0\": \"yes\"\n      \"1\": \"1\"\n"
        );
        assert_eq!(
            yaml("mel", json!({"feature": inner, "_type": "Sequence"})),
            "name: mel\nsequence:\n  sequence: float16\n  length: 128\n"
        );
        assert_eq!(
            yaml("image", json!({"_type": "Image"})),
            "name: image\ndtype: image\n"
        );
    }

    #[test]
    fn sizes_have_the_categories_of_the_hub() {
        let sizes = [999, 1_000, 99_999, 1_000_000].map(size);
        assert_eq!(sizes, ["n<1K", "1K<n<10K", "10K<n<100K", "1M<n<10M"]);
    }
}
