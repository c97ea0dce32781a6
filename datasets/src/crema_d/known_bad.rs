//! What the publisher says is wrong with CREMA-D's own files, and what that leaves to use.

use super::{FLV, MP3, WAV};

/// A file that the publisher's README calls wrong. Size tells that file from a repaired or made-up one.
pub(super) struct KnownBad {
    pub(super) stem: &'static str,
    pub(super) kind: usize,
    pub(super) bytes: std::ops::RangeInclusive<u64>,
    /// Whether it may serve as sound, as picture.
    pub(super) audio: bool,
    pub(super) video: bool,
    pub(super) message: &'static str,
}

/// Sizes are those of the published files.
pub(super) const KNOWN_BAD: [KnownBad; 8] = [
    KnownBad {
        stem: "1076_MTI_NEU_XX",
        kind: FLV,
        bytes: 35_166..=35_166,
        audio: false,
        video: true,
        message: "the flv is very short and silent; its picture is used, its sound is not",
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
        message: "the flv shows an error picture and is silent; it is not used",
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
        // The true clip has 4 s, the wrong one about 2 MB.
        bytes: 1_000_000..=u64::MAX,
        audio: false,
        video: true,
        message: "the mp3 is about a minute of all emotions; it is not used",
    },
];

/// Pairs of clips whose wav files are the same sound under two emotions.
pub(super) const SAME_SOUND: [(&str, &str); 3] = [
    ("1006_TIE_HAP_XX", "1006_TIE_NEU_XX"),
    ("1013_WSI_DIS_XX", "1013_WSI_SAD_XX"),
    ("1017_IWW_ANG_XX", "1017_IWW_FEA_XX"),
];
