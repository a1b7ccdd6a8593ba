#pragma once

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

// The record of faults, on the device; see fault.h.
Fault* fault_record();
// A number for the name of an operation, a literal.
int number_of(const char* operation);
// Waits for the stream, then an Error of what kernels have found, if anything.
void finish();

}  // namespace moegrad::cuda
