//! The files of CREMA-D that their publisher calls wrong, and what of them can be used.

use std::ops::RangeInclusive;

use super::{FLV, MP3, WAV};

/// A file that the publisher's README calls wrong. Its size distinguishes the published file from a
/// repaired or a synthetic one.
pub(super) struct KnownBad {
    pub(super) stem: &'static str,
    /// The kind of file, as an index into `FOLDERS`.
    pub(super) kind: usize,
    /// The size of the published file.
    pub(super) bytes: RangeInclusive<u64>,
    /// Whether the audio can be used.
    pub(super) audio: bool,
    /// Whether the video can be used.
    pub(super) video: bool,
    pub(super) message: &'static str,
}

/// The files in the publisher's README.
pub(super) const KNOWN_BAD: [KnownBad; 8] = [
    KnownBad {
        stem: "1076_MTI_NEU_XX",
        kind: FLV,
        bytes: 35_166..=35_166,
        audio: false,
        video: true,
        message: "the flv is very short and silent; its video is used, its audio is not",
    },
    KnownBad {
        stem: "1076_MTI_NEU_XX",
        kind: MP3,
        bytes: 4_262..=4_262,
        audio: false,
        video: true,
        message: "the mp3 is very short and silent; it is not used",
    },
    KnownBad {
        stem: "1076_MTI_SAD_XX",
        kind: WAV,
        bytes: 82_260..=82_260,
        audio: false,
        video: true,
        message: "the wav is silent; it is not used",
    },
    KnownBad {
        stem: "1076_MTI_SAD_XX",
        kind: FLV,
        bytes: 201_958..=201_958,
        audio: false,
        video: false,
        message: "the flv shows an error image and is silent; it is not used",
    },
    KnownBad {
        stem: "1064_TIE_SAD_XX",
        kind: FLV,
        bytes: 91_223..=91_223,
        audio: true,
        video: true,
        message: "the flv states no duration; it is used as far as it goes",
    },
    KnownBad {
        stem: "1064_TIE_SAD_XX",
        kind: MP3,
        bytes: 20_127..=20_127,
        audio: true,
        video: true,
        message: "the mp3 states no duration; it is used as far as it goes",
    },
    KnownBad {
        stem: "1064_IEO_DIS_MD",
        kind: FLV,
        bytes: 8_544_280..=8_544_280,
        audio: false,
        video: false,
        message: "the flv is about a minute of all emotions; it is not used",
    },
    KnownBad {
        stem: "1064_IEO_DIS_MD",
        kind: MP3,
        // The right clip lasts 4 s; the wrong file has about 2 MB.
        bytes: 1_000_000..=u64::MAX,
        audio: false,
        video: true,
        message: "the mp3 is about a minute of all emotions; it is not used",
    },
];

/// Pairs of clips whose wav files are identical although their emotions differ.
pub(super) const IDENTICAL_AUDIO: [(&str, &str); 3] = [
    ("1006_TIE_HAP_XX", "1006_TIE_NEU_XX"),
    ("1013_WSI_DIS_XX", "1013_WSI_SAD_XX"),
    ("1017_IWW_ANG_XX", "1017_IWW_FEA_XX"),
];
