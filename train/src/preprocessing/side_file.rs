//! A JSON file beside the weights of an encoder, and the values of its keys.

use anyhow::{Context, Result, anyhow, bail};
use serde_json::Value;
use std::path::PathBuf;

/// A side file: its path and its keys.
pub(super) struct SideFile {
    pub path: PathBuf,
    pub json: Value,
}

impl SideFile {
    /// Reads a file; `None` if there is none.
    pub fn read(path: PathBuf) -> Result<Option<SideFile>> {
        let text = match std::fs::read_to_string(&path) {
            Ok(text) => text,
            Err(e) if e.kind() == std::io::ErrorKind::NotFound => return Ok(None),
            Err(e) => {
                return Err(e).with_context(|| format!("{}: cannot be read", path.display()));
            }
        };
        let json: Value = serde_json::from_str(&text).map_err(|e| {
            anyhow!(
                "{}: is not JSON ({e}); fetch the file again",
                path.display()
            )
        })?;
        if !json.is_object() {
            bail!(
                "{}: holds no JSON object; fetch the file again",
                path.display()
            );
        }
        Ok(Some(SideFile { path, json }))
    }

    /// Returns the path as messages show it.
    pub fn name(&self) -> String {
        self.path.display().to_string()
    }

    /// Refuses any value of a key but the one that this program follows.
    pub fn only(&self, key: &str, known: impl Into<Value>) -> Result<()> {
        let (value, known) = (&self.json[key], known.into());
        // 224 and 224.0 are the same number.
        let same = value == &known || (value.is_number() && value.as_f64() == known.as_f64());
        if !value.is_null() && !same {
            bail!(
                "{key} is {value}, and only {known} is supported; take a checkpoint with it, or remove the key if you accept {known}"
            );
        }
        Ok(())
    }

    /// A switch with its default.
    pub fn switch(&self, key: &str, default: bool) -> Result<bool> {
        match &self.json[key] {
            Value::Null => Ok(default),
            Value::Bool(on) => Ok(*on),
            other => bail!("{key} is {other}, not true or false"),
        }
    }

    /// A number with its default.
    pub fn number(&self, key: &str, default: f32) -> Result<f32> {
        match &self.json[key] {
            Value::Null => Ok(default),
            value => finite(value).ok_or_else(|| anyhow!("{key} is {value}, not a number")),
        }
    }

    /// Three numbers, of the channels R, G and B, with their default.
    pub fn channels(&self, key: &str, default: [f32; 3]) -> Result<[f32; 3]> {
        let value = &self.json[key];
        if value.is_null() {
            return Ok(default);
        }
        let numbers: Option<Vec<f32>> = value
            .as_array()
            .and_then(|numbers| numbers.iter().map(finite).collect());
        numbers
            .and_then(|numbers| <[f32; 3]>::try_from(numbers).ok())
            .ok_or_else(|| anyhow!("{key} is {value}, not three numbers"))
    }

    /// Refuses a preprocessor whose class does another thing than that of the encoder.
    pub fn check_class(&self, keys: &[&str], prefixes: &[&str]) -> Result<()> {
        for key in keys {
            if let Some(class) = self.json[*key].as_str()
                && !prefixes.iter().any(|prefix| class.starts_with(prefix))
            {
                bail!(
                    "{key} is {class:?}, not that of {}; take the file of the encoder's own checkpoint",
                    prefixes[0]
                );
            }
        }
        Ok(())
    }
}

fn finite(value: &Value) -> Option<f32> {
    value.as_f64().map(|x| x as f32).filter(|x| x.is_finite())
}
