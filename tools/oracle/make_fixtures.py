"""Makes the tiny random checkpoints of test/fixtures/models and what transformers computes with them.

Usage: python tools/oracle/make_fixtures.py [name ...]      (all fixtures by default; CPU, under two minutes)

Each fixture is a folder that looks like a Hugging Face download, plus

  oracle.json                 what transformers answers: see `oracle()` for the fields
  config-transformers-4.json  the same configuration in the older spelling (some fixtures)

and beside the folders rope.json: inverse frequencies for rope settings that no fixture has, at real sizes.

Everything is computed in float32 with float32 rope tables, also for the BF16 and F16 checkpoints, whose weights
are rounded first: casting a loaded model would round the rope tables too. The weights are drawn from a seed so that
logits spread widely; a seed is taken only where the greedy continuations of all prompts stay clear of ties, so that
an engine that rounds differently must still choose the same tokens.
"""

import json
import sys
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM, LlamaConfig, MistralConfig, Qwen2Config, Qwen3Config
from transformers.models.llama.modeling_llama import LlamaRotaryEmbedding

ROOT = Path(__file__).resolve().parents[2] / "test" / "fixtures" / "models"
PROMPT_LENGTHS = (5, 33, 70)
CONTINUATION = 64
# A thousandth of the logits, and hundreds of times the error that an honest float32 engine makes.
MARGIN_LEAST = 5e-3
# A continuation that repeats one token would prove little.
DISTINCT_LEAST = 12
SEEDS_TRIED = 400
PROMPTS_TRIED = 6

SMALL = dict(vocab_size=64, hidden_size=32, intermediate_size=36, num_hidden_layers=2, num_attention_heads=4,
             max_position_embeddings=256, bos_token_id=1, eos_token_id=2)

FIXTURES = {
    # The plainest form: as many key-value heads as heads, a head of its own. Its epsilon is large enough to be seen.
    "llama2": dict(config=LlamaConfig, dtype=torch.float32, v4=True, options=dict(
        SMALL, num_hidden_layers=1, num_key_value_heads=4, intermediate_size=56, rms_norm_eps=1e-2)),
    "llama3": dict(config=LlamaConfig, dtype=torch.float32, v4=True, options=dict(
        SMALL, num_key_value_heads=2, tie_word_embeddings=True, eos_token_id=[2, 5, 7], rms_norm_eps=1e-5,
        rope_parameters=dict(rope_type="llama3", rope_theta=500.0, factor=8.0, low_freq_factor=1.0,
                             high_freq_factor=4.0, original_max_position_embeddings=64))),
    # Also the only one with biases on all four attention projections.
    "llama-linear": dict(config=LlamaConfig, dtype=torch.float32, v4=True, options=dict(
        SMALL, hidden_size=24, num_attention_heads=3, num_key_value_heads=1, tie_word_embeddings=True,
        attention_bias=True,
        rope_parameters=dict(rope_type="linear", rope_theta=10000.0, factor=4.0))),
    "llama-yarn": dict(config=LlamaConfig, dtype=torch.float32, v4=True, options=dict(
        SMALL, hidden_size=24, num_attention_heads=3, num_key_value_heads=3, tie_word_embeddings=True,
        rope_parameters=dict(rope_type="yarn", rope_theta=1000.0, factor=4.0,
                             original_max_position_embeddings=64, beta_fast=16.0, beta_slow=1.0))),
    # The window is shorter than the prompts; the weights come in two files.
    "mistral": dict(config=MistralConfig, dtype=torch.float32, v4=True, shards=2, options=dict(
        SMALL, hidden_size=24, num_attention_heads=3, num_key_value_heads=1, tie_word_embeddings=True,
        sliding_window=24)),
    # Only the second layer has a window. Sizes that are no multiple of a vector register.
    "qwen2": dict(config=Qwen2Config, dtype=torch.float32, v4=True, options=dict(
        SMALL, vocab_size=67, hidden_size=24, intermediate_size=44, num_attention_heads=2, num_key_value_heads=1,
        tie_word_embeddings=True, use_sliding_window=True, sliding_window=20, max_window_layers=1)),
    "qwen3": dict(config=Qwen3Config, dtype=torch.float32, v4=True, options=dict(
        SMALL, hidden_size=24, num_attention_heads=2, num_key_value_heads=1, head_dim=16, tie_word_embeddings=True,
        rope_parameters=dict(rope_type="default", rope_theta=1000000.0))),
    "llama-bf16": dict(config=LlamaConfig, dtype=torch.bfloat16, options=dict(
        SMALL, num_key_value_heads=2, tie_word_embeddings=False)),
    "qwen2-f16": dict(config=Qwen2Config, dtype=torch.float16, options=dict(
        SMALL, num_key_value_heads=2, tie_word_embeddings=False)),
}

YARN = dict(rope_type="yarn", rope_theta=1000000.0, factor=4.0, original_max_position_embeddings=32768)
ROPES = [
    dict(rope_type="default", rope_theta=10000.0),
    dict(rope_type="default", rope_theta=500000.0),
    dict(rope_type="linear", rope_theta=10000.0, factor=2.5),
    dict(rope_type="llama3", rope_theta=500000.0, factor=8.0, low_freq_factor=1.0, high_freq_factor=4.0,
         original_max_position_embeddings=8192),
    dict(rope_type="llama3", rope_theta=500000.0, factor=32.0, low_freq_factor=1.0, high_freq_factor=4.0,
         original_max_position_embeddings=8192),
    YARN,
    dict(YARN, beta_fast=24.0, beta_slow=2.0, attention_factor=1.25),
    dict(YARN, factor=40.0, mscale=1.0, mscale_all_dim=0.5),
    dict(YARN, truncate=False),
    dict(YARN, rope_theta=150000.0, factor=32.0, original_max_position_embeddings=4096, truncate=False),
]


def draw_weights(model, generator, dtype):
    """Random weights of unit gain, norms around one, biases that matter, rounded to `dtype`."""
    for name, parameter in model.named_parameters():
        noise = torch.randn(parameter.shape, generator=generator)
        if name.endswith("norm.weight"):
            value = 1 + 0.3 * noise
        elif name.endswith("bias"):
            value = 0.5 * noise
        elif "embed_tokens" in name:
            # Small beside what the layers add, or a tied head would repeat the token it has just read.
            value = 0.4 * noise
        elif "q_proj" in name or "k_proj" in name:
            # Sharper attention than unit gain gives: positions must matter.
            value = 1.6 * noise / parameter.shape[1] ** 0.5
        else:
            value = 1.3 * noise / parameter.shape[1] ** 0.5
        parameter.data.copy_(value.to(dtype).float())


@torch.no_grad()
def greedy(model, prompt):
    """Continues a prompt by the likeliest token. Returns the tokens and, per token, the lead over the second."""
    tokens, margins = [], []
    out = model(torch.tensor([prompt]), use_cache=True)
    for _ in range(CONTINUATION):
        best, second = torch.topk(out.logits[0, -1], 2).values.tolist()
        token = int(out.logits[0, -1].argmax())
        tokens.append(token)
        margins.append(best - second)
        out = model(torch.tensor([[token]]), past_key_values=out.past_key_values, use_cache=True)
    return tokens, margins


@torch.no_grad()
def answer(model, prompt):
    """The oracle of one prompt, or None where a continuation comes near a tie or says too little."""
    tokens, margins = greedy(model, prompt)
    if min(margins) < MARGIN_LEAST or len(set(tokens)) < DISTINCT_LEAST:
        return None
    whole = model(torch.tensor([prompt + tokens])).logits[0]
    # The whole text in one pass must say the same: a check of transformers' own cache and window.
    if whole[len(prompt) - 1 : -1].argmax(-1).tolist() != tokens:
        return None
    last = len(prompt) - 1
    positions = sorted({0, last // 2, last})
    return {
        "prompt": prompt,
        "continuation": tokens,
        "margins": [float(f"{margin:.4g}") for margin in margins],
        "logits": [{"position": at, "values": rounded(whole[at])} for at in positions],
        "final": {"position": len(prompt) + CONTINUATION - 1, "values": rounded(whole[-1])},
    }


def rounded(row):
    """Eight digits hold a float32 closely enough for any comparison here, and keep the file small."""
    return [float(f"{value:.8g}") for value in row.tolist()]


def oracle(model, seed, answers):
    """The contents of oracle.json.

    seed       the seed of the weights
    rope       inverseFrequencies [head_dim / 2] and the factor on cos and sin
    prompts    per prompt: tokens, greedy continuation, the lead of each of its tokens over the second, logits at
               some positions of the prompt and (final) after the last token of the continuation
    """
    rotary = model.model.rotary_emb
    return {
        "seed": seed,
        "rope": {"inverseFrequencies": rotary.inv_freq.tolist(), "scale": float(rotary.attention_scaling)},
        "prompts": answers,
    }


def find(name, fixture):
    """Tries seeds until all prompts have clear continuations. Returns the model, the seed and the answers."""
    config = fixture["config"](**fixture["options"])
    config._attn_implementation = "eager"
    model = AutoModelForCausalLM.from_config(config, dtype=torch.float32, attn_implementation="eager").eval()
    for seed in range(SEEDS_TRIED):
        generator = torch.Generator().manual_seed(seed)
        draw_weights(model, generator, fixture["dtype"])
        answers = []
        for length in PROMPT_LENGTHS:
            drawn = (torch.randint(3, config.vocab_size, (length,), generator=generator).tolist() for _ in range(PROMPTS_TRIED))
            found = next((found for found in (answer(model, prompt) for prompt in drawn) if found is not None), None)
            if found is None:
                break
            answers.append(found)
        if len(answers) == len(PROMPT_LENGTHS):
            return model, seed, answers
    raise SystemExit(f"{name}: no seed below {SEEDS_TRIED} gives clear continuations")


def write_config_v4(folder):
    """The configuration as transformers 4 writes it: rope_theta and rope_scaling, torch_dtype, no layer_types."""
    config = json.loads((folder / "config.json").read_text())
    rope = dict(config.pop("rope_parameters"))
    config["rope_theta"] = rope.pop("rope_theta")
    kind = rope.pop("rope_type")
    config["rope_scaling"] = None if kind == "default" else {"type" if kind == "linear" else "rope_type": kind, **rope}
    config["torch_dtype"] = config.pop("dtype")
    config.pop("layer_types", None)
    config["transformers_version"] = "4.46.0"
    (folder / "config-transformers-4.json").write_text(json.dumps(config, indent=2, sort_keys=True) + "\n")


def shard(folder, count):
    """Splits model.safetensors into `count` files with an index."""
    whole = folder / "model.safetensors"
    tensors = load_file(whole)
    names = sorted(tensors)
    weight_map = {}
    for part in range(count):
        file = f"model-{part + 1:05d}-of-{count:05d}.safetensors"
        # Every `count`-th name, so that a layer lies in several files.
        chosen = names[part::count]
        save_file({name: tensors[name] for name in chosen}, folder / file, metadata={"format": "pt"})
        weight_map.update({name: file for name in chosen})
    total = sum(tensor.numel() * tensor.element_size() for tensor in tensors.values())
    index = {"metadata": {"total_size": total}, "weight_map": dict(sorted(weight_map.items()))}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index, indent=2) + "\n")
    whole.unlink()


def make(name, fixture):
    folder = ROOT / name
    folder.mkdir(parents=True, exist_ok=True)
    for old in folder.iterdir():
        old.unlink()
    model, seed, answers = find(name, fixture)
    record = oracle(model, seed, answers)
    # Rounding a second time changes nothing; the rope tables of the oracle were taken before.
    model.to(fixture["dtype"]).save_pretrained(folder)
    if "shards" in fixture:
        shard(folder, fixture["shards"])
    if fixture.get("v4"):
        write_config_v4(folder)
    for file in folder.iterdir():
        file.chmod(0o644)
    (folder / "oracle.json").write_text(json.dumps(record) + "\n")
    sizes = sum(file.stat().st_size for file in folder.iterdir())
    margin = min(min(found["margins"]) for found in answers)
    distinct = min(len(set(found["continuation"])) for found in answers)
    print(f"{name}: seed {seed}, least margin {margin:.4f}, least distinct {distinct}, {sizes} bytes", flush=True)


def make_ropes():
    """rope.json: for each setting the head's size, the positions, the rope object and what transformers makes of it."""
    cases = []
    for rope in ROPES:
        for head_dim in (64, 128):
            positions = 131072
            config = LlamaConfig(hidden_size=head_dim * 8, num_attention_heads=8, max_position_embeddings=positions,
                                 rope_parameters=dict(rope))
            rotary = LlamaRotaryEmbedding(config)
            cases.append(dict(headDim=head_dim, positions=positions, rope=rope,
                              inverseFrequencies=rotary.inv_freq.tolist(), scale=float(rotary.attention_scaling)))
    lines = ",\n".join(json.dumps(case) for case in cases)
    (ROOT / "rope.json").write_text(f"[\n{lines}\n]\n")
    print(f"rope: {len(cases)} cases", flush=True)


if __name__ == "__main__":
    torch.set_num_threads(1)
    for name in sys.argv[1:] or FIXTURES:
        make(name, FIXTURES[name])
    if not sys.argv[1:]:
        make_ropes()
