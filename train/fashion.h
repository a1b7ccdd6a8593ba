#pragma once

#include <filesystem>

#include "train/dataset.h"

namespace moegrad {

// The folder of the task vision in a folder of data.
std::filesystem::path vision_folder(const std::filesystem::path& data);
// Fashion-MNIST (Xiao, Rasul, Vollgraf 2017) from folder/fashion-mnist/{train,t10k}-{images-idx3,
// labels-idx1}-ubyte.gz: images as rows, x = (pixel / 255 - 0.2860) / 0.3530, which has mean 0 and
// variance 1 over the training images; 10 classes.
Task load_vision(const TaskOptions& options);

// Multi-Fashion-MNIST, as multi-task mixtures are measured on (DSelect-k, Hazimeh et al. 2021): two
// images of 28 x 28 on 36 x 36, one at the upper left and one at the lower right, of each pixel the
// lighter; the targets "upper" and "lower" of 10 classes. Each image of a split is once above and
// once below, with another of the same split, as two permutations from the seed have it; so the
// sizes are those of the task vision. x is scaled likewise, by 0.3043 and 0.3640.
Task load_fashion_pairs(const TaskOptions& options);

}  // namespace moegrad
