//! Croissant metadata, version 1.1:
//! <https://docs.mlcommons.org/croissant/docs/croissant-spec-1.1.html>.
//!
//! Every shard is a `FileObject` with size and SHA-256. The fields take their values from one
//! `FileSet` of all shards, because `mlcroissant` 1.1 reads a set either out of an archive or out
//! of the folder in which the metadata lie.

use serde_json::{Map, Value, json};

use crate::columns::{self, CroissantType};
use crate::dataset::Dataset;

/// The version of the specification.
const CONFORMS_TO: &str = "http://mlcommons.org/croissant/1.1";

/// The media type that `mlcroissant` knows Parquet by.
const PARQUET: &str = "application/x-parquet";

/// Returns the text of `croissant.json`.
///
/// # Errors
/// None is known; a value that cannot be serialized would be one.
pub fn croissant(dataset: &Dataset) -> anyhow::Result<String> {
    let mut text = serde_json::to_string_pretty(&document(dataset))?;
    text.push('\n');
    Ok(text)
}

fn document(dataset: &Dataset) -> Value {
    let (manifest, licence) = (&dataset.manifest, &dataset.licence);
    let names = dataset.spec.modalities.names().map(|name| name.to_string());
    let keywords = ["multimodal", "missing modalities"].map(str::to_owned);
    let keywords: Vec<String> = keywords.into_iter().chain(names).collect();
    let mut document = json!({
        "@context": context(),
        "@type": "sc:Dataset",
        "name": manifest.title,
        "description": dataset.summary(),
        "conformsTo": CONFORMS_TO,
        "license": match (licence.id.as_str(), licence.url) {
            ("other", _) | (_, None) => licence.words.as_str(),
            (_, Some(url)) => url,
        },
        "version": manifest.tool_version,
        "keywords": keywords,
    });
    let mut put = |key: &str, value: Value| document[key] = value;
    if let Some(terms) = licence.terms {
        put("url", json!(terms.home_page));
        put("citeAs", json!(terms.citation.trim_end()));
        put("datePublished", json!(terms.published));
        if let Some(language) = terms.language {
            put("inLanguage", json!(language));
        }
    }
    if let Some(refusal) = &licence.refusal {
        put(
            "usageInfo",
            json!(format!("Not to be passed on: {refusal}.")),
        );
    }
    put("distribution", distribution(dataset));
    put(
        "recordSet",
        json!([splits(dataset), classes(dataset), samples(dataset)]),
    );
    document
}

/// The files: each shard, and all of them as a set.
fn distribution(dataset: &Dataset) -> Value {
    let shards = dataset.manifest.shards.iter().map(|shard| {
        json!({
            "@type": "cr:FileObject",
            "@id": shard.file,
            "name": shard.file,
            "description": format!("{} samples of the split {}.", shard.rows, shard.split),
            "contentUrl": shard.file,
            "contentSize": format!("{} B", shard.bytes),
            "encodingFormat": PARQUET,
            "sha256": shard.sha256,
        })
    });
    let set = json!({
        "@type": "cr:FileSet",
        "@id": "shards",
        "name": "shards",
        "description": "All shards.",
        "encodingFormat": PARQUET,
        "includes": "*-of-*.parquet",
    });
    shards.chain([set]).collect()
}

fn splits(dataset: &Dataset) -> Value {
    let names = dataset
        .splits()
        .map(|(split, _)| json!({"splits/name": split}));
    json!({
        "@type": "cr:RecordSet",
        "@id": "splits",
        "name": "splits",
        "description": "The splits.",
        "dataType": "cr:Split",
        "key": {"@id": "splits/name"},
        "field": [field("splits/name", "name", "The split.", "sc:Text")],
        "data": names.collect::<Vec<_>>(),
    })
}

fn classes(dataset: &Dataset) -> Value {
    let names = dataset.spec.classes.iter().enumerate();
    let data = names.map(|(index, name)| json!({"classes/label": index, "classes/name": name}));
    json!({
        "@type": "cr:RecordSet",
        "@id": "classes",
        "name": "classes",
        "description": "The classes in the order that labels index.",
        "dataType": "sc:Enumeration",
        "key": {"@id": "classes/label"},
        "field": [
            field("classes/label", "label", "Index of the class.", "sc:Integer"),
            field("classes/name", "name", "Name of the class.", "sc:Text"),
        ],
        "data": data.collect::<Vec<_>>(),
    })
}

fn samples(dataset: &Dataset) -> Value {
    let columns = columns::of(&dataset.spec);
    let fields = columns.iter().map(|(name, kind)| {
        let kind = columns::croissant_type(kind);
        let id = format!("samples/{name}");
        let mut field = field(&id, name, columns::meaning(name), kind.data_type);
        add_source(&mut field, name, &kind);
        field
    });
    json!({
        "@type": "cr:RecordSet",
        "@id": "samples",
        "name": "samples",
        "description": dataset.summary(),
        "key": {"@id": "samples/id"},
        "field": fields.collect::<Vec<_>>(),
    })
}

fn field(id: &str, name: &str, description: &str, data_type: &str) -> Value {
    json!({
        "@type": "cr:Field",
        "@id": id,
        "name": name,
        "description": description,
        "dataType": data_type,
    })
}

/// Adds the column that a field is read from, its shape, and what it refers to.
fn add_source(field: &mut Value, column: &str, kind: &CroissantType) {
    let mut source = json!({"fileSet": {"@id": "shards"}, "extract": {"column": column}});
    if kind.is_image {
        source["transform"] = json!({"jsonPath": "bytes"});
    }
    field["source"] = source;
    if let Some(shape) = &kind.shape {
        field["isArray"] = json!(true);
        field["arrayShape"] = json!(shape);
        if kind.is_image {
            // The word of version 1.0: mlcroissant 1.1 decodes the images of an array only with it.
            field["repeated"] = json!(true);
        }
    }
    if column == "split" {
        field["references"] = json!({"field": {"@id": "splits/name"}});
    }
}

/// The `@context` that the specification prescribes.
fn context() -> Value {
    let mut context = Map::new();
    let mut put = |key: &str, value: Value| context.insert(key.to_owned(), value);
    put("@language", json!("en"));
    put("@vocab", json!("https://schema.org/"));
    for (prefix, namespace) in [
        ("sc", "https://schema.org/"),
        ("cr", "http://mlcommons.org/croissant/"),
        ("rai", "http://mlcommons.org/croissant/RAI/"),
        ("dct", "http://purl.org/dc/terms/"),
    ] {
        put(prefix, json!(namespace));
    }
    for word in [
        "arrayShape",
        "citeAs",
        "column",
        "containedIn",
        "equivalentProperty",
        "extract",
        "field",
        "fileObject",
        "fileProperty",
        "fileSet",
        "format",
        "includes",
        "isArray",
        "isLiveDataset",
        "jsonPath",
        "key",
        "md5",
        "parentField",
        "path",
        "recordSet",
        "references",
        "regex",
        "repeated",
        "replace",
        "samplingRate",
        "separator",
        "source",
        "subField",
        "transform",
    ] {
        put(word, json!(format!("cr:{word}")));
    }
    put("conformsTo", json!("dct:conformsTo"));
    put("data", json!({"@id": "cr:data", "@type": "@json"}));
    put("dataType", json!({"@id": "cr:dataType", "@type": "@vocab"}));
    put("description", json!({"@container": "@language"}));
    put("examples", json!({"@id": "cr:examples", "@type": "@json"}));
    put("name", json!({"@container": "@language"}));
    Value::Object(context)
}
