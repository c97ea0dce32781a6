//! SHA-256 in lower-case hexadecimal, as in manifests and lists of hashes.

use std::fs::File;
use std::io::{self, BufReader, Read};
use std::path::Path;

use sha2::{Digest, Sha256};

/// The number of bytes that are read at once.
const CHUNK: usize = 1 << 18;

/// Returns the hash of some bytes as 64 hexadecimal digits.
pub fn sha256(bytes: impl AsRef<[u8]>) -> String {
    hex::encode(Sha256::digest(bytes))
}

/// Returns the size of a file in bytes, and its hash.
///
/// # Errors
/// The file cannot be read.
pub fn sha256_of_file(path: &Path) -> io::Result<(u64, String)> {
    sha256_of_reader(File::open(path)?)
}

/// Returns the number of bytes that a reader has left, and their hash.
///
/// # Errors
/// The reader fails.
pub fn sha256_of_reader(reader: impl Read) -> io::Result<(u64, String)> {
    let mut hash = Sha256::new();
    let bytes = io::copy(&mut BufReader::with_capacity(CHUNK, reader), &mut hash)?;
    Ok((bytes, hex::encode(hash.finalize())))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hashes_match_fips_180_2() {
        // FIPS 180-2, appendix B.1.
        let abc = "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad";
        assert_eq!(sha256("abc"), abc);
        let file = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(&file, "abc").unwrap();
        assert_eq!(sha256_of_file(file.path()).unwrap(), (3, abc.to_owned()));
        // More than one chunk; appendix B.3: a million times the letter a.
        let million = "cdc76e5c9914fb9281a1c7e284d73e67f1809a48a497200e046d39ccc7112cd0";
        std::fs::write(&file, vec![b'a'; 1_000_000]).unwrap();
        let found = sha256_of_file(file.path()).unwrap();
        assert_eq!(found, (1_000_000, million.to_owned()));
    }
}
