#pragma once

// Every operation in one include.
#include "autograd/transfer.h"
#include "ops/attention.h"
#include "ops/elementwise.h"
#include "ops/image.h"
#include "ops/index.h"
#include "ops/loss.h"
#include "ops/matmul.h"
#include "ops/norm.h"
#include "ops/random.h"
#include "ops/reduce.h"
#include "ops/rotary.h"
#include "ops/select.h"
#include "ops/shape.h"
#include "ops/softmax.h"
