// What tests call of the kernels on the host beside the ops: the device's size, and device functions one by one.
#include <cuda_runtime.h>
#include <pybind11/numpy.h>
#include <pybind11/pybind11.h>

#include "cuda/draw.cuh"
#include "cuda/gumbel_weights.cuh"

namespace py = pybind11;
namespace cuda = reinmax_kernels::cuda;

template <class T>
float through(float x) {
  return cuda::computed(cuda::rounded<T>(x));
}

PYBIND11_MODULE(TORCH_EXTENSION_NAME, m) {
  m.def("set_processors", [](int number) { host_cuda::device = number; });
  m.def("integer_weight", py::vectorize([](float x, float largest) {
          return cuda::integer_weight(cuda::half_weight(x, cuda::reference_point(largest)));
        }));
  m.def("weight_sum", [](const py::array_t<float>& x, float largest) {
    cuda::WeightSum sum;
    for (py::ssize_t i = 0; i < x.size(); ++i) sum.add(cuda::half_weight(x.at(i), cuda::reference_point(largest)));
    return sum.total(int(x.size()));
  });
  m.def("uniforms", [](uint64_t seed, uint64_t row, uint64_t offset) {
    const cuda::Uniforms found = cuda::uniforms(seed, row, offset);
    return py::make_tuple(found.chunk, found.element);
  });
  m.def("noise_uniform", py::vectorize([](uint32_t word) { return cuda::noise_uniform(word); }));
  m.def("minus_log", py::vectorize([](float u) { return cuda::minus_log(u); }));
  m.def("log_of_one_and", py::vectorize([](float x) { return cuda::log_of_one_and(x); }));
  m.def("meet_without_the_last_warp", [] {
    host_cuda::run(dim3(), 64, 0, [] {
      if (threadIdx.x < 32) __syncthreads();
    });
  });
  m.def("through_float16", py::vectorize(&through<__half>));
  m.def("through_bfloat16", py::vectorize(&through<__nv_bfloat16>));
}
