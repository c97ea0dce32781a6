//! Kaggle's credentials, from the places in which Kaggle's own program looks for them.

use std::env;
use std::fs;
use std::path::PathBuf;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use serde_json::Value;

/// How to get an account's token.
pub const HOW: &str = "Kaggle wants an account: create a token at https://www.kaggle.com/settings and set KAGGLE_API_TOKEN, \
     or KAGGLE_USERNAME and KAGGLE_KEY, or put kaggle.json into ~/.kaggle";

/// Returns the value of the header `authorization`, if the user has a token.
pub fn authorization() -> Option<String> {
    let variable = |name: &str| env::var(name).ok().filter(|value| !value.is_empty());
    if let Some(token) = variable("KAGGLE_API_TOKEN") {
        return Some(format!("Bearer {token}"));
    }
    if let (Some(user), Some(key)) = (variable("KAGGLE_USERNAME"), variable("KAGGLE_KEY")) {
        return Some(basic(&user, &key));
    }
    folders().into_iter().find_map(|folder| {
        let token = fs::read_to_string(folder.join("access_token")).unwrap_or_default();
        if !token.trim().is_empty() {
            return Some(format!("Bearer {}", token.trim()));
        }
        let text = fs::read(folder.join("kaggle.json")).ok()?;
        let json: Value = serde_json::from_slice(&text).ok()?;
        Some(basic(json["username"].as_str()?, json["key"].as_str()?))
    })
}

fn basic(user: &str, key: &str) -> String {
    format!("Basic {}", STANDARD.encode(format!("{user}:{key}")))
}

/// `KAGGLE_CONFIG_DIR`, else `~/.kaggle` and the configuration folder of the desktop standard.
fn folders() -> Vec<PathBuf> {
    let variable = |name: &str| env::var_os(name).filter(|value| !value.is_empty());
    if let Some(folder) = variable("KAGGLE_CONFIG_DIR") {
        return vec![folder.into()];
    }
    let home = variable("HOME").map(PathBuf::from);
    let config = variable("XDG_CONFIG_HOME").map(PathBuf::from);
    let config = config.or_else(|| Some(home.as_ref()?.join(".config")));
    let home = home.map(|home| home.join(".kaggle"));
    home.into_iter()
        .chain(config.map(|config| config.join("kaggle")))
        .collect()
}
