//! The hash by which git, and so the hub, names small files.

use std::io::{self, Read};

use sha1::{Digest, Sha1};

/// Returns the hash of a file of `size` bytes as a git blob: SHA-1 of `blob SIZE`, a zero byte and
/// the content.
///
/// # Errors
/// The content cannot be read.
pub fn git_hash(size: u64, content: impl Read) -> io::Result<String> {
    let mut hash = Sha1::new_with_prefix(format!("blob {size}\0"));
    io::copy(&mut content.take(size), &mut hash)?;
    Ok(hex::encode(hash.finalize()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hashes_are_those_of_git_hash_object() {
        let long = "a".repeat(1000);
        for (text, want) in [
            ("", "e69de29bb2d1d6434b8b29ae775ad8c2e48c5391"),
            ("hello\n", "ce013625030ba8dba906f756967f9e9ca394464a"),
            (&long, "a50be72b20f0e3f078d252e8e56b11b4bec67509"),
        ] {
            let found = git_hash(text.len() as u64, text.as_bytes()).unwrap();
            assert_eq!(found, want, "{} bytes", text.len());
        }
    }
}
