//! The dataset card: YAML for programs, then sentences and tables for people.

use datasets::Modality;
use features::MelDtype;
use features::schema::has_column;

use crate::columns;
use crate::dataset::Dataset;
use crate::front_matter::front_matter;

/// How to load the shards, with `{{NAME}}` in the places that differ.
const LOADING: &str = include_str!("loading.md");

/// The part of [`LOADING`] about spectrograms.
const LOADING_MEL: &str = include_str!("loading_mel.md");

/// The most classes of which the card has a table.
const MAX_CLASSES: usize = 200;

/// Returns the text of `README.md`, without the line of [`mark`](crate::marker::mark).
///
/// # Errors
/// The front matter cannot be written.
pub fn card(dataset: &Dataset) -> anyhow::Result<String> {
    let mut text = format!(
        "---\n{}---\n\n# {}\n\n",
        front_matter(dataset)?,
        inline(dataset.title())
    );
    paragraph(&mut text, &inline(&dataset.summary()));
    if let Some(refusal) = &dataset.licence.refusal {
        let refusal = inline(refusal);
        let refusal = format!("**These files must not be passed on:** {refusal}.");
        paragraph(&mut text, &refusal);
    }
    for (title, body) in [
        ("Columns", columns_section(dataset)),
        ("How it was made", making_section(dataset)),
        ("Splits and classes", counts_section(dataset)),
        ("What is missing", missing_section(dataset)),
        ("Load it", loading_section(dataset)),
        ("Licence and terms", licence_section(dataset)),
        ("Citation", citation_section(dataset)),
    ] {
        paragraph(&mut text, &format!("## {title}"));
        paragraph(&mut text, body.trim_end());
    }
    text.pop();
    Ok(text)
}

fn paragraph(text: &mut String, paragraph: &str) {
    text.push_str(paragraph);
    text.push_str("\n\n");
}

/// Returns a text from the data as one line of Markdown that shows it as it is: no element of HTML,
/// link or emphasis.
fn inline(text: &str) -> String {
    let mut line = String::new();
    for word in text.split_whitespace() {
        if !line.is_empty() {
            line.push(' ');
        }
        for c in word.chars() {
            if "\\`*[]<>".contains(c) {
                line.push('\\');
            }
            line.push(c);
        }
    }
    line
}

/// Returns a table in Markdown. A line break in a cell would end the table.
fn table(head: &[&str], rows: impl IntoIterator<Item = Vec<String>>) -> String {
    let line = |cells: Vec<String>| {
        let cells = cells
            .into_iter()
            .map(|cell| cell.replace('|', "\\|").replace(['\n', '\r'], " "));
        format!("| {} |\n", cells.collect::<Vec<_>>().join(" | "))
    };
    let mut text = line(head.iter().map(|&cell| cell.to_owned()).collect());
    text += &line(head.iter().map(|_| "---".to_owned()).collect());
    for row in rows {
        text += &line(row);
    }
    text
}

fn columns_section(dataset: &Dataset) -> String {
    let rows = columns::of(&dataset.spec).into_iter().map(|(name, kind)| {
        let meaning = columns::meaning(&name);
        let kind = columns::words(&kind);
        vec![format!("`{name}`"), kind, meaning.to_owned()]
    });
    table(&["column", "type", "meaning"], rows)
}

fn making_section(dataset: &Dataset) -> String {
    let (manifest, settings) = (&dataset.manifest, &dataset.manifest.settings);
    let mut text = format!(
        "The shards were made by `ingest` {}, with schema version {} and the settings whose \
         SHA-256 is `{}`. All settings and the SHA-256 of every file are in `manifest.json`. \
         The same raw data and settings give the same bytes.\n",
        manifest.tool_version, manifest.schema_version, manifest.settings_hash
    );
    if dataset.has(Modality::Audio) {
        text += &format!(
            "\nAudio was decoded to mono at 16 kHz and turned into a log-mel spectrogram by the \
             recipe `{}`.\n",
            settings.mel_recipe
        );
    }
    if dataset.has(Modality::Video) {
        let frames = match settings.frame_pool {
            0 => "All frames of a clip are stored".to_owned(),
            pool => format!("Of each clip {pool} frames are stored, or all if it has fewer"),
        };
        text += &format!("\n{frames}, by the policy `{}`.\n", settings.frame_policy);
    }
    if dataset.has(Modality::Image) {
        text += "\nImages were turned upright, shrunk to a shorter side of at most 256 pixels and \
                 encoded as JPEG.\n";
    }
    if dataset.has(Modality::Text) {
        text +=
            "\nTexts were cleaned: entities of HTML are decoded, and white space is one blank.\n";
    }
    if settings.segment == "event" {
        text += "\nClips were cut to their annotated event.\n";
    }
    if let Some(limit) = settings.limit {
        text += &format!(
            "\n**This is a part of the dataset:** the first {limit} samples of each split.\n"
        );
    }
    text
}

fn counts_section(dataset: &Dataset) -> String {
    let splits: Vec<_> = dataset.splits().collect();
    let rows = splits.iter().map(|(split, totals)| {
        vec![
            format!("`{split}`"),
            totals.rows.to_string(),
            dataset.bytes_of(*split).to_string(),
        ]
    });
    let mut text = table(&["split", "samples", "bytes"], rows);
    let classes = &dataset.spec.classes;
    if classes.len() > MAX_CLASSES {
        text += &format!(
            "\nThere are {} classes; `manifest.json` has the number of samples of each.\n",
            classes.len()
        );
        return text;
    }
    text += match dataset.spec.multi_label {
        true => "\nA sample counts once for each of its classes.\n\n",
        false => "\n",
    };
    let head: Vec<&str> = ["label", "class"]
        .into_iter()
        .chain(splits.iter().map(|(split, _)| split.as_str()))
        .collect();
    let rows = classes.iter().enumerate().map(|(label, name)| {
        let counts = splits
            .iter()
            .map(|(_, totals)| match totals.classes.get(label) {
                Some(count) => count.rows.to_string(),
                None => "0".to_owned(),
            });
        [label.to_string(), inline(name)]
            .into_iter()
            .chain(counts)
            .collect()
    });
    text + &table(&head, rows)
}

fn missing_section(dataset: &Dataset) -> String {
    let manifest = &dataset.manifest;
    let names = || dataset.spec.modalities.names();
    let mut text = match names().map(has_column).collect::<Vec<_>>().as_slice() {
        [first, second] => format!(
            "No sample is dropped because one of its modalities is missing: `{first}` and \
             `{second}` say what a sample has, and `error` says why something is missing that \
             should be there.\n\n"
        ),
        _ => "A sample whose input is missing is left out.\n\n".to_owned(),
    };
    let with: Vec<String> = names().map(|name| format!("with {name}")).collect();
    let mut head = vec!["split", "in the annotation", "samples"];
    head.extend(with.iter().map(String::as_str));
    head.extend([
        "lack a modality that should be there",
        "left out: nothing usable",
    ]);
    let rows = dataset.splits().map(|(split, totals)| {
        let present = names().map(|name| totals.present.get(&name).copied().unwrap_or(0));
        let counts = [totals.samples, totals.rows].into_iter().chain(present);
        let counts = counts.chain([totals.incomplete, totals.quarantined]);
        let counts = counts.map(|count| count.to_string());
        [format!("`{split}`")].into_iter().chain(counts).collect()
    });
    text += &table(&head, rows);
    let causes = manifest
        .failures
        .causes
        .iter()
        .flat_map(|(modality, causes)| {
            let row = |(cause, count): (&String, &usize)| {
                vec![modality.to_string(), cause.clone(), count.to_string()]
            };
            causes.iter().map(row)
        });
    let causes: Vec<Vec<String>> = causes.collect();
    text += match causes.is_empty() {
        true => "\nNothing that should be there is missing.\n",
        false => "\nThe causes, over all splits:\n\n",
    };
    if !causes.is_empty() {
        text += &table(&["modality", "cause", "samples"], causes);
    }
    let warnings = &manifest.warnings.causes;
    if !warnings.is_empty() {
        text += "\nThese inputs are there, but not as they should be:\n\n";
        let rows = warnings
            .iter()
            .map(|(cause, count)| vec![cause.clone(), count.to_string()]);
        text += &table(&["what", "inputs"], rows);
    }
    text
}

fn loading_section(dataset: &Dataset) -> String {
    let names: Vec<&str> = dataset.splits().map(|(split, _)| split.as_str()).collect();
    let mel = match (dataset.has(Modality::Audio), dataset.spec.mel_dtype) {
        (false, _) => String::new(),
        (true, MelDtype::F32) => LOADING_MEL.replace("{{DTYPE}}", "float32"),
        (true, MelDtype::F16) => LOADING_MEL.replace("{{DTYPE}}", "float16"),
    };
    LOADING
        .replace("{{MEL}}\n", &format!("{mel}\n"))
        .replace("{{SPLITS}}", &names.join(", "))
        .replace("{{SPLIT}}", names.first().unwrap_or(&"train"))
        .replace("{{FILE}}", dataset.files().next().unwrap_or_default())
}

fn licence_section(dataset: &Dataset) -> String {
    let licence = &dataset.licence;
    let mut text = match (licence.id.as_str(), licence.url, licence.terms) {
        ("unknown", ..) => {
            "Nobody has stated under which licence these data may be used.\n".to_owned()
        }
        (_, Some(url), None) => format!("[{}]({url}).\n", inline(&licence.words)),
        _ => format!("{}.\n", capitalised(&inline(&licence.words))),
    };
    if let Some(terms) = licence.terms {
        text += &format!(
            "Source: {}. Publisher: <{}>.\n",
            terms.source, terms.home_page
        );
        if !terms.conditions.is_empty() {
            text += &format!("\n{}.\n", terms.conditions);
        }
        text +=
            "\nThese shards are a changed version of the publisher's files, made as said above.\n";
    }
    if let Some(refusal) = &licence.refusal {
        text += &format!("\nThe files must not be passed on: {}.\n", inline(refusal));
    }
    text
}

fn citation_section(dataset: &Dataset) -> String {
    match dataset.licence.terms {
        Some(terms) => format!("```bibtex\n{}```\n", terms.citation),
        None => "None is known.\n".to_owned(),
    }
}

fn capitalised(words: &str) -> String {
    let mut chars = words.chars();
    match chars.next() {
        Some(first) => first.to_uppercase().chain(chars).collect(),
        None => String::new(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_from_the_data_are_shown_as_they_are() {
        assert_eq!(
            inline("MM-IMDb (2017), baby_cry"),
            "MM-IMDb (2017), baby_cry"
        );
        assert_eq!(inline("my\n# clips\r\n "), "my # clips");
        assert_eq!(inline("<b>[a](b)*`\\"), "\\<b\\>\\[a\\](b)\\*\\`\\\\");
        let cells = vec![inline("a\\|b")];
        assert!(table(&["class"], [cells]).ends_with("| a\\\\\\|b |\n"));
    }
}
