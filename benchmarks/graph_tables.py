"""The table of docs/how-to/deploy.md: exported graphs and passes by OpenVINO beside torch's.

Must not measure anything.
"""

from __future__ import annotations

from benchmarks.measured_files import MEASURED, made, measured, short
from segment.files.text_tables import markdown
from segment.graphs.parts import OUTPUTS

MEASUREMENTS = (
    "graphs_unet_lite0",
    "graphs_enet",
    "graphs_resnet34",
    "graphs_deeplab",
    "graphs_unet_lite0_one_thread",
)
NO_BF16 = "no bf16"
"""Of a processor without its instructions."""

TORCH = "torch"
"""OpenVINO's passes differ by more than rounding, and torch takes over."""

COLUMNS = (
    "network",
    "threads",
    "ONNX, largest difference",
    "OpenVINO, the same",
    "ONNX over segment, fp32",
    "OpenVINO, the same",
    "`--engine openvino`, fp32",
    "the same, bf16",
    "variance, bf16",
    "the same by torch",
)


def graphs() -> list[str]:
    """A row a measurement: differences of any output, times over those of torch's fused passes, errors of bf16."""
    rows, sources = [], [name for name in MEASUREMENTS if (MEASURED / f"{name}.json").is_file()]
    for source in sources:
        result = measured(source)["result"]
        for row in result["networks"]:
            different, ratios = row["differences"], row["ratios"]
            largest = [max(different[f"graph .{kind}"][name] for name in OUTPUTS) for kind in ("onnx", "xml")]
            errors = [different.get(f"{engine} bf16", {}).get("variance_error") for engine in ("openvino", "torch")]
            cells = [f"`{row['network']}`", str(result["threads"]), *(f"{value:.1e}" for value in largest)]
            for name in ("graph .onnx", "graph .xml", "engine fp32", "engine bf16"):
                ratio, given_up = ratios.get(name), name.replace("engine", "openvino") in row.get("given_up", [])
                why = TORCH if given_up else NO_BF16
                cells.append(f"{short(ratio['best'], 2)} / {short(ratio['processor'], 2)}" if ratio else why)
            rows.append([*cells, *(NO_BF16 if error is None else f"{100 * error:.1f} %" for error in errors)])
    result = measured(sources[0])["result"]
    opening = (
        f"T = {result['draws']}, {result['size']}. Ratios: of the shortest seconds / the median of processor time. The "
        "measurements below the table name the processor of each row."
    )
    return [opening, "", *markdown(COLUMNS, rows), "", made(*sources)]
