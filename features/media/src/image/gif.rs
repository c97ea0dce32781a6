//! The first frame of a GIF file on the screen that its header describes (GIF89a, 18 to 23).
//!
//! A frame may be smaller than the screen, or reach beyond it. Pillow enlarges the screen to hold
//! the first frame, and fills what the frame leaves free with its transparent colour, or with the
//! first colour of its table where it has none.

use std::borrow::Cow;
use std::ops::Range;

use super::rgb::Rgb;

/// The place of the first frame.
pub(super) struct Frame {
    columns: Range<usize>,
    rows: Range<usize>,
    /// The colour of the pixels around it.
    around: [u8; 3],
}

impl Frame {
    /// Finds the first frame. `None` if the file is damaged before it.
    pub fn first(file: &[u8]) -> Option<Frame> {
        let flags = *file.get(10)?;
        let (mut colours, mut rest) = split_colours(flags, file.get(13..)?)?;
        let mut transparent = None;
        loop {
            rest = match rest {
                // A graphic control extension: its length, flags, a delay and an index.
                [0x21, 0xF9, after @ ..] => {
                    let [4, flags, _, _, index, ..] = *after else {
                        return None;
                    };
                    transparent = (flags & 1 == 1).then_some(usize::from(index));
                    skip_blocks(after)?
                }
                [0x21, _, after @ ..] => skip_blocks(after)?,
                [0x2C, x0, x1, y0, y1, w0, w1, h0, h1, flags, after @ ..] => {
                    if flags & 0x80 != 0 {
                        (colours, _) = split_colours(*flags, after)?;
                    }
                    let side = |low: &u8, high: &u8| usize::from(u16::from_le_bytes([*low, *high]));
                    let (left, top) = (side(x0, x1), side(y0, y1));
                    let around = colours.get(transparent.unwrap_or(0));
                    return Some(Frame {
                        columns: left..left + side(w0, w1),
                        rows: top..top + side(h0, h1),
                        around: around.copied().unwrap_or_default(),
                    });
                }
                _ => return None,
            };
        }
    }

    /// Returns the file with a screen that holds the frame.
    pub fn on_screen<'a>(&self, file: &'a [u8]) -> Cow<'a, [u8]> {
        let mut file = Cow::Borrowed(file);
        for (at, end) in [(6, self.columns.end), (8, self.rows.end)] {
            let side = usize::from(u16::from_le_bytes([file[at], file[at + 1]]));
            if let Ok(end) = u16::try_from(end)
                && usize::from(end) > side
            {
                file.to_mut()[at..at + 2].copy_from_slice(&end.to_le_bytes());
            }
        }
        file
    }

    /// Fills what the frame leaves free of the screen.
    pub fn fill_around(&self, screen: &mut Rgb) {
        if self.columns == (0..screen.width) && self.rows == (0..screen.height) {
            return;
        }
        let rows = screen.pixels.chunks_exact_mut(3 * screen.width.max(1));
        for (y, row) in rows.enumerate() {
            for (x, pixel) in row.as_chunks_mut::<3>().0.iter_mut().enumerate() {
                if !(self.rows.contains(&y) && self.columns.contains(&x)) {
                    *pixel = self.around;
                }
            }
        }
    }
}

/// Splits off the table of colours that the flags announce, which may be empty.
fn split_colours(flags: u8, rest: &[u8]) -> Option<(&[[u8; 3]], &[u8])> {
    let count = match flags & 0x80 {
        0 => 0,
        _ => 2 << (flags & 7),
    };
    let (colours, rest) = rest.split_at_checked(3 * count)?;
    Some((colours.as_chunks::<3>().0, rest))
}

/// Skips sub-blocks, each with its length before it, up to the empty one.
fn skip_blocks(mut rest: &[u8]) -> Option<&[u8]> {
    loop {
        let (&length, after) = rest.split_first()?;
        rest = after.get(usize::from(length)..)?;
        if length == 0 {
            return Some(rest);
        }
    }
}
