//! The modalities of a dataset, and the names of the inputs that its samples have of them.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Deserializer, Serialize, Serializer};

use crate::error::Error;

/// One of the four kinds of input.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Modality {
    /// Audio.
    Audio,
    /// Video, from which a few frames are sampled.
    Video,
    /// A single image.
    Image,
    /// Text.
    Text,
}

impl Modality {
    /// Every modality, in the order of the enum, which is also their order in a dataset.
    pub const ALL: [Modality; 4] = [
        Modality::Audio,
        Modality::Video,
        Modality::Image,
        Modality::Text,
    ];

    /// The name used in columns, flags and files: `audio`, `video`, `image`, `text`.
    pub const fn as_str(self) -> &'static str {
        match self {
            Modality::Audio => "audio",
            Modality::Video => "video",
            Modality::Image => "image",
            Modality::Text => "text",
        }
    }
}

impl fmt::Display for Modality {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.as_str())
    }
}

/// Which of two inputs of one modality: such a dataset has two views of the same thing.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum View {
    /// The first.
    A,
    /// The second.
    B,
}

/// The name of an input in columns, flags and files: that of its modality (`image`), or with the
/// view where a dataset has two inputs of one modality (`image_a`, `image_b`).
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct InputName {
    /// The modality.
    pub modality: Modality,
    /// The view, where there are two.
    pub view: Option<View>,
}

impl InputName {
    /// Every name, ordered by modality.
    pub fn all() -> impl Iterator<Item = InputName> {
        Modality::ALL.into_iter().flat_map(|modality| {
            [None, Some(View::A), Some(View::B)].map(|view| InputName { modality, view })
        })
    }

    /// The name, such as `image` or `image_a`.
    pub const fn as_str(self) -> &'static str {
        match (self.modality, self.view) {
            (modality, None) => modality.as_str(),
            (Modality::Audio, Some(View::A)) => "audio_a",
            (Modality::Audio, Some(View::B)) => "audio_b",
            (Modality::Video, Some(View::A)) => "video_a",
            (Modality::Video, Some(View::B)) => "video_b",
            (Modality::Image, Some(View::A)) => "image_a",
            (Modality::Image, Some(View::B)) => "image_b",
            (Modality::Text, Some(View::A)) => "text_a",
            (Modality::Text, Some(View::B)) => "text_b",
        }
    }

    /// What follows a name that belongs to this input: nothing, `_a` or `_b`.
    pub const fn suffix(self) -> &'static str {
        match self.view {
            None => "",
            Some(View::A) => "_a",
            Some(View::B) => "_b",
        }
    }
}

impl From<Modality> for InputName {
    fn from(modality: Modality) -> InputName {
        InputName {
            modality,
            view: None,
        }
    }
}

impl fmt::Display for InputName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.as_str())
    }
}

impl FromStr for InputName {
    type Err = Error;

    fn from_str(name: &str) -> Result<Self, Error> {
        InputName::all()
            .find(|one| one.as_str() == name)
            .ok_or_else(|| Error::UnknownWord {
                what: "modality",
                word: name.to_owned(),
                choices: "audio, video, image, text, each with _a or _b where there are two",
            })
    }
}

impl Serialize for InputName {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(self.as_str())
    }
}

impl<'de> Deserialize<'de> for InputName {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let name = String::deserialize(deserializer)?;
        name.parse().map_err(serde::de::Error::custom)
    }
}

/// The modalities of a dataset: any one, or any two, which may be equal.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Modalities {
    /// A single modality.
    One(Modality),
    /// Two modalities in order: m1 and m2 in the paper.
    Two(Modality, Modality),
}

impl Modalities {
    /// The names of the inputs, in order.
    pub fn names(self) -> impl DoubleEndedIterator<Item = InputName> + ExactSizeIterator + Clone {
        (0..self.count()).map(move |index| self.name(index))
    }

    /// How many there are: 1 or 2.
    pub const fn count(self) -> usize {
        match self {
            Modalities::One(_) => 1,
            Modalities::Two(..) => 2,
        }
    }

    /// The name of the first input (0) or the second (1).
    ///
    /// # Panics
    /// There is no second one.
    pub fn name(self, index: usize) -> InputName {
        let (modality, other) = match (self, index) {
            (Modalities::One(one), 0) => (one, None),
            (Modalities::Two(first, second), 0) => (first, Some(second)),
            (Modalities::Two(first, second), 1) => (second, Some(first)),
            _ => panic!("input {index} of {self}"),
        };
        let view = match index {
            0 => View::A,
            _ => View::B,
        };
        InputName {
            modality,
            view: (other == Some(modality)).then_some(view),
        }
    }

    /// The names of both inputs; `None` if there is one.
    pub fn pair(self) -> Option<[InputName; 2]> {
        match self {
            Modalities::One(_) => None,
            Modalities::Two(..) => Some([self.name(0), self.name(1)]),
        }
    }

    /// The position of an input.
    pub fn position(self, name: InputName) -> Option<usize> {
        self.names().position(|own| own == name)
    }

    /// The position of the first input of a modality.
    pub fn position_of(self, modality: Modality) -> Option<usize> {
        self.names().position(|own| own.modality == modality)
    }

    /// Whether an input is of this modality.
    pub fn has(self, modality: Modality) -> bool {
        self.position_of(modality).is_some()
    }

    /// Applies a function to the name of each input; without a second one, the second value is the
    /// default.
    pub fn map<T: Default>(self, mut f: impl FnMut(InputName) -> T) -> [T; 2] {
        let mut names = self.names();
        [0, 1].map(|_| names.next().map_or_else(T::default, &mut f))
    }

    /// The modalities with these names in this order.
    ///
    /// # Errors
    /// They are none or more than two, or their views do not belong together.
    pub fn of_names(names: &[InputName]) -> Result<Modalities, Error> {
        let modalities = match names {
            [one] => Some(Modalities::One(one.modality)),
            [first, second] => Some(Modalities::Two(first.modality, second.modality)),
            _ => None,
        };
        modalities
            .filter(|all| all.names().eq(names.iter().copied()))
            .ok_or_else(|| Error::UnknownWord {
                what: "list of modalities",
                word: join(names.iter(), ","),
                choices: "one or two of audio, video, image, text; two of a kind as image_a, image_b",
            })
    }
}

impl From<[Modality; 2]> for Modalities {
    fn from([first, second]: [Modality; 2]) -> Modalities {
        Modalities::Two(first, second)
    }
}

impl From<Modality> for Modalities {
    fn from(modality: Modality) -> Modalities {
        Modalities::One(modality)
    }
}

/// The names joined by "and", for people.
impl fmt::Display for Modalities {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(&join(self.names(), " and "))
    }
}

/// The names joined by commas.
impl FromStr for Modalities {
    type Err = Error;

    fn from_str(list: &str) -> Result<Self, Error> {
        let names: Vec<InputName> = list.split(',').map(str::parse).collect::<Result<_, _>>()?;
        Modalities::of_names(&names)
    }
}

impl Serialize for Modalities {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_seq(self.names())
    }
}

impl<'de> Deserialize<'de> for Modalities {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let names = Vec::<InputName>::deserialize(deserializer)?;
        Modalities::of_names(&names).map_err(serde::de::Error::custom)
    }
}

fn join(names: impl Iterator<Item = impl fmt::Display>, separator: &str) -> String {
    let names: Vec<String> = names.map(|name| name.to_string()).collect();
    names.join(separator)
}

#[cfg(test)]
mod tests {
    use super::*;
    use Modality::{Audio, Image, Text};

    #[test]
    fn inputs_of_one_modality_have_distinct_names() {
        for (modalities, list, words) in [
            (Modalities::One(Text), "text", "text"),
            (
                Modalities::Two(Audio, Image),
                "audio,image",
                "audio and image",
            ),
            (
                Modalities::Two(Image, Image),
                "image_a,image_b",
                "image_a and image_b",
            ),
        ] {
            assert_eq!(modalities.to_string(), words);
            assert_eq!(list.parse::<Modalities>().unwrap(), modalities);
            let json = serde_json::to_string(&modalities).unwrap();
            assert_eq!(json, format!("[\"{}\"]", list.replace(',', "\",\"")));
            assert_eq!(
                serde_json::from_str::<Modalities>(&json).unwrap(),
                modalities
            );
        }
        for wrong in [
            "",
            "image,image",
            "image_b,image_a",
            "image_a",
            "audio,smell",
        ] {
            assert!(wrong.parse::<Modalities>().is_err(), "{wrong}");
        }
    }

    #[test]
    fn names_are_read_back() {
        assert_eq!(InputName::all().count(), 12);
        for name in InputName::all() {
            assert_eq!(name.as_str().parse::<InputName>().unwrap(), name);
            let expected = format!("{}{}", name.modality.as_str(), name.suffix());
            assert_eq!(name.as_str(), expected);
        }
    }
}
