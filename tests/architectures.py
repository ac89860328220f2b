"""A tiny model of every causal language model of transformers, by its `model_type`: the configuration's own defaults,
its sizes made small, and what some need besides.
"""

from typing import Any

import torch
from transformers import AutoModelForCausalLM, PretrainedConfig, PreTrainedModel
from transformers.models.auto.configuration_auto import CONFIG_MAPPING

VOCABULARY, EOS, PAD = 300, 0, 1
TOKENS = {"vocab_size": VOCABULARY, "pad_token_id": PAD, "eos_token_id": EOS, "bos_token_id": None}
NAMES = {
    1: "num_experts_per_tok num_experts_per_token moe_k num_shared_experts n_shared_experts",
    2: "num_hidden_layers n_layer n_layers decoder_layers encoder_layers num_layers num_decoder_layers num_blocks "
    "num_encoder_layers num_key_value_heads num_experts num_local_experts n_routed_experts moe_num_experts moe_topk",
    4: "num_attention_heads n_head n_heads decoder_attention_heads encoder_attention_heads num_heads "
    "num_decoder_attention_heads num_encoder_attention_heads",
    8: "head_dim dim_head attention_head_dim v_head_dim qk_head_dim qk_rope_head_dim qk_nope_head_dim state_size "
    "mamba_d_state ssm_state_size linear_key_head_dim linear_value_head_dim mamba_headdim mamba_d_head mamba_head_dim "
    "sliding_window attention_window_size window_size",
    16: "q_lora_rank kv_lora_rank chunk_size mamba_chunk_size",
    32: "hidden_size n_embd d_model emb_dim dim embedding_size word_embed_proj_dim num_hidden dim_model "
    "attention_hidden_size block_dim lru_width width input_embedding_size output_embedding_size",
    64: "intermediate_size n_inner ffn_dim decoder_ffn_dim encoder_ffn_dim dim_ff d_inner ffn_hidden_size d_ff dff "
    "shared_expert_intermediate_size moe_intermediate_size intermediate_size_mlp shared_intermediate_size "
    "feed_forward_size shared_expert_size expert_ffn_hidden_size max_position_embeddings n_positions n_ctx max_seq_len "
    "max_sequence_length context_length max_target_positions seq_length",
}
SIZES = {name: size for size, names in NAMES.items() for name in names.split()}

TEXT = TOKENS | {
    **dict.fromkeys(["intermediate_size", "max_position_embeddings"], 64),
    **{"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4, "num_key_value_heads": 2, "head_dim": 8},
}
EXPERTS = {"num_experts": 2, "num_experts_per_tok": 1, "moe_intermediate_size": 64}
EXPERTS |= {"shared_expert_intermediate_size": 64}
MIXED = {"layer_types": ["linear_attention", "full_attention"]}
LINEAR = MIXED | {"linear_num_key_heads": 2, "linear_num_value_heads": 4}
INDEXED = LINEAR | {"indexer_n_heads": 2, "indexer_kv_heads": 1, "indexer_head_dim": 8, "indexer_budget": 16}
INDEXED |= {"indexer_compress_ratio": 2, "ngram_vocab_size_base": 100, "ple_layer_ids": []}
LATENT = {"num_key_value_heads": 4, "n_group": 1, "topk_group": 1}
MAMBA = {"mamba_n_heads": 8, "mamba_d_head": 8, "mamba_n_groups": 1}
HEADS = ("head_dim", "qk_head_dim")
HEAD, CONVOLVED = {"head_dim": 8}, {"layer_types": ["conv", "full_attention"]}
PER_LAYER = {"vocab_size_per_layer_input": VOCABULARY, "hidden_size_per_layer_input": 8}
BEGINS = {"bos_token_id": EOS}
BYTES = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4, "max_position_embeddings": 64}
BYTES |= {"vocab_size": VOCABULARY, "intermediate_size": 64}
PATCHES = BYTES | {"hidden_size_global": 32}
ZAMBA = {"layers_block_type": ["linear_attention", "hybrid", "linear_attention", "hybrid"], "num_hidden_layers": 4}
ZAMBA |= {"attention_head_dim": 16}

LATENT_KINDS = ["axk1", "axk2", "deepseek_v3", "deepseek_v32", "dots3_note_text", "glm4_moe_lite", "glm_moe_dsa"]
LATENT_KINDS += ["minicpm3", "youtu"]
OWN_SIZE = {
    **dict.fromkeys([*LATENT_KINDS, "bailing_hybrid", "deepseek_v2", "kimi_linear", "nemotron"], HEADS),
    "longcat_flash": ("qk_head_dim", "num_hidden_layers"),
    **dict.fromkeys(["zamba", "zamba2"], ("head_dim", "attention_hidden_size")),
}
"""Sizes that follow from others."""
MORE: dict[str, dict[str, Any]] = {
    **dict.fromkeys(LATENT_KINDS, LATENT),
    "bamba": MAMBA | {"attn_layer_indices": [1]},
    "bailing_hybrid": LATENT | MIXED,
    "blt": {
        "encoder_hash_byte_group_vocab": 50,
        **{"patcher_config": BYTES, "global_config": BYTES, "encoder_config": PATCHES, "decoder_config": PATCHES},
    },
    "codegen": {"rotary_dim": 8},
    "cohere_compass_text": {
        "layer_types": ["full_attention"] * 2,
        "rope_parameters": {"full_attention": {"rope_type": "default", "rope_theta": 10000.0}},
    },
    **dict.fromkeys(["cwm", "modernbert-decoder"], BEGINS),
    "deepseek_v2": LATENT | {"topk_method": "greedy", "topk_group": None, "n_group": None, "num_experts_per_tok": 1},
    "dots1": {"n_routed_experts": 2, "n_shared_experts": 1, "num_experts_per_tok": 1},
    "falcon_h1": MAMBA | {"mamba_d_ssm": 64},
    "emu3": {"text_config": TEXT | BEGINS},
    "gemma3n_text": PER_LAYER
    | {"intermediate_size": 64, "num_hidden_layers": 5, "num_kv_shared_layers": 0, "laurel_rank": 8},
    "gemma4": {"text_config": TEXT | PER_LAYER},
    "gemma4_text": PER_LAYER,
    "gpt_neo": {"attention_types": [[["global", "local"], 1]]},
    "gptj": {"rotary_dim": 8},
    "granitemoehybrid": MAMBA | MIXED,
    **dict.fromkeys(["hunyuan_v1_dense", "hunyuan_v1_moe", "ministral"], HEAD),
    "jamba": {"attn_layer_period": 2, "attn_layer_offset": 1},
    "kimi_linear": LATENT | MIXED,
    **dict.fromkeys(["lfm2_moe", "lfm3"], CONVOLVED),
    "longcat_flash": LATENT | {"num_layers": 2, "zero_expert_num": 1},
    "mamba2": {"num_heads": 8, "n_groups": 1},
    "mllama": {"text_config": TEXT | BEGINS},
    "nemotron": {"num_key_value_heads": 2},
    **dict.fromkeys(["qwen3_next", "qwen3_5_text", "qwen3_5_moe_text"], LINEAR),
    "qwen3_5": {"text_config": TEXT | LINEAR},
    "qwen3_5_moe": {"text_config": TEXT | LINEAR | EXPERTS},
    "qwen4_exp": {"text_config": TEXT | INDEXED | EXPERTS},
    "qwen4_exp_text": INDEXED,
    "recurrent_gemma": {"block_types": ["recurrent", "attention"]},
    "reformer": {"axial_pos_embds_dim": [16, 16], "axial_pos_shape": [8, 8], "attn_layers": ["local", "local"]},
    "roc_bert": {"pronunciation_vocab_size": 30, "shape_vocab_size": 30},
    "xlm": {"causal": True},
    "xlnet": {"attn_type": "uni"},
    "xmod": {"default_language": "en_XX"},
    "zamba": ZAMBA | {"n_mamba_heads": 2},
    "zamba2": ZAMBA | {"n_mamba_heads": 8},
}


def tiny_architecture(kind: str, **changes: Any) -> PreTrainedModel:
    """With large random weights: predictions that differ plainly by position and by what was read."""
    kept = OWN_SIZE.get(kind, ())
    config = CONFIG_MAPPING[kind]
    more = MORE.get(kind, {})
    values = small(config, kept, tuple(more)) | TOKENS
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(1)
        model: PreTrainedModel = AutoModelForCausalLM.from_config(config(**values | more | changes)).float()
        for parameter in model.parameters():
            if parameter.dim() > 1:
                torch.nn.init.normal_(parameter, std=0.25)
    return model.eval()


def small(kind: type[PretrainedConfig], kept: tuple[str, ...] = (), more: tuple[str, ...] = ()) -> dict[str, Any]:
    """Arguments of a configuration's class that make it small, but for those `kept`.

    Those of the configurations in it too, unless `more` has them.
    """
    values: dict[str, Any] = {}
    for name, value in vars(kind()).items():
        if isinstance(value, PretrainedConfig) and name not in more:
            values[name] = small(type(value)) | (TOKENS if "text" in name else {})
        elif name in SIZES and type(value) is int and name not in kept:
            values[name] = SIZES[name]
        elif name == "is_decoder":
            values[name] = True
    return values
