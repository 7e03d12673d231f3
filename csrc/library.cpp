// The Python module: importing it registers the ops, and it tells what this build contains.
#include <Python.h>

#include <exception>

#include "cpu/kernels.h"

namespace {

#if defined(__clang__)
constexpr const char* kCompiler = "Clang " __clang_version__;
#else
constexpr const char* kCompiler = "GCC " __VERSION__;
#endif

// What the CUDA kernels were compiled for, as setup.py gives it: 8.0,9.0+PTX and so on; nothing where there are none.
#define REINMAX_TEXT(...) REINMAX_AS_IT_IS(__VA_ARGS__)
#define REINMAX_AS_IT_IS(...) #__VA_ARGS__
#if !defined(REINMAX_KERNELS_CUDA)
#define REINMAX_KERNELS_CUDA
#endif

PyObject* cuda_architectures() {
  PyObject* text = PyUnicode_FromString(REINMAX_TEXT(REINMAX_KERNELS_CUDA));
  PyObject* comma = PyUnicode_FromString(",");
  PyObject* names = nullptr;
  if (text != nullptr && comma != nullptr) {
    names = PyUnicode_GetLength(text) == 0 ? PyList_New(0) : PyUnicode_Split(text, comma, -1);
  }
  Py_XDECREF(text);
  Py_XDECREF(comma);
  return names;
}

PyObject* build_info(PyObject*, PyObject*) {
  using namespace reinmax_kernels::cpu;
  const Levels levels = available_levels();
  PyObject* names = PyList_New(levels.count);
  if (names == nullptr) return nullptr;
  for (int i = 0; i < levels.count; ++i) PyList_SetItem(names, i, PyUnicode_FromString(levels.all[i]->level));
  return Py_BuildValue("{s:s, s:s, s:N, s:N}", "compiler", kCompiler, "simd", kernels().level, "simd_available", names,
                       "cuda_architectures", cuda_architectures());
}

PyMethodDef kMethods[] = {{"build_info", build_info, METH_NOARGS, nullptr}, {nullptr, nullptr, 0, nullptr}};

PyModuleDef kModule = {PyModuleDef_HEAD_INIT, "_C", nullptr, -1, kMethods, nullptr, nullptr, nullptr, nullptr};

}  // namespace

PyMODINIT_FUNC PyInit__C() {
  try {
    reinmax_kernels::cpu::kernels();
  } catch (const std::exception& error) {
    PyErr_SetString(PyExc_ValueError, error.what());
    return nullptr;
  }
  return PyModule_Create(&kModule);
}
