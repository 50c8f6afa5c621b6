"""NeMo Data Designer. argv: ROWS BASE_URL CONCURRENCY WORK"""

import sys

import data_designer.config as dd
import pandas as pd
from data_designer.interface import DataDesigner

rows, base_url, concurrency, work = sys.argv[1:5]

if __name__ == "__main__":
    table = pd.read_json(rows, lines=True)
    provider = dd.ModelProvider(name="local", endpoint=base_url, provider_type="openai", api_key="x")
    model = dd.ModelConfig(
        alias="writer",
        model="fake-model",
        provider="local",
        skip_health_check=True,
        inference_parameters=dd.ChatCompletionInferenceParams(max_parallel_requests=int(concurrency)),
    )
    builder = dd.DataDesignerConfigBuilder(model_configs=[model])
    builder.with_seed_dataset(dd.DataFrameSeedSource(df=table))
    prompt = "Rewrite: {{ instruction }}\n{{ response }}"
    builder.add_column(dd.LLMTextColumnConfig(name="rewritten", model_alias="writer", prompt=prompt))
    designer = DataDesigner(artifact_path=f"{work}/artifacts", model_providers=[provider])
    designer.set_run_config(dd.RunConfig(otel_metrics_port=None))
    made = designer.create(builder, num_records=len(table))
    made.load_dataset().to_json(f"{work}/out.jsonl", orient="records", lines=True)
