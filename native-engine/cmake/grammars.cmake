# Builds grammar/ (Rust) into penstock_grammar, where cargo and the crates of its lock file can be had. Without them the
# engine is complete but for grammars, and says so in READY.
set(grammar_crate ${CMAKE_CURRENT_SOURCE_DIR}/grammar)
set(grammar_target ${CMAKE_CURRENT_BINARY_DIR}/cargo)
set(grammars_missing "")
if(NOT PENSTOCK_GRAMMARS)
  set(grammars_missing "switched off")
else()
  find_program(PENSTOCK_CARGO cargo HINTS $ENV{CARGO_HOME}/bin $ENV{HOME}/.cargo/bin)
  if(NOT PENSTOCK_CARGO)
    set(grammars_missing "cargo cannot be found")
  else()
    # What is on this machine already is enough; only else the registry is asked.
    set(fetch ${PENSTOCK_CARGO} fetch --quiet --locked --manifest-path ${grammar_crate}/Cargo.toml)
    execute_process(COMMAND ${fetch} --offline RESULT_VARIABLE fetched OUTPUT_QUIET ERROR_QUIET TIMEOUT 20)
    if(NOT fetched EQUAL 0)
      execute_process(COMMAND ${fetch} RESULT_VARIABLE fetched OUTPUT_QUIET ERROR_QUIET TIMEOUT 80)
    endif()
    if(NOT fetched EQUAL 0)
      set(grammars_missing "its crates cannot be fetched")
    endif()
  endif()
endif()
if(grammars_missing)
  message(STATUS "Grammars: off (${grammars_missing})")
  set(PENSTOCK_GRAMMARS_BUILT OFF)
  return()
endif()

message(STATUS "Grammars: on")
set(PENSTOCK_GRAMMARS_BUILT ON)
set(grammar_library ${grammar_target}/release/libpenstock_grammar.a)
add_custom_command(
  OUTPUT ${grammar_library}
  COMMAND ${CMAKE_COMMAND} -E env CARGO_TARGET_DIR=${grammar_target} ${PENSTOCK_CARGO} build --quiet --release --locked
          --offline --manifest-path ${grammar_crate}/Cargo.toml
  DEPENDS ${grammar_crate}/Cargo.toml ${grammar_crate}/Cargo.lock ${grammar_crate}/src/lib.rs
  COMMENT "Compiling the grammar library"
  VERBATIM)
add_custom_target(penstock_grammar_crate DEPENDS ${grammar_library})
add_dependencies(penstock_grammar penstock_grammar_crate)
target_compile_definitions(penstock_grammar PRIVATE PENSTOCK_WITH_GRAMMARS)
target_link_libraries(penstock_grammar PUBLIC ${grammar_library} ${CMAKE_DL_LIBS})
