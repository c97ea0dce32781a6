//! Everything behind two encoders in two kernels: token selection, fusion, the linear head, the
//! losses and the gradients of all of it.

use super::launch::Argument;
use super::{Gpu, THREADS, dims, empty_f32, empty_like, kernel_name};
use candle_core::{Result, Tensor, bail};

/// The number that stands for no token and for no row.
const NONE: u32 = u32::MAX;
/// The shared memory that every GPU has for a block, in bytes.
const SHARED_BYTES: usize = 48 * 1024;

/// One of the four tokens of a sample; the number is that of the modality, 0 or 1.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum HeadToken {
    /// The class token of a modality.
    Class(usize),
    /// The mask token of a modality's encoder.
    Mask(usize),
}

/// One sample.
#[derive(Clone, Copy, Debug)]
pub struct HeadSample<'a> {
    /// Whether each encoder ran on the sample; it computed its tokens in the order of the samples.
    pub inputs: [bool; 2],
    /// The two tokens that are fused; `None` is a token of zeros.
    pub tokens: [Option<HeadToken>; 2],
    /// Whether the sample counts in the alignment loss, which needs both modalities.
    pub aligned: bool,
    /// The classes: one, or any number where each has a loss of its own.
    pub labels: &'a [u32],
}

/// What one encoder has computed.
#[derive(Clone, Copy)]
pub struct HeadInput<'a> {
    /// Class and mask token of each sequence in turn, `2 sequences x d`.
    pub tokens: &'a Tensor,
    /// The number of sequences of each sample, over which its tokens are means.
    pub images: usize,
    /// Whether the gradient of the tokens is wanted.
    pub learns: bool,
}

/// The loss behind two encoders.
pub struct Head<'a> {
    /// What the encoders have computed; `None` for one that did not run.
    pub inputs: [Option<HeadInput<'a>>; 2],
    /// The samples.
    pub samples: &'a [HeadSample<'a>],
    /// The head's weight, `classes x d`, or `classes x 2d` for concatenated tokens; f32.
    pub weight: &'a Tensor,
    /// The head's bias, `classes`, f32.
    pub bias: &'a Tensor,
    /// Whether each class has a binary cross-entropy of its own.
    pub multi_label: bool,
    /// Whether the alignment loss sends no gradient to the class tokens.
    pub stop_gradient: bool,
    /// The factors of the task loss and of the alignment loss, both of which are means over these
    /// samples: their share of a batch.
    pub shares: [f64; 2],
    /// The factor of the alignment loss in the training loss.
    pub align_weight: f64,
}

/// The results of [`Gpu::head`].
pub struct HeadResult {
    /// The training loss, the task loss and the alignment loss: 3 numbers.
    pub losses: Tensor,
    /// The logits, `samples x classes`.
    pub logits: Tensor,
    /// The gradients of the encoders' tokens, of their shape and number type, where they are wanted.
    pub d_tokens: [Option<Tensor>; 2],
    /// The gradient of the head's weight.
    pub d_weight: Tensor,
    /// The gradient of the head's bias.
    pub d_bias: Tensor,
}

/// The struct `EncoderTokens` of the kernels.
#[derive(Clone, Copy)]
#[repr(C)]
struct TokensArgument {
    tokens: u64,
    gradient: u64,
    images: i32,
}

impl TokensArgument {
    /// Stands for an encoder that did not run.
    const NONE: TokensArgument = TokensArgument {
        tokens: 0,
        gradient: 0,
        images: 1,
    };
}

/// The struct `HeadSizes` of the kernels.
#[derive(Clone, Copy)]
#[repr(C)]
struct SizesArgument {
    d: i32,
    classes: i32,
    concat: i32,
    multi_label: i32,
}

/// The struct `HeadFactors` of the kernels.
#[derive(Clone, Copy)]
#[repr(C)]
struct FactorsArgument {
    task: f32,
    align: f32,
    align_weight: f32,
    stop_gradient: i32,
}

impl Gpu {
    /// Computes the losses of a batch and the gradients of everything behind the encoders.
    ///
    /// # Errors
    /// A sample has no valid label or refers to a token that no encoder has computed, or shapes do
    /// not fit.
    pub fn head(&self, head: &Head) -> Result<HeadResult> {
        let (classes, width) = dims(head.weight)?;
        let n = head.samples.len();
        let (any, d) = head.any_tokens()?;
        let concat = width == 2 * d;
        if !concat && width != d {
            bail!("a head that reads {width} numbers behind encoders of width {d}");
        }
        let shared = (width + 2 * classes + THREADS as usize / 32) * size_of::<f32>();
        if shared > SHARED_BYTES {
            bail!("{classes} classes are more than the head's kernel takes on a GPU");
        }
        let table = Tensor::from_vec(head.table(classes)?, (n, ()), head.weight.device())?;
        let mut d_tokens = [None, None];
        let mut encoders = [TokensArgument::NONE; 2];
        for (m, input) in head.inputs.iter().enumerate() {
            let Some(input) = input else { continue };
            encoders[m].tokens = self.0.address(input.tokens)?;
            encoders[m].images = input.images as i32;
            if input.learns {
                let gradient = empty_like(input.tokens)?;
                encoders[m].gradient = self.0.address(&gradient)?;
                d_tokens[m] = Some(gradient);
            }
        }
        let features = empty_f32((n, width), any)?;
        let logits = empty_f32((n, classes), any)?;
        let d_logits = empty_f32((n, classes), any)?;
        let sample_losses = empty_f32((n, 2), any)?;
        let factors = head.factors(classes, d);
        let arguments = [
            self.address(&table)?,
            Argument::new(encoders[0]),
            Argument::new(encoders[1]),
            self.address(head.weight)?,
            self.address(head.bias)?,
            self.address(&features)?,
            self.address(&logits)?,
            self.address(&d_logits)?,
            self.address(&sample_losses)?,
            Argument::new(SizesArgument {
                d: d as i32,
                classes: classes as i32,
                concat: i32::from(concat),
                multi_label: i32::from(head.multi_label),
            }),
            factors,
        ];
        let kernel = kernel_name("head_sample", any)?;
        self.launch(kernel, [n, 1, 1], THREADS, shared, &arguments)?;

        let d_weight = empty_f32((classes, width), any)?;
        let d_bias = empty_f32((1, classes), any)?;
        let losses = empty_f32((1, 3), any)?;
        let arguments = [
            self.address(&features)?,
            self.address(&d_logits)?,
            self.address(&sample_losses)?,
            self.address(&d_weight)?,
            self.address(&d_bias)?,
            self.address(&losses)?,
            Argument::new(n as i32),
            Argument::new(width as i32),
            Argument::new(classes as i32),
            factors,
        ];
        let grid = [width.div_ceil(THREADS as usize), classes, 1];
        self.launch("head_sums_f32", grid, THREADS, 0, &arguments)?;
        Ok(HeadResult {
            losses: losses.flatten_all()?,
            logits,
            d_tokens,
            d_weight,
            d_bias: d_bias.flatten_all()?,
        })
    }
}

impl Head<'_> {
    /// Returns the tokens of one encoder, and the width that they share with those of the other.
    fn any_tokens(&self) -> Result<(&Tensor, usize)> {
        let mut tokens = self.inputs.iter().flatten().map(|input| input.tokens);
        let Some(any) = tokens.next() else {
            bail!("a head behind no encoder")
        };
        let (_, d) = dims(any)?;
        for other in tokens {
            if other.dim(1)? != d || other.dtype() != any.dtype() {
                bail!("tokens {any:?} and {other:?} cannot be fused");
            }
        }
        Ok((any, d))
    }

    /// Returns the kernels' table of samples, in which every token and every label exists.
    fn table(&self, classes: usize) -> Result<Vec<u32>> {
        let mut table = Vec::new();
        let mut counts = [0, 0];
        for (i, sample) in self.samples.iter().enumerate() {
            let needed = sample.tokens.iter().flatten().map(|token| match token {
                HeadToken::Class(m) | HeadToken::Mask(m) => sample.inputs[*m],
            });
            let aligned = sample.inputs.into_iter().filter(|_| sample.aligned);
            if needed.chain(aligned).any(|has| !has) {
                bail!("sample {i} of the batch needs a token of an encoder that did not run on it");
            }
            for m in [0, 1] {
                table.push(if sample.inputs[m] { counts[m] } else { NONE });
                counts[m] += u32::from(sample.inputs[m]);
            }
            table.extend(sample.tokens.map(|token| match token {
                None => NONE,
                Some(HeadToken::Class(m)) => 2 * m as u32,
                Some(HeadToken::Mask(m)) => 2 * m as u32 + 1,
            }));
            table.push(u32::from(sample.aligned));
            table.extend(self.label_words(sample.labels, classes)?);
        }
        for (input, count) in self.inputs.iter().zip(counts) {
            let rows = input.map_or(Ok(0), |input| input.tokens.dim(0))?;
            let images = input.map_or(1, |input| input.images);
            if rows != 2 * images * count as usize {
                bail!("an encoder with {rows} tokens for {count} samples of {images} sequences");
            }
        }
        Ok(table)
    }

    /// Returns a sample's class, or a bit for each class.
    fn label_words(&self, labels: &[u32], classes: usize) -> Result<Vec<u32>> {
        let expected = self.multi_label || labels.len() == 1;
        if !expected || labels.iter().any(|label| *label as usize >= classes) {
            let number = if self.multi_label {
                "classes"
            } else {
                "one class"
            };
            bail!("labels {labels:?} where {number} below {classes} are expected");
        }
        if !self.multi_label {
            return Ok(labels.to_vec());
        }
        let mut bits = vec![0; classes.div_ceil(32)];
        for label in labels {
            bits[*label as usize / 32] |= 1 << (label % 32);
        }
        Ok(bits)
    }

    fn factors(&self, classes: usize, d: usize) -> Argument {
        let samples = self.samples.len() as f64;
        let aligned = self.samples.iter().filter(|s| s.aligned).count().max(1) as f64;
        let classes = if self.multi_label {
            classes as f64
        } else {
            1.0
        };
        let [task, align] = self.shares;
        Argument::new(FactorsArgument {
            task: (task / (samples * classes)) as f32,
            align: (align / (aligned * d as f64)) as f32,
            align_weight: self.align_weight as f32,
            stop_gradient: i32::from(self.stop_gradient),
        })
    }
}
