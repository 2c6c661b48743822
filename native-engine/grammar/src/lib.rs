//! Grammars as token masks, for C++. Owns the translation between llguidance and a handful of C functions
//! (src/grammar/matcher.cc calls them), the limits of a grammar, and that nothing unwinds or overflows a stack across
//! the border. Who computes which mask when is the engine's.
//!
//! Every function takes pointers made by this file or by the caller for the duration of the call. An object is used by
//! one thread at a time, except a vocabulary, which any number may read.

use std::ffi::c_char;
use std::panic::{catch_unwind, AssertUnwindSafe};
use std::sync::Arc;

use llguidance::api::{ParserLimits, StopReason, TopLevelGrammar};
use llguidance::toktrie::{ApproximateTokEnv, TokEnv, TokRxInfo, TokTrie};
use llguidance::{Matcher, ParserFactory};

/// Compilers of grammars walk them recursively. This is virtual memory: only what is used becomes real.
const COMPILE_STACK_BYTES: usize = 256 << 20;
/// A state of a lexer takes 1 to 2 KiB: a sequence's lexer stays under about 32 MiB. Schemas in use need hundreds.
const LEXER_STATES_MAX: usize = 16_384;
/// Symbols in the productions of one grammar; the largest schemas in public use have 200,000.
const GRAMMAR_SYMBOLS_MAX: usize = 250_000;
/// Work of one mask: the worst grammars take some tens of milliseconds before one of these ends them. Schemas in use
/// stay below a hundredth of each.
const STEP_LEXER_FUEL: u64 = 100_000;
const STEP_ITEMS_MAX: usize = 20_000;
const ROW_ITEMS_MAX: usize = 1000;
/// Between two tokens of JSON: room for a line break and ten levels of indentation. Without a bound a model that has
/// fallen to writing spaces writes them until its budget ends.
const JSON_WHITESPACE: &str = r"[\x20\x0A\x0D\x09]{1,21}";

pub struct Vocabulary {
    factory: ParserFactory,
}

const KIND_JSON_SCHEMA: u8 = 1;
const KIND_REGEX: u8 = 2;
const KIND_LARK: u8 = 3;

/// What a matcher says of its state after a call.
const STATE_OPEN: i32 = 0;
const STATE_COMPLETE: i32 = 1;
const STATE_FAILED: i32 = 2;

/// tokens: `count` strings one after the other in `bytes`, of `lengths[i]` bytes; an empty one is never allowed.
/// end_ids: `end_count` >= 1 of them, below `count`. Returns null on failure, with a message in `error`.
///
/// # Safety
/// The pointers are valid for the lengths that come with them.
#[no_mangle]
pub unsafe extern "C" fn penstock_vocabulary_new(
    bytes: *const u8,
    lengths: *const u32,
    count: usize,
    end_ids: *const u32,
    end_count: usize,
    error: *mut c_char,
    error_bytes: usize,
) -> *mut Vocabulary {
    let lengths = unsafe { std::slice::from_raw_parts(lengths, count) };
    let end_ids = unsafe { std::slice::from_raw_parts(end_ids, end_count) };
    let total = lengths.iter().map(|&length| length as usize).sum();
    let bytes = unsafe { std::slice::from_raw_parts(bytes, total) };
    let made = guarded(|| {
        let mut rest = bytes;
        let words: Vec<Vec<u8>> = lengths
            .iter()
            .map(|&length| {
                let (word, after) = rest.split_at(length as usize);
                rest = after;
                // The first byte of a control token inside the trie. No UTF-8 text has it, so nothing is lost.
                if word.first() == Some(&TokTrie::SPECIAL_TOKEN_MARKER) {
                    Vec::new()
                } else {
                    word.to_vec()
                }
            })
            .collect();
        let trie = TokTrie::from(&TokRxInfo::new(count as u32, end_ids[0]), &words).with_eos_tokens(end_ids);
        let environment: TokEnv = Arc::new(ApproximateTokEnv::new(trie));
        let mut factory = ParserFactory::new_simple(&environment).map_err(|e| e.to_string())?;
        factory.quiet();
        *factory.limits_mut() = ParserLimits {
            max_lexer_states: LEXER_STATES_MAX,
            max_grammar_size: GRAMMAR_SYMBOLS_MAX,
            step_lexer_fuel: STEP_LEXER_FUEL,
            step_max_items: STEP_ITEMS_MAX,
            max_items_in_row: ROW_ITEMS_MAX,
            verbose_errors: false,
            ..ParserLimits::default()
        };
        Ok(Vocabulary { factory })
    });
    unsafe { give(made, error, error_bytes) }
}

/// # Safety
/// `vocabulary` is null or was made by `penstock_vocabulary_new`, and is freed once.
#[no_mangle]
pub unsafe extern "C" fn penstock_vocabulary_free(vocabulary: *mut Vocabulary) {
    if !vocabulary.is_null() {
        drop(unsafe { Box::from_raw(vocabulary) });
    }
}

/// Compiles a grammar. May take hundreds of milliseconds. Returns null on failure, with a message in `error`.
///
/// # Safety
/// The pointers are valid for the lengths that come with them.
#[no_mangle]
pub unsafe extern "C" fn penstock_matcher_new(
    vocabulary: *const Vocabulary,
    kind: u8,
    text: *const u8,
    text_bytes: usize,
    error: *mut c_char,
    error_bytes: usize,
) -> *mut Matcher {
    let vocabulary = unsafe { &*vocabulary };
    let text = unsafe { std::slice::from_raw_parts(text, text_bytes) };
    let made = std::thread::scope(|scope| {
        std::thread::Builder::new()
            .name("grammar".into())
            .stack_size(COMPILE_STACK_BYTES)
            .spawn_scoped(scope, || guarded(|| compile(vocabulary, kind, text)))
            .map_err(|e| format!("no thread to compile a grammar: {e}"))
            .and_then(|thread| thread.join().unwrap_or_else(|panic| Err(panic_message(panic))))
    });
    unsafe { give(made, error, error_bytes) }
}

fn compile(vocabulary: &Vocabulary, kind: u8, text: &[u8]) -> Result<Matcher, String> {
    let text = std::str::from_utf8(text).map_err(|_| "a grammar must be UTF-8".to_string())?;
    let grammar = match kind {
        KIND_JSON_SCHEMA => TopLevelGrammar::from_json_schema(schema(text)?),
        KIND_REGEX => TopLevelGrammar::from_regex(text),
        KIND_LARK => TopLevelGrammar::from_lark(text.to_string()),
        _ => return Err(format!("there is no grammar kind {kind}")),
    };
    let mut matcher = Matcher::new(vocabulary.factory.create_parser(grammar));
    if let Some(message) = matcher.get_error() {
        return Err(message);
    }
    // Found here, while it can still be refused, what would otherwise end the sequence at its first token.
    let mask = matcher.compute_mask_or_eos().map_err(|e| e.to_string())?;
    if mask.is_zero() {
        return Err("no text satisfies the grammar".to_string());
    }
    Ok(matcher)
}

fn schema(text: &str) -> Result<serde_json::Value, String> {
    let mut schema: serde_json::Value =
        serde_json::from_str(text).map_err(|e| format!("the schema is not JSON: {e}"))?;
    if let Some(object) = schema.as_object_mut() {
        object.entry("x-guidance").or_insert_with(|| serde_json::json!({ "whitespace_pattern": JSON_WHITESPACE }));
    }
    Ok(schema)
}

/// A matcher at the same point that shares nothing with the first.
///
/// # Safety
/// `matcher` was made by this file.
#[no_mangle]
pub unsafe extern "C" fn penstock_matcher_clone(matcher: *const Matcher) -> *mut Matcher {
    let matcher = unsafe { &*matcher };
    guarded(|| Ok(matcher.deep_clone())).map_or(std::ptr::null_mut(), |clone| Box::into_raw(Box::new(clone)))
}

/// # Safety
/// `matcher` is null or was made by this file, and is freed once.
#[no_mangle]
pub unsafe extern "C" fn penstock_matcher_free(matcher: *mut Matcher) {
    if !matcher.is_null() {
        let _ = catch_unwind(AssertUnwindSafe(|| drop(unsafe { Box::from_raw(matcher) })));
    }
}

/// Writes which tokens may come next, token i at bit i % 32 of mask[i / 32]; words behind the vocabulary become 0. End
/// tokens are among them where the text may end here. Returns a STATE.
///
/// # Safety
/// `mask` has `words` words.
#[no_mangle]
pub unsafe extern "C" fn penstock_matcher_mask(matcher: *mut Matcher, mask: *mut u32, words: usize) -> i32 {
    let matcher = unsafe { &mut *matcher };
    let out = unsafe { std::slice::from_raw_parts_mut(mask, words) };
    out.fill(0);
    let made = guarded(|| matcher.compute_mask_or_eos().map_err(|e| e.to_string()));
    match made {
        Ok(allowed) => {
            let allowed = allowed.as_slice();
            let shared = allowed.len().min(words);
            out[..shared].copy_from_slice(&allowed[..shared]);
            state(matcher)
        }
        Err(_) => STATE_FAILED,
    }
}

/// Moves on by a token that the last mask allowed. Returns a STATE: complete when nothing may follow.
///
/// # Safety
/// `matcher` was made by this file.
#[no_mangle]
pub unsafe extern "C" fn penstock_matcher_consume(matcher: *mut Matcher, token: u32) -> i32 {
    let matcher = unsafe { &mut *matcher };
    match guarded(|| matcher.consume_token(token).map_err(|e| e.to_string())) {
        Ok(()) => state(matcher),
        Err(_) => STATE_FAILED,
    }
}

/// Why the state is failed, in words; empty where it is not.
///
/// # Safety
/// `error` has `error_bytes` bytes.
#[no_mangle]
pub unsafe extern "C" fn penstock_matcher_error(matcher: *const Matcher, error: *mut c_char, error_bytes: usize) {
    let matcher = unsafe { &*matcher };
    unsafe { write_message(&matcher.get_error().unwrap_or_default(), error, error_bytes) };
}

fn state(matcher: &Matcher) -> i32 {
    match matcher.stop_reason() {
        StopReason::NotStopped => STATE_OPEN,
        reason if reason.is_ok() => STATE_COMPLETE,
        _ => STATE_FAILED,
    }
}

/// A panic of the library becomes a message: unwinding into C++ would end the process.
fn guarded<T>(call: impl FnOnce() -> Result<T, String>) -> Result<T, String> {
    catch_unwind(AssertUnwindSafe(call)).unwrap_or_else(|panic| Err(panic_message(panic)))
}

fn panic_message(panic: Box<dyn std::any::Any + Send>) -> String {
    let text = panic
        .downcast_ref::<&str>()
        .map(|text| (*text).to_string())
        .or_else(|| panic.downcast_ref::<String>().cloned())
        .unwrap_or_else(|| "of no known kind".to_string());
    format!("the grammar compiler failed: {text}")
}

unsafe fn give<T>(made: Result<T, String>, error: *mut c_char, error_bytes: usize) -> *mut T {
    match made {
        Ok(made) => Box::into_raw(Box::new(made)),
        Err(message) => {
            unsafe { write_message(&message, error, error_bytes) };
            std::ptr::null_mut()
        }
    }
}

/// The first line, without a backtrace, cut at a character, ended by 0.
unsafe fn write_message(message: &str, error: *mut c_char, error_bytes: usize) {
    if error_bytes == 0 {
        return;
    }
    let line = message.lines().next().unwrap_or_default();
    let mut end = line.len().min(error_bytes - 1);
    while !line.is_char_boundary(end) {
        end -= 1;
    }
    unsafe {
        std::ptr::copy_nonoverlapping(line.as_ptr(), error.cast::<u8>(), end);
        *error.add(end) = 0;
    }
}
