// Names of functions in this executable, for reports: read from its symbol table when first asked for.
#pragma once

#include <string>

namespace simt {

// "name" or "name + 0x12", demangled, without parameters; the address where there is no name.
std::string symbol_at(const void* address);

}  // namespace simt
