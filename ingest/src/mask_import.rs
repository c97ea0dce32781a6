//! Masks made by other programs: one number per sample, as the code of missing-aware prompts (Lee et al. 2023) keeps
//! them.
//!
//! 0: both modalities are shown. 1: the dataset's second modality is gone (there: the text). 2: the first is gone
//! (there: the image). For audio and video, in this order, 1 takes the video and 2 the sound.
//!
//! `.npy` and `.safetensors` hold one number per sample of a split, in the order of its shards, which is that of the
//! annotation. `.csv` holds the same without a header, or `id,value` with one (and `split`, where ids repeat), in any
//! order. Nothing else is guessed: a count that does not fit is an error.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;

use anyhow::{Context, bail};

/// The numbers of a file: by place, or by id.
#[derive(Debug, PartialEq)]
pub enum Values {
    /// One per sample in the split's order.
    InOrder(Vec<u8>),
    /// By sample.
    ById(BTreeMap<String, u8>),
}

/// Reads a file by its ending. `split` chooses rows of a csv that has a column of that name.
///
/// # Errors
/// Another ending, a file that is not what its ending says, a number that is none of 0, 1 and 2.
pub fn read(path: &Path, split: &str) -> anyhow::Result<Values> {
    let bytes = fs::read(path).with_context(|| path.display().to_string())?;
    let ending = path.extension().map(|e| e.to_string_lossy().to_lowercase());
    let numbers = match ending.as_deref() {
        Some("npy") => npy(&bytes).map(|n| (n, None)),
        Some("safetensors") => safetensors(&bytes).map(|n| (n, None)),
        Some("csv") => csv(&bytes, split),
        _ => bail!(
            "{}: is neither .npy nor .safetensors nor .csv; save the mask as one of these (a .pt with numpy.save(path, tensor.numpy()))",
            path.display()
        ),
    };
    let values = numbers.and_then(|(numbers, ids)| {
        let codes = numbers.iter().map(code).collect::<Result<Vec<u8>, _>>()?;
        let Some(ids) = ids else {
            return Ok(Values::InOrder(codes));
        };
        let mut by_id = BTreeMap::new();
        for (id, code) in ids.into_iter().zip(codes) {
            if by_id.insert(id.clone(), code).is_some() {
                return Err(format!("sample '{id}' stands there twice"));
            }
        }
        Ok(Values::ById(by_id))
    });
    values.map_err(|problem| anyhow::anyhow!("{}: {problem}", path.display()))
}

fn code(number: &f64) -> Result<u8, String> {
    match *number {
        0.0 => Ok(0),
        1.0 => Ok(1),
        2.0 => Ok(2),
        other => Err(format!(
            "{other} is none of 0 (complete), 1 (second modality gone) and 2 (first modality gone)"
        )),
    }
}

/// What a sample shows.
pub fn shown(code: u8) -> [bool; 2] {
    [code != 2, code != 1]
}

type Numbers = Result<Vec<f64>, String>;

/// `count` little-endian numbers.
fn numbers(bytes: &[u8], kind: &str, count: usize) -> Numbers {
    fn all<const N: usize>(bytes: &[u8], of: impl Fn([u8; N]) -> f64) -> Vec<f64> {
        let (chunks, _) = bytes.as_chunks::<N>();
        chunks.iter().map(|chunk| of(*chunk)).collect()
    }
    let found = match kind {
        "u1" | "U8" | "b1" | "BOOL" => all(bytes, |[b]: [u8; 1]| f64::from(b)),
        "i1" | "I8" => all(bytes, |b: [u8; 1]| f64::from(i8::from_le_bytes(b))),
        "i2" | "I16" => all(bytes, |b| f64::from(i16::from_le_bytes(b))),
        "i4" | "I32" => all(bytes, |b| f64::from(i32::from_le_bytes(b))),
        "i8" | "I64" => all(bytes, |b| i64::from_le_bytes(b) as f64),
        "f4" | "F32" => all(bytes, |b| f64::from(f32::from_le_bytes(b))),
        "f8" | "F64" => all(bytes, f64::from_le_bytes),
        other => {
            return Err(format!(
                "numbers of type {other} are not known here; save int64"
            ));
        }
    };
    if found.len() != count {
        return Err(format!(
            "holds {} numbers, says {count}; it was cut off",
            found.len()
        ));
    }
    Ok(found)
}

/// A one-dimensional array as numpy saves it (format versions 1 to 3).
fn npy(bytes: &[u8]) -> Numbers {
    let broken = || "is no .npy file".to_string();
    let rest = bytes.strip_prefix(b"\x93NUMPY").ok_or_else(broken)?;
    let (length, start) = match rest {
        [1, _, a, b, ..] => (u32::from(u16::from_le_bytes([*a, *b])), 4),
        [2 | 3, _, a, b, c, d, ..] => (u32::from_le_bytes([*a, *b, *c, *d]), 6),
        _ => return Err(broken()),
    };
    let end = start + length as usize;
    let header = rest.get(start..end).ok_or_else(broken)?;
    let header = String::from_utf8_lossy(header);
    let after = |key: &str| {
        header
            .split(&format!("'{key}':"))
            .nth(1)
            .map(str::trim_start)
    };
    let kind = after("descr")
        .and_then(|t| t.strip_prefix('\'')?.split('\'').next())
        .ok_or_else(broken)?;
    if kind.starts_with('>') {
        return Err("is big-endian; save it on another machine or as int64".into());
    }
    let shape = after("shape")
        .and_then(|t| t.strip_prefix('(')?.split(')').next())
        .ok_or_else(broken)?;
    let sizes: Vec<&str> = shape
        .split(',')
        .map(str::trim)
        .filter(|s| !s.is_empty())
        .collect();
    let [count] = sizes[..] else {
        return Err(format!(
            "has shape ({shape}); one number per sample is wanted"
        ));
    };
    let count = count.parse().map_err(|_| broken())?;
    numbers(
        &rest[end..],
        kind.trim_start_matches(['<', '|', '=']),
        count,
    )
}

/// The only tensor of a safetensors file.
fn safetensors(bytes: &[u8]) -> Numbers {
    let broken = || "is no .safetensors file".to_string();
    let (length, rest) = bytes.split_first_chunk::<8>().ok_or_else(broken)?;
    let length = usize::try_from(u64::from_le_bytes(*length)).map_err(|_| broken())?;
    let header = rest.get(..length).ok_or_else(broken)?;
    let header: serde_json::Value = serde_json::from_slice(header).map_err(|_| broken())?;
    let tensors: Vec<_> = header
        .as_object()
        .ok_or_else(broken)?
        .iter()
        .filter(|(name, _)| *name != "__metadata__")
        .collect();
    let [(_, tensor)] = tensors[..] else {
        return Err(format!("holds {} tensors; one is wanted", tensors.len()));
    };
    let number = |value: &serde_json::Value| value.as_u64().map(|v| v as usize);
    let [Some(from), Some(to)] = [0, 1].map(|i| number(&tensor["data_offsets"][i])) else {
        return Err(broken());
    };
    let count = match tensor["shape"].as_array().map(Vec::as_slice) {
        Some([count]) => number(count).ok_or_else(broken)?,
        _ => {
            return Err(format!(
                "has shape {}; one number per sample is wanted",
                tensor["shape"]
            ));
        }
    };
    let data = rest
        .get(length..)
        .and_then(|data| data.get(from..to))
        .ok_or_else(broken)?;
    numbers(data, tensor["dtype"].as_str().unwrap_or("?"), count)
}

/// A number per line, or a header with `id` and `value`.
fn csv(bytes: &[u8], split: &str) -> Result<(Vec<f64>, Option<Vec<String>>), String> {
    let text = std::str::from_utf8(bytes).map_err(|_| "is no text".to_string())?;
    let mut lines = text
        .lines()
        .map(str::trim)
        .enumerate()
        .filter(|(_, l)| !l.is_empty());
    let cells = |line: &str| -> Vec<String> {
        line.split(',')
            .map(|cell| cell.trim().trim_matches('"').to_string())
            .collect()
    };
    let parse = |at: usize, cell: &str| -> Result<f64, String> {
        cell.parse()
            .map_err(|_| format!("line {}: '{cell}' is no number", at + 1))
    };
    let Some((at, first)) = lines.next() else {
        return Ok((Vec::new(), None));
    };
    let header = cells(first);
    if let [one] = &header[..] {
        let mut all = vec![parse(at, one)?];
        for (at, line) in lines {
            all.push(parse(at, line)?);
        }
        return Ok((all, None));
    }
    let column = |name: &str| header.iter().position(|h| h == name);
    let (Some(id), Some(value)) = (column("id"), column("value")) else {
        return Err("line 1: a header with id and value is wanted, or one number per line".into());
    };
    let part = column("split");
    let (mut all, mut ids) = (Vec::new(), Vec::new());
    for (at, line) in lines {
        let row = cells(line);
        if row.len() != header.len() {
            let (have, want) = (row.len(), header.len());
            return Err(format!(
                "line {}: {have} cells where the header has {want}",
                at + 1
            ));
        }
        if part.is_some_and(|part| row[part] != split) {
            continue;
        }
        all.push(parse(at, &row[value])?);
        ids.push(row[id].clone());
    }
    Ok((all, Some(ids)))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn file(name: &str, bytes: &[u8]) -> (tempfile::TempDir, std::path::PathBuf) {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join(name);
        fs::write(&path, bytes).unwrap();
        (folder, path)
    }

    fn values(name: &str, bytes: &[u8]) -> Values {
        read(&file(name, bytes).1, "test").unwrap()
    }

    fn refused(name: &str, bytes: &[u8]) -> String {
        let problem = read(&file(name, bytes).1, "test").unwrap_err().to_string();
        assert!(problem.contains(name), "{problem}");
        problem
    }

    #[test]
    fn what_numpy_and_safetensors_write() {
        // numpy.save(f, numpy.array([0, 1, 2, 0])) and the same as float32; numpy 2.
        let header = |kind: &str| {
            let text = format!("{{'descr': '{kind}', 'fortran_order': False, 'shape': (4,), }}");
            let mut bytes = b"\x93NUMPY\x01\x00\x76\x00".to_vec();
            bytes.extend(format!("{text:<117}\n").bytes());
            bytes
        };
        let mut whole = header("<i8");
        [0i64, 1, 2, 0]
            .iter()
            .for_each(|v| whole.extend(v.to_le_bytes()));
        let want = Values::InOrder(vec![0, 1, 2, 0]);
        assert_eq!(values("m.npy", &whole), want);
        assert!(refused("m.npy", &whole[..whole.len() - 8]).contains("cut off"));
        let mut floats = header("<f4");
        [0f32, 1.0, 2.0, 0.0]
            .iter()
            .for_each(|v| floats.extend(v.to_le_bytes()));
        assert_eq!(values("m.npy", &floats), want);
        let json = br#"{"mask":{"dtype":"I64","shape":[4],"data_offsets":[0,32]}}"#;
        let mut tensors = (json.len() as u64).to_le_bytes().to_vec();
        tensors.extend(json);
        tensors.extend(&whole[whole.len() - 32..]);
        assert_eq!(values("m.safetensors", &tensors), want);
        assert!(refused("m.safetensors", b"no").contains("no .safetensors"));
        assert!(refused("m.npy", b"no").contains("no .npy"));
        assert!(refused("m.pt", b"no").contains("numpy.save"));
    }

    #[test]
    fn csv_by_place_and_by_id() {
        assert_eq!(
            values("m.csv", b"0\n2\n\n1\n"),
            Values::InOrder(vec![0, 2, 1])
        );
        let by_id = values(
            "m.csv",
            b"id,split,value\na,test,1\nb,train,2\n\"c\",test,0\n",
        );
        assert_eq!(
            by_id,
            Values::ById([("a".into(), 1), ("c".into(), 0)].into())
        );
        assert!(refused("m.csv", b"0\n3\n").contains("none of 0"));
        assert!(refused("m.csv", b"id,value\na,1\na,0\n").contains("twice"));
        assert!(refused("m.csv", b"id,value\na\n").contains("line 2"));
        assert!(refused("m.csv", b"0\nx\n").contains("line 2"));
    }

    #[test]
    fn one_takes_the_second_modality() {
        assert_eq!(
            [0, 1, 2].map(shown),
            [[true, true], [true, false], [false, true]]
        );
    }
}
