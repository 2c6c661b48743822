// How fast the weight products are on one core: multiply-adds per second per format and number of activation rows,
// beside the ceiling of the same processor in the same milliseconds. Times are of the thread, not of the clock on the
// wall, and the best of many short rounds, since a shared machine only ever slows a round down.
//
//   ops-bench [--rows 1,2,4,8,16,64] [--shape ROWSxCOLS] [--rounds N] [--formats Q4_1,F16] [--kernels reference|avx2]
#include <time.h>

#include <algorithm>
#include <atomic>
#include <chrono>
#include <cstdio>
#include <cstring>
#include <exception>
#include <random>
#include <sstream>
#include <stdexcept>
#include <string>
#include <string_view>
#include <vector>

#include "ops/half.h"
#include "ops/memory.h"
#include "ops/ops.h"
#include "ops/thread_pool.h"

namespace penstock {
namespace {

// Long enough for the clock, short enough that some rounds are not interrupted.
constexpr double kRoundSeconds = 0.002;

struct Arguments {
  std::vector<int32_t> rows{1, 2, 4, 8, 16, 64, 512};
  int32_t weight_rows = 1536;
  int32_t cols = 576;
  int32_t rounds = 25;
  std::string formats;  // "" = all
  KernelChoice kernels = KernelChoice::automatic;
};

Arguments parse(int argc, char** argv) {
  Arguments a;
  for (int i = 1; i + 1 < argc; i += 2) {
    const std::string_view flag = argv[i];
    std::stringstream value(argv[i + 1]);
    if (flag == "--rows") {
      a.rows.clear();
      for (std::string item; std::getline(value, item, ',');) a.rows.push_back(std::stoi(item));
    } else if (flag == "--shape") {
      char times = 0;
      value >> a.weight_rows >> times >> a.cols;
    } else if (flag == "--rounds") {
      value >> a.rounds;
    } else if (flag == "--formats") {
      a.formats = ',' + value.str() + ',';
    } else if (flag == "--kernels") {
      a.kernels = value.str() == "reference" ? KernelChoice::reference : KernelChoice::avx2;
    } else {
      throw std::invalid_argument("unknown option " + std::string(flag));
    }
  }
  if (a.cols <= 0 || a.cols % kSuperBlock != 0) std::printf("(formats of 256-value blocks need such a width)\n");
  return a;
}

double thread_seconds() {
  timespec now{};
  clock_gettime(CLOCK_THREAD_CPUTIME_ID, &now);
  return static_cast<double>(now.tv_sec) + 1e-9 * static_cast<double>(now.tv_nsec);
}

// Rates of a loop: the best of rounds, each long enough for the clock.
class Rate {
 public:
  // work: units per call of body.
  template <typename Body>
  void round(double work, const Body& body) {
    const double start = thread_seconds();
    for (int64_t i = 0; i < calls_; ++i) body();
    const double seconds = thread_seconds() - start;
    best_ = std::max(best_, work * static_cast<double>(calls_) / seconds);
    calls_ = std::max(int64_t{1}, static_cast<int64_t>(kRoundSeconds * best_ / work));
  }
  double giga() const { return 1e-9 * best_; }

 private:
  double best_ = 0;
  int64_t calls_ = 1;
};

#if defined(__x86_64__)
// Loops of one block's instructions over registers that never leave the core: what no kernel can exceed. In assembly,
// since a compiler moves products of constants out of the loop.
constexpr int kCeilingLoops = 4096;

// Ones in ymm0 to ymm3 as bytes, bytes, words and floats: nothing saturates and nothing is denormal.
__attribute__((target("avx2"))) void load_ones() {
  asm volatile(
      "vpcmpeqb %%ymm2, %%ymm2, %%ymm2\n vpabsb %%ymm2, %%ymm0\n vpabsb %%ymm2, %%ymm1\n"
      "vpslld $25, %%ymm2, %%ymm3\n vpsrld $2, %%ymm3, %%ymm3\n vpabsw %%ymm2, %%ymm2\n"
      "vpxor %%ymm15, %%ymm15, %%ymm15\n" ::
          : "ymm0", "ymm1", "ymm2", "ymm3", "ymm15");
}

__attribute__((target("avx2,fma"))) void fma_loop() {
  for (int i = 0; i < kCeilingLoops; ++i) {
    asm volatile(
        "vfmadd231ps %%ymm0, %%ymm1, %%ymm2\n vfmadd231ps %%ymm0, %%ymm1, %%ymm3\n"
        "vfmadd231ps %%ymm0, %%ymm1, %%ymm4\n vfmadd231ps %%ymm0, %%ymm1, %%ymm5\n"
        "vfmadd231ps %%ymm0, %%ymm1, %%ymm6\n vfmadd231ps %%ymm0, %%ymm1, %%ymm7\n"
        "vfmadd231ps %%ymm0, %%ymm1, %%ymm8\n vfmadd231ps %%ymm0, %%ymm1, %%ymm9\n"
        "vfmadd231ps %%ymm0, %%ymm1, %%ymm10\n vfmadd231ps %%ymm0, %%ymm1, %%ymm11\n" ::
            : "ymm0", "ymm1", "ymm2", "ymm3", "ymm4", "ymm5", "ymm6", "ymm7", "ymm8", "ymm9", "ymm10", "ymm11");
  }
}

#define PENSTOCK_BYTE_GROUP(t, sum)           \
  "vpmaddubsw %%ymm1, %%ymm0, %%ymm" #t "\n"  \
  "vpaddw %%ymm" #t ", %%ymm" #sum ", %%ymm" #sum "\n"
#define PENSTOCK_NIBBLE_BLOCK(a, b, c, d, sum)                                                          \
  "vpmaddubsw %%ymm1, %%ymm0, %%ymm" #sum "\n" PENSTOCK_BYTE_GROUP(a, sum) PENSTOCK_BYTE_GROUP(b, sum)  \
  PENSTOCK_BYTE_GROUP(c, sum) PENSTOCK_BYTE_GROUP(d, sum) PENSTOCK_BYTE_GROUP(a, sum)                   \
  PENSTOCK_BYTE_GROUP(b, sum) PENSTOCK_BYTE_GROUP(c, sum) "vpmaddwd %%ymm2, %%ymm" #sum ", %%ymm" #a "\n"  \
  "vcvtdq2ps %%ymm" #a ", %%ymm" #a "\n vmulps %%ymm3, %%ymm3, %%ymm" #b "\n"                           \
  "vfmadd231ps %%ymm" #a ", %%ymm" #b ", %%ymm15\n"

__attribute__((target("avx2,fma"))) void nibble_loop() {
  load_ones();
  for (int i = 0; i < kCeilingLoops; ++i) {
    asm volatile("vpxor %%ymm15, %%ymm15, %%ymm15\n"  //
                 PENSTOCK_NIBBLE_BLOCK(4, 5, 6, 7, 12) PENSTOCK_NIBBLE_BLOCK(8, 9, 10, 11, 13)
                     PENSTOCK_NIBBLE_BLOCK(4, 5, 6, 7, 14)::
                         : "ymm0", "ymm1", "ymm2", "ymm3", "ymm4", "ymm5", "ymm6", "ymm7", "ymm8", "ymm9", "ymm10",
                           "ymm11", "ymm12", "ymm13", "ymm14", "ymm15");
  }
}

#define PENSTOCK_SIGNED_GROUP(t, sum)                                                   \
  "vpsignb %%ymm1, %%ymm0, %%ymm" #t "\n vpmaddubsw %%ymm" #t ", %%ymm0, %%ymm" #t "\n" \
  "vpmaddwd %%ymm2, %%ymm" #t ", %%ymm" #t "\n vpaddd %%ymm" #t ", %%ymm" #sum ", %%ymm" #sum "\n"

__attribute__((target("avx2,fma"))) void signed_loop() {
  load_ones();
  for (int i = 0; i < kCeilingLoops; ++i) {
    asm volatile(PENSTOCK_SIGNED_GROUP(4, 12) PENSTOCK_SIGNED_GROUP(5, 13) PENSTOCK_SIGNED_GROUP(6, 14)
                     PENSTOCK_SIGNED_GROUP(7, 15) PENSTOCK_SIGNED_GROUP(8, 12) PENSTOCK_SIGNED_GROUP(9, 13)
                         PENSTOCK_SIGNED_GROUP(10, 14) PENSTOCK_SIGNED_GROUP(11, 15)::
                             : "ymm0", "ymm1", "ymm2", "ymm4", "ymm5", "ymm6", "ymm7", "ymm8", "ymm9", "ymm10",
                               "ymm11", "ymm12", "ymm13", "ymm14", "ymm15");
  }
}
#undef PENSTOCK_SIGNED_GROUP
#undef PENSTOCK_NIBBLE_BLOCK
#undef PENSTOCK_BYTE_GROUP

// The ceiling that bounds a format, measured for one round.
void ceiling_round(TensorType type, Rate& rate) {
  if (!is_quantized(type)) {
    rate.round(kCeilingLoops * 80.0, fma_loop);
  } else if (type == TensorType::q8_0) {
    rate.round(kCeilingLoops * 256.0, signed_loop);
  } else {
    rate.round(kCeilingLoops * 3 * 256.0, nibble_loop);
  }
}
#else
void ceiling_round(TensorType, Rate&) {}
#endif

struct Subject {
  TensorType type;
  PageMemory memory;
  Matrix matrix;
};

// Random bytes with small scales in place of whatever would be an infinity or NaN: speed depends on the values only
// where they are not finite or denormal.
Subject make_subject(const Kernels& kernels, TensorType type, int32_t rows, int32_t cols) {
  std::vector<std::byte> file(static_cast<size_t>(rows * row_bytes(type, cols)));
  std::mt19937 random(1);
  for (std::byte& byte : file) byte = static_cast<std::byte>(random() & 0x3F);  // as halves and floats: 0 to 1.9
  Subject subject{type, PageMemory(kernels.packed_bytes(type, rows, cols)), {}};
  kernels.pack(type, rows, cols, file.data(), subject.memory.data());
  subject.matrix = {type, rows, cols, subject.memory.data()};
  return subject;
}

void measure_products(const Kernels& kernels, const Arguments& a) {
  std::printf("\nproducts [%d, %d], G MAC/s of one thread, and share of what the instructions reach on registers\n",
              a.weight_rows, a.cols);
  std::printf("rows   ");
  for (int32_t rows : a.rows) std::printf("%13d", rows);
  std::printf("\n");
  const int32_t rows_max = *std::max_element(a.rows.begin(), a.rows.end());
  std::vector<float> f32(static_cast<size_t>(rows_max) * a.cols);
  std::mt19937 random(2);
  std::normal_distribution<float> normal;
  for (float& value : f32) value = normal(random);
  std::vector<int8_t> q(f32.size());
  std::vector<float> d(f32.size() / kQuantBlock);
  std::vector<float> s(d.size());
  kernels.quantize(f32.data(), static_cast<int32_t>(f32.size()), q.data(), d.data(), s.data());
  std::vector<float> out(static_cast<size_t>(rows_max) * a.weight_rows);
  for (uint32_t id = 0; id < 64; ++id) {
    const auto type = tensor_type_of(id);
    if (!type || a.cols % tensor_type_facts(*type).block_values != 0) continue;
    const std::string name = tensor_type_facts(*type).name;
    if (!a.formats.empty() && a.formats.find(',' + name + ',') == std::string::npos) continue;
    const Subject subject = make_subject(kernels, *type, a.weight_rows, a.cols);
    std::printf("%-7s", name.c_str());
    for (int32_t rows : a.rows) {
      const Activations x{f32.data(), q.data(), d.data(), s.data(), rows, a.cols};
      const double macs = double(a.weight_rows) * a.cols * rows;
      // Alternating, so that both see the same disturbances.
      Rate rate;
      Rate ceiling;
      for (int32_t round = 0; round < a.rounds; ++round) {
        ceiling_round(*type, ceiling);
        rate.round(macs, [&] {
          kernels.matmul(subject.matrix, x, 0, subject.matrix.tiles(), out.data(), a.weight_rows);
        });
      }
      std::printf("%8.1f %3.0f%%", rate.giga(), ceiling.giga() > 0 ? 100 * rate.giga() / ceiling.giga() : 0.0);
      std::fflush(stdout);
    }
    std::printf("\n");
  }
}

// What an empty region costs: the wake-up and the join, with the workers still polling and after they fell asleep.
void measure_regions(int32_t rounds) {
  using Clock = std::chrono::steady_clock;
  ThreadPool pool(2);
  // Both chunks wait for each other, so that the caller cannot finish alone.
  const auto region = [&] {
    std::atomic<int32_t> present{0};
    pool.run(2, [&](int32_t) {
      present.fetch_add(1);
      while (present.load() < 2) {
      }
    });
  };
  double polling = 1;
  double asleep = 1;
  for (int32_t round = 0; round < rounds; ++round) {
    constexpr int kRegions = 200;
    auto start = Clock::now();
    for (int i = 0; i < kRegions; ++i) region();
    polling = std::min(polling, std::chrono::duration<double>(Clock::now() - start).count() / kRegions);
    const timespec pause{0, 2'000'000};
    nanosleep(&pause, nullptr);
    start = Clock::now();
    region();
    asleep = std::min(asleep, std::chrono::duration<double>(Clock::now() - start).count());
  }
  std::printf("\nempty region of 2 threads: %.2f us while they poll, %.2f us after they slept\n", 1e6 * polling,
              1e6 * asleep);
}

int run(int argc, char** argv) {
  const Arguments a = parse(argc, argv);
  const Kernels& kernels = choose_kernels(a.kernels);
  std::printf("kernels %s\n", kernels.name);
  measure_products(kernels, a);
  measure_regions(a.rounds);
  return 0;
}

}  // namespace
}  // namespace penstock

int main(int argc, char** argv) {
  try {
    return penstock::run(argc, argv);
  } catch (const std::exception& error) {
    std::fprintf(stderr, "ops-bench: %s\n", error.what());
    return 1;
  }
}
