#include "cuda_cases.h"

#include <algorithm>
#include <numeric>
#include <random>

#include "model/sampler.h"
#include "ops/cuda/attention_plan.h"
#include "ops/cuda/pack.h"

namespace penstock::cuda::bench {
namespace {

constexpr int32_t kRowsMax = 512;
// Of partial softmaxes; a lone context of 8192 tokens has 32 segments.
constexpr int32_t kPartialRows = 2048;
constexpr int32_t kItemsMore = 2048;
constexpr int32_t kBlocksPerMultiprocessor = 8;  // thread blocks that attention is split for
constexpr float kNormEps = 1e-5f;

// Bytes that are sane whatever they are read as: a small positive f32, f16 or bf16, an int8, nibbles.
constexpr int kByteMin = 0x20;
constexpr int kByteMax = 0x37;
constexpr int64_t kPatternBytes = 4 << 20;

constexpr Sampling kSamplings[] = {Sampling::greedy, Sampling::temperature, Sampling::top_p, Sampling::filters,
                                   Sampling::everything};
constexpr int32_t kHistoryTokens = 1024;

const char* name_of(Sampling kind) {
  switch (kind) {
    case Sampling::greedy:
      return "sample greedy";
    case Sampling::temperature:
      return "sample temperature alone";
    case Sampling::top_p:
      return "sample top-p";
    case Sampling::filters:
      return "sample top-k, top-p, min-p";
    case Sampling::everything:
      return "sample the same, penalties, bias, mask";
  }
  return "";
}

double form_bytes(ActivationForm form) {
  switch (form) {
    case ActivationForm::f32:
      return 4;
    case ActivationForm::q8:
      return 1 + 8.0 / kQuantBlock;
    default:
      return 2;
  }
}

std::string number(int64_t value) { return std::to_string(value); }

}  // namespace

struct KernelCases::Memory {
  int64_t cold_bytes;
  std::byte* weights;  // [cold_bytes]
  std::byte* kv;       // [cold_bytes]
  float* a;            // [kRowsMax or so, widest]
  float* b;
  float* c;
  std::byte* values;  // of activations in any form
  float* d;
  float* s;
  int32_t* counts;
  float* partials;

  template <class T>
  static T* put(const Stream& stream, DevicePool& pool, const std::vector<T>& host) {
    T* to = pool.take<T>(static_cast<int64_t>(host.size()));
    copy_to_device(stream, to, host.data(), static_cast<int64_t>(host.size() * sizeof(T)));
    stream.synchronize();
    return to;
  }

  DeviceActivations activations(ActivationForm form, int32_t cols) const { return {form, values, d, s, cols}; }
  ActivationOutputs outputs(ActivationForm form, int32_t cols) const { return {{activations(form, cols), {}}, 1}; }
};

KernelCases::KernelCases(const Stream& stream, DevicePool& pool, const DeviceFacts& device, int64_t cold_bytes, bool small)
    : stream_(stream),
      pool_(pool),
      device_(device),
      shape_(penstock::bench::synthetic_shape(small ? "tiny" : "8b")),
      small_(small),
      memory_(std::make_unique<Memory>()) {
  Memory& m = *memory_;
  const int32_t rows_max = small ? 16 : kRowsMax;
  const int32_t sampled_max = small ? 4 : 32;
  const int64_t widest = std::max(shape_.ffn_dim, shape_.heads * shape_.head_dim);
  const int64_t vocab_floats = int64_t{sampled_max} * shape_.vocab_size;
  const int64_t floats = std::max(rows_max * widest, vocab_floats);
  m.cold_bytes = cold_bytes;
  m.weights = pool.take_bytes(cold_bytes);
  m.kv = pool.take_bytes(cold_bytes);
  m.a = pool.take<float>(floats);
  m.b = pool.take<float>(floats);
  m.c = pool.take<float>(floats);
  m.values = pool.take_bytes(floats * 4);
  m.d = pool.take<float>(floats / kQuantBlock);
  m.s = pool.take<float>(floats / kQuantBlock);
  m.counts = pool.take<int32_t>(vocab_floats);
  const int64_t partial_floats = int64_t{kPartialRows} * shape_.heads * softmax_floats(shape_.head_dim);
  m.partials = pool.take<float>(partial_floats);
  std::mt19937 random(1);
  std::uniform_int_distribution<int> byte(kByteMin, kByteMax);
  PinnedMemory pattern(kPatternBytes);
  for (std::byte& each : pattern.as<std::byte>()) each = static_cast<std::byte>(byte(random));
  const std::byte* end = reinterpret_cast<std::byte*>(m.partials + partial_floats);
  for (std::byte* at = m.weights; at < end; at += kPatternBytes)
    copy_to_device(stream, at, pattern.data(), std::min<int64_t>(kPatternBytes, end - at));
  fill_zero(stream, m.counts, vocab_floats * static_cast<int64_t>(sizeof(int32_t)));
  stream.synchronize();

  const int32_t dim = shape_.dim;
  if (small) {
    add_rows(3);
    add_rope(3);
    for (const TensorType type : {TensorType::f16, TensorType::q4_0, TensorType::q6_k}) {
      for (const int32_t rows : {1, 16}) add_matmul(type, 64, dim, rows);
    }
    add_attention(KvType::f16, 2, 1, 300);
    add_attention(KvType::q8_0, 1, 16, 40);
    for (const Sampling kind : kSamplings) add_sampling(2, kind);
    add_blocks(2);
    return;
  }
  for (const int32_t rows : {1, 32, kRowsMax}) {
    add_rows(rows);
    add_rope(rows);
  }
  for (const TensorType type : {TensorType::f16, TensorType::bf16, TensorType::f32, TensorType::q8_0, TensorType::q4_0,
                                TensorType::q4_1, TensorType::q5_0, TensorType::q5_1, TensorType::q4_k, TensorType::q5_k,
                                TensorType::q6_k}) {
    for (const int32_t rows : {1, 8, 32, kRowsMax}) add_matmul(type, shape_.ffn_dim, dim, rows);
  }
  for (const TensorType type : {TensorType::f16, TensorType::q4_0, TensorType::q8_0}) {
    add_matmul(type, dim, shape_.ffn_dim, 1);
    add_matmul(type, shape_.kv_heads * shape_.head_dim, dim, 1);
    add_matmul(type, shape_.vocab_size, dim, 32);
  }
  for (const KvType type : {KvType::f16, KvType::bf16, KvType::q8_0}) {
    add_attention(type, 1, 1, 1024);
    add_attention(type, 1, 1, 8192);
    add_attention(type, 32, 1, 2048);
    add_attention(type, 1, kRowsMax, kRowsMax);
    add_attention(type, 1, kRowsMax, 8192);
  }
  for (const int32_t rows : {1, 32}) {
    for (const Sampling kind : kSamplings) add_sampling(rows, kind);
  }
  add_blocks(256);
}

KernelCases::~KernelCases() = default;

void KernelCases::add_rows(int32_t rows) {
  const Memory& m = *memory_;
  const int32_t dim = shape_.dim;
  const int32_t ffn = shape_.ffn_dim;
  const double floats = 4.0 * rows;
  for (const ActivationForm form : {ActivationForm::f16, ActivationForm::q8}) {
    const std::string suffix = form == ActivationForm::q8 ? " to int8" : " to f16";
    const ActivationOutputs to_dim = m.outputs(form, dim);
    const ActivationOutputs to_ffn = m.outputs(form, ffn);
    const double out = form_bytes(form) * rows;
    add({"add_rms_norm" + suffix, number(rows) + " x " + number(dim), dim * (3 * floats + out + 4), 0, Unit::none,
         [=, this, &m](int32_t) { add_rms_norm(stream_, m.a, m.b, m.c, rows, dim, kNormEps, to_dim); }});
    add({"swiglu" + suffix, number(rows) + " x " + number(ffn), ffn * (2 * floats + out), 0, Unit::none,
         [=, this, &m](int32_t) { swiglu(stream_, m.a, m.b, rows, ffn, to_ffn); }});
    add({"convert_rows" + suffix, number(rows) + " x " + number(dim), dim * (floats + out), 0, Unit::none,
         [=, this, &m](int32_t) { convert_rows(stream_, m.a, rows, dim, to_dim); }});
  }
  std::vector<int32_t> ids(static_cast<size_t>(rows));
  for (size_t i = 0; i < ids.size(); ++i) ids[i] = static_cast<int32_t>(i * 7919) % shape_.vocab_size;
  const int32_t* tokens = Memory::put(stream_, pool_, ids);
  const DeviceMatrix table{TensorType::q8_0, shape_.vocab_size, dim, m.weights};
  add({"embed Q8_0", number(rows) + " x " + number(dim),
       rows * (4.0 * dim + static_cast<double>(row_bytes(TensorType::q8_0, dim))), 0, Unit::none,
       [=, this, &m](int32_t) { embed(stream_, table, tokens, rows, m.a); }});
}

void KernelCases::add_rope(int32_t rows) {
  const Memory& m = *memory_;
  const int32_t head_dim = shape_.head_dim;
  const int32_t q_dim = shape_.heads * head_dim;
  const int32_t kv_dim = shape_.kv_heads * head_dim;
  const int32_t blocks = (rows + kBlockTokens - 1) / kBlockTokens;
  std::vector<int32_t> positions(static_cast<size_t>(rows));
  std::iota(positions.begin(), positions.end(), 0);
  std::vector<int32_t> table(static_cast<size_t>(blocks));
  std::iota(table.begin(), table.end(), 0);
  DeviceBatch batch{};
  batch.positions = Memory::put(stream_, pool_, positions);
  batch.token_ids = batch.positions;
  batch.row_sequence = Memory::put(stream_, pool_, std::vector<int32_t>(static_cast<size_t>(rows), 0));
  batch.block_tables = Memory::put(stream_, pool_, table);
  batch.blocks_max = blocks;
  batch.rows = rows;
  const int64_t block_bytes = 2 * shape_.kv_heads * kv_tile_bytes(KvType::f16, head_dim);
  const DeviceKv kv{m.kv, KvType::f16, blocks, shape_.kv_heads, head_dim, block_bytes};
  RopeAppendArgs args{};
  args.q = m.a;
  args.k = m.b;
  args.v = m.c;
  args.q_stride = q_dim;
  args.k_stride = args.v_stride = kv_dim;
  args.norm_eps = kNormEps;
  args.cos_sin = m.d;
  args.pairs = RopePairs::interleaved;
  args.rope_dims = head_dim;
  args.heads = shape_.heads;
  add({"rope_append f16", number(rows) + " rows", rows * (8.0 * q_dim + 12.0 * kv_dim + 4.0 * head_dim), 0, Unit::none,
       [=, this](int32_t) { rope_append(stream_, batch, kv, args); }});
  const double* frequencies = Memory::put(stream_, pool_, std::vector<double>(static_cast<size_t>(head_dim / 2), 0.01));
  add({"rope_angles", number(rows) + " rows", rows * 4.0 * head_dim, 0, Unit::none,
       [=, this, &m](int32_t) { rope_angles(stream_, batch, frequencies, head_dim, 1.0f, m.d); }});
}

void KernelCases::add_matmul(TensorType type, int32_t weight_rows, int32_t cols, int32_t rows) {
  const Memory& m = *memory_;
  const ActivationForm form = activation_form(type);
  const DeviceActivations x = m.activations(form, cols);
  const int64_t bytes = packed_bytes(type, weight_rows, cols);
  const int64_t copies = std::max<int64_t>(1, m.cold_bytes / bytes);
  const Unit unit = form == ActivationForm::q8 ? Unit::s8 : form == ActivationForm::f32 ? Unit::none : Unit::f16;
  add({"matmul " + std::string(tensor_type_facts(type).name),
       number(rows) + " x " + number(cols) + " -> " + number(weight_rows),
       static_cast<double>(bytes) + rows * (form_bytes(form) * cols + 4.0 * weight_rows),
       2.0 * rows * cols * weight_rows, unit, [=, this, &m](int32_t call) {
         const DeviceMatrix w{type, weight_rows, cols, m.weights + call % copies * bytes};
         matmul(stream_, w, x, rows, m.c, weight_rows);
       }});
}

void KernelCases::add_attention(KvType type, int32_t sequences, int32_t rows, int32_t kv_tokens) {
  const Memory& m = *memory_;
  const int32_t head_dim = shape_.head_dim;
  const int32_t group = shape_.heads / shape_.kv_heads;
  const int32_t blocks = (kv_tokens + kBlockTokens - 1) / kBlockTokens;
  const int64_t block_bytes = 2 * shape_.kv_heads * kv_tile_bytes(type, head_dim);
  const int64_t layer_bytes = block_bytes * blocks * sequences;
  const auto layers = static_cast<int32_t>(std::max<int64_t>(1, m.cold_bytes / layer_bytes));
  std::vector<int32_t> table(static_cast<size_t>(blocks * sequences));
  std::iota(table.begin(), table.end(), 0);
  std::shuffle(table.begin(), table.end(), std::mt19937(1));
  std::vector<StepSequence> shares;
  std::vector<int32_t> positions;
  std::vector<int32_t> owners;
  for (int32_t i = 0; i < sequences; ++i) {
    StepSequence share{};
    share.first_row = i * rows;
    share.rows = rows;
    share.kv_tokens = kv_tokens;
    share.block_table = std::span(table).subspan(static_cast<size_t>(i * blocks), static_cast<size_t>(blocks));
    shares.push_back(share);
    for (int32_t row = 0; row < rows; ++row) {
      positions.push_back(kv_tokens - rows + row);
      owners.push_back(i);
    }
  }
  const int32_t all_rows = sequences * rows;
  const AttentionPlanLimits limits{items_needed(all_rows, sequences, group, head_dim) + kItemsMore, all_rows, kPartialRows};
  AttentionPlanner planner(
      {shape_.heads, shape_.kv_heads, head_dim, 0, kBlocksPerMultiprocessor * device_.multiprocessors}, limits);
  planner.plan(shares);
  const std::vector<AttentionItem> items(planner.items().begin(), planner.items().end());
  const std::vector<MergeItem> merges(planner.merges().begin(), planner.merges().end());

  DeviceBatch batch{};
  batch.positions = Memory::put(stream_, pool_, positions);
  batch.token_ids = batch.positions;
  batch.row_sequence = Memory::put(stream_, pool_, owners);
  batch.block_tables = Memory::put(stream_, pool_, table);
  batch.blocks_max = blocks;
  batch.rows = all_rows;
  AttentionArgs args{};
  args.q = m.a;
  args.q_stride = shape_.heads * head_dim;
  args.heads = shape_.heads;
  args.items = Memory::put(stream_, pool_, items);
  args.item_count = Memory::put(stream_, pool_, std::vector<int32_t>{static_cast<int32_t>(items.size())});
  args.items_max = static_cast<int32_t>(items.size());
  args.merges = Memory::put(stream_, pool_, merges);
  args.merge_count = Memory::put(stream_, pool_, std::vector<int32_t>{static_cast<int32_t>(merges.size())});
  args.merges_max = static_cast<int32_t>(merges.size());
  args.decodes = planner.decodes();
  args.chunks = planner.chunks();
  args.partials = m.partials;
  args.out = m.b;
  const DeviceKv kv{m.kv, type, blocks * sequences, shape_.kv_heads, head_dim, block_bytes};
  double seen = 0;  // positions that rows attend to
  for (const int32_t position : positions) seen += position + 1;
  const double read = static_cast<double>(block_bytes) / kBlockTokens * kv_tokens * sequences;
  add({"attention " + std::string(kv_type_name(type)),
       number(sequences) + " x " + number(rows) + " of " + number(kv_tokens) + " tokens",
       read + 8.0 * all_rows * args.q_stride, 4.0 * seen * args.q_stride, Unit::f16, [=, this](int32_t call) {
         AttentionArgs one = args;
         one.layer = call % layers;
         attention(stream_, batch, kv, one);
       }});
}

void KernelCases::add_sampling(int32_t rows, Sampling kind) {
  const Memory& m = *memory_;
  const int32_t vocab_size = shape_.vocab_size;
  std::vector<float> logits(static_cast<size_t>(rows) * static_cast<size_t>(vocab_size));
  std::mt19937 random(1);
  std::normal_distribution<float> normal(0.0f, 3.0f);
  for (float& logit : logits) logit = normal(random);
  const bool filtered = kind == Sampling::filters || kind == Sampling::everything;
  SampleRow row{};
  row.temperature = kind == Sampling::greedy ? 0.0f : filtered ? 0.8f : 1.0f;
  row.top_p = filtered ? 0.95f : kind == Sampling::top_p ? 0.9f : 1.0f;
  row.top_k = filtered ? 40 : 0;
  row.log_weight_min = log_weight_min(filtered ? 0.05f : 0.0f);
  row.repetition_penalty = 1.0f;
  row.mask = -1;
  std::vector<SampleRow> each(static_cast<size_t>(rows), row);
  std::vector<int32_t> history, bias_tokens;
  std::vector<uint32_t> mask;
  if (kind == Sampling::everything) {
    for (size_t i = 0; i < each.size(); ++i) {
      each[i].repetition_penalty = 1.1f;
      each[i].frequency_penalty = 1e-3f;  // which accumulates: the logits are penalised in every call
      each[i].first_bias = static_cast<int32_t>(i);
      each[i].bias_count = 1;
      each[i].first_token = static_cast<int32_t>(i) * kHistoryTokens;
      each[i].prompt_tokens = each[i].output_tokens = kHistoryTokens / 2;
      each[i].mask = 0;
      bias_tokens.push_back(static_cast<int32_t>(i));
      for (int32_t j = 0; j < kHistoryTokens; ++j)
        history.push_back(static_cast<int32_t>(random() % static_cast<uint32_t>(vocab_size)));
    }
    for (int32_t i = 0; i < vocab_size; i += 32) mask.push_back(static_cast<uint32_t>(random()));
  }
  SampleArgs args{};
  args.logits = Memory::put(stream_, pool_, logits);
  args.vocab_size = vocab_size;
  args.rows = Memory::put(stream_, pool_, each);
  args.row_count = rows;
  if (kind == Sampling::everything) {
    args.bias_tokens = Memory::put(stream_, pool_, bias_tokens);
    args.bias_values = Memory::put(stream_, pool_, std::vector<float>(bias_tokens.size(), 0.5f));
    args.history = Memory::put(stream_, pool_, history);
    args.masks = Memory::put(stream_, pool_, mask);
  }
  args.counts = m.counts;
  args.scratch = pool_.take<unsigned long long>(rows * sample_scratch_words(vocab_size));
  args.tokens = pool_.take<int32_t>(rows);
  args.work = sample_work(each, vocab_size);
  add({name_of(kind), number(rows) + " x " + number(vocab_size), static_cast<double>(logits.size() * sizeof(float)), 0,
       Unit::none, [=, this](int32_t) { sample(stream_, args); }});
}

void KernelCases::add_blocks(int32_t count) {
  const Memory& m = *memory_;
  const int64_t block_bytes = 2 * shape_.kv_heads * kv_tile_bytes(KvType::f16, shape_.head_dim);
  const int32_t layers = small_ ? 2 : 4;
  const DeviceKv kv{m.kv, KvType::f16, 2 * count, shape_.kv_heads, shape_.head_dim, block_bytes};
  std::vector<int32_t> ids(static_cast<size_t>(2 * count));
  std::iota(ids.begin(), ids.end(), 0);
  std::shuffle(ids.begin(), ids.end(), std::mt19937(1));
  const int32_t* blocks = Memory::put(stream_, pool_, ids);
  const double moved = 2.0 * static_cast<double>(block_bytes) * count * layers;
  const std::string shape = number(count) + " blocks x " + number(layers) + " layers";
  add({"gather_blocks", shape, moved, 0, Unit::none,
       [=, this, &m](int32_t) { gather_blocks(stream_, kv, layers, blocks, count, m.weights); }});
  add({"scatter_blocks", shape, moved, 0, Unit::none,
       [=, this, &m](int32_t) { scatter_blocks(stream_, kv, layers, blocks, count, m.weights); }});
  add({"copy_blocks", shape, moved, 0, Unit::none,
       [=, this](int32_t) { copy_blocks(stream_, kv, layers, blocks, blocks + count, count); }});
}

}  // namespace penstock::cuda::bench
