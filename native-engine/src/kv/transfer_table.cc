// The right to write into blocks from outside. See transfer_table.h.
#include "kv/transfer_table.h"

#include <stdexcept>
#include <utility>

namespace penstock {
bool equal_secrets(const TransferSecret& a, const TransferSecret& b) {
  uint8_t difference = 0;
  for (size_t i = 0; i < a.size(); ++i) difference |= static_cast<uint8_t>(a[i] ^ b[i]);
  return difference == 0;
}

void TransferTable::open(const TransferGrant& grant, uint64_t content, std::vector<int32_t> blocks) {
  std::lock_guard lock(mutex_);
  const auto [at, added] = entries_.try_emplace(grant.id, Entry{grant, content, std::move(blocks)});
  if (!added) throw std::logic_error("a transfer is opened twice");
}

bool TransferTable::close(uint64_t id) {
  std::lock_guard lock(mutex_);
  const auto found = entries_.find(id);
  if (found == entries_.end()) return true;
  if (found->second.writing) {
    found->second.closing = true;
    return false;
  }
  entries_.erase(found);
  return true;
}

std::optional<TransferRefusal> TransferTable::attach(const TransferGrant& grant, uint64_t content,
                                                      Writer& writer) {
  std::lock_guard lock(mutex_);
  const auto found = entries_.find(grant.id);
  if (found == entries_.end()) return TransferRefusal::Unknown;
  Entry& entry = found->second;
  if (entry.grant.generation != grant.generation) return TransferRefusal::Stale;
  if (!equal_secrets(entry.grant.secret, grant.secret)) return TransferRefusal::Forbidden;
  if (entry.content != content) return TransferRefusal::Content;
  if (entry.writing) return TransferRefusal::Busy;
  entry.writing = true;
  writer.blocks = entry.blocks;
  return std::nullopt;
}

bool TransferTable::may_write(uint64_t id, uint64_t generation) const {
  std::lock_guard lock(mutex_);
  const auto found = entries_.find(id);
  return found != entries_.end() && found->second.grant.generation == generation && !found->second.closing;
}

bool TransferTable::detach(uint64_t id, uint64_t generation, bool complete, TransferNote note) {
  {
    std::lock_guard lock(mutex_);
    const auto found = entries_.find(id);
    if (found == entries_.end() || found->second.grant.generation != generation || !found->second.writing)
      throw std::logic_error("a writer leaves that was not there");
    // Whoever closed it does not want it any more, also where the last byte came first.
    complete = complete && !found->second.closing;
    entries_.erase(found);
  }
  if (!complete) note.clear();
  ended_(id, generation, complete, std::move(note));
  return complete;
}

}  // namespace penstock
