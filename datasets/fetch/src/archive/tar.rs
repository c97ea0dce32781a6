//! tar, read member by member, from the beginning of any member.

use std::io::{self, Read};

use tar::{EntryType, Header, PaxExtensions};

use super::names;

const BLOCK: u64 = 512;
/// The longest pax header, long name or other description of a member.
const MAX_EXTENSION: u64 = 1 << 20;

/// The largest member. A clip has a few MB.
pub const MAX_MEMBER: u64 = 4 << 30;

/// A file of an archive.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Member {
    /// Its path below the target.
    pub path: String,
    /// Its size in bytes.
    pub size: u64,
}

/// Why an archive cannot be unpacked.
#[derive(Debug)]
pub enum Problem {
    /// It cannot be read.
    Read(io::Error),
    /// It is damaged or hostile.
    Refused(String),
}

impl From<io::Error> for Problem {
    fn from(error: io::Error) -> Problem {
        Problem::Read(error)
    }
}

/// Returns the refusal of a member.
pub fn refuse(name: &[u8], why: &str) -> Problem {
    let name = String::from_utf8_lossy(name);
    let short: String = name.chars().take(200).collect();
    Problem::Refused(format!(
        "the archive's member {short:?} is refused: {why}; nothing outside of the target was written"
    ))
}

/// Reads an archive. Between the members, [`Tar::position`] is the beginning of the next one.
pub struct Tar<R> {
    input: R,
    position: u64,
    /// What of the present member has not been read, and the zeros behind it.
    left: u64,
    padding: u64,
}

impl<R: Read> Tar<R> {
    /// Goes on at the beginning of a member; `input` begins there.
    pub fn at(input: R, position: u64) -> Tar<R> {
        Tar {
            input,
            position,
            left: 0,
            padding: 0,
        }
    }

    /// The input.
    pub fn get_ref(&self) -> &R {
        &self.input
    }

    /// Returns the input, behind what has been read.
    pub fn into_inner(self) -> R {
        self.input
    }

    /// The bytes of the archive that have been read.
    pub fn position(&self) -> u64 {
        self.position
    }

    /// Reads over the rest of the present member.
    ///
    /// # Errors
    /// The archive cannot be read or ends here.
    pub fn finish_member(&mut self) -> Result<(), Problem> {
        let left = self.left + self.padding;
        (self.left, self.padding) = (0, 0);
        self.skip(left)
    }

    /// Returns the next file, and `None` behind the last one. Folders are read over.
    ///
    /// # Errors
    /// The archive cannot be read, is damaged, or the member is refused.
    pub fn next(&mut self) -> Result<Option<Member>, Problem> {
        self.finish_member()?;
        let mut long_name: Option<Vec<u8>> = None;
        let mut pax_name: Option<Vec<u8>> = None;
        let mut pax_size: Option<u64> = None;
        loop {
            let Some(header) = self.header()? else {
                return Ok(None);
            };
            let header = Header::from_byte_slice(&header);
            let kind = header.entry_type();
            let damaged = || Problem::Refused("the tar archive is damaged".to_owned());
            let own_size = header.entry_size().map_err(|_| damaged())?;
            match kind {
                EntryType::GNULongName => {
                    let mut name = self.extension(own_size)?;
                    while name.last() == Some(&0) {
                        name.pop();
                    }
                    long_name = Some(name);
                    continue;
                }
                EntryType::XHeader => {
                    let text = self.extension(own_size)?;
                    for extension in PaxExtensions::new(&text) {
                        let extension = extension.map_err(|_| damaged())?;
                        match extension.key_bytes() {
                            b"path" => pax_name = Some(extension.value_bytes().to_vec()),
                            b"size" => {
                                let size = extension.value().ok().and_then(|v| v.parse().ok());
                                pax_size = Some(size.ok_or_else(damaged)?);
                            }
                            key if key.starts_with(b"GNU.sparse") => {
                                return Err(refuse(&header.path_bytes(), "it is a sparse file"));
                            }
                            _ => {}
                        }
                    }
                    continue;
                }
                EntryType::XGlobalHeader => {
                    // The commit of a git archive, or comments.
                    self.extension(own_size)?;
                    continue;
                }
                _ => {}
            }
            let name = pax_name
                .take()
                .or_else(|| long_name.take())
                .unwrap_or_else(|| header.path_bytes().into_owned());
            let path = names::relative(&name).map_err(|why| refuse(&name, why))?;
            match kind {
                EntryType::Directory => {
                    (long_name, pax_size) = (None, None);
                    continue;
                }
                // Old archives mark a folder by its slash alone.
                EntryType::Regular | EntryType::Continuous if name.ends_with(b"/") => {
                    (long_name, pax_size) = (None, None);
                    continue;
                }
                EntryType::Regular | EntryType::Continuous => {}
                EntryType::Symlink => return Err(refuse(&name, "it is a symbolic link")),
                EntryType::Link | EntryType::GNULongLink => {
                    return Err(refuse(&name, "it is a hard link"));
                }
                EntryType::Char | EntryType::Block => return Err(refuse(&name, "it is a device")),
                EntryType::Fifo => return Err(refuse(&name, "it is a pipe")),
                EntryType::GNUSparse => return Err(refuse(&name, "it is a sparse file")),
                _ => return Err(refuse(&name, "it is no file and no folder")),
            }
            if path.is_empty() {
                return Err(refuse(&name, "it has no name"));
            }
            let size = pax_size.unwrap_or(own_size);
            if size > MAX_MEMBER {
                return Err(refuse(&name, "it is larger than any publisher's file"));
            }
            self.left = size;
            self.padding = size.next_multiple_of(BLOCK) - size;
            return Ok(Some(Member { path, size }));
        }
    }

    /// Reads a header. Returns `None` at the zeros behind the last member.
    fn header(&mut self) -> Result<Option<[u8; 512]>, Problem> {
        let mut block = [0; BLOCK as usize];
        let mut length = 0;
        while length < block.len() {
            match self.input.read(&mut block[length..]) {
                Ok(0) if self.position == 0 && is_page(&block[..length]) => return Err(page()),
                Ok(0) if length == 0 => {
                    let message =
                        "the archive is cut short: the zeros behind its last member are missing";
                    return Err(Problem::Refused(message.to_owned()));
                }
                Ok(0) => return Err(ends_early()),
                Ok(more) => length += more,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(error.into()),
            }
        }
        if block.iter().all(|byte| *byte == 0) {
            return Ok(None);
        }
        let header = Header::from_byte_slice(&block);
        // The sum of all bytes, with blanks in place of the sum itself (POSIX ustar).
        let sum: u32 = (0..)
            .zip(block)
            .map(|(place, byte)| match place {
                148..156 => u32::from(b' '),
                _ => u32::from(byte),
            })
            .sum();
        if header.cksum().ok() != Some(sum) {
            if self.position == 0 && is_page(&block) {
                return Err(page());
            }
            return Err(Problem::Refused(format!(
                "is no tar archive, or is damaged at byte {} of its contents",
                self.position
            )));
        }
        self.position += BLOCK;
        Ok(Some(block))
    }

    /// Reads the contents of a header that describes the next one.
    fn extension(&mut self, size: u64) -> Result<Vec<u8>, Problem> {
        if size > MAX_EXTENSION {
            return Err(Problem::Refused(format!(
                "the archive has a header of {size} bytes, as no publisher's has"
            )));
        }
        let mut text = vec![0; size as usize];
        self.input.read_exact(&mut text).map_err(early)?;
        self.position += size;
        self.skip(size.next_multiple_of(BLOCK) - size)?;
        Ok(text)
    }

    fn skip(&mut self, length: u64) -> Result<(), Problem> {
        let skipped = io::copy(&mut (&mut self.input).take(length), &mut io::sink())?;
        self.position += skipped;
        match skipped == length {
            true => Ok(()),
            false => Err(ends_early()),
        }
    }
}

/// Reads the present member.
impl<R: Read> Read for Tar<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let length = buffer.len().min(self.left.min(1 << 30) as usize);
        if length == 0 {
            return Ok(0);
        }
        let length = self.input.read(&mut buffer[..length])?;
        if length == 0 {
            let message = "the archive ends in the middle of a member";
            return Err(io::Error::new(io::ErrorKind::InvalidData, message));
        }
        self.left -= length as u64;
        self.position += length as u64;
        Ok(length)
    }
}

/// Whether what should be an archive begins as HTML does.
fn is_page(bytes: &[u8]) -> bool {
    bytes.trim_ascii_start().starts_with(b"<")
}

fn page() -> Problem {
    Problem::Refused(
        "is a web page in place of an archive; open the address in a browser".to_owned(),
    )
}

fn ends_early() -> Problem {
    Problem::Refused("the archive ends in the middle of a member".to_owned())
}

fn early(error: io::Error) -> Problem {
    match error.kind() {
        io::ErrorKind::UnexpectedEof => ends_early(),
        _ => error.into(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_archive_without_its_end_is_cut_short() {
        let mut builder = tar::Builder::new(Vec::new());
        for name in ["a.txt", "b.txt"] {
            let mut header = Header::new_gnu();
            header.set_size(3);
            builder.append_data(&mut header, name, &b"abc"[..]).unwrap();
        }
        let whole = builder.into_inner().unwrap();
        let read = |bytes: &[u8]| {
            let mut tar = Tar::at(bytes, 0);
            while tar.next()?.is_some() {}
            Ok::<(), Problem>(())
        };
        read(&whole).unwrap();
        read(&whole[..2560]).unwrap();
        // Nothing, behind a member, in a header, in a member.
        for length in [0, 1024, 2048, 100, 514] {
            let Err(Problem::Refused(message)) = read(&whole[..length]) else {
                panic!("{length} bytes are no archive");
            };
            assert!(message.contains("archive"), "{length}: {message}");
        }
        for page in ["<!DOCTYPE html>".to_owned(), "\n<html>".repeat(100)] {
            let Err(Problem::Refused(message)) = read(page.as_bytes()) else {
                panic!("a page is no archive");
            };
            assert!(message.contains("web page"), "{message}");
        }
    }
}
