//! Decides under which licence shards are published, and whether they may be passed on.
//!
//! The terms of the five datasets are facts ([`datasets::terms`]). Of a user's own data only the
//! user knows them: by `license` in the `.toml`, or by the flag `--licence`.

use anyhow::bail;
use datasets::Terms;
use util::suggest::did_you_mean;

/// Licences that are in use for data: the identifier on the Hugging Face hub, and the URL of the
/// text. Source: <https://huggingface.co/docs/hub/repositories-licenses>.
const KNOWN: [(&str, &str); 25] = [
    ("apache-2.0", "https://www.apache.org/licenses/LICENSE-2.0"),
    (
        "bsd-3-clause",
        "https://opensource.org/license/bsd-3-clause",
    ),
    (
        "c-uda",
        "https://github.com/microsoft/Computational-Use-of-Data-Agreement",
    ),
    ("cc-by-2.0", "https://creativecommons.org/licenses/by/2.0/"),
    ("cc-by-3.0", "https://creativecommons.org/licenses/by/3.0/"),
    ("cc-by-4.0", "https://creativecommons.org/licenses/by/4.0/"),
    (
        "cc-by-nc-2.0",
        "https://creativecommons.org/licenses/by-nc/2.0/",
    ),
    (
        "cc-by-nc-3.0",
        "https://creativecommons.org/licenses/by-nc/3.0/",
    ),
    (
        "cc-by-nc-4.0",
        "https://creativecommons.org/licenses/by-nc/4.0/",
    ),
    (
        "cc-by-nc-nd-4.0",
        "https://creativecommons.org/licenses/by-nc-nd/4.0/",
    ),
    (
        "cc-by-nc-sa-2.0",
        "https://creativecommons.org/licenses/by-nc-sa/2.0/",
    ),
    (
        "cc-by-nc-sa-3.0",
        "https://creativecommons.org/licenses/by-nc-sa/3.0/",
    ),
    (
        "cc-by-nc-sa-4.0",
        "https://creativecommons.org/licenses/by-nc-sa/4.0/",
    ),
    (
        "cc-by-nd-4.0",
        "https://creativecommons.org/licenses/by-nd/4.0/",
    ),
    (
        "cc-by-sa-3.0",
        "https://creativecommons.org/licenses/by-sa/3.0/",
    ),
    (
        "cc-by-sa-4.0",
        "https://creativecommons.org/licenses/by-sa/4.0/",
    ),
    (
        "cc0-1.0",
        "https://creativecommons.org/publicdomain/zero/1.0/",
    ),
    ("cdla-permissive-1.0", "https://cdla.dev/permissive-1-0/"),
    ("cdla-permissive-2.0", "https://cdla.dev/permissive-2-0/"),
    ("cdla-sharing-1.0", "https://cdla.dev/sharing-1-0/"),
    (
        "etalab-2.0",
        "https://www.etalab.gouv.fr/licence-ouverte-open-licence/",
    ),
    ("mit", "https://opensource.org/license/mit"),
    ("odbl", "https://opendatacommons.org/licenses/odbl/1-0/"),
    ("odc-by", "https://opendatacommons.org/licenses/by/1-0/"),
    ("pddl", "https://opendatacommons.org/licenses/pddl/1-0/"),
];

/// The answer of a user whose licence has no identifier.
const OTHER: &str = "other";

/// What the manifest says of a user's own data whose `.toml` names no licence.
const NOT_STATED: &str = "not stated";

/// The licence of published shards.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Licence {
    /// The identifier on the Hugging Face hub; `other` if there is none, `unknown` if nobody has
    /// stated a licence of a user's own data.
    pub id: String,
    /// The licence in words for people.
    pub words: String,
    /// The URL of its text, or of the page of a dataset without one.
    pub url: Option<&'static str>,
    /// Why the data may not be passed on; `None` if they may.
    pub refusal: Option<String>,
    /// What is known of the dataset; `None` of a user's own data.
    pub terms: Option<&'static Terms>,
}

impl Licence {
    /// Returns the licence of a dataset. `stated` is the licence in the manifest, `answer` that of
    /// the user.
    ///
    /// # Errors
    /// The answer is no licence that the hub knows, or the dataset has terms of its own.
    pub fn of(dataset: &str, stated: &str, answer: Option<&str>) -> anyhow::Result<Licence> {
        match (datasets::terms(dataset), answer) {
            (Some(_), Some(answer)) => bail!(
                "--licence {answer}: the terms of {dataset} are its publisher's ({stated}); leave \
                 the flag out"
            ),
            (Some(terms), None) => Ok(Licence::known(terms, stated)),
            (None, Some(OTHER)) => {
                let words = match stated {
                    NOT_STATED => "the owner's own terms",
                    stated => stated,
                };
                Ok(Licence::own(OTHER, words, None))
            }
            (None, Some(answer)) => {
                let (id, url) = find(answer).ok_or_else(|| unknown(answer))?;
                Ok(Licence::own(id, id, Some(url)))
            }
            (None, None) => Ok(match find(stated) {
                Some((id, url)) => Licence::own(id, id, Some(url)),
                None => Licence::unanswered(stated),
            }),
        }
    }

    fn known(terms: &'static Terms, stated: &str) -> Licence {
        let known = terms.licence.and_then(find);
        Licence {
            id: known.map_or(OTHER, |(id, _)| id).to_owned(),
            words: stated.to_owned(),
            url: Some(known.map_or(terms.home_page, |(_, url)| url)),
            refusal: terms
                .not_redistributable
                .map(|reason| format!("{reason} (source: {})", terms.source)),
            terms: Some(terms),
        }
    }

    fn own(id: &str, words: &str, url: Option<&'static str>) -> Licence {
        Licence {
            id: id.to_owned(),
            words: words.to_owned(),
            url,
            refusal: None,
            terms: None,
        }
    }

    fn unanswered(stated: &str) -> Licence {
        let (id, reason) = match stated {
            NOT_STATED => ("unknown", "no licence is stated".to_owned()),
            _ => (
                OTHER,
                format!("whether \"{stated}\" allows it is not known"),
            ),
        };
        Licence {
            refusal: Some(format!(
                "{reason}; name the licence with --licence ID, such as cc-by-4.0 or other"
            )),
            ..Licence::own(id, stated, None)
        }
    }

    /// Returns whether the data may be passed on.
    pub fn may_be_passed_on(&self) -> bool {
        self.refusal.is_none()
    }

    /// Returns the name that the hub wants of a licence without an identifier: lower-case letters,
    /// digits and dashes.
    pub(crate) fn slug(&self) -> String {
        let mut slug = String::new();
        for c in self.words.to_lowercase().chars() {
            match c.is_ascii_alphanumeric() {
                true => slug.push(c),
                false if !slug.is_empty() && !slug.ends_with('-') => slug.push('-'),
                false => {}
            }
        }
        slug.trim_end_matches('-').to_owned()
    }
}

fn find(word: &str) -> Option<(&'static str, &'static str)> {
    let word = word.trim().to_ascii_lowercase();
    KNOWN.into_iter().find(|(id, _)| *id == word)
}

fn unknown(answer: &str) -> anyhow::Error {
    let ids = KNOWN.map(|(id, _)| id);
    anyhow::anyhow!(
        "--licence {answer}: no identifier of the Hugging Face hub{}; use one of {}, or other",
        did_you_mean(answer, ids),
        ids.join(", ")
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn terms_of_the_five_datasets_cannot_be_overruled() {
        let crema = Licence::of("crema-d", "ODbL 1.0, contents DbCL 1.0", None).unwrap();
        assert!(crema.may_be_passed_on() && crema.id == "odbl");
        let ave = Licence::of("ave", "none stated; AudioSet clips", None).unwrap();
        assert_eq!((ave.id.as_str(), ave.may_be_passed_on()), ("other", false));
        assert!(ave.refusal.as_ref().unwrap().contains("source: "));
        assert_eq!(ave.slug(), "none-stated-audioset-clips");
        let error = Licence::of("ave", "none stated", Some("mit")).unwrap_err();
        assert!(error.to_string().contains("leave the flag out"), "{error}");
    }

    #[test]
    fn own_data_may_be_passed_on_if_the_user_says_under_which_licence() {
        let of = |stated, answer| Licence::of("clips", stated, answer).unwrap();
        assert!(!of("not stated", None).may_be_passed_on());
        assert_eq!(of("not stated", None).id, "unknown");
        assert!(!of("ask me", None).may_be_passed_on());
        assert_eq!(of("ask me", None).id, "other");
        assert!(of("ask me", Some("other")).may_be_passed_on());
        assert_eq!(of("ask me", Some("other")).words, "ask me");
        assert_eq!(
            of("not stated", Some("other")).slug(),
            "the-owner-s-own-terms"
        );
        assert_eq!(of("CC-BY-4.0", None).id, "cc-by-4.0");
        assert_eq!(of("not stated", Some("CC0-1.0")).id, "cc0-1.0");
        let error = Licence::of("clips", "not stated", Some("cc-by-4")).unwrap_err();
        assert!(error.to_string().contains("cc-by-4.0"), "{error}");
    }
}
