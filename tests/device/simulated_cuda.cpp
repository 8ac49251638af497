// Lets autograd work on tensors that report cuda:0 on a machine without it.
//
//     g++ -std=c++20 -shared -fPIC -I torch/include simulated_cuda.cpp -L torch/lib -lc10 -ltorch_cpu
#include <ATen/detail/CUDAHooksInterface.h>
#include <c10/core/impl/DeviceGuardImplInterface.h>

#include <utility>

namespace {
using c10::Device, c10::DeviceType, c10::Stream;

const Device device(DeviceType::CUDA, 0);

// One device with one stream, neither of which does anything.
struct Guard final : c10::impl::NoOpDeviceGuardImpl<DeviceType::CUDA> {
  Device exchangeDevice(Device) const override { return device; }
  Device getDevice() const override { return device; }
  Stream getStream(Device) const noexcept override { return Stream(Stream::DEFAULT, device); }
  Stream getNewStream(Device, int) const override { return Stream(Stream::DEFAULT, device); }
  Stream exchangeStream(Stream) const noexcept override { return Stream(Stream::DEFAULT, device); }
} guard;

// What autograd asks of CUDA; all else is as where torch was built without it.
struct Hooks final : at::CUDAHooksInterface {
  bool isBuilt() const override { return true; }
  bool hasPrimaryContext(c10::DeviceIndex) const override { return true; }
} hooks;

const c10::impl::DeviceGuardImplInterface* other_guard = &guard;
} // namespace

// Takes the guard and the hooks above into use; called again, gives torch's own back.
extern "C" void exchange_cuda() {
  auto& registered = c10::impl::device_guard_impl_registry[static_cast<size_t>(DeviceType::CUDA)];
  other_guard = registered.exchange(other_guard);
  // torch holds its hooks for good, in an object without members: exchange the tables of their functions.
  auto& held = const_cast<at::CUDAHooksInterface&>(at::detail::getCUDAHooks());
  std::swap(reinterpret_cast<void*&>(held), reinterpret_cast<void*&>(hooks));
}
