//! The ends of an encoder: from inputs to packed tokens, and from the last block to class and mask
//! tokens.

use super::launch::Argument;
use super::{Gpu, THREADS, VECTOR_WIDTH, dims, empty, empty_f32, kernel_name};
use crate::rows::Rows;
use candle_core::{DType, Result, Tensor, bail};

/// Threads of a block of the kernel `sum_rows`.
const SUM_THREADS: usize = 128;
/// Columns that such a block sums.
const SUM_COLUMNS: usize = 32;

impl Gpu {
    /// Returns the patches of images as rows of the number type `dtype`; `input` is `inputs x
    /// (channels * rows * cols)`, f32. `sizes` are channels, rows, columns, patch size, row stride,
    /// column stride, patches down and patches across.
    pub fn cut_patches(
        &self,
        input: &Tensor,
        sizes: [usize; 8],
        transposed: bool,
        dtype: DType,
    ) -> Result<Tensor> {
        let [channels, _, _, patch, _, _, down, across] = sizes;
        let shape = (input.dim(0)? * down * across, channels * patch * patch);
        let out = empty(shape, dtype, input)?;
        let total = out.elem_count();
        if total > i32::MAX as usize {
            bail!("patches of {total} numbers are too many for one batch; use a smaller one");
        }
        let step = if patch % VECTOR_WIDTH == 0 {
            VECTOR_WIDTH
        } else {
            1
        };
        let mut arguments = vec![
            self.address(input)?,
            self.address(&out)?,
            Argument::new(total as u32),
            Argument::new(step as i32),
        ];
        arguments.extend(sizes.map(|n| Argument::new(n as i32)));
        arguments.push(Argument::new(i32::from(transposed)));
        let blocks = (total / step).div_ceil(THREADS as usize);
        let kernel = kernel_name("cut_patches", &out)?;
        self.launch(kernel, [blocks, 1, 1], THREADS, 0, &arguments)?;
        Ok(out)
    }

    /// Returns the sum of word and position embedding of every word piece, text after text. `rows`
    /// count a mask token behind each text, for which there is neither an id nor a result.
    pub fn embed_words(
        &self,
        words: &Tensor,
        positions: &Tensor,
        ids: &Tensor,
        rows: &Rows,
    ) -> Result<Tensor> {
        let d = dims(words)?.1;
        let out = empty((ids.elem_count(), d), words.dtype(), words)?;
        let arguments = [
            self.address(words)?,
            self.address(positions)?,
            self.address(ids)?,
            self.address(&rows.tables(words.device())?.offsets)?,
            self.address(&out)?,
            Argument::new(d as i32),
        ];
        self.launch_sequences("embed_words", &out, rows, &arguments)?;
        Ok(out)
    }

    /// Returns the token matrix of `rows` (equation 2): in each sequence the special tokens (`k x
    /// d`), its own tokens plus `positions`, and the mask token. `own` holds the own tokens of all
    /// sequences.
    pub fn pack_tokens(
        &self,
        own: &Tensor,
        positions: Option<&Tensor>,
        special: Option<&Tensor>,
        mask_token: &Tensor,
        rows: &Rows,
    ) -> Result<Tensor> {
        let d = dims(own)?.1;
        let out = empty((rows.len(), d), own.dtype(), own)?;
        let mask_token = mask_token.to_dtype(DType::F32)?;
        let specials = special.map_or(Ok(0), |special| special.dim(0))?;
        let arguments = [
            self.address(own)?,
            self.optional(positions)?,
            self.optional(special)?,
            self.address(&mask_token)?,
            self.address(&rows.tables(own.device())?.offsets)?,
            self.address(&out)?,
            Argument::new(d as i32),
            Argument::new(specials as i32),
        ];
        self.launch_sequences("pack_tokens", &out, rows, &arguments)?;
        Ok(out)
    }

    /// [`crate::layers::ends`], or with `each` = 1 [`crate::layers::last_rows`].
    pub(crate) fn pick_ends(&self, x: &Tensor, rows: &Rows, each: usize) -> Result<Tensor> {
        let d = dims(x)?.1;
        let out = empty((each * rows.sequences(), d), x.dtype(), x)?;
        let arguments = [
            self.address(x)?,
            self.address(&rows.tables(x.device())?.offsets)?,
            self.address(&out)?,
            Argument::new(rows.sequences() as i32),
            Argument::new(d as i32),
            Argument::new(each as i32),
        ];
        let kernel = kernel_name("pick_ends", x)?;
        self.launch_elements(kernel, out.elem_count(), &arguments)?;
        Ok(out)
    }

    /// [`crate::layers::ends_backward`].
    pub(crate) fn spread_ends(&self, ends: &Tensor, rows: &Rows) -> Result<Tensor> {
        let d = dims(ends)?.1;
        let out = empty((rows.len(), d), ends.dtype(), ends)?;
        let arguments = [
            self.address(ends)?,
            self.address(&rows.tables(ends.device())?.offsets)?,
            self.address(&out)?,
            Argument::new(d as i32),
        ];
        self.launch_sequences("spread_ends", &out, rows, &arguments)?;
        Ok(out)
    }

    /// [`crate::layers::sum_rows`].
    pub(crate) fn sum_rows(&self, x: &Tensor) -> Result<Tensor> {
        let (n, d) = dims(x)?;
        let sum = empty_f32((1, d), x)?;
        let arguments = [
            self.address(x)?,
            self.address(&sum)?,
            Argument::new(n as i32),
            Argument::new(d as i32),
        ];
        self.launch(
            kernel_name("sum_rows", x)?,
            [d.div_ceil(SUM_COLUMNS), 1, 1],
            SUM_THREADS as u32,
            SUM_THREADS * VECTOR_WIDTH * size_of::<f32>(),
            &arguments,
        )?;
        Ok(sum)
    }

    /// Launches one thread for every [`VECTOR_WIDTH`] numbers of a row like those of `out`, for as
    /// many rows as the longest sequence has, and that for each sequence.
    fn launch_sequences(
        &self,
        kernel: &'static str,
        out: &Tensor,
        rows: &Rows,
        arguments: &[Argument],
    ) -> Result<()> {
        let threads = rows.longest() * (out.dim(1)? / VECTOR_WIDTH);
        let blocks = threads.div_ceil(THREADS as usize);
        let grid = [blocks, rows.sequences(), 1];
        self.launch(kernel_name(kernel, out)?, grid, THREADS, 0, arguments)
    }
}
