// Everything of moegrad in one include.
#pragma once

#include "tensor/tensor.h"
