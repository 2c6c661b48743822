#include "simt/symbols.h"

#include <cxxabi.h>
#include <elf.h>
#include <link.h>

#include <algorithm>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <fstream>
#include <vector>

namespace simt {
namespace {
struct Symbol {
  uintptr_t begin, end;
  const char* name;
};

// The executable's functions by address, and its bytes, which have the names. For ever: a report may be made at any time.
const std::vector<Symbol>& symbols() {
  static std::vector<Symbol>* found = nullptr;
  static std::string* image = nullptr;
  static const bool is_read = [] {
    found = new std::vector<Symbol>;
    image = new std::string;
    uintptr_t base = 0;
    dl_iterate_phdr(
        [](dl_phdr_info* info, size_t, void* data) {
          *static_cast<uintptr_t*>(data) = info->dlpi_addr;
          return 1;  // the first is the executable
        },
        &base);
    std::ifstream file("/proc/self/exe", std::ios::binary);
    image->assign(std::istreambuf_iterator<char>(file), {});
    if (image->size() < sizeof(ElfW(Ehdr)) || image->compare(0, SELFMAG, ELFMAG) != 0) return false;
    ElfW(Ehdr) header;
    std::memcpy(&header, image->data(), sizeof header);
    std::vector<ElfW(Shdr)> sections(header.e_shnum);
    if (header.e_shoff + sections.size() * sizeof(ElfW(Shdr)) > image->size()) return false;
    std::memcpy(sections.data(), image->data() + header.e_shoff, sections.size() * sizeof(ElfW(Shdr)));
    for (const auto& section : sections) {
      if (section.sh_type != SHT_SYMTAB || section.sh_link >= sections.size()) continue;
      const char* const names = image->data() + sections[section.sh_link].sh_offset;
      for (size_t at = 0; at + sizeof(ElfW(Sym)) <= section.sh_size; at += sizeof(ElfW(Sym))) {
        ElfW(Sym) symbol;
        std::memcpy(&symbol, image->data() + section.sh_offset + at, sizeof symbol);
        if ((symbol.st_info & 0xF) != STT_FUNC || symbol.st_value == 0) continue;
        found->push_back({base + symbol.st_value, base + symbol.st_value + std::max<uintptr_t>(symbol.st_size, 1),
                          names + symbol.st_name});
      }
    }
    std::sort(found->begin(), found->end(), [](const Symbol& a, const Symbol& b) { return a.begin < b.begin; });
    return true;
  }();
  (void)is_read;
  return *found;
}

std::string demangled(const char* name) {
  int status = 0;
  char* const plain = abi::__cxa_demangle(name, nullptr, nullptr, &status);
  std::string text = status == 0 ? plain : name;
  std::free(plain);
  // Parameters repeat what the name says; a kernel's are long. "(anonymous namespace)" is not one of them.
  int depth = 0;
  for (size_t i = 0; i < text.size(); ++i) {
    if (text[i] == '<') ++depth;
    if (text[i] == '>') --depth;
    if (text[i] != '(' || depth != 0) continue;
    if (text.compare(i, 21, "(anonymous namespace)") == 0) continue;
    text.resize(i);
    break;
  }
  return text;
}
}  // namespace

std::string symbol_at(const void* address) {
  const uintptr_t at = reinterpret_cast<uintptr_t>(address);
  const std::vector<Symbol>& all = symbols();
  auto next = std::upper_bound(all.begin(), all.end(), at, [](uintptr_t a, const Symbol& s) { return a < s.begin; });
  char text[40];
  if (next == all.begin() || std::prev(next)->end <= at) {
    std::snprintf(text, sizeof text, "%p", address);
    return text;
  }
  const Symbol& symbol = *std::prev(next);
  std::string name = demangled(symbol.name);
  if (at != symbol.begin) {
    std::snprintf(text, sizeof text, " + 0x%zx", static_cast<size_t>(at - symbol.begin));
    name += text;
  }
  return name;
}

}  // namespace simt
