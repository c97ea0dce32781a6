//! What the data of a run lack: too much to train, or so much that it is worth a note.

use crate::settings::is_used;
use anyhow::{Result, bail};
use datasets::{InputName, Modalities, Split};

/// The available modalities of each sample of a split.
type Present<'a> = &'a [[bool; 2]];

/// Refuses data that nothing can be learnt from. `only` is the one modality that is used, if there
/// is one, and `present` what the model gets of the training samples.
///
/// # Errors
/// All samples have the same class, or none has an input.
pub fn check_trainable(
    classes: &[String],
    multi_label: bool,
    modalities: Modalities,
    only: Option<InputName>,
    present: Present,
) -> Result<()> {
    if let [class] = classes
        && !multi_label
    {
        bail!("all samples are of the one class {class:?}; there is nothing to tell apart");
    }
    if !present.is_empty() && present.iter().all(|has| *has == [false, false]) {
        match only {
            Some(only) => match modalities.names().find(|other| *other != only) {
                Some(other) => {
                    bail!("no training sample has {only}; use --modality {other}, or leave it out")
                }
                None => bail!("no training sample has {only}; ingest the data again"),
            },
            None => {
                let names: Vec<&str> = modalities.names().map(InputName::as_str).collect();
                bail!(
                    "no training sample has {}; ingest the data again",
                    names.join(" or ")
                )
            }
        }
    }
    Ok(())
}

/// Notes on modalities that all samples of a split lack. Training goes on without them.
pub fn notes(
    modalities: Modalities,
    only: Option<InputName>,
    splits: &[(Split, Present)],
) -> Vec<String> {
    let mut notes = Vec::new();
    for (split, present) in splits.iter().filter(|(_, present)| !present.is_empty()) {
        for (m, modality) in modalities.names().enumerate() {
            if is_used(modality, only) && present.iter().all(|has| !has[m]) {
                notes.push(format!(
                    "note: no sample of the {split} split has {modality}; `ingest inspect` shows why inputs are missing"
                ));
            }
        }
    }
    notes
}

/// A note on data without a test split, on which `train eval` would end. `has_val` says whether
/// there is a validation split.
pub fn test_split_note(has_val: bool, has_test: bool) -> Option<String> {
    let split = if has_val { Split::Val } else { Split::Train };
    (!has_test).then(|| {
        format!("note: no sample is in the test split; evaluate with `train eval --split {split}`")
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use datasets::Modality;

    const MODALITIES: Modalities = Modalities::Two(Modality::Image, Modality::Text);

    #[test]
    fn data_without_classes_or_inputs_are_refused() {
        let (image, text) = (Some(Modality::Image.into()), Some(Modality::Text.into()));
        for (classes, multi_label, only, present, problem) in [
            (1, false, None, &[[true, true]][..], "the one class \"0\""),
            (1, true, None, &[[true, true]], ""),
            (2, false, None, &[[true, true], [false, false]], ""),
            (2, false, None, &[[false, false]], "has image or text"),
            (
                2,
                false,
                image,
                &[[false, false]],
                "no training sample has image; use --modality text",
            ),
            (
                2,
                false,
                text,
                &[[false, false]],
                "no training sample has text; use --modality image",
            ),
            (2, false, image, &[], ""),
        ] {
            let classes: Vec<String> = (0..classes).map(|i| i.to_string()).collect();
            let result = check_trainable(&classes, multi_label, MODALITIES, only, present);
            let error = result.err().map_or(String::new(), |e| e.to_string());
            assert_eq!(error.is_empty(), problem.is_empty(), "{error}");
            assert!(error.contains(problem), "{error}");
        }
    }

    #[test]
    fn data_without_a_test_split_are_noted() {
        assert_eq!(test_split_note(true, true), None);
        assert!(
            test_split_note(true, false)
                .unwrap()
                .contains("--split val")
        );
        let train = test_split_note(false, false).unwrap();
        assert!(train.contains("--split train"), "{train}");
    }

    #[test]
    fn modality_that_a_split_lacks_is_noted() {
        for (only, train, val, expected) in [
            (
                None,
                &[[true, false], [true, true]][..],
                &[[true, true]][..],
                &[][..],
            ),
            (
                None,
                &[[true, false]],
                &[[true, true]],
                &["the train split has text"],
            ),
            (
                None,
                &[[false, true]],
                &[[true, false]],
                &["the train split has image", "the val split has text"],
            ),
            (None, &[[true, true]], &[], &[]),
            (
                Some(Modality::Image.into()),
                &[[true, false]],
                &[[true, false]],
                &[],
            ),
        ] {
            let notes = notes(
                MODALITIES,
                only,
                &[(Split::Train, train), (Split::Val, val)],
            );
            assert_eq!(notes.len(), expected.len(), "{notes:?}");
            let pairs = notes.iter().zip(expected);
            assert!(
                pairs.into_iter().all(|(note, part)| note.contains(part)),
                "{notes:?}"
            );
        }
    }
}
