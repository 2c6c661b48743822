// The pure parts of the server: command line, validation of SUBMIT, rates, log lines, and the bounds of the mailboxes.
#include <gtest/gtest.h>

#include <limits>

#include "model/step_work.h"
#include "ops/arithmetic.h"
#include "serve/log.h"
#include "serve/mailbox.h"
#include "serve/meter.h"
#include "serve/options.h"
#include "serve/submit.h"

namespace penstock {
namespace {

// --- Options ---

auto parse(std::vector<std::string_view> arguments) { return parse_options(arguments); }

std::string error_of(std::vector<std::string_view> arguments) {
  const auto parsed = parse_options(arguments);
  const auto* error = std::get_if<OptionError>(&parsed);
  return error != nullptr ? error->message : "";
}

TEST(Options, HaveDefaultsForAllButModelAndSocket) {
  const auto parsed = parse({"--model", "m.gguf", "--socket", "e.sock"});
  ASSERT_TRUE(std::holds_alternative<Options>(parsed));
  const Options& options = std::get<Options>(parsed);
  EXPECT_EQ(options.model_path, "m.gguf");
  EXPECT_EQ(options.socket_path, "e.sock");
  EXPECT_EQ(options.threads, 0);
  EXPECT_EQ(options.blocks_total, std::nullopt);
  EXPECT_EQ(options.kv_type, KvType::f16);
  EXPECT_EQ(options.sequences_max, 32);
  EXPECT_EQ(options.step_tokens_max, 128);
  EXPECT_EQ(options.log_level, LogLevel::Info);
  EXPECT_FALSE(options.check_only);
}

TEST(Options, TakeValuesAfterASpaceOrAnEqualsSign) {
  const auto parsed =
      parse({"--model=m", "--socket=s", "--threads", "3", "--kv-mib=64", "--kv-type=q8_0", "--context", "4096",
             "--sequences=8", "--step-tokens", "64", "--log-level=debug", "--quantize=q4_0", "--die-with-parent",
             "--check"});
  ASSERT_TRUE(std::holds_alternative<Options>(parsed));
  const Options& options = std::get<Options>(parsed);
  EXPECT_EQ(options.threads, 3);
  EXPECT_EQ(options.kv_mib, 64);
  EXPECT_EQ(options.kv_type, KvType::q8_0);
  EXPECT_EQ(options.context_tokens, 4096);
  EXPECT_EQ(options.sequences_max, 8);
  EXPECT_EQ(options.step_tokens_max, 64);
  EXPECT_EQ(options.log_level, LogLevel::Debug);
  EXPECT_EQ(options.quantize, TensorType::q4_0);
  EXPECT_TRUE(options.die_with_parent);
  EXPECT_TRUE(options.check_only);
}

TEST(Options, NameTheArgumentThatIsWrong) {
  EXPECT_EQ(error_of({}), "--model is needed");
  EXPECT_EQ(error_of({"--model", "m"}), "--socket is needed");
  EXPECT_EQ(error_of({"--model", "m", "--check"}), "");
  EXPECT_EQ(error_of({"--model"}), "--model needs a path");
  EXPECT_EQ(error_of({"--model", "m", "--socket", "s", "--threads", "many"}),
            "--threads needs a whole number from 0 to 1024");
  EXPECT_EQ(error_of({"--model", "m", "--socket", "s", "--blocks", "0"}),
            "--blocks needs a whole number from 1 to 2147483647");
  EXPECT_EQ(error_of({"--model", "m", "--socket", "s", "--sequences", "4x"}),
            "--sequences needs a whole number from 1 to 1024");
  EXPECT_EQ(error_of({"--model", "m", "--socket", "s", "--sequences=200"}),
            "--step-tokens must be at least --sequences");
  EXPECT_EQ(error_of({"--model", "m", "--socket", "s", "--blocks=2", "--kv-mib=1"}),
            "--blocks and --kv-mib say the same thing: give one");
  EXPECT_EQ(error_of({"--model", "m", "--socket", "s", "--log-level", "loud"}),
            "--log-level needs error, warn, info or debug");
  EXPECT_EQ(error_of({"--model", "m", "--socket", "s", "--quantize", "q5"}),
            "--quantize needs none, q8_0 or q4_0");
  EXPECT_EQ(error_of({"--model", "m", "--socket", "s", "--kv-type", "q4_0"}),
            "--kv-type needs f16, q8_0, f32 or bf16");
  for (const char* device : {"gpu", "cuda:", "cuda:x", "cuda:256", "cuda1", "cpu:0"})
    EXPECT_EQ(error_of({"--model", "m", "--socket", "s", "--device", device}), "--device needs cpu, cuda or cuda:N") << device;
  EXPECT_EQ(error_of({"--model", "m", "--socket", "s", "--device=cuda", "--device-memory-mib", "0"}),
            "--device-memory-mib needs a whole number from 1 to 1048576");
  EXPECT_EQ(error_of({"--model", "m", "--socket", "s", "--device-memory-mib", "64"}),
            "--device-memory-mib is for --device cuda");
  EXPECT_EQ(error_of({"--model", "m", "--socket", "s", "--device=cuda", "--gemm", "cublas"}),
            "--gemm needs own, cublaslt or auto");
  EXPECT_EQ(error_of({"--model", "m", "--socket", "s", "--gemm=auto"}), "--gemm is for --device cuda");
  EXPECT_EQ(error_of({"--modell", "m"}), "unknown option --modell");
  EXPECT_EQ(error_of({"model.gguf"}), "unexpected argument model.gguf");
}

TEST(Options, NameTheDeviceAndWhatItMayUse) {
  const auto device_of = [](std::vector<std::string_view> arguments) {
    arguments.insert(arguments.end(), {"--model", "m", "--socket", "s"});
    return std::get<Options>(parse_options(arguments));
  };
  EXPECT_EQ(device_of({}).device.name(), "cpu");
  EXPECT_EQ(device_of({"--device", "cuda"}).device.name(), "cuda:0");
  const Options second = device_of({"--device=cuda:1", "--device-memory-mib=4096", "--kv-type=bf16"});
  EXPECT_EQ(second.device.name(), "cuda:1");
  EXPECT_EQ(second.device_memory_mib, 4096);
  EXPECT_EQ(second.gemm, GemmChoice::own);
  EXPECT_EQ(device_of({"--device=cuda", "--gemm=auto"}).gemm, GemmChoice::automatic);
  EXPECT_EQ(device_of({"--device=cuda", "--gemm=cublaslt"}).gemm, GemmChoice::cublaslt);
  EXPECT_EQ(second.kv_type, KvType::bf16);
}

TEST(Options, OfferHelpThatNamesEveryOption) {
  EXPECT_TRUE(std::holds_alternative<HelpWanted>(parse({"--model", "m", "--help"})));
  for (const std::string_view name : {"--model", "--socket", "--check", "--threads", "--blocks", "--kv-mib",
                                      "--kv-type", "--context", "--sequences", "--step-tokens", "--log-level", "--quantize",
                                      "--device", "--device-memory-mib", "--die-with-parent"})
    EXPECT_NE(help_text().find(name), std::string_view::npos) << name;
}

// --- Validation of SUBMIT ---

constexpr SubmitLimits kLimits{.vocab_size = 100, .context_tokens = 50};

frame::Submit valid() {
  frame::Submit submit;
  submit.id = 7;
  submit.prompt = {1, 2, 3};
  submit.max_new_tokens = 10;
  return submit;
}

TEST(Submit, BecomesARequestWithTheSameFields) {
  frame::Submit submit = valid();
  submit.credit_tokens = 9;
  submit.temperature = 0.5f;
  submit.top_k = UINT32_MAX;
  submit.seed = 77;
  submit.logprobs_top = 3;
  submit.stop_ids = {2};
  submit.bias = {{4, -100.0f}};
  submit.priority = -2;
  submit.deadline_ms = 500;
  submit.tenant = 11;
  submit.max_new_tokens = UINT32_MAX;
  const auto checked = check_submit(submit, kLimits, 1000);
  ASSERT_TRUE(std::holds_alternative<Request>(checked));
  const Request& request = std::get<Request>(checked);
  EXPECT_EQ(request.id, 7u);
  EXPECT_EQ(request.prompt, (std::vector<int32_t>{1, 2, 3}));
  EXPECT_EQ(request.max_new_tokens, std::numeric_limits<int32_t>::max());
  EXPECT_EQ(request.credit_tokens, 9u);
  EXPECT_EQ(request.stop_ids, (std::vector<int32_t>{2}));
  EXPECT_EQ(request.priority, -2);
  EXPECT_EQ(request.deadline_ms, 1500);
  EXPECT_EQ(request.tenant, 11u);
  EXPECT_EQ(request.sampling.temperature, 0.5f);
  EXPECT_EQ(request.sampling.top_k, 100) << "more than the vocabulary is the vocabulary";
  EXPECT_EQ(request.sampling.seed, 77u);
  EXPECT_EQ(request.sampling.logprobs_top, 3);
  ASSERT_EQ(request.sampling.bias.size(), 1u);
  EXPECT_EQ(request.sampling.bias[0].second, -100.0f);
}

TEST(Submit, LeavesWhatIsAbsentAbsent) {
  const auto checked = check_submit(valid(), kLimits, 1000);
  const Request& request = std::get<Request>(checked);
  EXPECT_EQ(request.deadline_ms, std::nullopt);
  EXPECT_EQ(request.sampling.logprobs_top, -1);
}

struct Wrong {
  const char* field;
  void (*spoil)(frame::Submit&);
};

TEST(Submit, IsRefusedByTheNameOfItsFirstWrongField) {
  const Wrong table[] = {
      {"prompt", [](frame::Submit& s) { s.prompt.clear(); }},
      {"prompt[1]", [](frame::Submit& s) { s.prompt[1] = 100; }},
      {"prompt[0]", [](frame::Submit& s) { s.prompt[0] = UINT32_MAX; }},
      {"max_new_tokens", [](frame::Submit& s) { s.max_new_tokens = 0; }},
      {"temperature", [](frame::Submit& s) { s.temperature = -0.1f; }},
      {"temperature", [](frame::Submit& s) { s.temperature = 1e30f; }},
      {"top_p", [](frame::Submit& s) { s.top_p = 0.0f; }},
      {"top_p", [](frame::Submit& s) { s.top_p = 1.01f; }},
      {"min_p", [](frame::Submit& s) { s.min_p = 1.5f; }},
      {"repetition_penalty", [](frame::Submit& s) { s.repetition_penalty = 0.0f; }},
      {"presence_penalty", [](frame::Submit& s) { s.presence_penalty = -200.0f; }},
      {"frequency_penalty", [](frame::Submit& s) { s.frequency_penalty = 200.0f; }},
      {"logprobs", [](frame::Submit& s) { s.logprobs_top = 21; }},
      {"stop_ids[0]", [](frame::Submit& s) { s.stop_ids = {100}; }},
      {"stop_ids", [](frame::Submit& s) { s.stop_ids.assign(257, 1); }},
      {"bias.id", [](frame::Submit& s) { s.bias = {{100, 1.0f}}; }},
      {"bias.bias", [](frame::Submit& s) { s.bias = {{1, 5000.0f}}; }},
      {"bias", [](frame::Submit& s) { s.bias.assign(4097, {1, 1.0f}); }},
      {"output[2]", [](frame::Submit& s) { s.output = {1, 2, 100}; }},
      {"output", [](frame::Submit& s) { s.output.assign(10, 1); }},
      {"output:", [](frame::Submit& s) {
         s.output = {1};
         s.pooling = Pooling::mean;
       }},
  };
  for (const Wrong& wrong : table) {
    SCOPED_TRACE(wrong.field);
    frame::Submit submit = valid();
    wrong.spoil(submit);
    const auto checked = check_submit(submit, kLimits, 0);
    const auto* rejected = std::get_if<frame::Rejected>(&checked);
    ASSERT_NE(rejected, nullptr);
    EXPECT_EQ(rejected->id, 7u);
    EXPECT_EQ(rejected->code, frame::RejectCode::Invalid);
    EXPECT_TRUE(rejected->message.starts_with(std::string(wrong.field) + " ")) << rejected->message;
  }
}

TEST(Submit, IsTooLongWhenNoOutputTokenWouldFit) {
  frame::Submit submit = valid();
  submit.prompt.assign(49, 1);
  EXPECT_TRUE(std::holds_alternative<Request>(check_submit(submit, kLimits, 0)));
  submit.prompt.assign(50, 1);
  const auto checked = check_submit(submit, kLimits, 0);
  ASSERT_TRUE(std::holds_alternative<frame::Rejected>(checked));
  EXPECT_EQ(std::get<frame::Rejected>(checked).code, frame::RejectCode::TooLong);
}

TEST(Submit, CountsOutputOfAnEarlierLifeLikeItsPromptAndTowardMaxNewTokens) {
  frame::Submit submit = valid();
  submit.output = {4, 5, 6, 7, 8, 9, 10, 11, 12};
  const auto most = check_submit(submit, kLimits, 0);
  ASSERT_TRUE(std::holds_alternative<Request>(most));
  EXPECT_EQ(std::get<Request>(most).output, (std::vector<int32_t>{4, 5, 6, 7, 8, 9, 10, 11, 12}));
  EXPECT_EQ(std::get<Request>(most).prompt, (std::vector<int32_t>{1, 2, 3})) << "which stays what it was";
  submit.prompt.assign(40, 1);
  EXPECT_TRUE(std::holds_alternative<Request>(check_submit(submit, kLimits, 0)));
  submit.prompt.assign(41, 1);
  const auto checked = check_submit(submit, kLimits, 0);
  ASSERT_TRUE(std::holds_alternative<frame::Rejected>(checked));
  EXPECT_EQ(std::get<frame::Rejected>(checked).code, frame::RejectCode::TooLong);
  EXPECT_EQ(std::get<frame::Rejected>(checked).message,
            "prompt and output have 50 tokens, the context holds 50 with the output");
}

TEST(Submit, WithAGrammarIsRefusedByABuildThatHasNoneAndBoundedByOneThatHas) {
  frame::Submit submit = valid();
  submit.grammar = frame::Grammar{frame::GrammarKind::Regex, "a+"};
  const auto refusal = [&](bool grammars) {
    SubmitLimits limits = kLimits;
    limits.grammars = grammars;
    const auto checked = check_submit(submit, limits, 0);
    const auto* rejected = std::get_if<frame::Rejected>(&checked);
    return rejected == nullptr ? std::string() : rejected->message;
  };
  EXPECT_EQ(refusal(false), "grammar: this engine was built without grammars");
  EXPECT_EQ(refusal(true), "");
  submit.grammar->text.assign(256 * 1024 + 1, 'a');
  EXPECT_EQ(refusal(true), "grammar: at most 262144 bytes are allowed, it has 262145");
}

// --- Rates ---

TEST(Meter, KnowsNothingBeforeTheFirstStep) {
  const Meter meter;
  EXPECT_EQ(meter.prefill_tokens_per_second(), 0.0f);
  EXPECT_EQ(meter.decode_tokens_per_second(), 0.0f);
  EXPECT_EQ(meter.memory_bytes_per_second(0), 0.0f);
  EXPECT_EQ(meter.macs_per_second(0), 0.0f);
  EXPECT_EQ(meter.busy_share(1), 0.0f);
}

TEST(Meter, GivesTheRateOfSteadySteps) {
  Meter meter;
  for (int i = 0; i < 100; ++i)
    meter.record({.seconds = 0.1, .prefill_tokens = 0, .decode_tokens = 4, .memory_bytes = 1e9});
  EXPECT_NEAR(meter.decode_tokens_per_second(), 40.0f, 0.01f);
  EXPECT_NEAR(meter.memory_bytes_per_second(0), 1e10f, 1e6f);
  EXPECT_EQ(meter.prefill_tokens_per_second(), 0.0f);
}

TEST(Meter, MeasuresMemoryWhereOnlyDecodingRunsAndArithmeticWherePromptsDo) {
  Meter meter;
  meter.record({.seconds = 0.1, .prefill_tokens = 0, .decode_tokens = 1, .memory_bytes = 1e9, .macs = 1e9, .ended_at = 1});
  EXPECT_EQ(meter.macs_per_second(1), 0.0f);
  meter.record({.seconds = 1.0, .prefill_tokens = 64, .decode_tokens = 1, .memory_bytes = 1e9, .macs = 3e10, .ended_at = 2});
  EXPECT_NEAR(meter.memory_bytes_per_second(2), 1e10f, 1e6f);
  EXPECT_NEAR(meter.macs_per_second(2), 3e10f, 1e6f);
}

TEST(Meter, ForgetsWhatIsLongOver) {
  Meter meter;
  meter.record({.seconds = 0.1, .prefill_tokens = 0, .decode_tokens = 1, .memory_bytes = 1e9, .ended_at = 100});
  EXPECT_GT(meter.memory_bytes_per_second(109), 0.0f);
  EXPECT_EQ(meter.memory_bytes_per_second(111), 0.0f);
  EXPECT_GT(meter.decode_tokens_per_second(), 0.0f) << "routing goes on by it";
}

TEST(Meter, KnowsHowMuchOfTheTimeItStepped) {
  Meter meter;
  for (int i = 1; i <= 100; ++i)
    meter.record({.seconds = 0.05, .prefill_tokens = 0, .decode_tokens = 1, .memory_bytes = 0, .ended_at = i * 0.2});
  EXPECT_NEAR(meter.busy_share(20), 0.25f, 0.02f);
  EXPECT_LT(meter.busy_share(40), 0.01f);
  EXPECT_LE(meter.busy_share(20), 1.0f);
}

// --- Work of a step ---

TEST(StepWork, CountsRowsPairsAndLogits) {
  const StepWork work{.type = MacType::int8,
                      .row_macs = 1000,
                      .read_row_macs = 100,
                      .logits_row_macs = 10,
                      .pair_macs = 1,
                      .read_pair_macs = 0.5,
                      .window_tokens = 0};
  // Rows at positions 4, 5 and 6 see 5, 6 and 7 positions; one at position 9 sees ten, and is read.
  const std::vector<StepSequence> sequences{
      {.first_row = 0, .rows = 3, .kv_tokens = 7, .block_table = {}, .wants_logits = false},
      {.first_row = 3, .rows = 1, .kv_tokens = 10, .block_table = {}, .wants_logits = true},
  };
  EXPECT_DOUBLE_EQ(step_macs(work, sequences), 4 * 1000 + 18 + 10 + 100 + 10 + 5);
  StepWork window = work;
  window.window_tokens = 4;
  EXPECT_DOUBLE_EQ(step_macs(window, sequences), 4 * 1000 + 12 + 4 + 100 + 10 + 2);
  EXPECT_EQ(step_macs(StepWork{}, sequences), 0);
}

TEST(Arithmetic, IsMeasuredQuicklyAndGrowsWithWhatIsKnown) {
  EXPECT_EQ(measure_mac_rate(1, MacType::unknown), 0u);
  const uint64_t f32 = measure_mac_rate(1, MacType::f32), int8 = measure_mac_rate(1, MacType::int8);
  // None where the processor has not the instructions; else more than any of the last ten years would do at its slowest.
  EXPECT_EQ(f32 == 0, int8 == 0);
  EXPECT_TRUE(f32 == 0 || f32 > 100'000'000u) << f32;
  EXPECT_TRUE(int8 == 0 || int8 > 100'000'000u) << int8;
}

TEST(Meter, ChargesPrefillItsShareOfAMixedStepAndMeasuresDecodeWhereItIsAlone) {
  Meter meter;
  meter.record({.seconds = 0.1, .prefill_tokens = 0, .decode_tokens = 10, .memory_bytes = 0});
  meter.record({.seconds = 1.0, .prefill_tokens = 90, .decode_tokens = 10, .memory_bytes = 0});
  EXPECT_NEAR(meter.prefill_tokens_per_second(), 100.0f, 0.01f);
  EXPECT_NEAR(meter.decode_tokens_per_second(), 100.0f, 0.01f);
}

TEST(Meter, ForgetsOldStepsAndIgnoresEmptyOnes) {
  Meter meter;
  for (int i = 0; i < 100; ++i)
    meter.record({.seconds = 0.1, .prefill_tokens = 0, .decode_tokens = 1, .memory_bytes = 0});
  for (int i = 0; i < 400; ++i)
    meter.record({.seconds = 0.1, .prefill_tokens = 0, .decode_tokens = 8, .memory_bytes = 0});
  meter.record({.seconds = 5.0, .prefill_tokens = 0, .decode_tokens = 0, .memory_bytes = 0});
  meter.record({.seconds = 0.0, .prefill_tokens = 5, .decode_tokens = 5, .memory_bytes = 0});
  EXPECT_NEAR(meter.decode_tokens_per_second(), 80.0f, 0.1f);
}

// --- Log lines ---

TEST(Log, QuotesWhatNeedsItAndBoundsWhatIsLong) {
  EXPECT_EQ(format_log_line(LogLevel::Info, "ready", {{"blocks", 3}, {"model", "a b"}, {"empty", ""}}, 0),
            "level=info event=ready blocks=3 model=\"a b\" empty=\"\"\n");
  EXPECT_EQ(format_log_line(LogLevel::Warn, "x", {{"v", "say \"hi\"\nlevel=error"}}, 2),
            "level=warn event=x v=\"say 'hi' level=error\" suppressed_lines=2\n");
  const std::string endless(10'000, 'x');
  EXPECT_LT(format_log_line(LogLevel::Info, "x", {{"v", endless + " "}}, 0).size(), 400u);
}

TEST(Log, KnowsItsLevelsByName) {
  EXPECT_EQ(log_level_named("debug"), LogLevel::Debug);
  EXPECT_EQ(log_level_named("loud"), std::nullopt);
}

// --- Mailboxes ---

TEST(Inbox, IsFullAtItsBoundAndSaysWhenThereIsRoomAgain) {
  int rooms = 0;
  Inbox inbox([&] { ++rooms; });
  std::vector<Event> events;
  inbox.post(frame::Cancel{1});
  EXPECT_FALSE(inbox.full());
  inbox.take(events, std::chrono::steady_clock::time_point{});
  EXPECT_EQ(events.size(), 1u);
  EXPECT_EQ(rooms, 0);
  for (const auto tokens : {&frame::Submit::prompt, &frame::Submit::output}) {
    frame::Submit large;
    (large.*tokens).resize(kInboxBytesMax / sizeof(uint32_t));
    inbox.post(std::move(large));
    EXPECT_TRUE(inbox.full());
    rooms = 0;
    inbox.take(events, std::chrono::steady_clock::time_point{});
    EXPECT_EQ(rooms, 1);
    EXPECT_FALSE(inbox.full());
  }
  inbox.take(events, std::chrono::steady_clock::time_point{});
  EXPECT_TRUE(events.empty());
}

TEST(Outbox, KeepsFramesOfTheOpenConnectionOnly) {
  Outbox outbox([] {});
  outbox.append(1, frame::Pong{1});
  EXPECT_EQ(outbox.waiting_bytes(), 0u);
  outbox.open(2);
  outbox.append(1, frame::Pong{1});
  outbox.append(2, frame::Pong{2});
  std::vector<uint8_t> bytes;
  EXPECT_EQ(outbox.take(bytes), 16u);
  EXPECT_EQ(bytes[8], 2);
  EXPECT_EQ(outbox.waiting_bytes(), 16u) << "taken, and not sent yet";
  outbox.sent(16);
  EXPECT_EQ(outbox.waiting_bytes(), 0u);
}

TEST(Outbox, StopsTakingFramesAtItsBound) {
  Outbox outbox([] {});
  outbox.open(1);
  const frame::Fatal large{std::string(1024 * 1024, 'x')};
  for (int i = 0; i < 40; ++i) outbox.append(1, large);
  EXPECT_TRUE(outbox.overflowed());
  EXPECT_LT(outbox.waiting_bytes(), kOutboxBytesMax + 2 * 1024 * 1024);
  outbox.open(2);
  EXPECT_FALSE(outbox.overflowed());
}

}  // namespace
}  // namespace penstock
