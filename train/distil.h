#pragma once

#include "train/dataset.h"

namespace moegrad {

// Sentences and their mood, with a teacher (train/teacher.h) for a student (train/student.h) to learn
// from: negative below a mean rating of -0.5, neutral, positive above 0.5. 9,000 of the 23,703 are the
// test, of any seed the same, and of fewer than 18,000 half: whole documents, and what is written there
// is not in the training set. x are the first `context` word pieces of each.
//
// The teacher's logits are those of a linear head on its embeddings, trained on the training set by
// 300 steps of AdamW over all of it. Logits and embeddings are worked out once, minutes, and kept in
// folder/distil/guide.safetensors, for as long as sentences, teacher and context are the same.
//
// A student of the teacher's width begins as its first layers and its head, and its mixtures as their
// networks: of the U hidden units of each, E parts of H, an expert each, w2 times U / H, so that what
// experts of equal weights that sum to 1 give is, in the mean, what the network gave. With E H < U the
// last units are left out.
Task load_distil(const TaskOptions& options);

}  // namespace moegrad
