#pragma once

#include <cstddef>
#include <string_view>

#include "cuda/runtime.h"
#include "tensor/tensor.h"

// The device's one stream, and what can go wrong on it.
namespace moegrad::cuda {

struct Fault;

// Begins the device on the first call. Errors: no driver, no device.
cudaStream_t stream();

// An Error of `operation` unless all is well.
void require(cudaError_t error, std::string_view operation);
// An Error unless the tensor is of this device and type.
void require_here(const Tensor& t, DType dtype);

// What has been launched last, for the message of an error that the device reports later.
void note_launch(const char* operation);

// Bytes of the host on their way to the device; those of `from` may change at once. An Error while
// a graph is recorded: its replays would bring them again.
void upload(const std::byte* from, std::size_t bytes, void* to);
// Bytes of the device for the host, by one wait; an Error of what kernels have found, as finish().
void download(const void* from, std::size_t bytes, std::byte* to);

// The record of faults, on the device; see fault.h.
Fault* fault_record();
// A number for the name of an operation, a literal.
int number_of(const char* operation);
// Waits for the stream (an Error while a graph is recorded), then an Error of what kernels have found, if anything.
void finish();

}  // namespace moegrad::cuda
