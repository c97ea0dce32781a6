"""Builds the GPU's kernels, and calls them: on a GPU through its driver, on the host through the emulator of platform.h.

Both ways take the arguments of a kernel as an array of pointers to their values (`cuLaunchKernel`, `emulate`). So one packing
serves both, and a run on the host rehearses it. Names, types and structs are read from the preprocessed source: a case passes its
arguments by name, and a kernel whose arguments have changed says which one is missing instead of reading a wrong one.

The driver is called through ctypes in the context that PyTorch has made, as CuPy would do; CuPy need not be installed.
"""

import ctypes
import functools
import glob
import os
import re
import shutil
import subprocess
from pathlib import Path

SOURCE = Path(__file__).resolve().parents[2] / "train/engine/cuda/kernels.cu"
SCALARS = {
    "int": ctypes.c_int32,
    "unsigned": ctypes.c_uint32,
    "unsigned int": ctypes.c_uint32,
    "float": ctypes.c_float,
    "size_t": ctypes.c_uint64,
    "uint64_t": ctypes.c_uint64,
}
# PyTorch's names of the number types behind pointers; it has few operations on unsigned integers, so tables are int32.
POINTED = {"float": "float32", "bf16": "bfloat16", "unsigned": "int32", "unsigned int": "int32", "int": "int32"}
# Dynamic shared memory of a block beyond this size must be asked for.
DEFAULT_SHARED_BYTES = 48 * 1024


class Problem(Exception):
    """Something that is wrong with a kernel, its build or its arguments."""


def compiler():
    found = os.environ.get("CXX") or shutil.which("c++") or shutil.which("g++")
    if not found:
        raise Problem("no C++ compiler: set CXX")
    return found


def find_nvcc():
    """The CUDA compiler in PATH, CUDA_HOME or /usr/local, in this order."""
    folders = [os.environ[name] for name in ("CUDA_HOME", "CUDA_PATH") if os.environ.get(name)]
    folders += sorted(glob.glob("/usr/local/cuda*"), reverse=True)
    places = [shutil.which("nvcc"), *(os.path.join(folder, "bin/nvcc") for folder in folders)]
    for place in places:
        if place and os.access(place, os.X_OK):
            return place
    raise Problem("no nvcc in PATH, CUDA_HOME or /usr/local/cuda*; --cubin FILE takes kernels that --keep FILE has kept elsewhere")


def compute_capability():
    """That of the first GPU, such as 90, without a context."""
    driver = Driver()
    driver("cuInit", 0)
    device, major, minor = ctypes.c_int(), ctypes.c_int(), ctypes.c_int()
    driver("cuDeviceGet", ctypes.byref(device), 0)
    driver("cuDeviceGetAttribute", ctypes.byref(major), 75, device)
    driver("cuDeviceGetAttribute", ctypes.byref(minor), 76, device)
    return 10 * major.value + minor.value


def defined(defines):
    """Compiler flags for `A=1,B=2`."""
    return [f"-D{define}" for define in defines.split(",") if define]


def start_build(source, defines, out, arch):
    """Starts the compilation of the kernels into `out`: for the host if `arch` is None, else into a cubin."""
    if arch is None:
        # Two builds in one process keep their static variables apart.
        command = [compiler(), "-std=c++17", "-O2", "-shared", "-fPIC", "-fno-gnu-unique", *defined(defines), "-x", "c++"]
    else:
        command = [find_nvcc(), "-std=c++17", "-O3", f"-arch=sm_{arch}", "-Xptxas", "-v", "-cubin", *defined(defines)]
    command += [str(source), "-o", str(out)]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)


def resources(ptxas):
    """Registers and bytes of spills of each kernel, as `ptxas -v` prints them."""
    found = {}
    for block in ptxas.split("Compiling entry function '")[1:]:
        spills = [int(n) for n in re.findall(r"(\d+) bytes spill", block)]
        registers = re.search(r"Used (\d+) registers", block)
        found[block.split("'")[0]] = {"registers": int(registers[1]) if registers else None, "spill_bytes": sum(spills)}
    return found


class Source:
    """What the preprocessed source says: the arguments of each kernel, structs and integer constants."""

    def __init__(self, path, defines=""):
        command = [compiler(), "-E", "-P", "-x", "c++", "-std=c++17", *defined(defines), str(path)]
        done = subprocess.run(command, capture_output=True, text=True)
        if done.returncode:
            raise Problem(f"{path} does not preprocess: {done.stderr.strip()[-2000:]}")
        self.text = " ".join(done.stdout.split())
        self.constants = {}
        for declared in re.findall(r"constexpr int ([A-Z_0-9 =,+*/()-]+);", self.text):
            for name, value in re.findall(r"(\w+) = ([^,]+)", declared):
                try:
                    self.constants.setdefault(name, eval(value.replace("/", "//"), {}, self.constants))
                except NameError:
                    continue  # It depends on the parameters of a template.
        signatures = dict(re.findall(r"static void (\w+)\(([^()]*)\)", self.text))
        exported = re.findall(r'emulated::add\("(\w+)"', self.text)
        self.kernels = {name: [self.parameter(p) for p in signatures[name].split(",")] for name in exported if name in signatures}

    def parameter(self, text):
        """(name, type) of a parameter; the type of a pointer ends with *."""
        text = re.sub(r"__restrict__|const |<\w+>", "", text).strip()
        found = re.fullmatch(r"([\w ]+?) ?(\*?) ?(\w+)", text)
        if not found:
            raise Problem(f"{text}: a parameter that this script cannot read")
        return found[3], found[1] + found[2]

    @functools.cache
    def struct(self, name):
        """A struct of the source as ctypes lays it out, by the rules of C."""
        head = f"struct {name} {{"
        if head not in self.text:
            raise Problem(f"{name}: no such struct in the source")
        rest = self.text.split(head, 1)[1][:4000]
        member_function = r"[^;{}]*\([^;{}]*\)[^;{}]*\{[^{}]*\}"
        body = re.sub(member_function, "", rest).split("}")[0].replace("const ", "")
        fields = []
        for line in filter(None, map(str.strip, body.split(";"))):
            declarator = r"\*? ?\w+(?:\[\d+\])?"
            kind, names = re.fullmatch(rf"([\w ]+?) ?({declarator}(?:, {declarator})*)", line).groups()
            for field in names.split(","):
                declared = ctypes.c_uint64 if "*" in field else self.type(kind)
                count = re.search(r"\[(\d+)\]", field)
                fields.append((re.search(r"\w+", field)[0], declared * int(count[1]) if count else declared))
        return type(name, (ctypes.Structure,), {"_fields_": fields})

    def type(self, name):
        if name.endswith("*"):
            return ctypes.c_uint64
        return SCALARS.get(name) or self.struct(name)

    def pack(self, kernel, values):
        """The arguments of a kernel, given by name, as ctypes values in their order."""
        parameters = self.kernels[kernel]
        names = [name for name, _ in parameters]
        missing, unknown = [n for n in names if n not in values], [n for n in values if n not in names]
        if missing or unknown:
            raise Problem(f"its case lacks the arguments {missing} and has unknown ones {unknown}: the kernel has changed")
        return [self.value(f"argument {name}", kind, values[name]) for name, kind in parameters]

    def value(self, what, kind, value):
        declared = self.type(kind) if isinstance(kind, str) else kind
        if issubclass(declared, ctypes.Structure):
            if sorted(value) != sorted(name for name, _ in declared._fields_):
                raise Problem(f"{what}: fields {sorted(value)} for {declared._fields_}: the struct has changed")
            return declared(**{name: self.value(f"{what}.{name}", of, value[name]) for name, of in declared._fields_})
        if issubclass(declared, ctypes.Array):
            return declared(*value)
        if value is None:
            return declared(0)
        if hasattr(value, "data_ptr"):
            pointed = POINTED.get(kind.rstrip("*")) if isinstance(kind, str) else None
            if pointed and str(value.dtype) != f"torch.{pointed}" or not value.is_contiguous():
                raise Problem(f"{what}: {value.dtype} of strides {value.stride()} for {kind}")
            value = value.data_ptr()
        return declared(value)


def arguments(packed):
    """An array of pointers to packed arguments, which must outlive it."""
    return (ctypes.c_void_p * len(packed))(*(ctypes.addressof(value) for value in packed))


class Emulator:
    """The kernels compiled for the host."""

    def __init__(self, path):
        self.library = ctypes.CDLL(str(path))
        self.library.emulate.restype = ctypes.c_char_p

    def launcher(self, name, grid, threads, shared, packed):
        pointers, size = arguments(packed), (ctypes.c_uint32 * 3)(*grid)

        def launch():
            error = self.library.emulate(name.encode(), size, ctypes.c_uint32(threads), ctypes.c_uint32(shared), pointers)
            if error:
                raise Problem(error.decode())

        return launch

    def resources(self, name, threads, shared):
        return {}


class Driver:
    """NVIDIA's driver API; a failed call raises `Problem`."""

    def __init__(self):
        try:
            self.library = ctypes.CDLL("libcuda.so.1")
        except OSError as problem:
            raise Problem(f"no NVIDIA driver: {problem}") from problem

    def __call__(self, function, *values):
        code = getattr(self.library, function)(*values)
        if code:
            text = ctypes.c_char_p()
            self.library.cuGetErrorString(code, ctypes.byref(text))
            raise Problem(f"{function}: error {code}, {(text.value or b'unknown').decode()}")


class Cubin:
    """The kernels compiled for a GPU, in the context that PyTorch has made current."""

    def __init__(self, path, stream):
        self.driver, self.stream = Driver(), ctypes.c_void_p(stream)
        self.image, self.module = Path(path).read_bytes(), ctypes.c_void_p()
        self.driver("cuModuleLoadData", ctypes.byref(self.module), self.image)

    @functools.cache
    def function(self, name):
        function = ctypes.c_void_p()
        self.driver("cuModuleGetFunction", ctypes.byref(function), self.module, name.encode())
        return function

    def check_parameters(self, name, packed):
        """Compares the sizes of packed arguments with those that the compiler has laid out."""
        if not hasattr(self.driver.library, "cuFuncGetParamInfo"):
            return  # A driver older than CUDA 12.4.
        offset, size, found = ctypes.c_size_t(), ctypes.c_size_t(), []
        while not self.driver.library.cuFuncGetParamInfo(
            self.function(name), ctypes.c_size_t(len(found)), ctypes.byref(offset), ctypes.byref(size)
        ):
            found.append(size.value)
        wanted = [ctypes.sizeof(value) for value in packed]
        if found and found != wanted:
            raise Problem(f"arguments of {wanted} bytes were packed, the compiled kernel takes {found}")

    def launcher(self, name, grid, threads, shared, packed):
        self.check_parameters(name, packed)
        function, pointers = self.function(name), arguments(packed)
        if shared > DEFAULT_SHARED_BYTES:
            self.driver("cuFuncSetAttribute", function, 8, ctypes.c_int(shared))
        launch_kernel = self.driver.library.cuLaunchKernel
        values = [*map(ctypes.c_uint, (*grid, threads, 1, 1, shared)), self.stream, pointers, None]

        def launch():
            # The packed values are named here because the pointers do not keep them alive.
            if packed is not None and launch_kernel(function, *values):
                self.driver("cuLaunchKernel", function, *values)

        return launch

    def resources(self, name, threads, shared):
        """Registers, local memory and how many blocks a multiprocessor runs at once."""
        found = ctypes.c_int()
        values = {}
        for key, attribute in {"registers": 4, "local_bytes": 3}.items():
            self.driver("cuFuncGetAttribute", ctypes.byref(found), attribute, self.function(name))
            values[key] = found.value
        occupancy = "cuOccupancyMaxActiveBlocksPerMultiprocessor"
        self.driver(occupancy, ctypes.byref(found), self.function(name), ctypes.c_int(threads), ctypes.c_size_t(shared))
        return {**values, "blocks_per_sm": found.value}


def names_in_cubin(path):
    """The kernels in a cubin, by the names of its sections."""
    return {name.decode() for name in re.findall(rb"\0\.text\.(\w+)(?=\0)", Path(path).read_bytes())}
