"""Tokens a second of transformers' continuous batching on random weights: the peer beside `node dist/bench/engine.js`.

  python bench/peers/transformers_batching.py [--device cuda] [--shape llama8b] [--batches 1,16,64,256] [--context 512]
                                              [--tokens 64] [--attention 'paged|sdpa'] [--rounds 3]

Needs torch and transformers 5; the product and its tests never do. For each batch: that many requests of `context`
prompt tokens generate `tokens` tokens each, greedily, without a stop. Time with one generated token is taken off that
with all of them, so that what remains is decoding. Prints one JSON line a batch; the best of the rounds counts.
"""

import argparse
import json
import time

import torch
from transformers import ContinuousBatchingConfig, GenerationConfig, LlamaConfig, LlamaForCausalLM

# In the order of bench/engine.ts: hidden, layers, heads, key-value heads, intermediate, vocabulary, rope theta.
SHAPES = {
    "llama8b": (4096, 32, 32, 8, 14336, 128256, 500000.0),
    "smol": (576, 30, 9, 3, 1536, 49152, 10000.0),
    "tiny": (64, 2, 4, 2, 128, 512, 10000.0),
}


def make_model(shape: str, device: str, attention: str) -> LlamaForCausalLM:
    hidden, layers, heads, kv_heads, intermediate, vocabulary, theta = SHAPES[shape]
    config = LlamaConfig(
        hidden_size=hidden,
        num_hidden_layers=layers,
        num_attention_heads=heads,
        num_key_value_heads=kv_heads,
        intermediate_size=intermediate,
        vocab_size=vocabulary,
        rope_parameters={"rope_type": "default", "rope_theta": theta},
        max_position_embeddings=8192,
    )
    with torch.device(device):
        torch.set_default_dtype(torch.bfloat16)
        model = LlamaForCausalLM(config)
        torch.set_default_dtype(torch.float32)
    model.eval()
    model.set_attn_implementation(attention)
    return model


def seconds(model: LlamaForCausalLM, batch: int, context: int, tokens: int) -> float:
    vocabulary = model.config.vocab_size
    # Different prompts: a cache of prefixes must not help.
    inputs = [[(request * 7919 + i * 104729) % vocabulary for i in range(context)] for request in range(batch)]
    generation = GenerationConfig(max_new_tokens=tokens, do_sample=False, eos_token_id=-1, pad_token_id=0)
    batching = ContinuousBatchingConfig(allow_block_sharing=False)
    start = time.perf_counter()
    outputs = model.generate_batch(inputs=inputs, generation_config=generation, continuous_batching_config=batching, warmup=False)
    took = time.perf_counter() - start
    made = sum(len(output.generated_tokens) for output in outputs.values())
    assert made == batch * tokens, f"{made} tokens were generated, {batch * tokens} were asked for"
    return took


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--shape", default="llama8b", choices=sorted(SHAPES))
    parser.add_argument("--batches", default="1,16,64,256")
    parser.add_argument("--context", type=int, default=512)
    parser.add_argument("--tokens", type=int, default=64)
    parser.add_argument("--attention", default="paged|sdpa")
    parser.add_argument("--rounds", type=int, default=3)
    flags = parser.parse_args()
    torch.manual_seed(1)
    model = make_model(flags.shape, flags.device, flags.attention)
    for batch in map(int, flags.batches.split(",")):
        whole, first = float("inf"), float("inf")
        for _ in range(flags.rounds + 1):  # the first round warms up; the best one is never it
            whole = min(whole, seconds(model, batch, flags.context, flags.tokens))
            first = min(first, seconds(model, batch, flags.context, 1))
        decoding = whole - first
        print(
            json.dumps(
                {
                    "shape": flags.shape,
                    "batch": batch,
                    "context": flags.context,
                    "tokens_per_second": round(batch * flags.tokens / whole, 1),
                    "decode_step_millis": round(decoding * 1e3 / (flags.tokens - 1), 3),
                }
            ),
            flush=True,
        )


if __name__ == "__main__":
    main()
