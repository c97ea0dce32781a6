//! The hash by which git, and so the hub, names small files.

use std::io::{self, Read};

/// Returns the hash of a file of `size` bytes as a git blob: SHA-1 (FIPS 180-4) of `blob SIZE`, a zero
/// byte and the content.
///
/// # Errors
/// The content cannot be read.
pub fn git_hash(size: u64, content: impl Read) -> io::Result<String> {
    let mut message = format!("blob {size}\0").into_bytes();
    content.take(size).read_to_end(&mut message)?;
    let bits = message.len() as u64 * 8;
    message.push(0x80);
    while message.len() % 64 != 56 {
        message.push(0);
    }
    message.extend(bits.to_be_bytes());
    let mut hash: [u32; 5] = [0x67452301, 0xefcdab89, 0x98badcfe, 0x10325476, 0xc3d2e1f0];
    for block in message.chunks_exact(64) {
        add_block(&mut hash, block);
    }
    Ok(hash.iter().map(|word| format!("{word:08x}")).collect())
}

fn add_block(hash: &mut [u32; 5], block: &[u8]) {
    let mut words = [0u32; 80];
    for (word, bytes) in words.iter_mut().zip(block.chunks_exact(4)) {
        *word = bytes
            .iter()
            .fold(0, |word, byte| word << 8 | u32::from(*byte));
    }
    for i in 16..80 {
        let word = words[i - 3] ^ words[i - 8] ^ words[i - 14] ^ words[i - 16];
        words[i] = word.rotate_left(1);
    }
    let [mut a, mut b, mut c, mut d, mut e] = *hash;
    for (i, word) in words.into_iter().enumerate() {
        let (mixed, constant) = match i {
            0..20 => (b & c | !b & d, 0x5a827999),
            20..40 => (b ^ c ^ d, 0x6ed9eba1),
            40..60 => (b & c | b & d | c & d, 0x8f1bbcdc),
            _ => (b ^ c ^ d, 0xca62c1d6_u32),
        };
        let sum = [mixed, e, constant, word];
        let next = sum.into_iter().fold(a.rotate_left(5), u32::wrapping_add);
        (e, d, c, b, a) = (d, c, b.rotate_left(30), a, next);
    }
    for (word, more) in hash.iter_mut().zip([a, b, c, d, e]) {
        *word = word.wrapping_add(more);
    }
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
