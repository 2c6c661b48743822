// Requests of all kinds, computed by one engine, or by two of which one hands prompts over to the other, for tests: both have to say
// the same.
#pragma once

#include <algorithm>
#include <map>
#include <random>
#include <stdexcept>
#include <string>
#include <utility>
#include <vector>

#include "handoff_serving.h"

namespace penstock::testing {

struct Job {
  frame::Submit submit;
  bool handed_over = false, draws = false, cancelled_push = false, released = false;
  bool rival = false;  // P computes the same prompt for somebody else at the same time, from its first row on
};

// Runs everything on one engine, and returns what each said.
inline std::map<uint64_t, std::vector<int32_t>> aggregated(Engine& engine, const std::vector<Job>& jobs) {
  Client agent(engine.path());
  agent.hello();
  for (Job job : jobs) {
    job.submit.reservation = 0;
    agent.send(job.submit);
  }
  for (const Job& job : jobs) agent.finish_of(job.submit.id);
  return agent.tokens;
}

inline std::vector<Job> random_jobs(std::mt19937& random, int count, int32_t vocab, size_t prompt_max) {
  const auto pick = [&](size_t low, size_t high) { return low + random() % (high - low + 1); };
  std::vector<Job> jobs;
  for (uint64_t id = 1; id <= static_cast<uint64_t>(count); ++id) {
    Job job;
    // Half of them begin like others.
    const size_t common = random() % 2 == 0 ? pick(1, prompt_max) : 0;
    std::vector<uint32_t> prompt;
    const size_t stem = random() % 3;
    for (size_t i = 0; i < common; ++i) prompt.push_back(static_cast<uint32_t>((i * 7 + stem) % static_cast<size_t>(vocab)));
    for (const size_t total = std::max(common, pick(1, prompt_max)); prompt.size() < total;)
      prompt.push_back(static_cast<uint32_t>(random() % static_cast<size_t>(vocab)));
    job.submit = submit_frame(id, prompt, static_cast<uint32_t>(pick(1, 20)));
    if (random() % 2 == 0) {
      job.submit.temperature = 0.8f;
      job.submit.seed = random();
    }
    job.handed_over = random() % 4 != 0;
    job.draws = random() % 4 != 0;
    job.cancelled_push = random() % 6 == 0;
    job.released = random() % 8 == 0;
    job.rival = random() % 4 == 0;
    jobs.push_back(std::move(job));
  }
  return jobs;
}

// The same over both engines, with six of them under way at a time.
inline std::map<uint64_t, std::vector<int32_t>> handed_over(Engine& prefill, Engine& decode, const std::vector<Job>& jobs,
                                                            uint64_t& cached_tokens) {
  Client p(prefill.path()), d(decode.path());
  p.hello();
  const std::string address = d.hello().kv_address;
  std::map<uint64_t, const Job*> reserving, pushing;
  size_t next = 0, ended = 0;
  const auto submit = [&](const Job& job) {
    frame::Submit taken_over = job.submit;
    taken_over.reservation = job.handed_over ? taken_over.id : 0;
    d.send(taken_over);
  };
  while (ended < jobs.size()) {
    while (next < jobs.size() && next - ended < 6) {
      const Job& job = jobs[next++];
      if (!job.handed_over || job.submit.prompt.size() < kBlockTokens) {
        submit(job);
        continue;
      }
      reserving[job.submit.id] = &job;
      d.send(reserve_frame(job.submit.id, job.submit.prompt));
    }
    const auto frame = d.receive();
    if (!frame.has_value()) throw std::runtime_error("D is gone");
    d.note(*frame);
    if (std::holds_alternative<Finished>(*frame)) ++ended;
    if (const auto* admitted = std::get_if<frame::Admitted>(&*frame)) cached_tokens += admitted->cached_tokens;
    if (const auto* reserved = std::get_if<frame::Reserved>(&*frame)) {
      const Job& job = *reserving.at(reserved->id);
      if (reserved->code != frame::ReserveCode::Ok || reserved->blocks == reserved->cached_blocks) {
        submit(job);
        continue;
      }
      pushing[reserved->id] = &job;
      frame::Push push = push_frame(reserved->id, job.submit.prompt, *reserved, address);
      // Where the rest of the prompt is not handed over, there is nothing to draw behind.
      const bool whole = push.tokens.size() == job.submit.prompt.size();
      if (job.draws && whole) push.draw = draw_of(job.submit, {job.submit.seed});
      if (job.rival) {
        frame::Submit rival = submit_frame(1000 + push.id, push.tokens, 1);
        rival.pooling = Pooling::mean;
        p.send(rival);
      }
      p.send(push);
      if (job.cancelled_push) p.send(frame::Cancel{reserved->id});
      if (job.released) d.send(frame::Release{reserved->id});
      // What was released is never heard of again, and one whose push was cancelled before it began is the agent's to
      // release; for both it goes on at once.
      if (job.released || job.cancelled_push) {
        pushing.erase(reserved->id);
        submit(job);
      }
    }
    if (const auto* transferred = std::get_if<frame::Transferred>(&*frame)) {
      const auto found = pushing.find(transferred->id);
      if (found == pushing.end()) continue;
      submit(*found->second);
      pushing.erase(found);
    }
  }
  const auto said = d.tokens;
  d.settled(holds_nothing);
  p.settled(holds_nothing);
  return said;
}

}  // namespace penstock::testing
