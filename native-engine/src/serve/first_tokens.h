// The first tokens of sequences whose prompt another engine has computed: what that one draws and this one goes on from. Owns what
// makes a draw the same draw, and the note in which it travels (kv/transfer_wire.h); drawing is row_sampler.h, what becomes of a
// token loop.h.
//
// A token alone is all that is handed over, for the state of a sampler is a function of what the other engine has anyway: the
// random number of a draw of the seed and of how many tokens were drawn before, penalties of prompt and output, the mask of the
// grammar and the output. The engine that gets the token moves all of these on by it, as by one of its own.
//
// Note: for each token, little endian: key u64, token u32, logprob f32, alternatives u32, and for each of them token u32,
// logprob f32.
#pragma once

#include <cstdint>
#include <optional>
#include <span>
#include <vector>

#include "kv/transfer_table.h"
#include "model/sampler.h"
#include "serve/frames.h"

namespace penstock {

struct FirstToken {
  uint64_t key = 0;
  Sampled sampled{};
};

// A checksum of everything that a draw depends on. A token is used only by a sequence with its key.
uint64_t draw_key(const SamplingParams& sampling, uint64_t seed, const std::optional<frame::Grammar>& grammar,
                  std::span<const int32_t> prompt, std::span<const int32_t> output);

// Leaves out those behind which the note would be too long.
TransferNote note_of(std::span<const FirstToken> tokens);
// None where the note is not one.
std::vector<FirstToken> first_tokens_in(const TransferNote& note);
// Whether it is what a draw gives: tokens of the vocabulary, no more of them than asked for, probabilities that the wire carries.
// A note's checksum says that it is what was sent, not that whoever sent it is well.
bool is_draw(const Sampled& sampled, const SamplingParams& sampling, int32_t vocab_size);

}  // namespace penstock
