"""The child of the OpenVINO GenAI target: python openvino_worker.py MODEL THREADS DTYPE."""

import sys

import jobs
import numpy as np
import openvino as ov
import openvino_genai as genai


def main(folder: str, threads: int, dtype: str) -> None:
    scheduler = genai.SchedulerConfig()
    scheduler.max_num_seqs = 64
    scheduler.max_num_batched_tokens = 2048
    scheduler.cache_size = 2
    scheduler.dynamic_split_fuse = True
    # A processor without bf16 arithmetic computes in f32 whatever the hint says; the device says what it can.
    can = ov.Core().get_property("CPU", "OPTIMIZATION_CAPABILITIES")
    used = dtype if dtype == "f32" or "BF16" in can else "f32"
    cache = "bf16" if used == "bf16" else "f32"
    properties = {"INFERENCE_PRECISION_HINT": used, "KV_CACHE_PRECISION": cache, "INFERENCE_NUM_THREADS": threads}
    pipeline = genai.ContinuousBatchingPipeline(folder, scheduler, "CPU", properties)

    def config(tokens: int) -> genai.GenerationConfig:
        config = genai.GenerationConfig()
        config.max_new_tokens = tokens
        config.ignore_eos = True
        config.do_sample = False
        return config

    def generate(prompts: list[str], tokens: int) -> None:
        answers = pipeline.generate(prompts, [config(tokens)] * len(prompts))
        if len(answers) != len(prompts):
            raise RuntimeError(f"{len(prompts)} prompts, {len(answers)} answers")

    def prefill(ids: list[int]) -> None:
        pipeline.generate([ov.Tensor(np.array([ids], dtype=np.int64))], [config(1)])

    note = "" if used == dtype else f" ({dtype} is not among the device's capabilities)"
    jobs.serve(f"ContinuousBatchingPipeline, computes in {used}{note}, {threads} threads", generate, prefill)


if __name__ == "__main__":
    main(sys.argv[1], int(sys.argv[2]), sys.argv[3])
