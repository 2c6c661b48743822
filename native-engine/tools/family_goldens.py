# Golden logits of every model family, computed by Hugging Face transformers in double precision on small models with
# weights that both sides make from their names. Owns the cases; tests/model_family_test.cc reads the result.
#   python family_goldens.py > ../tests/fixtures/families.json      (needs torch and transformers)
import json
import sys

import numpy
import torch
from transformers import AutoConfig, AutoModelForCausalLM

PROMPT_TOKENS = 150
POSITIONS = [0, 20, 149]


def words(seed: int, count: int) -> numpy.ndarray:
    """SplitMix64: the same integers as in the test."""
    with numpy.errstate(over="ignore"):
        x = numpy.uint64(seed) + numpy.arange(1, count + 1, dtype=numpy.uint64) * numpy.uint64(0x9E3779B97F4A7C15)
        x = (x ^ (x >> numpy.uint64(30))) * numpy.uint64(0xBF58476D1CE4E5B9)
        x = (x ^ (x >> numpy.uint64(27))) * numpy.uint64(0x94D049BB133111EB)
        return x ^ (x >> numpy.uint64(31))


def fnv1a(text: str) -> int:
    value = 0xCBF29CE484222325
    for byte in text.encode():
        value = ((value ^ byte) * 0x100000001B3) & 0xFFFFFFFFFFFFFFFF
    return value


def weights(name: str, shape: tuple) -> torch.Tensor:
    """Few enough bits to be exact in F32, F16 and BF16 alike."""
    count = int(numpy.prod(shape))
    units = (words(fnv1a(name), count) >> numpy.uint64(56)).astype(numpy.float64) / 128 - 1
    if name.endswith("norm.weight"):
        values = 1 + numpy.floor(units * 16) / 64
    elif name.endswith(".bias"):
        values = units / 2
    else:
        values = units * 2.0 ** -2
    return torch.from_numpy(values.reshape(shape))


def case(name: str, model_type: str, architecture: str, **changes) -> dict:
    settings = dict(
        model_type=model_type, architectures=[architecture], hidden_size=64, intermediate_size=96, num_hidden_layers=3,
        num_attention_heads=4, num_key_value_heads=2, vocab_size=96, max_position_embeddings=256, rms_norm_eps=1e-5,
        rope_theta=10000.0, hidden_act="silu", tie_word_embeddings=False, bos_token_id=1, eos_token_id=2,
    )
    settings.update(changes)
    kwargs = json.loads(json.dumps({k: v for k, v in settings.items() if k != "model_type"}))
    config = AutoConfig.for_model(model_type, **kwargs)
    config._attn_implementation = "eager"
    model = AutoModelForCausalLM.from_config(config, dtype=torch.float64).eval()
    state = {}
    for key, value in model.state_dict().items():
        state[key] = weights(key, tuple(value.shape))
    if settings["tie_word_embeddings"]:
        state["lm_head.weight"] = state["model.embed_tokens.weight"]
    model.load_state_dict(state)
    prompt = [int(v) for v in words(fnv1a(name), PROMPT_TOKENS) % numpy.uint64(settings["vocab_size"])]
    with torch.no_grad():
        logits = model(torch.tensor([prompt])).logits[0]
    config.architectures = [architecture]
    return dict(
        name=name,
        config=json.dumps(settings),
        config_v5=config.to_json_string(use_diff=False),
        prompt=prompt,
        positions=POSITIONS,
        logits=[[float(f"{v:.9g}") for v in logits[p].tolist()] for p in POSITIONS],
    )


LLAMA = ("llama", "LlamaForCausalLM")
QWEN2 = ("qwen2", "Qwen2ForCausalLM")
CASES = [
    case("llama", *LLAMA),
    case("llama_tied_wide_heads", *LLAMA, tie_word_embeddings=True, head_dim=32, num_key_value_heads=4),
    case("llama_linear", *LLAMA, rope_scaling=dict(rope_type="linear", factor=4.0)),
    case("llama3", *LLAMA, rope_theta=500000.0, rope_scaling=dict(
        rope_type="llama3", factor=8.0, low_freq_factor=1.0, high_freq_factor=4.0,
        original_max_position_embeddings=64)),
    case("llama_yarn", *LLAMA, max_position_embeddings=4096, rope_scaling=dict(
        rope_type="yarn", factor=8.0, original_max_position_embeddings=512, beta_fast=16.0, beta_slow=2.0,
        attention_factor=1.25, truncate=False)),
    case("mistral_window", "mistral", "MistralForCausalLM", sliding_window=19),
    case("mistral", "mistral", "MistralForCausalLM", sliding_window=None, head_dim=24, rope_theta=1000000.0),
    case("qwen2", *QWEN2, use_sliding_window=False, sliding_window=16, max_window_layers=0),
    case("qwen2_window", *QWEN2, use_sliding_window=True, sliding_window=40, max_window_layers=0),
    case("qwen2_yarn", *QWEN2, tie_word_embeddings=True, rope_theta=1000000.0, rope_scaling=dict(
        type="yarn", factor=4.0, original_max_position_embeddings=40), max_position_embeddings=160),
    case("qwen3", "qwen3", "Qwen3ForCausalLM", head_dim=32, attention_bias=False, tie_word_embeddings=True,
         rope_theta=1000000.0),
]
json.dump(dict(source="transformers " + __import__("transformers").__version__, cases=CASES), sys.stdout, indent=1)
