// The whole native side of the engine: one boxed call into libtorch's dispatcher, and the few things that are no operators
// (tensors over memory, autograd's entry points, generators, threads). No C++ exception leaves a function of this file.
//
// A tensor's handle is its TensorImpl, on which the managed object holds one reference.
#include <ATen/Context.h>
#include <ATen/Parallel.h>
#include <ATen/core/dispatch/Dispatcher.h>
#include <ATen/ops/from_blob.h>
#include <c10/core/GradMode.h>
#include <c10/core/InferenceMode.h>
#include <torch/csrc/api/include/torch/cuda.h>
#include <torch/csrc/api/include/torch/version.h>
#include <torch/csrc/autograd/autograd.h>
#include <torch/csrc/autograd/variable.h>

#include <cstdlib>
#include <cstring>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#define SHIM extern "C" __attribute__((visibility("default")))

namespace {

enum Kind : int32_t {
  kNone, kTensor, kInt, kDouble, kBool, kIntList, kDoubleList, kBoolList, kTensorList, kOptionalTensorList, kString, kDevice, kGenerator
};

// Mirrors NativeValue in Operator.cs. Lists point at `length` elements; a device packs its type into the high and its index into the low half.
struct Value {
  int32_t kind;
  int32_t length;
  union {
    int64_t integer;
    double real;
    void* pointer;
  };
};

struct Operator {
  c10::OperatorHandle handle;
  std::vector<c10::IValue> defaults;
  std::vector<bool> isFloat;
};

thread_local std::string lastError;

template <typename T, typename F>
T guarded(T failure, F body) noexcept {
  try {
    return body();
  } catch (const c10::Error& e) {
    lastError = e.what_without_backtrace();
  } catch (const std::exception& e) {
    lastError = e.what();
  } catch (...) {
    lastError = "libtorch threw something that is no exception.";
  }
  return failure;
}

at::Tensor borrow(void* handle) {
  if (handle == nullptr) return at::Tensor();
  auto* impl = static_cast<c10::TensorImpl*>(handle);
  c10::raw::intrusive_ptr::incref(impl);
  return at::Tensor(c10::intrusive_ptr<c10::TensorImpl>::reclaim(impl));
}

c10::Device device(int32_t type, int32_t index) { return c10::Device(static_cast<c10::DeviceType>(type), static_cast<c10::DeviceIndex>(index)); }

void* give(at::Tensor tensor) { return tensor.defined() ? tensor.unsafeReleaseTensorImpl() : nullptr; }

c10::TensorImpl* impl(void* handle) { return static_cast<c10::TensorImpl*>(handle); }

std::vector<at::Tensor> borrowList(void* const* handles, int32_t count) {
  std::vector<at::Tensor> tensors;
  tensors.reserve(count);
  for (int32_t i = 0; i < count; i++) tensors.push_back(borrow(handles[i]));
  return tensors;
}

template <typename T>
c10::List<T> list(const Value& value) {
  auto* elements = static_cast<const T*>(value.pointer);
  c10::List<T> result;
  result.reserve(value.length);
  for (int32_t i = 0; i < value.length; i++) result.push_back(elements[i]);
  return result;
}

c10::IValue toIValue(const Value& value, bool isFloat) {
  auto* handles = static_cast<void* const*>(value.pointer);
  switch (value.kind) {
    case kNone: return c10::IValue();
    case kTensor: return borrow(value.pointer);
    case kInt: return isFloat ? c10::IValue(static_cast<double>(value.integer)) : c10::IValue(value.integer);
    case kDouble: return value.real;
    case kBool: return value.integer != 0;
    case kIntList: return list<int64_t>(value);
    case kDoubleList: return list<double>(value);
    case kBoolList: return list<bool>(value);
    case kTensorList: return borrowList(handles, value.length);
    case kOptionalTensorList: {
      // Of c10's own optional before libtorch 2, of std's since.
      using List = decltype(std::declval<c10::IValue>().toOptionalTensorList());
      List result;
      for (int32_t i = 0; i < value.length; i++) {
        result.push_back(handles[i] ? List::value_type(borrow(handles[i])) : List::value_type());
      }
      return result;
    }
    case kString: return std::string(static_cast<const char*>(value.pointer), value.length);
    case kDevice: return device(static_cast<int32_t>(value.integer >> 32), static_cast<int32_t>(value.integer));
    case kGenerator: return *static_cast<at::Generator*>(value.pointer);
    default: TORCH_CHECK(false, "unknown kind of argument ", value.kind);
  }
}

Value toValue(c10::IValue&& result) {
  Value value{};
  if (result.isTensor()) {
    value.kind = kTensor;
    value.pointer = give(std::move(result).toTensor());
  } else if (result.isTensorList()) {
    auto tensors = std::move(result).toTensorVector();
    auto** handles = static_cast<void**>(std::malloc(sizeof(void*) * (tensors.size() + 1)));
    for (size_t i = 0; i < tensors.size(); i++) handles[i] = give(std::move(tensors[i]));
    value.kind = kTensorList;
    value.length = static_cast<int32_t>(tensors.size());
    value.pointer = handles;
  } else if (result.isInt()) {
    value.kind = kInt;
    value.integer = result.toInt();
  } else if (result.isDouble()) {
    value.kind = kDouble;
    value.real = result.toDouble();
  } else if (result.isBool()) {
    value.kind = kBool;
    value.integer = result.toBool();
  } else if (!result.isNone()) {
    TORCH_CHECK(false, "a result of the kind ", result.tagKind(), " has no counterpart here");
  }
  return value;
}

void readyThread() {
  // OpenMP's thread count belongs to the thread that asks, and a matrix product asks before ATen's own loops have set it.
  static thread_local bool ready = (at::init_num_threads(), true);
  (void)ready;
}

}  // namespace

SHIM const char* peft_last_error() { return lastError.c_str(); }

// Before anything else: ATen reads its capability once, and its default is AVX2 even where the processor has more.
SHIM int32_t peft_initialize(int32_t threads) {
  return guarded(-1, [&] {
    if (__builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") && __builtin_cpu_supports("avx512dq") &&
        __builtin_cpu_supports("avx512vl")) {
      setenv("ATEN_CPU_CAPABILITY", "avx512", 0);
    }
    if (std::getenv("OMP_NUM_THREADS") == nullptr) at::set_num_threads(threads);
    return 0;
  });
}

SHIM void* peft_operator(const char* name, const char* overload) {
  return guarded<void*>(nullptr, [&]() -> void* {
    auto handle = c10::Dispatcher::singleton().findSchema({name, overload});
    TORCH_CHECK(handle.has_value(), "this libtorch has no operator ", name, ".", overload);
    auto result = std::make_unique<Operator>(Operator{*handle, {}, {}});
    for (const auto& argument : handle->schema().arguments()) {
      result->defaults.push_back(argument.default_value().value_or(c10::IValue()));
      auto type = argument.type();
      if (auto optional = type->cast<c10::OptionalType>()) type = optional->getElementType();
      result->isFloat.push_back(type->kind() == c10::TypeKind::FloatType);
    }
    return result.release();
  });
}

// Calls an operator with the given leading arguments and the schema's defaults for the rest. Returns the number of results.
SHIM int32_t peft_call(void* op, const Value* arguments, int32_t count, Value* results, int32_t capacity) {
  return guarded(-1, [&] {
    readyThread();
    const auto& callee = *static_cast<Operator*>(op);
    thread_local torch::jit::Stack stack;
    // Whatever is thrown, nothing holds the arguments longer than the call.
    struct Emptied {
      torch::jit::Stack& stack;
      ~Emptied() { stack.clear(); }
    } emptied{stack};
    const auto total = static_cast<int32_t>(callee.defaults.size());
    TORCH_CHECK(count <= total, "too many arguments for ", callee.handle.schema().name());
    for (int32_t i = 0; i < count; i++) stack.push_back(toIValue(arguments[i], callee.isFloat[i]));
    for (int32_t i = count; i < total; i++) stack.push_back(callee.defaults[i]);
    callee.handle.callBoxed(&stack);
    const auto returned = static_cast<int32_t>(stack.size());
    for (int32_t i = 0; i < returned && i < capacity; i++) results[i] = toValue(std::move(stack[i]));
    return returned;
  });
}

SHIM void peft_free(void* memory) { std::free(memory); }

SHIM void peft_release(void* tensor) {
  guarded(0, [&] {
    c10::intrusive_ptr<c10::TensorImpl>::reclaim(impl(tensor)).reset();
    return 0;
  });
}

SHIM int64_t peft_dim(void* tensor) { return guarded<int64_t>(-1, [&] { return impl(tensor)->dim(); }); }
SHIM int64_t peft_numel(void* tensor) { return guarded<int64_t>(-1, [&] { return impl(tensor)->numel(); }); }
SHIM int32_t peft_dtype(void* tensor) { return guarded(-1, [&] { return static_cast<int32_t>(c10::typeMetaToScalarType(impl(tensor)->dtype())); }); }
SHIM int32_t peft_device_type(void* tensor) { return guarded(-1, [&] { return static_cast<int32_t>(impl(tensor)->device().type()); }); }
SHIM int32_t peft_device_index(void* tensor) { return guarded(-1, [&] { return static_cast<int32_t>(impl(tensor)->device().index()); }); }
SHIM int32_t peft_is_contiguous(void* tensor) { return guarded(-1, [&] { return impl(tensor)->is_contiguous() ? 1 : 0; }); }
SHIM int64_t peft_storage_offset(void* tensor) { return guarded<int64_t>(-1, [&] { return impl(tensor)->storage_offset(); }); }

SHIM int32_t peft_sizes(void* tensor, int64_t* sizes) {
  return guarded(-1, [&] {
    auto from = impl(tensor)->sizes();
    std::memcpy(sizes, from.data(), from.size() * sizeof(int64_t));
    return 0;
  });
}

SHIM int32_t peft_strides(void* tensor, int64_t* strides) {
  return guarded(-1, [&] {
    auto from = impl(tensor)->strides();
    std::memcpy(strides, from.data(), from.size() * sizeof(int64_t));
    return 0;
  });
}

SHIM void* peft_data(void* tensor) { return guarded<void*>(nullptr, [&] { return borrow(tensor).data_ptr(); }); }

// A tensor over memory that somebody else owns; `release(context)` is called when the last tensor over it is gone.
SHIM void* peft_from_memory(void* memory, const int64_t* sizes, int32_t dim, int32_t dtype, void (*release)(void*), void* context) {
  return guarded<void*>(nullptr, [&] {
    return give(at::from_blob(memory, at::IntArrayRef(sizes, dim), [=](void*) { release(context); },
                              at::TensorOptions().dtype(static_cast<at::ScalarType>(dtype))));
  });
}

SHIM int32_t peft_requires_grad(void* tensor) { return guarded(-1, [&] { return impl(tensor)->requires_grad() ? 1 : 0; }); }
SHIM int32_t peft_is_leaf(void* tensor) { return guarded(-1, [&] { return borrow(tensor).is_leaf() ? 1 : 0; }); }

SHIM int32_t peft_set_requires_grad(void* tensor, int32_t value) {
  return guarded(-1, [&] {
    borrow(tensor).set_requires_grad(value != 0);
    return 0;
  });
}

SHIM void* peft_grad(void* tensor) { return guarded<void*>(nullptr, [&] { return give(borrow(tensor).grad()); }); }

SHIM int32_t peft_set_grad(void* tensor, void* grad) {
  return guarded(-1, [&] {
    borrow(tensor).mutable_grad() = borrow(grad);
    return 0;
  });
}

SHIM int32_t peft_retain_grad(void* tensor) {
  return guarded(-1, [&] {
    borrow(tensor).retain_grad();
    return 0;
  });
}

SHIM int32_t peft_backward(void* const* tensors, int32_t count, void* const* grads, int32_t gradCount, int32_t retainGraph,
                           int32_t createGraph, void* const* inputs, int32_t inputCount) {
  return guarded(-1, [&] {
    readyThread();
    torch::autograd::backward(borrowList(tensors, count), borrowList(grads, gradCount), retainGraph != 0, createGraph != 0,
                              borrowList(inputs, inputCount));
    return 0;
  });
}

SHIM int32_t peft_gradients(void* const* outputs, int32_t outputCount, void* const* inputs, int32_t inputCount, void* const* grads,
                            int32_t gradCount, int32_t retainGraph, int32_t createGraph, int32_t allowUnused, void** results) {
  return guarded(-1, [&] {
    readyThread();
    auto gradients = torch::autograd::grad(borrowList(outputs, outputCount), borrowList(inputs, inputCount), borrowList(grads, gradCount),
                                           retainGraph != 0, createGraph != 0, allowUnused != 0);
    for (size_t i = 0; i < gradients.size(); i++) results[i] = give(std::move(gradients[i]));
    return 0;
  });
}

SHIM int32_t peft_grad_enabled() { return c10::GradMode::is_enabled() ? 1 : 0; }
SHIM void peft_set_grad_enabled(int32_t enabled) { c10::GradMode::set_enabled(enabled != 0); }
SHIM int32_t peft_inference_mode_enabled() { return c10::InferenceMode::is_enabled() ? 1 : 0; }
SHIM void* peft_enter_inference_mode(int32_t enabled) { return guarded<void*>(nullptr, [&] { return new c10::InferenceMode(enabled != 0); }); }
SHIM void peft_leave_inference_mode(void* guard) { delete static_cast<c10::InferenceMode*>(guard); }

SHIM void* peft_default_generator(int32_t type, int32_t index) {
  return guarded<void*>(nullptr, [&] { return new at::Generator(at::globalContext().defaultGenerator(device(type, index))); });
}

// A new one of the device's own kind.
SHIM void* peft_generator(uint64_t seed, int32_t type, int32_t index) {
  return guarded<void*>(nullptr, [&] {
    auto result = std::make_unique<at::Generator>(at::globalContext().defaultGenerator(device(type, index)).clone());
    result->set_current_seed(seed);
    return result.release();
  });
}

SHIM void peft_release_generator(void* generator) { delete static_cast<at::Generator*>(generator); }

SHIM int32_t peft_generator_set_seed(void* generator, uint64_t seed) {
  return guarded(-1, [&] {
    auto& g = *static_cast<at::Generator*>(generator);
    std::lock_guard<std::mutex> lock(g.mutex());
    g.set_current_seed(seed);
    return 0;
  });
}

SHIM uint64_t peft_generator_seed(void* generator) {
  return guarded<uint64_t>(0, [&] {
    auto& g = *static_cast<at::Generator*>(generator);
    std::lock_guard<std::mutex> lock(g.mutex());
    return g.seed();
  });
}

SHIM uint64_t peft_generator_initial_seed(void* generator) {
  return guarded<uint64_t>(0, [&] { return static_cast<at::Generator*>(generator)->current_seed(); });
}

SHIM void* peft_generator_state(void* generator) {
  return guarded<void*>(nullptr, [&] {
    auto& g = *static_cast<at::Generator*>(generator);
    std::lock_guard<std::mutex> lock(g.mutex());
    return give(g.get_state());
  });
}

SHIM int32_t peft_generator_set_state(void* generator, void* state) {
  return guarded(-1, [&] {
    auto& g = *static_cast<at::Generator*>(generator);
    std::lock_guard<std::mutex> lock(g.mutex());
    g.set_state(borrow(state));
    return 0;
  });
}

SHIM int32_t peft_num_threads() { return guarded(-1, [&] { return at::get_num_threads(); }); }
SHIM int32_t peft_num_interop_threads() { return guarded(-1, [&] { return at::get_num_interop_threads(); }); }

SHIM int32_t peft_set_num_threads(int32_t threads) {
  return guarded(-1, [&] {
    at::set_num_threads(threads);
    return 0;
  });
}

SHIM int32_t peft_set_num_interop_threads(int32_t threads) {
  return guarded(-1, [&] {
    at::set_num_interop_threads(threads);
    return 0;
  });
}

SHIM const char* peft_version() { return TORCH_VERSION; }

SHIM int32_t peft_cuda_device_count() {
  return guarded(0, [] { return torch::cuda::is_available() ? static_cast<int32_t>(torch::cuda::device_count()) : 0; });
}

SHIM int32_t peft_cudnn_is_available() { return guarded(0, [] { return torch::cuda::cudnn_is_available() ? 1 : 0; }); }

SHIM int32_t peft_cuda_synchronize(int32_t index) {
  return guarded(-1, [&] {
    torch::cuda::synchronize(index);
    return 0;
  });
}
