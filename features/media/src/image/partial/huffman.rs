//! Huffman decoding of coefficients (ITU-T T.81, annexes C and F.2.2), by table lookup.
//!
//! T.81 decodes bit by bit. Here the next [`DECODE_BITS`] bits index a table that holds the whole
//! coefficient: the zeros before it, its value, and the bits that both take.

use std::cell::RefCell;
use std::rc::Rc;

/// Index width of the tables that decode codes. Longer codes are searched by length.
pub(super) const DECODE_BITS: u32 = 11;

/// Index width of the table that skips coefficients.
pub(super) const SKIP_BITS: u32 = 12;

/// The run length that stands for the end of a block (EOB): beyond all coefficients.
pub(super) const END_OF_BLOCK: u8 = 64;

/// The composite value RS that stands for a run of 16 zeros (ZRL, F.1.2.2.1).
const ZRL: u8 = 0xF0;

/// Number of decoding tables that a thread keeps: the four that `ingest` writes, and a few more.
const CACHED_TABLES: usize = 16;

thread_local! {
    /// Decoding tables by their bytes in the DHT segment. Building one costs as much as decoding
    /// a small image.
    static TABLE_CACHE: RefCell<Vec<(Vec<u8>, Rc<HuffmanTable>)>> = RefCell::default();
}

/// The AC coefficient that a window of [`DECODE_BITS`] bits begins with, or the end of the block.
#[derive(Clone, Copy, Default)]
pub(super) struct AcEntry {
    /// The coefficient, not yet dequantized.
    pub value: i16,
    /// The number of zeros before it (RRRR of F.1.2.2.1), or [`END_OF_BLOCK`].
    pub run: u8,
    /// The bits of code and value; 0 where they do not fit the window.
    pub length: u8,
}

/// All AC coefficients that lie whole in a window of [`SKIP_BITS`] bits, up to the end of the
/// block.
#[derive(Clone, Copy, Default)]
pub(super) struct SkipEntry {
    /// The bits of these coefficients; 0 where not even one fits the window.
    pub length: u8,
    /// The number of these coefficients, zeros included.
    pub coefficients: u8,
    /// Whether the block ends after them.
    pub end_of_block: bool,
}

/// Splits the composite value RS of an AC code into the run length RRRR and the size SSSS.
#[inline(always)]
pub(super) fn run_size(symbol: u8) -> (u8, u8) {
    (symbol >> 4, symbol & 15)
}

/// A Huffman table, laid out for decoding.
pub(super) struct HuffmanTable {
    /// Length and symbol of the code that each window of [`DECODE_BITS`] bits begins with; length 0
    /// where the code is longer.
    codes: Vec<(u8, u8)>,
    /// The AC coefficient that each window of [`DECODE_BITS`] bits begins with.
    pub ac: Vec<AcEntry>,
    /// The AC coefficients that each window of [`SKIP_BITS`] bits holds.
    pub skip: Vec<SkipEntry>,
    /// For each length, the first code beyond those of this length, in the upper bits of 16:
    /// MAXCODE + 1 of F.2.2.3.
    code_ends: [u32; 17],
    /// For each length, the index of a code's symbol minus the code: VALPTR - MINCODE of F.2.2.3.
    offsets: [i32; 17],
    /// The symbols in the order of their codes: HUFFVAL of C.1.
    symbols: Vec<u8>,
}

impl HuffmanTable {
    /// Returns the table at the start of `bytes`, which follow a table's class and destination in
    /// a DHT segment (B.2.4.2), and the bytes after it. `None` if it is not a valid table.
    pub fn cached(bytes: &[u8]) -> Option<(Rc<Self>, &[u8])> {
        let counts = bytes.first_chunk::<16>()?;
        let total: usize = counts.iter().map(|count| usize::from(*count)).sum();
        let (own, rest) = bytes.split_at_checked(16 + total)?;
        let table = TABLE_CACHE.with_borrow_mut(|cache| {
            if let Some((_, table)) = cache.iter().find(|(bytes, _)| bytes == own) {
                return Some(table.clone());
            }
            let table = Rc::new(HuffmanTable::new(counts, &own[16..])?);
            if cache.len() == CACHED_TABLES {
                cache.clear();
            }
            cache.push((own.to_vec(), table.clone()));
            Some(table)
        })?;
        Some((table, rest))
    }

    /// Builds a table from the number of codes of each length (BITS) and their symbols (HUFFVAL),
    /// as C.2 generates the codes. `None` if there are more codes than their lengths allow.
    fn new(counts: &[u8; 16], symbols: &[u8]) -> Option<Self> {
        let mut table = HuffmanTable {
            codes: vec![(0, 0); 1 << DECODE_BITS],
            ac: vec![AcEntry::default(); 1 << DECODE_BITS],
            skip: vec![SkipEntry::default(); 1 << SKIP_BITS],
            code_ends: [0; 17],
            offsets: [0; 17],
            symbols: symbols.to_vec(),
        };
        let (mut code, mut index) = (0u32, 0usize);
        for (length, count) in (1u32..).zip(counts) {
            table.offsets[length as usize] = index as i32 - code as i32;
            for _ in 0..*count {
                if length <= DECODE_BITS {
                    // All windows that begin with this code.
                    let windows = 1 << (DECODE_BITS - length);
                    let first = code as usize * windows;
                    let entry = (length as u8, symbols[index]);
                    let entries = table.codes.get_mut(first..first + windows)?;
                    entries.fill(entry);
                }
                code += 1;
                index += 1;
            }
            if code > 1 << length {
                return None;
            }
            table.code_ends[length as usize] = code << (16 - length);
            code <<= 1;
        }
        table.fill_ac();
        table.fill_skip();
        Some(table)
    }

    /// Fills the table of whole coefficients from the table of codes.
    fn fill_ac(&mut self) {
        let windows = self.ac.iter_mut().zip(&self.codes);
        for (window, (entry, &(length, symbol))) in windows.enumerate() {
            let (run, size) = run_size(symbol);
            if length > 0 && size == 0 && symbol != ZRL {
                *entry = AcEntry {
                    value: 0,
                    run: END_OF_BLOCK,
                    length,
                };
            }
            if length > 0 && size > 0 && u32::from(length + size) <= DECODE_BITS {
                let bits =
                    window as u32 >> (DECODE_BITS - u32::from(length + size)) & ((1 << size) - 1);
                *entry = AcEntry {
                    // At most DECODE_BITS bits.
                    value: extend(bits as i32, size.into()) as i16,
                    run,
                    length: length + size,
                };
            }
        }
    }

    /// Fills the table that skips coefficients from the table of codes.
    fn fill_skip(&mut self) {
        for (window, entry) in self.skip.iter_mut().enumerate() {
            while !entry.end_of_block {
                let rest = (window << entry.length) & ((1 << SKIP_BITS) - 1);
                let (length, symbol) = self.codes[rest >> (SKIP_BITS - DECODE_BITS)];
                let (run, size) = run_size(symbol);
                if length == 0 || u32::from(entry.length + length + size) > SKIP_BITS {
                    break;
                }
                entry.length += length + size;
                // Size 0 is ZRL, a run of 16 zeros, if the run length is 15, and otherwise EOB.
                entry.end_of_block = size == 0 && run != 15;
                entry.coefficients += if entry.end_of_block { 0 } else { run + 1 };
            }
        }
    }

    /// Decodes the next symbol (DECODE of F.2.2.3). Takes at most 16 bits; the window then still
    /// holds the symbol's value of at most 15. `None` if no code matches.
    #[inline(always)]
    pub fn decode(&self, bits: &mut BitReader) -> Option<u8> {
        let (length, symbol) = self.codes[bits.peek(DECODE_BITS) as usize];
        if length > 0 {
            bits.skip(length.into());
            return Some(symbol);
        }
        let next = bits.peek(16);
        let length =
            (DECODE_BITS + 1..=16).find(|length| next < self.code_ends[*length as usize])?;
        bits.skip(length);
        let code = (next >> (16 - length)) as i32;
        let index = code + self.offsets[length as usize];
        self.symbols.get(usize::try_from(index).ok()?).copied()
    }
}

/// The number of zero bytes after the data, so that [`BitReader::refill`] can always load 8.
pub(super) const PADDING: usize = 16;

/// Reads entropy-coded bits, the most significant bit of each byte first (F.2.2.5).
#[derive(Clone, Copy)]
pub(super) struct BitReader {
    /// The index of the first byte that is not in the window.
    position: usize,
    /// The next bits, at the upper end.
    window: u64,
    /// How many bits the window counts as loaded. The bits below them are the ones that follow, so
    /// loading them a second time changes nothing.
    count: u32,
}

impl BitReader {
    /// Returns a reader that starts at a byte.
    pub fn new(position: usize) -> Self {
        BitReader {
            position,
            window: 0,
            count: 0,
        }
    }

    /// Fills the window to at least 56 bits; a code and its value have at most 31. `None` if the
    /// reader is beyond the end and the padding.
    #[inline(always)]
    pub fn refill(&mut self, bytes: &[u8]) -> Option<()> {
        let next = u64::from_be_bytes(*bytes.get(self.position..)?.first_chunk()?);
        self.window |= next >> self.count;
        self.position += (63 - self.count as usize) / 8;
        self.count |= 56;
        Some(())
    }

    /// Returns the number of bits up to the byte `end`; negative once more were read.
    pub fn remaining(&self, end: usize) -> isize {
        8 * (end as isize - self.position as isize) + self.count as isize
    }

    /// Returns the next `count` bits without reading them.
    #[inline(always)]
    pub fn peek(&self, count: u32) -> u32 {
        (self.window >> (64 - count)) as u32
    }

    /// Skips `count` bits of the window.
    #[inline(always)]
    pub fn skip(&mut self, count: u32) {
        self.window <<= count;
        self.count -= count;
    }

    /// Reads a signed value of `size` bits (RECEIVE and EXTEND of F.2.2.1). `None` above 15 bits,
    /// which no baseline file has.
    #[inline(always)]
    pub fn receive_extend(&mut self, size: u8) -> Option<i32> {
        let size = u32::from(size);
        if size == 0 {
            return Some(0);
        }
        if size > 15 {
            return None;
        }
        let value = self.peek(size) as i32;
        self.skip(size);
        Some(extend(value, size))
    }
}

/// Returns `size` bits as a signed value: a leading 0 means that it is negative (EXTEND of
/// F.2.2.1).
#[inline(always)]
fn extend(bits: i32, size: u32) -> i32 {
    if bits < 1 << (size - 1) {
        bits - (1 << size) + 1
    } else {
        bits
    }
}
