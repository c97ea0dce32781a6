//! Building text piece by piece.

/// Appends formatted text to a string.
macro_rules! put {
    ($out:expr, $($piece:tt)*) => {
        $out.push_str(&format!($($piece)*))
    };
}

/// [`put`], and a line break.
macro_rules! putln {
    ($out:expr, $($piece:tt)*) => {{
        $out.push_str(&format!($($piece)*));
        $out.push('\n');
    }};
}

pub(crate) use {put, putln};
