//! The layout of packed operands.
//!
//! A panel is 32 lines (rows of the left operand, columns of the right one), cut along its depth
//! into steps of 32. A step is two tiles of 1 KiB for each bf16 term of an element, one of the
//! first 16 lines and one of the others. A tile has 16 rows of 64 bytes:
//!
//! | operand | a tile's row |
//! |---|---|
//! | left | the 16 pairs of depths of one line |
//! | right | one pair of depths of 16 lines |

/// The number of lines of a panel.
pub const PANEL_LINES: usize = 32;
/// The size of a tile in bytes: 16 rows of a vector.
pub const TILE: usize = 1024;
/// The depth of a step: 16 pairs.
pub const STEP_DEPTH: usize = 32;

/// The 32 x 32 products of two panels, row-major.
#[repr(C, align(64))]
pub struct Sums(pub [f32; PANEL_LINES * PANEL_LINES]);
