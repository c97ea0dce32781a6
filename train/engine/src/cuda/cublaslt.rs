//! Products of linear layers by cuBLASLt, which adds the bias and a residual while it writes the
//! result: `D = A B + C` with C another matrix than D, as cuBLAS, and so candle, cannot.
//!
//! cuBLASLt's matrices lie column after column, so that of a row-major `n x out` matrix it sees the
//! transpose: `y^T = W x^T + bias + residual^T`, with W stored transposed. `unsafe` here is for its
//! calls.

use super::{LinearProduct, empty};
use crate::precision::Precision;
use candle_core::cuda_backend::WrapErr;
use candle_core::cuda_backend::cudarc::cublaslt::result::{self, CublasError};
use candle_core::cuda_backend::cudarc::cublaslt::sys;
use candle_core::cuda_backend::cudarc::driver::{CudaSlice, CudaStream, DevicePtr};
use candle_core::{DType, Error, Result, Tensor, TensorId, bail};
use std::collections::HashMap;
use std::ffi::c_void;
use std::sync::{Arc, Mutex};

/// The environment variable that chooses the library: `cublas`, the default, or `cublaslt`.
const CHOICE: &str = "U2A_PRODUCTS";
/// Bytes of the workspace: NVIDIA's recommendation for Hopper.
const WORKSPACE: usize = 32 << 20;
/// The alignment of all matrices that cuBLASLt assumes if it is not told another.
const ALIGNMENT: u64 = 256;

/// `CUBLAS_OP_T`, of which cudarc has no name beside cuBLASLt.
const TRANSPOSED: i32 = 1;

/// Returns whether [`CHOICE`] asks for cuBLASLt.
///
/// # Errors
/// It names another library.
pub(super) fn chosen() -> Result<bool> {
    match std::env::var(CHOICE) {
        Err(_) => Ok(false),
        Ok(choice) => match choice.as_str() {
            "cublas" => Ok(false),
            "cublaslt" => Ok(true),
            other => bail!("{CHOICE}={other}: is neither cublas nor cublaslt"),
        },
    }
}

/// cuBLASLt on one device.
pub(super) struct CublasLt {
    handle: sys::cublasLtHandle_t,
    stream: Arc<CudaStream>,
    workspace: CudaSlice<u8>,
    state: Mutex<State>,
}

// SAFETY: cuBLASLt's handle may be used from several threads at once.
unsafe impl Send for CublasLt {}
// SAFETY: as above.
unsafe impl Sync for CublasLt {}

#[derive(Default)]
struct State {
    /// The algorithm for each shape, which takes longer to find than to launch, or `None` if
    /// cuBLASLt has none for it.
    algorithms: HashMap<Shape, Option<sys::cublasLtMatmulAlgo_t>>,
    /// Biases, rounded to the number type of the products that read them. They belong to frozen
    /// weights, so that each is rounded once.
    biases: HashMap<TensorId, Tensor>,
}

#[derive(Clone, Copy, PartialEq, Eq, Hash)]
struct Shape {
    /// Rows of the result, and its width.
    n: usize,
    out: usize,
    /// The number of columns of the input.
    d: usize,
    bf16: bool,
    tf32: bool,
    residual: bool,
}

impl CublasLt {
    /// Opens the library on the device of a stream.
    pub(super) fn new(stream: &Arc<CudaStream>) -> Result<CublasLt> {
        stream.context().bind_to_thread().w()?;
        Ok(CublasLt {
            handle: result::create_handle().map_err(error)?,
            stream: stream.clone(),
            // SAFETY: nothing reads the workspace before cuBLASLt has written it.
            workspace: unsafe { stream.alloc::<u8>(WORKSPACE) }.w()?,
            state: Mutex::default(),
        })
    }

    /// Computes a product, or returns `None` if an address is not aligned or cuBLASLt has no
    /// algorithm for the shape. `address` returns the address of a tensor.
    pub(super) fn linear_product(
        &self,
        product: &LinearProduct,
        address: impl Fn(&Tensor) -> Result<u64>,
    ) -> Result<Option<Tensor>> {
        let LinearProduct {
            linear,
            x,
            residual,
        } = *product;
        let ((n, d), out) = (x.dims2()?, linear.weight.dim(0)?);
        let mut state = self
            .state
            .lock()
            .map_err(|_| Error::msg("a thread died while it multiplied matrices"))?;
        let rounded = state.biases.get(&linear.bias.id()).cloned();
        let bias = match rounded {
            Some(bias) => bias,
            None => {
                let bias = linear.bias.to_dtype(x.dtype())?;
                state.biases.insert(linear.bias.id(), bias.clone());
                bias
            }
        };
        let y = empty((n, out), x.dtype(), x)?;
        let c = residual.unwrap_or(&y);
        let addresses = [&linear.weight, x, c, &y, &bias].map(&address);
        let [w_at, x_at, c_at, y_at, bias_at] = addresses;
        let (w_at, x_at, c_at, y_at, bias_at) = (w_at?, x_at?, c_at?, y_at?, bias_at?);
        if [w_at, x_at, c_at, y_at]
            .iter()
            .any(|at| at % ALIGNMENT != 0)
        {
            return Ok(None);
        }
        let shape = Shape {
            n,
            out,
            d,
            bf16: x.dtype() == DType::BF16,
            tf32: linear.precision == Precision::Tf32,
            residual: residual.is_some(),
        };
        let call = Call::new(shape, bias_at).map_err(error)?;
        let algorithm = match state.algorithms.get(&shape) {
            Some(found) => *found,
            None => {
                let found = match call.algorithm(self.handle) {
                    Ok(found) => Some(found),
                    Err(CublasError(sys::cublasStatus_t::CUBLAS_STATUS_NOT_SUPPORTED)) => None,
                    Err(other) => return Err(error(other)),
                };
                state.algorithms.insert(shape, found);
                found
            }
        };
        let Some(algorithm) = algorithm else {
            return Ok(None);
        };
        let stream = &self.stream;
        stream.context().bind_to_thread().w()?;
        let (alpha, beta) = (1f32, if residual.is_some() { 1f32 } else { 0f32 });
        let pointer = |at: u64| at as *mut c_void;
        // SAFETY: the layouts are those of the tensors, which are freed on this same stream, so
        // after the product; the workspace is used on this stream alone.
        unsafe {
            result::matmul(
                self.handle,
                call.operation.0,
                (&raw const alpha).cast(),
                (&raw const beta).cast(),
                pointer(w_at),
                call.w.0,
                pointer(x_at),
                call.x.0,
                pointer(c_at),
                call.y.0,
                pointer(y_at),
                call.y.0,
                &raw const algorithm,
                pointer(self.workspace.device_ptr(stream).0),
                WORKSPACE,
                stream.cu_stream().cast(),
            )
        }
        .map_err(error)?;
        Ok(Some(y))
    }
}

/// The descriptions of a product that cuBLASLt reads.
struct Call {
    operation: Operation,
    w: Layout,
    x: Layout,
    y: Layout,
}

impl Call {
    fn new(shape: Shape, bias: u64) -> std::result::Result<Call, CublasError> {
        let (n, out, d) = (shape.n as u64, shape.out as u64, shape.d as u64);
        let number = match shape.bf16 {
            true => sys::cudaDataType_t::CUDA_R_16BF,
            false => sys::cudaDataType_t::CUDA_R_32F,
        };
        let compute = match shape.tf32 && !shape.bf16 {
            true => sys::cublasComputeType_t::CUBLAS_COMPUTE_32F_FAST_TF32,
            false => sys::cublasComputeType_t::CUBLAS_COMPUTE_32F,
        };
        let layout = |rows: u64, columns: u64| {
            result::create_matrix_layout(number, rows, columns, rows as i64).map(Layout)
        };
        let operation =
            result::create_matmul_desc(compute, sys::cudaDataType_t::CUDA_R_32F).map(Operation)?;
        operation.set(
            sys::cublasLtMatmulDescAttributes_t::CUBLASLT_MATMUL_DESC_TRANSA,
            &TRANSPOSED,
        )?;
        operation.set(
            sys::cublasLtMatmulDescAttributes_t::CUBLASLT_MATMUL_DESC_EPILOGUE,
            &sys::cublasLtEpilogue_t::CUBLASLT_EPILOGUE_BIAS,
        )?;
        operation.set(
            sys::cublasLtMatmulDescAttributes_t::CUBLASLT_MATMUL_DESC_BIAS_POINTER,
            &bias,
        )?;
        Ok(Call {
            operation,
            w: layout(d, out)?,
            x: layout(d, n)?,
            y: layout(out, n)?,
        })
    }

    /// Returns the algorithm that cuBLASLt expects to be the fastest.
    fn algorithm(
        &self,
        handle: sys::cublasLtHandle_t,
    ) -> std::result::Result<sys::cublasLtMatmulAlgo_t, CublasError> {
        let preference = Preference(result::create_matmul_pref()?);
        // SAFETY: the attribute is a number of this type, and all handles live until the end.
        unsafe {
            result::set_matmul_pref_attribute(
                preference.0,
                sys::cublasLtMatmulPreferenceAttributes_t::CUBLASLT_MATMUL_PREF_MAX_WORKSPACE_BYTES,
                (&raw const WORKSPACE_BYTES).cast(),
                size_of_val(&WORKSPACE_BYTES),
            )?;
            let found = result::get_matmul_algo_heuristic(
                handle,
                self.operation.0,
                self.w.0,
                self.x.0,
                self.y.0,
                self.y.0,
                preference.0,
            )?;
            Ok(found.algo)
        }
    }
}

/// [`WORKSPACE`] where cuBLASLt can read it.
static WORKSPACE_BYTES: usize = WORKSPACE;

struct Operation(sys::cublasLtMatmulDesc_t);

impl Operation {
    fn set<T>(
        &self,
        attribute: sys::cublasLtMatmulDescAttributes_t,
        value: &T,
    ) -> std::result::Result<(), CublasError> {
        // SAFETY: every caller passes a value of the attribute's type.
        unsafe {
            let value_at = std::ptr::from_ref(value).cast();
            result::set_matmul_desc_attribute(self.0, attribute, value_at, size_of::<T>())
        }
    }
}

struct Layout(sys::cublasLtMatrixLayout_t);
struct Preference(sys::cublasLtMatmulPreference_t);

// What cuBLASLt answers to the end of a description cannot be acted on.
impl Drop for Operation {
    fn drop(&mut self) {
        // SAFETY: it was made by `create_matmul_desc` and is freed once.
        unsafe { result::destroy_matmul_desc(self.0) }.ok();
    }
}

impl Drop for Layout {
    fn drop(&mut self) {
        // SAFETY: it was made by `create_matrix_layout` and is freed once.
        unsafe { result::destroy_matrix_layout(self.0) }.ok();
    }
}

impl Drop for Preference {
    fn drop(&mut self) {
        // SAFETY: it was made by `create_matmul_pref` and is freed once.
        unsafe { result::destroy_matmul_pref(self.0) }.ok();
    }
}

fn error(error: CublasError) -> Error {
    Error::msg(format!("cuBLASLt: {error}"))
}
