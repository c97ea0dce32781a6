//! The environment variables of the hub's Python package.

use std::ffi::OsString;
use std::fs;
use std::path::PathBuf;
use std::time::Duration;

use anyhow::bail;

const ENDPOINT: &str = "https://huggingface.co";
/// The package's own default is 10 seconds; a slow proxy needs longer.
const TIMEOUT: Duration = Duration::from_secs(30);

/// What the environment variables say.
#[derive(Debug, Clone)]
pub struct Environment {
    /// The address of the hub, without a slash at its end.
    pub endpoint: String,
    /// The folder of the cache.
    pub cache: PathBuf,
    /// The token of the user's account.
    pub token: Option<String>,
    /// Whether nothing may be sent.
    pub offline: bool,
    /// The longest time without an answer.
    pub timeout: Duration,
    /// Whether progress is shown.
    pub shows_progress: bool,
}

impl Environment {
    /// Reads the variables of this process.
    ///
    /// # Errors
    /// A timeout is no number, or the token no token.
    pub fn read() -> anyhow::Result<Environment> {
        Environment::from_variables(|name| std::env::var_os(name))
    }

    /// Reads variables by a function.
    fn from_variables(get: impl Fn(&str) -> Option<OsString>) -> anyhow::Result<Environment> {
        let get = |name: &str| get(name).filter(|value| !value.is_empty());
        let text = |name: &str| get(name).map(|value| value.to_string_lossy().into_owned());
        let is_on = |name: &str| {
            let value = text(name).unwrap_or_default().to_ascii_uppercase();
            ["1", "ON", "YES", "TRUE"].contains(&value.as_str())
        };
        let path = |name: &str| get(name).map(PathBuf::from);
        let home = || path("HOME").unwrap_or_default();
        let user_cache = || path("XDG_CACHE_HOME").unwrap_or_else(|| home().join(".cache"));
        let hub_home = path("HF_HOME").unwrap_or_else(|| user_cache().join("huggingface"));
        let cache = path("HF_HUB_CACHE")
            .or_else(|| path("HUGGINGFACE_HUB_CACHE"))
            .unwrap_or_else(|| hub_home.join("hub"));
        let token_path = path("HF_TOKEN_PATH").unwrap_or_else(|| hub_home.join("token"));
        let token = match is_on("HF_HUB_DISABLE_IMPLICIT_TOKEN") {
            true => None,
            false => text("HF_TOKEN")
                .or_else(|| text("HUGGING_FACE_HUB_TOKEN"))
                .or_else(|| fs::read_to_string(&token_path).ok()),
        };
        let token = token.map(|token| token.trim().to_owned());
        let is_of_no_token = |byte: u8| byte.is_ascii_control() || !byte.is_ascii();
        if token
            .iter()
            .flat_map(|token| token.bytes())
            .any(is_of_no_token)
        {
            bail!(
                "the token of HF_TOKEN or of `hf auth login` has a line break or another character that no token \
                 has; set it again"
            );
        }
        let mut timeout = TIMEOUT;
        for name in ["HF_HUB_ETAG_TIMEOUT", "HF_HUB_DOWNLOAD_TIMEOUT"] {
            let Some(value) = text(name) else { continue };
            match value.trim().parse() {
                Ok(seconds) if seconds > 0 => timeout = Duration::from_secs(seconds),
                _ => bail!("{name}={value}: is no number of seconds above 0"),
            }
        }
        let endpoint = text("HF_ENDPOINT").unwrap_or_else(|| ENDPOINT.to_owned());
        Ok(Environment {
            endpoint: endpoint.trim_end_matches('/').to_owned(),
            cache,
            token: token.filter(|token| !token.is_empty()),
            offline: is_on("HF_HUB_OFFLINE") || is_on("TRANSFORMERS_OFFLINE"),
            timeout,
            shows_progress: !is_on("HF_HUB_DISABLE_PROGRESS_BARS"),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(variables: &[(&str, &str)]) -> anyhow::Result<Environment> {
        Environment::from_variables(|name| {
            let found = variables.iter().find(|(other, _)| *other == name);
            found.map(|(_, value)| value.into())
        })
    }

    #[test]
    fn the_cache_lies_where_the_python_package_has_it() {
        for (variables, want) in [
            (&[("HOME", "/h")][..], "/h/.cache/huggingface/hub"),
            (&[("XDG_CACHE_HOME", "/x")], "/x/huggingface/hub"),
            (&[("XDG_CACHE_HOME", "/x"), ("HF_HOME", "/f")], "/f/hub"),
            (&[("HF_HOME", "/f"), ("HUGGINGFACE_HUB_CACHE", "/o")], "/o"),
            (
                &[("HUGGINGFACE_HUB_CACHE", "/o"), ("HF_HUB_CACHE", "/c")],
                "/c",
            ),
        ] {
            assert_eq!(read(variables).unwrap().cache, PathBuf::from(want));
        }
    }

    #[test]
    fn the_token_comes_from_a_variable_or_from_the_login() {
        let folder = tempfile::tempdir().unwrap();
        fs::write(folder.path().join("token"), "of the login\n").unwrap();
        let home = ("HF_HOME", folder.path().to_str().unwrap());
        let token = |more: &[(&str, &str)]| read(&[&[home], more].concat()).unwrap().token;
        assert_eq!(token(&[]).as_deref(), Some("of the login"));
        assert_eq!(token(&[("HF_TOKEN", "mine")]).as_deref(), Some("mine"));
        let off = ("HF_HUB_DISABLE_IMPLICIT_TOKEN", "1");
        assert_eq!(token(&[("HF_TOKEN", "mine"), off]), None);
        assert_eq!(token(&[("HF_TOKEN_PATH", "/nothing")]), None);
        let error = read(&[("HF_TOKEN", "two\nlines")]).unwrap_err();
        assert!(error.to_string().contains("line break"), "{error}");
    }

    #[test]
    fn offline_has_the_spellings_of_the_python_package() {
        for (value, want) in [
            ("1", true),
            ("true", true),
            ("Yes", true),
            ("0", false),
            ("", false),
        ] {
            assert_eq!(
                read(&[("HF_HUB_OFFLINE", value)]).unwrap().offline,
                want,
                "{value}"
            );
        }
        assert!(read(&[("HF_HUB_DOWNLOAD_TIMEOUT", "soon")]).is_err());
    }
}
