//! The terms of the five datasets: under which licence each is distributed, whether it may be
//! passed on, and how it is cited.
//!
//! Each entry names the sources of its facts. A licence that nobody has stated allows nothing:
//! where none is stated, the data may not be passed on.

/// The terms of a dataset.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Terms {
    /// The identifier of the licence on the Hugging Face hub; `None` if it has none there.
    pub licence: Option<&'static str>,
    /// Why the data may not be passed on; `None` if they may.
    pub not_redistributable: Option<&'static str>,
    /// What somebody who passes the data on has to do. Empty if they may not be passed on.
    pub conditions: &'static str,
    /// Where the licence, or that there is none, is stated.
    pub source: &'static str,
    /// The publisher's page about the dataset.
    pub home_page: &'static str,
    /// The year in which the dataset was published first.
    pub published: &'static str,
    /// The language of text and speech as ISO 639-1, if there is one.
    pub language: Option<&'static str>,
    /// The papers to cite, as BibTeX. The first one describes the dataset.
    pub citation: &'static str,
}

/// Returns the terms of a dataset, by its registry name. `None` for a user's own data, whose terms
/// only the user knows.
pub fn terms(dataset: &str) -> Option<&'static Terms> {
    let (_, terms) = TERMS.iter().find(|(name, _)| *name == dataset)?;
    Some(terms)
}

/// The terms by registry name, in the order in which the paper presents the datasets.
const TERMS: [(&str, Terms); 5] = [
    (
        "food-101",
        Terms {
            licence: None,
            not_redistributable: Some(
                "no licence is stated, and photographs and texts belong to the authors of the web \
                 pages they come from",
            ),
            conditions: "",
            source: "neither the paper nor the publisher's archive states a licence; copies say \
                research use",
            home_page: "http://visiir.lip6.fr/",
            published: "2015",
            language: Some("en"),
            citation: "\
@inproceedings{wang2015recipe,
  author    = {Wang, Xin and Kumar, Devinder and Thome, Nicolas and Cord, Matthieu and Precioso, Fr{\\'e}d{\\'e}ric},
  title     = {Recipe Recognition with Large Multimodal Food Dataset},
  booktitle = {IEEE International Conference on Multimedia \\& Expo Workshops (ICMEW)},
  pages     = {1--6},
  year      = {2015},
  doi       = {10.1109/ICMEW.2015.7169757}
}
",
        },
    ),
    (
        "mm-imdb",
        Terms {
            licence: None,
            not_redistributable: Some(
                "no licence is stated, and posters and plots are those of IMDb and of the films' owners",
            ),
            conditions: "",
            source: "the repository johnarevalo/gmu-mmimdb is under MIT, which covers its code; nothing \
                states a licence of the data",
            home_page: "http://lisi1.unal.edu.co/mmimdb/",
            published: "2017",
            language: Some("en"),
            citation: "\
@inproceedings{arevalo2017gated,
  author    = {Arevalo, John and Solorio, Thamar and Montes-y-G{\\'o}mez, Manuel and Gonz{\\'a}lez, Fabio A.},
  title     = {Gated Multimodal Units for Information Fusion},
  booktitle = {ICLR Workshop},
  year      = {2017},
  eprint    = {1702.01992},
  archivePrefix = {arXiv}
}
",
        },
    ),
    (
        "kinetics-sound",
        Terms {
            licence: None,
            not_redistributable: Some(
                "the licence of Kinetics, CC BY 4.0, covers the annotation; the clips belong to their \
                 YouTube authors",
            ),
            conditions: "",
            source: "the publisher's page says of the annotation: licensed by Google Inc. under CC BY \
                4.0; it lists YouTube clips",
            home_page: "https://github.com/cvdfoundation/kinetics-dataset",
            published: "2017",
            language: None,
            citation: "\
@inproceedings{arandjelovic2017look,
  author    = {Arandjelovi{\\'c}, Relja and Zisserman, Andrew},
  title     = {Look, Listen and Learn},
  booktitle = {IEEE International Conference on Computer Vision (ICCV)},
  pages     = {609--617},
  year      = {2017}
}

@article{kay2017kinetics,
  author  = {Kay, Will and Carreira, Jo{\\~a}o and Simonyan, Karen and Zhang, Brian and Hillier, Chloe and others},
  title   = {The Kinetics Human Action Video Dataset},
  journal = {arXiv preprint arXiv:1705.06950},
  year    = {2017}
}
",
        },
    ),
    (
        "ave",
        Terms {
            licence: None,
            not_redistributable: Some(
                "no licence is stated; the clips come from AudioSet and belong to their YouTube authors",
            ),
            conditions: "",
            source: "ReadMe.txt of the publisher's archive and the repository YapengTian/AVE-ECCV18 state none",
            home_page: "https://github.com/YapengTian/AVE-ECCV18",
            published: "2018",
            language: None,
            citation: "\
@inproceedings{tian2018audio,
  author    = {Tian, Yapeng and Shi, Jing and Li, Bochen and Duan, Zhiyao and Xu, Chenliang},
  title     = {Audio-Visual Event Localization in Unconstrained Videos},
  booktitle = {European Conference on Computer Vision (ECCV)},
  year      = {2018}
}
",
        },
    ),
    (
        "crema-d",
        Terms {
            licence: Some("odbl"),
            not_redistributable: None,
            conditions: "The database is under the Open Database License 1.0 and its contents are under \
                the Database Contents License 1.0. Whoever passes it on, changed or not, names its \
                authors, keeps these licences and passes a changed version on under the Open Database License as well",
            source: "LICENSE.txt of the repository CheyneyComputerScience/CREMA-D",
            home_page: "https://github.com/CheyneyComputerScience/CREMA-D",
            published: "2014",
            language: Some("en"),
            citation: "\
@article{cao2014crema,
  author  = {Cao, Houwei and Cooper, David G. and Keutmann, Michael K. and Gur, Ruben C. and Nenkova, Ani and Verma, Ragini},
  title   = {{CREMA-D}: Crowd-Sourced Emotional Multimodal Actors Dataset},
  journal = {IEEE Transactions on Affective Computing},
  volume  = {5},
  number  = {4},
  pages   = {377--390},
  year    = {2014},
  doi     = {10.1109/TAFFC.2014.2336244}
}
",
        },
    ),
];

#[cfg(test)]
mod tests {
    use super::*;
    use crate::facts::NAMES;

    #[test]
    fn every_dataset_has_terms_and_only_those_with_a_licence_may_be_passed_on() {
        assert_eq!(TERMS.map(|(name, _)| name), NAMES);
        for (name, terms) in TERMS {
            let may = terms.not_redistributable.is_none();
            assert_eq!(may, terms.licence.is_some(), "{name}");
            assert_eq!(may, !terms.conditions.is_empty(), "{name}");
            let braces = |c| terms.citation.matches(c).count();
            assert_eq!(braces('{'), braces('}'), "{name}: BibTeX");
        }
        assert_eq!(terms("clips"), None);
    }
}
