//! The order of coefficients: zig-zag in files (ITU-T T.81, figure A.6), pairs of rows in memory.

/// The natural order (8 * row + column) of the coefficient at each zig-zag index.
const ZIGZAG: [u8; 64] = [
    0, 1, 8, 16, 9, 2, 3, 10, 17, 24, 32, 25, 18, 11, 4, 5, 12, 19, 26, 33, 40, 48, 41, 34, 27, 20,
    13, 6, 7, 14, 21, 28, 35, 42, 49, 56, 57, 50, 43, 36, 29, 22, 15, 23, 30, 37, 44, 51, 58, 59,
    52, 45, 38, 31, 39, 46, 53, 60, 61, 54, 47, 55, 62, 63,
];

/// The 64 dequantized coefficients of a block, or the 64 elements of a quantization table. The one
/// in row r and column c stands at [`storage_index`], so that rows r and r + 4 form pairs, which a
/// vector instruction multiplies and adds.
pub(super) type Coefficients = [i16; 64];

/// Returns the index into [`Coefficients`] of a row and a column.
#[inline(always)]
pub(super) const fn storage_index(row: usize, column: usize) -> usize {
    16 * (row % 4) + 2 * column + row / 4
}

/// The index into [`Coefficients`] of the coefficient at each zig-zag index.
pub(super) const NATURAL_ORDER: [u8; 64] = {
    let mut order = [0; 64];
    let mut k = 0;
    while k < 64 {
        let natural = ZIGZAG[k] as usize;
        order[k] = storage_index(natural / 8, natural % 8) as u8;
        k += 1;
    }
    order
};
