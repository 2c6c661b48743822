// Sequences that go on in another engine, from their tokens. Goal: however often and wherever a sequence is cut, with or
// without a hand-over of its blocks, in any company, its tokens, log-probabilities and end are bit for bit those of one
// that was never cut.
#include <gtest/gtest.h>

#include <algorithm>
#include <bit>
#include <functional>
#include <random>
#include <set>

#include "grammar/matcher.h"
#include "handoff_serving.h"
#include "model/load.h"
#include "model_fixtures.h"

namespace penstock {
namespace {

using namespace penstock::testing;

// The printable characters, and two ids that are not text.
constexpr uint32_t kEnd = 96;

frame::Vocabulary characters() {
  frame::Vocabulary vocabulary;
  for (uint8_t c = ' '; c <= '~'; ++c) vocabulary.tokens.push_back({false, {c}});
  for (const std::string name : {"<begin>", "<end>"}) vocabulary.tokens.push_back({true, {name.begin(), name.end()}});
  vocabulary.end_ids = {kEnd};
  return vocabulary;
}

// What is seen of one token, so that equal means equal to the bit.
struct Seen {
  uint32_t token, logprob;
  std::vector<std::pair<int32_t, uint32_t>> top;
  bool operator==(const Seen&) const = default;
};

std::vector<Seen> seen_of(const std::vector<frame::Token>& tokens) {
  std::vector<Seen> seen;
  for (const frame::Token& token : tokens) {
    Seen& one = seen.emplace_back(Seen{token.token, std::bit_cast<uint32_t>(token.logprob), {}});
    for (const TokenLogprob& top : token.top) one.top.emplace_back(top.token, std::bit_cast<uint32_t>(top.logprob));
  }
  return seen;
}

struct Job {
  frame::Submit submit;
  std::vector<size_t> cuts;  // after how many tokens, rising
  std::vector<Seen> seen;    // of its lives so far
  std::optional<Finished> end;

  std::vector<uint32_t> output() const {
    std::vector<uint32_t> tokens;
    for (const Seen& one : seen) tokens.push_back(one.token);
    return tokens;
  }
};

// What went on while they were resumed: a run in which nothing did proves nothing.
struct Counts {
  uint64_t preemptions = 0, cached_tokens = 0, handed_over = 0, resumed = 0, over_already = 0;
  std::map<FinishReason, int> reasons;
};

class Resuming : public HandoffServing {
 protected:
  // As with an agent of each, and both receive.
  void start_both(const std::function<std::unique_ptr<Runner>()>& make_runner) {
    ServerConfig config{.sequences_max = 4, .step_tokens_max = kStepTokens};
    for (const auto& [engine, name] : {std::pair(&prefill, "p"), std::pair(&decode, "d")}) {
      ++config.epoch;
      config.kv_listen = "unix:" + (folder / (std::string(name) + "-kv.sock"));
      *engine = std::make_unique<Engine>(make_runner(), config, folder / (std::string(name) + ".sock"));
    }
    for (auto& [engine, agent] : {std::pair(&prefill, &p), std::pair(&decode, &d)}) {
      *agent = std::make_unique<Client>((*engine)->path());
      addresses.push_back((*agent)->hello().kv_address);
      if (grammars_available()) (*agent)->send(characters());
    }
  }
  Client& agent(size_t which) { return which % 2 == 0 ? *p : *d; }

  // Hands the blocks of a job's prompt and output over to the engine of its next life; false where there is no room.
  bool hand_over(const Job& job, uint64_t id, size_t to) {
    std::vector<uint32_t> tokens = job.submit.prompt;
    for (const uint32_t token : job.output()) tokens.push_back(token);
    if (tokens.size() < kBlockTokens) return false;
    frame::Reserve asked = reserve_frame(id, tokens);
    asked.salt = job.submit.salt;
    agent(to).send(asked);
    const auto reserved = agent(to).expect<frame::Reserved>();
    if (reserved.code != frame::ReserveCode::Ok) return false;
    if (reserved.blocks == reserved.cached_blocks) return true;
    frame::Push push = push_frame(1'000'000 + id, tokens, reserved, addresses[to % 2]);
    push.salt = job.submit.salt;
    agent(to + 1).send(push);
    EXPECT_EQ(agent(to + 1).finish_of(push.id).reason, FinishReason::Stop);
    return true;
  }

  // One life of each that has not ended, side by side in one engine. Their ids are those of the jobs and of the life.
  void live(std::vector<Job>& jobs, size_t life, std::mt19937& random, Counts& counts) {
    Client& here = agent(life);
    std::map<uint64_t, Job*> running;
    std::map<uint64_t, size_t> until;
    // Before anything else is said: what comes in the meantime is for the loop below.
    std::set<uint64_t> handed_over;
    for (const Job& job : jobs) {
      if (job.end.has_value() || life == 0 || random() % 2 == 0) continue;
      if (hand_over(job, job.submit.id * 100 + life, life)) handed_over.insert(job.submit.id);
    }
    counts.handed_over += handed_over.size();
    for (Job& job : jobs) {
      if (job.end.has_value()) continue;
      frame::Submit submit = job.submit;
      submit.id = job.submit.id * 100 + life;
      submit.output = job.output();
      const bool last = life >= job.cuts.size();
      if (!last) {
        submit.credit_tokens = static_cast<uint32_t>(job.cuts[life] - job.seen.size());
        until[submit.id] = job.cuts[life];
      }
      counts.resumed += submit.output.empty() ? 0 : 1;
      if (handed_over.contains(job.submit.id)) submit.reservation = submit.id;
      here.send(submit);
      running[submit.id] = &job;
      // One that is to say nothing more in this life is cut at once.
      if (!last && submit.credit_tokens == 0) here.send(frame::Cancel{submit.id});
    }
    for (auto waiting = running; !waiting.empty();) {
      const auto frame = here.receive();
      if (!frame.has_value()) throw std::runtime_error("the engine is gone");
      if (const auto* rejected = std::get_if<frame::Rejected>(&*frame)) throw std::runtime_error(rejected->message);
      here.note(*frame);
      if (const auto* tokens = std::get_if<frame::Tokens>(&*frame)) {
        for (const frame::Token& token : tokens->tokens) {
          const auto cut = until.find(token.id);
          if (cut == until.end()) continue;
          if (running.at(token.id)->seen.size() + here.tokens[token.id].size() == cut->second)
            here.send(frame::Cancel{token.id});
        }
      } else if (const auto* admitted = std::get_if<frame::Admitted>(&*frame); admitted && running.contains(admitted->id)) {
        const Job& job = *running.at(admitted->id);
        EXPECT_LE(admitted->cached_tokens, job.submit.prompt.size());
        EXPECT_EQ(admitted->hashes.size(), (job.submit.prompt.size() + job.seen.size()) / kBlockTokens);
        if (life > 0) counts.cached_tokens += admitted->cached_tokens;
      } else if (const auto* end = std::get_if<Finished>(&*frame)) {
        waiting.erase(end->id);
      }
    }
    for (const auto& [id, job] : running) {
      const size_t before = job->seen.size();
      for (Seen& one : seen_of(here.details[id])) job->seen.push_back(std::move(one));
      const Finished end = here.finished.at(id);
      EXPECT_EQ(end.prompt_tokens, static_cast<int32_t>(job->submit.prompt.size()));
      EXPECT_LE(end.cached_tokens, end.prompt_tokens);
      EXPECT_GE(end.output_tokens, static_cast<int32_t>(job->seen.size()));
      if (life < job->cuts.size()) continue;
      job->end = end;
      if (before > 0 && before == job->seen.size()) ++counts.over_already;
    }
  }

  // The sequences one after the other and uninterrupted; chooses where to cut them.
  void draw_cuts(Engine& engine, std::vector<Job>& jobs, std::vector<Job>& whole, std::mt19937& random) {
    Client one(engine.path());
    one.hello();
    if (grammars_available()) one.send(characters());
    whole = jobs;
    for (Job& job : whole) one.send(job.submit);
    for (size_t i = 0; i < jobs.size(); ++i) {
      whole[i].end = one.finish_of(jobs[i].submit.id);
      whole[i].seen = seen_of(one.details[jobs[i].submit.id]);
      // Where another token is allowed by the counts: its agent knows of the end of others.
      const frame::Submit& asked = jobs[i].submit;
      const size_t most = std::min({whole[i].seen.size(), static_cast<size_t>(asked.max_new_tokens - 1),
                                    kContext - asked.prompt.size() - 1});
      for (size_t cuts = 1 + random() % 3; cuts > 0; --cuts)
        jobs[i].cuts.push_back(random() % 4 == 0 ? most : random() % (most + 1));
      std::sort(jobs[i].cuts.begin(), jobs[i].cuts.end());
    }
  }

  void expect_the_same(std::vector<Job> jobs, Engine& one, std::mt19937& random, Counts& counts) {
    std::vector<Job> whole;
    draw_cuts(one, jobs, whole, random);
    for (size_t life = 0; life < 4; ++life) live(jobs, life, random, counts);
    for (size_t i = 0; i < jobs.size(); ++i) {
      SCOPED_TRACE("job " + std::to_string(jobs[i].submit.id));
      ASSERT_TRUE(jobs[i].end.has_value());
      EXPECT_EQ(jobs[i].seen, whole[i].seen);
      EXPECT_EQ(jobs[i].end->reason, whole[i].end->reason);
      EXPECT_EQ(jobs[i].end->prompt_tokens, whole[i].end->prompt_tokens);
      EXPECT_EQ(jobs[i].end->output_tokens, whole[i].end->output_tokens);
      ++counts.reasons[jobs[i].end->reason];
    }
    counts.preemptions += d->settled(holds_nothing).preemptions + p->settled(holds_nothing).preemptions;
  }

  std::vector<std::string> addresses;
};

void draw_sampling(frame::Submit& submit, std::mt19937& random) {
  const auto chance = [&](int percent) { return static_cast<int>(random() % 100) < percent; };
  const auto share = [&] { return static_cast<float>(1 + random() % 99) / 100.0f; };
  if (chance(70)) {
    submit.temperature = 0.3f + 3.0f * share();
    submit.seed = random();
    if (chance(40)) submit.top_p = share();
    if (chance(40)) submit.top_k = static_cast<uint32_t>(1 + random() % 60);
    if (chance(30)) submit.min_p = 0.3f * share();
  }
  if (chance(40)) submit.repetition_penalty = 1.0f + share();
  if (chance(40)) submit.presence_penalty = 2.0f * share();
  if (chance(40)) submit.frequency_penalty = 2.0f * share();
  if (chance(40)) submit.logprobs_top = static_cast<uint8_t>(random() % 6);
  if (chance(40)) submit.stop_ids = {static_cast<uint32_t>(random() % kVocab), static_cast<uint32_t>(random() % kVocab)};
  if (chance(20)) submit.bias = {{static_cast<uint32_t>(random() % kVocab), 8.0f * share()}};
  if (!grammars_available() || !chance(40)) return;
  using Kind = frame::GrammarKind;
  const frame::Grammar grammars[] = {
      {Kind::Regex, "(ab|cd?|e[0-9]{1,3}x)*"},
      {Kind::Regex, "[A-F]{3,12}"},
      {Kind::Lark, "start: \"[\" /[0-9]{1,9}/ (\",\" /[a-z]{1,4}/)* \"]\""},
      {Kind::JsonSchema, R"({"type":"object","properties":{"a":{"type":"array","items":{"type":"integer"}}},)"
                         R"("required":["a"],"additionalProperties":false})"},
  };
  submit.grammar = grammars[random() % std::size(grammars)];
  if (chance(50)) submit.stop_ids = {kEnd};
}

std::vector<Job> random_jobs(std::mt19937& random, uint64_t count) {
  std::vector<Job> jobs(count);
  for (uint64_t id = 1; id <= count; ++id) {
    // Half of them begin like others.
    std::vector<uint32_t> prompt;
    const size_t common = random() % 2 == 0 ? random() % 100 : 0, stem = random() % 3;
    for (size_t i = 0; i < common; ++i) prompt.push_back(static_cast<uint32_t>((i * 7 + stem) % kVocab));
    for (size_t more = 1 + random() % 60; more > 0; --more) prompt.push_back(static_cast<uint32_t>(random() % kVocab));
    frame::Submit& submit = jobs[id - 1].submit;
    submit = submit_frame(id, prompt, 1 + static_cast<uint32_t>(random() % 70));
    // To the end of the context.
    if (random() % 8 == 0) submit.max_new_tokens = 10'000;
    submit.salt = random() % 4 == 0 ? 1 : 0;
    submit.priority = static_cast<int32_t>(random() % 3) - 1;
    submit.tenant = random() % 2;
    draw_sampling(submit, random);
  }
  return jobs;
}

TEST_F(Resuming, AnyScheduleSaysWhatOneUninterruptedRunSays) {
  const uint32_t seed = std::random_device{}();
  SCOPED_TRACE("seed " + std::to_string(seed));
  std::mt19937 random(seed);
  Counts counts;
  for (const int32_t blocks : {17, 30, 120}) {
    const ServerConfig config{.sequences_max = 4, .step_tokens_max = kStepTokens};
    Engine one(fake_runner(200), config, folder / "one.sock");
    start_both([&] { return fake_runner(blocks); });
    expect_the_same(random_jobs(random, 60), one, random, counts);
    TearDown();
    addresses.clear();
  }
  EXPECT_GT(counts.preemptions, 10u);
  EXPECT_GT(counts.cached_tokens, 1000u);
  EXPECT_GT(counts.handed_over, 30u);
  EXPECT_GT(counts.resumed, 150u);
  EXPECT_GT(counts.reasons[FinishReason::Stop], 20);
  EXPECT_GT(counts.reasons[FinishReason::Length], 20);
  if (grammars_available()) {
    EXPECT_GT(counts.over_already, 0u);
  }
}

TEST_F(Resuming, ARealModelGoesOnBitForBit) {
  const TempFile file(random_model({64, 128, 2, 4, 2, 32, kVocab, kContext}, TensorType::q8_0, TensorType::q8_0, true, 5));
  const uint32_t seed = std::random_device{}();
  SCOPED_TRACE("seed " + std::to_string(seed));
  std::mt19937 random(seed);
  Counts counts;
  for (const KvType type : {KvType::f16, KvType::q8_0}) {
    const auto load = [&] {
      LoadOptions options;
      options.path = file.path();
      options.threads = 1;
      options.blocks_total = 30;
      options.step_tokens_max = kStepTokens;
      options.step_sequences_max = 4;
      options.kv_type = type;
      return load_model(options);
    };
    Engine one(load(), {.sequences_max = 4, .step_tokens_max = kStepTokens}, folder / "one.sock");
    start_both(load);
    expect_the_same(random_jobs(random, 30), one, random, counts);
    TearDown();
    addresses.clear();
  }
  EXPECT_GT(counts.handed_over, 10u);
  EXPECT_GT(counts.resumed, 50u);
}

}  // namespace
}  // namespace penstock
