"""A model of 2.5 MB for a real llama.cpp server, made here: it says one sentence, and calls a tool when there is one.

One-hot embeddings and layers of zeros: the next token is a function of the current one, as in a table of pairs. Run as
a program of its own, with the packages numpy, gguf and xllamacpp: `tiny_model.py FILE PORT` writes the model and serves
it. Used by `test_real_server.py`; imports nothing of the product.
"""

import sys
import time
from collections.abc import Sequence

import gguf
import numpy as np
import xllamacpp

SENTENCE = ("hello", " ", "world", "世🎉é")
KEY = "sk-local"
_END = 4  # <|im_end|>
_CALL = 5  # <tool_call>
_CALLED = 6  # </tool_call>
_SPECIAL = (b"<unk>", b"<s>", b"</s>", b"<|im_start|>", b"<|im_end|>", b"<tool_call>", b"</tool_call>")
_WORDS = ("hello", "world", "assistant", "system", "user")
_TEMPLATE = (
    "{%- if tools %}{{ '<|im_start|>system\\n# Tools\\n<tools>\\n' }}"
    "{%- for tool in tools %}{{ tool | tojson }}{{ '\\n' }}{%- endfor %}"
    "{{ '</tools>\\nFor each function call return a json object within <tool_call></tool_call> XML tags:\\n"
    '<tool_call>\\n{"name": <function-name>, "arguments": <args-json-object>}\\n</tool_call><|im_end|>\\n\' }}'
    "{%- endif %}"
    "{%- for m in messages %}{{ '<|im_start|>' + m.role + ':' }}{%- if m.content %}{{ m.content }}{%- endif %}"
    "{%- if m.tool_calls %}{%- for tc in m.tool_calls %}"
    """{{ '\\n<tool_call>\\n{"name": "' + tc.function.name + '", "arguments": ' }}"""
    "{{ tc.function.arguments | tojson }}"
    "{{ '}\\n</tool_call>' }}{%- endfor %}{%- endif %}{{ '<|im_end|>\\n' }}{%- endfor %}"
    "{%- if add_generation_prompt %}{%- if tools %}{{ '<|im_start|>assistant\\n' }}"
    "{%- else %}{{ '<|im_start|>assistant:' }}{%- endif %}{%- endif %}"
)


def _byte(value: int) -> int:
    """Return the token of a byte."""
    return len(_SPECIAL) + value


def _vocabulary() -> tuple[list[bytes], list[float], list[int]]:
    kinds = gguf.TokenType
    tokens = [*_SPECIAL, *(b"<0x%02X>" % value for value in range(256)), *(word.encode() for word in _WORDS)]
    types = [kinds.UNKNOWN, kinds.CONTROL, kinds.CONTROL, kinds.USER_DEFINED, kinds.CONTROL]
    types += [kinds.USER_DEFINED] * (len(_SPECIAL) - len(types)) + [kinds.BYTE] * 256 + [kinds.NORMAL] * len(_WORDS)
    scores = [0.0] * (len(_SPECIAL) + 256) + [-1.0 - number for number in range(len(_WORDS))]
    return [*tokens, "\u2581".encode()], [*scores, -50.0], [*types, kinds.NORMAL]


def _followers(tokens: Sequence[bytes]) -> dict[int, int]:
    """Return which token follows which: after a colon the sentence, after a line's end a call, which a number ends."""
    named = {" ": len(tokens) - 1} | {word: tokens.index(word.encode()) for word in _WORDS}
    sentence = [_byte(ord(":"))]
    for piece in SENTENCE:
        sentence += [named[piece]] if piece in named else [_byte(value) for value in piece.encode()]
    follow = dict(zip(sentence, [*sentence[1:], _END], strict=True))
    follow |= {_byte(ord("\n")): _CALL, _CALL: _byte(ord("\n")), _byte(ord("}")): _CALLED, _CALLED: _END}
    return follow | {_byte(ord(digit)): _byte(ord("}")) for digit in "0123456789"}


def write(path: str) -> None:
    """Write the model."""
    tokens, scores, types = _vocabulary()
    size, width, inner = len(tokens), (len(tokens) + 63) // 64 * 64, 32
    follows = (np.random.default_rng(3).standard_normal((size, width)) * 0.02).astype(np.float32)
    for before, after in _followers(tokens).items():
        follows[after, before] += 2.0
    one_hot = np.zeros((size, width), np.float32)
    one_hot[np.arange(size), np.arange(size)] = 1.0
    writer = gguf.GGUFWriter(path, "llama")
    _describe(writer, size, width, inner)
    writer.add_token_list(tokens)
    writer.add_token_scores(scores)
    writer.add_token_types(types)
    tensors = {
        "token_embd": one_hot,
        "output_norm": np.ones(width, np.float32),
        "output": follows,
        "blk.0.attn_norm": np.ones(width, np.float32),
        "blk.0.ffn_norm": np.ones(width, np.float32),
        "blk.0.ffn_gate": np.zeros((inner, width), np.float32),
        "blk.0.ffn_up": np.zeros((inner, width), np.float32),
        "blk.0.ffn_down": np.zeros((width, inner), np.float32),
    }
    tensors |= {f"blk.0.attn_{name}": np.zeros((width, width), np.float32) for name in ("q", "k", "v", "output")}
    for name, tensor in tensors.items():
        writer.add_tensor(f"{name}.weight", tensor)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def _describe(writer: gguf.GGUFWriter, size: int, width: int, inner: int) -> None:
    writer.add_name("tiny")
    writer.add_context_length(4096)
    writer.add_embedding_length(width)
    writer.add_block_count(1)
    writer.add_feed_forward_length(inner)
    writer.add_head_count(4)
    writer.add_head_count_kv(4)
    writer.add_layer_norm_rms_eps(1e-6)
    writer.add_rope_dimension_count(width // 4)
    writer.add_vocab_size(size)
    writer.add_file_type(0)
    writer.add_tokenizer_model("llama")
    writer.add_bos_token_id(1)
    writer.add_eos_token_id(_END)
    writer.add_unk_token_id(0)
    writer.add_add_bos_token(True)
    writer.add_add_eos_token(False)
    writer.add_add_space_prefix(False)
    writer.add_chat_template(_TEMPLATE)


def serve(path: str, port: int) -> None:
    """Serve the model until the process is ended."""
    params = xllamacpp.CommonParams()
    params.model.path = path
    params.n_ctx, params.n_parallel, params.warmup = 4096, 2, False
    params.cpuparams.n_threads = 1
    settings = {"hostname": "127.0.0.1", "port": port, "use_jinja": True, "api_keys": [KEY], "model_alias": {"tiny"}}
    for name, value in settings.items():
        if hasattr(params, name):  # an address of loopback is the default of some versions
            setattr(params, name, value)
    server = xllamacpp.Server(params)
    print("listening", server, flush=True)
    while True:
        time.sleep(1)


if __name__ == "__main__":
    write(sys.argv[1])
    serve(sys.argv[1], int(sys.argv[2]))
