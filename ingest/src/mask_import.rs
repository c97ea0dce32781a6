//! Masks of other programs: one code per sample, as in the code of missing-aware prompts (Lee et
//! al., CVPR 2023).
//!
//! Code 0 means that both modalities are present, 1 that the dataset's second modality is missing
//! (in their code the text), and 2 that the first one is missing (in their code the image). With
//! audio and video, in this order, 1 removes the video and 2 the audio.
//!
//! A `.npy` or `.safetensors` file holds one code per sample of a split, in the order of the
//! shards, which is that of the annotation. A `.csv` file holds the same without a header, or has a
//! header with `id` and `value` (and `split`, where ids repeat) and rows in any order. A number of
//! codes that does not fit is an error.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;

use anyhow::{Context, bail};
use npyz::{DType, NpyFile, TypeChar};
use safetensors::{Dtype, SafeTensors};

/// The codes of a file.
#[derive(Debug, PartialEq)]
pub enum Values {
    /// One code per sample, in the order of the split.
    InOrder(Vec<u8>),
    /// Codes by the id of their sample.
    ById(BTreeMap<String, u8>),
}

/// Reads a file in the format of its extension. Of a `.csv` file with a column `split`, only the
/// rows of `split` are read.
///
/// # Errors
/// The extension is another one, the file is not of that format, or a code is none of 0, 1 and 2.
pub fn read(path: &Path, split: &str) -> anyhow::Result<Values> {
    let bytes = fs::read(path).with_context(|| path.display().to_string())?;
    let extension = path.extension().map(|e| e.to_string_lossy().to_lowercase());
    let numbers = match extension.as_deref() {
        Some("npy") => read_npy(&bytes).map(|n| (n, None)),
        Some("safetensors") => read_safetensors(&bytes).map(|n| (n, None)),
        Some("csv") => read_csv(&bytes, split),
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
                return Err(format!("sample '{id}' appears twice"));
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
            "{other} is none of 0 (complete), 1 (second modality missing) and 2 (first modality missing)"
        )),
    }
}

/// Returns which of the two modalities a code leaves present.
pub fn present(code: u8) -> [bool; 2] {
    [code != 2, code != 1]
}

type Numbers = Result<Vec<f64>, String>;

/// The problem of a file that holds fewer or more numbers than its header says.
const WRONG_LENGTH: &str =
    "does not hold as many numbers as its header says; it was cut off or damaged";

/// Reads a one-dimensional array as numpy saves it (format versions 1 to 3, either byte order).
fn read_npy(bytes: &[u8]) -> Numbers {
    /// Reads the values of a file, which are all of one type.
    fn all<T: npyz::Deserialize>(
        file: NpyFile<&mut &[u8]>,
        number: impl Fn(T) -> f64,
    ) -> Result<Vec<f64>, String> {
        let values = file.into_vec().map_err(|_| WRONG_LENGTH.to_string())?;
        Ok(values.into_iter().map(number).collect())
    }
    // The parser of the header recurses into brackets, so that many of them overflow the stack. The
    // header of an array of numbers has two or three pairs.
    let header = match bytes.get(6..12) {
        Some([1, _, a, b, ..]) => 10 + u16::from_le_bytes([*a, *b]) as usize,
        Some([_, _, a, b, c, d]) => 12 + u32::from_le_bytes([*a, *b, *c, *d]) as usize,
        _ => 0,
    };
    let is_opening = |byte: &&u8| b"([{".contains(byte);
    if bytes.iter().take(header).filter(is_opening).count() > 8 {
        return Err("is no .npy file of plain numbers".to_string());
    }
    let mut rest = bytes;
    let file = NpyFile::new(&mut rest).map_err(|error| format!("is no .npy file ({error})"))?;
    if file.shape().len() != 1 {
        return Err(wrong_shape(file.shape()));
    }
    let kind = match file.dtype() {
        DType::Plain(kind) => kind,
        other => return Err(unknown_type(other.descr())),
    };
    let numbers = match (kind.type_char(), kind.size_field()) {
        (TypeChar::Bool, 1) => all(file, |v: bool| f64::from(u8::from(v))),
        (TypeChar::Uint, 1) => all(file, |v: u8| f64::from(v)),
        (TypeChar::Int, 1) => all(file, |v: i8| f64::from(v)),
        (TypeChar::Int, 2) => all(file, |v: i16| f64::from(v)),
        (TypeChar::Int, 4) => all(file, |v: i32| f64::from(v)),
        (TypeChar::Int, 8) => all(file, |v: i64| v as f64),
        (TypeChar::Float, 4) => all(file, |v: f32| f64::from(v)),
        (TypeChar::Float, 8) => all(file, |v: f64| v),
        _ => return Err(unknown_type(kind)),
    };
    if !rest.is_empty() {
        return Err(WRONG_LENGTH.to_string());
    }
    numbers
}

/// Reads the only tensor of a safetensors file, which is little-endian.
fn read_safetensors(bytes: &[u8]) -> Numbers {
    fn all<const N: usize>(bytes: &[u8], number: impl Fn([u8; N]) -> f64) -> Vec<f64> {
        // No bytes remain, because `deserialize` has checked the length against type and shape.
        let (chunks, _) = bytes.as_chunks::<N>();
        chunks.iter().map(|chunk| number(*chunk)).collect()
    }
    let file = SafeTensors::deserialize(bytes)
        .map_err(|error| format!("is no .safetensors file ({error})"))?;
    let tensors = file.tensors();
    let [(_, tensor)] = &tensors[..] else {
        return Err(format!("holds {} tensors; give one", tensors.len()));
    };
    if tensor.shape().len() != 1 {
        return Err(wrong_shape(tensor.shape()));
    }
    let data = tensor.data();
    Ok(match tensor.dtype() {
        Dtype::BOOL | Dtype::U8 => all(data, |[v]| f64::from(v)),
        Dtype::I8 => all(data, |v| f64::from(i8::from_le_bytes(v))),
        Dtype::I16 => all(data, |v| f64::from(i16::from_le_bytes(v))),
        Dtype::I32 => all(data, |v| f64::from(i32::from_le_bytes(v))),
        Dtype::I64 => all(data, |v| i64::from_le_bytes(v) as f64),
        Dtype::F32 => all(data, |v| f64::from(f32::from_le_bytes(v))),
        Dtype::F64 => all(data, f64::from_le_bytes),
        other => return Err(unknown_type(other)),
    })
}

fn unknown_type(kind: impl std::fmt::Display) -> String {
    format!("numbers of type {kind} cannot be read; save int64")
}

fn wrong_shape(shape: &[impl std::fmt::Debug]) -> String {
    format!("has shape {shape:?}; give one number per sample")
}

/// Reads a csv text: one number per line, or a header with `id` and `value`.
fn read_csv(bytes: &[u8], split: &str) -> Result<(Vec<f64>, Option<Vec<String>>), String> {
    let reader = csv::ReaderBuilder::new()
        .has_headers(false)
        .flexible(true)
        .trim(csv::Trim::All)
        .from_reader(bytes);
    let mut rows = reader.into_records().filter_map(|row| match row {
        // A line of blanks. The reader skips empty lines itself.
        Ok(row) if row.len() == 1 && row[0].is_empty() => None,
        Ok(row) => Some(Ok((row.position().map_or(0, csv::Position::line), row))),
        Err(error) => Some(Err(format!("is no csv text ({error})"))),
    });
    let parse = |line: u64, cell: &str| -> Result<f64, String> {
        cell.parse()
            .map_err(|_| format!("line {line}: '{cell}' is no number"))
    };
    let Some((line, header)) = rows.next().transpose()? else {
        return Ok((Vec::new(), None));
    };
    let column = |name: &str| header.iter().position(|cell| cell == name);
    let (id, value) = match (header.len(), column("id"), column("value")) {
        (1, ..) => (None, 0),
        (_, Some(id), Some(value)) => (Some(id), value),
        _ => {
            return Err("line 1: give a header with id and value, or one number per line".into());
        }
    };
    let mut numbers = Vec::new();
    if id.is_none() {
        numbers.push(parse(line, &header[0])?);
    }
    let part = column("split");
    let mut ids = Vec::new();
    for row in rows {
        let (line, row) = row?;
        if row.len() != header.len() {
            let (have, want) = (row.len(), header.len());
            return Err(format!(
                "line {line}: {have} cells where the first line has {want}"
            ));
        }
        if part.is_some_and(|part| &row[part] != split) {
            continue;
        }
        numbers.push(parse(line, &row[value])?);
        ids.extend(id.map(|id| row[id].to_string()));
    }
    Ok((numbers, id.map(|_| ids)))
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

    /// The header of a .npy file of format version 1, filled up to 128 bytes as numpy does.
    fn header(kind: &str, fortran: &str, shape: &str) -> Vec<u8> {
        let text = format!("{{'descr': '{kind}', 'fortran_order': {fortran}, 'shape': {shape}, }}");
        let mut bytes = b"\x93NUMPY\x01\x00\x76\x00".to_vec();
        bytes.extend(format!("{text:<117}\n").bytes());
        bytes
    }

    fn array(kind: &str, data: impl IntoIterator<Item = impl AsRef<[u8]>>) -> Vec<u8> {
        let mut bytes = header(kind, "False", "(4,)");
        data.into_iter()
            .for_each(|value| bytes.extend(value.as_ref()));
        bytes
    }

    /// A .safetensors file with these tensors in its header, and the numbers 0, 1, 2, 0 as int64.
    fn tensors(json: &str) -> Vec<u8> {
        let mut bytes = (json.len() as u64).to_le_bytes().to_vec();
        bytes.extend(json.bytes());
        [0i64, 1, 2, 0]
            .iter()
            .for_each(|v| bytes.extend(v.to_le_bytes()));
        bytes
    }

    const MASK: &str = r#"{"mask":{"dtype":"I64","shape":[4],"data_offsets":[0,32]}}"#;

    #[test]
    fn npy_and_safetensors_files_are_read() {
        // numpy.save(f, numpy.array([0, 1, 2, 0])) and the same in other types; numpy 2.
        let want = Values::InOrder(vec![0, 1, 2, 0]);
        let whole = array("<i8", [0i64, 1, 2, 0].map(i64::to_le_bytes));
        for file in [
            &whole,
            &array(">i8", [0i64, 1, 2, 0].map(i64::to_be_bytes)),
            &array("<i4", [0i32, 1, 2, 0].map(i32::to_le_bytes)),
            &array("<i2", [0i16, 1, 2, 0].map(i16::to_le_bytes)),
            &array("|i1", [[0], [1], [2], [0]]),
            &array("|u1", [[0], [1], [2], [0]]),
            &array("<f4", [0f32, 1.0, 2.0, 0.0].map(f32::to_le_bytes)),
            &array("<f8", [0f64, 1.0, 2.0, 0.0].map(f64::to_le_bytes)),
        ] {
            assert_eq!(values("m.npy", file), want);
        }
        assert_eq!(
            values("m.npy", &array("|b1", [[0], [1], [1], [0]])),
            Values::InOrder(vec![0, 1, 1, 0])
        );
        // An array of one dimension is the same in row-major and column-major order.
        let mut fortran = header("<i8", "True", "(4,)");
        fortran.extend(&whole[whole.len() - 32..]);
        assert_eq!(values("m.npy", &fortran), want);
        assert_eq!(values("m.safetensors", &tensors(MASK)), want);
        assert!(refused("m.safetensors", b"no").contains("no .safetensors"));
        assert!(refused("m.npy", b"no").contains("no .npy"));
        assert!(refused("m.pt", b"no").contains("numpy.save"));
    }

    #[test]
    fn wrong_shapes_types_and_lengths_are_refused() {
        let data = [0i64, 1, 2, 0].map(i64::to_le_bytes).concat();
        let npy = |kind: &str, shape: &str| {
            let mut bytes = header(kind, "False", shape);
            bytes.extend(&data);
            refused("m.npy", &bytes)
        };
        assert!(npy("<i8", "(2, 2)").contains("shape [2, 2]"));
        assert!(npy("<i8", "()").contains("shape []"));
        assert!(npy("<i8", "(3,)").contains("cut off"));
        assert!(npy("<i8", "(5,)").contains("cut off"));
        assert!(npy("<i8", "(18446744073709551615,)").contains("cut off"));
        assert!(npy("<i8", "(-4,)").contains("no .npy"));
        for kind in ["<c8", "<M8[s]", "|S8", "|O", "<f2"] {
            assert!(npy(kind, "(4,)").contains("save int64"), "{kind}");
        }
        // A header that would overflow the stack.
        let mut nested = b"\x93NUMPY\x01\x00\xff\xff".to_vec();
        nested.resize(nested.len() + 0x7fff, b'(');
        nested.resize(nested.len() + 0x8000, b')');
        assert!(refused("m.npy", &nested).contains("no .npy"));
        let safetensors = |from: &str, to: &str| {
            assert!(MASK.contains(from));
            refused("m.safetensors", &tensors(&MASK.replace(from, to)))
        };
        assert!(safetensors("[4]", "[2,2]").contains("shape [2, 2]"));
        assert!(safetensors("[4]", "[5]").contains("no .safetensors"));
        assert!(safetensors("32]", "40]").contains("no .safetensors"));
        assert!(safetensors("\"I64\"", "\"C64\"").contains("save int64"));
        let two = r#"{"a":{"dtype":"I64","shape":[2],"data_offsets":[0,16]},"b":{"dtype":"I64","shape":[2],"data_offsets":[16,32]}}"#;
        assert!(refused("m.safetensors", &tensors(two)).contains("2 tensors"));
    }

    #[test]
    fn damaged_files_do_not_panic() {
        let whole = array("<i8", [0i64, 1, 2, 0].map(i64::to_le_bytes));
        let csv = b"id,split,value\na,test,1\n\"b\",test,0\n".to_vec();
        for (name, bytes) in [
            ("m.npy", whole),
            ("m.safetensors", tensors(MASK)),
            ("m.csv", csv),
        ] {
            let (_folder, path) = file(name, &bytes);
            for at in 0..bytes.len() {
                fs::write(&path, &bytes[..at]).unwrap();
                assert!(
                    name == "m.csv" || read(&path, "test").is_err(),
                    "{name} {at}"
                );
                for value in [0, bytes[at] ^ 1, bytes[at] ^ 0x80, b'(', b'9', 0xff] {
                    let mut damaged = bytes.clone();
                    damaged[at] = value;
                    fs::write(&path, damaged).unwrap();
                    drop(read(&path, "test"));
                }
            }
        }
    }

    #[test]
    fn csv_files_are_read_with_and_without_ids() {
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
        assert!(refused("m.csv", b"0\n1,2\n").contains("line 2"));
        assert!(refused("m.csv", b"0\n\xff\n").contains("no csv"));
        assert_eq!(values("m.csv", b""), Values::InOrder(vec![]));
        assert_eq!(
            values("m.csv", b" 0 \r\n  \r\n2\r\n"),
            Values::InOrder(vec![0, 2])
        );
    }

    #[test]
    fn code_one_removes_the_second_modality() {
        assert_eq!(
            [0, 1, 2].map(present),
            [[true, true], [true, false], [false, true]]
        );
    }
}
