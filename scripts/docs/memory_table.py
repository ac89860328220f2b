"""The tables of docs/ppo-trainer.md, "Memory on one device" and "on several": python scripts/docs/memory_table.py"""

from rlhf.ppo.placement.memory import GIB, Setup, Shape, peak

SHAPES = {
    "0.5 B (Qwen2.5-0.5B)": Shape(151_936, 896, 24, 4_864, 896, 128, True),
    "1 B (Llama-3.2-1B)": Shape(128_256, 2_048, 16, 8_192, 2_048, 512, True),
    "3 B (Llama-3.2-3B)": Shape(128_256, 3_072, 28, 8_192, 3_072, 1_024, True),
    "8 B (Llama-3.1-8B)": Shape(128_256, 4_096, 32, 14_336, 4_096, 1_024, False),
}
SMALL = {"frozen_dtype": "bfloat16", "gradient_checkpointing": True}
FULL, LORA = SMALL | {"weights_dtype": "bfloat16"}, SMALL | {"adapter_rank": 16}
ONE: dict[str, dict[str, object]] = {
    "full": {},
    "full, small": SMALL,
    "full, small, bf16 weights": FULL,
    "LoRA": {"adapter_rank": 16},
    "LoRA, small": LORA,
}
DIVIDED: dict[str, dict[str, object]] = {
    f"{name}, {devices} devices": settings | {"shard": "all", "devices": devices}
    for name, settings in (("full", FULL), ("LoRA", LORA))
    for devices in (2, 4, 8)
}


def table(columns: dict[str, dict[str, object]]) -> str:
    """GiB per device in Markdown, a row per model and a column per set of settings."""
    lines = ["| policy | " + " | ".join(columns) + " |", "|---|" + "---|" * len(columns)]
    for name, shape in SHAPES.items():
        setups = [Setup(4, 256, 256, autocast=True, episodes=16, **settings) for settings in columns.values()]  # type: ignore[arg-type]
        sizes = [sum(peak(shape, setup).values()) / GIB for setup in setups]
        lines.append(f"| {name} | " + " | ".join(f"{size:.0f}" for size in sizes) + " |")
    return "\n".join(lines)


if __name__ == "__main__":
    print(table(ONE), table(DIVIDED), sep="\n\n")
