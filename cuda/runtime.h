#pragma once

// CUDA as the sources of this folder see it: the toolkit's or the emulator's.

#ifdef MOEGRAD_CUDA_EMULATED
#include "cuda/emulator/emulator.h"
#include "cuda/emulator/launch.h"
#else
#include <cuda_runtime_api.h>
#endif
