//! libjpeg-turbo through its TurboJPEG interface: the calls that this crate needs, behind safe
//! functions.
//!
//! The library is linked statically and keeps its state in a handle, which is created for one file
//! and then destroyed. Its errors jump by `longjmp` inside the library, never through Rust code.

use std::ffi::{CStr, c_int, c_uchar};
use std::ptr;

use turbojpeg_sys as ffi;

/// The format of a pixel; each sample has 8 bits.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PixelFormat {
    /// One sample.
    Gray,
    /// Red, green, blue.
    Rgb,
    /// Cyan, magenta, yellow, black, as stored in the file: Adobe's files store them inverted.
    Cmyk,
}

impl PixelFormat {
    /// Returns the number of bytes of a pixel.
    pub fn size(self) -> usize {
        match self {
            PixelFormat::Gray => 1,
            PixelFormat::Rgb => 3,
            PixelFormat::Cmyk => 4,
        }
    }

    fn raw(self) -> c_int {
        match self {
            PixelFormat::Gray => ffi::TJPF_TJPF_GRAY,
            PixelFormat::Rgb => ffi::TJPF_TJPF_RGB,
            PixelFormat::Cmyk => ffi::TJPF_TJPF_CMYK,
        }
    }
}

/// The library's message about a file, in one line.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Problem {
    /// The file violates the standard, but the library decoded it: it filled in what is damaged.
    Warning(String),
    /// Nothing usable was decoded.
    Error(String),
}

impl Problem {
    pub fn message(&self) -> &str {
        match self {
            Problem::Warning(message) | Problem::Error(message) => message,
        }
    }
}

struct Handle(ffi::tjhandle);

impl Handle {
    fn new(kind: ffi::TJINIT) -> Result<Handle, Problem> {
        // SAFETY: the call takes no pointer.
        let handle = unsafe { ffi::tj3Init(kind as c_int) };
        match handle.is_null() {
            true => Err(Problem::Error("libjpeg-turbo cannot be started".into())),
            false => Ok(Handle(handle)),
        }
    }

    fn set(&mut self, parameter: ffi::TJPARAM, value: c_int) -> Result<(), Problem> {
        // SAFETY: the handle is valid until it is dropped.
        let status = unsafe { ffi::tj3Set(self.0, parameter as c_int, value) };
        self.check(status)
    }

    fn get(&self, parameter: ffi::TJPARAM) -> c_int {
        // SAFETY: the handle is valid until it is dropped.
        unsafe { ffi::tj3Get(self.0, parameter as c_int) }
    }

    /// Returns the problem that a call's status reports.
    fn check(&self, status: c_int) -> Result<(), Problem> {
        if status == 0 {
            return Ok(());
        }
        // SAFETY: the handle is valid; the string ends with 0 and is copied before the next call
        // can change it.
        let (code, message) = unsafe {
            let message = CStr::from_ptr(ffi::tj3GetErrorStr(self.0));
            (ffi::tj3GetErrorCode(self.0), message.to_string_lossy())
        };
        let message = message.into_owned();
        Err(match code == ffi::TJERR_TJERR_WARNING as c_int {
            true => Problem::Warning(message),
            false => Problem::Error(message),
        })
    }
}

impl Drop for Handle {
    fn drop(&mut self) {
        // SAFETY: the handle is valid and not used after this.
        unsafe { ffi::tj3Destroy(self.0) }
    }
}

/// The most scans that a progressive file may have. Encoders write about ten. Each costs a pass
/// over the whole image, so that a small file with thousands would take hours.
const MAX_SCANS: c_int = 200;

/// A file whose header has been read.
pub(super) struct Decoder<'a> {
    handle: Handle,
    file: &'a [u8],
    width: usize,
    height: usize,
    format: PixelFormat,
}

impl<'a> Decoder<'a> {
    /// Reads the header. The second value is the warning that the library gave, if any.
    ///
    /// # Errors
    /// [`Problem::Error`] if the file has no complete header, or is of a kind that the library
    /// cannot decode.
    pub fn new(file: &'a [u8]) -> Result<(Decoder<'a>, Option<Problem>), Problem> {
        let mut handle = Handle::new(ffi::TJINIT_TJINIT_DECOMPRESS)?;
        handle.set(ffi::TJPARAM_TJPARAM_SCANLIMIT, MAX_SCANS)?;
        // Colour profiles are not used.
        handle.set(ffi::TJPARAM_TJPARAM_SAVEMARKERS, 0)?;
        // SAFETY: the pointer and the length are those of one slice, which is only read.
        let status =
            unsafe { ffi::tj3DecompressHeader(handle.0, file.as_ptr(), file.len() as ffi::size_t) };
        let warning = match handle.check(status) {
            Ok(()) => None,
            Err(Problem::Warning(message)) => Some(Problem::Warning(message)),
            Err(error) => return Err(error),
        };
        let side = |parameter| usize::try_from(handle.get(parameter)).unwrap_or(0);
        let width = side(ffi::TJPARAM_TJPARAM_JPEGWIDTH);
        let height = side(ffi::TJPARAM_TJPARAM_JPEGHEIGHT);
        if width == 0 || height == 0 {
            // Tables without an image, which the library does not call an error.
            return Err(Problem::Error("the header describes no image".into()));
        }
        let precision = handle.get(ffi::TJPARAM_TJPARAM_PRECISION);
        if precision != 8 {
            let problem = format!("it has {precision} bits per sample; convert it to one of 8");
            return Err(Problem::Error(problem));
        }
        let format = match handle.get(ffi::TJPARAM_TJPARAM_COLORSPACE) as ffi::TJCS {
            ffi::TJCS_TJCS_CMYK | ffi::TJCS_TJCS_YCCK => PixelFormat::Cmyk,
            _ => PixelFormat::Rgb,
        };
        let decoder = Decoder {
            handle,
            file,
            width,
            height,
            format,
        };
        Ok((decoder, warning))
    }

    /// Returns the number of pixels per row.
    pub fn width(&self) -> usize {
        self.width
    }

    /// Returns the number of rows.
    pub fn height(&self) -> usize {
        self.height
    }

    /// Returns the format in which [`Decoder::decode`] stores pixels: CMYK where the file has four
    /// components, otherwise RGB.
    pub fn format(&self) -> PixelFormat {
        self.format
    }

    /// Decodes to `width * height` pixels in [`Decoder::format`], row by row.
    ///
    /// # Errors
    /// [`Problem::Warning`] if the image data is damaged or ends too early and was filled in;
    /// [`Problem::Error`] if it cannot be decoded.
    ///
    /// # Panics
    /// If `pixels` has another length.
    pub fn decode(&mut self, pixels: &mut [u8]) -> Result<(), Problem> {
        assert_eq!(pixels.len(), self.width * self.height * self.format.size());
        // SAFETY: the file is the slice whose header gave width and height, and the library reads
        // the same header again, so it writes `height` rows of `width` pixels without a gap
        // (pitch 0): the length checked above.
        let status = unsafe {
            ffi::tj3Decompress8(
                self.handle.0,
                self.file.as_ptr(),
                self.file.len() as ffi::size_t,
                pixels.as_mut_ptr(),
                0,
                self.format.raw(),
            )
        };
        self.handle.check(status)
    }
}

/// Encodes `width * height` pixels as a baseline JPEG without subsampling: gray, YCbCr from RGB, or
/// YCCK from CMYK. Each row of MCUs is a restart interval. `quality` is libjpeg's, 1 to 100.
///
/// # Errors
/// [`Problem::Error`] if a side is 0 or above 65,500, or `quality` is out of range.
///
/// # Panics
/// If `pixels` has another length than the size and the format give.
pub(super) fn compress(
    pixels: &[u8],
    [width, height]: [usize; 2],
    format: PixelFormat,
    quality: u8,
) -> Result<Vec<u8>, Problem> {
    assert_eq!(pixels.len(), width * height * format.size());
    let mut handle = Handle::new(ffi::TJINIT_TJINIT_COMPRESS)?;
    let sampling = match format {
        PixelFormat::Gray => ffi::TJSAMP_TJSAMP_GRAY,
        PixelFormat::Rgb | PixelFormat::Cmyk => ffi::TJSAMP_TJSAMP_444,
    };
    handle.set(ffi::TJPARAM_TJPARAM_SUBSAMP, sampling)?;
    handle.set(ffi::TJPARAM_TJPARAM_QUALITY, quality.into())?;
    handle.set(ffi::TJPARAM_TJPARAM_RESTARTROWS, 1)?;
    let side = |side: usize| {
        c_int::try_from(side).map_err(|_| Problem::Error(format!("a side of {side} pixels")))
    };
    let (width, height) = (side(width)?, side(height)?);
    let mut output = Output {
        start: ptr::null_mut(),
        length: 0,
    };
    // SAFETY: the library reads `height` rows of `width` pixels without a gap (pitch 0), which is
    // the length checked above. It allocates the output and grows it as it needs; `output` frees
    // it.
    let status = unsafe {
        ffi::tj3Compress8(
            handle.0,
            pixels.as_ptr(),
            width,
            0,
            height,
            format.raw(),
            &mut output.start,
            &mut output.length,
        )
    };
    handle.check(status)?;
    Ok(output.to_vec())
}

/// A buffer that the library allocated.
struct Output {
    start: *mut c_uchar,
    length: ffi::size_t,
}

impl Output {
    fn to_vec(&self) -> Vec<u8> {
        if self.start.is_null() {
            return Vec::new();
        }
        // SAFETY: the library wrote `length` bytes from `start` on, and nothing else refers to
        // them.
        unsafe { std::slice::from_raw_parts(self.start, self.length as usize) }.to_vec()
    }
}

impl Drop for Output {
    fn drop(&mut self) {
        // SAFETY: allocated by the library, or null, which it accepts.
        unsafe { ffi::tj3Free(self.start.cast()) }
    }
}
