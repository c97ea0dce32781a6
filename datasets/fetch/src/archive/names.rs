//! Names of members of archives, which have to stay below the target.

/// The folder of records below the raw folder, into which no member goes.
pub const FOLDER: &str = ".fetch";

/// The longest name of a file or folder on the usual file systems.
const MAX_COMPONENT: usize = 255;

/// Turns the name of a member into a path below the target, without `.` and double slashes.
///
/// # Errors
/// Why it is refused: it could lie outside of the target, or is no name that a publisher gives.
pub fn relative(name: &[u8]) -> Result<String, &'static str> {
    let name = std::str::from_utf8(name).map_err(|_| "its name is not UTF-8")?;
    if name.starts_with('/') {
        return Err("its path is absolute");
    }
    if name.chars().any(char::is_control) {
        return Err("its name has control characters");
    }
    let mut parts = Vec::new();
    for part in name.split('/') {
        match part {
            "" | "." => {}
            ".." => return Err("its path leads out of the target"),
            part if part.len() > MAX_COMPONENT => return Err("its name is too long"),
            part if part.contains('\\') => return Err("its name has a backslash"),
            FOLDER => return Err("its path leads into the folder of records"),
            part => parts.push(part),
        }
    }
    Ok(parts.join("/"))
}

/// Returns the last part of a path.
pub fn base(path: &str) -> &str {
    path.rsplit('/').next().unwrap_or(path)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_stay_below_the_target() {
        assert_eq!(relative(b"./a//b/./c.mp4").unwrap(), "a/b/c.mp4");
        assert_eq!(relative(b"-_x.mp4").unwrap(), "-_x.mp4");
        assert_eq!(relative(b"./").unwrap(), "");
        for bad in [
            &b"../a"[..],
            b"a/../../b",
            b"/etc/passwd",
            b"a\\..\\b",
            b"a\0b",
            b"a\nb",
            b"\xff\xfe",
            b"a/..",
            b".fetch/x.kept",
            b"a/./.fetch/x.kept",
        ] {
            assert!(relative(bad).is_err(), "{bad:?}");
        }
        assert!(relative(&[b'a'; 300]).is_err());
    }
}
