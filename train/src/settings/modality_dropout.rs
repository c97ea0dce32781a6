//! Whether modality dropout is on.

use super::Settings;

/// The largest share of training samples that lack a modality in data that count as complete. A few
/// unreadable clips do not change the method.
const MAX_INCOMPLETE_SHARE: f64 = 0.05;

impl Settings {
    /// Whether modality dropout is on for a training split: as the settings say, else by the rule
    /// of [`Settings::modality_dropout_rule`]. `present` is what the model gets of each sample,
    /// after a mask.
    pub fn uses_modality_dropout(&self, present: &[[bool; 2]]) -> bool {
        if let Some(on) = self.modality_dropout {
            return on;
        }
        let incomplete = present.iter().filter(|has| **has != [true, true]).count();
        self.modality.is_none() && incomplete as f64 <= MAX_INCOMPLETE_SHARE * present.len() as f64
    }

    /// The setting of modality dropout in words.
    pub fn modality_dropout_rule(&self) -> String {
        match self.modality_dropout {
            Some(true) => "on, as set".to_string(),
            Some(false) => "off, as set".to_string(),
            None if self.modality.is_some() => "off, with one modality".to_string(),
            None => format!(
                "on if at most {} % of the training samples lack a modality, by themselves or by the mask",
                100.0 * MAX_INCOMPLETE_SHARE
            ),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use datasets::Modality;

    #[test]
    fn modality_dropout_is_on_if_at_most_5_percent_lack_a_modality() {
        for (set, modality, lacking, on) in [
            // A mask of rate 0 hides nothing, and is as none.
            (None, None, 0, true),
            (None, None, 5, true),
            (None, None, 6, false),
            (None, None, 100, false),
            (Some(true), None, 100, true),
            (Some(false), None, 0, false),
            (None, Some(Modality::Audio.into()), 0, false),
        ] {
            let settings = Settings {
                modality_dropout: set,
                modality,
                ..Settings::default()
            };
            let present: Vec<[bool; 2]> = (0..100).map(|i| [i >= lacking, true]).collect();
            assert_eq!(
                settings.uses_modality_dropout(&present),
                on,
                "{set:?} {modality:?} {lacking}"
            );
            let words = settings.modality_dropout_rule();
            assert!(
                words.starts_with(if set == Some(false) || modality.is_some() {
                    "off"
                } else {
                    "on"
                })
            );
        }
    }
}
