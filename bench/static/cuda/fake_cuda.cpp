// In place of a GPU, under the kernels' own host code: as much of the CUDA runtime as it calls, in which a launch is a
// call of Python; and of torch's functions those that concern a device. The linker sends calls of the latter here
// (--wrap), and lets go through what makes tensors, of which Python hears.
#include <cuda_runtime_api.h>
#include <torch/csrc/stable/accelerator.h>
#include <torch/csrc/stable/tensor.h>

#include <algorithm>
#include <cstdint>
#include <map>
#include <vector>

#define EXPORT extern "C" __attribute__((visibility("default")))

namespace {

struct Launch {
  const char* kernel;
  unsigned grid[3], block[3];
  uint64_t shared_bytes;
  const void* stream;
  void** arguments;
};

int (*on_launch)(const Launch*) = nullptr;  // returns whether the kernel ran
void (*on_tensor)(void* data, int64_t bytes, int is_written) = nullptr;
int device = 1;  // its number is that of its multiprocessors, which the kernels remember of the first 64
cudaError_t last_error = cudaSuccess;
std::map<const void*, size_t> allowed_bytes;  // of launches, by kernel
constexpr size_t kUnasked = 48 * 1024;        // what a launch may have of a kernel for which no more was asked

struct Configuration {
  dim3 grid, block;
  size_t shared_bytes;
  void* stream;
} configuration;

std::map<const void*, const char*>& kernels() {
  static std::map<const void*, const char*> known;
  return known;
}

void* const kStream = reinterpret_cast<void*>(0x57);  // what Python expects of every launch

// What an op has made is kept until the next one begins: Python writes to its memory after every launch.
std::vector<torch::stable::Tensor>& made() {
  static auto* tensors = new std::vector<torch::stable::Tensor>;
  return *tensors;
}

// From the first element to the last: a view has fewer of its own than it has elements, where it repeats them.
int64_t bytes_spanned(const torch::stable::Tensor& tensor) {
  if (tensor.numel() == 0) return 0;
  int64_t elements = 1;
  for (int64_t d = 0; d < tensor.dim(); ++d) elements += (tensor.size(d) - 1) * tensor.stride(d);
  return elements * int64_t(tensor.element_size());
}

void tell(AtenTensorHandle handle, bool is_written) {
  AtenTensorHandle owned = nullptr;
  TORCH_ERROR_CODE_CHECK(aoti_torch_new_tensor_handle(handle, &owned));
  const torch::stable::Tensor& tensor = made().emplace_back(owned);
  on_tensor(tensor.mutable_data_ptr(), bytes_spanned(tensor), is_written);
}

}  // namespace

// What Python sets.

EXPORT void set_callbacks(int (*launch)(const Launch*), void (*tensor)(void*, int64_t, int)) {
  on_launch = launch;
  on_tensor = tensor;
}
EXPORT void begin_op() { made().clear(); }
EXPORT void set_processors(int count) { device = count; }

// The CUDA runtime.

extern "C" {

void** __cudaRegisterFatBinary(void*) {
  static void* handle;
  return &handle;
}
void __cudaRegisterFatBinaryEnd(void**) {}
void __cudaUnregisterFatBinary(void**) {}
void __cudaRegisterFunction(void**, const char* function, char*, const char* name, int, uint3*, uint3*, dim3*, dim3*,
                            int*) {
  kernels()[function] = name;
}

unsigned __cudaPushCallConfiguration(dim3 grid, dim3 block, size_t shared_bytes, void* stream) {
  configuration = {grid, block, shared_bytes, stream};
  return 0;
}
cudaError_t __cudaPopCallConfiguration(dim3* grid, dim3* block, size_t* shared_bytes, void* stream) {
  *grid = configuration.grid;
  *block = configuration.block;
  *shared_bytes = configuration.shared_bytes;
  *static_cast<void**>(stream) = configuration.stream;
  return cudaSuccess;
}

cudaError_t cudaLaunchKernel(const void* function, dim3 grid, dim3 block, void** arguments, size_t shared_bytes,
                             cudaStream_t stream) {
  if (shared_bytes > std::max(kUnasked, allowed_bytes[function])) return last_error = cudaErrorInvalidValue;
  const Launch launch = {kernels().at(function),
                         {grid.x, grid.y, grid.z},
                         {block.x, block.y, block.z},
                         uint64_t(shared_bytes),
                         stream,
                         arguments};
  return last_error = on_launch(&launch) ? cudaSuccess : cudaErrorLaunchFailure;
}
cudaError_t __cudaGetKernel(cudaKernel_t* kernel, const void* function) {
  *kernel = reinterpret_cast<cudaKernel_t>(const_cast<void*>(function));
  return cudaSuccess;
}
cudaError_t __cudaLaunchKernel(cudaKernel_t kernel, dim3 grid, dim3 block, void** arguments, size_t shared_bytes,
                               cudaStream_t stream) {
  return cudaLaunchKernel(kernel, grid, block, arguments, shared_bytes, stream);
}

cudaError_t cudaGetDevice(int* number) {
  *number = device;
  return cudaSuccess;
}
cudaError_t cudaDeviceGetAttribute(int* value, cudaDeviceAttr attribute, int number) {
  if (attribute == cudaDevAttrMultiProcessorCount) {
    *value = number;
  } else if (attribute == cudaDevAttrMaxSharedMemoryPerBlockOptin) {
    *value = 99 * 1024;  // the least of all that the kernels are for
  } else {
    return cudaErrorInvalidValue;
  }
  return cudaSuccess;
}
cudaError_t cudaFuncSetAttribute(const void* function, cudaFuncAttribute attribute, int value) {
  if (attribute == cudaFuncAttributeMaxDynamicSharedMemorySize) allowed_bytes[function] = size_t(value);
  return cudaSuccess;
}
cudaError_t cudaGetLastError() {
  const cudaError_t error = last_error;
  last_error = cudaSuccess;
  return error;
}
const char* cudaGetErrorString(cudaError_t error) {
  return error == cudaErrorLaunchFailure ? "unspecified launch failure" : "another error";
}

// torch's functions.

AOTITorchError __real_aoti_torch_empty_strided(int64_t, const int64_t*, const int64_t*, int32_t, int32_t, int32_t,
                                               AtenTensorHandle*);
AOTITorchError __wrap_aoti_torch_empty_strided(int64_t dims, const int64_t* sizes, const int64_t* strides,
                                               int32_t dtype, int32_t device_type, int32_t device_index,
                                               AtenTensorHandle* tensor) {
  const auto error = __real_aoti_torch_empty_strided(dims, sizes, strides, dtype, device_type, device_index, tensor);
  if (error == 0) tell(*tensor, false);
  return error;
}

// Copies: `contiguous` and `copy_` return what they have written.
AOTITorchError __real_torch_call_dispatcher(const char*, const char*, StableIValue*, uint64_t);
AOTITorchError __wrap_torch_call_dispatcher(const char* op, const char* overload, StableIValue* stack,
                                            uint64_t version) {
  const auto error = __real_torch_call_dispatcher(op, overload, stack, version);
  if (error == 0) tell(reinterpret_cast<AtenTensorHandle>(stack[0]), true);
  return error;
}

AOTITorchError __wrap_aoti_torch_get_current_stream(int32_t, StreamHandle* stream) {
  *stream = static_cast<StreamHandle>(kStream);
  return 0;
}
AOTITorchError __wrap_aoti_torch_delete_stream(StreamHandle) { return 0; }
AOTITorchError __wrap_torch_stream_native_handle(StreamHandle stream, void** handle) {
  *handle = stream;
  return 0;
}
AOTITorchError __wrap_aoti_torch_create_device_guard(int32_t, DeviceGuardHandle* guard) {
  *guard = nullptr;
  return 0;
}
AOTITorchError __wrap_aoti_torch_delete_device_guard(DeviceGuardHandle) { return 0; }

}  // extern "C"
