//! The settings of the methods that U2A is compared with.

use super::{Settings, SettingsOverrides};
use anyhow::{Result, bail};
use model::variant::{
    Adaptation, Fusion, GBlendSettings, Method, MethodSettings, MissingToken, MlaSettings,
    Modulation, PmrSettings, QmfSettings,
};

impl SettingsOverrides {
    /// The defaults of a method that are not U2A's: it reads class tokens alone, so that there are
    /// no mask tokens to align, and none that modality dropout would train.
    pub(super) fn of_method(method: Method) -> SettingsOverrides {
        if method == Method::U2a {
            return SettingsOverrides::default();
        }
        SettingsOverrides {
            align_weight: Some(0.0),
            modality_dropout: Some(false),
            missing_token: Some(MissingToken::Zeros),
            fusion: (method == Method::Pmr).then_some(Fusion::Concat),
            ..SettingsOverrides::default()
        }
    }
}

impl Settings {
    /// The hyperparameters of the methods.
    pub(super) fn method_settings(&self) -> MethodSettings {
        MethodSettings {
            qmf: QmfSettings {
                lambda: self.qmf_lambda,
                temperature: self.qmf_temperature,
            },
            pmr: PmrSettings {
                alpha: self.pmr_alpha,
                momentum: self.pmr_momentum,
                entropy: self.pmr_entropy,
                entropy_epochs: self.pmr_entropy_epochs,
            },
            g_blend: GBlendSettings {
                super_epoch: self.g_blend_epochs,
            },
            mla: MlaSettings {
                lambda: self.mla_lambda,
            },
        }
    }

    /// The epochs of MMLoRA's first stage.
    pub(crate) fn mmlora_first_epochs(&self) -> u64 {
        self.mmlora_first_epochs.unwrap_or(self.epochs / 2)
    }

    /// Refuses values that are out of range, and settings that the method does not know.
    pub(super) fn check_method(&self) -> Result<()> {
        let at_least_zero = [
            ("qmf_lambda", self.qmf_lambda),
            ("pmr_alpha", self.pmr_alpha),
            ("pmr_entropy", self.pmr_entropy),
        ];
        if let Some((name, value)) = at_least_zero
            .iter()
            .find(|(_, value)| !(*value >= 0.0 && value.is_finite()))
        {
            bail!("{name} must be a number of at least 0, not {value}");
        }
        let positive = [
            ("qmf_temperature", self.qmf_temperature),
            ("mla_lambda", self.mla_lambda),
        ];
        if let Some((name, value)) = positive
            .iter()
            .find(|(_, value)| !(*value > 0.0 && value.is_finite()))
        {
            bail!("{name} must be a positive number, not {value}");
        }
        if !(0.0..1.0).contains(&self.pmr_momentum) {
            bail!("pmr_momentum must lie in [0, 1), not {}", self.pmr_momentum);
        }
        if self.method == Method::U2a {
            return Ok(());
        }
        if self.method == Method::Mmlora {
            self.check_mmlora()?;
        }
        let method = self.method.as_str();
        if self.modality.is_some() {
            bail!("method {method} needs two modalities; leave out modality or method");
        }
        if self.modulation != Modulation::None {
            bail!("method {method} has no gradient modulation; leave out modulation or method");
        }
        if self.fusion != Fusion::Sum && self.method != Method::Pmr {
            bail!("method {method} fuses in its own way; leave out fusion or method");
        }
        if self.adapt.prompt_level().is_some() {
            bail!("method {method} trains no prompts; leave out method or change adapt");
        }
        if self.missing_token != MissingToken::Zeros || self.align_weight != 0.0 {
            bail!(
                "method {method} reads class tokens only; leave out missing_token and align_weight, which are then zeros and 0"
            );
        }
        Ok(())
    }

    /// Refuses stages without an epoch, and other adaptations than MMLoRA's own.
    fn check_mmlora(&self) -> Result<()> {
        if self.adapt != Adaptation::Lora {
            bail!(
                "method mmlora trains all weights first and adapters then; leave out adapt or method"
            );
        }
        let first = self.mmlora_first_epochs();
        if first == 0 || first >= self.epochs {
            bail!(
                "method mmlora needs epochs for two stages: mmlora_first_epochs, by default half of epochs, is {first} of {}; it must be at least 1 and less than epochs",
                self.epochs
            );
        }
        Ok(())
    }

    /// Refuses what can only be computed from whole batches if a batch is not computed at once, or
    /// by several ranks.
    ///
    /// # Errors
    /// The run has a method other than U2A, or gradient modulation, and `micro_batch` is set or
    /// `ranks` is not 1.
    pub(crate) fn check_batch_splitting(&self, ranks: usize) -> Result<()> {
        let what = match (self.method, self.modulation) {
            (Method::U2a, Modulation::None) => return Ok(()),
            (Method::U2a, _) => "gradient modulation balances".to_string(),
            (method, _) => format!("method {} computes its objective from", method.as_str()),
        };
        if self.micro_batch.is_some() {
            bail!("{what} whole batches; leave micro_batch out");
        }
        if ranks > 1 {
            bail!("{what} whole batches; train in one process, without mpirun");
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use datasets::{Modalities, Modality};

    const AUDIO_VIDEO: [Modality; 2] = [Modality::Audio, Modality::Video];

    fn resolve(pairs: &[&str]) -> Result<Settings> {
        let pairs: Vec<String> = pairs.iter().map(ToString::to_string).collect();
        Settings::resolve("ave", AUDIO_VIDEO, &SettingsOverrides::parse(&pairs)?)
    }

    #[test]
    fn methods_read_class_tokens_alone_by_default() {
        for method in ["qmf", "g-blend", "pmr", "mla", "mmlora"] {
            let s = resolve(&[&format!("method={method}")]).unwrap();
            assert_eq!(s.method.as_str(), method);
            assert_eq!(
                (s.align_weight, s.modality_dropout, s.missing_token),
                (0.0, Some(false), MissingToken::Zeros)
            );
            assert!(s.check_batch_splitting(1).is_ok());
        }
        let u2a = resolve(&[]).unwrap();
        assert_eq!((u2a.method, u2a.align_weight), (Method::U2a, 0.2));
        let fusion = |pairs: &[&str]| resolve(pairs).unwrap().fusion;
        assert_eq!(fusion(&["method=pmr"]), Fusion::Concat);
        assert_eq!(fusion(&["method=pmr", "fusion=film"]), Fusion::Film);
        let on = resolve(&["method=qmf", "modality_dropout=true"]).unwrap();
        assert_eq!(on.modality_dropout, Some(true));
    }

    #[test]
    fn what_a_method_does_not_know_is_refused() {
        for (setting, word) in [
            ("modality=audio", "two modalities"),
            ("modulation=ogm", "modulation"),
            ("fusion=film", "fusion"),
            ("missing_token=mask", "missing_token"),
            ("align_weight=0.2", "align_weight"),
            ("qmf_lambda=-1", "qmf_lambda"),
            ("qmf_temperature=0", "qmf_temperature"),
            ("pmr_momentum=1.0", "pmr_momentum"),
            ("g_blend_epochs=0", "g_blend_epochs"),
        ] {
            let error = resolve(&["method=qmf", setting]).unwrap_err().to_string();
            assert!(error.contains(word), "{setting}: {error}");
        }
        // The defaults of a method are not what the user has given.
        for method in ["qmf", "g-blend", "pmr", "mla"] {
            let name = format!("method={method}");
            let error = |setting| resolve(&[&name, setting]).unwrap_err().to_string();
            let prompts = error("adapt=input-prompts");
            assert!(prompts.contains("trains no prompts"), "{method}: {prompts}");
            let one = error("modality=audio");
            assert!(one.contains(&format!("method {method} needs")), "{one}");
            let settings = resolve(&[&name]).unwrap();
            let one = settings.check_data(Modalities::One(Modality::Audio), false);
            let one = one.unwrap_err().to_string();
            assert!(one.contains(&format!("method {method} needs")), "{one}");
        }
        for (settings, word) in [
            (["method=mla", "mla_lambda=0"], "mla_lambda"),
            (["method=mla", "modality=video"], "two modalities"),
            (["method=mmlora", "modality=video"], "two modalities"),
            (["method=mmlora", "adapt=full"], "adapt"),
            (["method=mmlora", "adapt=head"], "adapt"),
            (["method=mmlora", "fusion=film"], "fusion"),
            (["method=mmlora", "epochs=1"], "mmlora_first_epochs"),
            (["method=mmlora", "mmlora_first_epochs=0"], "at least 1"),
            (["method=mmlora", "mmlora_first_epochs=100"], "100 of 100"),
        ] {
            let error = resolve(&settings).unwrap_err().to_string();
            assert!(error.contains(word), "{settings:?}: {error}");
        }
        let error = resolve(&["method=mla"])
            .unwrap()
            .check_data(AUDIO_VIDEO, true);
        assert!(error.unwrap_err().to_string().contains("one class"));
        let mmlora = resolve(&["method=mmlora"]).unwrap();
        assert_eq!(mmlora.mmlora_first_epochs(), 50);
        assert!(mmlora.check_data(AUDIO_VIDEO, true).is_ok());
        for method in ["mla", "mmlora"] {
            let settings = [&format!("method={method}")[..], "micro_batch=2"];
            let error = resolve(&settings).unwrap().check_batch_splitting(1);
            assert!(error.unwrap_err().to_string().contains("micro_batch"));
            let error = resolve(&settings[..1]).unwrap().check_batch_splitting(2);
            assert!(error.unwrap_err().to_string().contains("mpirun"));
        }
        let micro = resolve(&["method=qmf", "micro_batch=2"]).unwrap();
        let error = micro.check_batch_splitting(1).unwrap_err().to_string();
        assert!(error.contains("micro_batch"), "{error}");
        let error = resolve(&["method=qmf"]).unwrap().check_batch_splitting(2);
        assert!(error.unwrap_err().to_string().contains("mpirun"));
        for method in ["method=qmf", "method=pmr"] {
            let settings = resolve(&[method]).unwrap();
            let error = settings.check_data(AUDIO_VIDEO, true).unwrap_err();
            assert!(error.to_string().contains("one class"), "{error}");
        }
        let blend = resolve(&["method=g-blend"]).unwrap();
        assert!(blend.check_data(AUDIO_VIDEO, true).is_ok());
    }
}
