"""Writes a checkpoint of train.py as a Hugging Face directory in BF16, and can check it against transformers.

    python export.py --checkpoint /tmp/demo/last.pt --out models/demo [--check]
Each file is written beside its place and renamed, so that nobody maps half a file.
"""
import argparse
import json
import os
import pathlib

import torch
from safetensors.torch import load_file, save_file

from model import DemoModel, Shape


def replace_text(path: pathlib.Path, text: str) -> None:
    path.with_suffix(".tmp").write_text(text)
    os.replace(path.with_suffix(".tmp"), path)


def config(shape: Shape) -> dict:
    return {"architectures": ["LlamaForCausalLM"], "model_type": "llama", "vocab_size": shape.vocabulary, "hidden_size": shape.hidden,
            "intermediate_size": shape.intermediate, "num_hidden_layers": shape.layers, "num_attention_heads": shape.heads, "num_key_value_heads": shape.kv_heads,
            "head_dim": shape.head_dim, "hidden_act": "silu", "max_position_embeddings": shape.positions, "rms_norm_eps": shape.epsilon, "rope_theta": shape.theta,
            "rope_scaling": None, "attention_bias": False, "attention_dropout": 0.0, "mlp_bias": False, "tie_word_embeddings": True, "initializer_range": 0.02,
            "bos_token_id": None, "eos_token_id": 2, "pad_token_id": 0, "torch_dtype": "bfloat16", "use_cache": True}


def export(state: dict, shape: Shape, out: pathlib.Path) -> None:
    out.mkdir(parents=True, exist_ok=True)
    tensors = {"model." + name: tensor.detach().to(torch.bfloat16).contiguous() for name, tensor in state.items()}
    save_file(tensors, out / "model.safetensors.tmp", metadata={"format": "pt"})
    os.chmod(out / "model.safetensors.tmp", 0o644)
    os.replace(out / "model.safetensors.tmp", out / "model.safetensors")
    replace_text(out / "config.json", json.dumps(config(shape), indent=2) + "\n")
    replace_text(out / "generation_config.json", json.dumps({"do_sample": False, "eos_token_id": 2, "pad_token_id": 0, "max_new_tokens": 256}, indent=2) + "\n")


def load(directory: pathlib.Path, dtype=torch.float32) -> DemoModel:
    """The exported model in our own code; tables of positions stay in FP32."""
    c = json.loads((directory / "config.json").read_text())
    shape = Shape(c["vocab_size"], c["hidden_size"], c["num_hidden_layers"], c["num_attention_heads"], c["num_key_value_heads"], c["head_dim"],
                  c["intermediate_size"], c["rope_theta"], c["rms_norm_eps"], c["max_position_embeddings"])
    model = DemoModel(shape)
    model.load_state_dict({k.removeprefix("model."): v.float() for k, v in load_file(directory / "model.safetensors").items()})
    return model.to(dtype).eval()


def check(directory: pathlib.Path) -> float:
    """The largest difference of logits between this code and transformers, both in FP32 from the BF16 weights."""
    from transformers import AutoModelForCausalLM, AutoTokenizer
    theirs, tokenizer = AutoModelForCausalLM.from_pretrained(directory, dtype=torch.float32).eval(), AutoTokenizer.from_pretrained(directory)
    chat = [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "Hi, I'm Zoë! 你好 7 + 5?"}, {"role": "assistant", "content": "Hello!"}, {"role": "user", "content": "Bye"}]
    text = tokenizer.apply_chat_template(chat, tokenize=False, add_generation_prompt=True)
    ids = tokenizer(text, return_tensors="pt").input_ids
    assert tokenizer.decode(ids[0], clean_up_tokenization_spaces=False) == text
    with torch.no_grad():
        return (theirs(ids.repeat(1, 8)).logits - load(directory)(ids.repeat(1, 8))).abs().max().item()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--checkpoint", type=pathlib.Path)
    parser.add_argument("--out", type=pathlib.Path, default=pathlib.Path("models/demo"))
    parser.add_argument("--check", action="store_true")
    arguments = parser.parse_args()
    if arguments.checkpoint:
        saved = torch.load(arguments.checkpoint, weights_only=True)
        export(saved["master"], Shape(**saved["shape"]), arguments.out)
        print(f"exported after {saved['tokens'] / 1e6:.1f} M tokens, {saved['minutes']:.1f} minutes")
    if arguments.check:
        difference = check(arguments.out)
        print(f"largest difference of logits against transformers: {difference:.2e}")
        assert difference < 1e-3


if __name__ == "__main__":
    main()
