//! The mean of an encoder's outputs over the frames of a sample, and its gradient.

use crate::encoder::EncoderOutput;
use crate::token_selection::ModalityTokens;
use anyhow::Result;
use candle_core::Tensor;
use features::ModalityBatch;

/// Averages an encoder's outputs over the frames of each sample.
pub(super) fn mean_over_frames<'a>(
    input: &'a ModalityBatch,
    output: &EncoderOutput,
) -> Result<ModalityTokens<'a>> {
    let images = input.data.images_per_sample();
    let mean = |t: Tensor| -> Result<Tensor> {
        if images == 1 {
            return Ok(t);
        }
        let (n, d) = t.dims2()?;
        Ok(t.reshape((n / images, images, d))?.mean(1)?)
    };
    let [class, mask] = output.split()?;
    Ok(ModalityTokens {
        rows: &input.rows,
        class: mean(class)?,
        mask: mean(mask)?,
    })
}

/// The gradient of [`mean_over_frames`]: each frame of a sample gets an equal share.
pub(super) fn spread_over_frames(
    class: &Tensor,
    mask: &Tensor,
    images: usize,
) -> Result<EncoderOutput> {
    let spread = |gradient: &Tensor| -> Result<Tensor> {
        let (n, d) = gradient.dims2()?;
        let share = (gradient / images as f64)?
            .unsqueeze(1)?
            .broadcast_as((n, images, d))?;
        Ok(share.contiguous()?.reshape((n * images, d))?)
    };
    EncoderOutput::join(&spread(class)?, &spread(mask)?)
}
