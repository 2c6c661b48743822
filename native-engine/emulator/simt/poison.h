// Memory that AddressSanitizer is told nobody may touch; without it these say nothing. Owns the two words.
#pragma once

#include <cstddef>

#include "simt/fiber.h"

#if SIMT_ASAN
#include <sanitizer/asan_interface.h>
#define SIMT_POISON(address, bytes) __asan_poison_memory_region(address, bytes)
#define SIMT_UNPOISON(address, bytes) __asan_unpoison_memory_region(address, bytes)
#else
#define SIMT_POISON(address, bytes) ((void)(address), (void)(bytes))
#define SIMT_UNPOISON(address, bytes) ((void)(address), (void)(bytes))
#endif
