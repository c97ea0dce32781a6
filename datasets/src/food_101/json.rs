//! Food-101's annotation in JSON: MMBT's lists of one object per line, and the two objects
//! `split.json` and `text.json` of missing-aware prompts.

use serde::Deserialize;
use serde_json::{Map, Value};

use super::{Row, parse_file_name};
use crate::clean;
use crate::error::{Error, shorten};
use crate::facts;
use crate::tree::{Tree, base_name, depth, lines};
use crate::types::Split;

/// Finds the file of this name that lies nearest to the root; of several, the first by path.
pub(super) fn find<'a>(tree: &'a Tree, name: &str) -> Option<&'a str> {
    tree.files()
        .filter(|file| base_name(file) == name)
        .min_by_key(|file| (depth(file), *file))
}

/// Reads `split.json` (split to image names) and, if there is one, `text.json` (image name to
/// title).
pub(super) fn read_lists(tree: &Tree, lists: &str, texts: Option<&str>) -> Result<Vec<Row>, Error> {
    let object = |file: &str, expected: &str| -> Result<Map<String, Value>, Error> {
        serde_json::from_str(&tree.read(file)?)
            .map_err(|error| Error::annotation(&tree.path(file), None, error.to_string(), expected))
    };
    let expected = "expected {\"train\": [names], \"val\": [names], \"test\": [names]}";
    let fail = |problem: String| Error::annotation(&tree.path(lists), None, problem, expected);
    let titles = match texts {
        Some(file) => object(file, "expected an object from image name to title")?,
        None => Map::new(),
    };
    let mut rows = Vec::new();
    for (name, images) in &object(lists, expected)? {
        let split = Split::from_spelling(name)
            .ok_or_else(|| fail(format!("\"{}\" is no split", shorten(name))))?;
        let images = images
            .as_array()
            .ok_or_else(|| fail(format!("\"{name}\" is no list")))?;
        for image in images {
            let image = image.as_str().unwrap_or_default();
            let (stem, class) = parse_file_name(base_name(image))
                .ok_or_else(|| fail(format!("\"{}\" is no Food-101 image", shorten(image))))?;
            rows.push(Row {
                id: stem.to_owned(),
                class,
                split,
                text: titles.get(image).and_then(title).into(),
            });
        }
    }
    // Like every listing: by split, then in the order of the file.
    rows.sort_by_key(|row| row.split);
    Ok(rows)
}

/// Cleans a title, or the first one of a list.
fn title(value: &Value) -> Option<String> {
    match value {
        Value::String(text) => clean::title(text),
        Value::Array(texts) => texts.first().and_then(title),
        _ => None,
    }
}

/// A line of one of MMBT's lists.
#[derive(Deserialize)]
struct Line {
    img: String,
    #[serde(default)]
    text: Option<String>,
    #[serde(default)]
    label: Option<String>,
}

/// Reads one of MMBT's lists.
pub(super) fn read_lines(tree: &Tree, file: &str, split: Split) -> Result<Vec<Row>, Error> {
    let text = tree.read(file)?;
    let mut rows = Vec::new();
    for (number, content) in lines(&text) {
        let fail = |problem: String| {
            Error::annotation(
                &tree.path(file),
                Some(number),
                problem,
                "expected {\"id\", \"label\", \"text\", \"img\": \"images/<split>/<class>/<class>_<n>.jpg\"}",
            )
        };
        let line: Line = serde_json::from_str(content).map_err(|error| fail(error.to_string()))?;
        let Some((stem, class)) = parse_file_name(base_name(&line.img)) else {
            return Err(fail(format!(
                "\"{}\" is no Food-101 image",
                shorten(&line.img)
            )));
        };
        if line
            .label
            .is_some_and(|label| label != facts::FOOD_101[class as usize])
        {
            return Err(fail(format!(
                "{stem} has a label that its name does not have"
            )));
        }
        rows.push(Row {
            id: stem.to_owned(),
            class,
            split,
            text: line.text.and_then(|text| clean::squeeze(&text)).into(),
        });
    }
    Ok(rows)
}
